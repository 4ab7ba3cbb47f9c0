"""Makes the record `plan` from an allocator's decision, and the signed commands that carry it out."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from models.capacity import Observed, Policy
from models.planning.allocate import Alternative, Plan
from models.planning.risk_premium import Level
from models.planning.sweep import NeedCurve
from models.tick import Tick
from pipeline.security.signing_keys import SigningKey
from pipeline.wire import commands, policies
from pipeline.wire.codec import Record
from pipeline.wire.currencies import MOST, PLACES

DEFAULT_POLICY = "*"
"""Policy of apps that have none of their own."""
LIFETIME_S = 600.0
"""A command that was not applied within two of the longest ticks is stale: the next plan knows better."""
OVERDUE_S: Final = 60.0
"""Age from which an observation is overdue: an actuator that restarts is back within seconds."""
OVERDUE_TICKS: Final = 4
"""The same in ticks: one is what an observation is older than its plan, another what a busy actuator may take."""
REPORTED: Final = (
    "tick",
    "ready",
    "pending",
    "draining",
    "failed",
    "interrupted",
    "generation",
    "managed_by",
    "command_id",
    "answer",
    "allocatable",
    "pending_ready_s",
    "reason",
    "autoscaled",
)
"""Fields of `capacity_observed` that a plan keeps."""
GUARD_RAILS: Final = {
    "paused": "The policy is paused: what was commanded before stands.",
    "missing_telemetry": "Nobody of the app reported (some of) the governed metrics in this tick: silence is not zero, "
    "so nothing shrinks, and what was commanded stands where none was reported.",
    "incomplete_telemetry": "Records of the app were refused: demand is more than is known of it, nothing shrinks.",
    "producer_stopped": "One of several producers or instances of a user stopped reporting: it may be lost, nothing "
    "shrinks, and what it last used counts for 15 minutes.",
    "idle": "Every user has reported zero for as long as the policy asks (idle_after_s): nothing is needed.",
    "doubtful_telemetry": "More than a tenth of the known users, or of the demand, is silent: quiet cannot be told "
    "from loss, nothing shrinks.",
    "scale_down_never": "The policy never scales down: nothing shrinks.",
    "hold_time": "More was wanted within the policy's hold time (hold_s): it is not given back yet.",
    "churn": "Shrinking would save less than the policy's churn_threshold, and what runs keeps the promise: nothing "
    "changes.",
    "max_up": "Growth was bounded by the policy's max_up replicas a tick: more was wanted.",
    "max_down": "Release was bounded by the policy's max_down replicas a tick: less was wanted.",
    "canary": "Canary mode: at most a tenth of the instances, and at least one, may change in a tick.",
    "grow_before_shrink": "Ready instances stay until those that replace them are ready as well.",
    "unproven_pool": "New launches of spot may be refused, as earlier ones were: what is needed now is kept or bought "
    "beside them.",
    "reactive_floor": "Raised to what the present usage needs, whatever the forecast says.",
    "minimum": "Raised to the policy's minimum.",
    "maximum": "Lowered to the policy's maximum: demand may exceed it.",
    "quota": "Growth was bounded by the provider's quota.",
    "minimum_beyond_maximum": "No number of instances lies between the policy's minimum and maximum: the minimum "
    "stands, and the maximum is exceeded by a part of an instance.",
    "offers_exhausted": "All that offers can carry is bought, and the present usage or the minimum needs more.",
    "over_budget": "The guard rails above keep or add more than the policy's budget pays for.",
    "spot_return_wait": "Spot of a pool was interrupted or did not come: others stand in for it for the policy's "
    "spot_return_wait_s.",
    "pool_failing": "Launches of an offer failed: others stand in for it for the policy's spot_return_wait_s.",
    "provider_failing": "Two or more pools of a provider failed at once: other providers stand in for it.",
    "undelivered": "What was commanded did not come: it does not count as served, and is commanded again.",
    "conflict": "Somebody else changed an offer's instances: the policy's on_conflict decides what is done.",
    "shared_nodes": "The group's nodes carry less at once than its apps want together: their room goes by priority, "
    "and among equals so that all are as sure as it allows.",
    "stale_price": "A price is older than the installation allows: no more of its offer is bought, what runs stays.",
}
"""What each guard rail of models.planning.guardrails did, in one sentence."""
NO_CURVE: Final = NeedCurve((), (), {})


def lifetime_s(tick_s: float) -> float:
    """Seconds after its tick's end for which a command is valid, at a tick's length."""
    return max(LIFETIME_S, 2.0 * tick_s)


def default_policy(app: str) -> Record:
    """Policy of an app without a policy record: shadow mode, and a replica of one core and 4 GiB, the usual ratio."""
    return {
        "app": app,
        "version": 0,
        "valid_from_tick": 0,
        "mode": "shadow",
        "allocation_group": "",
        "governed": ["cpu", "memory"],
        "unit": [{"metric": "cpu", "value": 1.0}, {"metric": "memory", "value": float(4 * 2**30)}],
    }


def promised(plan: Record) -> dict[int, int]:
    """Replicas that a plan (record `plan`) is to carry in each tick of its window, by tick."""
    first, last = plan["window"]
    steps = zip(plan["steps"], plan["replicas"], strict=True)
    return {plan["tick"] + step // plan["tick_s"]: count for step, count in steps if first <= step <= last}


def money(amount: float) -> Decimal:
    """An amount as records carry it: six decimals, and at most twelve digits before them.

    What is not finite has no price and is written as 10^11.
    """
    least = min(amount, float(MOST)) if math.isfinite(amount) else 10**11
    return min(Decimal(least).quantize(PLACES), MOST - PLACES)


@dataclass(frozen=True)
class PlanContext:
    """Shard, sequence, tick and inputs of a plan.

    Attributes:
        app, group: of the plan, and its allocation group.
        tick: that is planned.
        shard, seq: partition of the allocator, and the gapless number of its planned ticks.
        metrics: names of the columns of `Plan.required`.
        versions: of policy, prices, calendar, model and adjustment.
        observed: records `capacity_observed` by offer, from which the plan started.
        followed: offers of which observations are to be expected.
        seed: of the installation.
        currency: of all amounts, ISO code.
        refused: the app's records that were refused since the tick before, by reason.
        stopped: series of the app that stopped while others of their user report.
        need: replicas that the tick's demand filled, None = not known or of no interest.
        level: what the plan counts: INSTANCES, REPLICAS or NODES.
        parts: of a plan of NODES, whose need they are, by app, as shares of it.
    """

    app: str
    group: str
    tick: Tick
    shard: int
    seq: int
    metrics: Sequence[str]
    versions: Record
    observed: Mapping[str, Record]
    followed: Collection[str]
    seed: int
    currency: str
    refused: Sequence[tuple[str, int]] = ()
    stopped: int = 0
    need: float | None = None
    level: str = "INSTANCES"
    parts: Sequence[Record] = ()


def capacity_of(
    app: str,
    observed: Mapping[str, Record],
    followed: Collection[str],
    orders: Mapping[str, Any],
    tick: Tick,
    unit: Mapping[str, float],
) -> dict[str, Observed]:
    """What was observed of an app's offers, as a decision takes it.

    Args:
        observed: records `capacity_observed` by offer.
        followed: offers of which observations are to be expected.
        orders: of the app's memory (`models.planning.delivery`), which has its last commands.
        tick: that is planned.
        unit: what one replica on shared nodes is to ask for, by metric.
    """
    capacity: dict[str, Observed] = {}
    for offer in sorted({*observed, *followed}):
        if offer not in observed:
            capacity[offer] = Observed(at_s=0.0, silent=True)
            continue
        record, ref = observed[offer], f"{app}/{offer}"
        sent = {
            commands.command_id(f"{app}@{number}", ref, count): number
            for number, count in orders.get(offer, {}).get("sent", ())
        }
        at_s = float((record["tick"] + 1) * tick.length_s)
        capacity[offer] = policies.observed_of(
            record,
            sent,
            at_s if offer in followed else None,
            silent=tick.end_s - at_s > max(OVERDUE_S, OVERDUE_TICKS * tick.length_s),
        )
        if offer == commands.REPLICAS:
            capacity[offer] = policies.in_units(capacity[offer], record, unit)
    return capacity


def plan_record(plan: Plan, context: PlanContext, shares: Mapping[str, float]) -> Record:
    """The record `plan` of one app and tick.

    Args:
        plan: what was decided.
        context: where it stands.
        shares: of what the app's group shares, by its name.
    """
    tick, observed = context.tick, context.observed.values()
    return {
        "plan_id": f"{context.app}@{tick.number}",
        "allocation_group": context.group,
        "app": context.app,
        "shard": context.shard,
        "seq": context.seq,
        "mode": plan.mode,
        "tick": tick.number,
        "tick_s": tick.length_s,
        "confidence_asked": plan.confidence_asked,
        "confidence_planned": plan.confidence_planned,
        "confidence_of": plan.confidence_of,
        "realised_share": plan.realised_share,
        "steps": tick.steps_s,
        "metrics": list(context.metrics),
        "required": plan.required.astype(float).tolist(),
        "alpha": plan.alpha,
        "window": list(plan.window),
        "replicas": list(plan.replicas),
        "counts": [{"offer_id": o, "desired": list(n)} for o, n in sorted(plan.counts.items())],
        "cost": money(plan.cost),
        "currency": context.currency,
        "cost_at": [{"confidence": level, "cost": _cost(cost)} for level, cost in plan.cost_at.items()],
        "binding": None if plan.binding is None else {"metric": plan.binding[0], "step_s": plan.binding[1]},
        "reactive_floor": plan.reactive_floor,
        "observed_generation": max((record["generation"] for record in observed), default=0),
        "observed_tick": max((record["tick"] for record in observed), default=-1),
        "alternatives": [_alternative(other) for other in plan.alternatives],
        "guardrails": list(plan.guardrails),
        "feasible": plan.feasible,
        "reason": plan.reason,
        "commands_issued": 0,
        "versions": context.versions,
        "seed": context.seed,
        "margin": _margin(plan),
        "shares": [{"of": name, "amount": amount} for name, amount in sorted(shares.items())],
        "promotion": _promotion(plan),
        "excluded": [{"offer_id": o, "reason": why} for o, why in sorted(plan.excluded.items())],
        "sum_of_users": None if plan.sum_of_users is None else _level(plan.sum_of_users),
        "completeness": plan.completeness,
        "refused": [{"reason": reason, "records": records} for reason, records in context.refused],
        "unreported": list(plan.unreported),
        "capacity": [
            _capacity(offer, plan, context) for offer in sorted({*context.observed, *context.followed})
        ],
        "curve": _curve(plan.curve or NO_CURVE),
        "need": context.need,
        "stopped": context.stopped,
        "level": context.level,
        "parts": [
            part | {name: money(plan.cost * part[name]) for name in ("own", "adds")} for part in context.parts
        ],
    }


def _capacity(offer: str, plan: Plan, context: PlanContext) -> Record:
    """What was observed of an offer, and what became of the commands for it."""
    record, order = context.observed.get(offer, {}), plan.orders.get(offer)
    reported = {name: record[name] for name in REPORTED if name in record}
    if order is None or not order.followed:
        return {"offer_id": offer, "tick": -1} | reported
    return (
        {"offer_id": offer, "tick": -1}
        | reported
        | {
            "in_force": order.in_force if order.sent else None,
            "late": order.late,
            "state": order.state,
            "detail": order.detail,
            "again_s": order.again_s(context.tick.length_s) if order.state else 0.0,
        }
    )


def _cost(cost: float | None) -> Decimal | None:
    return None if cost is None else money(cost)


def _level(level: Level) -> Record:
    return {"replicas": level.replicas, "cost": _cost(level.cost)}


def _alternative(other: Alternative) -> Record:
    return {
        "counts": [{"offer_id": o, "desired": n} for o, n in sorted(other.counts.items())],
        "cost": money(other.cost),
        "risk": other.risk,
        "reason": other.reason,
    }


def _margin(plan: Plan) -> Record | None:
    if plan.margin is None:
        return None
    return {name: _level(getattr(plan.margin, name)) for name in ("expected", "demand", "purchase")}


def _curve(curve: NeedCurve) -> Record:
    return {
        "confidences": list(curve.confidences),
        "prices": list(curve.prices),
        "arms": [
            {"arm": arm, "wanted": need.wanted.tolist(), "soon": need.soon.tolist()}
            for arm, need in sorted(curve.arms.items())
        ],
    }


def _promotion(plan: Plan) -> Record | None:
    if plan.promotion is None:
        return None
    judged = plan.promotion
    return {"mode": judged.furthest, "coverage": judged.coverage, "decisions": judged.decisions}


def command_records(
    plan: Record,
    policy: Policy,
    prices: Mapping[str, Record],
    before: Mapping[str, int],
    observed: Mapping[str, Record],
    key: SigningKey,
    zone_share: float | None = None,
) -> list[Record]:
    """Signed commands for what a plan changes or asks for again, growth first; none in modes that issue none.

    Args:
        plan: its record.
        prices: by offer.
        before: counts of the offers that are commanded, as they were before.
        observed: by offer, what the plan started from.
        key: signs.
        zone_share: of replicas on shared nodes, most of them in one zone; None: no limit.
    """
    if plan["mode"] in ("shadow", "paused"):
        return []
    desired = {count["offer_id"]: count["desired"][0] for count in plan["counts"]}
    changed = sorted(before, key=lambda offer: (desired[offer] < before[offer], offer))
    tick = Tick(plan["tick"], plan["tick_s"])
    on_nodes: dict[str, Any] = {}
    if commands.REPLICAS in changed:
        on_nodes = {
            "resources": policy.unit,
            "group": plan["allocation_group"],
            "priority": policy.priority,
            "zone_share": zone_share,
        }
    specs = (
        commands.CommandSpec(
            plan_id=plan["plan_id"],
            order=order,
            target=commands.Target(
                prices[offer]["provider"],
                f"{plan['app']}/{offer}",
                kind="REPLICAS" if offer == commands.REPLICAS else "NODES",
                region=prices[offer]["region"],
            ),
            desired=desired[offer],
            bounds=(0, max(desired[offer], policy.limit)),
            epoch=tick.number,
            issued_tick=tick.number,
            issued_s=tick.end_s,
            lifetime_s=lifetime_s(tick.length_s),
            drain_s=policy.drain_s if desired[offer] < before[offer] else 0.0,
            expected_generation=observed[offer]["generation"] if offer in observed else None,
            **(on_nodes if offer == commands.REPLICAS else {}),
        )
        for order, offer in enumerate(changed)
    )
    return [commands.build(spec, key) for spec in specs]


def in_order(issued: Iterable[tuple[Sequence[Record], Mapping[str, int]]]) -> list[Record]:
    """Commands of several plans in the order of their change (`commands.turn`), each plan's in its own.

    Args:
        issued: commands of each plan, and the counts before, by offer.
    """
    turns = [
        (commands.turn(command, grows=command["desired"] >= before[command["offer_id"]]), command)
        for of, before in issued
        for command in of
    ]
    return [command for _, command in sorted(turns, key=lambda item: item[0])]
