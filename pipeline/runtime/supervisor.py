"""Stages as processes of their own, restarted with back-off when they die, and never left behind."""

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

from pipeline.errors import USAGE_EXIT, UsageError
from pipeline.runtime.backoff import Backoff

STAGES = ("ingest", "worker", "actuator")
TERM_S = 15.0


def die_with_parent() -> None:
    """In a stage: end as by SIGTERM when the supervisor is gone, whatever ended it (its end of our stdin closes)."""

    def wait() -> None:
        while os.read(0, 1):  # unbuffered: a lock held by this thread would abort the interpreter's end
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


@dataclass
class StageProcess:
    """One process, its log, and when it is to be started again."""

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
        """Start it; its output goes to the end of its log."""
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
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Supervisor:
    """Runs stages until stopped.

    Args:
        environment: settings for the stages (`Settings.environment`).
        folder: of logs and of `stages.json`, which says each stage's process id.
        note: told, in one line, when a stage dies.
        clock: monotonic seconds.
        module: that runs a stage by its name.
    """

    environment: Mapping[str, str]
    folder: Path
    note: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    clock: Callable[[], float] = time.monotonic
    module: str = "pipeline.stages"
    stages: dict[str, StageProcess] = field(default_factory=dict[str, StageProcess])

    def start(self, names: Sequence[str] = STAGES) -> None:
        """Start the stages."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            command = [sys.executable, "-m", self.module, name, "--supervised"]
            stage = StageProcess(name, command, self.environment, self.folder / f"{name}.log")
            self.stages[name] = stage
            stage.start(self.clock())
        self._write()

    def another(self, like: str, name: str) -> StageProcess:
        """Start one more stage of the kind of one that there is, under a name of its own."""
        log = self.folder / f"{name}.log"
        stage = replace(self.stages[like], name=name, process=None, log=log, backoff=Backoff(), restarts=0)
        stage.start(self.clock())
        self.stages[name] = stage
        self._write()
        return stage

    def poll(self) -> None:
        """Start again what died; call it about once a second.

        Raises:
            UsageError: a stage said that it cannot run as asked; its own line.
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
        """SIGTERM to all, SIGKILL to who is still there after a while."""
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
