"""Tick loop of a backtest: lanes share scenarios; each is fed back its own simulated capacity.

A subclass gives each tick's demand and decision: `pipeline.backtest.trace_simulation` of a trace,
`pipeline.backtest.topic_simulation` of topics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.learning.adjustment import ExpertWeights
from models.learning.app_learner import ARMS, Setting
from models.metrics import METRICS
from models.planning import groups, sweep
from models.planning.sweep import BAND
from pipeline.backtest.job import AppLanes, Arrays, Job
from pipeline.backtest.learners import Learners
from pipeline.stages.allocator.decide import Decide


class Simulation(ABC):
    """The lanes of a job's apps over its ticks.

    Args:
        job: what is simulated.

    Attributes:
        row: that is simulated next.
        wanted, soon: (app, setting) replicas of `models.planning.sweep.SweepNeed`, as of the last decision.
        band: (app, BAND) likewise.
        lanes: by app and market.
        by_weights: with the learner, the last row's decision for the weights of each of its experts, by app.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.row = 0
        self.wanted, self.soon = np.ones((2, len(job.apps), job.swept), np.int64)
        self.band = np.full((len(job.apps), len(BAND)), np.nan)
        self.by_weights: dict[str, dict[ExpertWeights, Decide]] = {}
        self.learners = None if job.learner == "off" else Learners(job)
        self.lanes = {
            (app, market): AppLanes(job, app, market, [c for m, c in job.lanes if m == market])
            for app in job.apps
            for market in job.markets
        }

    def run(self, progress: Callable[[int], None] = lambda row: None) -> Iterator[Arrays]:
        """Simulate from the present row on; yields the outcomes of each day, after which a snapshot may be taken.

        Outcomes are (tick, app, ...), from the first plan on; of a day before it there are none.

        Args:
            progress: called with the rows done.
        """
        job = self.job
        outcomes: list[Arrays] = []
        while self.row < len(job.values):
            outcome = self._tick(self.row)
            if self.row >= job.plan_from:
                outcomes.append(outcome)
            self.row += 1
            progress(self.row)
            if job.ends_day(self.row):
                names = outcomes[0] if outcomes else ()
                yield {name: np.stack([outcome[name] for outcome in outcomes]) for name in names}
                outcomes = []

    @abstractmethod
    def decided(self, t: int, plans: bool) -> dict[str, tuple[Decide, int]]:
        """Advance by a row.

        Returns:
            where the row ends with `plans`, the decision and the number of users of every app that is known by then.
        """

    def _tick(self, t: int) -> Arrays:
        """Outcomes of a row's tick and what is decided at its end; {} before the first plan."""
        job, tick = self.job, self.job.first_tick + t
        planned = t >= job.plan_from
        if planned:
            for lanes in self.lanes.values():
                lanes.cloud.live(lanes.fleet, tick)
        outcome = self._outcome() if planned else {}
        for lanes in self.lanes.values():
            lanes.end_commitments(job.start_s(t + 1))
        self.band = np.full((len(job.apps), len(BAND)), np.nan)
        decisions = self.decided(t, job.plans(t))
        if self.learners is not None:
            self._learn(self.learners, decisions, planned)
        if not planned:
            return {}
        decided = {app: decide for app, (decide, _) in decisions.items()}
        plans = self._plan(decided, tick) if decided else {}
        for app, (decide, users) in decisions.items():
            if users:
                self._need(app, decide)
        return self._asked(
            tick, outcome, plans, {app: decide.args[0].metrics for app, decide in decided.items()}
        )

    def _learn(self, learners: Learners, decisions: Mapping[str, tuple[Decide, int]], planned: bool) -> None:
        """Let the learners see the tick that has passed, by what was ready in it in the lane that they steer."""
        for app, (_, users) in decisions.items():
            lanes = self.lanes[app, self.job.markets[0]]
            ready = float(lanes.fleet.least[0] @ lanes.size) if planned else np.nan
            if users:
                contexts = {weights: decide.args[0] for weights, decide in self.by_weights[app].items()}
                learners.observe(app, contexts, ready)

    def _plan(self, decided: Mapping[str, Decide], tick: int) -> dict[tuple[str, str, int], Any]:
        """Plans by app, market and lane; apps of one allocation group are planned together, as the allocator does."""
        plans: dict[tuple[str, str, int], Any] = {}
        for market in self.job.markets:
            lanes = {app: self.lanes[app, market] for app in decided}
            group_of = {app: lanes[app].policy.allocation_group or app for app in lanes}
            for lane in range(len(next(iter(lanes.values())).confidences)):
                for group in sorted(set(group_of.values())):
                    members = {
                        app: self._member(decided[app], lanes[app], lane, self._setting(app, tick, lane))
                        for app in lanes
                        if group_of[app] == group
                    }
                    for app, plan in groups.together(members).items():
                        plans[app, market, lane] = plan.plan
                        lanes[app].memory[lane] = plan.memory
        for (app, market), lanes in self.lanes.items():
            if app in decided:
                for lane in range(len(lanes.confidences)):
                    counts = plans[app, market, lane].counts
                    lanes.desired[lane] = [counts.get(o.offer_id, (0,))[0] for o in lanes.offers]
                lanes.follow(tick + 1)
        return plans

    def _need(self, app: str, decide: Decide) -> None:
        """Take down the replicas that the scenarios of a decision need at each setting of the sweep."""
        context = decide.args[0]
        need = sweep.needed(
            sweep.AppDemand(
                context.demand, context.metrics, context.steps_s, context.usage, context.saturated
            ),
            self.lanes[app, self.job.markets[0]].offers,
            self.job.policies[app],
            self.job.levels,
            self.job.shortages,
        )
        a = self.job.apps.index(app)
        self.wanted[a], self.soon[a], self.band[a] = need.wanted, need.soon, need.band

    def _setting(self, app: str, tick: int, lane: int) -> Setting | None:
        """What the learner wants of a lane's plan; None: nothing."""
        return None if self.learners is None or lane else self.learners.setting(app, tick)

    def _member(self, decide: Decide, lanes: AppLanes, lane: int, setting: Setting | None) -> groups.Member:
        price, supply = None, None
        if setting is not None and setting.price is not None:
            arm = list(ARMS.values())[setting.arm]
            decide = self.by_weights[decide.args[0].app.decode()][arm.experts]
            price, supply = setting.price, arm.supply
        observed = lanes.observed(lane)
        confidence, memory = lanes.confidences[lane], lanes.memory[lane]
        return groups.Member(
            offers=lanes.learnt(lane),
            policy=replace(lanes.policy, confidence=confidence),
            running={offer: state.running for offer, state in observed.items()},
            decide=lambda offers, policy, draft: decide(
                offers=offers,
                observed=observed,
                policy=policy,
                memory=memory,
                confidence=supply,
                shortage_price=price,
                draft=draft or self.job.draft,
            ),
        )

    def _outcome(self) -> Arrays:
        """Least ready replicas of the tick that has passed, and its cost, by tier too: (app, lane, ...)."""
        rows: dict[str, list[list[Any]]] = {"ready": [], "cost": [], "tiers": [], "counts": []}
        for app in self.job.apps:
            markets = [self.lanes[app, market] for market in self.job.markets]
            rows["ready"].append([v for lanes in markets for v in (lanes.fleet.least @ lanes.size).tolist()])
            rows["cost"].append([v for lanes in markets for v in (lanes.fleet.hours @ lanes.price).tolist()])
            rows["tiers"].append(
                [v for lanes in markets for v in ((lanes.fleet.hours * lanes.price) @ lanes.tiers).tolist()]
            )
            rows["counts"].append(markets[0].fleet.least[0].tolist())
        widest = max(len(counts) for counts in rows["counts"])
        counts = [row + [0] * (widest - len(row)) for row in rows["counts"]]
        return {
            "ready": np.array(rows["ready"], np.float32),
            "cost": np.array(rows["cost"], np.float64),
            "tiers": np.array(rows["tiers"], np.float64),
            "counts": np.array(counts, np.int32),
        }

    def _asked(
        self,
        tick: int,
        outcome: Arrays,
        plans: Mapping[tuple[str, str, int], Any],
        metrics: Mapping[str, Sequence[str]],
    ) -> Arrays:
        """The outcome with the replicas asked for at the end of the tick, and the first lane's required curves.

        With the learner also `steered`, (app, 2): price of a shortage and arm that were planned with, and what it saw
        (`pipeline.backtest.learners.Learners.observed`).
        """
        job, market = self.job, self.job.markets[0]
        desired = [[v for m in job.markets for v in self._replicas(app, m)] for app in job.apps]
        required = np.full((len(job.apps), len(job.steps), len(METRICS)), np.nan, np.float32)
        window = np.zeros((len(job.apps), 2), np.int16)
        held = np.full((len(job.apps), 3), np.nan)
        reasons = np.full(len(job.apps), "", "U240")
        for a, app in enumerate(job.apps):
            plan = plans.get((app, market, 0))
            if plan is not None:
                required[a][:, [METRICS.index(m) for m in metrics[app]]] = plan.required
                window[a] = [job.steps.index(s // job.tick_s) for s in plan.window]
                held[a] = plan.confidence_planned, plan.feasible, plan.cost
                reasons[a] = ", ".join(plan.guardrails) + ("" if plan.feasible else f"; {plan.reason}")
        steered = (
            {}
            if self.learners is None
            else {"steered": self.learners.in_force(tick), **self.learners.observed()}
        )
        return (
            outcome
            | steered
            | {
                "asked": np.array(desired, np.float32),
                "wanted": self.wanted.astype(np.int32),
                "soon": self.soon.astype(np.int32),
                "band": self.band.astype(np.float32),
                "required": required,
                "window": window,
                "plan": held,
                "reason": reasons,
            }
        )

    def _replicas(self, app: str, market: str) -> list[int]:
        lanes = self.lanes[app, market]
        return (lanes.desired @ lanes.size).tolist()

    @abstractmethod
    def blocks(self) -> Arrays:
        """A snapshot: all that the next tick depends on."""

    @abstractmethod
    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""

    def lane_blocks(self) -> Arrays:
        """The lanes' part of a snapshot."""
        blocks: Arrays = {"row": np.array(self.row), "wanted": self.wanted, "soon": self.soon}
        blocks |= {} if self.learners is None else self.learners.blocks()
        for (app, market), lanes in self.lanes.items():
            blocks |= {f"lane.{app}\n{market}\n{key}": array for key, array in lanes.blocks().items()}
        return blocks

    def restore_lanes(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""
        self.row = int(blocks["row"])
        self.wanted, self.soon = blocks["wanted"].copy(), blocks["soon"].copy()
        if self.learners is not None:
            self.learners.restore(blocks)
        for (app, market), lanes in self.lanes.items():
            start = f"lane.{app}\n{market}\n"
            lanes.end_commitments(self.job.start_s(self.row))
            lanes.restore({k.removeprefix(start): v for k, v in blocks.items() if k.startswith(start)})
