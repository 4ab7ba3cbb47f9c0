"""Stage 5: judges each app's settings on the demand that came, and publishes signed adjustments of its plans.

It consumes `plans`: a plan carries the replicas that its tick's demand filled, those that the app needs at other
settings, and the capacity that was observed. Of every app whose policy has the learner on,
`models.learning.app_learner` simulates the fleets. At the end of each epoch (`models.learning.schedule`) an adjustment
is published for the epoch after the next, also where nothing changed: nobody waits for it live, and a learner that
died leaves what the policy itself asks for when its last one expires.

What is published is a function of the plans, in their order, and of the versions that they name. An app begins anew,
with the policy's own confidence for a day, where another version of its policy is in force; its fleets alone where
other offers are to be had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy, replicas_per_instance, why_unusable
from models.evaluation.simulated_cloud import Terms
from models.learning import schedule
from models.learning.adjustment import Adjustment
from models.learning.app_learner import (
    ARMS,
    EXPERTS,
    AppLearner,
    Observation,
    Setting,
    Shard,
    experts_of,
    learner_of,
)
from models.learning.gate import LEVEL
from models.learning.price_tail import PRICES
from models.learning.realised import Realised
from models.learning.shadow_fleets import ShadowFleets
from models.tick import Tick
from pipeline.errors import Poison
from pipeline.inputs.store import ADJUSTMENTS, SideInputs
from pipeline.logs import get_logger
from pipeline.providers.local_instances import LocalOffer
from pipeline.runtime import metrics
from pipeline.runtime.fenced_state import Publish
from pipeline.security.signing_keys import SigningKey
from pipeline.settings import Settings
from pipeline.wire import adjustments, currencies, packed, plans, policies
from pipeline.wire.codec import Codec, Record

VERSION_WAIT_S: Final = 30.0
"""Longest wait for a version of a policy or price that a plan names: its record was there before the plan."""
POSITION, SHARED, APP = b"position", b"shared", b"app-"
"""Keys of a snapshot's blocks; APP begins those of apps."""
TOLD: Final = 6
"""Most arms whose evidence an adjustment carries, so that it stays small."""
FLEETS: Final = "fleets."
"""Begins the names of an `AppLearner`'s arrays that are its fleets'."""
NOTHING: Final = Setting(0, None, "nothing was learnt yet: the policy's confidence")
_LOG = get_logger()


@dataclass
class LearntApp:
    """What is known of an app.

    Attributes:
        policy: as `app@version`.
        tick: of its last plan.
        offers: usable ones of the last plan that was learnt from.
        names: their ids.
        learner: None before that plan, and after a restart until the next one.
        stored: its arrays of a snapshot, until the next plan.
        setting, evidence: for the next adjustment.
        realised: shares of time and of plans that were kept.
        events: since the last adjustment, as (tick, text).
    """

    policy: str
    tick: int
    offers: tuple[Offer, ...] = ()
    names: list[str] = field(default_factory=list[str])
    learner: AppLearner | None = None
    stored: dict[str, NDArray[Any]] = field(default_factory=dict[str, Any])
    setting: Setting = NOTHING
    evidence: adjustments.GateEvidence = field(default_factory=adjustments.GateEvidence)
    realised: Realised = field(default_factory=Realised)
    events: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


class Learner:
    """The learners of one partition of `plans`; `pipeline.runtime.fenced_state.Agent` calls its methods.

    Args:
        shard: number of the partition.
        inputs: policies and prices.
        codec: decodes plans.
        publish: publishes adjustments.
        key: signs them.
        settings: of the installation.
    """

    def __init__(
        self,
        shard: int,
        inputs: SideInputs,
        codec: Codec,
        publish: Publish,
        key: SigningKey,
        settings: Settings,
    ) -> None:
        self.shard, self.inputs, self.codec, self.publish = shard, inputs, codec, publish
        self.key, self.settings = key, settings
        self.apps: dict[str, LearntApp] = {}
        self.shared = Shard(len(ARMS))
        self.tick = -1
        self.changed: set[str] = set()

    @property
    def done(self) -> int:
        """The last tick of which a later one's plan has come: all its plans are in the state."""
        return self.tick - 1

    def fold(self, value: bytes) -> int | None:
        """Learn from a plan; at the end of an epoch publish the app's adjustment.

        Returns:
            The plan's tick; None for a repeat, and for what is no plan.
        """
        try:
            name, plan = self.codec.decode(value)
            if name != "plan":
                raise Poison("wrong-schema", f"a {name} and no plan")
        except Poison as error:
            _LOG.warning("not learnt from", shard=self.shard, reason=str(error))
            return None
        app, tick = plan["app"], plan["tick"]
        if app in self.apps and tick <= self.apps[app].tick:
            return None
        self.tick = max(self.tick, tick)
        policy = self._policy(plan)
        if policy is None or not policy.learner:
            self._forget(app)
            return tick
        known = self._known(app, plan)
        self.changed.add(app)
        try:
            self._learn(known, plan, policy)
        except (
            ArithmeticError,
            ValueError,
            LookupError,
        ) as error:  # its neighbours and its plans are untouched
            _LOG.error("learner begins anew", app=app, tick=tick, error=repr(error))
            events = [*known.events, (tick, f"begins anew after a fault: {error!r}")]
            self.apps[app] = known = LearntApp(known.policy, tick, events=events)
        if schedule.ends_epoch(tick, plan["tick_s"]):
            self._adjust(known, plan, policy)
        return tick

    def _policy(self, plan: Record) -> Policy | None:
        """The policy that a plan names; None: the built-in one, which has no learner, or one that cannot be had."""
        name, _, version = plan["versions"]["policy"].rpartition("@")
        record = self._version("policies", name, int(version)) if int(version) > 0 else None
        return None if record is None else policies.policy_of(record)

    def _version(self, topic: str, name: str, version: int) -> Record | None:
        """A version that a plan names; None: it is not there and does not come."""
        record = self.inputs.at(topic, name, 0, version)
        if record is None and self.inputs.wait_version(topic, name, version, VERSION_WAIT_S):
            record = self.inputs.at(topic, name, 0, version)
        return record

    def _known(self, app: str, plan: Record) -> LearntApp:
        """What is known of a plan's app, with the plan's tick; of nothing where another policy was in force."""
        policy = plan["versions"]["policy"]
        known = self.apps.get(app)
        if known is None or known.policy != policy:
            known = self.apps[app] = LearntApp(policy, plan["tick"])
        known.tick = plan["tick"]
        return known

    def _forget(self, app: str) -> None:
        if self.apps.pop(app, None) is not None:
            self.changed.add(app)
            _show(app, NOTHING, None)

    def _learn(self, known: LearntApp, plan: Record, policy: Policy) -> None:
        """Take the app's simulated fleets through the plan's tick and let them buy at its end."""
        curve = plan["curve"]
        needs = {need["arm"]: need for need in curve["arms"]}
        levels = len(curve["confidences"])
        if tuple(curve["prices"]) != PRICES or not needs.keys() >= EXPERTS.keys():
            return  # nobody has a forecast, or an allocator of another version
        at = Tick(plan["tick"], plan["tick_s"])
        records = self._prices(plan)
        every, _, _ = currencies.offers_of(records, at, self.settings.price_max_age_s)
        offers = tuple(offer for offer in every if why_unusable(offer, policy) is None)
        if not offers:
            return
        learner = self._learner(known, plan, policy, offers, records)
        of_arm = [needs[experts_of(arm)] for arm in ARMS.values()]
        wanted, soon = (
            np.array([need[of][levels:] for need in of_arm], np.int64) for of in ("wanted", "soon")
        )
        static = None
        if curve["confidences"] == [policy.confidence]:
            static = of_arm[0]["wanted"][0], of_arm[0]["soon"][0]
        need = math.nan if plan["need"] is None else plan["need"]
        events = len(learner.events)
        ready = _ready(plan, offers, policy)
        priced = plan["versions"]["adjustment"] and policy.confidence_of == "time"
        followed = ready if priced else math.nan
        now = Observation(at.number, need, followed, wanted, soon, static, float(plan["cost"]))
        known.setting = learner.observe(now, self.shared)
        known.evidence = _evidence(learner)
        known.realised.observe(at.number, at.length_s, need, learner.served if math.isnan(ready) else ready)
        known.realised.promise(plans.promised(plan))
        for _, text in learner.events[events:]:
            known.events.append((at.number, text))
            metrics.LEARNER_CHANGES.labels(plan["app"], text.partition(" ")[0]).inc()
            _LOG.warning("learner", app=plan["app"], tick=at.number, change=text)

    def _learner(
        self,
        known: LearntApp,
        plan: Record,
        policy: Policy,
        offers: tuple[Offer, ...],
        records: dict[str, Record],
    ) -> AppLearner:
        """The app's learner with these offers; its fleets go on where the offers have the same ids."""
        if known.learner is not None and known.offers == offers:
            return known.learner
        names = [offer.offer_id for offer in offers]
        terms = {name: terms_of(records[name]) for name in names}
        learner = learner_of(plan["app"], offers, policy, terms, tick_s=plan["tick_s"], seed=plan["seed"])
        before = known.stored if known.learner is None else known.learner.blocks()
        if before:
            learner.restore(before if known.names == names else _with_fleets(before, learner.fleets))
        known.learner, known.offers, known.names, known.stored = learner, offers, names, {}
        return learner

    def _prices(self, plan: Record) -> dict[str, Record]:
        """Price records by offer, as the plan names them."""
        parts = [name.rpartition("@") for name in plan["versions"]["prices"]]
        records = {offer: self._version("prices", offer, int(version)) for offer, _, version in parts}
        return {offer: record for offer, record in records.items() if record is not None}

    def _adjust(self, known: LearntApp, plan: Record, policy: Policy) -> None:
        """Publish the app's adjustment at the end of an epoch."""
        app, tick, tick_s = plan["app"], plan["tick"], plan["tick_s"]
        spec = adjustments.AdjustmentSpec(
            app=app,
            version=tick,
            valid_from_tick=schedule.valid_from(tick, tick_s),
            expires_tick=schedule.expires(tick, tick_s)
            - 1,  # the record has the last tick that may follow it
            base_model=plan["versions"]["model"],
            policy=known.policy,
            adjustment=_adjustment(known.setting, policy),
            gate=known.evidence,
            arms=_arms(known.learner),
            events=tuple(adjustments.LearnerEvent(*event) for event in known.events),
            realised=_shares(known.realised, tick * tick_s),
            **_saving(known.learner),
            reason=known.setting.reason,
        )
        _show(app, known.setting, known.learner, spec)
        self.publish(
            ADJUSTMENTS, "adjustment", adjustments.build(spec, self.key), partition=0, key=f"{app}@{tick}"
        )
        known.events = []

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """Key and bytes of the blocks that changed: the position, what apps have in common, and apps."""
        apps = {app: _kept(known) for app, known in sorted(self.apps.items())}
        yield POSITION, json.dumps({"tick": self.tick, "apps": apps}).encode()
        yield SHARED, packed.pack(self.shared.blocks())
        for app in sorted(self.changed):
            known = self.apps.get(app)
            if known is None or (known.learner is None and not known.stored):
                yield APP + app.encode(), b""
            elif known.learner is not None:
                yield APP + app.encode(), packed.pack(known.learner.blocks())
        self.changed.clear()

    def restore(self, blocks: dict[bytes, bytes]) -> None:
        """Continue from a snapshot; an app's learner is made with its next plan, which names its offers."""
        if POSITION not in blocks:
            return
        position = json.loads(blocks[POSITION])
        self.tick = position["tick"]
        self.shared.restore(packed.unpack(blocks[SHARED]))
        for app, kept in position["apps"].items():
            block = blocks.get(APP + app.encode())
            self.apps[app] = LearntApp(
                kept["policy"],
                kept["tick"],
                names=kept["names"],
                stored=packed.unpack(block) if block else {},
                setting=Setting(**kept["setting"]),
                realised=Realised.of(kept["realised"]),
                events=[(tick, text) for tick, text in kept["events"]],
                evidence=adjustments.GateEvidence(**kept["evidence"]),
            )


def _kept(known: LearntApp) -> dict[str, Any]:
    """An app's part of the position, plain JSON."""
    return {name: getattr(known, name) for name in ("policy", "tick", "names", "events")} | {
        "realised": known.realised.stored(),
        "setting": asdict(known.setting),
        "evidence": asdict(known.evidence),
    }


def _with_fleets(blocks: Mapping[str, NDArray[Any]], fleets: ShadowFleets) -> dict[str, NDArray[Any]]:
    """An `AppLearner`'s arrays with other fleets."""
    rest = {name: array for name, array in blocks.items() if not name.startswith(FLEETS)}
    return rest | {FLEETS + name: array for name, array in fleets.blocks().items()}


def terms_of(price: Record) -> Terms:
    """Of the simulated cloud; what a price does not say is as the local provider takes it."""
    offer = LocalOffer.of(price)
    return Terms(offer.notice_s, offer.billing_min_s)


def _ready(plan: Record, offers: Iterable[Offer], policy: Policy) -> float:
    """Replicas that served in a plan's tick, as far as it was observed at its start or later; NaN: not known.

    Known where plans command capacity, so that it is ours that is measured.
    """
    observed = [offer for offer in plan["capacity"] if offer["tick"] >= 0]
    stale = any(offer["tick"] < plan["tick"] - 1 for offer in observed)
    if plan["mode"] != "auto" or not observed or stale:
        return math.nan
    size = {offer.offer_id: int(replicas_per_instance(offer, policy)) for offer in offers}
    return float(sum(size.get(offer["offer_id"], 0) * offer["ready"] for offer in observed))


def _adjustment(setting: Setting, policy: Policy) -> Adjustment:
    """What a setting asks of plans under a policy."""
    if setting.price is None:
        return Adjustment.static(policy)
    name, arm = list(ARMS.items())[setting.arm]
    return Adjustment(
        name, policy.confidence, shortage_price=setting.price, supply=arm.supply, experts=arm.experts
    )


def _evidence(learner: AppLearner) -> adjustments.GateEvidence:
    """Of the arm in force; that of the first arm is nothing."""
    bound, arm = (learner.arms - 1) / LEVEL, learner.in_force
    if not arm:
        return adjustments.GateEvidence(bound=bound)
    better = learner.gates[arm].better
    return adjustments.GateEvidence(better.value, better.days, bound, promoted=True)


def _arms(learner: AppLearner | None) -> tuple[adjustments.ArmEvidence, ...]:
    """What is known of the first arm, that in force, and those that are nearest to promotion, TOLD in all."""
    if learner is None:
        return ()
    nearest = sorted(
        range(learner.arms), key=lambda a: (a not in (0, learner.in_force), -learner.gates[a].better.value, a)
    )
    return tuple(
        adjustments.ArmEvidence(
            learner.name(arm),
            math.exp(learner.log_price[arm]),
            gate.better.value,
            gate.worse.value,
            gate.breach.value,
            gate.better.days,
            gate.barred_until,
        )
        for arm, gate in ((arm, learner.gates[arm]) for arm in sorted(nearest[:TOLD]))
    )


def _shares(realised: Realised, now_s: int) -> adjustments.RealisedShares:
    time, plans = realised.time, realised.plans
    return adjustments.RealisedShares(
        time.of_day(now_s), time.share, time.known, plans.of_day(now_s), plans.share, plans.known
    )


def _saving(learner: AppLearner | None) -> dict[str, Any]:
    """Fields of an `AdjustmentSpec`."""
    if learner is None:
        return {}
    spend, loss = learner.saving
    return {"saving": spend.share, "saving_95": spend.interval, "reward": loss.share}


def _show(
    app: str,
    setting: Setting,
    learner: AppLearner | None,
    spec: adjustments.AdjustmentSpec | None = None,
) -> None:
    """Set an app's metrics; of no learner: static; of no adjustment: nothing was measured."""
    metrics.LEARNER_PRICE.labels(app).set(setting.price or 0.0)
    for number, arm in enumerate(ARMS):
        metrics.LEARNER_IN_FORCE.labels(app, arm).set(learner is not None and learner.in_force == number)
        if number:
            value = 1.0 if learner is None else learner.gates[number].better.value
            metrics.LEARNER_E_VALUE.labels(app, arm).set(value)
    shares = adjustments.RealisedShares() if spec is None else spec.realised
    for of in ("time", "plans"):
        for over in ("day", "all"):
            share = getattr(shares, f"{of}_{over}")
            metrics.LEARNER_REALISED.labels(app, of, over).set(math.nan if share is None else share)
    saving = None if spec is None else spec.saving
    metrics.LEARNER_SAVING.labels(app).set(math.nan if saving is None else saving)
