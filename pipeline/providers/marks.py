"""What a command leaves on the object that it changed, whatever the provider writes it as, and in its process."""

import enum
import threading
from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import Rejected
from pipeline.providers.base import Record, Result

LATE_S: Final = 300.0
"""For how long a request without an answer can still land: clouds accept no older signature."""


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


class Whose(enum.Enum):
    """Who set the count that is in force."""

    OURS = "leadtime"
    UNWRITTEN = "unwritten"
    """It is the mark's `before`, and nobody knows that it was ever `desired`: a kill or fault came between two writes.
    The command, when it comes again, writes the count."""
    LATE = "late"
    """An earlier command of this process asked for it without an answer: that request landed after all."""
    REDUCED = "reduced"
    """The cloud lowered it by what it could not create, and does not try again."""
    FOREIGN = "unknown"


@dataclass(frozen=True)
class State:
    """An object as far as its count is concerned.

    Attributes:
        count: desired count in force.
        mark: of our last command; None: none, or not readable.
        whose: who set the count.
        command: that set it; empty where it is not ours, or not known.
        generation: grows with each change of the count, whoever makes it.
    """

    count: int
    mark: Mark | None
    whose: Whose
    command: str
    generation: int


@dataclass
class Memory:
    """What this process knows of an object that its mark may not say.

    Attributes:
        uid: of the object.
        mark: newest that was written; it may be gone, or overwritten by an older request that landed late.
        settled: command whose count was seen in force.
        unanswered: counts that were asked for without an answer, and monotonic time until which they can land, by
            command.
    """

    uid: str = ""
    mark: Mark | None = None
    settled: str = ""
    unanswered: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])

    def wrote(self, uid: str, mark: Mark) -> None:
        """Note a mark that is about to be written."""
        if uid != self.uid:
            self.uid, self.settled, self.unanswered = uid, "", {}
        self.mark = mark

    def unknown(self, mark: Mark, clock_s: float) -> None:
        """Note that nobody answered a request for a mark's count, which may still land."""
        kept = {of: late for of, late in list(self.unanswered.items()) if clock_s < late[1]}
        self.unanswered = {**kept, mark.command: (mark.desired, clock_s + LATE_S)}

    def state(self, uid: str, count: int, noted: Mark | None, clock_s: float) -> State:
        """An object's count, our mark on it and who set the count, at a monotonic time.

        Args:
            uid: of the object.
            count: desired count in force.
            noted: mark that is on it.
            clock_s: monotonic time.
        """
        known = self.mark if uid == self.uid else None
        mark = max((m for m in (noted, known) if m is not None), key=lambda m: m.epoch, default=None)
        if mark is None:
            return State(count, None, Whose.FOREIGN, "", 1)
        if count == mark.desired:
            self.settled = mark.command
            return State(count, mark, Whose.OURS, mark.command, mark.generation)
        unanswered = list(self.unanswered.items())  # another thread may add to it
        late = next(
            (of for of, (desired, until_s) in unanswered if desired == count and clock_s < until_s), ""
        )
        if late and late != mark.command:
            return State(count, mark, Whose.LATE, late, mark.generation + 1)
        if count == mark.before and mark.command != self.settled:
            return State(count, mark, Whose.UNWRITTEN, "", mark.generation - 1)
        return State(count, mark, Whose.FOREIGN, "", mark.generation + 1)


def change_of(state: State, command: Record, desired: int, now_s: float) -> Mark:
    """The mark of a command that sets the count of an object in a state to `desired`."""
    foreign = state.mark is None or state.whose is Whose.FOREIGN
    original = state.count if foreign or state.mark is None else state.mark.original
    generation = state.generation + (desired != state.count)
    return Mark(command["id"], command["epoch"], state.count, desired, original, now_s, generation)


def text_of(mark: Mark, uid: str) -> str:
    """A mark as a text of 256 characters at most, on the object with that identifier."""
    fields = {
        "id": mark.command,
        "epoch": mark.epoch,
        "before": mark.before,
        "desired": mark.desired,
        "original": mark.original,
        "accepted_s": mark.accepted_s,
        "generation": mark.generation,
        "group": uid,
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())


def mark_from(text: str, uid: str) -> Mark | None:
    """The mark that a text has; None: none, another object's, or somebody edited it."""
    try:
        fields = dict(part.split("=", 1) for part in text.split())
        if fields["group"] != uid:
            return None
        return Mark(
            fields["id"],
            int(fields["epoch"]),
            int(fields["before"]),
            int(fields["desired"]),
            int(fields["original"]),
            float(fields["accepted_s"]),
            int(fields["generation"]),
        )
    except (KeyError, ValueError):
        return None


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
