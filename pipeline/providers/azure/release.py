"""Gives sets back: the capacity that somebody else set last, and no tag of ours."""

from collections.abc import Iterable, Mapping

from pipeline.providers.azure.api import Api
from pipeline.providers.azure.marks import TAG, state_of, tags_without
from pipeline.providers.azure.resources import Account, ScaleSet
from pipeline.providers.marks import Memory, Whose
from pipeline.providers.targets import give_back_each


def release(apis: Mapping[Account, Api], scale_sets: Iterable[ScaleSet]) -> tuple[list[str], list[str]]:
    """Give sets back; returns what was done and what could not be, each as lines.

    A capacity that somebody else set since our last command stays. Both are written in one request, where the set is
    as it was read.
    """
    return give_back_each(scale_sets, lambda target: _release(apis[target.account], target))


def _release(api: Api, target: ScaleSet) -> str:
    """Give one back; returns what was done.

    Raises:
        Retryable, Rejected: it could not be.
    """
    call, path = api.call(), target.place.path
    described = call.scale_set(target.place)
    state = state_of(Memory(), described, api.clock())
    if state.mark is None:
        return "nothing of ours is on it"
    count = state.count if state.whose is Whose.FOREIGN else state.mark.original
    sku = {} if count == state.count else {"sku": {"capacity": count}}
    body = {**sku, "tags": tags_without(described, TAG)}
    call.request("PATCH", path, body=body, etag=str(described["etag"]))
    return f"capacity {state.count} → {count}, no tag of ours"
