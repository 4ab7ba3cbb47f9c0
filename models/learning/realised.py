"""Which share of an app's promises was kept, as it came: of time, and of plans.

- *Of time*: ticks in which the replicas that were ready throughout sufficed for the tick's demand.
- *Of plans*: plans whose replicas sufficed in every step of their window. A plan with a step whose demand is not known
  is not judged.

Each is kept for all ticks since the beginning, and by the hour for the last day.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from models.metrics import DAY_S, HOUR_S

HOURS: Final = DAY_S // HOUR_S


class Tally:
    """Of some promises how many were kept.

    Attributes:
        kept, known: those that were kept, and all that were judged.
        hours: the same by the hour, as [hour, kept, known], of the last HOURS hours.
    """

    def __init__(self, kept: int = 0, known: int = 0, hours: list[list[int]] | None = None) -> None:
        self.kept, self.known, self.hours = kept, known, hours or []

    def add(self, kept: bool, now_s: int) -> None:
        """Count a promise that was judged at a time."""
        hour = now_s // HOUR_S
        if not self.hours or self.hours[-1][0] != hour:
            self.hours = [*self.hours, [hour, 0, 0]]
        self.kept, self.known = self.kept + kept, self.known + 1
        self.hours[-1][1] += kept
        self.hours[-1][2] += 1
        self.hours = [entry for entry in self.hours if entry[0] > hour - HOURS]

    @property
    def share(self) -> float | None:
        """Of all; None before the first."""
        return self.kept / self.known if self.known else None

    def of_day(self, now_s: int) -> float | None:
        """Of the HOURS hours up to a time, its own among them; None where none was judged in them."""
        recent = [entry for entry in self.hours if entry[0] > now_s // HOUR_S - HOURS]
        known = sum(entry[2] for entry in recent)
        return sum(entry[1] for entry in recent) / known if known else None


class Realised:
    """Realised shares of one app.

    Attributes:
        time, plans: see the module.
        pending: plans whose window has not passed: replicas by tick as text, and whether all sufficed so far.
    """

    def __init__(self) -> None:
        self.time, self.plans = Tally(), Tally()
        self.pending: list[dict[str, Any]] = []

    def observe(self, tick: int, tick_s: int, need: float, ready: float) -> None:
        """Judge a tick, and the plans whose window ends with it.

        Args:
            tick: its number; ticks come in order.
            tick_s: tick length.
            need: replicas that its demand filled; NaN: not known.
            ready: replicas that were ready throughout it; NaN: not known.
        """
        if math.isfinite(need) and math.isfinite(ready):
            self.time.add(ready >= need, tick * tick_s)
        pending: list[dict[str, Any]] = []
        for plan in self.pending:
            ahead = {int(of): replicas for of, replicas in plan["replicas"].items()}
            if min(ahead) > tick:
                pending.append(plan)
                continue
            if min(ahead) < tick or not math.isfinite(need):
                continue  # a tick without a plan, or one whose demand is not known
            sufficed = need <= ahead.pop(tick)
            kept = plan["kept"] and sufficed
            if ahead:
                pending.append({"replicas": {str(of): n for of, n in ahead.items()}, "kept": kept})
            else:
                self.plans.add(kept, tick * tick_s)
        self.pending = pending

    def promise(self, replicas: Mapping[int, int]) -> None:
        """Take up a plan, to be judged by the ticks of its window; replicas: that it carries, by tick."""
        if replicas:
            self.pending.append({"replicas": {str(of): n for of, n in replicas.items()}, "kept": True})

    def stored(self) -> dict[str, Any]:
        """Plain JSON, for a snapshot."""
        return {"time": vars(self.time), "plans": vars(self.plans), "pending": self.pending}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Realised:
        """From `stored`."""
        made = cls()
        made.time, made.plans = Tally(**stored["time"]), Tally(**stored["plans"])
        made.pending = stored["pending"]
        return made
