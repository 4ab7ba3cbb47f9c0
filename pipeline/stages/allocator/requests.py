"""What a plan of an app, or of a group's shared nodes, is decided from, and what it publishes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy
from models.evaluation import need
from models.learning import need_curve
from models.planning import groups
from models.planning.sweep import NeedCurve
from models.tick import Tick
from pipeline.stages.allocator import decide as planning
from pipeline.stages.allocator import shared_nodes
from pipeline.stages.allocator.following import Followed
from pipeline.stages.allocator.shared_nodes import SharedNodes
from pipeline.wire.codec import Record
from pipeline.wire.demand import Demand


@dataclass(frozen=True)
class PlanRequest:
    """Inputs of one app's plan, except its share of the limits that its allocation group has in common.

    Attributes:
        member: the app as a member of its group.
        decide: allocates the app's scenarios.
        users: number of users that have a forecast.
        refused: number of the app's records refused since the tick before, by reason.
        stopped: number of its series that stopped while others of their user report.
        usage: (METRICS) measured demand of the tick, NaN = not measured.
        budget: of the whole group per hour, None = unlimited.
        metrics: names of those forecast.
        prices: records `price` by offer.
        observed: records `capacity_observed` by offer.
        followed: offers for which observations are expected.
        versions: of the inputs, the field of the plan's record.
        currency: of the offers.
        level, parts: of the plan's record.
        nodes: of a group that shares them, the offers with the room that a node has; the member's have what packing
            leaves of it.
        zone_share: of replicas on shared nodes, most of them in one zone; None: no limit.
        evidence: what the learner needs to know of the tick; None: the policy follows none.
    """

    member: groups.Member
    decide: planning.Decide
    users: int
    refused: tuple[tuple[str, int], ...]
    stopped: int
    usage: NDArray[np.float64]
    budget: float | None
    metrics: tuple[str, ...]
    prices: dict[str, Record]
    observed: dict[str, Record]
    followed: frozenset[str]
    versions: Record
    currency: str
    evidence: Evidence | None = None
    level: str = "INSTANCES"
    parts: Sequence[Record] = ()
    nodes: Sequence[Offer] = ()
    zone_share: float | None = None


@dataclass(frozen=True)
class PlanRecords:
    """What a plan publishes.

    Attributes:
        plan, commands: records.
        before: counts before, by offer that is commanded.
    """

    plan: Record
    commands: Sequence[Record]
    before: Mapping[str, int]


@dataclass(frozen=True)
class Pooled:
    """A group that shares nodes in a tick.

    Attributes:
        pool: its state.
        record: of the group's policy that is followed.
        policies: of the apps whose replicas its nodes carry, with what needs room of these as minimum and maximum.
        nodes: records `price` of the offers that they are of.
        lacking: why they carry none of another app, by app.
        demand: of the group as one app, without scenarios.
        leaving: apps that are to be in another group; they stay until instances of their own serve.
        shared: whether its policy says so; else its apps are going back to instances of their own.
        ending: whether they have, so that the nodes are released.
    """

    pool: SharedNodes
    record: Record
    policies: Mapping[str, Policy]
    nodes: Mapping[str, Record]
    lacking: Mapping[str, str]
    demand: Demand
    leaving: frozenset[str]
    shared: bool
    ending: bool


@dataclass(frozen=True)
class Evidence:
    """What a plan publishes for the learner.

    Attributes:
        curve: replicas that the app needs at each price, by arm; None: nobody of the app has a forecast.
        need: replicas that the tick's demand filled; None: not known.
        realised_share: of the adjustment that is followed.
    """

    curve: NeedCurve | None
    need: float | None
    realised_share: float | None


def divide(
    pooled: Pooled, nodes: PlanRequest, requests: Mapping[str, PlanRequest], at: Tick
) -> dict[str, groups.Decision]:
    """Plan a group's nodes, then the replicas of its apps, with the nodes' room divided where it is too little."""
    pool, member = pooled.pool, nodes.member
    plan, memory = member.decide(member.offers, member.policy, False)
    if pooled.ending:
        plan = shared_nodes.released(plan)
    decided = {pool.kept.name: groups.Decision(plan, memory, {})}
    for app, request in requests.items():
        of = request.member
        decided[app] = groups.Decision(*of.decide(of.offers, of.policy, False), {})
    if not pooled.shared or pooled.lacking.keys() >= pooled.policies.keys():
        return decided
    members = {app: requests[app].member for app in pooled.policies}
    need_of = {
        app: shared_nodes.needed(requests[app].decide.args[0], of.policy, of.offers, at.steps_s)
        for app, of in members.items()
    }
    alone = {app: decided[app].plan for app in members}
    observed = {
        offer: nodes.observed[offer]["ready"] for offer in nodes.followed if offer in nodes.observed
    } | dict.fromkeys(nodes.followed - nodes.observed.keys(), 0)
    for app, bound in pool.divided(plan, nodes.nodes, observed, alone, need_of, pooled.policies).items():
        if app in pooled.leaving:  # its replicas stand until its own instances serve
            continue
        of = members[app]
        most = bound.replicas + shared_nodes.on_own_instances(of)
        least = replace(of.policy, max=most, beyond_max=0.0, min=min(of.policy.min, most))
        limited, after = of.decide(of.offers, least, False)
        decided[app] = groups.Decision(shared_nodes.bounded(limited, plan, alone[app], bound), after, {})
    return decided


def evidence_of(
    decisions: Sequence[planning.Decide],
    followed: Followed,
    offers: Sequence[Offer],
    policy: Policy,
    demand: Demand,
) -> Evidence:
    """What the learner needs to know of a tick; decisions: by the experts of `followed`.

    The need is not known where a governed metric was not reported or too little of it was heard.
    """
    contexts = {weights: decide.args[0] for weights, decide in zip(followed.experts, decisions, strict=True)}
    context = decisions[0].args[0]
    telemetry, filled = context.telemetry, math.nan
    if telemetry.representative and not telemetry.unreported:
        filled = need.of_tick(context.usage, context.saturated, context.metrics, policy)
    curve = None
    if demand.users:
        curve = need_curve.of(contexts, offers, policy)
    return Evidence(curve, filled if math.isfinite(filled) else None, followed.realised_share)
