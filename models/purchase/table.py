"""What is bought for a number of replicas that something else has decided: the allocator's own purchase, by number.

Rivals decide how many replicas an app needs; which instances carry them is bought for them by the same search, from
the same offers, with the same draws of supply, as for us (`models.purchase.choose`). What differs is then the
forecast alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy, replicas_per_instance
from models.metrics import horizon_steps
from models.purchase.choose import choose
from models.purchase.market import SUPPLY_SCENARIOS, Market

Count = NDArray[np.int64]


class Tiers:
    """Counts per offer for replicas, each number searched once.

    Args:
        offers: that can be bought.
        policy: of the app; its bounds hold, but for the maximum, which is the rival's own.
        tick_s: tick length.
        seed: of the draws of supply, the same for every number.
        confidence: with which supply must carry the replicas over the window.
    """

    def __init__(
        self, offers: Sequence[Offer], policy: Policy, *, tick_s: int, seed: int, confidence: float
    ) -> None:
        self.offers, self.policy, self.seed, self.confidence = tuple(offers), policy, seed, confidence
        self.size = np.array([replicas_per_instance(offer, policy) for offer in offers], dtype=np.int64)
        self._steps_s = [step * tick_s for step in horizon_steps(tick_s)]
        self._known: dict[int, Count] = {}

    def counts(self, replicas: Count) -> Count:
        """Instances (..., offer) for replicas (...)."""
        numbers, inverse = np.unique(replicas, return_inverse=True)
        table = np.stack([self._least(int(n)) for n in numbers])
        return table[inverse].reshape(*replicas.shape, len(self.offers))

    def _least(self, replicas: int) -> Count:
        if replicas not in self._known:
            needed = np.full((SUPPLY_SCENARIOS, len(self._steps_s)), replicas, np.int32)
            policy = replace(self.policy, max=max(self.policy.max, replicas), min=0)
            market = Market(self.offers, {}, policy, needed, self._steps_s, (self.seed, b"tiers", 0))
            best = choose(market, policy, self.confidence, alternatives=False).best
            self._known[replicas] = np.array(
                [best.counts.get(offer.offer_id, 0) for offer in self.offers], np.int64
            )
        return self._known[replicas]


def grown_before_shrunk(desired: Count, ready: Count, size: Count, needed: Count) -> Count:
    """Desired counts (..., offer) with ready instances kept until the others that are ready carry what is needed.

    As the guard rail of that name (`models.planning.guardrails`), for many fleets at once; needed: (...) replicas.
    """
    result = desired.copy()
    spare = (ready * size).sum(axis=-1) - needed
    for o in range(desired.shape[-1] - 1, -1, -1):
        surplus = np.maximum(ready[..., o] - desired[..., o], 0)
        released = np.minimum(surplus, np.maximum(spare, 0) // max(int(size[o]), 1))
        result[..., o] = np.where(surplus > 0, ready[..., o] - released, desired[..., o])
        spare = spare - released * size[o]
    return result
