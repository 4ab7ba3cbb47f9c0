"""What a command leaves on the object that it changed, whatever the provider writes it as, and in its process."""

import threading
from dataclasses import dataclass

from pipeline.errors import Rejected
from pipeline.providers.base import Record, Result


@dataclass(frozen=True)
class Mark:
    """The last command on an object, and what it did.

    Attributes:
        command, epoch: id and epoch of the command.
        before, desired: count before it, and the one that it set.
        original: count that somebody else set last.
        accepted_s: event time of that, unix seconds.
        generation: of the count since then, at least: Kubernetes' `metadata.generation` counts other edits too.
    """

    command: str
    epoch: int
    before: int
    desired: int
    original: int
    accepted_s: float
    generation: int = 1


def result_of(mark: Mark, command: Record, generation: int, request_id: str) -> Result:
    """The result of a command that left a mark, which the provider may have granted in part."""
    return Result(
        mark.before,
        mark.desired,
        mark.accepted_s,
        generation,
        request_id=request_id,
        partial=mark.desired != command["desired"],
    )


class Epochs:
    """Newest epoch, by target, of the commands that this process began: a call that was given up lives on."""

    def __init__(self) -> None:
        self.newest: dict[str, int] = {}
        self._lock = threading.Lock()

    def enter(self, ref: str, command: Record) -> None:
        """Note a command of a target.

        Raises:
            Rejected: a newer one has overtaken it.
        """
        with self._lock:
            if command["epoch"] < self.newest.get(ref, command["epoch"]):
                raise Rejected("older-epoch")
            self.newest[ref] = command["epoch"]
