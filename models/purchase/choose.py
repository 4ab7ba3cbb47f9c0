"""What to buy: the least cost at which supply, itself uncertain, meets the scenarios' demand.

Chosen is a count per offer, constant over the horizon, such that

    P( Σ_o r_o · alive_o(step) ≥ replicas(step), all steps of the window ) ≥ confidence,

with r_o replicas per instance and alive_o as `models.purchase.market` says. Candidates are searched on draws of their
own (`models.purchase.exchange_search`, and `models.purchase.two_offers` where there are few); what is found is then
judged by `Market.holds`, mended where it holds too rarely, and trimmed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from models.capacity import Offer, Policy, committed
from models.purchase.constraints import Bounds, Counts, bounds, zone_note, zone_of
from models.purchase.exchange_search import Search
from models.purchase.market import EXACT, Market, pool_of
from models.purchase.two_offers import Few

# Cheapest offers of each size, per surviving replica, that are searched: the least costs of the benchmark's first
# twenty instances use spot offers to the seventh of a size; offers on demand differ by their price alone.
PER_SIZE: Final = {"SPOT": 8, "ON_DEMAND": 2}
OFFERS_PER_GROUP: Final = 2  # beside them, of each zone and quota group, where these bind
NEAR: Final = (64,)  # the unit, need by this, of searches from a purchase that is near
FEW_ROUNDS: Final = 8  # exchanges of such a search: it is a millisecond each, and the first save most
MENDS: Final = (
    6  # times that a purchase is mended, each by the scenarios that it lacked; one or none is usual
)
KEPT: Final = "; what runs is kept"
TRIM: Final = 0.002  # share of the cost that an instance must have for the purchase to be tried without it


@dataclass(frozen=True)
class Purchase:
    """Counts with what they cost per hour and the share of scenarios that they miss."""

    counts: dict[str, int]
    cost: float
    risk: float
    feasible: bool
    short: str = ""  # what kept it from being feasible


@dataclass(frozen=True)
class Choice:
    """The purchase chosen, the best of other kinds (cheapest feasible first), the least cost by confidence.

    notes: wishes of the policy that were set aside, with why
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
    """The cheapest counts that hold within the bounds, else those within the bounds that lack least.

    Reserved instances are paid already, so they come first. A zone share that keeps a purchase from holding is set
    aside, and noted. Where the bounds leave nothing at all, what runs is kept.

    levels: confidences for `cost_at`; excluded: offers not to be bought more of than run, with why; alternatives:
    whether others are searched, which takes as long again; near: counts to search from alone, where some are known
    that are near the cheapest: a third of the time.
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
    """Scenarios that may be left unserved."""
    return market.scenarios - max(1, math.ceil(confidence * market.scenarios - 1e-9))


def candidates(market: Market, policy: Policy) -> list[Offer]:
    """The offers that are searched, by id: what runs or is owned, and the cheapest per surviving replica.

    Of every zone, pool and quota group that the bounds speak of a few are kept.
    """

    def price(o: Offer) -> tuple[float, str]:
        serving = market.size[o.offer_id] * market.mean_survival(o) * (1 - o.launch_failure)
        return o.price_h / max(serving, 1e-9), o.offer_id

    taken: dict[tuple[object, ...], int] = {}
    kept = list[Offer]()
    special = policy.zone_share is not None or any(o.quota_limit is not None for o in market.offers)
    for offer in sorted(market.offers, key=price):
        size = (offer.tier, market.size[offer.offer_id])
        group = (offer.tier, *(zone_of(offer) if policy.zone_share else ()), offer.quota_group)
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
    """Searches, judges, mends and trims purchases of one market."""

    def __init__(self, market: Market, policy: Policy, excluded: Mapping[str, str]) -> None:
        self.market, self.policy, self.excluded = market, policy, excluded
        self.offers = candidates(market, policy)
        self.limits = bounds(market, self.offers, policy, excluded)
        self.search = Search(market, self.offers, self.limits)  # no draws where there are no offers
        self.few = Few(self.search)
        self.committed = committed(market.offers)
        self.runs = np.array([market.running[o.offer_id] for o in self.offers], dtype=np.int64)

    @classmethod
    def of(cls, other: _Buyer, market: Market) -> _Buyer:
        """The same offers and draws where the need is not capped."""
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
        """The purchase to make, and notes on what was set aside for it; near: counts to search from."""
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
        """A purchase that holds at another confidence, searched from one that is near."""
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
            every = [o.tier == "SPOT" for o in self.offers]
            one = [o.tier == "SPOT" and pool_of(o) == most for o in self.offers]
            for banned in (every, one) if one != every else (every,):
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
        """The cheapest counts found within the limits that hold, else those that lack least.

        Without a start: from the mix, or from what runs where that costs less when it is scaled to hold. far: the
        start may not be near.
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
            # by half at most: draws differ, and to serve all scenarios takes a search of its own
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
        """Less of what is not needed by the draws that judge, dearest instances first."""
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
        """Which bound keeps a purchase from holding: the first without which one is found."""
        relaxed = [(f"the {name}", limits.without(name)) for name in dict.fromkeys(limits.names)]
        if self.excluded:
            free = bounds(self.market, self.offers, self.policy).upper
            why = ", ".join(f"{o}: {text}" for o, text in sorted(self.excluded.items()))
            relaxed.append((f"not buying more of some offers now ({why})", replace(limits, upper=free)))
        names = " and the ".join(dict.fromkeys(limits.names))
        relaxed.append((f"the {names} together", limits.without(*limits.names)))
        for text, without in relaxed:
            more = self._buy(confidence, without, self._counts(purchase))
            if more.feasible:
                bought, wanted = (
                    sum(p.counts.get(o.offer_id, 0) for o in self.offers if o.tier != "RESERVED")
                    for p in (purchase, more)
                )
                if bought < wanted:
                    return f"{text} drops {wanted - bought} of {wanted} instances"
                return f"{text} leaves a purchase that holds too rarely"
        return "the offers do not suffice in time"

    def _kept(self, purchase: Purchase) -> Purchase:
        """What runs, up to the maximum, where nothing else may be bought: an empty plan would be worse."""
        if any(purchase.counts.values()) or not self.runs.any() or not self.market.need.any():
            return purchase
        maximum = self.limits.without(*(set(self.limits.names) - {"maximum"}))
        counts = self.search.bounded(replace(maximum, upper=np.maximum(maximum.upper, self.runs))).within(
            self.runs
        )
        return replace(self._purchase(counts, 2.0), short=purchase.short + KEPT)
