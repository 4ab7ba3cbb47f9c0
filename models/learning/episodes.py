"""Episodes: what a learner of one app observes tick by tick, and what its choices would have cost.

Demand does not react to what is bought, so an episode can be gone through again by any learner. A *rival* chooses an
arm and a price of a shortage for every tick; all are judged alike: what they choose at a tick's end is bought from the
tick after the next on, as on the stream, by a fleet of their own with the same luck. Beside them all fixed settings are
simulated: their least cost by share of time served (`Frontier`) compares rivals that serve different shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy
from models.evaluation.simulated_cloud import Terms
from models.learning import schedule
from models.learning.app_learner import ARMS, Observation, Setting, Shard, learner_of
from models.learning.commanded import CommandedFleets
from models.learning.first_week import Scores
from models.learning.plain_plans import PlainPlans
from models.learning.price_tail import PRICES
from models.learning.shadow_fleets import ShadowFleets
from models.metrics import DAY_S
from models.purchase.table import Tiers

STATIC: Final = Setting(0, None, "static")
BEST_DAYS: Final = 7

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Episode:
    """One app over consecutive ticks.

    Attributes:
        app: its name.
        offers, policy, terms: of the app.
        tick_s, seed: length of a tick, and the seed of the random events.
        first_tick: number of the first.
        need: (tick) replicas that demand filled; NaN: not known.
        wanted, soon: (tick, 1 + arm, price) replicas of `models.planning.sweep.SweepNeed`: in the first row those at
            the policy's confidence, at every price alike, then those of ARMS.
        scored: row from which on rivals are scored; what is before it they learn from.
    """

    app: str
    offers: Sequence[Offer]
    policy: Policy
    terms: Mapping[str, Terms]
    tick_s: int
    seed: int
    first_tick: int
    need: Array
    wanted: NDArray[np.int64]
    soon: NDArray[np.int64]
    scored: int = 0

    def observation(self, row: int, ready: float = np.nan) -> Observation:
        """Of a row; ready: replicas that were ready throughout it."""
        wanted, soon = self.wanted[row, 1:], self.soon[row, 1:]
        static = int(self.wanted[row, 0, 0]), int(self.soon[row, 0, 0])
        return Observation(self.first_tick + row, float(self.need[row]), ready, wanted, soon, static)

    def before(self) -> Episode:
        """The rows before those that are scored, as an episode."""
        kept = slice(self.scored)
        return replace(self, need=self.need[kept], wanted=self.wanted[kept], soon=self.soon[kept], scored=0)

    @property
    def allowed(self) -> float:
        """Share of ticks that may be missed."""
        return 1 - self.policy.confidence


@dataclass(frozen=True)
class Seen:
    """What a rival knows at the end of a tick.

    Attributes:
        row: of the episode.
        missed: whether its own fleet missed the tick; False where the need is not known.
        known: whether it is.
        cost: of its own fleet in the tick.
        lanes_cost: (1 + arm, price) cost of all fixed settings.
        lanes_missed: (1 + arm, price) whether they missed.
    """

    row: int
    missed: bool
    known: bool
    cost: float
    lanes_cost: Array
    lanes_missed: NDArray[np.bool_]


def curves(static: tuple[int, int], wanted: NDArray[np.int64], soon: NDArray[np.int64]) -> NDArray[np.int32]:
    """(2, 1 + arm, price) wanted and soon of an `Episode`'s tick.

    Args:
        static: need at the policy's confidence.
        wanted, soon: (arm, price) of the arms.
    """
    first = [np.full((1, wanted.shape[1]), of) for of in static]
    return np.stack([np.vstack([first[0], wanted]), np.vstack([first[1], soon])]).astype(np.int32)


class Rival(Protocol):
    """Chooses settings of one episode."""

    def choose(self, now: Observation, seen: Seen) -> Setting:
        """What is wanted of the next plans."""
        ...


@dataclass(frozen=True, eq=False)
class Lanes:
    """Outcomes of all fixed settings, (tick, 1 + arm, price); the first row is static."""

    ready: NDArray[np.float32]
    cost: NDArray[np.float32]

    def missed(self, episode: Episode) -> NDArray[np.bool_]:
        """Likewise; of a need that is not known nothing is missed."""
        return self.ready < np.nan_to_num(episode.need, nan=-1.0)[:, None, None]


@dataclass(frozen=True, eq=False)
class Arena:
    """An episode in which rivals are judged.

    Attributes:
        episode: gone through.
        lanes: all its fixed settings.
        tables: of purchases, by confidence of supply.
    """

    episode: Episode
    lanes: Lanes
    tables: dict[float, Tiers]


def arena(episode: Episode, tables: dict[float, Tiers] | None = None) -> Arena:
    """Simulate all fixed settings of an episode; tables: of other episodes with the same offers, policy and seed."""
    tables = {} if tables is None else tables
    arms = [None, *(arm.supply for arm in ARMS.values())]
    fleets = ShadowFleets(
        episode.app,
        episode.offers,
        episode.policy,
        episode.terms,
        tick_s=episode.tick_s,
        seed=episode.seed,
        supply=[supply for supply in arms for _ in PRICES],
    )
    fleets.use(tables)
    shape = (len(episode.need), len(arms), len(PRICES))
    ready, cost = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row in range(len(episode.need)):
        tick = episode.first_tick + row
        one, other = fleets.live(tick)
        ready[row], cost[row] = one.reshape(shape[1:]), other.reshape(shape[1:])
        fleets.decide(tick, episode.wanted[row].ravel(), episode.soon[row].ravel())
    return Arena(episode, Lanes(ready, cost), tables)


@dataclass(frozen=True)
class Judged:
    """Of one rival, over the scored ticks whose need is known.

    Attributes:
        cost: spent.
        misses, ticks: of them.
    """

    cost: float
    misses: int
    ticks: int

    @property
    def realised(self) -> float:
        """Share of the ticks that was served."""
        return 1 - self.misses / max(1, self.ticks)


class Run:
    """One rival's way through an episode, a tick at a time.

    Args:
        arena: to go through.
    """

    def __init__(self, arena: Arena) -> None:
        episode = self.episode = arena.episode
        self.lanes, self.missed = arena.lanes, arena.lanes.missed(episode)
        self.fleets = CommandedFleets(
            episode.app,
            episode.offers,
            episode.policy,
            episode.terms,
            tick_s=episode.tick_s,
            seed=episode.seed,
            rivals=1,
        )
        self.fleets.use(arena.tables)
        self.row = 0
        self.made = [STATIC] * (1 + schedule.valid_from(0, episode.tick_s))
        self.cost, self.misses, self.ticks = 0.0, 0, 0

    @property
    def done(self) -> bool:
        """Whether no tick is left."""
        return self.row >= len(self.episode.need)

    def live(self) -> tuple[Observation, Seen]:
        """Take the fleet through the next tick."""
        row, episode = self.row, self.episode
        ready, cost = (float(of[0]) for of in self.fleets.live(episode.first_tick + row))
        need = float(episode.need[row])
        known = bool(np.isfinite(need)) and self.fleets.fleet is not None
        missed = known and ready < need
        if row >= episode.scored and known:
            self.cost, self.misses, self.ticks = self.cost + cost, self.misses + missed, self.ticks + 1
        seen = Seen(row, missed, known, cost, self.lanes.cost[row].astype(np.float64), self.missed[row])
        return episode.observation(row, ready if known else np.nan), seen

    def buy(self, now: Observation, setting: Setting) -> None:
        """Take down what is wanted at the tick's end, and buy what was wanted as long ago as an adjustment takes."""
        self.made = [*self.made[1:], setting]
        self.fleets.follow(now, [self.made[0]])
        self.row += 1

    @property
    def judged(self) -> Judged:
        """So far."""
        return Judged(self.cost, self.misses, self.ticks)


def judged(arena: Arena, rival: Rival) -> Judged:
    """A rival over a whole episode."""
    run = Run(arena)
    while not run.done:
        now, seen = run.live()
        run.buy(now, rival.choose(now, seen))
    return run.judged


class Frontier:
    """Least cost of a fixed price of the first arm by the share of the ticks that it misses, over the scored ticks.

    Args:
        arena: that the settings were simulated in.
    """

    def __init__(self, arena: Arena) -> None:
        episode, of = arena.episode, arena.lanes
        kept = np.isfinite(episode.need) & (np.arange(len(episode.need)) >= episode.scored)
        missed = of.missed(episode)[kept, 1].mean(axis=0)
        cost = of.cost[kept, 1].sum(axis=0, dtype=np.float64)
        order = np.lexsort((cost, missed))
        self.missed = missed[order]
        self.cost = np.minimum.accumulate(cost[order])

    def at(self, missed: float) -> float:
        """Cost at a share of misses, between settings along the logarithm of the cost; beyond them as the nearest."""
        return float(np.exp(np.interp(missed, self.missed, np.log(self.cost))))

    def cost_at(self, of: Judged, missed: float) -> float:
        """What a rival would cost at a share of misses: its cost, moved along the frontier."""
        return of.cost * self.at(missed) / self.at(1 - of.realised)


class Fixed:
    """Static: the policy's confidence at all times."""

    def choose(self, now: Observation, seen: Seen) -> Setting:
        """Nothing."""
        return STATIC


class Ours:
    """The learner.

    Args:
        arena: gone through.
        first_week: chooses the arm in the first week; None: as the learner does by itself.
    """

    def __init__(self, arena: Arena, first_week: Scores | None = None) -> None:
        episode, self.shard = arena.episode, Shard(len(ARMS))
        self.learner = learner_of(
            episode.app,
            episode.offers,
            episode.policy,
            episode.terms,
            tick_s=episode.tick_s,
            seed=episode.seed,
        )
        self.learner.fleets.use(arena.tables)
        if first_week is not None:
            self.learner.first_week = first_week

    def choose(self, now: Observation, seen: Seen) -> Setting:
        """As of `AppLearner`."""
        return self.learner.observe(now, self.shard)


class SevenDayBest:
    """The arm and price that cost least in the last days among those that missed no more than is allowed.

    Args:
        episode: gone through.
    """

    def __init__(self, episode: Episode) -> None:
        self.ticks = BEST_DAYS * DAY_S // episode.tick_s
        self.allowed = episode.allowed
        shape = episode.wanted.shape[1:]
        self.last: list[tuple[Array, NDArray[np.bool_]]] = []
        self.sums = np.zeros(shape), np.zeros(shape)

    def choose(self, now: Observation, seen: Seen) -> Setting:
        """Of the last days; in the first day static."""
        self.last.append((seen.lanes_cost, seen.lanes_missed))
        cost, missed = self.sums[0] + seen.lanes_cost, self.sums[1] + seen.lanes_missed
        if len(self.last) > self.ticks:
            first_cost, first_missed = self.last.pop(0)
            cost, missed = cost - first_cost, missed - first_missed
        self.sums = cost, missed
        if len(self.last) * BEST_DAYS < self.ticks:
            return STATIC
        share = missed / len(self.last)
        best = np.where(share <= max(self.allowed, float(share.min())) + 1e-12, cost, np.inf)
        row, price = np.unravel_index(int(np.argmin(best)), best.shape)
        return STATIC if row == 0 else Setting(int(row) - 1, float(PRICES[price]), "least of the last days")


def of_series(series: Array, app: str, offers: Sequence[Offer], policy: Policy, tick_s: int) -> Episode:
    """Of one app's demand in units of `plain_plans.METRIC`, planned by plain plans from the second day on."""
    plans, day = PlainPlans(policy, offers, tick_s), DAY_S // tick_s
    need: list[float] = []
    made: list[NDArray[np.int32]] = []
    for tick, value in enumerate(series):
        of = plans.after(tick, float(value), tick >= day)
        if of is not None:
            need.append(of.need)
            made.append(curves(of.static or (0, 0), of.wanted, of.soon))
    curve = np.array(made, np.int64)
    return Episode(app, offers, policy, {}, tick_s, 0, day, np.array(need), curve[:, 0], curve[:, 1])
