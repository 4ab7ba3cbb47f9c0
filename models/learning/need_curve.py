"""Replicas that an app needs at each price of a shortage, by the weights of experts: what a plan publishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.capacity import Offer, Policy
from models.learning.adjustment import ExpertWeights
from models.learning.app_learner import EXPERTS
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
