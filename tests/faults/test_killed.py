"""Stages killed, frozen, added and taken away: what is published and done is the unbroken run's, byte for byte.

A handful; `make faults` runs the rest (`test_soak.py`) too.
"""

import signal
import time
from functools import partial

import pytest

from pipeline.bench.load import Load
from pipeline.bench.recovery import Recovery, owners
from pipeline.kafka import topics
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.runtime.session_guard import EXIT
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from tests.faults import replaying
from tests.faults.harm import Deaths, Process, Script, Together, killers, until
from tests.faults.replaying import Outcome

WITHIN_S = {"ingest": 5.0, "worker": 15.0, "actuator": 5.0}
"""How long a stage lives at most: twice what it needs to start."""

SESSION_S = 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stages_killed_at_random_moments_and_steps(settings: Settings, whole: Outcome) -> None:
    steps = Deaths(["profiler blocks 2", "allocator folded 9", "simulator committed 2"])
    fault = Together(killers(1, {"ingest": 2, "actuator": 2}, WITHIN_S), steps)
    broken = replaying.run(
        settings, settings.data_dir / "killed", fault, ticks_per_s=2, session_timeout_s=SESSION_S
    )
    assert broken.figures["restarts"] == {"ingest": 2, "worker": 3, "actuator": 2}
    replaying.assert_same(broken, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_joins_another_freezes_and_wakes_and_one_leaves(settings: Settings, whole: Outcome) -> None:
    folder = settings.data_dir / "joined"
    group = settings.model_copy(update={"prefix": replaying.prefix(settings, folder)}).group + "-worker"
    admin = quiet_admin(connection(settings))
    ends: list[Process] = []

    def act(supervisor: Supervisor) -> None:
        frozen = supervisor.stages["worker"].process
        second = supervisor.another("worker", "worker-2")
        until(lambda: owners(admin, group) == 2, "the second worker has partitions")
        third = supervisor.another("worker", "worker-3")
        assert frozen is not None
        frozen.send_signal(signal.SIGSTOP)
        time.sleep(SESSION_S + 2)
        until(lambda: owners(admin, group) == 2, "the third has those of the frozen one")
        frozen.send_signal(signal.SIGCONT)
        until(lambda: frozen.returncode is not None, "the zombie ends")
        ends.append(frozen)
        assert second.process is not None
        leaving, second.process = second.process, None  # not the supervisor's any more
        with leaving:  # closes its stdin, by which a stage knows that its supervisor is there
            leaving.terminate()
            leaving.wait(60)
        ends.append(leaving)
        until(lambda: owners(admin, group) >= 1, "the rest have its partitions")
        assert third.restarts == 0

    broken = replaying.run(settings, folder, Script(act), ticks_per_s=2, session_timeout_s=SESSION_S)
    assert [process.returncode for process in ends] == [EXIT, 0]
    replaying.assert_same(broken, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_told_to_stop_leaves_nothing_to_do_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(Supervisor, module="tests.faults.stage")
    monkeypatch.setattr("pipeline.bench.recovery.Supervisor", quick)
    here = settings.model_copy(
        update={"event_time": True, "partitions": 2, "session_timeout_s": SESSION_S, "scenarios": 64}
    )
    topics.create(here)
    facts = Recovery(Load(200, 1, 1, here), here).measured()
    assert facts["forecast_again_after_stop"] == 0
    assert facts["stop_s"] < 60  # `leadtime bench recovery` measures it
    assert facts["takeover_s"] > 0
