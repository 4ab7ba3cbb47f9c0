"""Stages are started again with back-off, and never left behind."""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest
import typer

from pipeline.command_line import run
from pipeline.errors import AGAIN_EXIT, Unreachable, UsageError
from pipeline.runtime.backoff import FIRST_BACKOFF_S, STEADY_S
from pipeline.runtime.supervisor import StageProcess, Supervisor


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def supervised(folder: Path, code: str, clock: Clock) -> tuple[Supervisor, StageProcess, list[str]]:
    notes: list[str] = []
    supervisor = Supervisor({"LEADTIME_X": "y"}, folder, notes.append, clock)
    stage = StageProcess("dummy", [sys.executable, "-c", code], supervisor.environment, folder / "dummy.log")
    supervisor.stages["dummy"] = stage
    stage.start(clock())
    return supervisor, stage, notes


def test_what_dies_is_started_again_each_time_later(tmp_path: Path) -> None:
    clock = Clock()
    supervisor, stage, notes = supervised(tmp_path, "raise SystemExit(3)", clock)
    for waits in (1, 2, 4):
        assert stage.process is not None
        stage.process.wait(10)
        supervisor.poll()
        assert stage.process is None
        clock.now += FIRST_BACKOFF_S * waits - 0.01
        supervisor.poll()
        assert stage.process is None
        clock.now += 0.02
        supervisor.poll()
    assert stage.restarts == 3
    assert notes[0] == "dummy ended (exit 3); again in 0.5 s"
    stage.process.wait(10)
    clock.now += STEADY_S + 1  # it ran long this time
    supervisor.poll()
    assert notes[-1] == "dummy ended (exit 3); again in 0.5 s"
    supervisor.stop()


def test_one_more_stage_is_among_the_process_ids_and_waits_by_itself(tmp_path: Path) -> None:
    supervisor, stage, _ = supervised(tmp_path, "import time; time.sleep(60)", Clock())
    more = supervisor.another("dummy", "dummy-2")
    assert stage.process is not None
    assert more.process is not None
    written = json.loads((tmp_path / "stages.json").read_text())
    assert written == {"dummy": stage.process.pid, "dummy-2": more.process.pid}
    assert more.backoff is not stage.backoff
    supervisor.stop()


def test_a_stage_that_cannot_run_as_asked_ends_the_run_with_its_own_line(tmp_path: Path) -> None:
    code = "import sys; print('leadtime: no such key', file=sys.stderr); sys.exit(2)"
    supervisor, stage, _ = supervised(tmp_path, code, Clock())
    assert stage.process is not None
    stage.process.wait(10)
    with pytest.raises(UsageError, match=r"^no such key$"):
        supervisor.poll()
    supervisor.stop()


@pytest.mark.parametrize(
    ("error", "code"), [(Unreachable("no Kafka"), AGAIN_EXIT), (UsageError("no key"), 2)]
)
def test_a_stage_that_did_not_reach_kafka_ends_so_that_it_is_started_again(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def stage() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit) as ended:
        run(app, AGAIN_EXIT)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"leadtime: {error}\n"


def test_what_ends_so_is_started_again(tmp_path: Path) -> None:
    clock = Clock()
    supervisor, stage, notes = supervised(tmp_path, f"raise SystemExit({AGAIN_EXIT})", clock)
    assert stage.process is not None
    stage.process.wait(10)
    supervisor.poll()
    clock.now += FIRST_BACKOFF_S
    supervisor.poll()
    assert stage.restarts == 1
    assert notes == ["dummy ended (exit 75); again in 0.5 s"]
    supervisor.stop()


def test_a_stage_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    code = "from pipeline.runtime.supervisor import die_with_parent; import time; die_with_parent(); time.sleep(60)"
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {code!r}], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    supervisor, stage, _ = supervised(tmp_path, parent, Clock())
    deadline = time.monotonic() + 20
    while not (text := stage.log.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = psutil.Process(int(text))
    assert stage.process is not None
    stage.process.kill()
    child.wait(20)
    supervisor.stop()


def test_stop_ends_all(tmp_path: Path) -> None:
    supervisor, stage, _ = supervised(tmp_path, "import time; time.sleep(60)", Clock())
    supervisor.stop()
    assert stage.process is not None
    assert stage.process.returncode is not None
