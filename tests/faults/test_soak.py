"""The whole list of faults: in the slow tier, and run by `make faults`.

FAULTS_SEED moves all seeds: `make faults SEED=7`. A failure's test name says which seed to repeat.
"""

import json
import os
import time

import pytest

from pipeline.kafka.embedded import EmbeddedKafka
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from tests.faults import replaying
from tests.faults.harm import Deaths, Script, Together, killers, until
from tests.faults.replaying import Outcome
from tests.faults.stage import STEPS_OF_DEATH
from tests.faults.test_killed import WITHIN_S

SEED = int(os.environ.get("FAULTS_SEED") or 0)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_random_moments(settings: Settings, whole: Outcome, seed: int) -> None:
    kills = {"ingest": 5, "worker": 3, "actuator": 5}
    fault = killers(seed, kills, WITHIN_S)
    broken = replaying.run(settings, settings.data_dir / f"killed-{seed}", fault, ticks_per_s=1)
    assert broken.figures["restarts"] == kills
    replaying.assert_same(broken, whole)


@pytest.mark.parametrize("agent", ["profiler", "simulator", "allocator"])
def test_every_step_of_the_protocol(settings: Settings, whole: Outcome, agent: str) -> None:
    steps = Deaths([f"{agent} {step} {1 + number % 2}" for number, step in enumerate(STEPS_OF_DEATH)])
    broken = replaying.run(settings, settings.data_dir / f"steps-{agent}", steps, ticks_per_s=1)
    assert broken.figures["restarts"]["worker"] == len(STEPS_OF_DEATH)
    replaying.assert_same(broken, whole)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_restarts(settings: Settings, whole: Outcome, how: str) -> None:
    with EmbeddedKafka() as kafka:

        def act(_: Supervisor) -> None:
            getattr(kafka, how)()
            time.sleep(3)
            kafka.start()

        here = settings.model_copy(update={"bootstrap": kafka.bootstrap})
        broken = replaying.run(here, settings.data_dir / f"broker-{how}", Script(act), ticks_per_s=2)
        replaying.assert_same(broken, whole)


FAULTY = {
    "unavailable": 0.3,
    "hang": 0.1,
    "hang_s": 1.0,
    "partial": 0.3,
    "launch_failure": 0.3,
    "interruption_h": 2.0,
}


def test_a_provider_that_fails_hangs_and_answers_half(settings: Settings) -> None:
    """Beside a run with the same provider in which nobody is killed."""
    outcomes: list[Outcome] = []
    for name, fault in (("calm", None), ("killed", killers(SEED, {"worker": 2, "actuator": 6}, WITHIN_S))):
        folder = settings.data_dir / f"provider-{name}"
        (folder / "local").mkdir(parents=True)
        (folder / "local" / "faults.json").write_text(json.dumps(FAULTY))
        outcomes.append(replaying.run(settings, folder, fault, ticks_per_s=1))
    calm, killed = outcomes
    assert {"APPLIED", "PARTIAL"} <= calm.figures["commands_by_status"].keys()
    assert b'"status": "RETRYING"' not in calm.files["results.jsonl"]  # all came to an end
    replaying.assert_same(killed, calm)


def test_a_full_disk(settings: Settings, whole: Outcome) -> None:
    flag = settings.data_dir / "full"

    def act(supervisor: Supervisor) -> None:
        actuator = supervisor.stages["actuator"]
        for times in (1, 2):
            flag.write_text("")
            until(lambda times=times: actuator.restarts >= times, "the actuator ends")
            flag.unlink()

    fault = Script(act)
    fault.environment["FULL"] = str(flag)
    broken = replaying.run(settings, settings.data_dir / "disk", fault, ticks_per_s=1)
    assert broken.figures["restarts"]["actuator"] >= 2
    replaying.assert_same(broken, whole)


def test_clocks_that_jump(settings: Settings, whole: Outcome) -> None:
    """By a day to and fro: those of all stages, and the replay's."""
    flag = settings.data_dir / "jumped"

    def act(_: Supervisor) -> None:
        for _time in range(4):
            flag.write_text("")
            time.sleep(2.0)
            flag.unlink()
            time.sleep(2.0)

    fault = Script(act)
    fault.environment["JUMPED"] = str(flag)
    clock = replaying.jumping(flag)
    broken = replaying.run(settings, settings.data_dir / "clock", fault, ticks_per_s=1, clock=clock)
    replaying.assert_same(broken, whole)


def test_all_at_once(settings: Settings, whole: Outcome) -> None:
    steps = Deaths(["allocator restored 2", "profiler flushed 2", "simulator blocks 3"])
    fault = Together(killers(SEED + 100, {"ingest": 4, "actuator": 4}, WITHIN_S), steps)
    broken = replaying.run(settings, settings.data_dir / "all", fault, ticks_per_s=1, snapshot_frames=2)
    replaying.assert_same(broken, whole)
