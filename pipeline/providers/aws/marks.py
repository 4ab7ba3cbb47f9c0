"""What a command leaves on a group: one tag, since nothing says that several are written at once.

    leadtime.dev/command   id=… epoch=… before=… desired=… original=… accepted_s=… generation=… group=…

The API sets no count on condition that it is still as it was read, so the tag is written first and the count second,
and a count that is not the tag's `desired` is one of these:

- `UNWRITTEN`: it is `before`, and nobody knows that it was ever `desired`: a kill or fault came between the two writes.
  The command, when it comes again, writes the count.
- `LATE`: it is what an earlier command of this process asked for without an answer: that request landed after all.
- `FOREIGN`: somebody else set it.

A group that was made anew with another's tags has another identifier: they do not count.
"""

import enum
from dataclasses import dataclass, field
from typing import Final

from pipeline.providers.aws.resources import Described, uid_of
from pipeline.providers.marks import Mark

LATE_S: Final = 300.0
"""For how long AWS accepts a request after it was signed."""
TAG: Final = "leadtime.dev/command"
PAUSED: Final = "leadtime.dev/paused"
"""Tag that stops us where it is "true"."""


class Whose(enum.Enum):
    """Who set the count that is in force."""

    OURS = "leadtime"
    UNWRITTEN = "unwritten"
    LATE = "late"
    FOREIGN = "unknown"


@dataclass(frozen=True)
class State:
    """A group as far as its count is concerned.

    Attributes:
        count: desired capacity in force.
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
    """What this process knows of a group that its tag may not say.

    Attributes:
        uid: of the group.
        mark: newest that was written; its tag may be gone, or overwritten by an older request that landed late.
        settled: command whose count was seen in force.
        unanswered: counts that were asked for without an answer, and monotonic time until which they can land, by
            command.
    """

    uid: str = ""
    mark: Mark | None = None
    settled: str = ""
    unanswered: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])

    def wrote(self, uid: str, mark: Mark) -> None:
        """Note a tag that is about to be written."""
        if uid != self.uid:
            self.uid, self.settled, self.unanswered = uid, "", {}
        self.mark = mark

    def unknown(self, mark: Mark, clock_s: float) -> None:
        """Note that nobody answered a request for a mark's count, which may still land."""
        kept = {of: late for of, late in list(self.unanswered.items()) if clock_s < late[1]}
        self.unanswered = {**kept, mark.command: (mark.desired, clock_s + LATE_S)}

    def state(self, group: Described, clock_s: float) -> State:
        """A group's count, our mark on it and who set the count, at a monotonic time."""
        count, mark = int(group["DesiredCapacity"]), self._mark(group)
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

    def _mark(self, group: Described) -> Mark | None:
        noted = mark_of(group)
        known = self.mark if uid_of(group) == self.uid else None
        return max((m for m in (noted, known) if m is not None), key=lambda m: m.epoch, default=None)


def tag_of(mark: Mark, uid: str) -> str:
    """A mark as the value of a tag, of 256 characters at most, on the group with that identifier."""
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


def tags_of(group: Described) -> dict[str, str]:
    """Tags of a group."""
    return {str(tag.get("Key")): str(tag.get("Value", "")) for tag in group.get("Tags") or ()}


def mark_of(group: Described) -> Mark | None:
    """The mark on a group; None: none, or somebody edited it."""
    try:
        fields = dict(part.split("=", 1) for part in tags_of(group)[TAG].split())
        if fields["group"] != uid_of(group):
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
