"""Objects of one account as its API described them lately: a thread describes all of them every few seconds.

So an observation asks the API nothing. It is refused once the answers are older than a few polls: a list that is
throttled is not zero instances.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from pipeline.errors import Rejected, Retryable
from pipeline.logs import get_logger

POLL_S: Final = 5.0
MOST_WAIT_S: Final = 30.0
"""Pauses between two polls: while nothing fails, and at most."""
POLL_CALL_S: Final = 30.0
"""For all requests of one poll, which no call of the provider waits for."""
STALE_S: Final = 20.0
"""Age of descriptions that are not reported any more."""
FIRST_S: Final = 5.0
"""Wait for the first poll, within the actuator's 10 s."""


class Poller(ABC):
    """Objects of an account, kept up to date by a thread.

    Args:
        provider: for the log's name.
        account: in words.
        clock: monotonic seconds.

    Attributes:
        described: by name.
        heard_s: monotonic time at which the last poll began that was answered; None: none was.
        fault: why the last poll failed; None: it did not.
    """

    def __init__(self, provider: str, account: str, clock: Callable[[], float]) -> None:
        self.account, self.clock = account, clock
        self.described: dict[str, dict[str, Any]] = {}
        self.heard_s: float | None = None
        self.fault: Retryable | Rejected | None = None
        self.lock = threading.Lock()
        self._log = get_logger(f"leadtime.{provider}")
        self._noted: dict[str, tuple[float, dict[str, Any]]] = {}
        self._turn = threading.Lock()
        self._polled = threading.Event()
        self._stop = threading.Event()

    @abstractmethod
    def describe(self) -> dict[str, dict[str, Any]]:
        """All objects that there are, by name.

        Raises:
            Retryable, Rejected: they could not be described.
        """

    @abstractmethod
    def explain(self, described: dict[str, dict[str, Any]]) -> None:
        """Read what is optional, each request within `optionally`."""

    def start(self) -> None:
        """Begin to poll."""
        threading.Thread(target=self._run, name=f"poll {self.account}", daemon=True).start()

    def stop(self) -> None:
        """End it; its thread ends soon."""
        self._stop.set()

    def note(self, name: str, described: dict[str, Any]) -> None:
        """Keep an object as a command left it, until a poll that began later."""
        with self.lock:
            self._noted[name] = self.clock(), described
            self.described[name] = described

    def known(self, name: str) -> dict[str, Any] | None:
        """An object's description; None: there is no such object.

        Raises:
            Retryable, Rejected: it cannot be told.
        """
        if not self._polled.wait(FIRST_S if self.fault is None else 0.0) or self.heard_s is None:
            raise self.fault or Retryable(f"{self.account} was not described yet", 1.0)
        silent_s = self.clock() - self.heard_s
        if silent_s > STALE_S:
            why = f": {self.fault}" if self.fault is not None else ""
            raise Retryable(f"nothing was heard of {self.account} for {silent_s:.0f} s{why}", 5.0)
        with self.lock:
            return self.described.get(name)

    def poll(self) -> None:
        """Describe all objects, then read what is optional; a poll at a time.

        Raises:
            Retryable, Rejected: the objects could not be described.
        """
        with self._turn:  # what one has read of a queue, another does not find there
            began_s = self.clock()
            described = self.describe()
            with self.lock:
                self._noted = {name: noted for name, noted in self._noted.items() if noted[0] >= began_s}
                self.described = described | {name: noted for name, (_, noted) in self._noted.items()}
                self.heard_s, self.fault = began_s, None
            self._polled.set()
            self.explain(described)

    def optionally(self, request: Callable[[], object]) -> None:
        """Make a request that may fail."""
        try:
            request()
        except (Retryable, Rejected) as error:
            if not self._stop.is_set():
                self._log.warning("not read", of=self.account, error=str(error))

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                self.poll()
                wait_s = POLL_S
            except (Retryable, Rejected) as error:
                self._failed(error)
                requested_s = error.retry_after if isinstance(error, Retryable) else 0.0
                wait_s = min(max(POLL_S, 2 * wait_s, requested_s), MOST_WAIT_S)
            except Exception as error:  # a defect of ours or the library's must not end the polling
                self._failed(Retryable(f"poll of {self.account}: {error!r}", MOST_WAIT_S))
                wait_s = MOST_WAIT_S

    def _failed(self, error: Retryable | Rejected) -> None:
        if not self._stop.is_set() and str(error) != str(self.fault):
            self._log.warning("poll failed", of=self.account, error=str(error))
        self.fault = error
