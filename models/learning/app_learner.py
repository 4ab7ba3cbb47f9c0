"""The learner of one app: the price of a shortage that it is planned with, and the experts, so that the stated share of
time is served at least cost.

For each arm (weights of the experts for the app's total) a lane is simulated at each of `price_tail.PRICES`, and one at
the arm's own price; beside them one at the policy's confidence ("static"), which the saving is measured against. The
arm's price is the quantile of critical prices that leaves the allowed share of ticks missed, moved by what was in fact
missed (an integrator: Gibbs and Candes, "Adaptive conformal inference under distribution shift",
NeurIPS 2021):

    log price = Q(1 - a) + I_app + I_shard,    I <- clip(I + gain * ([missed] - a))

so that the realised share tends to 1 - a whatever the demand does. Among arms, each at its own price, the first is in
force until another cost clearly less in the first week, and after it until a gate (`models.learning.gate`) has evidence
that another costs less.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy
from models.evaluation.simulated_cloud import Terms
from models.learning import first_week, price_tail
from models.learning.adjustment import ExpertWeights
from models.learning.first_week import Evidence, Scores
from models.learning.gate import BUDGET_DAYS, Day, Gate, Wealth
from models.learning.lane_check import LaneCheck
from models.learning.price_tail import LOG_PRICES, Tail
from models.learning.saving import Saving
from models.learning.shadow_fleets import ShadowFleets
from models.metrics import DAY_S, HOUR_S, horizon_steps
from models.planning.shortage_price import prices
from models.purchase.market import Market

GAIN: Final = 0.05
"""Of the app's integrator: one miss raises the price by 5 %, and 99 ticks without one take that back."""
SHARD_GAIN: Final = 0.02
LIMIT: Final = 2.0
"""Of both integrators, in log prices: a factor of 7."""
SHARD_TICKS, APP_TICKS = 300.0, 1_000.0
"""Ticks that the prior is worth to the shard, and the shard's tail to an app; of shorter ticks than TICK_S as long."""
TICK_S: Final = 300.0
LEAST_S: Final = float(DAY_S)
"""Time with known demand before an app's price is used; until then the policy's confidence is."""
CLEAR: Final = 0.05
"""Share of the spend that an arm has to save until then to be in force first,"""
CLEARER: Final = 0.02
"""and at the end of each of the next BEGIN_DAYS days to replace it."""
BEGIN_DAYS: Final = 7
"""After so many days evidence alone changes what is in force."""


class Arm(NamedTuple):
    """What an arm sets beside the price.

    Attributes:
        experts: weights of the forecasts that the app's need is averaged from.
        supply: confidence with which the replicas that are wanted are to be there; None: the policy's.
    """

    experts: ExpertWeights
    supply: float | None = None


EXPERTS: Final[Mapping[str, ExpertWeights]] = {
    "network": ExpertWeights(),
    "same_time_25": ExpertWeights(network=0.75, same_time=0.25),
    "same_time_50": ExpertWeights(network=0.5, same_time=0.5),
    "recent_50": ExpertWeights(network=0.5, recent=0.5),
    "persistence_50": ExpertWeights(network=0.5, persistence=0.5),
    "same_time_100": ExpertWeights(network=0.0, same_time=1.0),
}
"""Weights of the experts by name."""
LESS_SURE: Final = 0.9
"""Of supply: where a purchase has to last for hours, being surer costs more than what is lost."""
ARMS: Final[Mapping[str, Arm]] = {
    **{name: Arm(weights) for name, weights in EXPERTS.items()},
    **{f"{name}_supply_90": Arm(weights, LESS_SURE) for name, weights in EXPERTS.items()},
}
"""Arms by name; the first is in force at first."""
KINDS: Final = first_week.kinds(
    [arm.supply is not None for arm in ARMS.values()],
    [(arm.experts.same_time, arm.experts.recent, arm.experts.persistence) for arm in ARMS.values()],
)
"""(arm, 4) of `models.learning.first_week.Evidence`."""

Count = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Observation:
    """What is known of an app at the end of a tick.

    Attributes:
        tick: its number.
        need: replicas that the tick's demand filled; NaN: not measured, or a lower bound alone.
        ready: replicas that were in fact ready throughout the tick; NaN: not known, or no price was followed.
        wanted, soon: (arm, PRICES) replicas of `models.planning.sweep.SweepNeed`.
        static: both at the policy's confidence; None: not known.
        cost: per hour, of what the plan wants; NaN: not known.
    """

    tick: int
    need: float
    ready: float
    wanted: Count
    soon: Count
    static: tuple[int, int] | None = None
    cost: float = math.nan


@dataclass(frozen=True)
class Setting:
    """What the learner wants of the next plans.

    Attributes:
        arm: index in ARMS.
        price: of an hour's shortage, in those of a replica-hour; None: the policy's confidence (too little evidence).
        reason: in one line.
    """

    arm: int
    price: float | None
    reason: str


def replicas_at(log_price: float, curve: NDArray[Any]) -> int:
    """Whole replicas at a log price of a shortage, the nearest to the line between those of a curve (price) at PRICES.

    Plans are made at the price itself: rounded up, the simulated fleet had half a replica more than they.
    """
    return int(np.rint(np.interp(log_price, LOG_PRICES, curve)))


def experts_of(arm: Arm) -> str:
    """Name of the weights of an arm's experts."""
    return next(name for name, weights in EXPERTS.items() if weights == arm.experts)


class Shard:
    """What the apps of a shard have in common: critical prices and misses, by arm."""

    def __init__(self, arms: int = 1) -> None:
        self.tails = price_tail.initial(arms)
        self.moved = np.zeros(arms)

    def blocks(self) -> Arrays:
        """For a snapshot."""
        return _blocks(self.tails, self.moved)

    def restore(self, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a snapshot."""
        tails, moved = _restored(blocks)
        if moved.shape == self.moved.shape:  # else a snapshot of other arms
            self.tails, self.moved = tails, moved


def learner_of(
    app: str, offers: Sequence[Offer], policy: Policy, terms: Mapping[str, Terms], *, tick_s: int, seed: int
) -> AppLearner:
    """A new learner of an app, with all ARMS.

    Args:
        app: its name.
        offers: that can be bought.
        policy: of the app.
        terms: by offer, of the simulated cloud.
        tick_s: tick length.
        seed: of the random events.
    """
    lanes = len(price_tail.PRICES) + 1
    supply = [*(arm.supply for arm in ARMS.values() for _ in range(lanes)), None]
    fleets = ShadowFleets(app, offers, policy, terms, tick_s=tick_s, seed=seed, supply=supply)
    steps_s = [step * tick_s for step in horizon_steps(tick_s)]
    market = Market(offers, {}, policy, np.ones((1, len(steps_s)), np.int32), steps_s, (seed, b"", 0))
    return AppLearner(fleets, len(ARMS), 1 - policy.confidence, prices(market)[1])


class AppLearner:
    """One app.

    Args:
        fleets: of the app: for each arm a lane at each of PRICES and one at the arm's price, then, if any, static's.
        arms: number of arms.
        allowed: share of ticks that may be missed.
        replica_price: per hour, of the least replica that serves (`models.planning.shortage_price.prices`).

    Attributes:
        setting: for the next plans.
        events: promotions and rollbacks, as (day, text), the newest last.
        prior: share of critical prices above each point of the grid before anything is known.
        seen: (2, arm) spend and loss so far.
        first_week: chooses the arm until evidence alone does,
        evidence: by this.
        served: replicas that the lane of the arm in force had ready in the last tick; NaN: no price was used in it.
        planned: per hour, of the plan before this tick's; NaN: not known.
        before: spend of plans and of static's lane, in the ticks before a price was used.
        lane_check: of the fleet in force beside what was ready.
        pair: ((plans, static), (spend, loss)) of today's ticks in which a price was used.
        saving: of spend, and of loss, on the days before.
    """

    def __init__(self, fleets: ShadowFleets, arms: int, allowed: float, replica_price: float) -> None:
        self.fleets, self.arms, self.allowed, self.replica_price = fleets, arms, allowed, replica_price
        self.tails, self.prior = price_tail.initial(arms), price_tail.PRIOR
        self.moved = np.zeros(arms)
        self.log_price = np.full(arms, np.log(price_tail.PRIOR_PRICE))
        self.in_force, self.known = 0, 0
        self.seen = np.zeros((2, arms))
        self.first_week: Scores = first_week.thresholds(CLEAR, CLEARER)
        self.evidence = Evidence(KINDS[:arms], fleets.tick_s)
        self.static_lanes = fleets.held.shape[1] - arms * (len(LOG_PRICES) + 1)
        self.served, self.planned = math.nan, math.nan
        self.before, self.pair = np.zeros(2), np.zeros((2, 2))
        self.saving = (Saving(), Saving())
        self.day, self.days = -1, [Day(allowed=allowed) for _ in range(arms)]
        self.gates = [Gate() for _ in range(arms)]
        self.spend: list[float] = []
        self.events: list[tuple[int, str]] = []
        self.lane_check = LaneCheck()
        self.setting = Setting(0, None, "too little evidence")

    def observe(self, now: Observation, shard: Shard) -> Setting:
        """Learn from a tick and from the plan at its end.

        Args:
            now: of the tick.
            shard: of the app, which learns too.

        Returns:
            What is wanted of the next plans.
        """
        ready, cost = self.fleets.live(now.tick)
        lanes = self.arms * (len(LOG_PRICES) + 1)
        by_arm, spent = ready[:lanes].reshape(self.arms, -1), cost[:lanes].reshape(self.arms, -1)[:, -1]
        self._end_day(now.tick * self.fleets.tick_s // DAY_S)
        self.served = math.nan if self.setting.price is None else float(by_arm[self.in_force][-1])
        known = bool(np.isfinite(now.need)) and self.fleets.fleet is not None
        missed = self._learn(by_arm, now, shard) if known else np.zeros(self.arms, np.bool_)
        self._count(now.tick, spent, missed, known)
        self._take_back(self.day, self.days[self.in_force].beyond(self.days[0]))
        self._beside(float(ready[-1]), float(cost[-1]), now, known)
        if known and not math.isnan(self.served + now.ready):
            self.lane_check = self.lane_check.after(self.served, now.ready, now.need)
        before, self.known = self.known, self.known + known
        if before * self.fleets.tick_s < LEAST_S <= self.known * self.fleets.tick_s:
            self._begin(self.day, later=False)
        self.log_price = self._log_price(shard)
        self._decide(now)
        self.setting = self._setting()
        return self.setting

    def _learn(self, ready: NDArray[np.float64], now: Observation, shard: Shard) -> NDArray[np.bool_]:
        """Learn from a tick of the arms' lanes (arm, lane); (arm) whether its own lane missed."""
        kept = price_tail.kept(self.fleets.tick_s)
        critical = price_tail.critical_price(ready[:, :-1], now.need)
        served = ready[:, -1].copy()
        if self.setting.price is not None and not np.isnan(now.ready):
            served[self.in_force] = now.ready
        off = (served < now.need) - self.allowed
        self.tails = price_tail.observe(self.tails, critical, kept)
        shard.tails = price_tail.observe(shard.tails, critical, kept)
        self.moved = np.clip(self.moved + GAIN * off, -LIMIT, LIMIT)
        shard.moved = np.clip(shard.moved + SHARD_GAIN * off, -LIMIT, LIMIT)
        return ready[:, -1] < now.need

    def _log_price(self, shard: Shard) -> NDArray[np.float64]:
        """Log of the arms' prices (arm), within PRICES."""
        ticks = max(1.0, TICK_S / self.fleets.tick_s)
        before = price_tail.posterior(shard.tails, self.prior, SHARD_TICKS * ticks)
        share = price_tail.posterior(self.tails, before, APP_TICKS * ticks)
        price = price_tail.log_price(share, self.allowed) + self.moved + shard.moved
        return np.clip(price, LOG_PRICES[0], LOG_PRICES[-1])

    def _decide(self, now: Observation) -> None:
        """Buy for all lanes at the tick's end."""
        wanted, soon = (
            np.stack([np.append(of, replicas_at(self.log_price[arm], of)) for arm, of in enumerate(curve)])
            for curve in (now.wanted, now.soon)
        )
        lanes = [
            np.append(of.ravel(), [static] * self.static_lanes).astype(np.int64)
            for of, static in zip((wanted, soon), now.static or (0, 0), strict=True)
        ]
        self.fleets.decide(now.tick, *lanes)

    def _begin(self, day: int, *, later: bool) -> None:
        """Bring the arm of the first week's largest score into force; later: than the first choice."""
        if self.evidence.known_s < LEAST_S:
            return  # of a snapshot from before there was any
        free = np.array([day >= gate.barred_until for gate in self.gates])
        scores = self.first_week.scores(self.evidence.context(), self.in_force, later)
        best = int(np.where(free, scores, -np.inf).argmax())
        if best == self.in_force:
            return
        spent, loss = self.seen
        saved = (loss[self.in_force] - loss[best]) / max(spent[0], 1e-12)
        self._bring(best, day)
        how = f"{abs(saved):.1%} {'less' if saved >= 0 else 'more'}"
        self.events.append((day, f"begins with {self.name(best)}, which cost {how} so far"))

    def _bring(self, arm: int, day: int) -> None:
        """Bring an arm into force; the others are compared with it from here on."""
        self.gates = [replace(gate, better=Wealth(), promoted_day=None, lost=0.0) for gate in self.gates]
        if arm:
            self.gates[arm] = self.gates[arm].begun(day)
        self.in_force = arm

    def _beside(self, ready: float, cost: float, now: Observation, known: bool) -> None:
        """Compare the plans with static in a tick; ready, cost: of static's lane.

        Static buys for demand and supply together, its lane apart, which is dearer: the lane is scaled by what plans
        cost beside it before a price was used.
        """
        planned, self.planned = self.planned * self.fleets.tick_s / HOUR_S, now.cost
        if not self.static_lanes or self.fleets.fleet is None or not math.isfinite(planned):
            return
        if self.setting.price is None:
            self.before += (planned, cost)
            return
        served = self.served if math.isnan(now.ready) else now.ready
        shortage = float(np.exp(self.log_price[0])) * self.replica_price * self.fleets.tick_s / HOUR_S
        spend = np.array([planned, cost * self.before[0] / self.before[1] if self.before[1] > 0 else cost])
        missed = np.array([served, ready]) < now.need if known else np.zeros(2)
        self.pair += np.stack([spend, spend + missed * shortage], axis=1)

    def _count(self, tick: int, cost: NDArray[np.float64], missed: NDArray[np.bool_], known: bool) -> None:
        """Add a tick to the arms' day; a miss costs the first arm's price of a shortage for the tick.

        cost, missed: (arm).
        """
        hours = self.fleets.tick_s / HOUR_S
        shortage = float(np.exp(self.log_price[0])) * self.replica_price * hours
        loss = cost + missed * shortage
        self.seen += np.stack([cost, loss])
        self.evidence.count(tick, float(cost[0]), loss, known)
        self.days = [
            replace(
                day,
                cost=day.cost + spend,
                loss=day.loss + lost,
                misses=day.misses + miss,
                ticks=day.ticks + known,
            )
            for day, spend, lost, miss in zip(
                self.days, cost.tolist(), loss.tolist(), missed.tolist(), strict=True
            )
        ]

    def _end_day(self, day: int) -> None:
        """Where a new day begins, judge the one that has ended."""
        if self.day < 0:
            self.day = day
        if day == self.day:
            return
        self.saving = tuple(
            saved.after(*of) for saved, of in zip(self.saving, self.pair.T.tolist(), strict=True)
        )
        self.pair = np.zeros((2, 2))
        if why := self.lane_check.fault(self.fleets.tick_s):
            self.events.append((day, f"frozen for {self.lane_check.cool_days} days: {why}"))
        self.lane_check = self.lane_check.ended(day, self.fleets.tick_s)
        first = self.days[0]
        self.spend = [*self.spend, first.cost][-BUDGET_DAYS:]
        in_force = self.days[self.in_force]
        for arm in range(1, self.arms):
            self.gates[arm] = self.gates[arm].judged(
                self.days[arm], first if arm == self.in_force else in_force
            )
        self._take_back(day, 0.0)
        known_s = self.known * self.fleets.tick_s
        if LEAST_S <= known_s <= LEAST_S + BEGIN_DAYS * DAY_S:
            self._begin(day, later=True)
        ready = [a for a in range(1, self.arms) if self.gates[a].may_begin(day, self.arms - 1)]
        if ready:
            best = max(ready, key=lambda a: self.gates[a].better.value)
            evidence = f"e-value {self.gates[best].better.value:.3g} in {self.gates[best].better.days} days"
            self.events.append((day, f"promotion of {self.name(best)}: {evidence}"))
            self._bring(best, day)
        self.day, self.days = day, [Day(allowed=self.allowed) for _ in range(self.arms)]

    def _take_back(self, day: int, today: float) -> None:
        """Bring the first arm back where the arm in force must end; today: what it cost more in a day not over."""
        arm = self.in_force
        monthly = BUDGET_DAYS * sum(self.spend) / max(1, len(self.spend))
        if arm and (why := self.gates[arm].must_end(monthly, today)):
            ended = self.gates[arm].ended(day)
            self._bring(0, day)
            self.gates[arm] = ended
            self.events.append((day, f"rollback of {self.name(arm)}: {why}"))

    def name(self, arm: int) -> str:
        """Of an arm."""
        return list(ARMS)[arm]

    def _setting(self) -> Setting:
        if self.known * self.fleets.tick_s < LEAST_S:
            hours = self.known * self.fleets.tick_s / HOUR_S
            why = f"{hours:.1f} h of known demand of {LEAST_S / HOUR_S:g} needed: the policy's confidence"
            return Setting(0, None, why)
        if self.day < self.lane_check.frozen_until:
            return Setting(
                0, None, "frozen: the simulated fleet is not what plans get: the policy's confidence"
            )
        price = float(np.exp(self.log_price[self.in_force]))
        return Setting(
            self.in_force,
            price,
            f"{self.name(self.in_force)}: a shortage's hour is worth {price:.4g} replica-hours, so that"
            f" {1 - self.allowed:.4g} of the time is served",
        )

    def blocks(self) -> Arrays:
        """For a snapshot."""
        kept = {
            "in_force": self.in_force,
            "known": self.known,
            "day": self.day,
            "days": [asdict(day) for day in self.days],
            "gates": [asdict(gate) for gate in self.gates],
            "spend": self.spend,
            "events": self.events,
            "setting": asdict(self.setting),
            "saving": [asdict(saved) for saved in self.saving],
            "pair": self.pair.tolist(),
            "planned": self.planned if math.isfinite(self.planned) else None,
            "before": self.before.tolist(),
            "lane_check": asdict(self.lane_check),
        }
        return {
            **_blocks(self.tails, self.moved),
            **self.evidence.blocks(),
            **{f"fleets.{name}": array for name, array in self.fleets.blocks().items()},
            "log_price": self.log_price,
            "seen": self.seen,
            "kept": np.frombuffer(json.dumps(kept).encode(), np.uint8),
        }

    def restore(self, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a snapshot.

        Raises:
            ValueError: it is of other arms.
        """
        self.tails, self.moved = _restored(blocks)
        if len(self.moved) != self.arms:
            raise ValueError(f"a snapshot of {len(self.moved)} arms, of which there are {self.arms} now")
        self.log_price, self.seen = blocks["log_price"].copy(), blocks["seen"].copy()
        self.evidence.restore(blocks)
        self.fleets.restore(
            {
                name.removeprefix("fleets."): array
                for name, array in blocks.items()
                if name.startswith("fleets.")
            }
        )
        kept = json.loads(blocks["kept"].tobytes())
        self.in_force, self.known, self.day = kept["in_force"], kept["known"], kept["day"]
        self.days = [Day(**day) for day in kept["days"]]
        self.gates = [Gate.of(gate) for gate in kept["gates"]]
        self.spend, self.events = kept["spend"], [(day, text) for day, text in kept["events"]]
        self.setting = Setting(**kept["setting"])
        self.saving, self.pair = tuple(Saving(**of) for of in kept["saving"]), np.array(kept["pair"])
        self.planned = math.nan if kept["planned"] is None else kept["planned"]
        self.before = np.array(kept["before"])
        self.lane_check = LaneCheck(**kept.get("lane_check", {}))


def _blocks(tails: Tail, moved: NDArray[np.float64]) -> Arrays:
    return {**tails, "moved": moved}


def _restored(blocks: Mapping[str, NDArray[Any]]) -> tuple[Tail, NDArray[np.float64]]:
    return {name: blocks[name].copy() for name in ("n", "above")}, blocks["moved"].copy()
