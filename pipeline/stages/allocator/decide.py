"""The allocator's calculation for one tick, without messages: the same for the stream and for a backtest.

Per tick: `AppTotals` of the measured usage, the behaviour model's step (by the caller), `observe` for earlier promises,
then `decisions` for each app: for each weight a function that allocates its reconciled scenarios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from models import capacity
from models.behaviour.lstm import State
from models.capacity import Offer, Policy
from models.demand import reconciliation, same_time, turnover
from models.learning.adjustment import ExpertWeights
from models.metrics import METRICS, horizon_steps
from models.planning.allocate import DecisionContext, Plan, allocate, promised
from models.planning.guardrails import COMPLETE_SHARE, Telemetry
from models.planning.past_need import Past, past
from models.quantile_function import QuantileFunction
from models.tick import Tick
from pipeline.wire.demand import Demand

Decide = partial[tuple[Plan, dict[str, Any]]]
"""decide(offers=, observed=, policy=, memory=, ...): `models.planning.allocate.allocate` of a context, `args[0]`."""


@dataclass
class AppState:
    """An app's state from one tick to the next.

    Attributes:
        name: of the app.
        group: its allocation group.
        state: of the behaviour model for the app's total, one row; empty where the caller keeps it.
        reconciled: state of `models.demand.reconciliation`.
        memory: of `models.planning.allocate`, plain JSON.
        managed: whether an actuator had reported its capacity before its first plan: in a replay only such an app is
            planned from observations, and waits for them.
        metrics, offers: names and ids of the last plan.
        same_time: usage of the last 14 days (`models.demand.same_time`), the expert for the app's total; empty where
            neither the policy's learner nor a weight asks for it.
        learner_since: first tick from which on its policies have had the learner on; None: it is off.
        reported: by offer of which an instance was not reported as its price says when one was ready last, what it has
            by the price and by the report.
        of_apps: it stands for apps that share nodes, and its scenarios are made of theirs
            (`models.demand.reconciliation.Decision`).
    """

    name: str
    group: str
    state: State
    reconciled: State
    memory: dict[str, Any]
    managed: bool
    metrics: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    same_time: State = field(default_factory=dict[str, Any])
    learner_since: int | None = None
    reported: dict[str, list[dict[str, float]]] = field(default_factory=dict[str, list[dict[str, float]]])
    of_apps: bool = False


@dataclass(frozen=True)
class AppTotals:
    """Measured totals of the apps in one tick, as the behaviour model and reconciliation take them.

    Attributes:
        values: (app, METRICS) float32 usage, NaN where missing or where too few users reported, or too little of it.
        estimated: (app, METRICS) float32, `values`, and where too few users reported, usage with the hidden demand of
            the silent ones: the behaviour model's input, which is no outcome.
        events: (app, EVENT_KINDS) float32 event rates, 1/s, NaN = no event.
        saturated: (app, METRICS) bool: the usage is a lower bound on demand.
        outcome: (app, METRICS) usage where it is known to be the demand, else NaN.
        proved: (app, METRICS) least demand that the usage proves.
    """

    values: np.ndarray
    estimated: np.ndarray
    events: np.ndarray
    saturated: np.ndarray
    outcome: np.ndarray
    proved: np.ndarray

    @classmethod
    def of(cls, demands: Sequence[Demand]) -> AppTotals:
        """The totals of each app's demand, in their order."""
        reported = np.array([demand.measured for demand in demands])
        usage = np.where(reported, [demand.usage for demand in demands], np.nan)
        held = np.array([demand.saturated for demand in demands])
        events = np.array([demand.rates for demand in demands], np.float32)
        carried = np.array([demand.usage + demand.hidden for demand in demands])
        estimated = np.where(reported, usage, carried).astype(np.float32)
        return cls(usage.astype(np.float32), estimated, events, *reconciliation.measured(usage, held))


def settled(state: State, demand: Demand, tick_s: int) -> tuple[State, Demand]:
    """State of an app's turnover after a tick, and its demand without silent users who were replaced.

    In a tick of which records were refused nobody is left out: who is silent in it may have been refused.

    Args:
        state: of `models.demand.turnover`.
        demand: of the tick; its scenarios are lessened by `share` in `decisions`.
        tick_s: tick length in seconds.
    """
    after = turnover.observe(state, demand.turnover, demand.usage, tick_s)
    if demand.records.used < COMPLETE_SHARE:
        return after, demand
    silent = round((demand.users - demand.reporting) * turnover.left(after, demand.turnover))
    share = turnover.share(after, demand.turnover, demand.usage)
    return after, replace(demand, users=demand.reporting + silent, share=share, hidden=after["hidden"])


@dataclass(frozen=True)
class Terms:
    """Arguments of a decision beside demand, offers and policy.

    Attributes:
        seed: of the installation.
        actuation_s: seconds from a tick's end until its plan.
        usual: whether one reported governed metric suffices (`models.planning.guardrails.Telemetry`).
        experts: weights of the experts, those in force first, then those under trial.
    """

    seed: int
    actuation_s: float = 0.0
    usual: bool = False
    experts: Sequence[ExpertWeights] = (ExpertWeights(),)


def as_reported(
    kept: AppState, offers: Sequence[Offer], reported: Mapping[str, Mapping[str, float]], policy: Policy
) -> list[Offer]:
    """The offers with what their instances have where that is less than their prices say; far more is noted.

    What was reported holds until an instance is ready again or the price states another capacity: otherwise an offer
    of which nothing runs any more would be taken for what it was found not to be.

    Args:
        kept: of the app; its `reported` is brought up to date.
        offers: as their prices have them.
        reported: by offer, what an instance was reported to have; absent or empty where none is ready.
    """
    sized: list[Offer] = []
    for offer in offers:
        stated, now = dict(offer.allocatable), reported.get(offer.offer_id)
        if now:
            kept.reported.pop(offer.offer_id, None)
        if now and any(room != stated.get(metric, math.inf) for metric, room in now.items()):
            kept.reported[offer.offer_id] = [stated, dict(now)]
        known = kept.reported.get(offer.offer_id, [])
        sized.append(capacity.as_reported(offer, known[1], policy) if known[:1] == [stated] else offer)
    return sized


def together(states: Sequence[State]) -> State:
    """The behaviour model's states (1, ...) of several apps' totals as one state (app, ...)."""
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def apart(states: State, apps: Sequence[str]) -> dict[str, State]:
    """The inverse of `together`: state (1, ...) of each app, by name."""
    return {app: {name: array[a : a + 1] for name, array in states.items()} for a, app in enumerate(apps)}


def observe(
    apps: Mapping[str, AppState],
    names: Sequence[str],
    totals: AppTotals,
    common: State,
    tick: Tick,
) -> State:
    """Update reconciliation with a tick's outcome.

    Args:
        apps: by name; their `reconciled` is replaced, and their `same_time` where it is kept.
        names: of the apps in the rows of `totals`; they are processed in this order.
        totals: of the tick.
        common: reconciliation's state that all apps share.
        tick: in which the outcome was measured.

    Returns:
        `common` after the tick.
    """
    for row, app in enumerate(names):
        kept = apps[app]
        kept.reconciled, learnt = reconciliation.observe(
            kept.reconciled, common, totals.outcome[row], totals.proved[row], tick.number, tick.length_s
        )
        if not kept.of_apps:  # its misses are of scenarios that have a margin already
            common = learnt
        if kept.same_time:
            kept.same_time = same_time.observe(kept.same_time, totals.proved[row], tick.number, tick.length_s)
    return common


def decisions(
    kept: AppState,
    demand: Demand,
    total: QuantileFunction,
    common: State,
    *,
    offers: Sequence[Offer],
    policy: Policy,
    tick: Tick,
    terms: Terms,
) -> list[Decide]:
    """Reconcile an app's scenarios with the forecast of its total and the expert, and bind them to `allocate`.

    Where the policy's learner is off and no expert but the network has a weight, the history is not kept, or forgotten.

    Args:
        kept: of the app; its `reconciled`, `metrics` and `same_time` are replaced.
        demand: of the tick.
        total: (METRICS, step) forecast of the app's total.
        common: reconciliation's state that all apps share.
        offers: their start-up times give the steps that the promise covers.
        policy: gives the governed metrics and the confidence.
        tick: that is planned.
        terms: of the installation, and of the policy's origin.

    Returns:
        for each of `terms.experts`, `allocate` with its context bound; `offers`, `observed`, `policy` and `memory` are
        to be given. They differ in their demand and past alone.
    """
    same_time_weights = tuple(dict.fromkeys(weights.same_time for weights in terms.experts))
    experts = _same_time(kept, policy, tick, same_time_weights)
    kept.metrics = demand.metrics
    index = [METRICS.index(metric) for metric in demand.metrics]
    window, governed = promised(offers, policy, tick.steps_s, demand.metrics, terms.actuation_s)
    scenarios, kept.reconciled = reconciliation.reconcile_each(
        turnover.lessened(demand.scenarios, demand.share[index]),
        total[index],
        kept.reconciled,
        common,
        reconciliation.Decision(
            index,
            [index[m] for m in governed] if demand.users else [],  # silence has no outcome
            window=window,
            confidence=policy.confidence,
            tick=tick.number,
            tick_s=tick.length_s,
            experts=experts,
            estimated=None if demand.representative else demand.usage + np.nan_to_num(demand.hidden),
            of_apps=kept.of_apps,
        ),
    )
    context = DecisionContext(
        scenarios[0],
        metrics=demand.metrics,
        steps_s=tick.steps_s,
        usage=demand.usage[index],
        saturated=demand.saturated[index],
        telemetry=telemetry_of(demand, policy, usual=terms.usual),
        now_s=tick.end_s,
        seed=terms.seed,
        app=kept.name.encode(),
        tick=tick.number,
        actuation_s=terms.actuation_s,
        user_quantiles=None if demand.user_quantiles is None else demand.user_quantiles * demand.share[index],
        shared=kept.of_apps,
    )
    if experts is None:
        scenarios = scenarios * len(same_time_weights)
    of_weight = dict(zip(same_time_weights, scenarios, strict=True))
    history = Past(None, None)
    if kept.same_time and any(weights.recent or weights.persistence for weights in terms.experts):
        history = past(kept.same_time, demand.usage, policy, window, tick.length_s)
    return [
        partial(
            allocate,
            replace(
                context,
                demand=of_weight[weights.same_time],
                past=history.weighted(weights.recent, weights.persistence),
            ),
        )
        for weights in terms.experts
    ]


def telemetry_of(demand: Demand, policy: Policy, *, usual: bool = False) -> Telemetry:
    """What of an app's telemetry came; usual: as of `Terms`."""
    seen = demand.seen
    return Telemetry(
        demand.reporting,
        demand.users,
        idle=demand.idle,
        used=demand.records.used,
        stopped=demand.stopped,
        carried=demand.carried,
        seen=float(min((seen[METRICS.index(metric)] for metric in policy.governed), default=1.0)),
        unreported=tuple(m for m in policy.governed if math.isnan(demand.usage[METRICS.index(m)])),
        usual=usual,
    )


def _same_time(
    kept: AppState, policy: Policy, tick: Tick, weights: Sequence[float]
) -> reconciliation.Experts | None:
    """The expert "same time" at its weights; None: neither the policy's learner nor a weight asks for its history."""
    if not policy.learner and not any(weights):
        kept.same_time = {}
        return None
    if not kept.same_time:
        kept.same_time = same_time.initial_state(tick.length_s)
    steps = horizon_steps(tick.length_s)
    quantiles = same_time.quantiles(kept.same_time, tick.number, steps, tick.length_s)
    return reconciliation.Experts(quantiles, weights)
