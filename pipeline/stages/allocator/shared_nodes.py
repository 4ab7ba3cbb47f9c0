"""Apps of an allocation group that share nodes: the nodes for what they need together, then each app's replicas.

A group whose policy says `nodes = "shared"` is planned as one more app, whose demand is what its apps' whole replicas
ask for: it has a promise and guard rails as any app has. Its scenarios are of its apps' reconciled ones, and are moved
by what came of its own promises alone. Its apps are planned for replicas, as if these were offers of one replica each;
where the nodes that serve do not carry what all of them want, the room is divided (`models.nodes.division`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

import numpy as np

from models.capacity import Offer, Policy, replicas_per_instance
from models.metrics import EVENT_KINDS, METRICS
from models.nodes.division import divided
from models.nodes.joint_need import Demand as JointDemand
from models.nodes.joint_need import Need, common, joint_need, quantum, shares
from models.nodes.packing import fits
from models.planning.allocate import DecisionContext, Plan, promised
from models.planning.groups import STANDING, Member
from models.planning.guardrails import REPORTING_SHARE
from pipeline.stages.allocator.decide import AppState, telemetry_of
from pipeline.stages.allocator.pool import PairedApps, Pool
from pipeline.wire.codec import Record
from pipeline.wire.commands import REPLICAS
from pipeline.wire.demand import Demand, TelemetryShare

PARTS: Final = 8
"""Units in which a group is planned, in its smallest node."""
LEARNT_S: Final = 6 * 3600
"""Time for which what packing loses, and the proportions of a unit, stay as they were learnt."""
FRAGMENTED_S: Final = 24 * 3600
"""Time in which half of what running replicas were seen to lose of the nodes' room is forgotten."""
UNLIMITED: Final = 1_000_000
"""Units of a group at most: its offers, quotas and budget bound it."""


def at_one_provider(
    group: Policy, apps: Mapping[str, Policy], prices: Mapping[str, Record], commanded: Mapping[str, int]
) -> dict[str, Record]:
    """Records `price` of the offers that a group's nodes are bought of: of one provider, as an app's replicas are.

    It is that of which most nodes are commanded; before there are any, that which is cheapest for its apps.

    Args:
        group: policy of the group.
        apps: policies of its apps.
        prices: of the group's offers.
        commanded: nodes by offer.
    """

    def turn(provider: str) -> tuple[int, Decimal, str]:
        of = [node for node in allowed if node["provider"] == provider]
        cheapest = (min(_cost(policy, node) for node in of) for policy in apps.values())
        return -sum(commanded.get(node["offer_id"], 0) for node in of), sum(cheapest, Decimal(0)), provider

    allowed = [
        node
        for node in prices.values()
        if node["provider"] in (group.providers or [node["provider"]])
        and node["region"] in (group.regions or [node["region"]])
    ] or list(prices.values())
    home = min({node["provider"] for node in allowed}, key=turn)
    return {node["offer_id"]: node for node in allowed if node["provider"] == home}


def _cost(policy: Policy, node: Record) -> Decimal:
    """Of a replica per hour, by its share of a node."""
    room = {amount["metric"]: amount["value"] for amount in node["capacity"]}
    share = max((size / room[m] for m, size in policy.unit.items() if room.get(m)), default=1.0)
    return node["price"] * Decimal(share)


def replica_offer(policy: Policy, nodes: Mapping[str, Record]) -> Record:
    """The record `price` of a replica on shared nodes: what it takes of the node that carries it cheapest.

    Args:
        policy: of the app.
        nodes: records `price` of the offers of `at_one_provider`, at least one.
    """
    cheapest = min(nodes.values(), key=lambda node: (_cost(policy, node), node["offer_id"]))
    startup = policy.replica_startup_s
    return cheapest | {
        "offer_id": REPLICAS,
        "zone": "",
        "tier": "ON_DEMAND",
        "capacity": [{"metric": metric, "value": value} for metric, value in policy.unit.items()],
        "reserved_overhead": [],
        "price": _cost(policy, cheapest),
        "startup_p50_s": startup,
        "startup_p90_s": startup,
        "startup_p99_s": startup,
        "launch_failure": 0.0,
        "interruption": 0.0,
        "pool": "",
        "owned_count": None,
        "commitment_id": None,
        "commitment_end": None,
        "quota_group": None,
        "quota_limit": None,
    }


def on_shared_nodes(policy: Policy) -> Policy:
    """An app's policy as its replicas follow it: what bounds a purchase of instances is the group's."""
    return replace(
        policy,
        providers=(),
        regions=(),
        min_on_demand=0.0,
        zone_share=None,
        pool_loss=0.0,
        learner=False,
    )


def commanded(kept: AppState, offer: str | None = None) -> int:
    """Instances that an app's last plan commanded, of one offer or of all."""
    counts = kept.memory.get("counts", {})
    return sum(counts.values()) if offer is None else counts.get(offer, 0)


def standing(policy: Policy, kept: AppState, demand: Demand) -> Policy:
    """An app's policy with what needs room whatever its demand as its minimum and maximum.

    Replicas of an app that is paused, and those whose number somebody else set and that are left alone, stand as they
    are; of the latter no more than the policy's maximum have room. Where none may be released, by the policy or because
    too little was heard of the app, none go.
    """
    stand = commanded(kept, REPLICAS)
    if policy.mode == "paused":
        return replace(policy, min=stand, max=stand, beyond_max=0.0)
    within = min(stand, policy.limit)
    if policy.on_conflict == "hold" and kept.memory.get("orders", {}).get(REPLICAS, {}).get("held"):
        return replace(policy, min=within, max=within, beyond_max=0.0)
    stays = policy.scale_down == "never" or any(telemetry_of(demand, policy).withheld())
    return replace(policy, min=max(policy.min, within)) if stays else policy


@dataclass(frozen=True)
class Bound:
    """Replicas of an app where the nodes carry fewer than its own plan wants.

    Attributes:
        replicas: to be commanded.
        wanted: by its own plan.
        why: the present usage fills more than the nodes have room for, and why; empty: what is lessened is margin.
    """

    replicas: int
    wanted: int
    why: str


class SharedNodes:
    """What is kept of one group from tick to tick.

    Args:
        kept: of the group, as one more app.
        seed: of the installation.

    Attributes:
        last: whole replicas that each app's demand filled when it was measured last, within its policy's bounds.
        policy_version: of the group's policy that is followed.
        basis: what was learnt of packing: {key, unit by metric, loss by offer}.
        fragmented: the nodes' room over what running replicas, which do not move, were seen to use of it; at least 1.
    """

    def __init__(self, kept: AppState, seed: int) -> None:
        self.kept, self.seed = kept, seed
        self.paired = PairedApps(Pool.of({}), seed)
        self.last: dict[str, float] = {}
        self.policy_version = 0
        self.basis: dict[str, Any] = {}
        self.fragmented = 1.0

    def observe(self, tick: int, policies: Mapping[str, Policy], demands: Mapping[str, Demand]) -> Demand:
        """Learn from a tick; its usage as that of one more app, of which the scenarios are still to be made.

        An app that was not measured is taken to need what it needed last; nothing is released meanwhile.

        Args:
            tick: its number.
            policies: of the group's apps, as `standing` has them.
            demands: of these.
        """
        pool = Pool.of(policies)
        self.paired = self.paired.moved(pool)
        usage = np.array([demands[app].usage for app in pool.apps])[None]
        filled = pool.filled(usage)[0]
        whole = np.where(np.isnan(filled), np.nan, pool.whole(usage)[0])
        known = np.array([demands[app].representative for app in pool.apps])
        self.paired.observe(tick, np.where(known, filled, np.nan))
        self.last = {
            app: min(
                max(self.last.get(app, 0.0) if np.isnan(n) else n, policies[app].min), policies[app].limit
            )
            for app, n in zip(pool.apps, whole.tolist(), strict=True)
        }
        counts = np.array([self.last[app] for app in pool.apps])
        held = [np.nansum(demands[app].saturated) > 0 for app in pool.apps]
        requested = pool.size.any(axis=0)
        return Demand(
            scenarios=np.zeros((64, 0, 0), np.float32),
            metrics=pool.resources,
            usage=np.where(requested, counts @ pool.size, np.nan),
            saturated=np.where(requested, (counts * held) @ pool.size, np.nan),
            rates=np.full(len(EVENT_KINDS), np.nan),
            users=len(known),
            reporting=len(known) if known.any() else 0,  # what the others needed last is as good as measured
            records=TelemetryShare(used=1.0 if known.all() else REPORTING_SHARE),
        )

    def demand(
        self, tick: int, contexts: Mapping[str, DecisionContext], window: slice, steps: Sequence[int]
    ) -> JointDemand:
        """Scenarios of what the apps need together, each within its policy's bounds.

        An app of which nobody reports needs what it needed last.

        Args:
            tick: number of the tick at whose end is decided.
            contexts: of the apps' own decisions.
            window: steps that the promise for the nodes covers.
            steps: ticks ahead of each step.
        """
        joint = self.paired.demand(tick, contexts, window, steps)
        for a, (app, policy) in enumerate(zip(self.paired.pool.apps, self.paired.pool.policies, strict=True)):
            np.minimum(joint.replicas[a], policy.limit, out=joint.replicas[a])
            if contexts[app].telemetry.reporting == 0:
                joint.replicas[a] = int(self.last[app])
        return joint

    def observe_placement(
        self,
        offers: Sequence[Offer],
        nodes: Mapping[str, Record],
        replicas: Mapping[str, Record],
        tick_s: int,
    ) -> None:
        """Learn how much room is left unused where replicas find no node: new packing would move those that run.

        It is at most what a node may have left over where the largest replica does not fit.

        Args:
            offers: of the group.
            nodes: records `capacity_observed` of the group, by offer.
            replicas: those of its apps' replicas, by app.
            tick_s: tick length in seconds.
        """
        self.fragmented = 1 + (self.fragmented - 1) * 0.5 ** (tick_s / FRAGMENTED_S)
        unplaced = any(of["pending"] > 0 and of["reason"] for of in replicas.values())
        if not unplaced or any(of["pending"] > 0 for of in nodes.values()):
            return
        pool = self.paired.pool
        serving = [offer for offer in offers if nodes.get(offer.offer_id, {}).get("ready", 0) > 0]
        counts = np.array([nodes[offer.offer_id]["ready"] for offer in serving], np.float64)
        placed = {app: of["ready"] + len(of["pending_ready_s"]) for app, of in replicas.items()}
        running = np.array([placed.get(app, 0) for app in pool.apps])
        room = pool.room(serving)
        if not room.size or not pool.apps:
            return
        used = float(np.max(running @ pool.requests / (counts @ room), initial=0.0))
        largest = float(np.max(pool.requests.max(axis=0) / room.min(axis=0), initial=0.0))
        self.fragmented = max(self.fragmented, 1 / max(used, 1 - largest, 0.5))

    def nodes(
        self,
        offers: Sequence[Offer],
        joint: JointDemand,
        window: slice,
        confidence: float,
        now_s: float,
    ) -> tuple[list[Offer], Need]:
        """The offers with what packing leaves of them, and what the apps need of them; learnt anew now and then.

        An offer that does not carry a replica of every app that the group's nodes carry is not bought.
        """
        pool = self.paired.pool
        room = pool.room(offers)
        need = joint_need(joint, room, window, confidence, (self.seed, self.kept.name, "packing"))
        key = json.dumps(
            [
                int(now_s // LEARNT_S),
                pool.size.tolist(),
                [[offer.offer_id, *amounts] for offer, amounts in zip(offers, room.tolist(), strict=True)],
            ]
        )
        if self.basis.get("key") != key:
            lost = {
                offer.offer_id: factor
                for offer, factor, carries in zip(
                    offers, need.factor.tolist(), need.carries.tolist(), strict=True
                )
                if carries
            }
            left = (room / np.nan_to_num(need.factor, nan=1.0)[:, None])[need.carries]
            peak = np.quantile(joint.fluid[:, window].max(axis=1), confidence, axis=0)
            unit = quantum(np.maximum(peak, pool.requests.sum(axis=0)), left, PARTS)
            self._rescale(dict(zip(pool.resources, unit.tolist(), strict=True)))
            self.basis = {
                "key": key,
                "lost": lost,
                "unit": dict(zip(pool.resources, unit.tolist(), strict=True)),
            }
        lost = {offer: max(factor, self.fragmented) for offer, factor in self.basis["lost"].items()}
        carrying = [
            replace(
                offer,
                allocatable={
                    m: v / lost[offer.offer_id] for m, v in offer.allocatable.items() if m in pool.resources
                },
            )
            if offer.offer_id in lost
            else replace(offer, ended=offer.ended or self._unfit(offer))
            for offer in offers
        ]
        return carrying, need

    def _rescale(self, unit: Mapping[str, float]) -> None:
        """Other units: what was wanted within the hold time is counted in them."""
        before = self.basis.get("unit", {})
        ratio = max((before[m] / unit[m] for m in before if unit.get(m)), default=1.0)
        if "desired" in self.kept.memory:
            wanted = [[at, int(np.ceil(count * ratio))] for at, count in self.kept.memory["desired"]]
            self.kept.memory = {**self.kept.memory, "desired": wanted}

    def _unfit(self, offer: Offer) -> str:
        """Why a node of an offer is not bought for the group."""
        pool = self.paired.pool
        for app, size in zip(pool.apps, pool.requests.tolist(), strict=True):
            for metric, amount in zip(pool.resources, size, strict=True):
                if amount > offer.allocatable.get(metric, 0.0):
                    has = (
                        f"has {offer.allocatable[metric]:g}" if metric in offer.allocatable else "names none"
                    )
                    return f"a replica of {app} takes {amount:g} {metric}, and a node {has}"
        return "it does not carry a replica of every app"

    def policy(self, group: Policy, *, ending: bool) -> Policy:
        """The group's policy in its units; ending: its apps have left the nodes, which are released.

        The nodes are as spread over zones as the app asks for that asks for most.
        """
        pool = self.paired.pool
        spread = [of.zone_share for of in (group, *pool.policies) if of.zone_share is not None]
        unit = {metric: amount for metric, amount in self.basis["unit"].items() if amount > 0}
        if not unit:  # no node carries anything
            unit = dict(zip(pool.resources, pool.requests.max(axis=0, initial=0.0).tolist(), strict=True))
        return replace(
            group,
            app=self.kept.name,
            governed=tuple(unit),
            unit=unit,
            overhead={},
            base={},
            target_utilisation={},
            rps_per_replica=None,
            min=0,
            max=0 if ending else UNLIMITED,
            beyond_max=0.0,
            max_up=None,
            max_down=None,
            learner=False,
            zone_share=min(spread, default=None),
        )

    def divided(
        self,
        nodes: Plan,
        offers: Sequence[Offer],
        ready: Mapping[str, int],
        alone: Mapping[str, Plan],
        needed: Mapping[str, np.ndarray],
        policies: Mapping[str, Policy],
    ) -> dict[str, Bound]:
        """By app, the replicas of those that cannot have what their own plans want on the nodes that serve and stay.

        Args:
            nodes: plan of the nodes.
            offers: of the group, with the room that their nodes have.
            ready: nodes that serve, by offer; of one that is absent, all that are commanded are taken to.
            alone: plan of each app by itself.
            needed: (scenario) most replicas of each app in its window.
            policies: of the apps.
        """
        pool = self.paired.pool
        if not pool.apps:
            return {}
        stay = [nodes.counts.get(offer.offer_id, (0,))[0] for offer in offers]
        counts = [min(n, ready.get(offer.offer_id, n)) for offer, n in zip(offers, stay, strict=True)]
        wanted = np.array([alone[app].counts.get(REPLICAS, (0,))[0] for app in pool.apps], np.int64)
        scenarios = max(len(of) for of in needed.values())  # of an app of which nobody reports they are fewer
        floor = [max(alone[app].reactive_floor, policies[app].min) for app in pool.apps]
        for a, app in enumerate(pool.apps):
            if STANDING & set(alone[app].guardrails):
                floor[a] = int(wanted[a])
        division = divided(
            wanted,
            np.array(floor, np.int64),
            np.stack([np.resize(needed[app], scenarios) for app in pool.apps]),
            pool.replicas,
            pool.nodes(offers, np.array(counts)),
        )
        return {
            app: Bound(int(division.replicas[a]), int(wanted[a]), division.reasons[a])
            for a, app in enumerate(pool.apps)
            if division.bounded[a] or division.reasons[a]
        }

    def parts(self, joint: JointDemand, need: Need, window: slice, confidence: float) -> list[Record]:
        """Whose need the nodes are, by app, all as shares of what the group needs: the field `parts` of its plan."""
        of = shares(joint, need, window, confidence)
        total = max(of.joint, 1e-12)
        tail, mean = (amounts / max(float(amounts.sum()), 1e-12) for amounts in (of.tail, of.mean))
        columns = (of.own / total, of.adds / total, tail, mean)
        names = ("own", "adds", "tail", "mean")
        return [
            {"app": app} | dict(zip(names, row, strict=True))
            for app, row in zip(self.paired.pool.apps, np.stack(columns, axis=1).tolist(), strict=True)
        ]

    def blocks(self) -> dict[str, np.ndarray]:
        """For a snapshot, without `kept`."""
        words = {"apps": list(self.paired.pool.apps), "last": self.last, "basis": self.basis}
        words |= {"policy_version": self.policy_version, "fragmented": self.fragmented}
        return {"words": np.frombuffer(json.dumps(words).encode(), np.uint8), **self.paired.blocks()}

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""
        words = json.loads(blocks["words"].tobytes())
        self.last, self.basis, self.policy_version = words["last"], words["basis"], words["policy_version"]
        self.fragmented = words.get("fragmented", 1.0)  # of a snapshot before it was kept
        self.paired = PairedApps(
            Pool(words["apps"], (), np.zeros((len(words["apps"]), len(METRICS)))), self.seed
        )
        self.paired.restore(blocks)


def offers_of_app(
    policy: Policy,
    prices: dict[str, Record],
    nodes: Mapping[str, Record],
    observed: Mapping[str, Record],
    *,
    shared: bool,
    lacking: str,
) -> tuple[dict[str, Record], dict[str, str]]:
    """Records `price` of what an app may have, by offer, and why some of them are not bought any more.

    Where a group begins or ends to share nodes, what its apps have of the other kind stays until the new one serves.

    Args:
        policy: of the app.
        prices: of its group's offers; where it leaves its group, of those of the next.
        nodes: of its group's offers, those that shared nodes are of; empty: it neither shares any nor did.
        observed: records `capacity_observed` of the app.
        shared: whether its group shares nodes.
        lacking: why the group's nodes carry no replica of the app; empty: they do.
    """
    running = {offer for offer, record in observed.items() if record["ready"] + record["pending"] > 0}
    if shared:
        own = {offer: price for offer, price in prices.items() if offer in running}
        ended = dict.fromkeys(own, "its group shares nodes")
        return {REPLICAS: replica_offer(policy, nodes), **own}, ended | (
            {REPLICAS: lacking} if lacking else {}
        )
    if REPLICAS in running and (nodes or prices):
        ended = {REPLICAS: "it shares no nodes any more"}
        return {**prices, REPLICAS: replica_offer(policy, nodes or prices)}, ended
    return prices, {}


def not_carried(policies: Mapping[str, Policy], offers: Sequence[Offer]) -> dict[str, str]:
    """Why a group's nodes carry no replica of an app, by app; apps that they carry are absent.

    Args:
        policies: of the group's apps.
        offers: of the group.
    """
    pool = Pool.of(policies)
    usable = [offer for offer in offers if not offer.ended]
    on, _ = common(fits(pool.requests, pool.room(usable)))
    lacking = {}
    for app, fit, size in zip(pool.apps, on.tolist(), pool.requests.tolist(), strict=True):
        if not fit:
            takes = " and ".join(f"{v:g} {m}" for m, v in zip(pool.resources, size, strict=True) if v)
            takes = takes or "no resource (its policy has no unit)"
            lacking[app] = f"no node of the group carries a replica of {takes} beside the other apps'"
    return lacking


def needed(
    context: DecisionContext, policy: Policy, offers: Sequence[Offer], steps_s: Sequence[int]
) -> np.ndarray:
    """(scenario) most replicas that an app needs in the window of its own plan."""
    window, _ = promised(offers, policy, steps_s, context.metrics, context.actuation_s)
    return context.replicas(context.demand[:, window], policy).max(axis=1, initial=0)


def bounded(plan: Plan, nodes: Plan, alone: Plan, bound: Bound) -> Plan:
    """An app's plan with fewer replicas than its own plan wants: kept where the plan of the group's nodes is.

    Not where its own plan, `alone`, is not: its replicas do not come, or its demand is not known.
    """
    why = "; ".join(text for text in (bound.why, "" if alone.feasible else alone.reason) if text)
    reason = (
        f"{plan.confidence_planned:.2%} of the scenarios are served, {plan.confidence_asked:.4g} asked: "
        f"{bound.replicas} of {bound.wanted} replicas that are wanted, as the room of the group's nodes is divided"
    )
    return replace(
        plan,
        guardrails=("shared_nodes", *(name for name in plan.guardrails if name != "maximum")),
        feasible=nodes.feasible and not why,
        reason=f"{reason}; {why}" if why else reason,
    )


def on_own_instances(app: Member) -> int:
    """Replicas that an app's own instances carry, which stay until those on shared nodes serve."""
    return sum(
        app.running.get(offer.offer_id, 0) * replicas_per_instance(offer, app.policy)
        for offer in app.offers
        if offer.offer_id != REPLICAS
    )


def released(plan: Plan) -> Plan:
    """The plan of nodes whose apps have instances of their own again."""
    return replace(
        plan,
        feasible=True,
        guardrails=tuple(name for name in plan.guardrails if name != "maximum"),
        reason="the group shares no nodes any more, and its apps have instances of their own",
    )
