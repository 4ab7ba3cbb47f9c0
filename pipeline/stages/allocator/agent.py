"""Stage 4: turns the scenarios of all shards into a forecast of each app's total, a plan and signed commands.

Once a tick is complete (see `barrier`), for each app by name: step the app's total with the same behaviour model as
users, reconcile the scenarios with that forecast, and allocate; apps of one allocation group are planned together
(`models.planning.groups`). Only complete ticks are planned, in order. A plan for tick t starts from the capacity
observed at t - 1; in a replay the allocator waits for that observation, so that plans are a function of the topics.
It waits likewise for the learner's adjustment that holds at t (`following`): one is made at the end of each epoch for
every app whose policy has had the learner on since before that end. Live it never waits for the learner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b

from confluent_kafka import Message

from models.behaviour.lstm import BehaviourModel
from models.capacity import Offer, Policy
from models.demand import reconciliation
from models.metrics import horizon_steps
from models.planning import groups
from models.purchase import promise_window
from models.quantile_function import QuantileFunction
from models.supply.offers import learnt
from models.tick import Tick
from pipeline.inputs.store import SideInputs
from pipeline.kafka import reader
from pipeline.logs import Episodes, get_logger
from pipeline.runtime import metrics
from pipeline.runtime.fenced_state import Publish
from pipeline.security.pseudonyms import PSEUDONYM_BYTES, partition_of
from pipeline.security.signing_keys import SigningKey
from pipeline.settings import Settings
from pipeline.stages.allocator import decide as planning
from pipeline.stages.allocator import plan_metrics, shared_nodes, snapshot
from pipeline.stages.allocator.barrier import Barrier
from pipeline.stages.allocator.decide import AppState
from pipeline.stages.allocator.following import Adjustments
from pipeline.stages.allocator.requests import (
    PlanRecords,
    PlanRequest,
    Pooled,
    divide,
    evidence_of,
)
from pipeline.stages.allocator.shared_nodes import SharedNodes, commanded
from pipeline.wire import currencies, packed, plans, policies
from pipeline.wire.codec import Codec, Record
from pipeline.wire.commands import REPLICAS
from pipeline.wire.demand import STOPPED, Demand, TelemetryShare
from pipeline.wire.forecasts import forecast_records

REPLAY_WAIT_S = 3600.0
"""Longest wait of a replay for an observation: an actuator that restarts is back within seconds."""
_LOG = get_logger()


class Allocator:
    """Plans the apps of one partition of `scenarios`; `pipeline.runtime.fenced_state.Agent` calls its methods.

    Args:
        shard: number of the partition.
        model: the behaviour model, for apps' totals.
        inputs: policies, prices and observed capacity.
        codec: encodes and decodes records.
        publish: publishes forecasts, plans, commands and notices.
        key: signs commands.
        settings: of the installation.
    """

    def __init__(
        self,
        shard: int,
        model: BehaviourModel,
        inputs: SideInputs,
        codec: Codec,
        publish: Publish,
        key: SigningKey,
        settings: Settings,
    ) -> None:
        self.shard, self.model, self.inputs, self.codec, self.publish = shard, model, inputs, codec, publish
        self.key, self.settings = key, settings
        self.adjustments = Adjustments(inputs)
        self.barrier = Barrier(settings.partitions)
        self.apps: dict[str, AppState] = {}
        self.pools: dict[str, SharedNodes] = {}
        self.seq, self.tick_s = 0, settings.tick_s
        self.common = reconciliation.initial_common()
        self.pinned: dict[str, Record] = {}
        self.noticed: int | None = None
        self.waiting: tuple[int, bool, float, float] | None = None
        self.warned: set[tuple[str, str]] = set()
        self.troubled = Episodes[tuple[str, str]]()
        self.undelivered: dict[tuple[str, str], str] = {}

    @property
    def done(self) -> int:
        """Number of the last tick that was planned, -1 before the first."""
        return -1 if self.barrier.planned is None else self.barrier.planned

    def fold(self, value: bytes) -> int | None:
        """Add a scenario or marker record, then plan every tick that is complete with it.

        Returns:
            The record's tick; None for a repeat or a tick that was planned already.
        """
        name, record = self.codec.decode(value)
        if not self.barrier.add(name, record):
            return None
        self.tick_s = record["tick_s"]
        self._plan_ready()
        return record["tick"]

    def _plan_ready(self) -> None:
        """Plan the ticks that are complete, in order, up to one that lacks an adjustment."""
        while (tick := self.barrier.next_tick()) is not None and not self.barrier.missing(tick):
            if not self._adjusted(tick):
                return
            self._plan(tick, self.barrier.pop(tick))

    def _adjusted(self, tick: int) -> bool:
        """Whether the adjustments of a tick's plans are there, or not to be waited for: live none is."""
        if not self.settings.event_time:
            return True
        for app, kept in sorted(self.apps.items()):
            if kept.learner_since is None or f"{app}@{tick}" in self.pinned:
                continue
            version = self.adjustments.awaited(kept.learner_since, tick, self.tick_s)
            if version is not None and not self.adjustments.came(app, version):
                return False
        return True

    def hold(self, now_s: float, wall_s: float) -> None:
        """Publish a hold notice per group when the next tick has waited for `hold_after_s`; commands stand meanwhile.

        Live, a tick for which no shard has sent anything is noticed too, one tick length later. A tick that waits for
        an adjustment is planned if that has come.

        Args:
            now_s: monotonic seconds, so that a jump of the wall clock causes no notice.
            wall_s: Unix seconds, for the notice's `since`.
        """
        if self.adjustments.lacking is not None:
            self.adjustments.give_up(now_s)
            self._plan_ready()
            return
        tick, begun = self.barrier.next_tick(), True
        if tick is None and self.barrier.planned is not None and not self.settings.event_time:
            tick, begun = self.barrier.planned + 1, False
        if tick is None or tick == self.noticed:
            return
        if self.waiting is None or self.waiting[:2] != (tick, begun):
            self.waiting = (tick, begun, now_s, wall_s)
        elif now_s - self.waiting[2] >= self.settings.hold_after_s + (0 if begun else self.tick_s):
            self.noticed = tick
            groups_of = {app.group for app in self.apps.values()} | self.barrier.groups(tick)
            for group in sorted(groups_of):
                notice = {
                    "allocation_group": group,
                    "tick": tick,
                    "missing": self.barrier.missing(tick),
                    "since": int(self.waiting[3] * 1e6),
                }
                self.publish("hold.notices", "hold_notice", notice, partition=self.shard, key=group)

    def _plan(self, tick: int, scenarios: Mapping[str, list[Record]]) -> None:
        now = Tick(tick, self.tick_s)
        demands = self._demands(now, scenarios)
        if self.apps:
            self._plan_apps(demands, now)
            self.seq += 1
        if not self.settings.event_time:
            plan_metrics.show_due(self.shard, now, self.settings.allowed_lateness_s)

    def _demands(self, at: Tick, scenarios: Mapping[str, list[Record]]) -> dict[str, Demand]:
        """Demand of each app in a tick, without silent users who were replaced; new apps are known after it."""
        telemetry = self.barrier.telemetry.pop(at.number, [])
        for name in sorted(scenarios.keys() & self.pools.keys()):
            self._warn(name, "app is not planned", "a group that shares nodes has its name", at.number)
        scenarios = {app: parts for app, parts in scenarios.items() if app not in self.pools}
        demands = {app: Demand.of(parts) for app, parts in scenarios.items()}
        for app, parts in scenarios.items():
            if app not in self.apps:
                managed = bool(self.inputs.observed(app, at.number))
                group = parts[0]["allocation_group"]
                state = self.model.initial_state(1)
                self.apps[app] = AppState(app, group, state, reconciliation.initial_state(), {}, managed)
        for app in self.apps.keys() - demands.keys():  # no user reported: what is commanded stands
            demands[app] = Demand.silent(self.apps[app].metrics, len(at.steps_s))
        demands = {app: d.with_telemetry(TelemetryShare.of(app, telemetry)) for app, d in demands.items()}
        for app, kept in self.apps.items():
            after, demands[app] = planning.settled(kept.reconciled, demands[app], self.tick_s)
            kept.reconciled = kept.reconciled | after
        return demands

    def _plan_apps(self, demands: dict[str, Demand], now: Tick) -> None:
        """Plan all apps, and the nodes of groups that share them."""
        for app, kept in sorted(self.apps.items()):
            if not (kept.group in self.pools and commanded(kept, REPLICAS)):
                kept.group = self._group_of(app, now.number)
        apps_of: dict[str, list[str]] = {}
        for app, kept in sorted(self.apps.items()):
            apps_of.setdefault(kept.group, []).append(app)
        apps_of = dict(sorted(apps_of.items()))
        pools = self._pooled(now, apps_of, demands)
        demands |= {group: of.demand for group, of in pools.items()}
        names = [*sorted(self.apps), *sorted(pools)]
        stepped = self._step_totals(names, demands, now)
        totals = {name: stepped[row] for row, name in enumerate(names)}
        requests = {
            app: self._plan_app(app, demands[app], totals[app], now, pools.get(kept.group))
            for app, kept in sorted(self.apps.items())
        }
        decided: dict[str, groups.Decision] = {}
        for group, apps in apps_of.items():
            of = {app: requests[app] for app in apps}
            if group in pools:
                requests[group] = self._plan_nodes(pools[group], of, totals[group], now)
                decided |= divide(pools[group], requests[group], of, now)
            else:
                members = {app: request.member for app, request in of.items()}
                decided |= groups.together(members, of[min(of)].budget)
        together = [[group, *apps_of[group]] for group in sorted(pools)]
        alone = [[app] for app, kept in sorted(self.apps.items()) if kept.group not in pools]
        for plans_of in [*alone, *together]:
            self._publish_plans(plans_of, requests, decided, now)

    def _step_totals(self, names: list[str], demands: Mapping[str, Demand], tick: Tick) -> QuantileFunction:
        """Step all apps' totals; publish and return their forecasts (app, metric, step)."""
        measured = planning.AppTotals.of([demands[app] for app in names])
        states = {app: self._kept(app) for app in names}
        after, totals, flags = self.model.step(
            planning.together([states[app].state for app in names]),
            measured.estimated,
            measured.events,
            measured.saturated,
            tick=tick.number,
            tick_s=tick.length_s,
        )
        for app, state in planning.apart(after, names).items():
            states[app].state = state
        self.common = planning.observe(states, names, measured, self.common, tick)
        ids = [blake2b(app.encode(), digest_size=PSEUDONYM_BYTES).digest() for app in names]
        frame = {
            "shard": self.shard,
            "seq": self.seq,
            "tick": tick.number,
            "tick_s": tick.length_s,
            "tick_start": tick.start_us,
        }
        for record in forecast_records(
            frame, self.model.model_id, ids, names, totals, flags, measured.values, measured.events
        ):
            self.publish("forecasts.apps", "forecast", record, partition=self.shard, key=str(self.shard))
        return totals

    def _pooled(
        self, at: Tick, apps_of: Mapping[str, list[str]], demands: Mapping[str, Demand]
    ) -> dict[str, Pooled]:
        """The groups that share nodes at a tick, or whose apps are leaving shared ones, each observed as one app.

        apps_of: apps by group, both in order.
        """
        pools: dict[str, Pooled] = {}
        for group, apps in apps_of.items():
            pins = {app: self.pinned.get(f"{app}@{at.number}") for app in apps}
            record = self._group_policy(group, at.number, pins[apps[0]])
            wanted = record is not None and record["nodes"] == "SHARED"
            if not wanted and group not in self.pools:
                continue
            prices = self._prices(group, at.number, pins[apps[0]])
            shared = wanted and bool(prices)
            if not shared and group not in self.pools:
                continue
            if group not in self.pools:
                managed = bool(self.inputs.observed(group, at.number))
                state = self.model.initial_state(1)
                learnt = reconciliation.initial_state()
                kept = AppState(group, group, state, learnt, {}, managed, of_apps=True)
                self.pools[group] = SharedNodes(kept, self.settings.seed)
            pool = self.pools[group]
            pool.policy_version = pool.policy_version if record is None else record["version"]
            ending = not shared and not any(commanded(self.apps[app], REPLICAS) for app in apps)
            if not shared and ((ending and not commanded(pool.kept)) or not prices):
                del self.pools[group]
                continue
            own = {app: policies.policy_of(self._policy(app, at.number, pins[app])) for app in apps}
            offers, _, _ = currencies.offers_of(prices, at, self.settings.price_max_age_s)
            followed = self._policy(group, at.number, {"policy": f"{group}@{pool.policy_version}"})
            nodes = shared_nodes.at_one_provider(
                policies.policy_of(followed),
                own,
                prices,
                pool.kept.memory.get("counts", {}),
            )
            lacking = shared_nodes.not_carried(own, [offer for offer in offers if offer.offer_id in nodes])
            # where they carry none, the plan of the nodes says so of all
            on = {app: policy for app, policy in own.items() if app not in lacking} or own
            on = {
                app: shared_nodes.standing(policy, self.apps[app], demands[app]) for app, policy in on.items()
            }
            demand = pool.observe(at.number, on, demands)
            leaving = frozenset(app for app in apps if self._group_of(app, at.number) != group)
            pools[group] = Pooled(
                pool, followed, on, nodes, lacking, demand, leaving, shared=shared, ending=ending
            )
        return pools

    def _group_of(self, app: str, tick: int) -> str:
        """The group that an app's policy names at a tick, else the app itself.

        Where that is planned in another partition, the group that the app is in.
        """
        policy = self._policy(app, tick, self.pinned.get(f"{app}@{tick}"))
        group = (policy["allocation_group"] if policy["app"] == app else "") or app
        here = partition_of(group, self.settings.partitions) == self.shard
        return group if here else self.apps[app].group

    def _plan_app(
        self, app: str, demand: Demand, total: QuantileFunction, at: Tick, pooled: Pooled | None = None
    ) -> PlanRequest:
        """Inputs of an app's plan at a tick.

        Args:
            app: its name.
            demand: of the tick.
            total: (metric, step) forecast of the app's total.
            at: the tick.
            pooled: the app's group, where it shares nodes.
        """
        kept, tick = self.apps[app], at.number
        leaves = pooled is not None and app in pooled.leaving
        group = self._group_of(app, tick) if leaves else kept.group
        pinned = self.pinned.pop(f"{app}@{tick}", None)
        policy_record = self._policy(app, tick, pinned)
        policy = policies.policy_of(policy_record)
        group_prices = self._prices(group, tick, pinned)
        observed = self._observed(app, kept, tick, pinned)
        shared = pooled is not None and pooled.shared and not leaves
        prices, ended = shared_nodes.offers_of_app(
            policy,
            group_prices,
            {} if pooled is None else pooled.nodes,
            observed,
            shared=shared,
            lacking="" if pooled is None else pooled.lacking.get(app, ""),
        )
        zone_share = policy.zone_share
        if shared:
            policy = shared_nodes.on_shared_nodes(policy)
        expected = self._followed(kept, prices, observed, pinned)
        offers, currency = self._offers(kept, prices, ended, observed, policy, at)
        followed = self.adjustments.followed(
            app, policy, tick, None if pinned is None else pinned["adjustment"]
        )
        if not policy.learner:
            kept.learner_since = None
        elif kept.learner_since is None:
            kept.learner_since = tick
        decisions = planning.decisions(
            kept,
            demand,
            total,
            self.common,
            offers=offers,
            policy=policy,
            tick=at,
            terms=planning.Terms(
                self.settings.seed,
                self.settings.allowed_lateness_s,
                usual=policy_record["version"] == 0,
                experts=followed.experts,
            ),
        )
        decide = partial(decisions[0], shortage_price=followed.shortage_price, confidence=followed.supply)
        group_policy = self._group_policy(kept.group, tick, pinned)
        return PlanRequest(
            member=self._member(kept, decide, offers, policy, observed, expected, at),
            decide=decide,
            users=demand.users,
            refused=demand.records.refused,
            stopped=demand.records.stopped,
            usage=demand.usage,
            budget=None if group_policy is None else policies.policy_of(group_policy).budget,
            metrics=demand.metrics,
            prices=prices,
            observed=observed,
            followed=expected,
            versions=self._versions(policy_record, group_prices, followed.version, group_policy),
            currency=currency,
            evidence=evidence_of(decisions, followed, offers, policy, demand) if policy.learner else None,
            level="REPLICAS" if shared else "INSTANCES",
            zone_share=zone_share,
        )

    def _plan_nodes(
        self, pooled: Pooled, requests: Mapping[str, PlanRequest], total: QuantileFunction, at: Tick
    ) -> PlanRequest:
        """Inputs of the plan of a group's nodes at a tick; requests: of its apps; total: forecast of the group's."""
        pool, kept, tick = pooled.pool, pooled.pool.kept, at.number
        pinned = self.pinned.pop(f"{kept.name}@{tick}", None)
        prices = self._prices(kept.group, tick, pinned)
        observed = self._observed(kept.name, kept, tick, pinned)
        expected = self._followed(kept, prices, observed, pinned)
        contexts = {app: requests[app].decide.args[0] for app in pooled.policies}
        group_policy = policies.policy_of(pooled.record)
        elsewhere = dict.fromkeys(
            prices.keys() - pooled.nodes.keys(), "the group's nodes are of another provider or region"
        )
        offers, currency = self._offers(kept, prices, elsewhere, observed, group_policy, at)
        actuation_s = self.settings.allowed_lateness_s
        bought = [offer for offer in offers if not offer.ended]
        window = promise_window.window(bought, at.steps_s, actuation_s).steps
        joint = pool.demand(tick, contexts, window, horizon_steps(at.length_s))
        placed = {app: requests[app].observed.get(REPLICAS) for app in pooled.policies}
        pool.observe_placement(offers, observed, {app: of for app, of in placed.items() if of}, at.length_s)
        of_packing, need_of = pool.nodes(offers, joint, window, group_policy.confidence, at.end_s)
        policy = pool.policy(group_policy, ending=pooled.ending)
        demand = replace(pooled.demand, scenarios=joint.fluid)
        terms = planning.Terms(self.settings.seed, actuation_s)
        (decide,) = planning.decisions(
            kept, demand, total, self.common, offers=of_packing, policy=policy, tick=at, terms=terms
        )
        return PlanRequest(
            member=self._member(kept, decide, of_packing, policy, observed, expected, at),
            decide=decide,
            users=demand.users,
            refused=(),
            stopped=0,
            usage=demand.usage,
            budget=policy.budget,
            metrics=demand.metrics,
            prices=prices,
            observed=observed,
            followed=expected,
            versions=self._versions(pooled.record, prices, "", None),
            currency=currency,
            level="NODES",
            parts=pool.parts(joint, need_of, window, policy.confidence),
            nodes=offers,
        )

    def _kept(self, name: str) -> AppState:
        """State of an app, or of a group that shares nodes."""
        return self.apps[name] if name in self.apps else self.pools[name].kept

    def _offers(
        self,
        kept: AppState,
        prices: Mapping[str, Record],
        ended: Mapping[str, str],
        observed: Mapping[str, Record],
        policy: Policy,
        at: Tick,
    ) -> tuple[list[Offer], str]:
        """Offers at a tick as they are reported and have shown to be, in one currency, and that.

        ended: why some are not bought any more.
        """
        offers, currency, foreign = currencies.offers_of(prices, at, self.settings.price_max_age_s)
        reported = {
            name: policies.reported_of(record) for name, record in observed.items() if name != REPLICAS
        }
        offers = planning.as_reported(kept, offers, reported, policy)
        for offer in offers:
            for event, why in (
                ("instances are not as their price says", offer.mismatch),
                ("prices in several currencies", foreign.get(offer.offer_id)),
                ("price is stale", offer.stale),
            ):
                if why:
                    self._warn(kept.name, event, f"{offer.offer_id}: {why}", at.number)
        plan_metrics.show_prices(offers)
        offers = learnt(offers, kept.memory.get("supply", {}))
        return [
            replace(offer, ended=ended[offer.offer_id]) if offer.offer_id in ended else offer
            for offer in offers
        ], currency

    def _member(
        self,
        kept: AppState,
        decide: planning.Decide,
        offers: Sequence[Offer],
        policy: Policy,
        observed: Mapping[str, Record],
        expected: frozenset[str],
        at: Tick,
    ) -> groups.Member:
        """An app, or a group's nodes, as they are decided from what is observed of them."""
        orders = kept.memory.get("orders", {})
        capacity = plans.capacity_of(kept.name, observed, expected, orders, at, policy.unit)
        return groups.Member(
            offers=offers,
            policy=policy,
            running={offer: record["ready"] + record["pending"] for offer, record in observed.items()},
            decide=lambda offers, bounded, draft: decide(
                offers=offers, observed=capacity, policy=bounded, memory=kept.memory, draft=draft
            ),
        )

    def _versions(
        self, policy: Record, prices: Mapping[str, Record], adjustment: str, group_policy: Record | None
    ) -> Record:
        """Of what a plan is made from, the field of its record."""
        return {
            "policy": f"{policy['app']}@{policy['version']}",
            "prices": [f"{offer}@{price['version']}" for offer, price in prices.items()],
            "calendar": [],
            "model": self.model.model_id,
            "adjustment": adjustment,
            "group_policy": f"{group_policy['app']}@{group_policy['version']}" if group_policy else "",
        }

    def _publish_plans(
        self,
        names: Sequence[str],
        requests: Mapping[str, PlanRequest],
        decided: Mapping[str, groups.Decision],
        tick: Tick,
    ) -> None:
        """Publish the plans of an app, or of a group that shares nodes and its apps, after all of their commands.

        Nodes grow before the replicas that need them, and replicas shrink before nodes.
        """
        made = [self._plan_records(name, requests[name], decided[name], tick) for name in names]
        for command in plans.in_order((of.commands, of.before) for of in made):
            self.publish("commands", "command", command, partition=self.shard, key=command["target"]["ref"])
        for name, of in zip(names, made, strict=True):
            self.publish("plans", "plan", of.plan, partition=self.shard, key=name)
            request = requests[name]
            plan_metrics.show_plan(of.plan, request.usage, learner=request.evidence is not None)
            self._warn_of_telemetry(name, of.plan, tick)
            if not of.plan["feasible"] or "minimum_beyond_maximum" in of.plan["guardrails"]:
                self._warn(name, "policy cannot be met", of.plan["reason"], tick.number)
            self._note_undelivered(name, of.plan["capacity"], tick.number)

    def _plan_records(
        self, app: str, request: PlanRequest, decided: groups.Decision, tick: Tick
    ) -> PlanRecords:
        """The records of a plan and its commands; the app goes on from what was decided."""
        kept, plan = self._kept(app), decided.plan
        kept.memory, kept.offers = decided.memory, tuple(sorted(plan.counts))
        context = plans.PlanContext(
            app=app,
            group=kept.group,
            tick=tick,
            shard=self.shard,
            seq=self.seq,
            metrics=request.metrics,
            versions=request.versions,
            observed=request.observed,
            followed=request.followed,
            seed=self.settings.seed,
            currency=request.currency,
            refused=request.refused,
            stopped=request.stopped,
            need=None if request.evidence is None else request.evidence.need,
            level=request.level,
            parts=request.parts,
        )
        if request.evidence is not None:
            evidence = request.evidence
            plan = replace(plan, curve=evidence.curve, realised_share=evidence.realised_share)
        record = plans.plan_record(plan, context, decided.shares)
        issued = plans.command_records(
            record,
            request.member.policy,
            request.prices,
            plan.commanded,
            request.observed,
            self.key,
            request.zone_share,
        )
        record["commands_issued"] = len(issued)
        return PlanRecords(record, issued, plan.commanded)

    def _note_undelivered(self, app: str, capacity: list[Record], tick: int) -> None:
        """Set the metric, and log when commanded capacity of an offer does not come, and when it comes again."""
        for offer in capacity:
            place, state = (
                (app, offer["offer_id"]),
                offer.get("state", ""),
            )  # none: nothing is commanded of it
            if state == self.undelivered.get(place, ""):
                continue
            self.undelivered[place] = state
            metrics.UNDELIVERED.labels(*place).set(bool(state))
            if state:
                event = "somebody else changed capacity" if state == "conflict" else "capacity does not come"
                _LOG.warning(event, app=app, offer=place[1], tick=tick, state=state, reason=offer["detail"])
            else:
                _LOG.info("capacity comes again", app=app, offer=place[1], tick=tick)

    def _warn_of_telemetry(self, app: str, plan: Record, tick: Tick) -> None:
        """Log a warning when records begin to be refused, a series stops or a metric begins to be missing."""
        refused = ", ".join(f"{entry['records']:,} {entry['reason']}" for entry in plan["refused"])
        unreported = () if plan["versions"]["policy"].endswith("@0") else plan["unreported"]
        for event, what in (
            ("telemetry is incomplete", refused),
            ("series stopped", f"{plan['stopped']:,} {STOPPED}" if plan["stopped"] else ""),
            ("governed metric is not reported", " and ".join(unreported)),
        ):
            if what and self.troubled.begins((app, event), tick.number, tick.length_s):
                share = round(plan["completeness"], 4)
                _LOG.warning(event, app=app, tick=tick.number, of=what, completeness=share)

    def _warn(self, app: str, event: str, reason: str, tick: int) -> None:
        """Log a warning once per app and reason; reasons that differ only in their numbers count as the same."""
        why = (app, re.sub(r"\d[\d.,]*", "#", reason))
        if why not in self.warned:
            self.warned.add(why)
            _LOG.warning(event, app=app, tick=tick, reason=reason)

    def _group_policy(self, group: str, tick: int, pinned: Record | None) -> Record | None:
        """The policy of a whole group: its `app` is the group's name; None if that is also the name of an app."""
        if group in self.apps:
            return None
        if pinned is not None:
            name, _, version = pinned["group_policy"].rpartition("@")
            return self.inputs.at("policies", name, tick, int(version)) if name else None
        return self.inputs.at("policies", group, tick)

    def _policy(self, app: str, tick: int, pinned: Record | None) -> Record:
        """The app's policy at a tick, else the installation's default (`*`), else the built-in one."""
        if pinned is not None:
            name, _, version = pinned["policy"].rpartition("@")
            policy = self.inputs.at("policies", name, tick, int(version))
        else:
            policy = self.inputs.at("policies", app, tick) or self.inputs.at(
                "policies", plans.DEFAULT_POLICY, tick
            )
        return policy or self.codec.with_defaults("policy", plans.default_policy(app))

    def _prices(self, group: str, tick: int, pinned: Record | None) -> dict[str, Record]:
        """Price records by offer id, without offers that are committed to another allocation group."""
        versions = None
        if pinned is not None:
            parts = [name.rpartition("@") for name in pinned["prices"]]
            versions = {offer: int(version) for offer, _, version in parts}
        prices = self.inputs.all_at("prices", tick, versions)
        return {price["offer_id"]: price for price in policies.offered(prices, group)}

    def _observed(self, app: str, kept: AppState, tick: int, pinned: Record | None) -> dict[str, Record]:
        """Records `capacity_observed` by offer at the end of the tick before, or those of the pinned plan."""
        if pinned is not None and pinned["capacity"]:
            return {offer["offer_id"]: offer for offer in pinned["capacity"] if offer["tick"] >= 0}
        if pinned is not None:
            return self.inputs.observed(app, pinned["observed_tick"] + 1)
        if not self.settings.event_time:
            tick += self.settings.allowed_lateness_s // self.tick_s  # planned so much later than it ends
            self.inputs.wait_observed(app, tick - 1, self.settings.observation_wait_s)
        elif not kept.managed:
            return {}
        elif (
            kept.memory
        ):  # before its first plan nothing follows the starting capacity that the wait could be for
            self.inputs.wait_observed(app, tick - 1, REPLAY_WAIT_S, kept.offers)
        return self.inputs.observed(app, tick)

    def _followed(
        self, kept: AppState, prices: Iterable[str], observed: Iterable[str], pinned: Record | None
    ) -> frozenset[str]:
        """Offers for which observations are expected: live for all, in a replay for those that were observed.

        In a replay none are expected for an app without an actuator: each of its commands counts as done.
        """
        if pinned is not None and pinned["capacity"]:
            return frozenset(offer["offer_id"] for offer in pinned["capacity"])
        if not self.settings.event_time:
            return frozenset({*prices, *observed})
        return frozenset(observed if kept.managed else ())

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """Key and bytes of each block of a snapshot: the position, then one block per app."""
        position = {"planned": self.barrier.planned, "latest": self.barrier.latest, "seq": self.seq}
        position |= {"common": snapshot.as_hex(self.common)}
        if self.pools:
            position |= {"pools": sorted(self.pools)}
        yield b"position", json.dumps(position).encode()
        for name, app in sorted(self.apps.items()):
            yield from snapshot.app_blocks(snapshot.APP + name.encode(), app)
        for name, pool in sorted(self.pools.items()):
            yield from snapshot.app_blocks(snapshot.NODES + name.encode(), pool.kept)
            yield snapshot.POOL + name.encode(), packed.pack(pool.blocks())

    def restore(self, blocks: dict[bytes, bytes]) -> None:
        """Restore the last snapshot; ticks planned after it are planned again with the input versions used then."""
        initial = self.model.initial_state(1)
        if b"position" in blocks:
            position = json.loads(blocks[b"position"])
            self.barrier.planned, self.seq = position["planned"], position["seq"]
            # Markers of planned ticks alone: those of later ticks come again, as their scenarios do.
            self.barrier.latest = {
                int(shard): min(tick, self.done) for shard, tick in position["latest"].items()
            }
            self.common = snapshot.of_hex(position["common"], reconciliation.initial_common())
            for group in position.get("pools", ()):
                kept = snapshot.restored(snapshot.NODES + group.encode(), group, blocks, initial, self.tick_s)
                kept.of_apps = True
                self.pools[group] = SharedNodes(kept, self.settings.seed)
                self.pools[group].restore(packed.unpack(blocks[snapshot.POOL + group.encode()]))
        for key in blocks:
            if key.startswith(snapshot.APP):
                name = key.removeprefix(snapshot.APP).decode()
                self.apps[name] = snapshot.restored(key, name, blocks, initial, self.tick_s)
        self.pinned = reader.newest(self.settings, "plans", self.shard, self._used) or {}

    def _used(self, messages: list[Message], whole: bool) -> dict[str, Record] | None:
        """Versions and observed tick of each published plan after the snapshot, by plan id.

        Args:
            messages: the newest of the partition of `plans`.
            whole: whether these are all.

        Returns:
            None where older messages are needed to reach the snapshot.
        """
        published = [self.codec.decode(message.value() or b"")[1] for message in messages]
        if not whole and all(plan["tick"] > self.done for plan in published):
            return None
        later = (plan for plan in published if plan["tick"] > self.done)
        observed = ("observed_tick", "capacity")
        return {p["plan_id"]: p["versions"] | {name: p[name] for name in observed} for p in later}
