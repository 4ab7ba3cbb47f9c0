"""What the learner did for an app in a run, tick by tick, beside static and the best fixed price in hindsight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LearnerRun:
    """One app from the first tick that it is learnt from on.

    Attributes:
        app: its name.
        tick_s, start_s: seconds of a tick, and unix seconds at which the first one starts.
        known: (tick) bool: demand was measured, after the warm-up.
        cost, missed: (tick) spent, and short of capacity, as it came.
        static_cost, static_missed: the same of a simulated fleet at the policy's confidence, as dear as the plans while
            they were static.
        best_price: the fixed price of a shortage that cost least among those that missed no more than is allowed; None:
            each missed more.
        best_cost, best_missed: of its simulated fleet; zeros without one.
        price: (tick) of an hour's shortage in those of a replica-hour, that the plan followed; NaN: static.
        arms: (tick) name of the arm that the plan followed.
        changes: tick and text of beginnings, promotions and rollbacks.
        allowed: share of ticks that may be missed.
        currency: of all costs.
    """

    app: str
    tick_s: int
    start_s: int
    known: np.ndarray
    cost: np.ndarray
    missed: np.ndarray
    static_cost: np.ndarray
    static_missed: np.ndarray
    best_price: float | None
    best_cost: np.ndarray
    best_missed: np.ndarray
    price: np.ndarray
    arms: Sequence[str]
    changes: Sequence[tuple[int, str]]
    allowed: float
    currency: str

    @property
    def begins(self) -> int | None:
        """First tick whose plan followed a price; None: none did."""
        steered = np.flatnonzero(np.isfinite(self.price))
        return int(steered[0]) if len(steered) else None

    @property
    def saving(self) -> float | None:
        """Share of static's cost that was saved since the beginning."""
        if self.begins is None:
            return None
        ours, static = (float(cost[self.begins + 1 :].sum()) for cost in (self.cost, self.static_cost))
        return 1 - ours / static if static > 0 else None

    @property
    def figures(self) -> dict[str, object]:
        """For the run's summary, plain JSON."""
        steered = self.price[np.isfinite(self.price)]
        since = slice((self.begins or 0) + 1, None)
        known = int(self.known[since].sum())
        return {
            "begins_s": None if self.begins is None else self.start_s + (self.begins + 1) * self.tick_s,
            "arm": self.arms[-1] if len(self.arms) else "static",
            "price_first": float(steered[0]) if len(steered) else None,
            "price_least": float(steered.min()) if len(steered) else None,
            "price_most": float(steered.max()) if len(steered) else None,
            "price_last": float(steered[-1]) if len(steered) else None,
            "changes": [
                {"time_s": self.start_s + (tick + 1) * self.tick_s, "text": text}
                for tick, text in self.changes
            ],
            "ticks": known,
            "realised_share": 1 - int(self.missed[since].sum()) / known if known else None,
            "static_realised_share": 1 - int(self.static_missed[since].sum()) / known if known else None,
            "cost": float(self.cost[since].sum()),
            "static_cost": float(self.static_cost[since].sum()),
            "saving": self.saving,
        }
