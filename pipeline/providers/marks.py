"""What a command leaves on the object that it changed, whatever the provider writes it as."""

from dataclasses import dataclass


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
