"""Cost of a plan above that of expected demand, divided into demand's risk and supply's risk.

Three least costs with the same offers:

1. expected: of the mean demand, from supply that never fails;
2. demand: of the demand at the confidence asked for, from supply that never fails;
3. purchase: of the same demand from supply that fails as the offers say, at that confidence of both together.

2 - 1 is the cost of demand's risk, 3 - 2 of supply's. `of_users` adds the least cost of the sum of every user's own
99 % quantile, which is what sizing each user alone would take; its excess over 3 is what pooling users saves, whose
peaks do not coincide. The policy's maximum and budget do not bound these costs, other than the purchase's.
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
    """Replicas, and the least cost per hour to carry them, commitments included; None = no purchase suffices."""

    replicas: int
    cost: float | None


@dataclass(frozen=True)
class Margin:
    """Levels at expected demand and at the confidence asked for, both from certain supply; and the purchase."""

    expected: Level
    demand: Level
    purchase: Level


@dataclass(frozen=True)
class Question:
    """Arguments that all these costs share.

    observed: instances by offer; steps_s: end of each step in seconds; key: seed, app and tick, which name the random
    streams; actuation_s: seconds before a command acts; confidence: asked for; excluded: why an offer is not bought
    more of, by offer.
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
        """Least cost of needed (scenario, step) replicas, and the purchase that has it.

        near: counts by offer from which the search begins; certain: no launch fails, no instance is interrupted.
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
    """The three costs of a decision.

    demand: (scenario, step, metric) in the metrics' units; needed: (scenario, step) replicas for it; metrics: names, in
    demand's order; market, choice: of the decision.
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
    """Least cost of the sum of users' own quantiles, (step, metric), from supply that fails as the offers say.

    scenarios: of the decision; as many of supply are drawn, at most SUPPLY_SCENARIOS; near: the decision's counts.
    """
    scenarios = min(scenarios, SUPPLY_SCENARIOS)
    needed = replicas(replica_loads(quantiles, metrics, question.policy), question.policy)
    return question.least(np.broadcast_to(needed, (scenarios, needed.size)), near, certain=False)[0]
