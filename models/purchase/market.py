"""Uncertain supply of the offers that an app can buy: start-up times, failed launches, and spot losses in waves.

Ready instances serve at once, others from the first step whose tick starts after the offer's 99 % start-up time. A
launch fails with the offer's probability. Spot instances of a pool are lost together: in each scenario they survive
the window with a probability p ~ Beta, mean exp(-interruptions × time). So a count's supply is beta-binomial.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr

from models.capacity import Observed, Offer, Policy, replicas_per_instance
from models.purchase.promise_window import window
from models.random_streams import stream

IntArray = NDArray[np.int32]
Array = NDArray[Any]  # replicas: whole, or expected

# Correlation of losses between two instances of one pool. The provider interrupts a pool's instances when it needs the
# hardware itself, so losses come in waves. At 0.3, with 5 % interruptions an hour and a window of 10 minutes (mean
# survival 0.992), a tenth or more is lost of 20 instances in 2.9 % of the windows and of 100 in 2.5 %; with independent
# losses in 1.2 % of the windows and never.
POOL_CORRELATION: Final = 0.3
CERTAIN: Final = 0.9  # correlation from which on a pool's instances are lost all or none
EXACT: Final = 1e-6  # share of a need: sums of expected supply in float32 err by some 1e-7 of it


class Market:
    """One app's usable offers, their running instances, and the replicas needed, by scenario.

    need: (group, scenario), the largest need among the steps in which the same offers' new instances serve.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        observed: Mapping[str, Observed],
        policy: Policy,
        replicas: IntArray,
        steps_s: Sequence[float],
        key: tuple[int, bytes, int],
        actuation_s: float = 0.0,
    ) -> None:
        """replicas: (scenario, step); key: seed, app, tick."""
        self.offers = tuple(offers)
        self.window = window(offers, steps_s, actuation_s)
        self.scenarios = replicas.shape[0]
        self.size = {o.offer_id: replicas_per_instance(o, policy) for o in offers}
        self.ready = {o.offer_id: observed.get(o.offer_id, Observed()).ready for o in offers}
        self.running = {o.offer_id: observed.get(o.offer_id, Observed()).running for o in offers}
        self.key = key
        self.pool_loss = policy.pool_loss
        self._horizon_h = float(steps_s[self.window.steps.stop - 1]) / 3600
        self._survival: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._alive: dict[tuple[str, int], Array] = {}
        self._rates: dict[str, float] = {}
        self._correlation: dict[str, float] = {}
        for offer in offers:
            pool = pool_of(offer)
            self._rates[pool] = max(self._rates.get(pool, 0.0), offer.interruption_h)
            together = POOL_CORRELATION if offer.loss_correlation is None else offer.loss_correlation
            self._correlation[pool] = max(self._correlation.get(pool, 0.0), together)
        patterns, group = np.unique(self.window.late, axis=1, return_inverse=True)
        inside = replicas[:, self.window.steps]
        self.need = np.stack([inside[:, group == g].max(axis=1) for g in range(patterns.shape[1])])
        self.late = {o.offer_id: patterns[i] for i, o in enumerate(offers)}

    def mean_survival(self, offer: Offer) -> float:
        """Probability that an instance is not interrupted in the window."""
        if offer.tier != "SPOT":
            return 1.0
        return math.exp(-self._rates[pool_of(offer)] * (self._horizon_h + offer.detect_s / 3600))

    def survival(self, offer: Offer, use: str = "pool") -> NDArray[np.float64] | float:
        """Probability to survive the window by scenario, (scenario): one draw for each pool and `use`.

        Where pools of the provider lose instances together, by a Gaussian copula of its `provider_correlation` r:
        the level Φ(√r z_provider + √(1 − r) z_pool) of the same beta distribution. From CERTAIN on nothing but its
        ends is left: all or none. What lies between is rare, and few survivors of very many would be bought for it.
        """
        mean, together = self.mean_survival(offer), self._correlation[pool_of(offer)]
        if mean >= 1:
            return 1.0
        known = (use, pool_of(offer))
        if known not in self._survival:
            strength, r = 1 / together - 1, offer.provider_correlation
            a, b, draw = mean * strength, (1 - mean) * strength, stream(np, *self.key, *known)
            if r <= 0 and together < CERTAIN:
                self._survival[known] = draw.beta(a, b, size=self.scenarios)
            else:
                shared = stream(np, *self.key, use, "provider", offer.provider)
                z = [of.standard_normal(self.scenarios) for of in (shared, draw)]
                level = ndtr(math.sqrt(r) * z[0] + math.sqrt(1 - r) * z[1])
                all_or_none = together >= CERTAIN
                self._survival[known] = (level < mean) * 1.0 if all_or_none else betaincinv(a, b, level)
        return self._survival[known]

    def succeeds(self, offer: Offer, use: str = "launch") -> NDArray[np.float64] | float:
        """Probability that a launch does not fail, by scenario where its pool's instances were found to share fates.

        Beta-binomial likewise, of mean 1 − launch failure and the pool's correlation, all or none above CERTAIN.
        """
        mean, together = 1 - offer.launch_failure, offer.loss_correlation
        if together is None or mean >= 1:
            return mean
        known = (use, pool_of(offer))
        if known not in self._survival:
            draw, strength = stream(np, *self.key, *known), 1 / together - 1
            if together >= CERTAIN:
                self._survival[known] = (draw.random(self.scenarios) < mean) * 1.0
            else:
                self._survival[known] = draw.beta(mean * strength, (1 - mean) * strength, size=self.scenarios)
        return self._survival[known]

    def alive(self, offer: Offer, counts: Sequence[int]) -> Array:
        """Replicas that serve, (group, count, scenario), for each number of instances in `counts`, which rise."""
        name, ready = offer.offer_id, self.ready[offer.offer_id]
        survival, succeeds = self.survival(offer), self.succeeds(offer)
        draw = stream(np, *self.key, "supply", name)
        old = np.zeros((len(counts), self.scenarios), np.int32)
        new = np.zeros_like(old)
        now, before = np.zeros((2, self.scenarios), np.int32), 0
        for i, count in enumerate(counts):
            kept, launched = min(count, ready) - min(before, ready), max(0, count - max(before, ready))
            now[0] += draw.binomial(kept, survival, self.scenarios) if kept else 0
            now[1] += draw.binomial(launched, survival * succeeds, self.scenarios) if launched else 0
            old[i], new[i], before = now[0], now[1], count
        size = self.size[name]
        whole = np.int64(size) if size * max(counts, default=0) >= 2**31 else np.int32(size)
        return whole * np.stack([old + new if late else old for late in self.late[name]])

    def served(self, counts: Mapping[str, int]) -> Array:
        """Replicas that serve, (group, scenario); less the share `pool_loss` of the spot pool that carries most."""
        total = np.zeros(self.need.shape)
        pools: dict[str, Array] = {}
        for offer in self.offers:
            if counts.get(offer.offer_id, 0) > 0:
                key = (offer.offer_id, counts[offer.offer_id])
                if key not in self._alive:  # a search tries many counts that differ in a single offer
                    self._alive[key] = self.alive(offer, [key[1]])[:, 0]
                alive = self._alive[key]
                total += alive
                if offer.tier == "SPOT":
                    pools[pool_of(offer)] = pools.get(pool_of(offer), 0.0) + alive
        if self.pool_loss and pools:
            total -= self.pool_loss * np.max(np.stack([*pools.values()]), axis=0)
        return total

    def serves(self, counts: Mapping[str, int]) -> NDArray[np.bool_]:
        """Scenarios that these counts serve, (scenario)."""
        return np.all(self.served(counts) >= self.need * (1 - EXACT), axis=0)

    def holds(self, counts: Mapping[str, int]) -> float:
        """Share of the scenarios that these counts serve."""
        return float(self.serves(counts).mean())

    def holds_without(self, counts: Mapping[str, int], pool: str, share: float) -> float:
        """Share of the scenarios that these counts serve when each also loses this share of a pool's instances."""
        bare = copy.copy(self)
        bare.pool_loss = 0.0
        in_pool = {o.offer_id: counts.get(o.offer_id, 0) for o in self.offers if pool_of(o) == pool}
        remaining = bare.served(counts) - share * bare.served(in_pool)
        return float((remaining >= self.need * (1 - EXACT)).all(axis=0).mean())


class Fluid(Market):
    """A market whose losses are expectations: of n instances p n survive in a scenario.

    Supply is linear in the counts up to the ready instances, and beyond them, so that the least cost can be computed
    exactly (`models.purchase.milp`). Only the demand and each pool's survival p stay random.
    """

    def alive(self, offer: Offer, counts: Sequence[int]) -> Array:
        """As `Market.alive`, in expectation over the losses of single instances."""
        name, ready, survival = offer.offer_id, self.ready[offer.offer_id], self.survival(offer)
        survival = np.broadcast_to(np.asarray(survival), (1, self.scenarios))
        desired = np.asarray(counts)[:, None]
        old = np.minimum(desired, ready) * survival
        new = np.maximum(desired - ready, 0) * survival * (1 - offer.launch_failure)
        return self.size[name] * np.stack([old + new if late else old for late in self.late[name]])


def pool_of(offer: Offer) -> str:
    """Name of the pool whose instances are lost together; an offer without a pool is a pool by itself."""
    return offer.pool or offer.offer_id


# The demand is one number here, so only supply varies: 1,024 draws know a 99 % share to 0.3 % (√(0.99 · 0.01 / 1024)),
# and take a quarter of the time of the 4,096 of a decision.
SUPPLY_SCENARIOS: Final = 1024
