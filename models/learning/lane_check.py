"""Whether the simulated fleet of what is in force is what plans get: where it is not, nothing learnt from it holds.

Over ticks in which plans follow a price and what was ready is known, of one app:

    hits      the fleet and the truth differ in whether the demand was served, in more than HITS of the ticks and by
              more than LUCK standard deviations of a Poisson number
    capacity  the mean of the replicas that were ready differs by more than CAPACITY

Judged at the end of each day, when earlier days fade by half. The learner is then frozen, and plans are static, for
`gate.COOL_DAYS`, twice as long each time. On recorded backtests hits differ in 0 to 0.4 % and capacity by 0 to 2 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from models.learning.gate import COOL_DAYS
from models.metrics import DAY_S

HITS: Final = 0.01
LUCK: Final = 3.0
LEAST: Final = 5.0
"""Ticks that differ, at least, before hits are held against the fleet."""
CAPACITY: Final = 0.1
LEAST_S: Final = DAY_S / 2
"""Time that is judged, at least."""


@dataclass(frozen=True)
class LaneCheck:
    """Sums over an app's ticks.

    Attributes:
        ticks: that were compared; differ: in which the demand was served by one of the two alone.
        simulated, ready: replicas of the simulated fleet, and in truth.
        frozen_until: day until which nothing is learnt from; cool_days: of the next time.
    """

    ticks: float = 0.0
    differ: float = 0.0
    simulated: float = 0.0
    ready: float = 0.0
    frozen_until: int = -1
    cool_days: int = COOL_DAYS

    def after(self, simulated: float, ready: float, need: float) -> LaneCheck:
        """After a tick with known demand; simulated, ready, need: replicas."""
        return replace(
            self,
            ticks=self.ticks + 1,
            differ=self.differ + ((simulated >= need) != (ready >= need)),
            simulated=self.simulated + simulated,
            ready=self.ready + ready,
        )

    def fault(self, tick_s: float) -> str:
        """What differs too much, "" where nothing does or too little is known; tick_s: length of a tick."""
        if self.ticks * tick_s < LEAST_S:
            return ""
        most = HITS * self.ticks
        if self.differ > max(LEAST, most + LUCK * math.sqrt(most)):
            return f"what was ready served other ticks than the simulated fleet: {self.differ / self.ticks:.1%} of them"
        if abs(self.ready - self.simulated) > CAPACITY * max(self.simulated, 1e-9):
            simulated, ready = self.simulated / self.ticks, self.ready / self.ticks
            return f"{ready:.3g} replicas were ready on average, and {simulated:.3g} of the simulated fleet"
        return ""

    def ended(self, day: int, tick_s: float) -> LaneCheck:
        """At the end of a day, `day` being the next."""
        if self.fault(tick_s):
            return LaneCheck(frozen_until=day + self.cool_days, cool_days=2 * self.cool_days)
        return replace(
            self,
            ticks=self.ticks / 2,
            differ=self.differ / 2,
            simulated=self.simulated / 2,
            ready=self.ready / 2,
        )
