"""A wall clock without jumps, for timestamps that cannot be taken back, such as watermarks."""

import time
from collections.abc import Callable
from dataclasses import dataclass

DRIFT_S = 1.0
"""Difference in seconds that is followed at once: time daemons correct as much without a step."""
SETTLED_S = 60.0
"""Seconds after which a jump counts as a correction and is followed; one that is undone sooner is ignored."""


@dataclass
class Steady:
    """Callable that returns unix seconds and ignores short-lived jumps of the wall clock.

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
        """Current time in unix seconds."""
        wall_s, now_s = self.wall(), self.monotonic()
        if abs(wall_s - now_s - self._ahead_s) <= DRIFT_S:
            self._ahead_s, self._jumped_s = wall_s - now_s, None
        elif self._jumped_s is None:
            self._jumped_s = now_s
        elif now_s - self._jumped_s >= SETTLED_S:
            self._ahead_s, self._jumped_s = wall_s - now_s, None
        return now_s + self._ahead_s
