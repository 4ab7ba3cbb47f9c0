"""Runs stages as child processes: restarts them with back-off, and ends them with their parent."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import folders
from pipeline.errors import USAGE_EXIT, UsageError
from pipeline.runtime.backoff import Backoff

STAGES = ("ingest", "worker", "actuator")
PRICES = "prices"
"""The service that pulls prices: not a stage, `leadtime up` runs it where a feeds file is set."""
TERM_S = 15.0


def die_with_parent() -> None:
    """Send SIGTERM to this stage once its supervisor has ended, however it ended: stdin is then closed."""

    def wait() -> None:
        while os.read(0, 1):  # unbuffered: a lock held by this thread would abort the interpreter's end
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


@dataclass
class StageProcess:
    """A stage's process, its log file, and the time of its next start; times are of the supervisor's clock."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    again_s: float | None = None
    restarts: int = 0

    def start(self, now_s: float) -> None:
        """Start the process; its output is appended to the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        self.started_s, self.again_s = now_s, None

    def tail(self, lines: int = 12) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Supervisor:
    """Starts stages, and restarts those that die, until stopped.

    Args:
        environment: settings for the stages (`Settings.environment`).
        folder: of logs and of `stages.json`, which has each stage's process id.
        note: called with one line of text when a stage dies.
        clock: monotonic seconds.
        module: that runs a stage by its name.
        options: of stages, by name.
    """

    environment: Mapping[str, str]
    folder: Path
    note: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    clock: Callable[[], float] = time.monotonic
    module: str = "pipeline.stages"
    options: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    stages: dict[str, StageProcess] = field(default_factory=dict[str, StageProcess])

    def start(self, names: Sequence[str] = STAGES) -> None:
        """Start the stages."""
        folders.make(self.folder, "folder of logs")
        for name in names:
            command = [sys.executable, "-m", self.module, name, *self.options.get(name, ()), "--supervised"]
            stage = StageProcess(name, command, self.environment, self.folder / f"{name}.log")
            self.stages[name] = stage
            stage.start(self.clock())
        self._write()

    def another(self, like: str, name: str) -> StageProcess:
        """Start another process of the same kind as the stage `like`, under its own name."""
        log = self.folder / f"{name}.log"
        stage = replace(self.stages[like], name=name, process=None, log=log, backoff=Backoff(), restarts=0)
        stage.start(self.clock())
        self.stages[name] = stage
        self._write()
        return stage

    def poll(self) -> None:
        """Restart stages that died, after their back-off; call it about once a second.

        Raises:
            UsageError: a stage ended with USAGE_EXIT; the text is the last line of its log.
        """
        now_s = self.clock()
        for stage in self.stages.values():
            process = stage.process
            if process is not None and process.poll() is not None:
                if process.returncode == USAGE_EXIT:
                    raise UsageError(stage.tail(1).removeprefix("leadtime: ") or f"{stage.name} cannot start")
                _forget(process)
                wait_s = stage.backoff.after(now_s - stage.started_s)
                self.note(f"{stage.name} ended ({_how(process.returncode)}); again in {wait_s:g} s")
                stage.process, stage.again_s = None, now_s + wait_s
            elif stage.again_s is not None and now_s >= stage.again_s:
                stage.restarts += 1
                stage.start(now_s)
                self._write()

    def stop(self) -> None:
        """Send SIGTERM to all stages, and SIGKILL to those that still run after TERM_S."""
        running = [stage.process for stage in self.stages.values() if stage.process is not None]
        for process in running:
            process.terminate()
        deadline = self.clock() + TERM_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - self.clock()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _forget(process)

    def _write(self) -> None:
        pids = {name: stage.process.pid for name, stage in self.stages.items() if stage.process is not None}
        (self.folder / "stages.json").write_text(json.dumps(pids))


def _forget(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
