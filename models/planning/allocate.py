"""From scenarios of demand to a plan: need, purchase, guard rails, and the record of the decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import (
    Observed,
    Offer,
    Policy,
    committed,
    floor_demand,
    governed,
    load,
    quotas,
    replicas,
    replicas_per_instance,
    why_unusable,
)
from models.demand.reconciliation import PROMISED
from models.demand.scenarios import required
from models.planning.failing_offers import failing
from models.planning.guardrails import Fleet, Telemetry, guard
from models.planning.promotion import Promotion, decided, judge
from models.planning.risk_premium import Level, Margin, Question, of_users, split
from models.planning.shortage_price import confidence as least_cost
from models.planning.shortage_price import prices
from models.purchase.choose import Choice, Purchase, choose
from models.purchase.market import Market
from models.purchase.promise_window import window

COST_LEVELS: Final = tuple(PROMISED.tolist())
ALTERNATIVES: Final = 3
UNBOUNDED: Final = 1_000_000  # instances; guard rails buy no more on demand than the maximum asks for


@dataclass(frozen=True)
class Alternative:
    """A purchase that was not chosen, and why."""

    counts: dict[str, int]
    cost: float
    risk: float
    reason: str


@dataclass(frozen=True)
class Plan:
    """What an app needs and what is bought; the mathematics of the record `plans`, under its names.

    required: (step, metric) demand; alpha: the common level of these quantiles; window: first and last step that
    the promise covers, in seconds; replicas: (step) for the required demand; counts: instances by offer and step;
    cost: per hour, reserved commitments included; cost_at: least cost by confidence, None = not feasible; binding:
    metric and step (in seconds) that set the count, None where the policy's minimum does; margin: what demand's and
    supply's risk cost, None without a usable offer; sum_of_users: what users' own 99 % would take, None = not known;
    excluded: offers that failed and were not bought more of, with why; mode: that applies,
    the policy's or an earlier one; promotion: None without gates.
    """

    confidence_asked: float
    confidence_planned: float
    required: NDArray[np.float32]
    alpha: float
    window: tuple[int, int]
    replicas: tuple[int, ...]
    counts: dict[str, tuple[int, ...]]
    cost: float
    cost_at: dict[float, float | None]
    binding: tuple[str, int] | None
    reactive_floor: int
    alternatives: tuple[Alternative, ...]
    guardrails: tuple[str, ...]
    feasible: bool
    reason: str
    margin: Margin | None = None
    sum_of_users: Level | None = None
    excluded: Mapping[str, str] = field(default_factory=dict[str, str])
    mode: str = "shadow"
    promotion: Promotion | None = None


def allocate(
    demand: NDArray[np.float32],
    *,
    metrics: Sequence[str],
    steps_s: Sequence[int],
    offers: Sequence[Offer],
    observed: Mapping[str, Observed],
    policy: Policy,
    usage: NDArray[np.float64],
    saturated: NDArray[np.float64],
    telemetry: Telemetry,
    memory: Mapping[str, Any],
    now_s: float,
    seed: int,
    app: bytes,
    tick: int,
    confidence: float | None = None,
    actuation_s: float = 0.0,
    user_quantiles: NDArray[np.floating[Any]] | None = None,
    draft: bool = False,
) -> tuple[Plan, dict[str, Any]]:
    """Plan for one app and tick, and the app's memory for the next tick (plain JSON).

    demand: (scenario, step, metric) scenarios of the app; metrics: names, in demand's order; steps_s: end of each
    step, seconds from now, the first is one tick; observed: by offer, as last reported; usage, saturated: (metric)
    usage of the tick and the part of it that saturated users have, NaN = not measured; memory: as last given back,
    {} at first; now_s: the tick's end; confidence: instead of the policy's; actuation_s: delay before a command acts;
    user_quantiles: (step, metric) sum of every user's own 99 % quantile, where known; draft: without what only the
    record needs (cost_at, alternatives, margin, sum_of_users).
    Offers of which no replica size is known are left as they are and not in the plan.
    """
    asked = policy.confidence if confidence is None else confidence
    promotion, judged = None, dict[str, Any]()
    if policy.promotion_gates:
        before = memory.get("promotion", {})
        promotion, judged = judge(policy, before, metrics, usage, saturated, tick)
        policy = replace(policy, mode=promotion.mode)
    loads = load(demand, metrics, policy)
    needed = replicas(loads, policy)
    reasons = {o.offer_id: why_unusable(o, policy) for o in offers}
    usable = sorted((o for o in offers if reasons[o.offer_id] is None), key=lambda o: o.offer_id)
    key, failed = (seed, app, tick), failing(usable, observed, policy, memory.get("failing", {}), now_s)
    excluded = failed.excluded
    market = Market(usable, observed, policy, needed, steps_s, key, actuation_s)
    notes = list[str]()
    if policy.shortage_price_h is not None:
        least, price = asked, policy.shortage_price_h
        asked = max(least, least_cost(market.need.max(axis=0), *prices(market), price))
        if asked > least:
            notes = [f"an hour's shortage at {price:g} asks for more than {least:.4g}"]
    choice = choose(market, policy, asked, () if draft else COST_LEVELS, excluded, alternatives=not draft)
    question = Question(usable, observed, policy, steps_s, key, actuation_s, asked, excluded)
    fleet = _fleet(offers, {o.offer_id for o in usable}, observed, policy, excluded)

    first = market.window.steps.start
    soon = needed[:, : max(1, first)].max(axis=1)
    floor = int(replicas(load(floor_demand(usage, saturated), metrics, policy), policy))
    desired = choice.best.counts if usable else fleet.running
    guarded = guard(
        desired,
        fleet,
        policy,
        floor=floor,
        needed_now=max(floor, int(np.quantile(soon, asked, method="higher"))),
        running_holds=market.holds(fleet.running) >= asked,
        telemetry=telemetry,
        memory=memory,
        now_s=now_s,
    )
    as_bought = all(guarded.counts[o] == desired.get(o, 0) for o in fleet.offers)
    # the search takes the maximum for enough, so a risk that counts demand beyond it is asked for again
    bought = usable and as_bought and choice.best.feasible and int(needed.max()) <= policy.limit
    planned = 1 - choice.best.risk if bought else market.holds(guarded.counts)
    promised = [metrics.index(name) for name in governed(metrics, policy)]
    curve, alpha = required(demand, asked, market.window.steps, promised)
    last = market.window.steps.stop - 1
    users = user_quantiles if usable and not draft else None
    guardrails = failed.guardrails + guarded.guardrails
    plan = Plan(
        confidence_asked=asked,
        confidence_planned=planned,
        required=curve,
        alpha=alpha,
        window=(steps_s[first], steps_s[last]),
        replicas=tuple(int(n) for n in replicas(load(curve, metrics, policy), policy)),
        counts={o: (n,) * len(steps_s) for o, n in guarded.counts.items()},
        cost=fleet.committed + fleet.cost(guarded.counts),
        cost_at=choice.cost_at,
        binding=_binding(loads, needed, market, policy, asked, metrics, steps_s),
        reactive_floor=floor,
        alternatives=_alternatives(choice, asked) if usable else (),
        guardrails=guardrails,
        feasible=bool(usable) and planned >= asked,
        reason="; ".join(
            (
                _reason(choice.best, reasons, planned, asked, guardrails, excluded, usable=bool(usable)),
                *notes,
                *choice.notes,
            )
        ),
        margin=split(question, demand, needed, metrics, market, choice) if usable and not draft else None,
        sum_of_users=None
        if users is None
        else of_users(question, users, metrics, len(needed), choice.best.counts),
        excluded=excluded,
        mode=policy.mode,
        promotion=promotion,
    )
    after = guarded.memory | {"failing": failed.memory}
    if promotion is not None:
        if telemetry.reporting:
            ticks = [tick + step // steps_s[0] for step in steps_s]
            judged = decided(judged, curve, metrics, promised, ticks, market.window.steps)
        after["promotion"] = judged
    elif "promotion" in after:
        del after["promotion"]
    return plan, after


def promised(
    offers: Sequence[Offer], policy: Policy, steps_s: Sequence[int], metrics: Sequence[str]
) -> tuple[slice, list[int]]:
    """What a plan's promise is about: steps, and indices of the governed metrics, as `allocate` takes them."""
    usable = [offer for offer in offers if why_unusable(offer, policy) is None]
    return window(usable, steps_s).steps, [metrics.index(name) for name in governed(metrics, policy)]


def _fleet(
    offers: Sequence[Offer],
    usable: set[str],
    observed: Mapping[str, Observed],
    policy: Policy,
    excluded: Mapping[str, str],
) -> Fleet:
    """Offers whose replicas can be counted: usable before others, reserved first, then cheapest per replica.

    Guard rails buy reserved instances to what is owned, then on demand; spot only where there is nothing else. What
    fails is bought where all does, and the policy's fallback is not to hold.
    """
    size = {o.offer_id: replicas_per_instance(o, policy) for o in offers}
    known = [o for o in offers if size[o.offer_id] > 0]
    # a reserved instance saves nothing when it is given back
    price = {
        o.offer_id: o.price_h if o.tier != "RESERVED" and math.isfinite(o.price_h) else 0.0 for o in known
    }
    works = {o.offer_id for o in known if o.offer_id in usable and o.offer_id not in excluded}
    if not works and policy.fallback == "reactive":
        works = usable
    tiers = {o.tier for o in known if o.offer_id in works}
    buy = "ON_DEMAND" if "ON_DEMAND" in tiers else "SPOT"
    most = {o.offer_id: o.owned_count if o.tier == "RESERVED" else UNBOUNDED * (o.tier == buy) for o in known}

    def preference(o: Offer) -> tuple[bool, bool, float, str]:
        per_replica = price[o.offer_id] / size[o.offer_id]
        return o.offer_id not in usable, o.tier != "RESERVED", per_replica, o.offer_id

    return Fleet(
        offers=tuple(o.offer_id for o in sorted(known, key=preference)),
        size=size,
        price=price,
        most={o: most[o] if o in works else 0 for o in most},
        ready={o.offer_id: observed.get(o.offer_id, Observed()).ready for o in known},
        pending={o.offer_id: observed.get(o.offer_id, Observed()).pending for o in known},
        quotas=dict(quotas([o for o in known if o.offer_id in usable]).values()),
        committed=committed(o for o in known if o.offer_id in usable),
    )


def _binding(
    loads: NDArray[np.floating[Any]],
    needed: NDArray[np.int32],
    market: Market,
    policy: Policy,
    confidence: float,
    metrics: Sequence[str],
    steps_s: Sequence[int],
) -> tuple[str, int] | None:
    """Metric and step that most often set the count, among the scenarios that need just the count asked for.

    loads: (scenario, step, governed); needed: (scenario, step) whole replicas.
    """
    steps = market.window.steps
    count = needed[:, steps].max(axis=1)
    level = np.quantile(count, confidence, method="higher")
    names = governed(metrics, policy)
    if level <= policy.min or not names:
        return None
    inside = loads[count == level, steps].reshape(-1, (steps.stop - steps.start) * len(names))
    step, metric = divmod(int(np.bincount(inside.argmax(axis=1)).argmax()), len(names))
    return names[metric], steps_s[steps.start + step]


def _alternatives(choice: Choice, confidence: float) -> tuple[Alternative, ...]:
    """The best purchases of other kinds, at most three."""
    best = choice.best
    return tuple(
        Alternative(
            counts=other.counts,
            cost=other.cost,
            risk=other.risk,
            reason=f"costs {other.cost - best.cost:.4g} more"
            if other.feasible
            else f"holds in {1 - other.risk:.2%}, not {confidence:.4g}: {other.short}",
        )
        for other in choice.others
        if other.counts != best.counts
    )[:ALTERNATIVES]


def _reason(
    best: Purchase,
    reasons: Mapping[str, str | None],
    planned: float,
    confidence: float,
    guardrails: Sequence[str],
    excluded: Mapping[str, str],
    *,
    usable: bool,
) -> str:
    """One line: what was done and, where the promise is not met, why."""
    refused = "; ".join(f"{offer}: {why}" for offer, why in sorted(reasons.items()) if why is not None)
    if not usable:
        return f"no usable offer, what runs is kept{f' ({refused})' if refused else ''}"
    failed = [f"not bought more of {offer}: {why}" for offer, why in sorted(excluded.items())]
    said = f"{planned:.2%} of the scenarios are served, {confidence:.4g} asked"
    if planned >= confidence:
        return "; ".join([said, *(["over_budget"] if "over_budget" in guardrails else []), *failed])
    why = [text for text in (best.short, ", ".join(guardrails), *failed) if text]
    return f"{said}: {'; '.join(why)}"
