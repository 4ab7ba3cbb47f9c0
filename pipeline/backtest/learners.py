"""The learner inside a backtest: it sees each tick once it has passed, and its settings hold when the stream's do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from models.evaluation import need
from models.learning import episodes, need_curve, schedule
from models.learning.adjustment import ExpertWeights
from models.learning.app_learner import ARMS, Observation, Setting, Shard, learner_of
from models.learning.price_tail import PRICES
from models.planning.allocate import DecisionContext
from pipeline.backtest.job import Arrays, Job


class Learners:
    """The learners of a simulation's apps, in its first market.

    Args:
        job: what is simulated.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.market = job, job.markets[0]
        self.shard = Shard(len(ARMS))
        self.apps = {
            app: learner_of(
                app,
                job.offers[self.market][app],
                job.policies[app],
                job.terms,
                tick_s=job.tick_s,
                seed=job.seed,
            )
            for app in job.apps
        }
        self.made: dict[str, list[tuple[int, Setting]]] = {app: [] for app in job.apps}
        self.seen: dict[str, tuple[float, np.ndarray]] = {}

    def setting(self, app: str, tick: int) -> Setting | None:
        """What a plan at a tick uses; None: the policy alone."""
        for valid_from, setting in reversed(self.made[app]):
            if valid_from <= tick:
                return setting
        return None

    def in_force(self, tick: int) -> np.ndarray:
        """(app, 2) price of a shortage, NaN = the policy's confidence, and arm, that plans at a tick use."""
        settings = [self.setting(app, tick) or Setting(0, None, "") for app in self.job.apps]
        return np.array([[np.nan if s.price is None else s.price, s.arm] for s in settings], np.float32)

    def observe(self, app: str, contexts: Mapping[ExpertWeights, DecisionContext], ready: float) -> None:
        """Learn from the tick of a decision.

        Args:
            app: its name.
            contexts: of the decision at the tick's end, by the weights of its experts.
            ready: replicas that were ready throughout the tick; NaN: nothing was simulated yet.
        """
        job, learner, policy = self.job, self.apps[app], self.job.policies[app]
        curve = need_curve.of(contexts, job.offers[self.market][app], policy)
        wanted, soon, static = need_curve.by_arm(curve)
        context = next(iter(contexts.values()))
        filled = need.of_tick(context.usage, context.saturated, context.metrics, policy)
        self.seen[app] = filled, episodes.curves(static, wanted, soon)
        setting = learner.observe(Observation(context.tick, filled, ready, wanted, soon, static), self.shard)
        if schedule.ends_epoch(context.tick, job.tick_s):
            self.made[app] = [*self.made[app], (schedule.valid_from(context.tick, job.tick_s), setting)][-3:]

    def observed(self) -> Arrays:
        """What was seen of the last tick: `filled` (app), NaN = not known, and `curve` (app, 2, 1 + arm, price).

        curve: wanted and soon of `models.learning.episodes.Episode`; 0 for an app without users.
        """
        none = np.nan, np.zeros((2, 1 + len(ARMS), len(PRICES)), np.int32)
        each = [self.seen.pop(app, none) for app in self.job.apps]
        return {"filled": np.array([of[0] for of in each]), "curve": np.stack([of[1] for of in each])}

    def blocks(self) -> Arrays:
        """For a snapshot."""
        blocks: Arrays = {f"learner-shard.{name}": array for name, array in self.shard.blocks().items()}
        for app, learner in self.apps.items():
            blocks |= {f"learner.{app}\n{name}": array for name, array in learner.blocks().items()}
        made = {app: [(at, asdict(setting)) for at, setting in of] for app, of in self.made.items()}
        return blocks | {"learner-made": np.frombuffer(json.dumps(made).encode(), np.uint8)}

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""
        start = "learner-shard."
        self.shard.restore({k.removeprefix(start): v for k, v in blocks.items() if k.startswith(start)})
        for app, learner in self.apps.items():
            start = f"learner.{app}\n"
            learner.restore({k.removeprefix(start): v for k, v in blocks.items() if k.startswith(start)})
        made = json.loads(blocks["learner-made"].tobytes())
        self.made = {app: [(at, Setting(**setting)) for at, setting in of] for app, of in made.items()}
