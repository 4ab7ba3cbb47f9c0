"""Gives groups back: the count that somebody else set last, and no tag of ours."""

from collections.abc import Iterable

from pipeline.providers.aws.api import Api
from pipeline.providers.aws.marks import TAG, state_of
from pipeline.providers.aws.resources import Account, Group
from pipeline.providers.marks import Memory, Whose
from pipeline.providers.targets import give_back_each


def release(apis: dict[Account, Api], groups: Iterable[Group]) -> tuple[list[str], list[str]]:
    """Give groups back; returns what was done and what could not be, each as lines.

    A count that somebody else set since our last command stays. The count is set before the tag goes: what fails in
    between is done by the next release.
    """
    return give_back_each(groups, lambda group: _release(apis[group.account], group))


def _release(api: Api, group: Group) -> str:
    """Give one back; returns what was done.

    Raises:
        Retryable, Rejected: it could not be.
    """
    call, name = api.call(), group.place.name
    described = call.group(group.place)
    state = state_of(Memory(), described, api.clock())
    if state.mark is None:
        return "nothing of ours is on it"
    count = state.count
    if state.whose is not Whose.FOREIGN:
        least, most = int(described["MinSize"]), int(described["MaxSize"])
        count = min(max(state.mark.original, least), most)
    if count != state.count:
        call.request("SetDesiredCapacity", AutoScalingGroupName=name, DesiredCapacity=count)
    tag = {"ResourceId": name, "ResourceType": "auto-scaling-group", "Key": TAG}
    call.request("DeleteTags", Tags=[tag])
    return f"desired capacity {state.count} → {count}, no tag of ours"
