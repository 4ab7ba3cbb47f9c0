"""What a command leaves on a set: one tag, written in one request with the capacity.

    leadtime-command   id=… epoch=… before=… desired=… original=… accepted_s=… generation=… group=…

The request is carried out only where the set is as it was read (its etag). A shrink that names its victims takes two:
its tag has `victims=yes`, and a capacity that is still `before` is one that was not written yet. Names of tags may
have no slash at Azure. A set that was made anew with another's tags has another identifier: they do not count.

A capacity that is not the tag's `desired` is ours too where Azure could not reach that, or took instances of a spot set
back and deleted them: nobody else set it.
"""

from dataclasses import replace
from typing import Final

from pipeline.providers.azure.resources import (
    FAILED,
    Described,
    capacity,
    deletes_evicted,
    provisioning,
    uid_of,
)
from pipeline.providers.marks import Mark, Memory, State, Whose, mark_from, text_of

TAG: Final = "leadtime-command"
PAUSED: Final = "leadtime-paused"
"""Tag that stops us where it is "true"."""
TARGET: Final = "leadtime-target"
"""Tag whose value is the `ref` of a set."""
VICTIMS: Final = " victims=yes"


def tags_of(scale_set: Described) -> dict[str, str]:
    """Tags of a set."""
    return {str(name): str(value) for name, value in (scale_set.get("tags") or {}).items()}


def tag(scale_set: Described, name: str) -> str:
    """The value of a tag, whose name Azure reads without regard to capital letters; empty: there is none."""
    return next((value for key, value in tags_of(scale_set).items() if key.lower() == name), "")


def tags_without(scale_set: Described, name: str) -> dict[str, str]:
    """Tags of a set but one."""
    return {key: value for key, value in tags_of(scale_set).items() if key.lower() != name}


def mark_of(scale_set: Described) -> Mark | None:
    """The mark on a set; None: none, or somebody edited it."""
    return mark_from(tag(scale_set, TAG), uid_of(scale_set))


def marked(scale_set: Described, mark: Mark, *, names_victims: bool) -> dict[str, str]:
    """Tags of a set with a mark, of a command that names its victims or does not."""
    text = text_of(mark, uid_of(scale_set)) + (VICTIMS if names_victims else "")
    return {**tags_without(scale_set, TAG), TAG: text}


def state_of(memory: Memory, scale_set: Described, clock_s: float) -> State:
    """A set's capacity, our mark on it and who set it, at a monotonic time."""
    state = memory.state(uid_of(scale_set), capacity(scale_set), mark_of(scale_set), clock_s)
    mark = state.mark
    if mark is None or state.whose is Whose.OURS:
        return state
    if state.whose is Whose.UNWRITTEN and tag(scale_set, TAG).endswith(VICTIMS):
        return state
    evicted = state.count < mark.desired and deletes_evicted(scale_set)
    if provisioning(scale_set) == FAILED or evicted:
        return replace(state, whose=Whose.OURS, command=mark.command, generation=mark.generation)
    return replace(state, whose=Whose.FOREIGN, command="", generation=mark.generation + 1)
