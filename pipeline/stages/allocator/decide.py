"""What the allocator does of a tick between two messages, without any: the same for the stream and for a backtest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from models.behaviour.lstm import State
from models.capacity import Offer, Policy, floor_demand
from models.demand import reconciliation
from models.metrics import METRICS, horizon_steps
from models.planning.allocate import Plan, allocate, promised
from models.planning.guardrails import Telemetry
from models.quantile_function import QuantileFunction
from pipeline.wire.demand import Demand

Decide = partial[tuple[Plan, dict[str, Any]]]
"""decide(offers=, observed=, policy=, memory=, ...): `models.planning.allocate.allocate` of an app's scenarios."""


@dataclass
class App:
    """What is kept of an app: its total's model state (one row), what reconciliation learnt, guard rails' memory.

    `metrics` and `offers` are those of the last plan. `managed` says whether an actuator had reported its capacity
    before its first plan: in a replay only such an app is planned from observations, and waits for them.
    """

    group: str
    state: State
    reconciled: State
    memory: dict[str, Any]
    managed: bool
    metrics: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heard:
    """What a tick says of apps' totals, as the behaviour model takes it.

    values, events, saturated: (app, ...), see `models.behaviour.lstm.BehaviourModel.step`; outcome: (app, METRICS),
    usage where it is known to be the demand, else NaN; proved: (app, METRICS) demand that usage proves.
    """

    values: np.ndarray
    events: np.ndarray
    saturated: np.ndarray
    outcome: np.ndarray
    proved: np.ndarray

    @classmethod
    def of(cls, demands: Sequence[Demand]) -> Heard:
        """Of the apps' demand in the tick."""
        heard = np.array([[demand.heard] for demand in demands])
        usage = np.where(heard, [demand.usage for demand in demands], np.nan)
        held = np.array([demand.saturated for demand in demands])
        saturated = reconciliation.lower_bound(held, usage)
        events = np.array([demand.rates for demand in demands], np.float32)
        outcome, proved = np.where(saturated, np.nan, usage), floor_demand(usage, np.nan_to_num(held))
        return cls(usage.astype(np.float32), events, saturated, outcome, proved)


def together(states: Sequence[State]) -> State:
    """The model's states of several apps' totals, one after another."""
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def apart(states: State, apps: Sequence[str]) -> dict[str, State]:
    """Likewise, each app's own."""
    return {app: {name: array[a : a + 1] for name, array in states.items()} for a, app in enumerate(apps)}


def observe(
    apps: Mapping[str, App],
    names: Sequence[str],
    heard: Heard,
    common: State,
    tick: int,
    tick_s: int,
) -> State:
    """Put what came of earlier promises into the apps; what apps share, after it.

    Args:
        apps: by name, changed in place.
        names: the apps of the rows of `heard`, in whose order apps are learnt from.
        heard: of the tick.
        common: of `models.demand.reconciliation`.
        tick: its number.
        tick_s: its length.
    """
    for row, app in enumerate(names):
        kept = apps[app]
        kept.reconciled, common = reconciliation.observe(
            kept.reconciled, common, heard.outcome[row], heard.proved[row], tick, tick_s
        )
    return common


def decision(
    app: str,
    kept: App,
    demand: Demand,
    total: QuantileFunction,
    common: State,
    *,
    offers: Sequence[Offer],
    policy: Policy,
    tick: int,
    tick_s: int,
    seed: int,
) -> Decide:
    """Reconcile an app's scenarios with its total's forecast, and be ready to allocate them.

    Args:
        app: name.
        kept: of the app; its `reconciled` and `metrics` are changed.
        demand: of the tick.
        total: (METRICS, step) the app's own forecast.
        common: of `models.demand.reconciliation`.
        offers: by which the promise's steps are known.
        policy: likewise, its governed metrics.
        tick: its number.
        tick_s: its length.
        seed: of the installation.
    """
    kept.metrics = demand.metrics
    index = [METRICS.index(metric) for metric in demand.metrics]
    steps_s = [step * tick_s for step in horizon_steps(tick_s)]
    window, governed = promised(offers, policy, steps_s, demand.metrics)
    scenarios, kept.reconciled = reconciliation.reconcile(
        demand.scenarios,
        total[index],
        kept.reconciled,
        common,
        metrics=index,
        governed=[index[m] for m in governed] if demand.users else [],  # silence has no outcome
        window=window,
        confidence=policy.confidence,
        tick=tick,
        tick_s=tick_s,
    )
    return partial(
        allocate,
        scenarios,
        metrics=demand.metrics,
        steps_s=steps_s,
        usage=demand.usage[index],
        saturated=demand.saturated[index],
        telemetry=Telemetry(demand.reporting, demand.users, idle=demand.idle),
        now_s=float((tick + 1) * tick_s),
        seed=seed,
        app=app.encode(),
        tick=tick,
        user_quantiles=demand.user_quantiles,
    )
