"""A wall clock that does not jump: for what would do lasting harm, were it said an hour too early."""

import time
from collections.abc import Callable
from dataclasses import dataclass

DRIFT_S = 1.0
"""What a daemon that disciplines the clock corrects without a step."""
SETTLED_S = 60.0
"""A jump that lasts for so long is a correction, and is followed; one that is taken back sooner never was."""


@dataclass
class Steady:
    """Unix seconds.

    Args:
        wall: unix seconds, may jump.
        monotonic: seconds that only go on.
    """

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._ahead_s = self.wall() - self.monotonic()
        self._jumped_s: float | None = None

    def __call__(self) -> float:
        """Now."""
        wall_s, now_s = self.wall(), self.monotonic()
        if abs(wall_s - now_s - self._ahead_s) <= DRIFT_S:
            self._ahead_s, self._jumped_s = wall_s - now_s, None
        elif self._jumped_s is None:
            self._jumped_s = now_s
        elif now_s - self._jumped_s >= SETTLED_S:
            self._ahead_s, self._jumped_s = wall_s - now_s, None
        return now_s + self._ahead_s
