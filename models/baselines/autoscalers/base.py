"""Interface of the autoscaling policies: inputs and decisions for all apps and all values of the knob at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.capacity import ROUNDING

Array = NDArray[np.float64]
Count = NDArray[np.int64]


class Autoscaler(Protocol):
    """One policy at all values of its knob."""

    def decide(self, row: int, ready: Count) -> Count:
        """Replicas (setting, app) requested from the end of a row on, by what is known then.

        Rows come one after the other; the first may be any, and those before it are history.

        Args:
            row: of `Facts.load`, the tick that has ended.
            ready: (setting, app), replicas that serve at its end, as a result of earlier requests.
        """
        ...


@dataclass(frozen=True)
class Facts:
    """Inputs of a policy: load (tick, app, metric) in full replicas, not rounded, NaN = not measured; bounds (app).

    Replicas requested at the end of tick t serve from the start of tick t + lead on. first_tick: number of the first
    row's tick, counted from 1970.
    """

    load: Array
    least: Count
    most: Count
    tick_s: int
    lead: int
    first_tick: int = 0

    @property
    def need(self) -> Array:
        """(tick, app), the largest load over metrics; NaN where none is known."""
        return largest(self.load)

    def ticks(self, seconds: float) -> int:
        """Whole ticks that a time takes, at least one."""
        return max(1, -int(-seconds // self.tick_s))

    def ended_s(self, row: int) -> int:
        """When a row's tick ended, in seconds from 1970."""
        return (self.first_tick + row + 1) * self.tick_s

    def bounded(self, count: Count) -> Count:
        """Replicas limited to the apps' bounds."""
        return np.clip(count, self.least, self.most)

    def whole(self, replicas: Array) -> Count:
        """Whole replicas within the bounds; NaN gives the minimum."""
        return self.bounded(whole(np.nan_to_num(replicas)))


def whole(replicas: NDArray[np.floating[Any]]) -> Count:
    """Rounded up to whole replicas, ignoring an excess of the size of a rounding error."""
    return np.ceil(replicas - ROUNDING).astype(np.int64)


def largest(load: Array) -> Array:
    """Maximum over the last axis without NaN; NaN where all are."""
    top = np.where(np.isnan(load), -np.inf, load).max(axis=-1, initial=-np.inf)
    return np.where(np.isneginf(top), np.nan, top)


def quantile(values: Array, levels: Array) -> Array:
    """Quantiles (level, app) of values (row, app) without their NaN: the least value that reaches the level.

    NaN where an app has none.
    """
    if not len(values):
        return np.full((len(levels), values.shape[1]), np.nan)
    ordered = np.sort(values, axis=0)  # NaN last
    known = (~np.isnan(values)).sum(axis=0)
    place = np.ceil(levels[:, None] * np.maximum(known - 1, 0) - ROUNDING).astype(np.int64)
    return np.take_along_axis(ordered, np.clip(place, 0, len(values) - 1), axis=0)
