"""Gives targets back: the count that somebody else set last, and no mark of ours."""

from collections.abc import Iterable

from pipeline.errors import Rejected
from pipeline.providers.kubernetes.api import Api
from pipeline.providers.kubernetes.marks import MANAGER, NO_MARK, state_of
from pipeline.providers.kubernetes.resources import Resource
from pipeline.providers.targets import give_back_each


def release(api: Api, resources: Iterable[Resource]) -> tuple[list[str], list[str]]:
    """Give targets back, each in one patch; returns what was done and what could not be, each as lines.

    A count that somebody else set since our last command stays. Of a target that is written through `scale` nothing
    says what it was before us.
    """
    return give_back_each(resources, lambda resource: _release(api, resource))


def _release(api: Api, resource: Resource) -> str:
    """Give one back; returns what was done.

    Raises:
        Retryable, Rejected: it could not be, or a newer command came meanwhile.
    """
    call, field = api.call(), resource.kind.count
    obj = call.get(resource.place)
    state = state_of(resource, obj)
    if state.mark is None:
        return "nothing of ours is on it"
    if resource.by_scale:
        raise Rejected(
            f"set {field} of {resource.place} yourself: with through = scale nobody knows what it was"
        )
    count = state.mark.original if state.ours else state.count
    body = {
        "metadata": {"resourceVersion": obj["metadata"]["resourceVersion"], "annotations": NO_MARK},
        "spec": {field: count},
    }
    call.patch(resource.place, body, manager=MANAGER)
    return f"{field} {state.count} → {count}, no annotations of ours"
