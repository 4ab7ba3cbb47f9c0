"""The actuator on real Kafka: a scripted stream of plans and commands, and kills at each step of its protocol."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline import topics
from pipeline.actuator import Actuator, starting_capacity
from pipeline.actuators.local import Faults, LocalProvider, local_provider
from pipeline.actuators.wire import Outbox, header_of, read_all
from pipeline.commands import Target, build, final
from pipeline.keys import keyring, signing_key
from pipeline.settings import Settings

Record = dict[str, Any]
OFFERS = {"od-4": "ON_DEMAND", "re-4": "RESERVED"}


@pytest.fixture
def replay(settings: Settings) -> Settings:
    """Event time, ticks of 60 s, all topics there, two offers for sale, two apps with two instances."""
    settings = settings.model_copy(update={"event_time": True, "partitions": 2})
    topics.create(settings)
    outbox = Outbox(settings)
    for offer_id, tier in OFFERS.items():
        price: Record = {
            "schema_version": 1,
            "offer_id": offer_id,
            "version": 1,
            "valid_from_tick": 0,
            "provider": "local",
            "region": "eu",
            "tier": tier,
            "instance_type": "four",
            "capacity": [{"metric": "cpu", "value": 4.0}],
            "price": Decimal("0.2"),
            "owned_count": 4 if tier == "RESERVED" else None,
            "startup_p50_s": 40.0,
            "startup_p90_s": 50.0,
            "startup_p99_s": 55.0,
        }
        outbox.publish("prices", "price", f"{offer_id}@1", price)
    outbox.flush()
    starting_capacity(settings, {app: {"od-4": 2, "re-4": 0} for app in ("shop", "bank")}, tick=10)
    return settings


def command(settings: Settings, tick: int, desired: int, app: str = "shop", **more: Any) -> Record:
    offer_id = more.pop("offer_id", "od-4")
    values: Record = {
        "plan_id": f"{app}-{tick}",
        "order": 0,
        "target": Target(provider="local", ref=f"{app}/{offer_id}", region="eu"),
        "desired": desired,
        "bounds": (0, 8),
        "epoch": tick,
        "issued_tick": tick,
        "issued_s": (tick + 1) * 60.0,
        "lifetime_s": 300.0,
        "key": signing_key(settings),
    }
    return build(**values | more)


def plan(tick: int, issued: int, app: str = "shop") -> Record:
    return {
        "schema_version": 1,
        "plan_id": f"{app}-{tick}",
        "allocation_group": app,
        "app": app,
        "shard": 0,
        "seq": tick,
        "mode": "auto",
        "tick": tick,
        "tick_s": 60,
        "confidence_asked": 0.99,
        "confidence_planned": 0.99,
        "steps": [60],
        "metrics": ["cpu"],
        "required": [[1.0]],
        "alpha": 0.99,
        "window": [60, 60],
        "replicas": [1],
        "counts": [{"offer_id": offer_id, "desired": [1]} for offer_id in OFFERS],
        "cost": Decimal("1"),
        "cost_at": [],
        "binding": None,
        "reactive_floor": 1,
        "observed_generation": 1,
        "observed_tick": tick - 1,
        "alternatives": [],
        "guardrails": [],
        "feasible": True,
        "reason": "",
        "commands_issued": issued,
        "versions": {"policy": "1", "prices": [], "model": "m"},
        "seed": 0,
    }


def publish(settings: Settings, *records: Record) -> None:
    outbox = Outbox(settings)
    for record in records:
        if "desired" in record:
            outbox.publish("commands", "command", record["target"]["ref"], record)
        else:
            outbox.publish("plans", "plan", record["app"], record)
    outbox.flush()


def results(settings: Settings) -> list[Record]:
    return [record for _, record in read_all(settings, "commands.results")]


def observations(settings: Settings) -> dict[tuple[str, int], list[Record]]:
    """By target and tick, all that was said."""
    seen: dict[tuple[str, int], list[Record]] = {}
    for _, record in read_all(settings, "capacity.observed"):
        seen.setdefault((record["target"], record["tick"]), []).append(record)
    return seen


class Run:
    """Actuators on one folder, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.provider: LocalProvider | None = None
        self.actuator: Actuator | None = None

    def start(self, faults: Faults | None = None, **more: Any) -> Actuator:
        self.kill()
        self.provider = local_provider(self.settings)
        self.provider.faults = faults or Faults()
        self.actuator = Actuator(self.settings, {"local": self.provider}, keyring(self.settings), **more)
        self.actuator.restore()
        return self.actuator

    def until(self, condition: Callable[[], bool], limit_s: float = 20.0) -> None:
        assert self.actuator is not None
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline
            self.actuator.step(0.05)

    def kill(self) -> None:
        """No last words: as SIGKILL, but the folder's lock goes with the file."""
        if self.actuator is not None and self.provider is not None:
            self.actuator.close()
            self.provider.close()
            self.actuator = self.provider = None


@pytest.fixture
def run(replay: Settings) -> Generator[Run]:
    runner = Run(replay)
    yield runner
    runner.kill()


def reached(settings: Settings, tick: int, app: str = "shop") -> Callable[[], bool]:
    return lambda: (f"{app}/re-4", tick) in observations(settings)


def test_starting_capacity_is_there_before_the_first_plan(replay: Settings) -> None:
    seen = observations(replay)
    assert set(seen) == {(f"{app}/{offer}", 9) for app in ("shop", "bank") for offer in OFFERS}
    [record] = seen["shop/od-4", 9]
    assert (record["ready"], record["pending"], record["generation"], record["billed_h"]) == (2, 0, 1, 2 / 60)


def test_plans_and_commands_become_results_and_one_observation_a_tick(replay: Settings, run: Run) -> None:
    run.start()
    grow = command(replay, 10, 4, order=0)
    reserve = command(replay, 10, 1, offer_id="re-4", order=1)
    publish(replay, plan(10, issued=2), plan(10, issued=0, app="bank"), grow, reserve)
    publish(replay, command(replay, 11, 1), plan(11, issued=1), plan(12, issued=0))
    run.until(reached(replay, 12))

    outcome = [(one["target"], one["status"], one["before"], one["after"]) for one in results(replay)]
    assert sorted(outcome) == [
        ("shop/od-4", "APPLIED", 2, 4),
        ("shop/od-4", "APPLIED", 4, 1),
        ("shop/re-4", "APPLIED", 0, 1),
    ]
    seen = observations(replay)
    assert all(len(said) == 1 for said in seen.values())
    assert {key for key in seen if key[1] >= 10} == {
        *((f"shop/{offer}", tick) for offer in OFFERS for tick in (10, 11, 12)),
        *((f"bank/{offer}", 10) for offer in OFFERS),
    }
    # The plan of tick 10 acts at 660 s, its end; launched then, ready about 40 s later: within tick 11.
    [at_10], [at_11], [at_12] = (seen["shop/od-4", tick] for tick in (10, 11, 12))
    assert (at_10["ready"], at_10["pending"], at_10["least_ready"], at_10["generation"]) == (2, 2, 2, 2)
    assert len(at_10["pending_ready_s"]) == 2
    # At 720 s the plan of tick 11 has just let three of four go.
    assert (at_11["ready"], at_11["pending"], at_11["least_ready"], at_11["generation"]) == (1, 0, 2, 3)
    assert (at_12["ready"], at_12["least_ready"]) == (1, 1)
    # Reserved: 4 owned since 600 s, used or not; at 660 s 4 * 60 s.
    assert seen["shop/re-4", 10][0]["billed_h"] == pytest.approx(4 / 60)


def test_what_must_be_refused_is(replay: Settings, run: Run) -> None:
    run.start()
    first = command(replay, 10, 3)
    forged = command(replay, 11, 8) | {"max_allowed": 99}
    publish(replay, first, plan(10, issued=1), forged)
    run.until(reached(replay, 10))
    publish(
        replay,
        first,  # replayed
        command(replay, 10, 5),  # another id of the same epoch
        command(replay, 11, 6, lifetime_s=-60.0),  # expired at 660 s, when it came
        command(replay, 12, 7, bounds=(0, 5)),
        plan(11, issued=0),
        plan(12, issued=1),
    )
    run.until(reached(replay, 12))
    reasons = [(one["epoch"], one["status"], one["reason"]) for one in results(replay)]
    assert sorted(reasons) == [
        (10, "APPLIED", ""),
        (10, "REFUSED", "older-epoch"),
        (10, "REFUSED", "replayed"),
        (11, "REFUSED", "expired"),
        (11, "REFUSED", "forged"),
        (12, "REFUSED", "out-of-bounds"),
    ]
    assert final(results(replay))[first["id"]]["status"] == "APPLIED"
    assert observations(replay)["shop/od-4", 12][0]["generation"] == 2


def test_an_unreadable_command_is_a_dead_letter_and_the_next_one_works(replay: Settings, run: Run) -> None:
    actuator = run.start()
    producer = Producer({"bootstrap.servers": replay.bootstrap, "partitioner": "murmur2_random"})
    for value in (b"\xc3\x01nonsense", None):
        producer.produce(topics.name("commands", replay), value, b"shop/od-4")
    producer.flush(10)
    publish(replay, command(replay, 10, 3), plan(10, issued=1))
    run.until(reached(replay, 10))
    letters = [record for _, record in read_all(replay, "dead-letters")]
    assert sorted((letter["reason"], letter["value"]) for letter in letters) == [
        ("empty", b""),
        ("unknown-schema", b"\xc3\x01nonsense"),
    ]
    assert [one["status"] for one in results(replay)] == ["APPLIED"]
    assert actuator.positions.to_commit() == []


class Killed(BaseException):
    """Where SIGKILL would strike."""


def _killed(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.mark.parametrize("where", ["before applying", "after applying", "after publishing"])
def test_killed_at_any_step_everything_is_done_once(
    replay: Settings, run: Run, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run.start()
    publish(replay, command(replay, 10, 4, expected_generation=1), plan(10, issued=1))
    with monkeypatch.context() as patch:
        if where == "before applying":
            patch.setattr(LocalProvider, "apply", _killed)
        elif where == "after applying":
            patch.setattr(Outbox, "publish", _killed)
        else:
            flush = Outbox.flush

            def flush_and_die(outbox: Outbox) -> None:
                flush(outbox)
                if results(replay):  # not in a step that found nothing to do yet
                    raise Killed

            patch.setattr(Outbox, "flush", flush_and_die)
        with pytest.raises(Killed):
            run.until(lambda: False)

    run.start()
    publish(replay, command(replay, 11, 3, expected_generation=2), plan(11, issued=1))
    run.until(reached(replay, 11))
    outcome = [(one["epoch"], one["status"], one["before"], one["after"]) for one in results(replay)]
    assert sorted(outcome) == [(10, "APPLIED", 2, 4), (11, "APPLIED", 4, 3)]
    seen = observations(replay)
    # Observations of a tick may be said again, in the same words, and are what an unbroken run says.
    assert all(said == [said[0]] * len(said) for said in seen.values())
    assert [seen["shop/od-4", tick][0]["generation"] for tick in (10, 11)] == [2, 3]
    assert (seen["shop/od-4", 10][0]["ready"], seen["shop/od-4", 10][0]["pending"]) == (2, 2)

    # A third one knows what is old.
    run.start()
    publish(replay, command(replay, 10, 4, expected_generation=1), command(replay, 11, 8), plan(12, issued=0))
    run.until(reached(replay, 12))
    assert sorted(one["reason"] for one in results(replay) if one["status"] == "REFUSED") == [
        "older-epoch",
        "replayed",
    ]


def test_a_retry_outlives_a_restart(replay: Settings, run: Run) -> None:
    run.start(Faults(unavailable=1.0, retry_after_s=90.0))
    asked = command(replay, 10, 4)
    publish(replay, asked, plan(10, issued=1))
    run.until(reached(replay, 10))
    assert [one["status"] for one in results(replay)] == ["RETRYING"]

    run.start()
    publish(replay, plan(11, issued=0), plan(12, issued=0))
    run.until(reached(replay, 12))
    last = results(replay)[-1]
    # Asked at 660 s, due at 750 s: within tick 12, which ends at 780 s.
    assert (last["command_id"], last["status"]) == (asked["id"], "APPLIED")
    assert last["accepted_ts"].timestamp() == 750.0
    assert [observations(replay)["shop/od-4", tick][0]["generation"] for tick in (10, 11, 12)] == [1, 1, 2]


def test_live_commands_are_applied_at_once(replay: Settings, run: Run) -> None:
    live = replay.model_copy(update={"event_time": False})
    run.settings = live
    now = [700.0]
    run.start(clock=lambda: now[0])
    publish(live, command(live, 10, 4))
    run.until(lambda: bool(results(live)))
    [done] = results(live)
    assert (done["status"], done["accepted_ts"].timestamp()) == ("APPLIED", 700.0)
    [message] = [message for message, _ in read_all(live, "commands.results")]
    assert header_of(message, "command").endswith(":0")
    # After the change, as of the last whole tick; and then once per tick, for every target that is known.
    assert observations(live)["shop/od-4", 10][0]["pending"] == 2
    now[0] = 790.0
    run.until(lambda: ("shop/re-4", 12) in observations(live))
    assert observations(live)["shop/od-4", 12][0]["ready"] == 4
    assert observations(live)["bank/od-4", 12][0]["ready"] == 2
    assert not [key for key in observations(live) if key[1] == 11]


PROCESS = """
import sys
from pipeline import actuator, settings
actuator.run(settings.load(), ready=lambda: print("ready", flush=True))
"""


def test_the_process_survives_sigkill_and_ends_on_sigterm_within_a_second(replay: Settings) -> None:
    environment = {
        **os.environ,
        "LEADTIME_BOOTSTRAP": str(replay.bootstrap),
        "LEADTIME_PREFIX": replay.prefix,
        "LEADTIME_PARTITIONS": "2",
        "LEADTIME_DATA_DIR": str(replay.data_dir),
        "LEADTIME_EVENT_TIME": "true",
        "LEADTIME_DEMO_KEYS": "true",
    }

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def wait(tick: int) -> None:
        deadline = time.monotonic() + 20.0
        while not reached(replay, tick)():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    first = start()

    def some(ticks: range) -> list[Record]:
        return [
            record for tick in ticks for record in (command(replay, tick, tick % 5), plan(tick, issued=1))
        ]

    publish(replay, *some(range(10, 20)))
    wait(10)
    first.kill()
    first.communicate()
    publish(replay, *some(range(20, 30)))
    second = start()
    wait(29)
    began_s = time.monotonic()
    second.send_signal(signal.SIGTERM)
    out, errors = second.communicate(timeout=10)
    assert time.monotonic() - began_s < 1.0
    assert (second.returncode, out, errors) == (0, "", "")

    outcome = final(results(replay))
    assert len(outcome) == 20
    assert {one["status"] for one in outcome.values()} == {"APPLIED"}
    assert len(results(replay)) == 20
    seen = observations(replay)
    assert all(said == [said[0]] * len(said) for said in seen.values())
    state = json.loads((replay.data_dir / "local" / "shop%2Fod-4.json").read_text())
    assert (state["desired"], state["epoch"]) == (29 % 5, 29)
