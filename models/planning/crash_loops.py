"""Instances that are lost again as soon as they are back: told from a replacement by counts of ready instances alone.

A loss is a fall of the number of ready instances below the goal that no smaller goal explains. Each adds its share of
the goal, so that more than one in all means that some instance was lost twice: a rolling update, which takes each
instance once, never comes to that. A fall deeper than a rolling update's (`ROLLING`) adds `DEEP` at least, so that the
second suffices. Shares are forgotten slowly, and altogether once nothing was lost or away for twice the offer's 99 %
start-up time, a failed launch's pause and two ticks.

Above one in all, only what has been ready for the offer's start-up time counts, until they are forgotten. An offer that
was left for another one proves no calm while nothing of it is wanted: two that flap in turn are both in a loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from models.capacity import Observed

RELAUNCH_S: Final = 60.0  # pause of a provider before it tries a failed launch again
ROLLING: Final = (
    4  # Kubernetes' default: at most a quarter of a deployment is unavailable in a rolling update
)
DEEP: Final = 2 / 3  # of the goal: two of them exceed it for as long as a third of it is not forgotten
MEMORY: Final = 20  # times the calm after which all is forgotten: until then a loss of the whole goal is
MOST: Final = 2.0  # of the goal: an offer of which nothing runs is tried afresh after `MEMORY` calms


@dataclass(frozen=True)
class Times:
    """Of an offer: its 99 % start-up time, and the tick's length, in seconds."""

    lead_s: float
    tick_s: float

    @property
    def calm_s(self) -> float:
        """Without losses, after which an instance counts as replaced."""
        return 2 * self.lead_s + RELAUNCH_S + 2 * self.tick_s


@dataclass
class Losses:
    """How an offer's ready instances came and went; plain JSON as a dictionary.

    Attributes:
        lows: [event time, ready] of the last observations within a start-up time and a tick, without those that a
            later one is not above: the first is the least.
        running: last observed; leaving: of them, the ones that a smaller goal is to release.
        away: lost and not back; deep: whether they were once more than a rolling update takes.
        share: lost in all, of the goal.
        trouble_s: event time at which an instance was last lost or away.
    """

    lows: list[list[float]] = field(default_factory=list[list[float]])
    running: int = 0
    leaving: int = 0
    away: int = 0
    deep: bool = False
    share: float = 0.0
    trouble_s: float = 0.0

    @property
    def loop(self) -> bool:
        """Whether instances are lost as often as they come."""
        return self.share > 1

    @property
    def steady(self) -> int:
        """Instances that have been ready for a start-up time, and a tick at least."""
        return int(self.lows[0][1]) if self.lows else 0

    def follow(self, seen: Observed, goal: int, times: Times) -> None:
        """Take in an observation; goal: instances that are waited for or there."""
        at_s, ready = seen.at_s or 0.0, seen.ready
        before_s, before = self.lows[-1] if self.lows else (at_s, ready)
        if self.lows and at_s <= before_s:
            return
        if not self.loop or not goal:
            self.share = max(0.0, self.share - (at_s - before_s) / (MEMORY * times.calm_s))
        self.leaving = max(self.leaving, self.running - goal)
        self.running = seen.running
        fell = int(before) - ready
        self._count(
            max(0, min(fell - self.leaving, goal - ready)), back=max(0, -fell), goal=goal, ready=ready
        )
        self.leaving = max(0, min(self.leaving - max(0, fell), seen.running - goal))
        since_s = at_s - max(times.lead_s, times.tick_s)
        self.lows = [[t, n] for t, n in self.lows if t >= since_s and n < ready] + [[at_s, float(ready)]]
        if self.away or (self.loop and not goal):  # what does not run cannot prove that it stays
            self.trouble_s = at_s
        elif at_s - self.trouble_s >= times.calm_s:
            self.share = 0.0

    def _count(self, lost: int, *, back: int, goal: int, ready: int) -> None:
        """Add what was lost to `share`."""
        self.away = max(0, min(self.away + lost - back, goal - ready))
        if lost:
            self.share = min(MOST, self.share + lost / goal)
        if lost and not self.deep and self.away > max(1, goal // ROLLING):
            self.deep = True
            self.share = min(MOST, self.share + max(0.0, DEEP - self.away / goal))
        self.deep = self.deep and self.away > 0
