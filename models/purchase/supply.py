"""Supply of many counts at once, on draws of the search's own; the search compares exchanges by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer
from models.purchase.constraints import Counts
from models.purchase.market import EXACT, Fluid, Market, pool_of
from models.random_streams import stream

Float = NDArray[np.floating[Any]]
REFERENCE: Final = (
    1e-6  # price of a reserved instance, as a share of the dearest: paid already, but no more than needed
)


class Supply:
    """Supply and need of some of a market's offers as arrays, so that many counts can be compared fast.

    Supply is drawn anew, apart from `Market.alive`, so that a purchase is judged by other draws than it was chosen
    by: for an offer and scenario one normal number z gives, for every count, the rounded mean + z × deviation of the
    beta-binomial's binomial part. In a `Fluid` market supply is its expectation, not rounded.
    """

    def __init__(self, market: Market, offers: Sequence[Offer]) -> None:
        """offers: those that are compared."""
        self.market, self.offers = market, tuple(offers)
        self.size = np.array([market.size[o.offer_id] for o in offers], dtype=np.int64)
        self.ready = np.array([market.ready[o.offer_id] for o in offers], dtype=np.int64)
        price = np.array([0.0 if o.tier == "RESERVED" else o.price_h for o in offers])
        # where all prices are 0, the number of instances is minimised
        self.price = np.maximum(price, REFERENCE * price.max()) if price.any() else np.ones_like(price)
        self.fails = np.array([o.launch_failure for o in offers], dtype=np.float32)
        self.late = np.array([market.late[o.offer_id] for o in offers], dtype=bool)
        self.need = (market.need * (1 - EXACT)).astype(np.float32)
        self.whole = not isinstance(market, Fluid)
        self.survival = np.ones((len(offers), market.scenarios), np.float32)
        self.succeeds = self._succeeds()
        drawn: dict[str, Any] = {}
        for i, offer in enumerate(offers):
            if offer.tier == "SPOT":
                pool = pool_of(offer)
                if pool not in drawn:
                    drawn[pool] = market.survival(offer, "pool tried" if self.whole else "pool")
                self.survival[i] = drawn[pool]
        self.normal = np.zeros_like(self.survival)
        if self.whole:
            for i, offer in enumerate(offers):
                if offer.launch_failure > 0 or offer.tier == "SPOT":
                    draw = stream(np, *market.key, "supply tried", offer.offer_id)
                    self.normal[i] = draw.standard_normal(market.scenarios, dtype=np.float32)
        names = sorted(drawn)
        self.pools = np.zeros((len(names), len(offers)))
        for i, offer in enumerate(offers):
            if offer.tier == "SPOT":
                self.pools[names.index(pool_of(offer)), i] = self.size[i]

    def _succeeds(self) -> Float:
        """Probability that a launch does not fail, (offer, scenario)."""
        succeeds = np.repeat((1 - self.fails)[:, None], self.market.scenarios, axis=1)
        for i, offer in enumerate(self.offers):
            if offer.loss_correlation is not None:
                succeeds[i] = self.market.succeeds(offer, "launch tried")
        return succeeds

    def supply(
        self, index: Counts, counts: Counts, part: NDArray[np.intp] | None = None
    ) -> tuple[Float, Float]:
        """Replicas that serve, (count, scenario), of these offers at these counts: at once, and with new ones."""
        old = np.minimum(counts, self.ready[index])[:, None].astype(np.float32)
        new = counts[:, None].astype(np.float32) - old
        size = self.size[index].astype(np.float32)[:, None]
        if part is None:
            p, z, succeeds = self.survival[index], self.normal[index], self.succeeds[index]
        else:
            cell = index[:, None] * self.survival.shape[1] + part
            p, z, succeeds = (of.ravel()[cell] for of in (self.survival, self.normal, self.succeeds))
        every = p * (old + new * succeeds)
        if not old.any():
            # n p of n launched instances, of variance n p (1 - p)
            every = size * self._rounded(every, z, every * (1 - every / np.maximum(new, 1)), new)
            return np.zeros_like(every), every
        q = p * succeeds
        variance = old * p * (1 - p)
        every = self._rounded(every, z, variance + new * q * (1 - q), old + new)
        return size * self._rounded(old * p, z, variance, old), size * every

    def _rounded(self, mean: Float, normal: Float, variance: Float, most: Float) -> Float:
        """Whole instances, 0 to `most`: rounded mean + normal × √variance (overwritten); the mean in `Fluid`."""
        if not self.whole:
            return mean
        spread = np.sqrt(np.maximum(variance, 0, out=variance), out=variance)
        spread *= normal
        spread += mean
        np.rint(spread, out=spread)
        np.minimum(spread, most, out=spread)
        return np.maximum(spread, 0, out=spread)

    def cost(self, counts: Counts) -> float:
        """Cost per hour; a reserved instance counts REFERENCE of the dearest."""
        return float(self.price @ counts)

    def margin(self, counts: Counts) -> Float:
        """Supply less need in replicas, (group, scenario), before the loss of a pool."""
        index = np.flatnonzero(counts)
        ready, every = self.supply(index, counts[index])
        late = self.late[index].T.astype(np.float32)
        return late @ every + (1 - late) @ ready - self.need

    def lost(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Replicas that the loss of the largest pool takes, (...), for counts (..., offer)."""
        if not self.market.pool_loss or not len(self.pools):
            return np.zeros(counts.shape[:-1])
        return self.market.pool_loss * (counts @ self.pools.T).max(axis=-1)

    def unserved(self, counts: Counts) -> int:
        """Number of scenarios that these counts do not serve."""
        return int((self.margin(counts).min(axis=0) < self.lost(counts)).sum())
