"""Bounds in time of requests to a provider's API, and what is common to how their failures are mapped."""

import errno
import math
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final

from pipeline.errors import Retryable

CONNECT_S: Final = 2.0
READ_S: Final = 5.0
"""Longest silence within an answer."""
CALL_S: Final = 8.0
"""For all requests of one call of a provider: the actuator gives it up after 10 s."""
WAIT_S: Final = 5.0
"""Pause after a failure whose answer names none."""
LONG_WAIT_S: Final = 30.0
"""Pause after what somebody has to mend: credentials, certificates."""
OF_THE_MACHINE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""Errors of no single target: the disk is full or read-only, or there are no more file handles."""


def one_line(error: Exception) -> str:
    """An exception as one line."""
    text = str(getattr(error, "reason", None) or error) or type(error).__name__
    return " ".join(text.split())


class Turns:
    """One call of a target at a time: one that was given up ends by its own deadline."""

    def __init__(self, refs: Iterable[str]) -> None:
        self._locks = {ref: threading.Lock() for ref in refs}

    @contextmanager
    def turn(self, ref: str, place: object) -> Generator[None]:
        """The turn of a target; place: what it is, for words.

        Raises:
            Retryable: an earlier call takes longer.
        """
        lock = self._locks[ref]
        if not lock.acquire(timeout=CALL_S):
            raise Retryable(f"an earlier request for {place} has not ended yet", 1.0)
        try:
            yield
        finally:
            lock.release()


class Lately:
    """What was checked of a target within the last seconds, and need not be checked again."""

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self._checked_s: dict[str, float] = {}

    def check(self, ref: str, clock: Callable[[], float], check: Callable[[], None]) -> None:
        """Check a target unless it was found good lately; clock: monotonic seconds."""
        if clock() >= self._checked_s.get(ref, -math.inf) + self.within_s:
            check()
            self._checked_s[ref] = clock()
