"""What goes wrong during a replay: stages killed at seeded moments or at a step, or a script of one's own."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from pipeline.demo.recorder import Watch
from pipeline.runtime.backoff import Backoff
from pipeline.runtime.supervisor import Supervisor

GIVE_UP_S = 240.0
Process = subprocess.Popen[bytes]


class Fault:
    """Nothing; what the others have in common.

    Attributes:
        over: whether all that it does is done.
        environment: more variables of the stages.
    """

    over: bool = True

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}

    def __call__(self, watch: Watch, supervisor: Supervisor) -> None:
        """Called some times a second while the run goes on."""


class Script(Fault):
    """A function in a thread of its own, begun when the first plan is there."""

    def __init__(self, act: Callable[[Supervisor], None]) -> None:
        super().__init__()
        self.act, self.over = act, False
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def __call__(self, watch: Watch, supervisor: Supervisor) -> None:
        if self.failure is not None:
            raise self.failure
        if self.thread is None and any(watch.plans.values()):
            self.thread = threading.Thread(target=self._run, args=(supervisor,), daemon=True)
            self.thread.start()

    def _run(self, supervisor: Supervisor) -> None:
        try:
            self.act(supervisor)
            self.over = True
        except BaseException as error:  # told by the run's thread
            self.failure = error


class Killer(Fault):
    """Kills a stage with SIGKILL so often, each time a seeded random time after it was started.

    Args:
        seed: of the moments.
        name: of the stage.
        kills: how often.
        within_s: the longest time that it lives.
    """

    def __init__(self, seed: int, name: str, kills: int, within_s: float) -> None:
        super().__init__()
        self.name, self.within_s, self.left = name, within_s, kills
        self.chance = random.Random(f"{seed} {name}")
        self.process: Process | None = None
        self.timer: threading.Timer | None = None

    @property
    def over(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.left == 0

    def __call__(self, _: Watch, supervisor: Supervisor) -> None:
        stage = supervisor.stages[self.name]
        if self.left and stage.process is not None and stage.process is not self.process:
            self.process = stage.process
            stage.backoff = Backoff()
            self.timer = threading.Timer(self.chance.uniform(0, self.within_s), self._kill)
            self.timer.daemon = True
            self.timer.start()

    def _kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.left -= 1


class Deaths(Fault):
    """Lets each incarnation of the worker die at a step of its protocol (`tests.faults.stage`), one after the other.

    Args:
        places: "agent step count".
    """

    def __init__(self, places: Sequence[str]) -> None:
        super().__init__()
        self.places, self.done = list(places), 0
        self.process: Process | None = None
        self.environment = {"DIE_AT": self.places[0]}

    @property
    def over(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.done == len(self.places)

    def __call__(self, _: Watch, supervisor: Supervisor) -> None:
        stage = supervisor.stages["worker"]
        if stage.process is self.process or stage.process is None:
            return
        if self.process is not None and self.process.returncode == -signal.SIGKILL:
            self.done += 1
        self.process = stage.process
        following = self.places[self.done + 1 :]
        stage.environment = {**supervisor.environment, "DIE_AT": following[0] if following else ""}
        stage.backoff = Backoff()


class Together(Fault):
    """Several faults at once."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__()
        self.faults = faults
        for fault in faults:
            self.environment |= fault.environment

    @property
    def over(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(fault.over for fault in self.faults)

    def __call__(self, watch: Watch, supervisor: Supervisor) -> None:
        for fault in self.faults:
            fault(watch, supervisor)


def killers(seed: int, kills: Mapping[str, int], within_s: Mapping[str, float]) -> Together:
    """A killer for each stage."""
    return Together(*(Killer(seed, name, count, within_s[name]) for name, count in kills.items()))


def until(condition: Callable[[], bool], what: str) -> None:
    """Return when it holds.

    Raises:
        TimeoutError: it does not for long.
    """
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)
