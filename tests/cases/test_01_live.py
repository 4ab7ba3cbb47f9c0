"""Case 01 on a real Kafka: a quota that is lifted after refusals, then a change by somebody else."""

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

import leadtime
from pipeline.errors import Rejected
from pipeline.kafka import topics
from pipeline.kafka.installation import declare
from pipeline.kafka.producer import Outputs
from pipeline.kafka.reader import records
from pipeline.reports import decision_text
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.stages.actuator import service
from pipeline.wire.codec import Record
from tests.cases.closed_loop import Fleet, policy, price

TICK_S = 5
NEEDED = 2
"""Instances of two cores that carry four users of a core each, at least."""


@pytest.fixture
def live(settings: Settings, tmp_path: Path) -> Generator[Settings]:
    """Ingest and worker of an installation that plans 5 s after a tick's end, and four users of a core each."""
    here = settings.model_copy(
        update={"tick_s": TICK_S, "lateness_s": TICK_S, "partitions": 1, "scenarios": 256}
    )
    topics.create(here)
    here = declare(here)
    outputs = Outputs(here)
    outputs.publish("policies", "policy", policy(), key="shop@1")
    outputs.publish("prices", "price", price(), key="node@1")
    outputs.flush()
    stop = threading.Event()
    supervisor = Supervisor(here.environment(), tmp_path / "stages")
    supervisor.start(["ingest", "worker"])
    producer = threading.Thread(target=report, args=(here, stop))
    producer.start()
    try:
        yield here
    finally:
        stop.set()
        producer.join(30)
        supervisor.stop()


def report(settings: Settings, stop: threading.Event) -> None:
    with leadtime.Telemetry(settings=settings) as telemetry:
        while not stop.is_set():
            for user in range(4):
                telemetry.metric(app="shop", user=f"u{user}", interval_s=float(TICK_S), cpu=1.0)
            stop.wait(TICK_S)


def newest(settings: Settings) -> Record | None:
    plans = [record for _, record in records(settings, "plans")]
    return max(plans, key=lambda plan: plan["tick"], default=None)


def reached(settings: Settings, condition: Callable[[Record], bool], limit_s: float = 90.0) -> Record:
    """The first newest plan that meets the condition."""
    deadline = time.monotonic() + limit_s
    while True:
        plan = newest(settings)
        if plan is not None and condition(plan):
            return plan
        assert time.monotonic() < deadline, plan
        time.sleep(0.5)


def state(plan: Record) -> str:
    return plan["capacity"][0]["state"] if plan["capacity"] else ""


@pytest.mark.slow
def test_what_is_refused_or_undone_is_commanded_again(live: Settings) -> None:
    lifted = threading.Event()

    def quota(command: Record, at_s: float) -> None:
        if not lifted.is_set():
            raise Rejected("quota exceeded")

    fleet = Fleet(quota, startup_s=0.0)
    stop = threading.Event()
    actuator = threading.Thread(
        target=service.run, args=(live, {"fleet": fleet}), kwargs={"stop": stop}, daemon=True
    )
    actuator.start()
    try:
        refused = reached(live, lambda plan: state(plan) == "refused", 120.0)
        assert not refused["feasible"]
        assert "undelivered" in refused["guardrails"]
        assert "quota exceeded" in decision_text.text(refused)
        assert not fleet.group().launched
        lifted.set()
        served = reached(live, lambda plan: plan["feasible"] and plan["capacity"][0]["ready"] >= NEEDED)
        assert state(served) == ""

        before = fleet.group().generation
        fleet.resize(0, time.time())
        changed = reached(live, lambda plan: state(plan) == "conflict")
        assert "conflict" in changed["guardrails"]
        assert "somebody else" in decision_text.text(changed) or "kubectl" in decision_text.text(changed)
        again = reached(
            live,
            lambda plan: (
                plan["feasible"] and state(plan) == "" and plan["capacity"][0]["generation"] > before + 1
            ),
        )
        assert again["capacity"][0]["ready"] >= NEEDED
    finally:
        stop.set()
        actuator.join(30)
    plans = [plan for _, plan in records(live, "plans") if state(plan) == "refused"]
    assert plans
    assert not any(plan["feasible"] for plan in plans)
