"""One tick after another of apps whose lanes plan the same scenarios and live on what their own instances did.

What a tick says and what is to be decided comes from a subclass: `pipeline.backtest.trace_simulation` for a trace,
`pipeline.backtest.topic_simulation` for topics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from models.capacity import floor_demand, load, replicas
from models.metrics import METRICS
from models.planning import groups
from models.planning.allocate import promised
from models.planning.shortage_price import confidence
from pipeline.backtest.job import Arrays, Job, Lanes
from pipeline.stages.allocator.decide import Decide

BAND: Final = (0.025, 0.5, 0.975)  # of demand in the first step that a plan is for: the 95 % interval


class Living(ABC):
    """The lanes of a job's apps.

    Args:
        job: what is run.

    Attributes:
        row: the next one.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.row = 0
        self.wanted, self.soon = np.ones((2, len(job.apps), job.swept), np.int64)
        self.band = np.full((len(job.apps), len(BAND)), np.nan)
        self.lanes = {
            (app, market): Lanes(job, app, market, [c for m, c in job.lanes if m == market])
            for app in job.apps
            for market in job.markets
        }

    def run(self, progress: Callable[[int], None] = lambda row: None) -> Iterator[Arrays]:
        """What came of each day, from the present row on, nothing of days before plans; a snapshot may follow each."""
        job = self.job
        found: list[Arrays] = []
        while self.row < len(job.values):
            seen = self._tick(self.row)
            if self.row >= job.plan_from:
                found.append(seen)
            self.row += 1
            progress(self.row)
            if job.ends_day(self.row):
                yield {name: np.stack([one[name] for one in found]) for name in found[0]} if found else {}
                found = []

    @abstractmethod
    def decided(self, t: int, plans: bool) -> dict[str, tuple[Decide, int]]:
        """Take a row; for each app of which something is known how it is decided and its users, where `plans`."""

    def _tick(self, t: int) -> Arrays:
        job, tick = self.job, self.job.first_tick + t
        planned = t >= job.plan_from
        if planned:
            for one in self.lanes.values():
                one.cloud.live(one.fleet, tick)
        outcome = self._outcome() if planned else {}
        self.band = np.full((len(job.apps), len(BAND)), np.nan)
        found = self.decided(t, job.plans(t))
        if not planned:
            return {}
        said = self._plan({name: decide for name, (decide, _) in found.items()}, tick) if found else {}
        for name, (decide, users) in found.items():
            if users:
                a = job.apps.index(name)
                (self.wanted[a], self.soon[a]), self.band[a] = self._needed(name, decide)
        return self._asked(
            outcome, said, {name: decide.keywords["metrics"] for name, (decide, _) in found.items()}
        )

    def _plan(self, decided: Mapping[str, Decide], tick: int) -> dict[tuple[str, str, int], Any]:
        """Every lane's plans; apps of one allocation group together, as the allocator has them."""
        said: dict[tuple[str, str, int], Any] = {}
        for market in self.job.markets:
            lanes = {name: self.lanes[name, market] for name in decided}
            of = {name: lanes[name].policy.allocation_group or name for name in lanes}
            for lane in range(len(next(iter(lanes.values())).confidences)):
                for group in sorted(set(of.values())):
                    members = {
                        name: self._member(decided[name], lanes[name], lane)
                        for name in lanes
                        if of[name] == group
                    }
                    for name, plan in groups.together(members).items():
                        said[name, market, lane] = plan.plan
                        lanes[name].memory[lane] = plan.memory
        for (name, market), one in self.lanes.items():
            if name in decided:
                for lane in range(len(one.confidences)):
                    counts = said[name, market, lane].counts
                    one.desired[lane] = [counts.get(o.offer_id, (0,))[0] for o in one.offers]
                one.follow(tick + 1)
        return said

    def _needed(self, app: str, decide: Any) -> tuple[np.ndarray, np.ndarray]:
        """(2, setting) replicas that hold in so many of the scenarios, and carry present usage.

        Over the promise's steps, which is what to buy for; and over those before, until which nothing bought serves:
        what is ready is not released below them (`models.planning.allocate`). With them the band (BAND) of replicas
        that demand fills in the promise's first step.
        """
        policy, scenarios, told = self.job.policies[app], decide.args[0], decide.keywords
        first = self.lanes[app, self.job.markets[0]]
        window, _ = promised(first.offers, policy, told["steps_s"], told["metrics"])
        filled = load(scenarios, told["metrics"], policy)
        needed = replicas(filled, policy)
        steps = (window, slice(0, max(1, window.start)))
        rising = [np.sort(needed[:, some].max(axis=1)) for some in steps]
        owned = int(first.size @ [offer.owned_count for offer in first.offers])
        priced = (confidence(rising[0], owned, 1.0, price) for price in self.job.shortages)
        levels = [*self.job.levels, *priced]
        at = np.maximum(np.ceil(np.asarray(levels) * len(needed) - 1e-9).astype(int) - 1, 0)
        floor = replicas(
            load(floor_demand(told["usage"], told["saturated"]), told["metrics"], policy), policy
        )
        found = np.stack([need[at] for need in rising])
        band = np.quantile(filled[:, window.start].max(axis=-1), BAND)
        return np.clip(found, floor, policy.limit), band

    def _member(self, decide: Any, one: Lanes, lane: int) -> groups.Member:
        seen = one.observed(lane)
        confidence, memory = one.confidences[lane], one.memory[lane]
        return groups.Member(
            offers=one.offers,
            policy=replace(one.policy, confidence=confidence),
            running={offer: state.running for offer, state in seen.items()},
            decide=lambda offers, policy, draft: decide(
                offers=offers, observed=seen, policy=policy, memory=memory, draft=draft or self.job.draft
            ),
        )

    def _outcome(self) -> Arrays:
        """What was there in the tick that has passed and its cost, by tier too: (app, lane, ...)."""
        found: dict[str, list[list[Any]]] = {"ready": [], "cost": [], "tiers": [], "counts": []}
        for app in self.job.apps:
            of = [self.lanes[app, market] for market in self.job.markets]
            found["ready"].append([v for one in of for v in (one.fleet.least @ one.size).tolist()])
            found["cost"].append([v for one in of for v in (one.fleet.hours @ one.price).tolist()])
            found["tiers"].append(
                [v for one in of for v in ((one.fleet.hours * one.price) @ one.tiers).tolist()]
            )
            found["counts"].append(of[0].fleet.least[0].tolist())
        widest = max(len(counts) for counts in found["counts"])
        counts = [row + [0] * (widest - len(row)) for row in found["counts"]]
        return {
            "ready": np.array(found["ready"], np.float32),
            "cost": np.array(found["cost"], np.float64),
            "tiers": np.array(found["tiers"], np.float64),
            "counts": np.array(counts, np.int32),
        }

    def _asked(
        self, outcome: Arrays, said: Mapping[tuple[str, str, int], Any], metrics: Mapping[str, Sequence[str]]
    ) -> Arrays:
        """The outcome with what was decided at the end of the tick, and the first lane's required curves."""
        job, market = self.job, self.job.markets[0]
        asked = [[v for m in job.markets for v in self._replicas(app, m)] for app in job.apps]
        required = np.full((len(job.apps), len(job.steps), len(METRICS)), np.nan, np.float32)
        window = np.zeros((len(job.apps), 2), np.int16)
        held = np.full((len(job.apps), 3), np.nan)
        reasons = np.full(len(job.apps), "", "U240")
        for a, app in enumerate(job.apps):
            plan = said.get((app, market, 0))
            if plan is not None:
                required[a][:, [METRICS.index(m) for m in metrics[app]]] = plan.required
                window[a] = [job.steps.index(s // job.tick_s) for s in plan.window]
                held[a] = plan.confidence_planned, plan.feasible, plan.cost
                reasons[a] = ", ".join(plan.guardrails) + ("" if plan.feasible else f"; {plan.reason}")
        return outcome | {
            "asked": np.array(asked, np.float32),
            "wanted": self.wanted.astype(np.int32),
            "soon": self.soon.astype(np.int32),
            "band": self.band.astype(np.float32),
            "required": required,
            "window": window,
            "plan": held,
            "reason": reasons,
        }

    def _replicas(self, app: str, market: str) -> list[int]:
        one = self.lanes[app, market]
        return (one.desired @ one.size).tolist()

    @abstractmethod
    def blocks(self) -> Arrays:
        """A snapshot: all that the next tick depends on."""

    @abstractmethod
    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from one."""

    def lane_blocks(self) -> Arrays:
        """Of a snapshot what the lanes are."""
        found: Arrays = {"row": np.array(self.row), "wanted": self.wanted, "soon": self.soon}
        for (app, market), one in self.lanes.items():
            found |= {f"lane.{app}\n{market}\n{key}": array for key, array in one.blocks().items()}
        return found

    def restore_lanes(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from one."""
        self.row = int(blocks["row"])
        self.wanted, self.soon = blocks["wanted"].copy(), blocks["soon"].copy()
        for (app, market), one in self.lanes.items():
            start = f"lane.{app}\n{market}\n"
            one.restore({k.removeprefix(start): v for k, v in blocks.items() if k.startswith(start)})
