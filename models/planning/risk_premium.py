"""What a plan costs above expected demand: how much for demand's risk, how much for supply's.

Three least costs with the same offers, each of which adds one thing:

1. expected: the mean demand, from supply that never fails;
2. demand: the demand at the confidence asked, from supply that never fails;
3. the purchase: the same demand from supply as it is, at that confidence of both together.

2 - 1 is the price of demand's risk, 3 - 2 of supply's. Beside them what it would take to carry the sum of every user's
own 99 % quantile, as sizing each user alone does: their peaks do not come together, so this is what pooling saves.
The policy's maximum and budget do not bound the hypothetical ones: they say what a thing costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Observed, Offer, Policy, replica_loads, replicas
from models.purchase.choose import Choice, Purchase, choose
from models.purchase.market import SUPPLY_SCENARIOS, Market

USER_LEVEL: Final = 0.99  # each user's own quantile in the sum over users: the usual confidence of a plan


@dataclass(frozen=True)
class Level:
    """Replicas, and the least cost per hour that carries them, commitments included; None = nothing holds."""

    replicas: int
    cost: float | None


@dataclass(frozen=True)
class Margin:
    """Needed replicas at expected demand and at the confidence asked, both from certain supply, and the purchase."""

    expected: Level
    demand: Level
    purchase: Level


@dataclass(frozen=True)
class Question:
    """What all these costs share: the offers, what runs, the policy, and the draws.

    steps_s: end of each step in seconds; key: seed, app, tick; confidence: asked; excluded: as `choose` wants it.
    """

    offers: Sequence[Offer]
    observed: Mapping[str, Observed]
    policy: Policy
    steps_s: Sequence[int]
    key: tuple[int, bytes, int]
    actuation_s: float
    confidence: float
    excluded: Mapping[str, str]

    def least(
        self, needed: NDArray[np.int32], near: Mapping[str, int], *, certain: bool
    ) -> tuple[Level, Purchase]:
        """Least cost for needed (scenario, step) replicas; certain: no launch fails, no instance is interrupted.

        near: counts that the search begins from; the purchase comes with it.
        """
        if certain:
            offers = [replace(o, launch_failure=0.0, interruption_h=0.0) for o in self.offers]
            market = self._market(offers, needed)
        else:
            market = self._market(self.offers, needed)
        wanted = int(np.quantile(market.need.max(axis=0), self.confidence, method="inverted_cdf"))
        if certain and len(market.need) == 1:  # all offers serve in the same steps: only this quantile counts
            market = self._market(market.offers, np.full_like(needed[:1], wanted))
        free = replace(self.policy, budget=None, max=max(self.policy.max, wanted))
        best = choose(
            market, free, self.confidence, excluded=self.excluded, alternatives=False, near=near
        ).best
        return Level(wanted, best.cost if best.feasible else None), best

    def _market(self, offers: Sequence[Offer], needed: NDArray[np.int32]) -> Market:
        return Market(offers, self.observed, self.policy, needed, self.steps_s, self.key, self.actuation_s)


def split(
    question: Question,
    demand: NDArray[np.float32],
    needed: NDArray[np.int32],
    metrics: Sequence[str],
    market: Market,
    choice: Choice,
) -> Margin:
    """The three costs of one decision.

    demand: (scenario, step, metric); needed: (scenario, step) replicas for it; market, choice: the decision's.
    """
    best, mean = choice.best, demand.mean(axis=0, keepdims=True, dtype=np.float64)
    carried = sum(market.size[o] * n for o, n in best.counts.items())
    sure, purchase = question.least(needed, best.counts, certain=True)
    expected = replicas(replica_loads(mean, metrics, question.policy), question.policy)
    return Margin(
        question.least(expected, purchase.counts, certain=True)[0],
        sure,
        Level(carried, best.cost if best.feasible else None),
    )


def of_users(
    question: Question,
    quantiles: NDArray[np.floating[Any]],
    metrics: Sequence[str],
    scenarios: int,
    near: Mapping[str, int],
) -> Level:
    """Least cost of the sum of users' own quantiles, (step, metric), from supply as it is.

    scenarios: of the decision; so many of supply at most; near: the decision's counts.
    """
    scenarios = min(scenarios, SUPPLY_SCENARIOS)
    needed = replicas(replica_loads(quantiles, metrics, question.policy), question.policy)
    return question.least(np.broadcast_to(needed, (scenarios, needed.size)), near, certain=False)[0]
