"""Purchase of a reactive policy: owned reserved instances first, then on-demand instances."""

from __future__ import annotations

from collections.abc import Sequence


def reserved_first(replicas: int, offers: Sequence[tuple[int, int | None]]) -> list[int]:
    """Instances of each offer that carry a number of replicas: as many of the first as are owned, then of the next.

    Args:
        replicas: to carry.
        offers: replicas an instance carries, and the number of instances owned (None: no limit), in the order in which
            they are bought.
    """
    counts: list[int] = []
    for per_instance, owned in offers:
        whole = -(-replicas // per_instance)
        counts.append(whole if owned is None else min(whole, owned))
        replicas = max(0, replicas - counts[-1] * per_instance)
    return counts
