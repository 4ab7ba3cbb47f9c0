"""How soon an app's plans are right again after its regime has shifted: the learner beside static.

A trial runs plain plans (`plain_plans`) of a series through the real learner. What it wants holds from the tick after
the next on, as on the stream. A *settled* trial is of a regime like the new one (`models.synthetic.regimes.Shift.like`)
that has been there always. The best fixed setting in hindsight is that lane of its last SETTLED days (an arm, a price)
which costs least with at most the allowed share of ticks missed; what it costs for each replica of demand is what the
new regime has to cost.

Right again is the first tick after the shift of which the trailing day, wholly after the shift, cost at most
1 + DEARER of that for its demand, and missed no more ticks than 97.5 % of days do in which each tick is missed with the
allowed probability: of 288 ticks at 1 % these are 7 (97.6 % realised). A day does not tell 99.3 % from 100 % (a day in
twenty has no miss at 1 %): that too much is held shows in the cost.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from models.capacity import Offer, Policy
from models.learning import schedule
from models.learning.app_learner import ARMS, AppLearner, Setting, Shard, learner_of
from models.learning.commanded import CommandedFleets
from models.learning.episodes import STATIC
from models.learning.plain_plans import METRIC, PlainPlans
from models.learning.price_tail import PRICES
from models.metrics import DAY_S
from models.purchase.table import Tiers
from models.synthetic.regimes import SHIFTS, Regime, demand

TICK_S: Final = 300
DAY: Final = DAY_S // TICK_S
DEARER: Final = 0.05
SETTLED: Final = 5
POLICY: Final = Policy(
    "trial", (METRIC,), {METRIC: 1.0}, max=10_000, confidence_of="time", learner=True, mode="auto"
)
OFFER: Final = Offer("trial", "local", "here", "here-1", "ON_DEMAND", {METRIC: 1.0}, 0.1, 100.0, 150.0, 200.0)

Array = NDArray[np.float64]
Tables = dict[float, dict[float, Tiers]]
"""By factor of the start-up times and confidence of supply."""


def offers(startup: float) -> list[Offer]:
    """One offer on demand, of a replica an instance, with start-up times `startup` times OFFER's."""
    times = (OFFER.startup_p50_s, OFFER.startup_p90_s, OFFER.startup_p99_s)
    p50, p90, p99 = (startup * seconds for seconds in times)
    return [replace(OFFER, startup_p50_s=p50, startup_p90_s=p90, startup_p99_s=p99)]


@dataclass(frozen=True)
class Outcome:
    """What came of consecutive ticks.

    Attributes:
        need: (tick) replicas that demand filled.
        ready, cost: (tick, 2) of the learner's plans and of static.
        lanes_ready, lanes_cost: (tick, arm, price) of fixed settings.
        events: promotions and rollbacks.
    """

    need: Array
    ready: Array
    cost: Array
    lanes_ready: Array
    lanes_cost: Array
    events: Sequence[tuple[int, str]]

    @property
    def missed(self) -> NDArray[np.bool_]:
        """(tick, 2)"""
        return self.ready < self.need[:, None]

    def cost_by_demand(self, allowed: float) -> tuple[float, float]:
        """Cost for each replica of demand in the last SETTLED days: of the best fixed setting, and of static."""
        need = self.need[-SETTLED * DAY :]
        misses = (self.lanes_ready[-len(need) :] < need[:, None, None]).sum(axis=0)
        cost = self.lanes_cost[-len(need) :].sum(axis=0)
        least = cost[misses <= max(int(misses.min()), allowed * len(need))].min()
        return float(least / need.sum()), float(self.cost[-len(need) :, 1].sum() / need.sum())


class Trial:
    """One app whose plans follow the learner, and beside them static's.

    Args:
        seed: of the learner's and the fleets' random events.
        startup: factor of the start-up times.
        tables: of purchases, shared with other trials.
        tick: of the first that is run.
    """

    def __init__(self, seed: int, startup: float, tables: Tables, tick: int = 0) -> None:
        self.seed, self.tick, self.tables, self.shard = seed, tick, tables, Shard(len(ARMS))
        self.plans = PlainPlans(POLICY, offers(startup), TICK_S)
        self.learner = self._learner(startup)
        self.fleets = self._fleets(startup)
        self.made: list[Setting] = []

    def _learner(self, startup: float) -> AppLearner:
        learner = learner_of(f"trial-{self.seed}", offers(startup), POLICY, {}, tick_s=TICK_S, seed=0)
        learner.fleets.use(self.tables.setdefault(startup, {}))
        return learner

    def _fleets(self, startup: float) -> CommandedFleets:
        app = f"trial-{self.seed}"
        fleets = CommandedFleets(app, offers(startup), POLICY, {}, tick_s=TICK_S, seed=0, rivals=2)
        fleets.use(self.tables.setdefault(startup, {}))
        return fleets

    def copied(self) -> Trial:
        """As it is now, to go on apart; tables of purchases stay shared."""
        kept: dict[int, Any] = {id(table): table for of in self.tables.values() for table in of.values()}
        return copy.deepcopy(self, kept | {id(self.tables): self.tables})

    def changed(self, startup: float) -> None:
        """Other start-up times from the next tick on: the fleets go on, plans and lanes know of it."""
        if offers(startup) == list(self.plans.offers):
            return
        learner, fleets = self._learner(startup), self._fleets(startup)
        learner.restore(self.learner.blocks())
        fleets.restore(self.fleets.blocks())
        self.learner, self.fleets, self.plans.offers = learner, fleets, offers(startup)

    def run(self, series: Array, plan_from: int = 0) -> Outcome:
        """Go through ticks; before `plan_from` nothing is planned, and these ticks are no part of the outcome."""
        rows: list[tuple[float, Array, Array, Array, Array]] = []
        events = len(self.learner.events)
        for i, value in enumerate(series):
            ready, cost = self.fleets.live(self.tick)
            planned = self.plans.after(self.tick, float(value), i >= plan_from)
            if planned is not None:
                now = replace(planned, ready=ready[0] if self.fleets.fleet is not None else np.nan)
                self.made = [*self.made, self.learner.observe(now, self.shard)][-3:]
                due = schedule.valid_from(0, TICK_S)
                setting = self.made[-1 - due] if len(self.made) > due else STATIC
                self.fleets.follow(now, [setting, STATIC])
                rows.append((now.need, ready, cost, *self._lanes()))
            self.tick += 1
        need, ready, cost, lanes_ready, lanes_cost = (np.array(column) for column in zip(*rows, strict=True))
        return Outcome(need, ready, cost, lanes_ready, lanes_cost, self.learner.events[events:])

    def _lanes(self) -> tuple[Array, Array]:
        """(arm, price) replicas ready in the tick that has passed, and cost, of the learner's lanes at fixed prices."""
        fleets, arms = self.learner.fleets, self.learner.arms
        assert fleets.fleet is not None
        ready, cost = fleets.fleet.least @ fleets.size, fleets.fleet.hours @ fleets.price
        fixed = np.arange(arms * (len(PRICES) + 1)).reshape(arms, -1)[:, : len(PRICES)]
        return ready[fixed].astype(np.float64), cost[fixed]


@dataclass(frozen=True)
class Recovery:
    """Of one shift and seed.

    Attributes:
        ticks: until right again, of the learner and of static; None: not within the ticks after the shift.
        own: ticks until static's trailing day costs at most 1 + DEARER of what static costs once settled.
        realised, cost_ratio: of both, over all ticks after the shift; cost over that of the best fixed setting.
        promotions, rollbacks: after the shift.
    """

    ticks: tuple[int | None, int | None]
    own: int | None
    realised: tuple[float, float]
    cost_ratio: tuple[float, float]
    promotions: int
    rollbacks: int


def recoveries(
    seed: int, names: Sequence[str], before_days: int, after_days: int, tables: Tables
) -> dict[str, Recovery]:
    """Of shifts, by name; what lies before a shift is simulated once for all shifts from one regime.

    Args:
        seed: of demand and luck.
        names: of SHIFTS.
        before_days, after_days: of a trial; a day of history comes before them.
        tables: of purchases, kept from seed to seed.
    """
    before, after = (1 + before_days) * DAY, after_days * DAY
    settled: dict[Regime, tuple[Trial, Outcome]] = {}

    def always(regime: Regime) -> tuple[Trial, Outcome]:
        if regime not in settled:
            trial = Trial(seed, regime.startup, tables)
            settled[regime] = trial, trial.run(demand([(regime, before)], TICK_S, seed), DAY)
        return settled[regime]

    result: dict[str, Recovery] = {}
    for name in names:
        shift = SHIFTS[name]
        trial = always(shift.before)[0].copied()
        trial.changed(shift.after.startup)
        series = demand([(shift.before, before), (shift.after, after)], TICK_S, seed)[before:]
        result[name] = judged(trial.run(series), always(shift.like)[1], 1 - POLICY.confidence)
    return result


def judged(shifted: Outcome, settled: Outcome, allowed: float) -> Recovery:
    """Of the ticks after a shift beside a settled trial; allowed: share of ticks that may be missed."""
    least, static = settled.cost_by_demand(allowed)
    missed, events = shifted.missed, [text.partition(" ")[0] for _, text in shifted.events]
    ours, other = shifted.cost.T
    return Recovery(
        ticks=(
            until_right(missed[:, 0], ours, least * shifted.need, allowed),
            until_right(missed[:, 1], other, least * shifted.need, allowed),
        ),
        own=until_right(missed[:, 1], other, static * shifted.need, allowed),
        realised=(float(1 - missed[:, 0].mean()), float(1 - missed[:, 1].mean())),
        cost_ratio=(
            float(ours.sum() / (least * shifted.need.sum())),
            float(other.sum() / (least * shifted.need.sum())),
        ),
        promotions=events.count("promotion"),
        rollbacks=events.count("rollback"),
    )


def until_right(missed: NDArray[np.bool_], cost: Array, due: Array, allowed: float) -> int | None:
    """Ticks until right again, see the module; None: never.

    Args:
        missed, cost: (tick) after the shift.
        due: (tick) what the best fixed setting costs.
        allowed: share of ticks that may be missed.
    """
    ones = np.ones(DAY)
    if len(missed) < DAY:
        return None
    misses, spent, least = (np.convolve(of.astype(float), ones, "valid") for of in (missed, cost, due))
    right = (misses <= binom.ppf(0.975, DAY, allowed)) & (spent <= (1 + DEARER) * least)
    return int(np.argmax(right)) + DAY if right.any() else None
