"""Plan of one app and tick from demand scenarios: needed replicas, purchase, guard rails, and the decision's record.

`allocate` does the whole; the plan's fields are those of the record `plans` (docs/records.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.capacity import (
    Observed,
    Offer,
    Policy,
    committed,
    floor_demand,
    governed,
    quotas,
    replica_loads,
    replicas,
    replicas_per_instance,
    why_unusable,
)
from models.demand.reconciliation import PROMISED
from models.demand.scenarios import required
from models.planning.delivery import Clock, Delivery, Order, follow, memory_of
from models.planning.failing_offers import Failing, failing
from models.planning.guardrails import Fleet, Guarded, PresentNeed, Telemetry, guard
from models.planning.past_need import PastNeed
from models.planning.promotion import Promotion, decided, judge
from models.planning.risk_premium import Level, Margin, Question, of_users, split
from models.planning.shortage_price import confidence as least_cost
from models.planning.shortage_price import prices
from models.purchase.choose import KEPT, Choice, choose
from models.purchase.constraints import zone_of
from models.purchase.market import SUPPLY_SCENARIOS, Market
from models.purchase.promise_window import window
from models.supply import evidence
from models.supply.offers import Closed, closed, unproven

if TYPE_CHECKING:
    from models.planning.sweep import NeedCurve

COST_LEVELS: Final = tuple(PROMISED.tolist())
ALTERNATIVES: Final = 3
UNBOUNDED: Final = 1_000_000  # instances; guard rails buy no more on demand than the maximum asks for


@dataclass(frozen=True)
class Alternative:
    """A purchase that was not chosen.

    counts: instances by offer; cost: per hour; risk: share of scenarios that it does not serve; reason: why it was not
    chosen.
    """

    counts: dict[str, int]
    cost: float
    risk: float
    reason: str


@dataclass(frozen=True)
class Plan:
    """What an app needs and what is bought; the mathematics of the record `plans`, under its names.

    Attributes:
        confidence_asked: share of scenarios to be served: the policy's, or more where a shortage's price asks for more.
        confidence_planned: share of scenarios that the counts serve.
        required: (step, metric) demand to be met, in the metrics' units.
        alpha: common level of these marginal quantiles.
        window: first and last step that the promise covers, in seconds from now.
        replicas: (step) for the required demand.
        counts: instances by offer and step.
        cost: per hour, reserved commitments included.
        cost_at: least cost per hour by confidence, None = not feasible.
        binding: metric and step (in seconds) that set the count; None where the policy's minimum does.
        reactive_floor: replicas that the present usage needs.
        alternatives: the best purchases of other kinds, at most three.
        guardrails: names of the guard rails that acted, in their order.
        feasible: whether the counts keep the promise; false too where demand is unknown or instances are not reported.
        reason: what was done and why, in a line.
        margin: cost of demand's and of supply's risk; None without a usable offer.
        sum_of_users: replicas and cost for the sum of users' own 99 % quantiles; None = not known.
        excluded: why an offer is not bought more of, by offer.
        mode: that applies, the policy's or, before promotion, an earlier one.
        promotion: None without gates.
        completeness: share of the app's telemetry that the plan is made from, 0 to 1.
        unreported: governed metrics that nobody reported.
        orders: what became of earlier commands, by offer.
        commanded: offers for which a command is to be sent, with the count before.
        confidence_of: of the policy.
        realised_share: share of the ticks in which capacity sufficed, None = not measured; the caller's to fill.
        curve: needed replicas at other settings, None = no learner; the caller's to fill.
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
    completeness: float = 1.0
    unreported: tuple[str, ...] = ()
    orders: Mapping[str, Order] = field(default_factory=dict[str, Order])
    commanded: Mapping[str, int] = field(default_factory=dict[str, int])
    confidence_of: Literal["plan", "time"] = "plan"
    realised_share: float | None = None
    curve: NeedCurve | None = None


@dataclass(frozen=True)
class DecisionContext:
    """Demand and telemetry of an app at the end of a tick; nothing in it depends on offers or the policy.

    Attributes:
        demand: (scenario, step, metric) float32 scenarios, in the metrics' units.
        metrics: names, in demand's order.
        steps_s: end of each forecast step in seconds from now; the first is one tick.
        usage: (metric) of the tick, NaN = not measured.
        saturated: (metric) the part of `usage` by saturated users, NaN = not measured.
        telemetry: how much of the app was reported.
        now_s: the tick's end in seconds since 1970.
        seed: of the installation; with app and tick it names the random streams.
        app: name of the app.
        tick: number of the tick.
        actuation_s: seconds before a command acts.
        user_quantiles: (step, metric) sum of every user's own 99 % quantile, None = not known.
        past: an expert whose replicas are averaged with the scenarios' where a shortage has a price; None = there is
            none.
        shared: whether what is bought are nodes that several apps share.
    """

    demand: NDArray[np.float32]
    metrics: Sequence[str]
    steps_s: Sequence[int]
    usage: NDArray[np.float64]
    saturated: NDArray[np.float64]
    telemetry: Telemetry
    now_s: float
    seed: int
    app: bytes
    tick: int
    actuation_s: float = 0.0
    user_quantiles: NDArray[np.floating[Any]] | None = None
    past: PastNeed | None = None
    shared: bool = False

    def replicas(self, demand: NDArray[np.floating[Any]], policy: Policy) -> NDArray[np.int32]:
        """Whole replicas (...) that a demand (..., metric) needs."""
        return replicas(replica_loads(demand, self.metrics, policy), policy)

    def reported(self, policy: Policy) -> Telemetry:
        """`telemetry` with the governed metrics that nobody reported."""
        known = {name for name, usage in zip(self.metrics, self.usage, strict=True) if not math.isnan(usage)}
        return replace(self.telemetry, unreported=tuple(m for m in policy.governed if m not in known))

    def governed(self, policy: Policy) -> list[int]:
        """Indices of the policy's governed metrics in `metrics`."""
        return [self.metrics.index(name) for name in governed(self.metrics, policy)]


@dataclass(frozen=True)
class _Situation:
    """A decision's context with what follows from offers, observations and the policy, before anything is bought.

    Attributes:
        context: of the decision.
        policy: in the mode that applies.
        refused: why an offer may not be bought, by offer; None = usable.
        usable: the offers that may be bought, by id.
        failing: offers that are not bought more of for a while.
        delivery: what became of earlier commands.
        loads: (scenario, step, governed) replicas by metric, not rounded.
        needed: (scenario, step) whole replicas.
        market: the usable offers and the need.
        confidence: share of scenarios to be served.
        notes: why that is more than the policy asks for.
        supply: the offers and the replicas that a shortage's price asks for, to be there with the confidence
            that is requested; None = demand and supply are bought for together.
        past: (2) replicas that the context's `past` needs at that price, over the promise's steps and before them;
            None = there is none.
        seen: evidence of what offers are really like, for the next tick; closed: by it, offers not bought more of.
    """

    context: DecisionContext
    policy: Policy
    refused: Mapping[str, str | None]
    usable: Sequence[Offer]
    failing: Failing
    delivery: Delivery
    loads: NDArray[np.floating[Any]]
    needed: NDArray[np.int32]
    market: Market
    confidence: float
    notes: tuple[str, ...]
    supply: Market | None = None
    past: NDArray[np.int64] | None = None
    seen: Mapping[str, Any] = field(default_factory=dict[str, Any])
    closed: Closed = field(default_factory=lambda: Closed({}))

    @property
    def excluded(self) -> Mapping[str, str]:
        return {**self.delivery.avoided, **self.failing.excluded, **self.closed.excluded}


def allocate(
    context: DecisionContext,
    *,
    offers: Sequence[Offer],
    observed: Mapping[str, Observed],
    policy: Policy,
    memory: Mapping[str, Any],
    confidence: float | None = None,
    shortage_price: float | None = None,
    draft: bool = False,
) -> tuple[Plan, dict[str, Any]]:
    """Plan one app for one tick; returns the plan and the app's memory for the next tick (plain JSON).

    The same arguments give the same plan: time, tick and seed are the context's. Offers of which not one replica fits
    in an instance are left as they are and do not appear in the plan.

    Args:
        context: demand and telemetry at the end of the tick.
        offers: of the app, usable or not.
        observed: instances by offer, as last reported.
        policy: of the app.
        memory: as returned the tick before, {} at first.
        confidence: share of scenarios to be served, instead of the policy's.
        shortage_price: of an hour in which capacity does not suffice, in those of a replica-hour. The plan is then for
            the replicas that cost least in all, be they fewer than the policy's confidence asks for, and `confidence`
            is that of their supply alone (`models.learning` steers the share of time by both).
        draft: leave out what only the record needs: cost_at, alternatives, margin, sum_of_users.
    """
    requested = policy.confidence if confidence is None else confidence
    promotion, gates = None, dict[str, Any]()
    if policy.promotion_gates:
        before = memory.get("promotion", {})
        demand = context.usage if context.telemetry.representative else np.full_like(context.usage, np.nan)
        promotion, gates = judge(policy, before, context.metrics, demand, context.saturated, context.tick)
        policy = replace(policy, mode=promotion.mode)
    context = replace(context, telemetry=context.reported(policy))
    situation = _situation(context, offers, observed, policy, memory, requested, shortage_price)
    choice = _choice(situation, policy, requested, draft)
    usable = {o.offer_id for o in situation.usable}
    fleet = _fleet(offers, usable, observed, policy, situation.excluded, shared=context.shared)
    fleet = replace(fleet, unproven=unproven(situation.usable, situation.seen))
    desired = choice.best.counts if situation.usable else fleet.running
    need = _present_need(situation, fleet)
    guarded = guard(
        desired, fleet, policy, need, telemetry=context.telemetry, memory=memory, now_s=context.now_s
    )
    delivery = situation.delivery
    guarded = replace(guarded, counts=delivery.kept(_awaited(guarded.counts, situation)))
    plan = _plan(situation, choice, fleet, guarded, desired)
    plan = replace(plan, reactive_floor=need.floor, promotion=promotion, orders=delivery.orders)
    if situation.usable and not draft:
        plan = _with_margins(plan, situation, choice)
    after = guarded.memory | {"failing": situation.failing.memory}
    after |= {"counts": guarded.counts} if "counts" in after else {}
    after |= {"supply": situation.seen} if situation.seen else {}
    if policy.mode != "shadow":
        commanded, orders = delivery.issued(guarded.counts)
        if policy.mode == "paused":
            commanded, orders = {}, dict(delivery.orders)
        plan, after["orders"] = replace(plan, commanded=commanded), memory_of(orders)
    else:
        after.pop("orders", None)
    if promotion is not None:
        promise = requested if shortage_price is None else policy.confidence
        after["promotion"] = _followed(gates, situation, plan, promise)
    elif "promotion" in after:
        del after["promotion"]
    return plan, after


def _situation(
    context: DecisionContext,
    offers: Sequence[Offer],
    observed: Mapping[str, Observed],
    policy: Policy,
    memory: Mapping[str, Any],
    requested: float,
    shortage_price: float | None,
) -> _Situation:
    """Need, market and confidence; a shortage's price raises the requested confidence where a higher one costs less."""
    loads = replica_loads(context.demand, context.metrics, policy)
    needed = replicas(loads, policy)
    refused = {o.offer_id: why_unusable(o, policy) for o in offers}
    usable = sorted((o for o in offers if refused[o.offer_id] is None), key=lambda o: o.offer_id)
    key = context.seed, context.app, context.tick
    known = memory.get("supply", {})
    empty = evidence.empty(usable, known)
    news = {o: replace(seen, failed=0) if o in empty else seen for o, seen in observed.items()}
    failed = failing(usable, news, policy, memory.get("failing", {}), context.now_s, context.steps_s[0])
    delay_s = context.actuation_s
    clock = Clock(context.now_s + delay_s, context.tick, context.steps_s[0], delay_s)
    orders = memory.get(
        "orders", memory_of({o: Order(n, goal=n) for o, n in memory.get("counts", {}).items()})
    )
    delivery = Delivery({}, observed, {}, clock)
    seen, shut = dict[str, Any](), Closed({})
    if policy.mode != "shadow":
        delivery = follow(usable, observed, policy, orders, clock, failed.excluded)
        wait_s = max(policy.spot_return_wait_s, context.steps_s[0])
        seen = evidence.observe(known, usable, delivery.sightings, context.now_s, wait_s)
        shut = closed(usable, seen, context.now_s)
    credible = {o: replace(n, pending=0) if o in shut.excluded else n for o, n in delivery.credible.items()}
    market = Market(usable, credible, policy, needed, context.steps_s, key, context.actuation_s)
    confidence, notes, past = requested, (), None
    if shortage_price is not None:
        owned, replica_h = prices(market)
        past = None if context.past is None else context.past.at(owned, (shortage_price,))[:, 0]
        confidence = least_cost(market.need.max(axis=0), owned, replica_h, shortage_price * replica_h)
        requested = confidence
    if policy.shortage_price_h is not None:
        price = policy.shortage_price_h
        confidence = max(requested, least_cost(market.need.max(axis=0), *prices(market), price))
        if confidence > requested:
            notes = (f"an hour's shortage at {price:g} asks for more than {requested:.4g}",)
    supply = None
    if shortage_price is not None:
        wanted = int(
            np.quantile(needed[:, market.window.steps].max(axis=1), confidence, method="inverted_cdf")
        )
        if context.past is not None and past is not None:
            wanted = int(context.past.averaged(np.array(wanted), past[0]))
        most = np.full((SUPPLY_SCENARIOS, needed.shape[1]), min(wanted, policy.limit), np.int32)
        # as the learner's lanes buy: the same replicas have the same purchase in every tick (`models.purchase.table`)
        supply = Market(usable, {}, policy, most, context.steps_s, (context.seed, b"tiers", 0))
    return _Situation(
        context,
        policy,
        refused,
        usable,
        failed,
        delivery,
        loads,
        needed,
        market,
        confidence,
        notes,
        supply,
        past,
        seen,
        shut,
    )


def _awaited(counts: Mapping[str, int], situation: _Situation) -> dict[str, int]:
    """Counts with an instance that waits for each empty pool to return, where that is cheaper than on demand.

    It costs nothing while the pool gives none, and says when it gives some again.
    """
    policy, size = situation.policy, situation.market.size
    by_id = {o.offer_id: o for o in situation.usable}
    on_demand = [o.price_h / size[o.offer_id] for o in situation.usable if o.tier == "ON_DEMAND"]
    after = dict(counts)
    for name in situation.closed.empty:
        offer = by_id[name]
        carried = sum(size[o] * n for o, n in after.items() if o in size)
        cheap = offer.price_h / size[name] < min(on_demand, default=math.inf)
        if cheap and not offer.quota_group and carried + size[name] <= policy.limit:
            after[name] = max(after.get(name, 0), 1)
    return after


def _choice(situation: _Situation, policy: Policy, requested: float, draft: bool) -> Choice:
    """What is bought; draft: without alternatives and the cost of other confidences.

    requested: confidence, of supply where demand and supply are bought for apart.
    """
    market, levels, excluded = situation.market, () if draft else COST_LEVELS, situation.excluded
    if situation.supply is None:
        return choose(market, policy, situation.confidence, levels, excluded, alternatives=not draft)
    bought = choose(situation.supply, policy, requested, (), excluded, alternatives=not draft)
    if draft:
        return bought
    whole = choose(market, policy, situation.confidence, levels, excluded, alternatives=False)
    return replace(bought, cost_at=whole.cost_at)


def _present_need(situation: _Situation, fleet: Fleet) -> PresentNeed:
    """Replicas for the present usage, and those needed until new instances serve."""
    context, market = situation.context, situation.market
    soon = situation.needed[:, : max(1, market.window.steps.start)].max(axis=1)
    needed_now = int(np.quantile(soon, situation.confidence, method="higher"))
    if situation.past is not None and context.past is not None:
        needed_now = int(context.past.averaged(np.array(needed_now), situation.past[1]))
    floor = int(context.replicas(floor_demand(context.usage, context.saturated), situation.policy))
    return PresentNeed(
        floor=floor,
        needed_now=max(floor, needed_now),
        running_holds=market.holds(situation.delivery.served(fleet.running)) >= situation.confidence,
    )


def _plan(
    situation: _Situation, choice: Choice, fleet: Fleet, guarded: Guarded, desired: Mapping[str, int]
) -> Plan:
    """The plan without margin, promotion, orders and reactive floor, which `allocate` adds.

    desired: instances by offer before the guard rails; guarded: after them.
    """
    context, policy, market, confidence = (
        situation.context,
        situation.policy,
        situation.market,
        situation.confidence,
    )
    usable, steps_s = bool(situation.usable), context.steps_s
    as_bought = all(guarded.counts[o] == desired.get(o, 0) for o in fleet.offers)
    # the search takes the maximum for enough, so a risk that counts demand beyond it is asked for again
    bought = usable and as_bought and choice.best.feasible and int(situation.needed.max()) <= policy.limit
    served = situation.delivery.served(guarded.counts)
    whole = bought and served == guarded.counts
    planned = 1 - choice.best.risk if whole and situation.supply is None else market.holds(served)
    window = market.window.steps
    curve, alpha = required(context.demand, confidence, window, context.governed(policy))
    guardrails = situation.failing.guardrails + situation.delivery.guardrails + guarded.guardrails
    unknown = [o for o in situation.delivery.unobserved if guarded.counts.get(o)]
    kept = all(guarded.counts[o] >= fleet.running[o] for o in fleet.offers)
    reason = _reason(situation, choice.best.short, planned, guardrails, kept=kept)
    otherwise = [f"{o.offer_id}: {o.mismatch}" for o in situation.usable if o.mismatch]
    otherwise += [f"{o.offer_id} {o.learnt}" for o in situation.usable if o.learnt]
    return Plan(
        confidence_asked=confidence,
        confidence_planned=planned,
        required=curve,
        alpha=alpha,
        window=(steps_s[window.start], steps_s[window.stop - 1]),
        replicas=tuple(int(n) for n in context.replicas(curve, policy)),
        counts={o: (n,) * len(steps_s) for o, n in guarded.counts.items()},
        cost=fleet.committed + fleet.cost(guarded.counts),
        cost_at=choice.cost_at,
        binding=_binding(situation),
        reactive_floor=0,
        alternatives=_alternatives(choice, confidence) if usable else (),
        guardrails=guardrails,
        feasible=usable
        and (planned >= confidence or (whole and situation.supply is not None))
        and not (unknown or context.telemetry.missing(policy)),
        reason="; ".join(
            (reason, *situation.notes, *choice.notes, *_beyond(policy, fleet, guardrails), *otherwise)
        ),
        excluded=situation.excluded,
        mode=policy.mode,
        confidence_of=policy.confidence_of,
        completeness=context.telemetry.completeness,
        unreported=context.telemetry.unreported,
    )


def _with_margins(plan: Plan, situation: _Situation, choice: Choice) -> Plan:
    """The plan with `margin` and `sum_of_users`: the cost of risk, and of sizing every user alone."""
    context, market = situation.context, situation.market
    question = Question(
        situation.usable,
        situation.delivery.credible,
        situation.policy,
        context.steps_s,
        market.key,
        context.actuation_s,
        situation.confidence,
        situation.excluded,
    )
    margin = split(question, context.demand, situation.needed, context.metrics, market, choice)
    users = context.user_quantiles
    if users is None:
        return replace(plan, margin=margin)
    scenarios, counts = len(situation.needed), choice.best.counts
    return replace(
        plan,
        margin=margin,
        sum_of_users=of_users(question, users, context.metrics, scenarios, counts),
    )


def _followed(gates: dict[str, Any], situation: _Situation, plan: Plan, requested: float) -> dict[str, Any]:
    """The promotion gates' memory with this decision added, to be judged by demand to come.

    It is judged at the confidence that the policy asks for (requested), not at the higher one that a shortage's price
    may have chosen. Where demand is not known it is not added.
    """
    context, window = situation.context, situation.market.window.steps
    if context.telemetry.missing(situation.policy):
        return gates
    metrics, curve = context.governed(situation.policy), plan.required
    if situation.confidence != requested:
        curve, _ = required(context.demand, requested, window, metrics)
    ticks = [context.tick + step // context.steps_s[0] for step in context.steps_s]
    return decided(gates, curve, context.metrics, metrics, ticks, window)


def promised(
    offers: Sequence[Offer],
    policy: Policy,
    steps_s: Sequence[int],
    metrics: Sequence[str],
    actuation_s: float = 0.0,
) -> tuple[slice, list[int]]:
    """Forecast steps that a plan's promise covers, and indices in `metrics` of the governed ones, as in `allocate`.

    offers: their start-up times set the first step; steps_s: end of each step in seconds; actuation_s: seconds before
    a command acts.
    """
    usable = [offer for offer in offers if why_unusable(offer, policy) is None]
    return window(usable, steps_s, actuation_s).steps, [
        metrics.index(name) for name in governed(metrics, policy)
    ]


def _fleet(
    offers: Sequence[Offer],
    usable: set[str],
    observed: Mapping[str, Observed],
    policy: Policy,
    excluded: Mapping[str, str],
    *,
    shared: bool,
) -> Fleet:
    """What guard rails may buy: offers of which a replica fits in an instance, in order of preference.

    Usable offers come first; among them reserved ones, then the cheapest per replica. Reserved instances are bought
    up to the number owned, then on-demand ones, and spot ones only where the app has no other offer, or a quota of none
    of them. Excluded offers are bought only where all are excluded and the policy's fallback is `reactive`.
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
    barred = {offer_id for of, limit in quotas(known).values() if limit == 0 for offer_id in of}
    tiers = {o.tier for o in known if o.offer_id in works - barred}
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
        unusable=frozenset(o.offer_id for o in known if o.offer_id not in usable),
        alike={o.offer_id: (o.tier, zone_of(o)) for o in known}
        if shared
        else _alike([o for o in known if o.offer_id in works], policy, size),
    )


def _alike(offers: Sequence[Offer], policy: Policy, size: Mapping[str, int]) -> dict[str, tuple[Any, ...]]:
    """On-demand offers of one size (and zone, where the policy has a zone share): any instance stands for any other."""
    return {
        o.offer_id: (size[o.offer_id], *(zone_of(o) if policy.zone_share else ()))
        for o in offers
        if o.tier == "ON_DEMAND"
    }


def _beyond(policy: Policy, fleet: Fleet, guardrails: Sequence[str]) -> tuple[str, ...]:
    """A note for the reason where no number of instances lies between the minimum and the maximum; else ()."""
    if "minimum_beyond_maximum" not in guardrails:
        return ()
    sizes = ", ".join(f"{offer} {fleet.size[offer]}" for offer in sorted(fleet.offers))
    least = max(policy.min, 1)
    return (
        f"no number of instances carries from a minimum of {least} to a maximum of {policy.limit} replicas "
        f"(replicas an instance: {sizes}): the minimum stands",
    )


def _binding(situation: _Situation) -> tuple[str, int] | None:
    """Metric and step (in seconds) that most often set the count, among scenarios that need exactly the count bought.

    None where the policy's minimum sets it, or no governed metric is forecast.
    """
    context, policy = situation.context, situation.policy
    steps = situation.market.window.steps
    count = situation.needed[:, steps].max(axis=1)
    level = np.quantile(count, situation.confidence, method="higher")
    names = governed(context.metrics, policy)
    if level <= policy.min or not names:
        return None
    inside = situation.loads[count == level, steps].reshape(-1, (steps.stop - steps.start) * len(names))
    step, metric = divmod(int(np.bincount(inside.argmax(axis=1)).argmax()), len(names))
    return names[metric], context.steps_s[steps.start + step]


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
    situation: _Situation, short: str, planned: float, guardrails: Sequence[str], *, kept: bool
) -> str:
    """One line: the share of scenarios served and, where that is less than asked for, why.

    short: of the purchase, before the guard rails; kept: whether all that runs is kept, after them.
    """
    telemetry = situation.context.telemetry
    if telemetry.missing(situation.policy):
        nobody = f"nobody reported {' or '.join(telemetry.unreported)}, which the policy governs"
        why = nobody if telemetry.reporting else "no user of the app reported"
        return (
            f"missing_telemetry: {why}; demand is not known: what was commanded stands, the minimum at least"
        )
    if not situation.usable:
        refused = "; ".join(
            f"{offer}: {why}" for offer, why in sorted(situation.refused.items()) if why is not None
        )
        return f"no usable offer{', what runs is kept' * kept}{f' ({refused})' if refused else ''}"
    failed = [f"not bought more of {offer}: {why}" for offer, why in sorted(situation.excluded.items())]
    failed += [note for offer, note in situation.delivery.notes.items() if offer not in situation.excluded]
    served = f"{planned:.2%} of the scenarios are served, {situation.confidence:.4g} asked"
    if planned >= situation.confidence:
        return "; ".join([served, *(["over_budget"] if "over_budget" in guardrails else []), *failed])
    short = short if kept else short.removesuffix(KEPT)
    why = [text for text in (short, ", ".join(guardrails), *failed) if text]
    return f"{served}: {'; '.join(why)}"
