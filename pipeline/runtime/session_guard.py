"""Ends a process that was frozen for longer than its consumer session, before it publishes anything more.

After SIGSTOP, a suspended virtual machine or swapping, heartbeats have stopped and the group has given the partitions
to other workers, yet the process would go on publishing until Kafka's next answer. Its state is fenced by then
(`pipeline.runtime.fenced_state`), its outputs are not.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.errors import Fenced
from pipeline.logs import get_logger

BEAT_S = 0.25
"""A thirtieth of a session: a machine that is merely loaded lets a thread run far oftener than once a session."""
EXIT = 3
"""Exit status of a process that ends itself because it was frozen."""
_LOG = get_logger()


@dataclass
class Pulse:
    """Detects by regular beats that the process was frozen.

    Args:
        limit_s: the session's timeout.
        clock: seconds; goes on while the process stands.
    """

    limit_s: float
    clock: Callable[[], float] = time.monotonic
    last_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.last_s = self.clock()

    def check(self) -> None:
        """Check that the session cannot have expired; called before each message that is published.

        Raises:
            Fenced: there was no beat for longer than the session lasts, now or ever before.
        """
        pause_s = self.clock() - self.last_s
        if pause_s > self.limit_s:
            raise Fenced(f"stood still for {pause_s:.1f} s, longer than its session of {self.limit_s:g} s")

    def beat(self) -> None:
        """Note that the process runs; raises as `check`."""
        self.check()
        self.last_s = self.clock()

    def start(self) -> "Pulse":
        """Start a thread that beats, and ends the process if it was frozen."""
        self.last_s = self.clock()

        def run() -> None:
            while True:
                time.sleep(BEAT_S)
                try:
                    self.beat()
                except Fenced as error:
                    _LOG.error("process ends itself", error=str(error))
                    os._exit(EXIT)

        threading.Thread(target=run, name="pulse", daemon=True).start()
        return self
