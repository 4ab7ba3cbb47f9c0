"""Arrays of a trace that a causal pass runs over, and from where on it is scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.metrics import DAY_S


@dataclass(frozen=True)
class TraceWindow:
    """Consecutive ticks of users; forecasts made before `score_from` warm up the state and are not scored.

    Attributes:
        values: (tick, user, 5) float32 usage, NaN where absent.
        events: (tick, user, 4) float32 rates in 1/s, NaN where absent.
        saturated: (tick, user, 5): the value is a lower bound of demand.
        first_tick: number of the first tick.
        tick_s: tick length in seconds.
        score_from: row of the first forecast that is scored.
    """

    values: NDArray[np.float32]
    events: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    first_tick: int
    tick_s: int
    score_from: int

    def days(self) -> NDArray[np.int64]:
        """Day of each tick (tick), counted from the day of the first that is scored."""
        total = len(self.values)
        day = (self.first_tick + np.arange(total)) // max(1, DAY_S // self.tick_s)
        return day - day[min(self.score_from, total - 1)]
