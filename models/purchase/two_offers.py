"""Cheapest purchase of one or two offers beside the owned instances, by enumeration of their counts.

Most apps may buy a single spot offer and a single on-demand offer. Their counts form a plane, and more of either serves
more: the counts that serve enough lie beyond a staircase, which is followed step by step (each compares one point's
scenarios).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models import kernels
from models.purchase.constraints import Bounds, Counts
from models.purchase.exchange_search import Search
from models.purchase.supply import Float

FREE: Final = 2  # most offers that may be bought
# Comparisons along the staircase at most: about 10 ms. The exchange search takes as long, and for hundreds of instances
# its purchase costs the same.
MOST: Final = 2_000_000
STEP: Final = 5_000  # a step of the staircase takes at least as long as so many comparisons
BESIDE: Final = (
    4  # instances beyond those that expected supply needs, so that scenarios with less supply fit too
)
DEEPER: Final = (
    4  # the plane serves all but k / 4 scenarios: a purchase that holds too rarely is searched with fewer
)


class Few:
    """The plane of counts of at most two offers, on one search's draws.

    Args:
        search: of the offers.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        owned = np.array([offer.tier == "RESERVED" for offer in search.offers], dtype=bool)
        self._owned, self._free = np.flatnonzero(owned), np.flatnonzero(~owned)
        self._possible = (
            len(self._owned) <= 1 and 1 <= len(self._free) <= FREE and not search.market.pool_loss
        )
        self._k, self._base = -1, np.zeros(len(owned), np.int64)
        self._margin, self._first, self._second = np.zeros((3, 0, 1, 0), np.float32)

    def cheapest(self, k: int, limits: Bounds) -> Counts | None:
        """The cheapest counts (offer) within the limits that leave at most k scenarios unserved.

        None where the plane has no such counts, or would be too large.
        """
        if not self._possible or not (0 <= self._k <= k or self._drawn(k)):
            return None
        counts = np.repeat(self._base[None], len(self._first), axis=0)
        counts[:, self._free[0]] = np.arange(len(counts))
        counts = counts[: limits.upper[self._free[0]] + 1]
        least, most = self._staircase(k)[: len(counts)], np.zeros(len(counts), np.int64)
        if len(self._free) == FREE:
            most += min(len(self._second) - 1, int(limits.upper[self._free[1]]))
            least = np.maximum(least, limits.least(counts, int(self._free[1])))
            counts[:, self._free[1]] = least
        holds = np.flatnonzero((least <= most) & (limits.excess(counts) <= 0))
        if not holds.size:
            return None
        best = counts[holds[np.argmin(counts[holds] @ self.search.price)]].copy()
        for o in self._owned:  # no more owned instances than needed
            fewer = np.repeat(best[None], best[o] + 1, axis=0)
            fewer[:, o] = np.arange(best[o] + 1)
            within = np.flatnonzero(limits.excess(fewer) <= 0)
            best = next((fewer[i] for i in within if self.search.unserved(fewer[i]) <= k), best)
        return best

    def _staircase(self, k: int) -> NDArray[np.int64]:
        """Least count of the second offer, by count of the first, that leaves at most k scenarios unserved; a count
        beyond the plane where none does.
        """
        least = np.empty(len(self._first), np.int64)
        kernels.staircase(self._margin, self._first, self._second, k, least)
        return least

    def _drawn(self, k: int) -> bool:
        """Compute the plane as far as k, and later searches with fewer scenarios, may need; False: too large."""
        search, least = self.search, k // DEEPER
        base = np.zeros(len(search.offers), np.int64)
        base[self._owned] = search.limits.upper[self._owned]
        margin = search.margin(base)
        lacks = np.flatnonzero(margin.min(axis=0) < 0)  # owned instances serve the other scenarios
        margin = np.ascontiguousarray(margin[:, lacks], np.float32)
        lacking = np.sort(-margin.min(axis=0, initial=0.0))[::-1]
        most = float(lacking[least]) if least < lacking.size else 0.0
        each = [search.survival[o].mean() * (1 - search.fails[o]) * search.size[o] for o in self._free]
        tops = [int(np.ceil(most / max(float(serving), 1e-9))) + BESIDE for serving in each]
        if sum(tops) * (STEP + margin.size) > MOST:
            return False
        supplies = [self._supply(o, top, lacks) for o, top in zip(self._free.tolist(), tops, strict=True)]
        self._first, self._second = (*supplies, np.zeros((1, *margin.shape), np.float32))[:FREE]
        self._base, self._margin, self._k = base, margin, k
        return True

    def _supply(self, offer: int, top: int, scenarios: NDArray[np.intp]) -> Float:
        """Replicas that 0 to `top` instances of an offer serve, (count, group, scenario)."""
        counts = np.arange(top + 1)
        index = np.full(top + 1, offer)
        ready, every = self.search.supply(index, counts, np.tile(scenarios, (top + 1, 1)))
        return np.ascontiguousarray(
            np.where(self.search.late[offer][None, :, None], every[:, None], ready[:, None]), np.float32
        )
