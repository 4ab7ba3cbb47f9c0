"""Replicas that an app needs at each price of a shortage, for each arm: what a plan publishes for the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.capacity import Offer, Policy
from models.learning.app_learner import ARMS
from models.learning.price_tail import PRICES
from models.planning.allocate import DecisionContext
from models.planning.sweep import AppDemand, NeedCurve, needed


def of(contexts: Mapping[float, DecisionContext], offers: Sequence[Offer], policy: Policy) -> NeedCurve:
    """The curve at the policy's confidence, which is static's, and at PRICES.

    Args:
        contexts: of the decision, by the arms' weight of the same time: they differ in their demand alone.
        offers: of the app.
        policy: of the app.
    """
    known = {
        weight: needed(
            AppDemand(context.demand, context.metrics, context.steps_s, context.usage, context.saturated),
            offers,
            policy,
            (policy.confidence,),
            PRICES,
        )
        for weight, context in contexts.items()
    }
    return NeedCurve((policy.confidence,), PRICES, {name: known[arm.same_time] for name, arm in ARMS.items()})
