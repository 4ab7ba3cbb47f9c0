"""The whole pipeline on real Kafka; a run whose worker is killed publishes the same as an unbroken one."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.metrics import EVENT_KINDS
from pipeline.demo.recorder import Watch
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.wire.codec import decode
from pipeline.wire.forecasts import scores
from tests.faults.living import COMPARED, START, TICKS, run, trace
from tests.faults.replaying import TIMES, Records


def scored(forecasts: dict[tuple[object, ...], bytes]) -> int:
    """Normal scores in forecasts: what the simulator learns each app's dependence from."""
    return sum(int(np.isfinite(scores([decode(value)[1]])).sum()) for value in forecasts.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_changes_nothing(
    installation: Settings, folder: Path, whole_run: tuple[dict[str, Any], Records]
) -> None:
    figures, whole = whole_run
    events = sum(int((trace().frame[f"events.{kind}"] > 0).sum()) for kind in EVENT_KINDS)
    assert figures["records"] == TICKS * 16 + events
    assert figures["framed"] == figures["records"]
    assert figures["plans"] == 2 * TICKS
    assert figures["commands"] == figures["applied"]
    assert figures["commands"] > 0
    assert figures["dead_letters"] == figures["held"] == figures["late"] == 0

    moments = sorted(random.Random(11).sample(range(3, TICKS // 2), 2))

    def kill(watch: Watch, supervisor: Supervisor) -> None:
        planned = watch.planned_until()
        process = supervisor.stages["worker"].process
        if moments and planned is not None and process is not None and planned - START >= moments[0]:
            moments.pop(0)
            os.kill(process.pid, signal.SIGKILL)

    killed, broken = run(installation, "broken", folder, kill)
    assert killed["restarts"] == {"ingest": 0, "worker": 2, "actuator": 0}
    # cpu, memory, network and disk of 16 users, in every tick but the first: a simulator whose sums did not survive
    # would simulate another dependence, and other scenarios
    assert scored(whole["forecasts"]) > 0.9 * 4 * 16 * (TICKS - 1)
    for topic in COMPARED:
        assert broken[topic] == whole[topic], topic
    for name in ("plans", "commands", "results", "dead_letters"):
        lines = [(folder / f"{which}-out" / f"{name}.jsonl").read_bytes() for which in ("whole", "broken")]
        assert lines[0] == lines[1], name
    assert {**killed, **dict.fromkeys(TIMES, 0)} == {**figures, **dict.fromkeys(TIMES, 0)}
