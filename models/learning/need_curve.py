"""Replicas that an app needs at each price of a shortage, for each arm: what a plan publishes for the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.capacity import Offer, Policy
from models.learning.price_tail import PRICES
from models.planning.allocate import DecisionContext
from models.planning.sweep import AppDemand, NeedCurve, needed


def of(contexts: Mapping[str, DecisionContext], offers: Sequence[Offer], policy: Policy) -> NeedCurve:
    """The curve at PRICES.

    Args:
        contexts: of the decision, by arm: they differ in their demand alone.
        offers: of the app.
        policy: of the app.
    """
    known = {
        id(context): needed(
            AppDemand(context.demand, context.metrics, context.steps_s, context.usage, context.saturated),
            offers,
            policy,
            (),
            PRICES,
        )
        for context in {id(context): context for context in contexts.values()}.values()
    }
    return NeedCurve((), PRICES, {arm: known[id(context)] for arm, context in contexts.items()})
