"""Cheapest purchase whose uncertain supply meets the scenarios' demand with a stated confidence.

It is a count per offer, constant over the horizon, such that

    P( Σ_o r_o · alive_o(step) ≥ replicas(step), all steps of the window ) ≥ confidence,

with r_o replicas per instance and alive_o of `models.purchase.market`. The search uses its own draws of supply
(`models.purchase.exchange_search`, and `models.purchase.two_offers` for one or two offers), so that a purchase is not
judged by the draws that it was fitted to: `Market.holds` judges it, it is searched again with fewer unserved scenarios
allowed while it holds too rarely, and instances that it does not need are removed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from models.capacity import Offer, Policy, committed
from models.purchase.constraints import Bounds, Counts, bounds, zone_note, zone_of
from models.purchase.exchange_search import Search
from models.purchase.market import EXACT, Market, pool_of
from models.purchase.two_offers import Few

# Offers of each size that are searched, the cheapest per surviving replica: the least-cost purchases of the benchmark's
# first twenty instances use at most the seventh-cheapest spot offer of a size; on-demand offers differ by price alone.
PER_SIZE: Final = {"SPOT": 8, "ON_DEMAND": 2}
OFFERS_PER_GROUP: Final = 2  # beside them, of each zone and quota group, where these bind
NEAR: Final = (64,)  # the unit is need / 64 in searches that start near the cheapest purchase
FEW_ROUNDS: Final = 8  # exchanges of such a search at most: each takes 1 ms, and the first save most
MENDS: Final = (
    6  # further searches at most, each with fewer unserved scenarios allowed; usually none or one is needed
)
KEPT: Final = "; what runs is kept"
TRIM: Final = 0.002  # cheaper instances, as a share of the cost, are not tried for removal


@dataclass(frozen=True)
class Purchase:
    """Counts with what they cost per hour and the share of scenarios that they miss."""

    counts: dict[str, int]
    cost: float
    risk: float
    feasible: bool
    short: str = ""  # why it is not feasible


@dataclass(frozen=True)
class Choice:
    """The purchase chosen, alternatives (cheapest feasible first), and the least cost by confidence.

    notes: terms of the policy that were set aside, with the reason
    """

    best: Purchase
    others: tuple[Purchase, ...]
    cost_at: dict[float, float | None]
    notes: tuple[str, ...] = ()


def choose(
    market: Market,
    policy: Policy,
    confidence: float,
    levels: Sequence[float] = (),
    excluded: Mapping[str, str] | None = None,
    *,
    alternatives: bool = True,
    near: Mapping[str, int] | None = None,
) -> Choice:
    """The cheapest counts within the bounds that hold, else the counts within the bounds with the least risk.

    Reserved instances are paid already, so they are used first. A zone share that keeps a purchase from holding is set
    aside, with a note. Where the bounds allow no instance at all, the running instances are kept.

    levels: confidences for `cost_at`; excluded: offers of which no more may be bought than run, with the reason;
    alternatives: whether to search other kinds of purchase, which doubles the time; near: counts close to the
    cheapest, the only start of the search then, in a third of the time.
    """
    wanted = np.sort(market.need.max(axis=0))

    def reachable(c: float) -> bool:
        return int(wanted[-1 - allowed(market, c)]) <= policy.limit

    capped = market
    if not reachable(confidence):  # the search takes the maximum for enough
        capped = copy.copy(market)
        capped.need = np.minimum(market.need, policy.limit)
    buyer = _Buyer(capped, policy, excluded or {})
    best, notes = buyer.best(confidence, near)
    others = buyer.others(best, confidence) if alternatives else ()
    if best.feasible and others and others[0].feasible and others[0].cost < best.cost:
        best, others = others[0], (best, *others[1:])
    cost_at: dict[float, float | None] = dict.fromkeys(levels)
    least = math.inf  # what holds at a level holds at those below
    for level in sorted(levels, reverse=True):
        if reachable(level):
            same = level == confidence and capped is market
            trial = best if same else _Buyer.of(buyer, market).at(best, level)
            if best.feasible and trial.feasible and level > confidence and trial.cost < best.cost:
                best = trial
            least = min(least, trial.cost) if trial.feasible else least
            cost_at[level] = None if math.isinf(least) else least
    if capped is not market:
        short = (
            f"{wanted[-1 - allowed(market, confidence)]} replicas are needed, the maximum is {policy.limit}"
        )
        short += KEPT if best.short.endswith(KEPT) else ""
        best = replace(best, risk=1 - market.holds(best.counts), feasible=False, short=short)
    return Choice(best, others, cost_at, notes)


def allowed(market: Market, confidence: float) -> int:
    """Number of scenarios that a purchase may leave unserved at a confidence."""
    return market.scenarios - max(1, math.ceil(confidence * market.scenarios - 1e-9))


def candidates(market: Market, policy: Policy, excluded: Collection[str] = ()) -> list[Offer]:
    """Offers to search, sorted by id: those running or owned, and the cheapest per surviving replica.

    Offers that are excluded take no place of others, which are to stand in for them.
    Where a zone share or quotas apply, OFFERS_PER_GROUP of each zone and quota group are among them.
    """

    def price(o: Offer) -> tuple[float, str]:
        serving = market.size[o.offer_id] * market.mean_survival(o) * (1 - o.launch_failure)
        return o.price_h / max(serving, 1e-9), o.offer_id

    taken: dict[tuple[object, ...], int] = {}
    kept = list[Offer]()
    special = policy.zone_share is not None or any(o.quota_limit is not None for o in market.offers)
    for offer in sorted(market.offers, key=price):
        out = offer.offer_id in excluded
        size = (out, offer.tier, market.size[offer.offer_id])
        group = (out, offer.tier, *(zone_of(offer) if policy.zone_share else ()), offer.quota_group)
        if (
            offer.tier == "RESERVED"
            or market.running[offer.offer_id]
            or taken.get(size, 0) < PER_SIZE[offer.tier]
            or (special and taken.get(group, 0) < OFFERS_PER_GROUP)
        ):
            kept.append(offer)
            taken[size] = taken.get(size, 0) + 1
            taken[group] = taken.get(group, 0) + 1
    return sorted(kept, key=lambda o: o.offer_id)


class _Buyer:
    """Searches, judges and trims purchases of one market."""

    def __init__(self, market: Market, policy: Policy, excluded: Mapping[str, str]) -> None:
        self.market, self.policy, self.excluded = market, policy, excluded
        self.offers = candidates(market, policy, excluded)
        self.limits = bounds(market, self.offers, policy, excluded)
        self.search = Search(market, self.offers, self.limits)  # no draws where there are no offers
        self.few = Few(self.search)
        self.committed = committed(market.offers)
        self.runs = np.array([market.running[o.offer_id] for o in self.offers], dtype=np.int64)

    @classmethod
    def of(cls, other: _Buyer, market: Market) -> _Buyer:
        """The same offers and draws for another market that differs in its need alone (not capped)."""
        if market is other.market:
            return other
        new = copy.copy(other)
        new.market, new.search = market, copy.copy(other.search)
        new.search.market, new.search.need = market, (market.need * (1 - EXACT)).astype(np.float32)
        new.few = Few(new.search)
        return new

    def best(
        self, confidence: float, near: Mapping[str, int] | None = None
    ) -> tuple[Purchase, tuple[str, ...]]:
        """The purchase to make, and notes on terms that were set aside for it; near: counts to search from."""
        if not self.offers:
            risk = 1 - self.market.holds({})
            enough = 1 - risk >= confidence
            return Purchase({}, self.committed, risk, enough, "" if enough else "there are no offers"), ()
        note = zone_note(self.market.offers, self.policy)
        start = None if not near else np.array([near.get(o.offer_id, 0) for o in self.offers], dtype=np.int64)
        purchase, limits = self._buy(confidence, self.limits, start, far=True), self.limits
        if start is not None and not purchase.feasible:
            purchase = self._buy(confidence, self.limits)
        if not purchase.feasible and "zone share" in limits.names:
            without = limits.without("zone share")
            free = self._buy(confidence, without)
            if free.risk < purchase.risk or not any(purchase.counts.values()):
                purchase, limits = free, without
                note = note or "the zone share is set aside, or the purchase would not hold"
        if not purchase.feasible:
            purchase = self._kept(replace(purchase, short=self._short(purchase, confidence, limits)))
        return purchase, (note,) if note else ()

    def at(self, near: Purchase, confidence: float) -> Purchase:
        """A purchase that holds at another confidence, searched from the purchase `near`."""
        if not self.offers:
            return self.best(confidence)[0]
        return self._buy(confidence, self.limits, self._counts(near))

    def others(self, best: Purchase, confidence: float) -> tuple[Purchase, ...]:
        """Purchases without spot, and without the offers of the pool that carries most; cheapest feasible first."""
        carried: dict[str, int] = {}
        for offer in self.offers:
            if offer.tier == "SPOT" and best.counts.get(offer.offer_id):
                carried.setdefault(pool_of(offer), 0)
                carried[pool_of(offer)] += best.counts[offer.offer_id] * self.market.size[offer.offer_id]
        purchases = list[Purchase]()
        if carried:
            most = max(sorted(carried), key=lambda pool: carried[pool])
            spot = [o.tier == "SPOT" for o in self.offers]
            largest = [o.tier == "SPOT" and pool_of(o) == most for o in self.offers]
            for banned in (spot, largest) if largest != spot else (spot,):
                k = allowed(self.market, confidence)
                limits = replace(self.limits, upper=np.where(banned, 0, self.limits.upper))
                looked_up = self.few.cheapest(k, limits) is not None
                start = None if looked_up else self.search.bounded(limits).starts(k)[0]
                purchases.append(self._buy(confidence, limits, start))
        purchases = [
            p if p.feasible else replace(p, short="the other offers do not suffice") for p in purchases
        ]
        return tuple(sorted(purchases, key=lambda p: (not p.feasible, p.cost if p.feasible else p.risk)))

    def _counts(self, purchase: Purchase) -> Counts:
        return np.array([purchase.counts.get(o.offer_id, 0) for o in self.offers], dtype=np.int64)

    def _named(self, counts: Counts) -> dict[str, int]:
        return {o.offer_id: int(n) for o, n in zip(self.offers, counts, strict=True) if n}

    def _purchase(self, counts: Counts, confidence: float) -> Purchase:
        named = self._named(counts)
        paid = sum(
            o.price_h * int(n) for o, n in zip(self.offers, counts, strict=True) if o.tier != "RESERVED"
        )
        held = self.market.holds(named)
        return Purchase(named, self.committed + paid, 1 - held, held >= confidence)

    def _buy(
        self, confidence: float, limits: Bounds, start: Counts | None = None, *, far: bool = False
    ) -> Purchase:
        """The cheapest counts that the search finds within the limits and that hold, else those with the least risk.

        Without a start the search begins at the cheapest mix, and at the running instances. far: the start may be far
        from the cheapest, so all units are searched.
        """
        search, k = self.search.bounded(limits), allowed(self.market, confidence)
        looked_up = self.few.cheapest(k, limits)
        if looked_up is not None:
            counts = looked_up
        elif start is None:
            counts, _ = search.best(k, self.runs)
        else:
            counts, _ = search.solve(start, k) if far else search.solve(start, k, NEAR, FEW_ROUNDS)
        purchase = self._purchase(counts, confidence)
        for _ in range(MENDS):
            if purchase.feasible:
                break
            lacking = math.ceil(round((confidence - (1 - purchase.risk)) * self.market.scenarios, 6))
            # halved at most: the search counts on other draws, and k = 0 would ask for far more supply
            k = max(k // 2, min(k, search.unserved(counts)) - max(1, lacking))
            looked_up = self.few.cheapest(k, limits)
            if looked_up is not None:
                counts, enough = looked_up, True
            else:
                counts, enough = search.solve(counts, k, NEAR, FEW_ROUNDS)
            mended = self._purchase(counts, confidence)
            if mended.risk < purchase.risk:
                purchase = mended
            if not enough:
                break
        return self._trimmed(purchase, confidence, limits) if purchase.feasible else purchase

    def _trimmed(self, purchase: Purchase, confidence: float, limits: Bounds) -> Purchase:
        """The purchase without instances that `Market.holds` does not need, the dearest tried first."""
        order = np.argsort([-o.price_h for o in self.offers], kind="stable")
        for i in order:
            offer = self.offers[i]
            if offer.tier == "RESERVED" or offer.price_h < TRIM * purchase.cost:
                continue
            while purchase.counts.get(offer.offer_id):
                counts = self._counts(purchase)
                counts[i] -= 1
                if limits.excess(counts) > 0:
                    break
                less = self._purchase(counts, confidence)
                if not less.feasible:
                    break
                purchase = less
        return purchase

    def _short(self, purchase: Purchase, confidence: float, limits: Bounds) -> str:
        """Why no purchase holds: the first bound without which the search finds a feasible purchase."""
        relaxed = [(f"the {name}", limits.without(name)) for name in dict.fromkeys(limits.names)]
        if self.excluded:
            free = bounds(self.market, self.offers, self.policy).upper
            why = ", ".join(f"{o}: {text}" for o, text in sorted(self.excluded.items()))
            relaxed.append((f"not buying more of some offers now ({why})", replace(limits, upper=free)))
        names = " and the ".join(dict.fromkeys(limits.names))
        relaxed.append((f"the {names} together", limits.without(*limits.names)))
        for text, without in relaxed:
            relaxed_purchase = self._buy(confidence, without, self._counts(purchase))
            if relaxed_purchase.feasible:
                bought, needed = (
                    sum(p.counts.get(o.offer_id, 0) for o in self.offers if o.tier != "RESERVED")
                    for p in (purchase, relaxed_purchase)
                )
                if bought < needed:
                    return f"{text} drops {needed - bought} of {needed} instances"
                return f"{text} leaves a purchase that holds too rarely"
        return "the offers do not suffice in time"

    def _kept(self, purchase: Purchase) -> Purchase:
        """The running instances, up to the maximum, where the purchase is empty: an empty plan would be worse."""
        if any(purchase.counts.values()) or not self.runs.any() or not self.market.need.any():
            return purchase
        maximum = self.limits.without(*(set(self.limits.names) - {"maximum"}))
        counts = self.search.bounded(replace(maximum, upper=np.maximum(maximum.upper, self.runs))).within(
            self.runs
        )
        return replace(self._purchase(counts, 2.0), short=purchase.short + KEPT)
