"""What a command leaves on a group: one tag, since nothing says that several are written at once.

    leadtime.dev/command   id=… epoch=… before=… desired=… original=… accepted_s=… generation=… group=…

The API sets no count on condition that it is still as it was read, so the tag is written first and the count second.
A group that was made anew with another's tags has another identifier: they do not count.
"""

from typing import Final

from pipeline.providers.aws.resources import Described, uid_of
from pipeline.providers.marks import Mark, Memory, State, mark_from

TAG: Final = "leadtime.dev/command"
PAUSED: Final = "leadtime.dev/paused"
"""Tag that stops us where it is "true"."""


def state_of(memory: Memory, group: Described, clock_s: float) -> State:
    """A group's count, our mark on it and who set the count, at a monotonic time."""
    return memory.state(uid_of(group), int(group["DesiredCapacity"]), mark_of(group), clock_s)


def tags_of(group: Described) -> dict[str, str]:
    """Tags of a group."""
    return {str(tag.get("Key")): str(tag.get("Value", "")) for tag in group.get("Tags") or ()}


def mark_of(group: Described) -> Mark | None:
    """The mark on a group; None: none, or somebody edited it."""
    return mark_from(tags_of(group).get(TAG, ""), uid_of(group))
