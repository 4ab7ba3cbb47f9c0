"""A limit that is not above 0 is none; NaN, negative and absurd figures are refused in every field of a record."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import METRICS, is_saturated
from models.telemetry_rules import DETAILS_MOST
from pipeline.errors import UsageError
from pipeline.security.pseudonyms import Key, KeyRing
from pipeline.settings import Settings
from pipeline.sources.client import _limit, _number  # pyright: ignore[reportPrivateUsage]
from pipeline.stages.ingest.service import Partition
from pipeline.wire.codec import DEFAULT
from tests.unit.pipeline.messages import NOW_US, FakeMessage, event, metric, watermark

METRIC, EVENT = "telemetry.metrics", "telemetry.events"
NAN, INF = float("nan"), float("inf")


def taken(topic: str, *bodies: bytes) -> tuple[list[str], dict[str, Any]]:
    """Reasons of the dead letters, and the frame of the tick; {} where no record was good."""
    part = Partition(0, Settings(tick_s=60, partitions=1), DEFAULT, KeyRing([Key("k1", b"one", 0)]))
    letters = part.take(topic, [FakeMessage(body, at, name=topic) for at, body in enumerate(bodies)])
    for name in (METRIC, EVENT):
        part.take(name, [FakeMessage(watermark(NOW_US + 120_000_000), 99, name=name)])
    frames = [frame for parts in part.close() for frame in parts if frame["tick"] == NOW_US // 60_000_000]
    return [letter["reason"] for letter in letters], frames[0] if frames else {}


def metric_with(name: str, value: float) -> bytes:
    fields: dict[str, Any] = {name: value}
    return metric(**fields)


def limit(value: float, name: str = "cpu") -> list[dict[str, Any]]:
    return [{"metric": name, "value": value}]


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, -INF, INF, 9.2e18])
@pytest.mark.parametrize("name", METRICS)
def test_a_limit_that_is_none_saturates_nobody(value: float, name: str) -> None:
    reasons, frame = taken(METRIC, metric(cpu=0.2, memory=1e9, limits=limit(value, name)))
    assert not reasons
    assert not any(frame["saturated"])
    assert not is_saturated(np.array([0.2, 0.0]), np.array([value, value])).any()


def test_a_limit_that_is_reached_still_saturates() -> None:
    _, frame = taken(METRIC, metric(cpu=0.98, limits=[*limit(0.0, "memory"), *limit(1.0)]))
    assert list(frame["saturated"]) == [name == "cpu" for name in METRICS]


@pytest.mark.parametrize("name", [name for name in DETAILS_MOST if name != "duration"])
@pytest.mark.parametrize(
    ("value", "reason"), [(NAN, "nan"), (INF, "infinite"), (-1.0, "negative"), (1e30, "absurd")]
)
def test_a_figure_that_is_none_is_refused_in_every_field(name: str, value: float, reason: str) -> None:
    good = metric(user="good", cpu=1.0)
    reasons, frame = taken(METRIC, good, metric_with(name, value))
    assert reasons == [reason]
    assert len(frame["users"]) == 16  # the neighbour goes on


def test_throttling_is_a_share_of_time() -> None:
    assert taken(METRIC, metric(throttled=250.0))[0] == ["absurd"]
    assert taken(METRIC, metric(throttled=1.0))[0] == []


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"cpu": NAN}, "cpu is nan"),
        ({"queue": NAN, "cpu": 0.5}, "queue is nan"),
        ({"memory": -1.0, "rejected": -2.0}, "memory is -1, rejected is -2"),
        ({"disk": INF}, "disk is inf"),
        ({"cpu": 250_000.0}, "cpu is 250000"),
        ({"throttled": 99.0}, "throttled is 99"),
        ({"limits": [*limit(4.0, "memory"), *limit(NAN)]}, "limit of cpu is nan"),
        ({"interval_s": -1.0}, ""),
    ],
)
def test_a_dead_letter_names_the_field(fields: dict[str, Any], detail: str) -> None:
    part = Partition(0, Settings(tick_s=60, partitions=1), DEFAULT, KeyRing([Key("k1", b"one", 0)]))
    (letter,) = part.take(METRIC, [FakeMessage(metric(**fields), 0), FakeMessage(metric(user="b"), 1)])
    assert letter["detail"] == detail


def test_a_limit_of_nan_is_refused() -> None:
    assert taken(METRIC, metric(limits=[*limit(4.0, "memory"), *limit(NAN)]), metric(user="b"))[0] == ["nan"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"duration": NAN}, "nan"),
        ({"duration": INF}, "infinite"),
        ({"duration": -1.0}, "negative"),
        ({"duration": 1e30}, "absurd"),
        ({"count": NAN}, "bad-count"),
        ({"count": -1.0}, "bad-count"),
    ],
)
def test_events_are_refused_alike(fields: dict[str, float], reason: str) -> None:
    assert taken(EVENT, event(**cast("Any", fields)), event(user="good", duration=0.5))[0] == [reason]


@given(st.sampled_from([name for name in DETAILS_MOST if name != "duration"]), st.floats())
def test_ingest_takes_what_the_client_sends_and_refuses_the_rest(name: str, value: float) -> None:
    try:
        _number(name, value, DETAILS_MOST[name], "")
        sent = True
    except UsageError:
        sent = False
    assert (taken(METRIC, metric_with(name, value))[0] == []) == sent


def test_the_client_leaves_out_a_limit_that_is_none() -> None:
    assert [_limit("cpu", value) for value in (0, -1, -1.0, INF, 2.0)] == [None, None, None, None, 2.0]
    with pytest.raises(UsageError):
        _limit("cpu", NAN)
