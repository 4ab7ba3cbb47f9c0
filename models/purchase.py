"""What to buy: the least cost at which supply, itself uncertain, meets the scenarios' demand.

Chosen is a count per offer, constant over the horizon, such that

    P( Σ_o r_o · alive_o(step) ≥ replicas(step), all steps of the window ) ≥ confidence,

with r_o replicas per instance. Ready instances serve at once, others from the first step whose tick starts after
the offer's 99 % start-up time. A launch fails with the offer's probability. Spot instances of a pool are lost
together: in each scenario they survive the window with a probability p ~ Beta, mean exp(-interruptions × time).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Observed, Offer, Policy, replicas_per_instance
from models.scenarios import stream

IntArray = NDArray[np.int32]

# Correlation of losses between two instances of one pool. A pool's interruptions are the owner's need for the same
# hardware: they come in waves. At 0.3, with 5 % interruptions an hour and a window of 10 minutes (mean survival
# 0.992), a tenth or more is lost of 20 instances in 2.9 % of the windows and of 100 in 2.5 %; independent losses
# would do that in 1.2 % and never.
POOL_CORRELATION: Final = 0.3
SPOT_COUNTS: Final = 24  # spot counts tried per offer: all to 24, above that evenly spaced, at most 4 % apart
OFFERS_PER_TIER: Final = 3  # cheapest per replica that are searched; 3 × 3 pairs take some 20 ms
UNREACHABLE: Final = 2**30  # a count that no purchase reaches
MIN_HORIZON_S: Final = 300.0  # RECORDS, "Steps and horizon"


@dataclass(frozen=True)
class Window:
    """Steps that the promise covers, and which offers' new instances serve in them.

    steps: slice of the forecast steps; late: (offer, step in window) true where a new instance serves
    """

    steps: slice
    late: NDArray[np.bool_]


def window(offers: Sequence[Offer], steps_s: Sequence[float], actuation_s: float = 0.0) -> Window:
    """From the first step that an offer can reach, to max(300 s, slowest start + actuation + one tick).

    steps_s: end of each step, seconds from now; the first is one tick. The window has at least one step; in its last
    one all offers serve, or a plan could not wait for the slow ones.
    """
    end_s = np.asarray(steps_s, dtype=float)
    start_s = end_s - end_s[0]
    lead_s = np.array([o.startup_p99_s + actuation_s for o in offers])
    horizon_s = max(MIN_HORIZON_S, lead_s.max(initial=0.0) + end_s[0])
    last = min(int(np.searchsorted(end_s, horizon_s)), end_s.size - 1)
    late = start_s[: last + 1] >= lead_s[:, None]
    late[:, last] = True
    first = int(late.any(axis=0).argmax())
    return Window(slice(first, last + 1), late[:, first:])


class Market:
    """One app's usable offers, what runs of them, and the replicas needed, by scenario.

    need: (group, scenario), the largest need among the steps in which the same offers' new instances serve.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        observed: Mapping[str, Observed],
        policy: Policy,
        replicas: IntArray,
        steps_s: Sequence[float],
        key: tuple[int, bytes, int],
        actuation_s: float = 0.0,
    ) -> None:
        """replicas: (scenario, step); key: seed, app, tick."""
        self.offers = tuple(offers)
        self.window = window(offers, steps_s, actuation_s)
        self.scenarios = replicas.shape[0]
        self.size = {o.offer_id: replicas_per_instance(o, policy) for o in offers}
        self.ready = {o.offer_id: observed.get(o.offer_id, Observed()).ready for o in offers}
        self.running = {o.offer_id: observed.get(o.offer_id, Observed()).running for o in offers}
        self._key = key
        self._horizon_h = float(steps_s[self.window.steps.stop - 1]) / 3600
        patterns, group = np.unique(self.window.late, axis=1, return_inverse=True)
        inside = replicas[:, self.window.steps]
        self.need = np.stack([inside[:, group == g].max(axis=1) for g in range(patterns.shape[1])])
        self.late = {o.offer_id: patterns[i] for i, o in enumerate(offers)}

    def _survival(self, offer: Offer) -> NDArray[np.float64] | float:
        """Probability, by scenario, that an instance is not interrupted in the window."""
        pool = offer.pool or offer.offer_id
        rate = max((o.interruption_h for o in self.offers if (o.pool or o.offer_id) == pool), default=0.0)
        if offer.tier != "SPOT" or rate <= 0:
            return 1.0
        mean, strength = math.exp(-rate * self._horizon_h), 1 / POOL_CORRELATION - 1
        draw = stream(np, *self._key, "pool", pool)
        return draw.beta(mean * strength, (1 - mean) * strength, size=self.scenarios)

    def alive(self, offer: Offer, counts: Sequence[int]) -> IntArray:
        """Replicas that serve, (group, count, scenario), when so many instances are asked for, counts rising."""
        name, ready = offer.offer_id, self.ready[offer.offer_id]
        survival = self._survival(offer)
        draw = stream(np, *self._key, "supply", name)
        old = np.zeros((len(counts), self.scenarios), np.int32)
        new = np.zeros_like(old)
        now, asked = np.zeros((2, self.scenarios), np.int32), 0
        for i, count in enumerate(counts):
            kept, launched = min(count, ready) - min(asked, ready), max(0, count - max(asked, ready))
            now[0] += draw.binomial(kept, survival, self.scenarios) if kept else 0
            now[1] += (
                draw.binomial(launched, survival * (1 - offer.launch_failure), self.scenarios)
                if launched
                else 0
            )
            old[i], new[i], asked = now[0], now[1], count
        return self.size[name] * np.stack([old + new if late else old for late in self.late[name]])

    def holds(self, counts: Mapping[str, int]) -> float:
        """Share of the scenarios that these counts serve."""
        served = np.zeros_like(self.need)
        for offer in self.offers:
            if counts.get(offer.offer_id, 0) > 0:
                served += self.alive(offer, [counts[offer.offer_id]])[:, 0]
        return float((served >= self.need).all(axis=0).mean())

    def needed(self, offer: Offer, lacking: IntArray) -> tuple[IntArray, IntArray]:
        """Instances to ask for, so that this uninterrupted offer fills what is lacking, (count, scenario).

        The second answer is UNREACHABLE where too little of it is ready for a step before a new one serves; the
        first leaves such steps out.

        lacking: (group, count, scenario) replicas.
        """
        name = offer.offer_id
        late, size, ready = self.late[name], self.size[name], self.ready[name]
        serving = np.maximum(-(-lacking[late].max(axis=0) // size), 0)
        asked = serving + self._failures(offer, np.maximum(serving - ready, 0))
        if late.all():
            return asked, asked
        before = np.maximum(-(-lacking[~late].max(axis=0) // size), 0)
        return asked, np.maximum(asked, np.where(before > ready, UNREACHABLE, before))

    def _failures(self, offer: Offer, launches: IntArray) -> IntArray:
        """Launches that fail before so many succeed: negative binomial, by one uniform number per scenario.

        The quantile function at the same number rises with the launches. The probability of e failures is
        C(y + e - 1, e) fᵉ (1 - f)ʸ.
        """
        failed = np.zeros_like(launches)
        if offer.launch_failure <= 0 or not launches.any():
            return failed
        uniform = stream(np, *self._key, "launch", offer.offer_id).random(self.scenarios)
        y = np.arange(int(launches.max()) + 1)
        mass = (1 - offer.launch_failure) ** y.astype(float)
        upto, e = mass.copy(), 0
        while upto[-1] < uniform.max() and e < UNREACHABLE:
            failed += uniform > upto[launches]
            mass = mass * (y + e) / (e + 1) * offer.launch_failure
            e += 1
            upto += mass
        return failed


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
    """The purchase chosen, the best of other kinds (cheapest feasible first), the least cost by confidence."""

    best: Purchase
    others: tuple[Purchase, ...]
    cost_at: dict[float, float | None]


def choose(
    market: Market,
    policy: Policy,
    confidence: float,
    levels: Sequence[float] = (),
    excluded: Mapping[str, str] | None = None,
) -> Choice:
    """Search pairs of a spot and an on-demand offer beside the reserved ones, and the counts of each.

    For each spot count the on-demand count is the smallest that holds: a quantile, over the scenarios, of the
    count that each would need. Reserved instances are paid already: as many as the highest level needs, first.
    Minimum on-demand share, maximum and budget bound the counts; where nothing is feasible, the counts within the
    bounds that serve most scenarios are chosen.

    levels: confidences for `cost_at`; excluded: offers not to be bought more of than run, with why.
    """
    kept = {o: market.running[o] if o in (excluded or {}) else UNREACHABLE for o in market.size}
    ranks = {c: max(1, math.ceil(c * market.scenarios - 1e-9)) - 1 for c in (confidence, *levels)}
    base, lacking = _reserved(market, policy, max(ranks.values()), kept)
    stable = sum(market.size[o] * n for o, n in base.items())
    committed = sum(o.price_h * o.owned_count for o in market.offers if o.tier == "RESERVED")
    found: list[Purchase] = []
    cost_at: dict[float, float | None] = dict.fromkeys(levels)
    for spot in (None, *_cheapest(market, "SPOT")):
        tried = [0] if spot is None else _spot_counts(market, policy, spot, lacking, ranks[confidence])
        left = lacking[:, None]
        if spot is not None:
            tried = [n for n in tried if n <= kept[spot.offer_id]] or [0]
            left = left - market.alive(spot, tried)
        for on_demand in (None, *_cheapest(market, "ON_DEMAND")):
            pair = _Pair(market, policy, spot, on_demand, np.array(tried), left, stable, committed)
            if on_demand is not None:
                pair.most = np.minimum(pair.most, kept[on_demand.offer_id])
            found.append(pair.best(base, ranks[confidence], confidence))
            for level in levels:
                cost = pair.least_cost(ranks[level])
                known = cost_at[level]
                if cost is not None and (known is None or cost < known):
                    cost_at[level] = cost
    found.sort(
        key=lambda p: (not p.feasible, p.cost if p.feasible else p.risk, -market_size(market, p), p.cost)
    )
    best, wanted = found[0], np.sort(market.need.max(axis=0))
    if wanted[ranks[confidence]] > policy.limit:
        short = f"{wanted[ranks[confidence]]} replicas are needed, the maximum is {policy.limit}"
        best = replace(best, risk=1 - market.holds(best.counts), feasible=False, short=short)
    cost_at = {c: cost if wanted[ranks[c]] <= policy.limit else None for c, cost in cost_at.items()}
    return Choice(best, tuple(found[1:]), cost_at)


def market_size(market: Market, purchase: Purchase) -> int:
    """Replicas that a purchase carries."""
    return sum(market.size[o] * n for o, n in purchase.counts.items())


def _reserved(
    market: Market, policy: Policy, rank: int, kept: Mapping[str, int]
) -> tuple[dict[str, int], IntArray]:
    """Reserved instances used, and the replicas still lacking, (group, scenario)."""
    lacking, counts, room = np.minimum(market.need, policy.limit), dict[str, int](), policy.limit
    for offer in market.offers:
        if offer.tier == "RESERVED":
            wanted = int(np.sort(market.needed(offer, lacking[:, None])[0][0])[rank])
            count = max(
                0, min(offer.owned_count, kept[offer.offer_id], wanted, room // market.size[offer.offer_id])
            )
            if count:
                counts[offer.offer_id] = count
            room -= count * market.size[offer.offer_id]
            lacking = lacking - market.alive(offer, [count])[:, 0]
    return counts, lacking


def _cheapest(market: Market, tier: str) -> list[Offer]:
    """The offers of a tier that are cheapest per replica."""
    offers = [o for o in market.offers if o.tier == tier]
    return sorted(offers, key=lambda o: (o.price_h / market.size[o.offer_id], o.offer_id))[:OFFERS_PER_TIER]


def _spot_counts(market: Market, policy: Policy, spot: Offer, lacking: IntArray, rank: int) -> list[int]:
    """Counts to try, rising: up to twice what would do if nothing were lost, and what runs."""
    size = market.size[spot.offer_id]
    alone = int(np.sort(lacking.max(axis=0))[rank])
    most = min(max(1, -(-2 * alone // size)), max(1, policy.limit // size))
    ready = market.ready[spot.offer_id]
    counts = {*np.linspace(1, most, min(most, SPOT_COUNTS)).round().astype(int).tolist()}
    return sorted(counts | ({ready} if 0 < ready <= most else set[int]()))


class _Pair:
    """All spot counts of one pair of offers, and for each the on-demand counts that the scenarios need."""

    def __init__(
        self,
        market: Market,
        policy: Policy,
        spot: Offer | None,
        on_demand: Offer | None,
        tried: NDArray[np.int_],
        left: IntArray,
        stable: int,
        committed: float,
    ) -> None:
        """left: (group, count, scenario) replicas lacking beside reserved and spot; stable: reserved replicas."""
        self.market, self.spot, self.on_demand, self.tried = market, spot, on_demand, tried
        if on_demand is None:
            self.need = np.where(left.max(axis=0) > 0, UNREACHABLE, 0)
            self.wanted = np.zeros_like(self.need)
        else:
            self.wanted, self.need = market.needed(on_demand, left)
        one = self.wanted is self.need
        self.need = np.sort(self.need, axis=1)
        self.wanted = self.need if one else np.sort(self.wanted, axis=1)
        spot_replicas = tried * (market.size[spot.offer_id] if spot else 0)
        self.spot_cost = committed + tried * (spot.price_h if spot else 0.0)
        self.price = on_demand.price_h if on_demand else 0.0
        size = market.size[on_demand.offer_id] if on_demand else 1
        share = policy.min_on_demand
        # stable + m size ≥ share (stable + m size + spot)
        self.least = (
            np.maximum(0, np.ceil((spot_replicas * share / (1 - share) - stable) / size)) if share < 1 else 0
        )
        self.least = np.broadcast_to(np.asarray(self.least, dtype=int), tried.shape)
        room = (policy.limit - stable - spot_replicas) // size
        budget = math.inf if policy.budget is None else policy.budget
        with np.errstate(divide="ignore", invalid="ignore"):
            paid = np.floor((budget - self.spot_cost + 1e-9) / self.price)
        affordable = np.where(self.spot_cost > budget, -1, UNREACHABLE if self.price <= 0 else paid)
        self.most = np.minimum(room, np.minimum(affordable, 0 if on_demand is None else UNREACHABLE)).astype(
            int
        )
        self.by_budget = affordable < room

    def _counts(self, rank: int) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
        """On-demand counts wanted at a rank of the scenarios, and whether they may be bought and do hold."""
        counts = np.maximum(self.wanted[:, rank], self.least)
        return counts, (counts <= self.most) & (self.need[:, rank] <= counts)

    def least_cost(self, rank: int) -> float | None:
        """Cost of the cheapest counts that hold at a rank, None where none do."""
        counts, holds = self._counts(rank)
        costs = (self.spot_cost + counts * self.price)[holds]
        return float(costs.min()) if costs.size else None

    def best(self, base: Mapping[str, int], rank: int, confidence: float) -> Purchase:
        """The cheapest counts that hold at a rank, else those within the bounds that hold most often."""
        counts, holds = self._counts(rank)
        if holds.any():
            i = int(np.where(holds, self.spot_cost + counts * self.price, np.inf).argmin())
            return self._purchase(base, i, int(counts[i]), feasible=True)
        bounded = np.maximum(np.minimum(counts, self.most), 0)
        allowed = (bounded <= self.most) & (bounded >= self.least)
        if not allowed.any():
            return Purchase({**base}, float(self.spot_cost.min()), 1.0, False, "the bounds leave nothing")
        held = (self.need <= bounded[:, None]).mean(axis=1)
        sizes = self.tried * (self.market.size[self.spot.offer_id] if self.spot else 0)
        sizes = sizes + bounded * (self.market.size[self.on_demand.offer_id] if self.on_demand else 0)
        i = int(np.lexsort((-sizes, -np.where(allowed, held, -1.0)))[0])
        cut = int(counts[i] - bounded[i])
        if self.on_demand is None or cut <= 0:
            short = "the offers do not suffice in time"
        else:
            short = f"the {'budget' if self.by_budget[i] else 'maximum'} drops {cut} of {counts[i]} instances"
        return self._purchase(base, i, int(bounded[i]), feasible=False, short=short)

    def _purchase(
        self, base: Mapping[str, int], i: int, count: int, *, feasible: bool, short: str = ""
    ) -> Purchase:
        counts = {**base}
        if self.spot is not None:
            counts[self.spot.offer_id] = int(self.tried[i])
        if self.on_demand is not None and count:
            counts[self.on_demand.offer_id] = count
        risk = 1 - float((self.need[i] <= count).mean())
        return Purchase(counts, float(self.spot_cost[i] + count * self.price), risk, feasible, short)
