"""Policies that a backtest is read against: a reactive one, persistence, and the oracle; all apps and settings at once.

Each answers at the end of a tick with the replicas wanted from then on, (setting, app). What is asked for at the end of
tick t serves in all of tick t + lead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.autoscalers import HorizontalPodAutoscaler, HpaSettings
from models.capacity import ROUNDING
from models.features import DAY_S

WINDOW_S: Final = 7 * DAY_S  # of residuals, as persistence's in `models.rivals`
UTILISATIONS: Final = (1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)
LEVELS: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
FACTORS: Final = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 1.7)

Array = NDArray[np.float64]
Count = NDArray[np.int64]


class Reference(Protocol):
    """One policy at all of its settings."""

    def decide(self, row: int, ready: Count) -> Count:
        """Replicas (setting, app) wanted at the end of a row, from what is known then; ready: likewise, that serve."""
        ...


@dataclass(frozen=True)
class Facts:
    """Of the apps: load (tick, app, metric) in replicas, not rounded, NaN = not measured; bounds (app)."""

    load: Array
    least: Count
    most: Count
    tick_s: int
    lead: int

    @property
    def need(self) -> Array:
        """(tick, app), the largest load over metrics; NaN where none is known."""
        return largest(self.load)

    def whole(self, replicas: Array) -> Count:
        """Between the bounds; NaN is the least."""
        count = np.ceil(np.nan_to_num(replicas) - ROUNDING).astype(np.int64)
        return np.clip(count, self.least, self.most)


class Reactive:
    """Kubernetes' HorizontalPodAutoscaler (`models.autoscalers`); the setting is its target utilisation."""

    def __init__(self, facts: Facts, settings: Array) -> None:
        self._facts = facts
        metrics = [str(m) for m in range(facts.load.shape[-1])]
        self._all = [
            [
                HorizontalPodAutoscaler(
                    HpaSettings(dict.fromkeys(metrics, 1.0), int(least), int(most), target_utilisation=target)
                )
                for least, most in zip(facts.least, facts.most, strict=True)
            ]
            for target in settings.tolist()
        ]

    def decide(self, row: int, ready: Count) -> Count:
        """See `Reference`."""
        facts, now_s = self._facts, float((row + 1) * self._facts.tick_s)
        usage = [
            {str(m): v for m, v in enumerate(app) if v == v}  # not NaN
            for app in facts.load[row].tolist()
        ]
        return np.array(
            [
                [
                    scaler.decide(told, have, now_s)
                    for scaler, told, have in zip(all_, usage, has, strict=True)
                ]
                for all_, has in zip(self._all, ready.tolist(), strict=True)
            ],
            np.int64,
        )


class Persistence:
    """The last value, and a quantile of how much it was exceeded in the next `lead` ticks, over seven days."""

    def __init__(self, facts: Facts, settings: Array) -> None:
        self._facts, self._levels = facts, settings
        self._window = WINDOW_S // facts.tick_s
        self._last = np.full(len(facts.least), np.nan)
        need = self._need = facts.need
        ahead = np.full((facts.lead, *need.shape), np.nan)
        for k in range(facts.lead):
            ahead[k, : len(need) - k - 1] = need[k + 1 :]
        self._over = np.where(np.isnan(ahead), -np.inf, ahead).max(axis=0) - need
        self._over[np.isneginf(self._over)] = np.nan

    def decide(self, row: int, ready: Count) -> Count:
        """See `Reference`; residuals are of rows whose next `lead` rows have passed."""
        del ready
        need = self._need[row]
        self._last = np.where(np.isnan(need), self._last, need)
        end = row - self._facts.lead + 1
        past = self._over[max(0, end - self._window) : max(0, end)]
        found = np.zeros((len(self._levels), len(self._last)))
        for a in range(len(self._last)):
            known = past[:, a][~np.isnan(past[:, a])]
            if len(known):
                found[:, a] = np.quantile(known, self._levels, method="higher")
        return self._facts.whole(self._last + found)


class Oracle:
    """Knows the demand of the next ticks, and still waits for machines to start; the setting multiplies it."""

    def __init__(self, facts: Facts, settings: Array) -> None:
        self._facts, self._factors, self._need = facts, settings, facts.need

    def decide(self, row: int, ready: Count) -> Count:
        """See `Reference`: the most that is needed until what is asked for later can serve."""
        del ready
        ahead = self._need[row + 1 : row + 1 + self._facts.lead]
        top = np.where(np.isnan(ahead), 0.0, ahead).max(axis=0, initial=0.0)
        return self._facts.whole(self._factors[:, None] * top)


@dataclass(frozen=True)
class Knob:
    """What is swept of a policy: the setting's name, its default, values; product: whether products ship the policy."""

    setting: str
    default: float
    sweep: tuple[float, ...]
    make: Callable[[Facts, Array], Reference]
    product: bool = False

    @property
    def values(self) -> tuple[float, ...]:
        """The default, then the values swept."""
        return (self.default, *self.sweep)


KNOBS: Final[Mapping[str, Knob]] = {
    "hpa": Knob("target utilisation", 0.8, UTILISATIONS, Reactive, product=True),
    "persistence": Knob("quantile level", 0.99, LEVELS, Persistence),
    "oracle": Knob("factor", 1.0, FACTORS, Oracle),
}


def largest(load: Array) -> Array:
    """The largest over the last axis of what is known; NaN where nothing is."""
    top = np.where(np.isnan(load), -np.inf, load).max(axis=-1, initial=-np.inf)
    return np.where(np.isneginf(top), np.nan, top)


def make(names: Sequence[str], facts: Facts) -> dict[str, Reference]:
    """These policies, each at its default and swept values."""
    return {name: KNOBS[name].make(facts, np.array(KNOBS[name].values)) for name in names}
