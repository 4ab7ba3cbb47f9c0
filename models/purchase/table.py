"""Purchases for numbers of replicas that a baseline decided, by the allocator's own search.

Baselines decide how many replicas an app needs; the instances that carry them are chosen by the same search, from the
same offers and with the same draws of supply, as for our plans (`models.purchase.choose`), so that only the numbers of
replicas differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy, replicas_per_instance, why_unusable
from models.metrics import horizon_steps
from models.purchase.choose import choose
from models.purchase.market import SUPPLY_SCENARIOS, Market

Count = NDArray[np.int64]


class Tiers:
    """Counts per offer for replicas, each number searched once.

    Args:
        offers: of the app; those that its policy does not allow, or that carry no replica, are not bought.
        policy: of the app; its bounds apply except minimum and maximum, which the baseline itself keeps.
        tick_s: tick length.
        seed: of the draws of supply, the same for every number.
        confidence: probability with which supply must carry the replicas over the window.
    """

    def __init__(
        self, offers: Sequence[Offer], policy: Policy, *, tick_s: int, seed: int, confidence: float
    ) -> None:
        self.offers, self.policy, self.seed, self.confidence = tuple(offers), policy, seed, confidence
        self.size = np.array([replicas_per_instance(offer, policy) for offer in offers], dtype=np.int64)
        self._steps_s = [step * tick_s for step in horizon_steps(tick_s)]
        self._known: dict[int, Count] = {}

    def counts(self, replicas: Count) -> Count:
        """Instances (..., offer) that carry numbers of replicas (...)."""
        numbers, inverse = np.unique(replicas, return_inverse=True)
        table = np.stack([self._least(int(n)) for n in numbers])
        return table[inverse].reshape(*replicas.shape, len(self.offers))

    def _least(self, replicas: int) -> Count:
        if replicas not in self._known:
            needed = np.full((SUPPLY_SCENARIOS, len(self._steps_s)), replicas, np.int32)
            policy = replace(self.policy, max=max(self.policy.max, replicas), min=0)
            usable = [offer for offer in self.offers if why_unusable(offer, policy) is None]
            market = Market(usable, {}, policy, needed, self._steps_s, (self.seed, b"tiers", 0))
            best = choose(market, policy, self.confidence, alternatives=False).best
            self._known[replicas] = np.array(
                [best.counts.get(offer.offer_id, 0) for offer in self.offers], np.int64
            )
        return self._known[replicas]


def grown_before_shrunk(desired: Count, ready: Count, size: Count, needed: Count) -> Count:
    """Desired counts (..., offer), keeping ready instances until the other ready instances carry what is needed.

    The guard rail of that name (`models.planning.guardrails`) for many fleets at once; needed: (...) replicas.
    """
    result = desired.copy()
    spare = (ready * size).sum(axis=-1) - needed
    for o in range(desired.shape[-1] - 1, -1, -1):
        surplus = np.maximum(ready[..., o] - desired[..., o], 0)
        released = np.minimum(surplus, np.maximum(spare, 0) // max(int(size[o]), 1))
        result[..., o] = np.where(surplus > 0, ready[..., o] - released, desired[..., o])
        spare = spare - released * size[o]
    return result
