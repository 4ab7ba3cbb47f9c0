"""What a command leaves on a group: a part of its description, behind what somebody else wrote there.

    … [leadtime.dev/command id=… epoch=… before=… desired=… original=… accepted_s=… generation=… group=…]

Managed instance groups have no labels, and labels for all their instances would touch each of them with every command.
The description is written on condition of the fingerprint that was read; `resize` takes no condition, so the mark is
written first and the size second. A group that was made anew with another's description has another id: it does not
count.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from pipeline.providers.gcp.resources import Described, size_of, uid_of
from pipeline.providers.marks import Mark, Memory, State, Whose, mark_from, text_of

COMMAND: Final = re.compile(r"\s*\[leadtime\.dev/command ([^\]]*)\]")
PAUSED: Final = "[leadtime.dev/paused]"
"""Text in a group's description that stops us."""
TARGET: Final = re.compile(r"\[leadtime\.dev/target ([^\]\s]+)\]")
"""Text in a group's description that names its `app/offer`."""


def state_of(memory: Memory, group: Described, clock_s: float, errors: Iterable[Described] = ()) -> State:
    """A group's size, our mark on it and who set the size, at a monotonic time; errors: of its instances."""
    state = memory.state(uid_of(group), size_of(group), mark_of(group), clock_s)
    mark = state.mark
    if (
        mark is not None
        and state.whose is Whose.FOREIGN
        and state.count + _lost(errors, mark) == mark.desired
    ):
        return replace(state, whose=Whose.REDUCED)
    return state


def _lost(errors: Iterable[Described], mark: Mark) -> int:
    """Instances that were tried once since a command, and that the group then did without."""
    names: set[str] = set()
    for error in errors:
        details = error.get("instanceActionDetails") or {}
        if details.get("action") == "CREATING_WITHOUT_RETRIES" and seconds(error) >= mark.accepted_s:
            names.add(str(details.get("instance")))
    return len(names)


def seconds(error: Described) -> float:
    """When an error occurred, unix seconds; 0: it does not say."""
    try:
        return datetime.fromisoformat(str(error.get("timestamp"))).timestamp()
    except ValueError:
        return 0.0


def mark_of(group: Described) -> Mark | None:
    """The mark on a group; None: none, or somebody edited it."""
    there = COMMAND.search(str(group.get("description") or ""))
    return mark_from(there[1], uid_of(group)) if there else None


def with_mark(group: Described, mark: Mark | None) -> str:
    """A group's description with a mark, or without one."""
    theirs = COMMAND.sub("", str(group.get("description") or ""))
    ours = f"[leadtime.dev/command {text_of(mark, uid_of(group))}]" if mark is not None else ""
    return " ".join(part for part in (theirs, ours) if part)
