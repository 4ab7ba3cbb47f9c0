"""Offers as the evidence shows them to be, where it contradicts what they state.

What is stated stands until it lies outside the posterior's interval of 99 %, so that plans change where there is a
reason alone. From there on the posterior's own figure is planned with, and `Offer.learnt` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from models.capacity import Offer
from models.supply import rates, startup
from models.supply.evidence import empty, intervals, pool_name
from models.supply.rates import Tally
from models.supply.startup import Interval, Stated

LEAST: Final = 20.0  # launches, below which start-up times and failures count as stated
MOST_FAILURE: Final = 0.95


@dataclass(frozen=True)
class Closed:
    """Offers that are not bought more of now.

    Attributes:
        excluded: why, by offer.
        empty: offers of spot pools that give nothing, the cheapest of each: a single instance waits for them to return.
    """

    excluded: Mapping[str, str]
    empty: tuple[str, ...] = ()


def learnt(offers: Sequence[Offer], memory: Mapping[str, Any]) -> list[Offer]:
    """The offers with start-up times, failure and interruptions as the evidence shows them.

    Args:
        offers: as their prices state them.
        memory: of `models.supply.evidence.observe`.
    """
    if not memory:
        return list(offers)
    pools = _Pools.of(offers, memory)
    return [_learnt(offer, offers, memory, pools) for offer in offers]


@dataclass(frozen=True)
class _Pools:
    """The spot pools of an app.

    Attributes:
        tallies: what each states at most, and what was lost of it.
        provider: of each.
        log_likelihood: of all together, by `rates.CORRELATIONS`; None = no evidence.
    """

    tallies: Mapping[str, Tally]
    provider: Mapping[str, str]
    log_likelihood: Sequence[float] | None

    @classmethod
    def of(cls, offers: Sequence[Offer], memory: Mapping[str, Any]) -> Self:
        """The pools of those offers, and the evidence of all."""
        tallies: dict[str, Tally] = {}
        provider: dict[str, str] = {}
        for o in sorted((o for o in offers if o.tier == "SPOT"), key=lambda o: o.interruption_h):
            seen = memory["pools"].get(pool_name(o), {})
            tallies[pool_name(o)] = Tally(o.interruption_h, seen.get("lost", 0.0), seen.get("hours", 0.0))
            provider[pool_name(o)] = o.provider
        known = [seen["log_likelihood"] for _, seen in sorted(memory["pools"].items())]
        return cls(tallies, provider, [sum(of) for of in zip(*known, strict=True)] if known else None)

    def others(self, own: str, *, inside: bool) -> list[Tally]:
        """Tallies of the other pools of a pool's provider, or of the other providers."""
        provider = self.provider[own]
        return [
            tally
            for name, tally in sorted(self.tallies.items())
            if name != own and (self.provider[name] == provider) == inside
        ]


def _learnt(offer: Offer, offers: Sequence[Offer], memory: Mapping[str, Any], pools: _Pools) -> Offer:
    others = [o for o in offers if o.provider == offer.provider and o.offer_id != offer.offer_id]
    notes: list[str] = []
    after = _started(offer, others, memory, notes)
    after = _failing(after, others, memory, notes)
    if offer.tier == "SPOT":
        after = _interrupted(after, pools, memory, notes)
    late = memory["providers"].get(offer.provider, {}).get("late")
    if late:
        after = replace(after, detect_s=late[1] / late[0])
    return replace(after, learnt="; ".join(notes)) if notes else after


def _evidence(offer: Offer, memory: Mapping[str, Any]) -> Mapping[str, Any]:
    return memory["offers"].get(offer.offer_id, {})


def _seen(offer: Offer, memory: Mapping[str, Any]) -> list[Interval]:
    """Intervals of an offer's launches; a wait that is not longer than is stated says little, and is left out."""
    seen = intervals(_evidence(offer, memory))
    seen = [(low, high, n) for low, high, n in seen if math.isfinite(high) or low > offer.startup_p99_s]
    return seen if sum(n for _, high, n in seen if math.isfinite(high)) >= LEAST else []


def _stated(offer: Offer) -> Stated:
    return Stated(offer.startup_p50_s, offer.startup_p99_s, offer.launch_failure)


def _started(offer: Offer, others: Sequence[Offer], memory: Mapping[str, Any], notes: list[str]) -> Offer:
    """The offer with its start-up times."""
    seen = _seen(offer, memory)
    if not seen or not math.isfinite(offer.startup_p99_s):
        return offer
    launches = sum(n for _, high, n in seen if math.isfinite(high))
    known = [o for o in others if math.isfinite(o.startup_p99_s)]
    shift = startup.provider_shift([(_stated(o), _seen(o, memory)) for o in known])
    now = startup.posterior(_stated(offer), seen, shift)
    stated = (("", offer.startup_p50_s, now.p50_s, 0.5), (" at 99 %", offer.startup_p99_s, now.p99_s, 0.99))
    for at, figure_s, was_s, quantile in stated:
        low_s, high_s = now.interval(quantile, 0.99)
        if not low_s <= figure_s <= high_s:
            notes.append(f"stated {figure_s:.0f} s{at}, was {was_s:.0f} s in {launches:.0f} launches")
            return replace(offer, startup_p50_s=now.p50_s, startup_p90_s=now.p90_s, startup_p99_s=now.p99_s)
    return offer


def _failing(offer: Offer, others: Sequence[Offer], memory: Mapping[str, Any], notes: list[str]) -> Offer:
    """The offer with its launch failure; failures that a provider mends within a tick are not seen: upwards alone."""

    def tally(o: Offer) -> Tally:
        seen = _evidence(o, memory)
        return Tally(o.launch_failure, seen.get("fails", 0.0), seen.get("trials", 0.0))

    own, beside = tally(offer), [tally(o) for o in others if o.tier == offer.tier]
    if own.exposure + sum(o.exposure for o in beside) < LEAST:
        return offer
    rate = rates.failure(own, beside)
    if rate.low <= offer.launch_failure:
        return offer
    notes.append(
        f"stated {offer.launch_failure:.1%} failed launches, was {rate.mean:.1%} of {own.exposure:.0f} tries"
    )
    return replace(offer, launch_failure=min(rate.mean, MOST_FAILURE))


def _interrupted(offer: Offer, pools: _Pools, memory: Mapping[str, Any], notes: list[str]) -> Offer:
    """The offer with its pool's interruptions, upwards alone, and how they come together.

    Its pool's rate moves once the pool, or all pools together, contradict what is stated.
    """
    pool, after = pool_name(offer), offer
    own, others, elsewhere = (
        pools.tallies[pool],
        pools.others(pool, inside=True),
        pools.others(pool, inside=False),
    )
    rate = rates.interruptions(own, others, elsewhere)
    low = max(rate.low, rates.together(own, others, elsewhere).low)
    if low > own.stated and rate.mean > own.stated:
        where = f"{own.exposure:.0f} h" if rate.low > own.stated else "its own and other pools"
        notes.append(f"stated {own.stated:.3g} interruptions an hour, was {rate.mean:.3g} in {where}")
        after = replace(after, interruption_h=rate.mean)
    in_pool = rates.correlation(memory["pools"].get(pool, {}).get("log_likelihood"), pools.log_likelihood)
    between = rates.between_pools(*memory["providers"].get(offer.provider, {}).get("losses", (0, 0, 0, 0)))
    return replace(after, loss_correlation=in_pool, provider_correlation=between)


def closed(offers: Sequence[Offer], memory: Mapping[str, Any], now_s: float) -> Closed:
    """Offers of providers that are out and of spot pools that are empty; none where no other offer is left.

    Args:
        offers: usable ones.
        memory: of `models.supply.evidence.observe`.
        now_s: unix seconds.
    """
    if not memory:
        return Closed({})
    excluded: dict[str, str] = {}
    pools: dict[str, Offer] = {}
    gone = empty(offers, memory)
    for offer in sorted(offers, key=lambda o: (o.price_h, o.offer_id)):
        out = memory["providers"].get(offer.provider, {}).get("out")
        if out is not None and now_s < out["until_s"]:
            excluded[offer.offer_id] = (
                f"provider {offer.provider} has not answered for {now_s - out['since_s']:.0f} s, "
                f"tried again in {out['until_s'] - now_s:.0f} s"
            )
        elif offer.offer_id in gone:
            excluded[offer.offer_id] = (
                f"pool {offer.pool or offer.offer_id} gives nothing, one instance waits for it"
            )
            pools.setdefault(pool_name(offer), offer)
    if len(excluded) == len(offers):
        return Closed({})
    return Closed(excluded, tuple(sorted(offer.offer_id for offer in pools.values())))


def unproven(offers: Sequence[Offer], memory: Mapping[str, Any]) -> frozenset[str]:
    """Spot offers whose launches may be refused: nothing of their pools is ready, and such launches were refused.

    They were where the posterior of their failure, over all of the app's pools, lies above what the offer states.

    Args:
        offers: usable ones.
        memory: of `models.supply.evidence.observe`.
    """
    pools: Mapping[str, Any] = memory.get("pools", {})
    came, refused = (sum(pool["first"][i] for _, pool in sorted(pools.items())) for i in (0, 1))
    if not refused:
        return frozenset()
    return frozenset(
        o.offer_id
        for o in offers
        if o.tier == "SPOT"
        and not pools.get(pool_name(o), {}).get("now", 0)
        and rates.failure(Tally(o.launch_failure, refused, came + refused)).low > o.launch_failure
    )
