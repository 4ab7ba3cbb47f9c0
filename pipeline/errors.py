"""The exceptions, named by what the caller does about them.

LeadtimeError                 base: its text is one clear line for people; the command line prints it and exits with 2
├── UsageError                the request cannot be served as asked (missing file, wrong policy, busy port): change it
├── Unreachable               Kafka or a registry does not answer: check the address, try again
│   ├── NotDelivered          messages that Kafka has not acknowledged: how many, and the first reason
│   └── Exhausted             this machine lacks disk or file handles: nothing is decided; make room, start again
├── Retryable                 a provider could not do it now: try again after `retry_after` seconds
│   └── Throttled             it had too many requests
├── Rejected                  a provider or an actuator will never do this: do not try again
├── Poison                    one record cannot be read: put it aside with its reason, go on with its neighbours
└── Fenced                    a successor owns this partition: end the process, publish nothing more
"""

from typing import Final

USAGE_EXIT: Final = 2
"""Exit status of a process that was asked for something impossible: starting it again cannot help."""
AGAIN_EXIT: Final = 75
"""Exit status (EX_TEMPFAIL) of a stage that did not reach a peer: starting it again can help."""


class LeadtimeError(Exception):
    """Base of all errors that we raise on purpose."""


class UsageError(LeadtimeError):
    """What was asked for cannot be done as asked."""


class Unreachable(LeadtimeError):
    """A peer does not answer."""


class NotDelivered(Unreachable):
    """Messages were handed to the producer that Kafka has not acknowledged.

    Attributes:
        failed: messages that the producer gave up.
        waiting: messages that are still in its queue.
        reason: why the first was given up, or how long those in the queue have waited.
    """

    def __init__(self, failed: int, waiting: int, reason: str) -> None:
        super().__init__(f"not published: {failed} messages failed, {waiting} wait: {reason}")
        self.failed, self.waiting, self.reason = failed, waiting, reason


class Exhausted(Unreachable):
    """This machine lacks what all targets need, such as room on its disk: end the process, and start it again."""


class Retryable(LeadtimeError):
    """Try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Throttled(Retryable):
    """The provider takes no more requests now; counted apart from other failures that pass."""


class Rejected(LeadtimeError):
    """Will never succeed: do not retry."""


class Poison(LeadtimeError):
    """One record that cannot be read; `reason` is the short code that its dead letter carries."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Fenced(LeadtimeError):
    """A successor has taken this partition over."""
