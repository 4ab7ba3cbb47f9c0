"""Baseline of `models.purchase.choose`: pairs of a spot and an on-demand offer beside the reserved instances.

For each spot count the on-demand count is the smallest that holds: a quantile, over the scenarios, of the count that
each would need. It ignores quotas, zones and excluded offers, and mixes no pools. `leadtime bench allocator` compares
the search with it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, committed
from models.purchase.choose import Purchase, allowed
from models.purchase.market import EXACT, Array, Fluid, IntArray, Market
from models.random_streams import stream

SPOT_COUNTS: Final = (
    24  # spot counts tried per offer: all up to 24, beyond that evenly spaced, at most 4 % apart
)
OFFERS_PER_TIER: Final = 3  # cheapest per replica that are searched; 3 × 3 pairs take some 20 ms
UNREACHABLE: Final = 2**30  # a count that no purchase reaches


def cheapest_pair(market: Market, confidence: float) -> Purchase:
    """The cheapest pair that holds; an infeasible purchase of reserved instances alone where none does."""
    rank = market.scenarios - 1 - allowed(market, confidence)
    base, lacking = _reserved(market, rank)
    paid = committed(market.offers)
    best = Purchase(base, paid, 1.0, feasible=False, short="no pair holds")
    for spot in (None, *_cheapest(market, "SPOT")):
        tried = [0] if spot is None else _spot_counts(market, spot, lacking, rank)
        left = lacking[:, None]
        if spot is not None:
            left = left - market.alive(spot, tried)
        for stable in (None, *_cheapest(market, "ON_DEMAND")):
            need = needed(market, stable, left) if stable else _unfilled(left)
            counts = np.sort(need, axis=1)[:, rank]
            cost = paid + (spot.price_h if spot else 0.0) * np.array(tried)
            cost = np.where(counts < UNREACHABLE, cost + (stable.price_h if stable else 0.0) * counts, np.inf)
            i = int(cost.argmin())
            if np.isfinite(cost[i]) and not (best.feasible and cost[i] >= best.cost):
                bought = [(spot, tried[i]), (stable, int(counts[i]))]
                named = base | {offer.offer_id: n for offer, n in bought if offer and n}
                risk = 1 - float((need[i] <= counts[i]).mean())
                best = Purchase(named, float(cost[i]), risk, feasible=True)
    return best


def _unfilled(lacking: Array) -> IntArray:
    return np.where(lacking.max(axis=0) > EXACT, UNREACHABLE, 0).astype(np.int32)


def needed(market: Market, offer: Offer, lacking: Array) -> IntArray:
    """Instances of an uninterrupted offer to request, so that it serves the lacking replicas, (count, scenario).

    UNREACHABLE where too little of it is ready for a step before a new one serves.

    lacking: (group, count, scenario) replicas.
    """
    name = offer.offer_id
    late, size, ready = market.late[name], market.size[name], market.ready[name]
    serving = lacking[late].max(axis=0) / size
    if isinstance(market, Fluid):
        launched = ready + (serving - ready) / (1 - offer.launch_failure)
        desired = _whole(np.where(serving > ready, launched, serving))
    else:
        desired = _whole(serving)
        desired = desired + _failures(market, offer, np.maximum(desired - ready, 0))
    if late.all():
        return desired
    before = _whole(lacking[~late].max(axis=0) / size)
    return np.maximum(desired, np.where(before > ready, UNREACHABLE, before)).astype(np.int32)


def _whole(counts: NDArray[Any]) -> IntArray:
    return np.maximum(np.ceil(counts - EXACT), 0).astype(np.int32)


def _failures(market: Market, offer: Offer, launches: IntArray) -> IntArray:
    """Launches that fail before `launches` succeed: negative binomial, by one uniform number per scenario.

    The quantile function at the same number rises with the launches. The probability of e failures is
    C(y + e - 1, e) fᵉ (1 - f)ʸ.
    """
    failed = np.zeros_like(launches)
    if offer.launch_failure <= 0 or not launches.any():
        return failed
    uniform = stream(np, *market.key, "launch", offer.offer_id).random(market.scenarios)
    y = np.arange(int(launches.max()) + 1)
    mass = (1 - offer.launch_failure) ** y.astype(float)
    upto, e = mass.copy(), 0
    while upto[-1] < uniform.max() and e < UNREACHABLE:
        failed += uniform > upto[launches]
        mass = mass * (y + e) / (e + 1) * offer.launch_failure
        e += 1
        upto += mass
    return failed


def _reserved(market: Market, rank: int) -> tuple[dict[str, int], Array]:
    """Reserved instances used, and the replicas still lacking, (group, scenario)."""
    lacking, counts = market.need.astype(float), dict[str, int]()
    for offer in market.offers:
        if offer.tier == "RESERVED":
            late = lacking[market.late[offer.offer_id]][:, None]
            needed_count = int(np.sort(_whole(late.max(axis=0)[0] / market.size[offer.offer_id]))[rank])
            count = min(offer.owned_count, needed_count)
            if count:
                counts[offer.offer_id] = count
                lacking = lacking - market.alive(offer, [count])[:, 0]
    return counts, lacking


def _cheapest(market: Market, tier: str) -> list[Offer]:
    """The OFFERS_PER_TIER offers of a tier that are cheapest per replica."""
    offers = [o for o in market.offers if o.tier == tier]
    return sorted(offers, key=lambda o: (o.price_h / market.size[o.offer_id], o.offer_id))[:OFFERS_PER_TIER]


def _spot_counts(market: Market, spot: Offer, lacking: Array, rank: int) -> list[int]:
    """Counts to try, rising: up to twice the count that suffices without losses, and the number running."""
    size, ready = market.size[spot.offer_id], market.ready[spot.offer_id]
    alone = float(np.sort(lacking.max(axis=0))[rank])
    most = max(1, math.ceil(2 * alone / size))
    counts = {*np.linspace(1, most, min(most, SPOT_COUNTS)).round().astype(int).tolist()}
    return sorted(counts | ({ready} if 0 < ready <= most else set[int]()))
