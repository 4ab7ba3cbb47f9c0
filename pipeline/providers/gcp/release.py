"""Gives groups back: the size that somebody else set last, and nothing of ours in the description."""

from collections.abc import Iterable, Mapping

from pipeline.providers.gcp.api import Api, failure_of, permission_of
from pipeline.providers.gcp.marks import state_of, with_mark
from pipeline.providers.gcp.resources import Group
from pipeline.providers.marks import Memory, Whose
from pipeline.providers.targets import give_back_each


def release(apis: Mapping[str, Api], groups: Iterable[Group]) -> tuple[list[str], list[str]]:
    """Give groups back; returns what was done and what could not be, each as lines.

    A size that somebody else set since our last command stays. The size is set before the mark goes: what fails in
    between is done by the next release.
    """
    return give_back_each(groups, lambda group: _release(apis[group.location.endpoint], group))


def _release(api: Api, group: Group) -> str:
    """Give one back; returns what was done.

    Raises:
        Retryable, Rejected: it could not be.
    """
    call, place = api.call(), group.place
    state = state_of(Memory(), call.group(place), api.clock())
    if state.mark is None:
        return "nothing of ours is on it"
    size = state.count if state.whose is Whose.FOREIGN else state.mark.original
    if size != state.count:
        operation = call.of_group(place, "resize", size=size)
        if (failure := failure_of(permission_of(place, "resize"), operation)) is not None:
            raise failure
    described = call.group(place)  # a resize may be a new fingerprint
    body = {
        "fingerprint": str(described.get("fingerprint") or ""),
        "description": with_mark(described, None),
    }
    operation = call.of_group(place, "patch", instance_group_manager_resource=body)
    if (failure := failure_of(permission_of(place, "patch"), operation)) is not None:
        raise failure
    return f"target size {state.count} → {size}, nothing of ours in its description"
