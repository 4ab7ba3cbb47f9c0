"""Which instances a shrink takes where a group's own choice would not do."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """An instance that a shrink may take.

    Attributes:
        name, zone: of it.
        leaves: it goes anyway: under notice, or taken back already.
        serves: it does.
        at_s: when it was launched, unix seconds; 0: nobody knows, so that it goes last, or first of the oldest.
    """

    name: str
    zone: str
    leaves: bool
    serves: bool
    at_s: float


def victims(
    candidates: Iterable[Candidate], zones: Counter[str], count: int, *, oldest: bool = False
) -> list[str]:
    """Names of the instances that go, at most `count`.

    First those that go anyway, then those that do not serve, then from the zone that has most, so that zones stay
    balanced, the youngest first (or the oldest).

    Args:
        candidates: that may go.
        zones: number of all instances by zone, also of those that may not.
        count: how many.
        oldest: whether the oldest go first.
    """
    free, left = list(candidates), Counter(zones)
    chosen: list[str] = []
    while free and len(chosen) < count:
        victim = min(
            free,
            key=lambda of: (
                not of.leaves,
                of.serves,
                -left[of.zone],
                (1 if oldest else -1) * of.at_s,
                of.name,
            ),
        )
        free.remove(victim)
        left[victim.zone] -= 1
        chosen.append(victim.name)
    return chosen
