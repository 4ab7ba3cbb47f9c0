"""Fixed capacity: a quantile of the past week's need, set anew each week. The practice without an autoscaler."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.baselines.autoscalers.base import Array, Count, Facts, quantile
from models.metrics import DAY_S

WEEK_S: Final = 7 * DAY_S


class FixedCapacity:
    """The knob is the quantile's level (setting).

    With less than a week of history, capacity is set anew each day of the first week, from the history so far; without
    any history it is the running replicas.
    """

    def __init__(self, facts: Facts, levels: Array) -> None:
        self._facts, self._levels, self._need = facts, levels, facts.need
        self._week, self._day = facts.ticks(WEEK_S), facts.ticks(DAY_S)
        self._until = 0
        self._fixed: Count | None = None

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`."""
        if self._fixed is None or row >= self._until:
            past = quantile(self._need[max(0, row + 1 - self._week) : row + 1], self._levels)
            before = ready if self._fixed is None else self._fixed
            self._fixed = np.where(np.isnan(past), self._facts.bounded(before), self._facts.whole(past))
            self._until = row + (self._week if row + 1 >= self._week else self._day)
        return self._fixed
