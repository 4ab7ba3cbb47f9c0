"""Replicas that an app needs at each price of a shortage, by the weights of experts: what a plan publishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.capacity import Offer, Policy
from models.learning.adjustment import ExpertWeights
from models.learning.app_learner import ARMS, EXPERTS, Count, experts_of
from models.learning.price_tail import PRICES
from models.planning.allocate import DecisionContext
from models.planning.sweep import AppDemand, NeedCurve, needed


def of(
    contexts: Mapping[ExpertWeights, DecisionContext], offers: Sequence[Offer], policy: Policy
) -> NeedCurve:
    """The curve at the policy's confidence, which is static's, and at PRICES.

    Arms that differ in supply alone share that of the first of them.

    Args:
        contexts: of the decision, by the weights of its experts.
        offers: of the app.
        policy: of the app.
    """
    known = {
        weights: needed(
            AppDemand(
                context.demand,
                context.metrics,
                context.steps_s,
                context.usage,
                context.saturated,
                context.past,
            ),
            offers,
            policy,
            (policy.confidence,),
            PRICES,
        )
        for weights, context in contexts.items()
    }
    return NeedCurve(
        (policy.confidence,), PRICES, {name: known[weights] for name, weights in EXPERTS.items()}
    )


def by_arm(curve: NeedCurve) -> tuple[Count, Count, tuple[int, int]]:
    """Wanted and soon (arm, price) of a curve, and both of static, as an `Observation` of the learner has them."""
    needs = [curve.arms[experts_of(arm)] for arm in ARMS.values()]
    wanted, soon = np.stack([need.wanted for need in needs]), np.stack([need.soon for need in needs])
    priced = slice(len(curve.confidences), None)
    return wanted[:, priced], soon[:, priced], (int(wanted[0, 0]), int(soon[0, 0]))
