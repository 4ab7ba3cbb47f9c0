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
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from models.behaviour.lstm import BehaviourModel, State
from models.capacity import Offer, Policy
from models.demand import reconciliation, same_time
from models.evaluation import need
from models.learning import need_curve
from models.planning import groups
from models.planning.sweep import NeedCurve
from models.quantile_function import QuantileFunction
from models.tick import Tick
from pipeline.inputs.store import SideInputs
from pipeline.kafka import reader
from pipeline.logs import Episodes, get_logger
from pipeline.runtime import metrics
from pipeline.runtime.fenced_state import Publish
from pipeline.security.pseudonyms import PSEUDONYM_BYTES
from pipeline.security.signing_keys import SigningKey
from pipeline.settings import Settings
from pipeline.stages.allocator import decide as planning
from pipeline.stages.allocator import plan_metrics
from pipeline.stages.allocator.barrier import Barrier
from pipeline.stages.allocator.decide import AppState
from pipeline.stages.allocator.following import Adjustments, Followed
from pipeline.wire import currencies, plans, policies
from pipeline.wire.codec import Codec, Record
from pipeline.wire.demand import STOPPED, Demand, TelemetryShare
from pipeline.wire.forecasts import forecast_records

REPLAY_WAIT_S = 3600.0
"""Longest wait of a replay for an observation: an actuator that restarts is back within seconds."""
SAME_TIME = b"same-time-"
"""Begins the key of a snapshot's block of an app's usage in the last 14 days (`models.demand.same_time`)."""
_LOG = get_logger()


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
        telemetry = self.barrier.telemetry.pop(tick, [])
        demands = {app: Demand.of(parts) for app, parts in scenarios.items()}
        for app, parts in scenarios.items():
            if app not in self.apps:
                managed = bool(self.inputs.observed(app, tick))
                group = parts[0]["allocation_group"]
                state = self.model.initial_state(1)
                self.apps[app] = AppState(app, group, state, reconciliation.initial_state(), {}, managed)
        now = Tick(tick, self.tick_s)
        for app in self.apps.keys() - demands.keys():  # no user reported: what is commanded stands
            demands[app] = Demand.silent(self.apps[app].metrics, len(now.steps_s))
        demands = {app: d.with_telemetry(TelemetryShare.of(app, telemetry)) for app, d in demands.items()}
        for app, kept in self.apps.items():
            after, demands[app] = planning.settled(kept.reconciled, demands[app], self.tick_s)
            kept.reconciled = kept.reconciled | after
        if self.apps:
            names = sorted(self.apps)
            totals = self._step_totals(names, demands, now)
            requests = {
                app: self._plan_app(app, demands[app], totals[row], now) for row, app in enumerate(names)
            }
            decided: dict[str, groups.Decision] = {}
            for group in sorted({kept.group for kept in self.apps.values()}):
                members = {app: requests[app].member for app in names if self.apps[app].group == group}
                decided |= groups.together(members, requests[min(members)].budget)
            for app in names:
                self._publish_plan(app, requests[app], decided[app], now)
            self.seq += 1
        if not self.settings.event_time:
            plan_metrics.show_due(self.shard, now, self.settings.allowed_lateness_s)

    def _step_totals(self, names: list[str], demands: Mapping[str, Demand], tick: Tick) -> QuantileFunction:
        """Step all apps' totals; publish and return their forecasts (app, metric, step)."""
        measured = planning.AppTotals.of([demands[app] for app in names])
        after, totals, flags = self.model.step(
            planning.together([self.apps[app].state for app in names]),
            measured.estimated,
            measured.events,
            measured.saturated,
            tick=tick.number,
            tick_s=tick.length_s,
        )
        for app, state in planning.apart(after, names).items():
            self.apps[app].state = state
        self.common = planning.observe(self.apps, names, measured, self.common, tick)
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

    def _plan_app(self, app: str, demand: Demand, total: QuantileFunction, at: Tick) -> PlanRequest:
        """Inputs of an app's plan at a tick; total: (metric, step) forecast of the app's total."""
        kept, tick = self.apps[app], at.number
        pinned = self.pinned.pop(f"{app}@{tick}", None)
        policy_record = self._policy(app, tick, pinned)
        policy = policies.policy_of(policy_record)
        prices = self._prices(kept.group, tick, pinned)
        observed = self._observed(app, kept, tick, pinned)
        expected = self._followed(kept, prices, observed, pinned)
        offers, currency, foreign = currencies.offers_of(prices, at, self.settings.price_max_age_s)
        reported = {name: policies.reported_of(record) for name, record in observed.items()}
        offers = planning.as_reported(kept, offers, reported, policy)
        for offer in offers:
            if offer.smaller:
                self._warn(
                    app,
                    "instances are smaller than their price says",
                    f"{offer.offer_id}: {offer.smaller}",
                    tick,
                )
            if offer.offer_id in foreign:
                why = f"{offer.offer_id}: {foreign[offer.offer_id]}"
                self._warn(app, "prices in several currencies", why, tick)
            if offer.stale:
                self._warn(app, "price is stale", f"{offer.offer_id}: {offer.stale}", tick)
        plan_metrics.show_prices(offers)
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
        capacity = plans.capacity_of(kept.name, observed, expected, kept.memory.get("orders", {}), at)
        member = groups.Member(
            offers=offers,
            policy=policy,
            running={offer: record["ready"] + record["pending"] for offer, record in observed.items()},
            decide=lambda offers, bounded, draft: decide(
                offers=offers, observed=capacity, policy=bounded, memory=kept.memory, draft=draft
            ),
        )
        shared = self._group_policy(kept.group, tick, pinned)
        versions: Record = {
            "policy": f"{policy_record['app']}@{policy_record['version']}",
            "prices": [f"{offer}@{price['version']}" for offer, price in prices.items()],
            "calendar": [],
            "model": self.model.model_id,
            "adjustment": followed.version,
            "group_policy": f"{shared['app']}@{shared['version']}" if shared else "",
        }
        budget = None if shared is None else policies.policy_of(shared).budget
        return PlanRequest(
            member=member,
            decide=decide,
            users=demand.users,
            refused=demand.records.refused,
            stopped=demand.records.stopped,
            usage=demand.usage,
            budget=budget,
            metrics=demand.metrics,
            prices=prices,
            observed=observed,
            followed=expected,
            versions=versions,
            currency=currency,
            evidence=_evidence(decisions, followed, offers, policy, demand) if policy.learner else None,
        )

    def _publish_plan(self, app: str, request: PlanRequest, decided: groups.Decision, tick: Tick) -> None:
        """Publish the plan and its commands; warn of a policy that cannot be met, once per app and reason."""
        kept, plan = self.apps[app], decided.plan
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
        )
        if request.evidence is not None:
            evidence = request.evidence
            plan = replace(plan, curve=evidence.curve, realised_share=evidence.realised_share)
        record = plans.plan_record(plan, context, decided.shares)
        issued = plans.command_records(
            record, request.member.policy, request.prices, plan.commanded, request.observed, self.key
        )
        record["commands_issued"] = len(issued)
        for command in issued:
            self.publish("commands", "command", command, partition=self.shard, key=command["target"]["ref"])
        self.publish("plans", "plan", record, partition=self.shard, key=app)
        plan_metrics.show_plan(record, request.usage, learner=request.evidence is not None)
        self._warn_of_telemetry(app, record, tick)
        if not plan.feasible or "minimum_beyond_maximum" in plan.guardrails:
            self._warn(app, "policy cannot be met", plan.reason, tick.number)
        self._note_undelivered(app, record["capacity"], tick.number)

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
        return policy or self.codec.decode(self.codec.encode("policy", plans.default_policy(app)))[1]

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
        position |= {"common": _hex(self.common)}
        yield b"position", json.dumps(position).encode()
        for name, app in sorted(self.apps.items()):
            kept = {"group": app.group, "memory": app.memory, "managed": app.managed}
            kept |= {"state": _hex(app.state), "reconciled": _hex(app.reconciled)}
            kept |= {"metrics": app.metrics, "offers": app.offers}
            if app.learner_since is not None:
                kept |= {"learner_since": app.learner_since}
            if app.reported:
                kept |= {"reported": app.reported}
            if app.same_time:
                usage, rest = app.same_time["usage"], {n: a for n, a in app.same_time.items() if n != "usage"}
                kept |= {"same_time": _hex(rest)}
                yield SAME_TIME + name.encode(), usage.tobytes()  # of 14 days: as hexadecimal twice as long
            yield b"app-" + name.encode(), json.dumps(kept).encode()

    def restore(self, blocks: dict[bytes, bytes]) -> None:
        """Restore the last snapshot; ticks planned after it are planned again with the input versions used then."""
        if b"position" in blocks:
            position = json.loads(blocks[b"position"])
            self.barrier.planned, self.seq = position["planned"], position["seq"]
            # Markers of planned ticks alone: those of later ticks come again, as their scenarios do.
            self.barrier.latest = {
                int(shard): min(tick, self.done) for shard, tick in position["latest"].items()
            }
            self.common = _unhex(position["common"], reconciliation.initial_common())
        like, learnt = self.model.initial_state(1), reconciliation.initial_state()
        known = learnt | reconciliation.initial_experts(learnt)
        for key, value in blocks.items():
            if key.startswith(b"app-"):
                kept = json.loads(value)
                # what an older version did not learn is as of a new app
                states = _unhex(kept["state"], like), learnt | _unhex(kept["reconciled"], known)
                name = key[4:].decode()
                self.apps[name] = AppState(
                    name,
                    kept["group"],
                    *states,
                    kept["memory"],
                    kept["managed"],
                    metrics=tuple(kept["metrics"]),
                    offers=tuple(kept["offers"]),
                    learner_since=kept.get("learner_since"),
                    reported=kept.get("reported", {}),
                )
                if "same_time" in kept:
                    # an app without it may have an older block, from when its learner was on
                    expert = _unhex(kept["same_time"], same_time.initial_state(self.tick_s))
                    usage = np.frombuffer(blocks[SAME_TIME + key[4:]], np.uint16)
                    expert["usage"] = usage.reshape(-1, same_time.slots(int(expert["tick_s"][0]))).copy()
                    self.apps[name].same_time = expert
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


def _evidence(
    decisions: Sequence[planning.Decide],
    followed: Followed,
    offers: Sequence[Offer],
    policy: Policy,
    demand: Demand,
) -> Evidence:
    """What the learner needs to know of a tick; decisions: by the experts of `followed`."""
    contexts = {weights: decide.args[0] for weights, decide in zip(followed.experts, decisions, strict=True)}
    context = decisions[0].args[0]
    filled = need.of_tick(context.usage, context.saturated, context.metrics, policy)
    curve = None
    if demand.users:
        curve = need_curve.of(contexts, offers, policy)
    return Evidence(curve, filled if math.isfinite(filled) else None, followed.realised_share)


def _hex(state: State) -> dict[str, str]:
    return {field: array.tobytes().hex() for field, array in sorted(state.items())}


def _unhex(stored: Mapping[str, str], like: State) -> State:
    return {
        field: np.frombuffer(bytes.fromhex(data), like[field].dtype).reshape(like[field].shape)
        for field, data in stored.items()
    }
