"""Replicas that an app's scenarios need at each setting of a backtest's sweep: confidences and shortage prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy, floor_demand, replica_loads, replicas, replicas_per_instance
from models.planning.allocate import promised
from models.planning.past_need import PastNeed
from models.planning.shortage_price import confidences

BAND: Final = (0.025, 0.5, 0.975)
"""Quantiles of the replicas that demand fills in the promise's first step: the 95 % interval and the median."""


@dataclass(frozen=True)
class AppDemand:
    """Demand of an app, forecast and measured, at the end of a tick.

    Attributes:
        scenarios: (scenario, step, metric) demand in the metrics' units.
        metrics: names, in the order of the scenarios.
        steps_s: end of each step, seconds from now.
        usage, saturated: (metric) usage of the tick, and the part of it that saturated users have; NaN = not measured.
        past: an expert whose replicas at each price are averaged with the scenarios'; None: the scenarios' alone.
    """

    scenarios: NDArray[np.float32]
    metrics: Sequence[str]
    steps_s: Sequence[int]
    usage: NDArray[np.float64]
    saturated: NDArray[np.float64]
    past: PastNeed | None = None


@dataclass(frozen=True)
class SweepNeed:
    """Needed replicas by setting, confidences first, then shortage prices.

    Attributes:
        wanted: (setting) over the promise's steps: the replicas to buy.
        soon: (setting) over the steps before, in which nothing bought now can serve: ready replicas are not released
            below this number (`models.planning.guardrails`, `grow_before_shrink`).
        band: (BAND) quantiles of the replicas that demand fills in the promise's first step, not rounded.
    """

    wanted: NDArray[np.int64]
    soon: NDArray[np.int64]
    band: NDArray[np.float64]


@dataclass(frozen=True)
class NeedCurve:
    """Needed replicas by setting and arm; the field `curve` of the record `plans`.

    Attributes:
        confidences: the first settings of every arm, shares of the scenarios.
        prices: its other settings, price of an hour of shortage in units of a replica's price per hour.
        arms: by the name of an arm; only `wanted` and `soon` are published.
    """

    confidences: Sequence[float]
    prices: Sequence[float]
    arms: Mapping[str, SweepNeed]


def needed(
    demand: AppDemand,
    offers: Sequence[Offer],
    policy: Policy,
    levels: Sequence[float],
    shortages: Sequence[float],
) -> SweepNeed:
    """Replicas for each setting's share of the scenarios and for the present usage, at most the policy's limit.

    Args:
        demand: of the app.
        offers: their start-up times give the promise's steps; instances of commitments that have not ended are owned.
        policy: of the app; its confidence is replaced by each setting's.
        levels: confidences, above 0 and at most 1.
        shortages: price of an hour of shortage in units of a replica's price per hour; each gives a confidence.
    """
    window, _ = promised(offers, policy, demand.steps_s, demand.metrics)
    filled = replica_loads(demand.scenarios, demand.metrics, policy)
    whole = replicas(filled, policy)
    spans = (window, slice(0, max(1, window.start)))
    rising = [np.sort(whole[:, span].max(axis=1)) for span in spans]
    owned = sum(int(replicas_per_instance(offer, policy)) * offer.owned_count for offer in offers)
    priced = confidences(rising[0], owned, shortages)
    rank = np.ceil(np.asarray([*levels, *priced]) * len(whole) - 1e-9).astype(int) - 1
    floor: Any = replicas(
        replica_loads(floor_demand(demand.usage, demand.saturated), demand.metrics, policy), policy
    )
    needs = [need[np.maximum(rank, 0)].astype(np.int64) for need in rising]
    if demand.past is not None:
        priced_from = len(levels)
        for need, expert in zip(needs, demand.past.at(owned, shortages), strict=True):
            need[priced_from:] = demand.past.averaged(need[priced_from:], expert)
    wanted, soon = (np.clip(need, floor, policy.limit) for need in needs)
    return SweepNeed(wanted, soon, np.quantile(filled[:, window.start].max(axis=-1), BAND))
