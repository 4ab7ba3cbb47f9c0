"""What the gate does with arms whose worth is known: identical ones, a true saving, and one that turns bad.

The real learner of an app runs on demand of day and night,

    y = 100 + 40 [afternoon or evening] + 10 e,  e standard normal,

at ticks of TICK_S. An arm knows a share of the difference between day and night: what it wants is a line over the log
of the price, moved by that share, and by a whole number from -JITTER to JITTER that is drawn for each arm and tick, so
that arms that know the same are exchangeable and not equal. Each arm is compared at its own price, by cost and misses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy
from models.learning.app_learner import ARMS, AppLearner, Observation, Shard, learner_of
from models.learning.gate import BUDGET_DAYS, LEVEL
from models.learning.price_tail import LOG_PRICES
from models.metrics import DAY_S
from models.purchase.table import Tiers

TICK_S: Final = 900
DAY: Final = DAY_S // TICK_S
MEAN: Final = 100.0
MORE: Final = 40.0
NOISE: Final = 10.0
WIDE: Final = 25.0
"""Of the line: replicas for each standard deviation that plans take demand to have."""
JITTER: Final = 2
SAVES: Final = 0.47
"""Share of the difference known to an arm that costs 5 % less."""
POLICY: Final = Policy("trial", ("cpu",), {"cpu": 1.0}, hold_s=0.0, max=10_000)
OFFER: Final = Offer("trial", "local", "here", "here-1", "ON_DEMAND", {"cpu": 1.0}, 0.1, 20.0, 30.0, 60.0)

Known = Callable[[AppLearner, int], Sequence[float]]
"""(arm) shares of the difference that arms know, by the learner and the day."""


@dataclass(frozen=True)
class Tried:
    """Of one seed.

    Attributes:
        in_force: (tick) arm.
        evidence: (tick, arm) e-value that an arm costs less than the first.
        spent, loss: (tick, arm) spend, and spend with priced misses.
        events: promotions and rollbacks.
    """

    in_force: NDArray[np.int64]
    evidence: NDArray[np.float64]
    spent: NDArray[np.float64]
    loss: NDArray[np.float64]
    events: Sequence[tuple[int, str]]

    def saving(self, arm: int) -> float:
        """Share by which an arm's loss is below the first arm's spend, from the second day on."""
        kept = slice(DAY, None)
        difference = self.loss[kept, 0].sum() - self.loss[kept, arm].sum()
        return float(difference / self.spent[kept, 0].sum())

    def begun(self) -> int | None:
        """Day on which another arm than the first comes into force, by evidence or for what the first day showed."""
        return _first_day((self.in_force > 0)[:, None])

    def proved(self) -> int | None:
        """Day at whose beginning the evidence for an arm first suffices to promote it; None: it never does."""
        return _first_day(self.evidence >= (len(ARMS) - 1) / LEVEL)


def _first_day(which: NDArray[np.bool_]) -> int | None:
    """Day of the first tick, of (tick, arm), in which any is true."""
    at = np.flatnonzero(which.any(axis=1))
    return int(at[0]) // DAY if at.size else None


def tried(seed: int, days: int, known: Known, tables: dict[float, Tiers]) -> Tried:
    """Run a learner over days.

    Args:
        seed: of demand and jitter.
        days: to run.
        known: what the arms know.
        tables: of purchases, kept from seed to seed.
    """
    rng = np.random.default_rng(seed)
    learner = learner_of("trial", [OFFER], POLICY, {}, tick_s=TICK_S, seed=0)
    learner.fleets.use(tables)
    shard, arms = Shard(len(ARMS)), len(ARMS)
    far = (LOG_PRICES - LOG_PRICES[0]) / (LOG_PRICES[-1] - LOG_PRICES[0])
    line = MEAN + 3.5 * WIDE * far
    in_force: list[int] = []
    seen: list[NDArray[np.float64]] = []
    evidence: list[list[float]] = []
    for tick in range(days * DAY):
        late = MORE * (tick % DAY >= DAY // 2)
        shares = np.asarray(known(learner, tick // DAY))
        ahead = MORE * ((tick + 1) % DAY >= DAY // 2)
        jitter = rng.integers(-JITTER, JITTER + 1, arms)
        wanted = np.ceil(line + (shares * ahead + jitter)[:, None]).astype(np.int64)
        need = float(np.ceil(MEAN + late + NOISE * rng.standard_normal()))
        in_force.append(learner.in_force)
        learner.observe(
            Observation(tick, need, np.nan, wanted, np.zeros_like(wanted), (int(wanted[0, -1]), 0)), shard
        )
        seen.append(learner.seen.copy())
        evidence.append([gate.better.value for gate in learner.gates])
    spent, loss = np.diff(np.array(seen), axis=0, prepend=0.0).transpose(1, 0, 2)
    return Tried(np.array(in_force), np.array(evidence), spent, loss, learner.events)


def identical(seed: int, days: int, tables: dict[float, Tiers]) -> Tried:
    """All arms know the same: a promotion is false."""
    return tried(seed, days, lambda learner, day: [0.0] * len(ARMS), tables)


def saving(seed: int, days: int, tables: dict[float, Tiers]) -> Tried:
    """The second arm costs 5 % less from the first day on."""
    return tried(seed, days, lambda learner, day: _second(SAVES), tables)


def _second(share: float) -> list[float]:
    """Shares of the arms of which the second alone knows something."""
    return [0.0, share] + [0.0] * (len(ARMS) - 2)


@dataclass(frozen=True)
class Trojan:
    """Of an arm that saves 5 % until GOOD_DAYS after its promotion, and is bad from then on.

    Attributes:
        ticks: until it is taken back; None: not within the days.
        lost: its loss beyond the first arm's until then, of the first arm's spend of BUDGET_DAYS.
        worse: its loss beyond the first arm's a day, while it is bad, of the first arm's spend.
    """

    ticks: int | None
    lost: float
    worse: float


GOOD_DAYS: Final = 3


def trojan(seed: int, days: int, bad: float, tables: dict[float, Tiers]) -> Trojan | None:
    """One that knows `bad` of the difference, below 0, once it is bad; None: it was not promoted in time.

    Args:
        seed: of demand and jitter.
        days: to run.
        bad: share of the difference that it takes to be the other way round.
        tables: of purchases.
    """
    turned: list[int] = []

    def known(learner: AppLearner, day: int) -> list[float]:
        promoted = learner.gates[1].promoted_day
        if not turned and promoted is not None and day >= promoted + GOOD_DAYS:
            turned.append(day)
        return _second(bad if turned else SAVES)

    of = tried(seed, days, known, tables)
    if not turned:
        return None
    begun = turned[0] * DAY
    gone = np.flatnonzero(of.in_force[begun:] != 1)
    until = int(gone[0]) if gone.size else None
    excess, spent = of.loss[begun:, 1] - of.loss[begun:, 0], of.spent[begun:, 0]
    daily = float(spent.mean() * DAY)
    return Trojan(
        until, float(excess[:until].sum() / (daily * BUDGET_DAYS)), float(excess.sum() / spent.sum())
    )
