"""Whether an arm may replace another: bets on paired daily blocks, a budget for what it may lose, and a way back.

Each day gives the difference d in loss (spend and priced misses) between the arm in force and a candidate on the same
demand with the same luck, in units of `SCALE` of the day's spend, cut off at -1 and 1. Under the hypothesis that the
candidate is no better, E[d | past] <= 0, and the wealth of a gambler who bets shares b of it on d,

    W = mean over b in BETS of prod (1 + b d_i),

is an e-process: P(sup W >= 1/a) <= a (Ville; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 86, 2024). With K candidates at `LEVEL` each needs W >= K / LEVEL. The same wealth of -d takes an arm
back. A day's block keeps a rhythm of hours from counting as many observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

BETS: Final = (0.6, 0.9, 1.0)
"""With the last a saving of SCALE or more every day doubles the wealth, and seven days suffice for four candidates; a
day that costs SCALE more takes all of it, and the others stay."""
SCALE: Final = 0.02
LEVEL: Final = 0.05
MOST: Final = 1e12
"""Of a bet's wealth: what is given away beyond it keeps the bound, and years of evidence stay finite and revocable."""
BUDGET: Final = 0.0035
"""Loss against the first arm at which an arm in force is taken back, as a share of the spend of BUDGET_DAYS. It may
lose 0.5 %; the tick that passes this bound comes on top."""
BUDGET_DAYS: Final = 30
LUCK: Final = 1.0
"""Standard deviations by which misses have to differ to count against the budget."""
COOL_DAYS: Final = 2
"""Days for which an arm that was taken back is not tried; doubled each time."""


@dataclass(frozen=True)
class Wealth:
    """A gambler's wealth by bet, and the number of days bet on."""

    by_bet: tuple[float, ...] = (1.0,) * len(BETS)
    days: int = 0

    @property
    def value(self) -> float:
        """The e-value."""
        return sum(self.by_bet) / len(BETS)

    def after(self, difference: float, scale: float) -> Wealth:
        """After a day's difference, in units of `scale`; a day on which nothing was spent does not count."""
        if scale <= 0:
            return self
        d = max(-1.0, min(1.0, difference / scale))
        wealth = (min(w * (1 + b * d), MOST) for w, b in zip(self.by_bet, BETS, strict=True))
        return Wealth(tuple(wealth), self.days + 1)


@dataclass(frozen=True)
class Gate:
    """Evidence about one candidate arm of an app.

    Attributes:
        better, worse: wealth that the candidate costs less than the arm that it is compared with, and more.
        breach: wealth that it misses more than is allowed.
        promoted_day: on which it came into force; None: it is not.
        lost: what it cost beyond the first arm since then (`Day.beyond`), from where that was least: what it saved
            before does not count.
        barred_until: day until which it is not tried again.
        cool_days: of the next time that it is taken back.
        rollbacks: times that it was.
    """

    better: Wealth = Wealth()
    worse: Wealth = Wealth()
    breach: Wealth = Wealth()
    promoted_day: int | None = None
    lost: float = 0.0
    barred_until: int = -1
    cool_days: int = COOL_DAYS
    rollbacks: int = 0

    def judged(self, day: Day, first: Day) -> Gate:
        """After a day of the candidate beside one of the arm that it is compared with: that in force, or the first."""
        difference, scale = first.loss - day.loss, SCALE * first.cost
        excess = day.misses - day.allowed * day.ticks
        return replace(
            self,
            better=self.better.after(difference, scale),
            worse=self.worse.after(-difference, scale),
            breach=self.breach.after(excess, 5 * day.allowed * day.ticks),
            lost=max(0.0, self.lost + day.beyond(first)) if self.promoted_day is not None else 0.0,
        )

    def may_begin(self, day: int, candidates: int) -> bool:
        """Whether the evidence suffices to bring the arm into force."""
        enough = self.better.value >= candidates / LEVEL and self.breach.value < 1 / LEVEL
        return enough and self.promoted_day is None and day >= self.barred_until

    def must_end(self, spend: float, today: float = 0.0) -> str:
        """Why the arm in force is taken back, "" where it stands.

        Args:
            spend: the first arm's of BUDGET_DAYS.
            today: what the arm cost beyond the first in the day that is not over (`Day.beyond`).
        """
        if self.worse.value >= 1 / LEVEL:
            return f"it costs more: e-value {self.worse.value:.3g} of {1 / LEVEL:g}"
        if self.breach.value >= 1 / LEVEL:
            return f"it misses more than is allowed: e-value {self.breach.value:.3g} of {1 / LEVEL:g}"
        if self.lost + today > BUDGET * spend:
            return f"it lost {self.lost + today:.4g}, {BUDGET:.2%} of {BUDGET_DAYS} days' spend is the most"
        return ""

    def begun(self, day: int) -> Gate:
        """In force from a day on: evidence against it counts from here."""
        return Gate(self.better, promoted_day=day, cool_days=self.cool_days, rollbacks=self.rollbacks)

    def ended(self, day: int) -> Gate:
        """Taken back on a day: all evidence begins again after the pause."""
        return Gate(
            barred_until=day + self.cool_days, cool_days=2 * self.cool_days, rollbacks=self.rollbacks + 1
        )

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Gate:
        """From plain JSON of `dataclasses.asdict`."""

        def wealth(name: str) -> Wealth:
            return Wealth(tuple(stored[name]["by_bet"]), stored[name]["days"])

        rest = {name: value for name, value in stored.items() if name not in ("better", "worse", "breach")}
        return cls(wealth("better"), wealth("worse"), wealth("breach"), **rest)


@dataclass(frozen=True)
class Day:
    """A day of one arm: spend, misses among the ticks whose demand is known, and spend with priced misses.

    allowed: share of the ticks that may be missed.
    """

    cost: float = 0.0
    loss: float = 0.0
    misses: int = 0
    ticks: int = 0
    allowed: float = 0.01

    def beyond(self, first: Day) -> float:
        """What the arm cost more than the first: spend, and priced misses beyond what luck brings.

        A miss can cost a tenth of a day's spend, so the difference of two numbers of misses counts from LUCK standard
        deviations on (of a difference of two Poisson numbers, sqrt(m + n)).
        """
        more = self.misses - first.misses - LUCK * math.sqrt(self.misses + first.misses)
        price = (self.loss - self.cost) / max(1, self.misses)
        return self.cost - first.cost + max(0.0, more) * price
