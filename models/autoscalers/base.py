"""What every autoscaling policy is told and answers, for all apps and all headrooms of a sweep at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.capacity import ROUNDING, Policy, governed, load

Float = NDArray[np.float64]
Count = NDArray[np.int64]


@dataclass(frozen=True)
class Fleet:
    """The apps that one policy object decides for.

    least, most: (app), replicas between which it may ask
    tick_s: tick length in seconds
    lead_ticks: what is asked for at the end of tick t serves in all of tick t + lead_ticks, so 1 + ceil(start-up /
        tick_s): 1 where nothing has to start
    """

    least: Count
    most: Count
    tick_s: int
    lead_ticks: int = 1

    @property
    def apps(self) -> int:
        """How many apps."""
        return len(self.least)

    def ticks(self, seconds: float) -> int:
        """Whole ticks that a time takes, at least one."""
        return max(1, -int(-seconds // self.tick_s))

    def bounded(self, replicas: Float) -> Count:
        """Whole replicas (headroom, app) for these, between the bounds; NaN is the least."""
        return np.clip(whole(np.nan_to_num(replicas, nan=0.0)), self.least, self.most)


@dataclass(frozen=True)
class Future:
    """Load (tick, app, metric) of all ticks from `first_tick`, known beforehand."""

    first_tick: int
    load: Float


class Autoscaler(Protocol):
    """A policy: one object holds the state of all apps of a fleet, at each headroom that it was made with."""

    def decide(self, tick: int, load: Float, ready: Count) -> Count:
        """Replicas wanted from now on, (headroom, app), by what is known at the end of a tick.

        Args:
            tick: number of the tick that has ended, tick 0 starting at 1970; one more at each call.
            load: (app, metric), replicas that the tick's usage filled, see `usage_in_replicas`; NaN = not measured.
            ready: (headroom, app), replicas that serve at the end of the tick, by what was asked for before.
        """
        ...


def usage_in_replicas(demand: Float, metrics: Sequence[str], policy: Policy) -> Float:
    """Full replicas that the demand (..., metric) fills, (..., governed): `models.capacity.load`, NaN kept."""
    index = [metrics.index(name) for name in governed(metrics, policy)]
    return np.where(np.isnan(demand[..., index]), np.nan, load(demand, metrics, policy)).astype(np.float64)


def whole(replicas: Float) -> Count:
    """The next whole number, but for a rounding error."""
    return np.ceil(replicas - ROUNDING).astype(np.int64)


def largest(values: Float) -> Float:
    """The largest over the last axis of what is known; NaN where nothing is."""
    top = np.where(np.isnan(values), -np.inf, values).max(axis=-1, initial=-np.inf)
    return np.where(np.isneginf(top), np.nan, top)
