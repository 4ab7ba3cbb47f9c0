"""Telemetry that is lost is not zero demand: a bad clock makes nobody else late, what is refused reaches the plan."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from models.demand.turnover import Turnover, initial_state
from models.metrics import METRICS
from pipeline.reports import decision_text
from pipeline.security.pseudonyms import Key, KeyRing, partition_of
from pipeline.settings import LIVE_LATENESS_S, Settings
from pipeline.stages.allocator.decide import AppTotals, settled
from pipeline.stages.ingest.service import Partition
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.demand import Demand, TelemetryShare, telemetry_of
from tests.unit.pipeline.messages import NOW_US, FakeMessage, metric, watermark

METRIC, EVENT = "telemetry.metrics", "telemetry.events"
TICK_S = 10
DAY_S = 86_400.0
Sample = tuple[float, float, str]
"""Seconds after the start at which a sample arrives, and at which it happened by its producer's clock; its user."""

HONEST: list[Sample] = [(t + u / 10, t + u / 10, f"u{u}") for t in range(0, 600, TICK_S) for u in range(10)]


def partition(number: int = 0, **options: Any) -> Partition:
    given: dict[str, Any] = {"tick_s": TICK_S, "partitions": 1} | options
    return Partition(number, Settings(**given), DEFAULT, KeyRing([Key("k", b"one", 0)]))


def ingest(samples: Sequence[Sample], size: int = 50, **options: Any) -> tuple[list[Record], Counter[str]]:
    """Frames, and the users of refused records, of a live partition whose idle topic of events has watermarks."""
    part, dead = partition(**options), Counter[str]()
    frames: list[Record] = []
    arrivals = sorted(samples)
    for first in range(0, len(arrivals), size):
        batch = arrivals[first : first + size]
        messages = [
            FakeMessage(
                metric(NOW_US + round(happened * 1e6), user, interval_s=float(TICK_S)),
                first + place,
                produced_us=NOW_US + round(arrives * 1e6),
            )
            for place, (arrives, happened, user) in enumerate(batch)
        ]
        for letter in part.take(METRIC, messages):
            dead[DEFAULT.decode(letter["value"])[1]["user"]] += 1
        at_us = NOW_US + round(batch[-1][0] * 1e6)
        mark = watermark(at_us - 10_000_000)
        part.take(EVENT, [FakeMessage(mark, first // size, produced_us=at_us, name=EVENT)])
        frames += [parts[0] for parts in part.close()]
    return frames, dead


@pytest.mark.parametrize(
    "samples",
    [
        HONEST,
        [*HONEST, (65.0, 355.0, "fast")],
        HONEST + [(t + 5.0, t + 20.0, "fast") for t in range(60, 600, TICK_S)],
        HONEST + [(t + 5.0, t + 295.0, "fast") for t in range(60, 600, TICK_S)],
        [((t // 30 + 1) * 30 + u / 10 if u >= 5 else t + u / 10, t + u / 10, f"u{u}")
         for t in range(0, 600, TICK_S) for u in range(10)],
        [(t + u / 10 + 12 * (u >= 5), t + u / 10, f"u{u}") for t in range(0, 600, TICK_S) for u in range(10)],
        [(t // 30 * 30 + 29.9 + 5, t, "u0") for t in np.arange(0, 600, 0.7).tolist()],
    ],
    ids=["honest", "290 s ahead once", "15 s ahead", "290 s ahead", "flush each 30 s", "12 s slow", "30 and 5 s"],
)  # fmt: skip
def test_nothing_is_late_by_default(samples: list[Sample]) -> None:
    frames, dead = ingest(samples)
    assert dead == {}
    assert frames[-1]["tick_start"] >= NOW_US + 500_000_000


@examples(deadline=None, max_examples=25)
@given(
    st.floats(-DAY_S, DAY_S),
    st.floats(0.0, 590.0),
    st.sampled_from([43, 10**6]),
    st.sampled_from([0, 5, LIVE_LATENESS_S]),
)
def test_one_bad_clock_makes_nobody_else_late(
    off_s: float, since_s: float, size: int, lateness_s: int
) -> None:
    bad = [(t + 5.0, t + 5.0 + off_s, "bad") for t in range(0, 600, TICK_S) if t >= since_s]
    frames, dead = ingest(HONEST + bad, size, lateness_s=lateness_s)
    assert dead.keys() <= {"bad"}
    of_honest = [np.frombuffer(f["samples"], "<u4").sum() for f in frames if f["tick_start"] >= NOW_US]
    assert len(of_honest) > 50
    assert min(of_honest) >= 10


def test_a_watermark_of_one_producer_passes_nobodys_present() -> None:
    part = partition(lateness_s=0)
    bodies = [metric(NOW_US), watermark(NOW_US + 290_000_000), metric(NOW_US + 9_000_000)]
    messages = [FakeMessage(body, n, produced_us=NOW_US + n * 4_500_000) for n, body in enumerate(bodies)]
    assert part.take(METRIC, messages) == []


def bodies_of(part: Partition, count: int, app: str = "shop", **fields: Any) -> list[bytes]:
    """Samples of an app's users that belong to the partition."""
    names = (f"{app}{number}" for number in range(10_000))
    mine = (n for n in names if partition_of(f"{app}/{n}", part.settings.partitions) == part.windows.number)
    return [metric(NOW_US, next(mine), app, **fields) for _ in range(count)]


def frame_of(part: Partition, bodies: Sequence[bytes], size: int = 3) -> list[Record]:
    """The parts of the one frame that these samples and watermarks behind them close."""
    end = watermark(NOW_US + (TICK_S + LIVE_LATENESS_S) * 1_000_000)
    part.take(EVENT, [FakeMessage(end, 0, name=EVENT)])
    messages = [FakeMessage(body, n) for n, body in enumerate([watermark(NOW_US), *bodies, end])]
    frames: list[list[Record]] = []
    for first in range(0, len(messages), size):
        part.take(METRIC, messages[first : first + size])
        frames += part.close()
    return next(parts for parts in frames if parts[0]["tick_start"] == NOW_US)


def share_of(app: str, *frames: list[Record]) -> TelemetryShare:
    return TelemetryShare.of(app, [entry for frame in frames for entry in telemetry_of(frame)])


def test_a_share_of_refused_records_is_counted_by_app_and_reason() -> None:
    part = partition()
    bodies = bodies_of(part, 70) + bodies_of(part, 30, cpu=-1.0) + bodies_of(part, 5, "blog")
    frame = frame_of(part, bodies)
    assert frame[0]["refused"] == [{"app": "shop", "reason": "negative", "samples": 30, "events": 0}]
    assert share_of("shop", frame) == TelemetryShare(0.7, (("negative", 30),))
    assert share_of("blog", frame) == TelemetryShare()


def test_an_app_in_the_wrong_partition_is_known_by_its_name() -> None:
    right, wrong = partition(0, partitions=4), partition(1, partitions=4)
    everything = bodies_of(right, 4)
    frames = frame_of(right, everything[:3]), frame_of(wrong, everything)
    assert share_of("shop", *frames) == TelemetryShare(3 / 7, (("wrong-partition", 4),))
    assert share_of("shop", frames[1]) == TelemetryShare(0.0, (("wrong-partition", 4),))


def test_what_cannot_be_decoded_is_of_the_app_of_its_key() -> None:
    part = partition()
    junk = [FakeMessage(b"junk", n, of_key=key) for n, key in enumerate((b"shop/ann", b"x", None, b"\xff/"))]
    part.take(METRIC, junk)
    assert part.stream(METRIC).refused["of"].tolist() == [
        ("shop", "unknown-framing"),
        ("�", "unknown-framing"),
    ]


def test_more_refusals_than_a_frame_names_count_for_every_app_without_an_entry() -> None:
    part = partition()
    bodies = bodies_of(part, 5) + [metric(NOW_US, "u", f"{'x' * 900}{n}", cpu=-1.0) for n in range(90)]
    frame = frame_of(part, bodies, size=7)
    assert sum(entry["samples"] for entry in frame[0]["refused"]) == 90
    assert len(DEFAULT.encode("frame", frame[0])) < 64 * 1024
    assert share_of("shop", frame).used < 0.2


@pytest.mark.parametrize("cpu", [-1.0, float("nan")])
def test_an_incomplete_tick_never_releases_and_says_so(shop: Callable[..., list[Record]], cpu: float) -> None:
    samples = [
        (tick, f"u{n}", {"cpu": cpu if tick >= 3 and n >= 20 else 1.0})
        for tick in range(8)
        for n in range(40)
    ]
    with structlog.testing.capture_logs() as logs:
        plans = shop(samples)
    shares = [plan["completeness"] for plan in plans]
    assert shares[:3] == [1.0] * 3
    assert shares[3:] == [0.5] * 5
    instances = [sum(count["desired"][0] for count in plan["counts"]) for plan in plans]
    assert min(instances[3:]) >= instances[2]
    assert [plan["reactive_floor"] for plan in plans] == [40] * 3 + [20] * 5
    reason = "negative" if cpu < 0 else "nan"
    assert plans[4]["refused"] == [{"reason": reason, "records": 20}]
    assert f"50.0% complete: records were refused (20 {reason})" in decision_text.text(plans[4])
    begun = [log for log in logs if log["event"] == "telemetry is incomplete"]
    assert [(log["app"], log["tick"]) for log in begun] == [("shop", plans[3]["tick"])]


@pytest.mark.parametrize(("used", "share"), [(1.0, 0.5), (0.9995, 0.5), (0.9, 1.0), (0.5, 1.0)])
def test_an_incomplete_tick_takes_nobody_for_replaced(used: float, share: float) -> None:
    """Five users fall silent while five of the same usage come: replaced, or refused while the app grows."""
    five = np.full(len(METRICS), 5.0)
    demand = replace(
        Demand.silent(("cpu",), 6),
        usage=five,
        users=10,
        reporting=5,
        turnover=Turnover(silent=five, went=five, came=five),
        records=TelemetryShare(used),
    )
    state, left = settled(initial_state(), demand, TICK_S)
    np.testing.assert_array_equal(left.share, share)
    assert left.users == (5 if share < 1 else 10)
    np.testing.assert_array_equal(state["hidden"], 0.0)


def test_users_who_came_and_fall_silent_are_missed(shop: Callable[..., list[Record]]) -> None:
    """From 10 to 15 users; four minutes later 5 fall silent: the app is still of 15, and nothing is released."""
    samples = [(tick, f"u{n}", {"cpu": 1.0}) for tick in range(8) for n in range(15 if 1 <= tick < 5 else 10)]
    plans = shop(samples)
    assert [plan["completeness"] for plan in plans] == [1.0] * 5 + [pytest.approx(10 / 15)] * 3
    least = [min(amounts[0] for amounts in plan["required"]) for plan in plans]
    assert min(least[1:]) > 15


@pytest.mark.parametrize(("lost", "refused"), [(2, False), (5, False), (8, False), (2, True)])
def test_what_is_used_while_users_are_silent_is_planned_for(
    shop: Callable[..., list[Record]], lost: int, refused: bool
) -> None:
    """Of ten users some fall silent at minute 20, or their records are refused, and the rest double in ten: no bound
    of what was measured holds."""
    level = [min(2.0, 1 + max(0, tick - 19) / 10) for tick in range(32)]
    samples = [
        (tick, f"u{n}", {"cpu": level[tick] if tick < 20 or n >= lost else -1.0})
        for tick in range(32)
        for n in range(10)
        if tick < 20 or n >= lost or refused
    ]
    plans = shop(samples)
    assert [plan["completeness"] for plan in plans[20:]] == [pytest.approx(1 - lost / 10)] * 12
    for tick, plan in enumerate(plans[20:], 20):
        # what silent users last had stays theirs; who is refused is silent or not
        used = (10 - lost) * level[tick] + (0 if refused else lost)
        assert max(amounts[0] for amounts in plan["required"]) > used
        assert plan["replicas"][0] < 1.8 * used


@pytest.mark.parametrize(("small", "others"), [(0.01, 30), (0.1, 40), (0.5, 12)])
def test_silence_counts_by_what_was_used_and_not_by_heads(
    shop: Callable[..., list[Record]], small: float, others: int
) -> None:
    """One user of many uses most of the app, and falls silent: the rest is not taken for the app."""
    samples = [
        (tick, f"u{n}" if n else "large", {"cpu": small if n else 20.0})
        for tick in range(24)
        for n in range(0 if tick < 12 else 1, others + 1)
    ]
    plans = shop(samples)
    whole = 20.0 + others * small
    for plan in plans[12:]:
        assert plan["completeness"] == pytest.approx(1 - 20.0 / whole)
        assert min(amounts[0] for amounts in plan["required"]) > whole - 1
        assert plan["replicas"][0] < 1.5 * whole
    instances = [sum(count["desired"][0] for count in plan["counts"]) for plan in plans]
    assert min(instances[12:]) >= instances[11]


def silent_tick(used: float = 1.0) -> Demand:
    """Two of three users of two cores report."""
    level = np.full(len(METRICS), 2.0)
    return replace(
        Demand.silent(("cpu",), 6),
        usage=2 * level,
        saturated=0 * level,
        users=3,
        reporting=2,
        turnover=Turnover(silent=level, went=level, came=0 * level),
        records=TelemetryShare(used),
    )


@pytest.mark.parametrize(("used", "estimated"), [(1.0, 6.0), (0.8, np.nan)])
def test_a_total_without_a_user_is_estimated_and_no_outcome(used: float, estimated: float) -> None:
    """The behaviour model goes on from what the absent user last had; nothing is learnt from it as if measured.

    Where records were refused, those who report may be incomplete as well: the total is missing.
    """
    totals = AppTotals.of([settled(initial_state(), silent_tick(used), 60)[1]])
    np.testing.assert_array_equal(totals.estimated, np.full((1, len(METRICS)), estimated))
    for measured in (totals.values, totals.outcome, totals.proved):
        assert np.isnan(measured).all()


def test_a_total_of_nobody_is_missing() -> None:
    nobody = replace(silent_tick(), usage=np.full(len(METRICS), np.nan), reporting=0)
    totals = AppTotals.of([settled(initial_state(), nobody, 60)[1]])
    assert np.isnan(totals.estimated).all()
