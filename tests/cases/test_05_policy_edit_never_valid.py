"""Side inputs are valid from the installation's next tick, as its topics tell it, whatever the shell is set to."""

import time
from typing import Any

import pytest

from models.tick import Tick, following
from pipeline.cli.up import up
from pipeline.errors import NotDelivered, UsageError
from pipeline.inputs.publish import doubtful_validity, publish
from pipeline.kafka import topics
from pipeline.kafka.installation import Progress, declare, progress, settled
from pipeline.kafka.producer import Outputs
from pipeline.kafka.reader import records
from pipeline.settings import Settings
from pipeline.sources import client
from pipeline.sources.client import Telemetry
from pipeline.stages.actuator import service

NOW_S = 1_795_846_000.0
TICKS = (61, 10, 300)


def policy(most: int) -> dict[str, Any]:
    unit = [{"metric": "cpu", "value": 1.0}]
    return {
        "app": "shop",
        "governed": ["cpu"],
        "unit": unit,
        "min": 1,
        "max": most,
        "allocation_group": "shop",
    }


def publish_frame(settings: Settings, tick: int, tick_s: int, produced_s: float) -> None:
    """An empty frame of a tick, as ingest publishes it at a moment of the wall clock."""
    end_us = int(Tick(tick, tick_s).end_s * 1e6)
    numbers = {"shard": 0, "seq": tick, "part": 0, "of": 1, "late": 0}
    names = {"key_id": "k", "apps": [], "metrics": [], "kinds": [], "resume": []}
    times = {"tick": tick, "tick_start": end_us - tick_s * 1_000_000, "tick_s": tick_s, "watermark": end_us}
    columns = dict.fromkeys(("users", "app_index", "values", "rates", "samples", "events", "saturated"), b"")
    outputs = Outputs(settings)
    outputs.publish(
        "behaviour.frames",
        "frame",
        numbers | names | times | columns,
        key="0",
        partition=0,
        timestamp_ms=int(produced_s * 1000),
    )
    outputs.flush()


def set_twice(shell: Settings) -> int:
    """The tick from which a second version is valid."""
    publish(shell, "policies", "policy", [policy(50)], clock=lambda: NOW_S)
    (second,) = publish(shell, "policies", "policy", [policy(2)], clock=lambda: NOW_S)
    assert second["version"] == 2
    return second["valid_from_tick"]


@pytest.fixture
def shell(settings: Settings) -> Settings:
    """A shell that does not know the installation's tick, whose topics are there."""
    settings = settings.model_copy(update={"partitions": 1})
    topics.create(settings)
    assert "tick_s" not in settings.model_fields_set
    return settings


def with_tick(settings: Settings, tick_s: int, **more: Any) -> Settings:
    return settings.model_copy(update={"tick_s": tick_s, **more})


@pytest.mark.parametrize("tick_s", TICKS)
def test_an_edit_is_valid_from_the_next_tick_of_the_installation(shell: Settings, tick_s: int) -> None:
    declare(with_tick(shell, tick_s))
    assert set_twice(shell) == int(NOW_S // tick_s) + 1  # before the first frame
    open_tick = int(NOW_S // tick_s)
    publish_frame(shell, open_tick - 1, tick_s, NOW_S)
    (third,) = publish(shell, "policies", "policy", [policy(3)], clock=lambda: NOW_S)
    assert third["valid_from_tick"] == open_tick + 1


@pytest.mark.parametrize("tick_s", TICKS[:1])
def test_an_edit_during_a_replay_is_valid_from_the_next_tick_of_its_event_time(
    shell: Settings, tick_s: int
) -> None:
    old = int(1_700_000_000 // tick_s)
    publish_frame(shell, old, tick_s, NOW_S)  # frames alone tell the tick, as of an older version's ingest
    assert set_twice(shell) == old + 2  # `old` is closed, the one after it is open


def test_an_edit_before_anything_ran_holds_for_all_that_is_to_come(shell: Settings) -> None:
    assert progress(shell).tick_s is None
    assert set_twice(shell) == 0


def test_an_edit_before_a_replay_holds_for_all_that_is_to_come(shell: Settings) -> None:
    declare(with_tick(shell, 61, event_time=True))
    assert set_twice(shell) == 0


def test_another_tick_than_the_installations_is_refused(
    shell: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert declare(with_tick(shell, 61)).tick_s == 61
    assert declare(shell).tick_s == settled(shell).tick_s == 61  # a shell that is set to nothing follows
    for act in (settled, declare):
        with pytest.raises(UsageError, match="has ticks of 61 s, 10 s are set") as refusal:
            act(with_tick(shell, 10))
        assert "\n" not in str(refusal.value)
    monkeypatch.setenv("LEADTIME_DATA_DIR", str(shell.data_dir))
    monkeypatch.setenv("LEADTIME_DEMO_KEYS", "true")
    monkeypatch.setenv("LEADTIME_PARTITIONS", "1")
    with pytest.raises(UsageError, match="has ticks of 61 s, 300 s are set"):
        up(shell.bootstrap, shell.prefix, 300, "worker", as_json=True)


def intervals(settings: Settings) -> list[float]:
    """Of all samples that were sent, in their order."""
    return [record["interval_s"] for _, record in records(settings, "telemetry.metrics")]


def test_a_sample_without_an_interval_stands_for_the_installations_tick(
    shell: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ASK_AGAIN_S", 0.0)
    with Telemetry(settings=shell) as telemetry:
        with pytest.warns(
            UserWarning, match=r"tick is not known \(nothing has run there yet\): .* 60 s; give"
        ):
            telemetry.metric("shop", "ann", cpu=1.0)
        declare(with_tick(shell, 61))
        for interval_s in (None, 5.0):
            telemetry.metric("shop", "ann", cpu=1.0, interval_s=interval_s)
        telemetry.flush()
        assert intervals(shell) == [60.0, 61.0, 5.0]
    with (
        Telemetry(settings=with_tick(shell, 10)) as telemetry,
        pytest.raises(UsageError, match="has ticks of 61 s, 10 s are set"),
    ):
        telemetry.metric("shop", "ann", cpu=1.0)
    assert len(intervals(shell)) == 3


def test_a_sample_is_sent_where_kafka_does_not_tell_the_tick() -> None:
    telemetry = Telemetry("127.0.0.1:1", settings=Settings(), timeout_s=0.5)
    with pytest.warns(UserWarning, match="does not answer within 0.5 s.* samples stand for 60 s"):
        telemetry.metric("shop", "ann", cpu=1.0)
    telemetry.metric("shop", "ann", cpu=1.0)  # asks and warns no more for a while
    with pytest.raises(NotDelivered, match="2 messages"):
        telemetry.close()


def test_an_actuator_of_ones_own_keeps_to_the_installations_tick(shell: Settings) -> None:
    declare(with_tick(shell, 61))
    with pytest.raises(UsageError, match="has ticks of 61 s, 10 s are set"):
        service.run(with_tick(shell, 10), {})


@pytest.mark.parametrize("tick_s", TICKS)
def test_the_next_tick_is_of_event_time_or_of_the_wall_clock_where_that_goes_with_it(tick_s: int) -> None:
    assert following(NOW_S, tick_s) == int(NOW_S // tick_s) + 1
    assert Progress(tick_s, NOW_S - 100.0, live=True).next_tick(NOW_S) == following(NOW_S, tick_s)
    assert Progress(tick_s, NOW_S - 1e8, live=False).next_tick(NOW_S) == following(NOW_S - 1e8, tick_s)
    assert Progress(tick_s, None, live=False).next_tick(time.time()) is None
    assert Progress(None, None, live=False).next_tick(time.time()) is None


def test_an_edit_that_does_not_act_from_the_next_tick_on_is_warned_of() -> None:
    now = Progress(10, NOW_S, live=True)
    following = now.next_tick(NOW_S)
    assert following is not None
    known = {
        "shop": {1: {"version": 1, "valid_from_tick": 0}, 2: {"version": 2, "valid_from_tick": following + 9}}
    }

    def doubts(tick: int, version: int = 3, app: str = "shop") -> list[str]:
        record = {"app": app, "version": version, "valid_from_tick": tick}
        return doubtful_validity(now, "policies", known, [record], NOW_S)

    assert doubts(following) == [f"shop@3 is replaced from tick {following + 9} on by version 2"]
    assert doubts(following + 9) == []
    (minutes,) = doubts(int(NOW_S // 1) + 60)  # a tick of a second
    assert "in 513 years" in minutes
    past, replaced = doubts(int(NOW_S // 60) + 1)  # a tick of 60 s
    assert f"which is over: the next is {following}" in past
    assert "version 2" in replaced
    assert doubts(0, 2) == []  # published before: nothing is changed
    assert doubts(0, 1, "blog") == []  # a first version holds from the beginning
    assert doubts(following - 9, 1, "blog") == []
    (never,) = doubts(int(NOW_S), 1, "blog")  # Unix seconds for a tick
    assert "in 513 years" in never
