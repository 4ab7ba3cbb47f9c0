"""Baseline policies of a backtest with their knobs, defaults and sweeps; also persistence and the oracle.

Each decides at the end of a tick the replicas requested from then on, (setting, app); see
`models.baselines.autoscalers.base`. Defaults are the documentation's. Where it has none for a target: KEDA and
Autopilot have the HPA's 80 %, and AWS, PHPA and Crane the 50 % of their documentation's examples; of placeholder pods
it has no size, and a tenth of what the replicas ask for is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.baselines.autoscalers.autopilot import Horizontal, MovingWindow
from models.baselines.autoscalers.aws import PredictiveScaling
from models.baselines.autoscalers.base import Array, Autoscaler, Count, Facts, largest, quantile
from models.baselines.autoscalers.crane import EffectiveHorizontalPodAutoscaler
from models.baselines.autoscalers.fixed import FixedCapacity
from models.baselines.autoscalers.hpa import HorizontalPodAutoscaler
from models.baselines.autoscalers.keda import ScaledObject
from models.baselines.autoscalers.overprovisioning import Overprovisioning
from models.baselines.autoscalers.phpa import HoltWinters, LinearRegression, PredictiveHorizontalPodAutoscaler
from models.metrics import DAY_S

__all__ = ["KNOBS", "Facts", "Knob", "largest", "make"]

WINDOW_S: Final = 7 * DAY_S  # of residuals, as persistence's in `models.baselines.forecasters`
UTILISATIONS: Final = (1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)
LEVELS: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
FACTORS: Final = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 1.7)
# Autopilot scales a statistic of three days, far above most ticks: settings with little capacity lie beyond 1
STATISTICAL: Final = (4.0, 3.0, 2.5, 2.0, 1.75, 1.5, 1.35, 1.2, 1.1, 1.0, 0.9, 0.8, 0.6, 0.4)
WEEKLY: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
HEADROOM: Final = (0.0, 0.05, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0)
MARGINS: Final = (-0.6, -0.4, -0.2, -0.1, 0.0, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0)


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
        """See `Autoscaler`; residuals are of rows whose next `lead` rows have passed."""
        del ready
        need = self._need[row]
        self._last = np.where(np.isnan(need), self._last, need)
        end = row - self._facts.lead + 1
        past = self._over[max(0, end - self._window) : max(0, end)]
        change = np.nan_to_num(quantile(past, self._levels))
        return self._facts.whole(self._last + change)


class Oracle:
    """Knows the demand of the next ticks, and still waits for machines to start; the setting multiplies it."""

    def __init__(self, facts: Facts, settings: Array) -> None:
        self._facts, self._factors, self._need = facts, settings, facts.need

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`: the largest need until replicas requested later can serve."""
        del ready
        ahead = self._need[row + 1 : row + 1 + self._facts.lead]
        top = np.where(np.isnan(ahead), 0.0, ahead).max(axis=0, initial=0.0)
        return self._facts.whole(self._factors[:, None] * top)


@dataclass(frozen=True)
class Knob:
    """A policy's swept setting: name, default and values; product: whether a product ships the policy."""

    setting: str
    default: float
    sweep: tuple[float, ...]
    make: Callable[[Facts, Array], Autoscaler]
    product: bool = False

    @property
    def values(self) -> tuple[float, ...]:
        """The default, then the values swept."""
        return (self.default, *self.sweep)


def _phpa_linear(facts: Facts, targets: Array) -> Autoscaler:
    return PredictiveHorizontalPodAutoscaler(facts, targets, LinearRegression(ahead=facts.lead))


def _phpa_holt_winters(facts: Facts, targets: Array) -> Autoscaler:
    return PredictiveHorizontalPodAutoscaler(facts, targets, HoltWinters(facts.ticks(DAY_S)))


KNOBS: Final[Mapping[str, Knob]] = {
    "hpa": Knob("target utilisation", 0.8, UTILISATIONS, HorizontalPodAutoscaler, product=True),
    "hpa_overprovisioning": Knob("headroom", 0.1, HEADROOM, Overprovisioning, product=True),
    "keda": Knob("threshold", 0.8, UTILISATIONS, ScaledObject, product=True),
    "aws": Knob("target utilisation", 0.5, UTILISATIONS, PredictiveScaling, product=True),
    "phpa_linear": Knob("target utilisation", 0.5, UTILISATIONS, _phpa_linear, product=True),
    "phpa_holt_winters": Knob("target utilisation", 0.5, UTILISATIONS, _phpa_holt_winters, product=True),
    "crane": Knob("target utilisation", 0.5, UTILISATIONS, EffectiveHorizontalPodAutoscaler, product=True),
    "autopilot": Knob("target utilisation", 0.8, STATISTICAL, Horizontal, product=True),
    "autopilot_window": Knob("safety margin", 0.15, MARGINS, MovingWindow, product=True),
    "fixed": Knob("quantile level", 0.99, WEEKLY, FixedCapacity),
    "persistence": Knob("quantile level", 0.99, LEVELS, Persistence),
    "oracle": Knob("factor", 1.0, FACTORS, Oracle),
}


def make(names: Sequence[str], facts: Facts, times: int = 1) -> dict[str, Autoscaler]:
    """The named policies, each at its default and swept values, the whole list of values repeated `times` times."""
    return {name: KNOBS[name].make(facts, np.tile(KNOBS[name].values, times)) for name in names}
