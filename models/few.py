"""The cheapest purchase of few offers, looked up: all counts of one or two of them, beside what is owned.

Most apps may buy one kind of spot and one on demand. Their counts form a plane, and whether each of its points serves
a scenario is a sum of two numbers that are known for each count alone; a search by exchanges takes ten times as long.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bounds import Bounds, Counts
from models.search import Search
from models.supply import Float

FREE: Final = 2  # offers that may be bought of
MOST: Final = 6_000_000  # counts × scenarios that are compared: some 10 ms
BESIDE: Final = (
    4  # instances beyond those that expected supply asks for, so that unlucky scenarios are in the plane
)
DEEPER: Final = (
    4  # the plane reaches to a quarter of the scenarios that may be left unserved: purchases are mended
)


class Few:
    """The plane of one search's draws.

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
        self._k, self._counts = -1, np.zeros((0, len(owned)), np.int64)
        self._unserved: NDArray[np.int64] = np.zeros(0, np.int64)

    def cheapest(self, k: int, limits: Bounds) -> Counts | None:
        """The cheapest counts (offer) within the limits that leave at most k scenarios unserved.

        None where there are none in the plane, or it would be too large.
        """
        if not self._possible or not (0 <= self._k <= k or self._drawn(k)):
            return None
        holds = np.flatnonzero((self._unserved <= k) & (self._counts <= limits.upper).all(axis=1))
        holds = holds[limits.excess(self._counts[holds]) <= 0]
        if not holds.size:
            return None
        cost = self._counts[holds] @ self.search.price
        best = self._counts[holds[np.lexsort((self._unserved[holds], cost))[0]]].copy()
        for o in self._owned:  # no more of what is owned than is needed
            fewer = np.repeat(best[None], best[o] + 1, axis=0)
            fewer[:, o] = np.arange(best[o] + 1)
            within = limits.excess(fewer) <= 0
            enough = [i for i in np.flatnonzero(within) if self.search.unserved(fewer[i]) <= k]
            best = fewer[enough[0]] if enough else best
        return best

    def _drawn(self, k: int) -> bool:
        """Draw the plane as far as k, and the purchases that are mended from it, may need; False: too large."""
        search, least = self.search, k // DEEPER
        base = np.zeros(len(search.offers), np.int64)
        base[self._owned] = search.limits.upper[self._owned]
        margin = search.margin(base)
        margin = margin[:, margin.min(axis=0) < 0]  # the others are served by what is owned
        lacking = np.sort(-margin.min(axis=0, initial=0.0))[::-1]
        most = float(lacking[least]) if least < lacking.size else 0.0
        each = [search.survival[o].mean() * (1 - search.fails[o]) * search.size[o] for o in self._free]
        tops = [int(np.ceil(most / max(float(one), 1e-9))) + BESIDE for one in each]
        if np.prod([top + 1.0 for top in tops]) * max(1, margin.shape[1]) > MOST:
            return False
        lacks = np.flatnonzero(search.margin(base).min(axis=0) < 0)
        first, *second = [
            self._supply(o, top, lacks) for o, top in zip(self._free.tolist(), tops, strict=True)
        ]
        unserved: list[NDArray[np.int64]] = []
        for one in first:  # (group, scenario)
            left = (margin + one)[None]
            left = left + second[0] if second else left
            unserved.append((left < 0).any(axis=1).sum(axis=-1))
        grid = np.indices([top + 1 for top in tops]).reshape(len(tops), -1).T
        self._counts = np.repeat(base[None], len(grid), axis=0)
        self._counts[:, self._free] = grid
        self._unserved, self._k = np.concatenate(unserved), k
        return True

    def _supply(self, offer: int, top: int, scenarios: NDArray[np.intp]) -> Float:
        """Replicas that serve of 0 to `top` instances of an offer, (count, group, scenario)."""
        counts = np.arange(top + 1)
        index = np.full(top + 1, offer)
        ready, every = self.search.supply(index, counts, np.tile(scenarios, (top + 1, 1)))
        return np.where(self.search.late[offer][None, :, None], every[:, None], ready[:, None])
