"""The actuator on real Kafka, killed at each step of its protocol: everything is done once."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from pipeline.kafka.producer import Outputs
from pipeline.providers.local import Faults, LocalProvider
from pipeline.settings import Settings
from pipeline.wire.codec import Record
from pipeline.wire.commands import final
from tests.integration.actuating import Run, command, observations, plan, publish, reached, results


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
            patch.setattr(Outputs, "publish", _killed)
        else:
            flush = Outputs.flush

            def flush_and_die(outputs: Outputs) -> None:
                flush(outputs)
                if results(replay):  # not in a step that found nothing to do yet
                    raise Killed

            patch.setattr(Outputs, "flush", flush_and_die)
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


PROCESS = """
import sys
from pipeline import settings
from pipeline.stages.actuator import service as actuator
actuator.run(settings.load_settings(), ready=lambda: print("ready", flush=True))
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
