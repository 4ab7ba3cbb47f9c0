"""Backtest of a trace without Kafka: the stream's functions tick by tick, with simulated capacity in each lane.

A `TraceSimulation` does what one worker does for its apps: forecasts and scenarios (`pipeline.backtest.forecasts`),
reconciliation and the plan (`pipeline.stages.allocator.decide`). Each lane plans the same scenarios at its own
confidence, and is fed back its own simulated capacity. Nothing of a tick is read before it has passed: a plan at the
end of tick t sees rows up to t, and serves from t + 1 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from models.demand import reconciliation, same_time
from models.demand.scenarios import pack, unpack
from models.evaluation.promise import totals
from models.learning.adjustment import ExpertWeights
from models.learning.app_learner import EXPERTS
from models.planning.allocate import promised
from models.tick import Tick
from pipeline.backtest import shared_nodes
from pipeline.backtest.forecasts import AppForecast, ForecastSource
from pipeline.backtest.job import Arrays, Job
from pipeline.backtest.simulation import Simulation
from pipeline.stages.allocator.decide import AppState, AppTotals, Decide, Terms, decisions, observe
from pipeline.stages.allocator.pool import PairedApps


class TraceSimulation(Simulation):
    """The apps of one worker.

    Args:
        job: what is simulated.
        source: of forecasts and scenarios.

    Attributes:
        experts: weight of the expert "same time" by app, in force from the next decision on; begins as the job's.
    """

    def __init__(self, job: Job, source: ForecastSource) -> None:
        super().__init__(job)
        self.source = source
        self.apps: dict[str, AppState] = {}
        self.common = reconciliation.initial_common()
        self.experts = dict(job.experts)
        self.paired: PairedApps | None = None
        if job.pool is not None:
            usage = totals(job.values, [job.members[app] for app in job.pool.apps])
            self.filled = job.pool.filled(usage)
            self.paired = PairedApps(job.pool, job.seed)

    @staticmethod
    def _kept(name: str, learnt: dict[str, Any], **more: Any) -> AppState:
        """What is kept of an app, or of the pool; learnt: of reconciliation; more: fields that are not empty."""
        return AppState(name, name, {}, learnt, {}, True, of_apps=name == shared_nodes.POOL, **more)

    def _new(self, name: str) -> AppState:
        """An app of which nothing is known, but, where the expert is asked for, what it used before the first row."""
        job = self.job
        kept = self._kept(name, reconciliation.initial_state())
        if self.experts.get(name) or job.policies[name].learner:
            kept.same_time = same_time.initial_state(job.tick_s)
            a, first = job.apps.index(name), job.first_tick - len(job.before)
            for tick, usage in enumerate(job.before, first):
                kept.same_time = same_time.observe(kept.same_time, usage[a], tick, job.tick_s)
        return kept

    def decided(self, t: int, plans: bool) -> dict[str, tuple[Decide, int]]:
        """Compare earlier promises with the row's outcome, and reconcile its scenarios; see `Simulation.decided`."""
        job, tick = self.job, self.job.first_tick + t
        forecasts = self.source.row(t)
        for name in forecasts:
            if name not in self.apps:
                self.apps[name] = self._new(name)
        if forecasts:
            totals = AppTotals.of([forecast.demand for forecast in forecasts.values()])
            self.common = observe(self.apps, list(forecasts), totals, self.common, Tick(tick, job.tick_s))
        if self.paired is not None:
            self.paired.observe(tick, self.filled[t])
        waiting = [name for name in forecasts if self.apps[name].reconciled["made"][0] == reconciliation.NONE]
        learns = t >= job.learn_from
        plans = plans or (learns and self.learners is not None)
        together = plans or (learns and job.pool is not None and waiting)
        names = list(forecasts) if together else waiting if learns else []
        decided: dict[str, Decide] = {}
        for name in sorted(names, key=lambda name: name == shared_nodes.POOL):
            drawn = self._together(t, decided) if name == shared_nodes.POOL and decided else None
            decided[name] = self._decide(name, forecasts[name], tick, drawn)
        return {name: (decided[name], forecasts[name].demand.users) for name in decided} if plans else {}

    def _together(self, t: int, decided: Mapping[str, Decide]) -> np.ndarray | None:
        """Scenarios of what the apps of the pool ask for together."""
        job = self.job
        if self.paired is None:
            return None
        lanes = self.lanes[shared_nodes.POOL, job.markets[0]]
        steps_s = [step * job.tick_s for step in job.steps]
        window, _ = promised(lanes.offers, lanes.policy, steps_s, lanes.policy.governed)
        contexts = {app: decide.args[0] for app, decide in decided.items()}
        return self.paired.demand(job.first_tick + t, contexts, window, job.steps).fluid

    def _decide(self, name: str, forecast: AppForecast, tick: int, together: np.ndarray | None) -> Decide:
        """Reconcile an app's scenarios; together: the pool's, which are not of its forecast."""
        job, kept, demand, metrics = self.job, self.apps[name], forecast.demand, forecast.metrics
        if together is not None:
            drawn, metrics = together, job.policies[name].governed
        elif demand.users:
            drawn = unpack(*pack(forecast.drawn().scenarios))
        else:
            metrics = kept.metrics
            drawn = np.zeros((64, len(job.steps), len(metrics)), np.float32)
        first = self.lanes[name, job.markets[0]]
        experts = tuple(EXPERTS.values())
        if self.learners is None:
            weight = self.experts.get(name, 0.0)
            experts = (ExpertWeights(network=1 - weight, same_time=weight),)
        decided = decisions(
            kept,
            replace(demand, scenarios=drawn, metrics=metrics),
            forecast.total,
            self.common,
            offers=first.learnt(0),
            policy=first.policy,
            tick=Tick(tick, job.tick_s),
            terms=Terms(job.seed, experts=experts),
        )
        self.by_weights[name] = dict(zip(experts, decided, strict=True))
        return decided[0]

    def blocks(self) -> Arrays:
        """A snapshot: all that the next tick depends on."""
        blocks: Arrays = {
            **self.source.blocks(),
            **self.lane_blocks(),
            **{f"common.{name}": array for name, array in self.common.items()},
            **({} if self.paired is None else self.paired.blocks()),
        }
        for name, app in self.apps.items():
            blocks |= {f"learnt.{name}\n{key}": array for key, array in app.reconciled.items()}
            blocks |= {f"same-time.{name}\n{key}": array for key, array in app.same_time.items()}
            blocks[f"metrics.{name}"] = np.array(app.metrics, "U16")
        return blocks

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""
        self.source.restore(blocks)
        self.restore_lanes(blocks)
        if self.paired is not None:
            self.paired.restore(blocks)
        self.common = {name: blocks[f"common.{name}"] for name in self.common}
        for key in blocks:
            if key.startswith("metrics."):
                name = key.removeprefix("metrics.")
                learnt, expert = (
                    {k.removeprefix(start): v for k, v in blocks.items() if k.startswith(start)}
                    for start in (f"learnt.{name}\n", f"same-time.{name}\n")
                )
                metrics = tuple(blocks[key].tolist())
                self.apps[name] = self._kept(name, learnt, metrics=metrics, same_time=expert)
