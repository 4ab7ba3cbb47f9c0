"""What observations have shown of an app's offers, their pools and providers: counts, as plain JSON.

The counts know no prior: `models.supply.offers` sets them beside what the offers state. Old evidence fades, by half in
HALF_LIFE_S; of launches the last REMEMBERED are kept.

A loss is a fall below the ready instances that are still wanted, or a report of interrupted ones. One whose successor
is ready by the tick's end is not seen, so rates are learnt upwards alone.

A provider is out while commands for its offers have no answer, or are not taken yet, and none of them was accepted
since: two attempts in a row, or one after an outage that is not over. No more of its offers is bought for the policy's
return wait, twice as long after each further attempt, MOST_WAIT_S at most; then it is tried again.

A spot pool is empty while none of its instances is ready and launches fail, in two observations in a row at least. The
first launches in a pool of which nothing is ready come, or are refused: that is counted too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from models.capacity import Offer
from models.supply import rates
from models.supply.startup import Interval

VERSION: Final = 1
HALF_LIFE_S: Final = 14 * 86_400.0
REMEMBERED: Final = 200  # launches of an offer
ATTEMPTS: Final = 2  # without an answer, from which on a provider is out
MOST_WAIT_S: Final = 3_600.0
EMPTY: Final = 2  # observations with failed launches and nothing ready, from which on a pool is empty


@dataclass(frozen=True)
class Sighting:
    """What an observation shows of an offer, and what became of its commands.

    Attributes:
        at_s: event time of the observation, unix seconds; delay_s: by which it is older than the start of the plan's
            tick.
        ready, failed, interrupted: instances.
        goal: instances that are wanted.
        came, waits: of launches that are ready since, and of those that are waited for or were given up.
        refused: whether a launch was refused or granted in part since the observation before; stuck: whether
            launches do not come.
        attempts: commands in a row without an answer, 0: the newest is accepted or its answer is still to come.
        issued_s: event time of the newest command; accepted: whether it was accepted.
    """

    at_s: float
    ready: int
    goal: int
    delay_s: float = 0.0
    failed: int = 0
    interrupted: int = 0
    came: Sequence[Interval] = ()
    waits: Sequence[Interval] = ()
    refused: bool = False
    stuck: bool = False
    attempts: int = 0
    issued_s: float = 0.0
    accepted: bool = False


@dataclass
class _Tick:
    """What a tick shows of a pool."""

    hours: float = 0.0
    ready: int = 0
    lost: int = 0
    now: int = 0
    stuck: bool = False
    offers: list[str] = field(default_factory=list[str])


def pool_name(offer: Offer) -> str:
    """Name of an offer's pool, with the provider's; an offer without a pool is a pool of its own."""
    return f"{offer.provider}/{offer.pool or offer.offer_id}"


def observe(
    memory: Mapping[str, Any],
    offers: Sequence[Offer],
    sightings: Mapping[str, Sighting],
    now_s: float,
    wait_s: float,
) -> dict[str, Any]:
    """The evidence after a tick.

    Args:
        memory: as returned the tick before, {} at first.
        offers: of the app, as they are taken to be.
        sightings: by offer; offers without one are left as they are.
        now_s: unix seconds.
        wait_s: after which a provider that is out is tried again.
    """
    known = memory if memory.get("version") == VERSION else {}
    of_offers: dict[str, Any] = dict(known.get("offers", {}))
    of_pools: dict[str, Any] = dict(known.get("pools", {}))
    ticks: dict[str, dict[str, _Tick]] = {}
    for offer in sorted(offers, key=lambda o: o.offer_id):
        seen = sightings.get(offer.offer_id)
        if seen is None:
            continue
        before = of_offers.get(offer.offer_id, {})
        if seen.at_s > before.get("at_s", -math.inf):
            tick = ticks.setdefault(offer.provider, {}).setdefault(pool_name(offer), _Tick())
            _note_losses(tick, before, seen)
            tick.offers.append(offer.offer_id)
            of_offers[offer.offer_id] = _launches(before, seen, spot=offer.tier == "SPOT")
    by_id = {offer.offer_id: offer for offer in offers}
    of_providers: dict[str, Any] = dict(known.get("providers", {}))
    for provider, pools in ticks.items():
        for name, tick in pools.items():
            rate = max(by_id[o].interruption_h for o in tick.offers)
            of_pools[name] = _losses(of_pools.get(name, {}), tick, rate)
        of_providers[provider] = _together(of_providers.get(provider, {}), pools)
    for provider in sorted({o.provider for o in offers}):
        of = [sightings[o.offer_id] for o in offers if o.provider == provider and o.offer_id in sightings]
        lately = [seen.delay_s for seen in of if seen.delay_s > 0]
        after = _answers(of_providers.get(provider, {}), of, now_s, wait_s)
        if lately:
            after["late"] = [after.get("late", [0, 0.0])[0] + 1, after.get("late", [0, 0.0])[1] + max(lately)]
        if after:
            of_providers[provider] = after
    if not (of_offers or of_providers):
        return {}
    return {"version": VERSION, "offers": of_offers, "pools": of_pools, "providers": of_providers}


def _faded(span_s: float) -> float:
    return 0.5 ** (max(span_s, 0.0) / HALF_LIFE_S)


def _note_losses(tick: _Tick, before: Mapping[str, Any], seen: Sighting) -> None:
    """Add an offer's part to what the tick shows of its pool."""
    tick.now += seen.ready
    tick.stuck = tick.stuck or seen.failed > 0 or seen.stuck
    if "at_s" not in before:
        return
    kept = min(int(before["ready"]), seen.goal)
    tick.ready += kept
    tick.lost += min(kept, max(0, kept - seen.ready, seen.interrupted - before["interrupted"]))
    if kept:
        tick.hours = max(tick.hours, (seen.at_s - before["at_s"]) / 3600)


def _launches(before: Mapping[str, Any], seen: Sighting, *, spot: bool) -> dict[str, Any]:
    """An offer's evidence of launches after an observation.

    What a spot pool with nothing ready refuses says that it is empty, not how launches fail in one that gives some; and
    launches that waited while its pool failed some waited for its capacity, which says nothing of start-up times.
    """
    failed_s = before.get("failed_s", -math.inf) if spot else -math.inf
    starts = [(a, b, n) for a, b, n in seen.came if before.get("at_s", seen.at_s) - a >= failed_s]
    failed_s = seen.at_s if spot and seen.failed else failed_s
    waits = [(a, b, n) for a, b, n in seen.waits if seen.at_s - a >= failed_s]
    faded = _faded(seen.at_s - before.get("at_s", seen.at_s))
    came = sum(n for _, _, n in seen.came)
    failed = max(0, seen.failed - before.get("failed", 0))
    trials, fails = (before.get(name, 0.0) * faded for name in ("trials", "fails"))
    if came + failed and (seen.ready or not spot):
        trials, fails = trials + 1, fails + failed / (came + failed)
    if seen.refused and (seen.ready or not spot):
        trials, fails = trials + 1, fails + 1
    return {
        "at_s": seen.at_s,
        "ready": seen.ready,
        "failed": seen.failed,
        "interrupted": seen.interrupted,
        "trials": trials,
        "fails": fails,
        "starts": _newest([*before.get("starts", ()), *([a, _finite(b), n] for a, b, n in starts)]),
        "waits": [[a, _finite(b), n] for a, b, n in waits],
        **({"failed_s": failed_s} if math.isfinite(failed_s) else {}),
    }


def empty(offers: Sequence[Offer], memory: Mapping[str, Any]) -> set[str]:
    """Spot offers whose pools give nothing.

    Args:
        offers: of the app.
        memory: of `observe`.
    """
    pools = memory.get("pools", {})
    return {
        o.offer_id
        for o in offers
        if o.tier == "SPOT" and pools.get(pool_name(o), {}).get("empty", 0) >= EMPTY
    }


def _finite(bound: float) -> float | None:
    return None if math.isinf(bound) else bound


def _newest(starts: list[list[Any]]) -> list[list[Any]]:
    """The last entries of REMEMBERED launches."""
    total = 0.0
    for i in range(len(starts) - 1, -1, -1):
        total += starts[i][2]
        if total > REMEMBERED:
            return starts[i + 1 :] or starts[-1:]
    return starts


def intervals(evidence: Mapping[str, Any]) -> list[Interval]:
    """Intervals of an offer's launches, those that are waited for included; one entry for each interval."""
    counts: dict[tuple[float, float], float] = {}
    for low, high, number in (*evidence.get("starts", ()), *evidence.get("waits", ())):
        key = float(low), math.inf if high is None else float(high)
        counts[key] = counts.get(key, 0.0) + number
    return [(low, high, number) for (low, high), number in counts.items()]


def _losses(before: Mapping[str, Any], tick: _Tick, rate_h: float) -> dict[str, Any]:
    """A pool's evidence after a tick; rate_h: interruptions per hour as they are taken to be."""
    faded = _faded(3600 * tick.hours)
    likelihood: Iterable[float] = before.get("log_likelihood", [0.0] * len(rates.CORRELATIONS))
    if tick.ready > 1 and tick.hours:
        share = min(max(-math.expm1(-rate_h * tick.hours), 1e-4), 0.5)
        added = rates.log_likelihoods(tick.lost, tick.ready, share)
        likelihood = [faded * a + float(b) for a, b in zip(likelihood, added, strict=True)]
    lost = tick.lost / tick.ready if tick.ready else 0.0
    empty = 0 if tick.now else before.get("empty", 0) + tick.stuck
    tried = before.get("now") == 0 == before["empty"]
    first = (tried and tick.now > 0, tried and empty > 0)
    return {
        "now": tick.now,
        "first": [faded * n + new for n, new in zip(before.get("first", (0.0, 0.0)), first, strict=True)],
        "hours": before.get("hours", 0.0) * faded + (tick.hours if tick.ready else 0.0),
        "lost": before.get("lost", 0.0) * faded + lost,
        "log_likelihood": list(likelihood),
        "empty": empty,
    }


def _together(before: Mapping[str, Any], pools: Mapping[str, _Tick]) -> dict[str, Any]:
    """A provider's evidence of losses that come together, after a tick."""
    exposed = sum(tick.ready > 0 for tick in pools.values())
    hits = sum(tick.lost > 0 for tick in pools.values())
    added = (hits, exposed, hits * (hits - 1) / 2, exposed * (exposed - 1) / 2)
    span_s = 3600 * max((tick.hours for tick in pools.values()), default=0.0)
    counts = [_faded(span_s) * a + b for a, b in zip(before.get("losses", [0.0] * 4), added, strict=True)]
    return {**before, "losses": counts}


def _answers(
    before: Mapping[str, Any], of: Sequence[Sighting], now_s: float, wait_s: float
) -> dict[str, Any]:
    """A provider's evidence after the answers to its commands: an outage that begins, goes on or ends."""
    after = dict(before)
    failing = [seen for seen in of if seen.attempts]
    last_s = max((seen.issued_s for seen in failing), default=-math.inf)
    answered = any(seen.accepted and seen.issued_s >= last_s for seen in of if not seen.attempts)
    out = dict(before.get("out", {}))
    if out and answered and max(seen.issued_s for seen in of if seen.accepted) > out["tried_s"]:
        after["outages"] = before.get("outages", 0) + 1
        after["out_s"] = before.get("out_s", 0.0) + out["tried_s"] - out["since_s"]
        del after["out"]
    elif out and last_s > out["tried_s"]:
        tries = out["tries"] + 1
        until_s = now_s + min(wait_s * 2.0 ** (tries - 1), max(wait_s, MOST_WAIT_S))
        after["out"] = out | {"tried_s": last_s, "tries": tries, "until_s": until_s}
    elif not out and sum(seen.attempts for seen in failing) >= ATTEMPTS and not answered:
        since_s = min(seen.issued_s for seen in failing)
        after["out"] = {"since_s": since_s, "tried_s": last_s, "tries": 1, "until_s": now_s + wait_s}
    return after
