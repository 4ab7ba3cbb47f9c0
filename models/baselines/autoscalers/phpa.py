"""The predictive horizontal pod autoscaler: an HPA that extrapolates its own past results.

Source: jthomperoo/predictive-horizontal-pod-autoscaler, `docs/user-guide/models.md`,
`internal/controllers/predictivehorizontalpodautoscaler_controller.go` (what is stored and how the models' answers and
the HPA's are decided between), `algorithms/linear_regression` and `algorithms/holt_winters`.

Differences: its interval is a tick here, since usage does not change between; the linear model looks as far ahead as
machines take to start, where the documentation's example has 10 s; Holt-Winters runs on with fixed coefficients where
the original estimates initial states and runs again over the stored seasons at each interval. Its coefficients have no
defaults ("requires tweaking and analysis"); the 0.9 of the documentation's example make this recursion diverge.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from models.baselines.autoscalers.base import Array, Count, Facts, largest, whole
from models.baselines.autoscalers.hpa import HorizontalPodAutoscaler, HpaSettings
from models.metrics import DAY_S

SEASONS: Final = 4  # storedSeasons in the documentation


class Model(Protocol):
    """Extrapolates replicas."""

    def step(self, replicas: Array) -> Array:
        """The prediction (setting, app) after one more interval's replicas; NaN where too little is known."""
        ...


class LinearRegression:
    """Least squares through the last `stored` values, read `ahead` intervals after the newest."""

    def __init__(self, ahead: float, stored: int = 6) -> None:
        self._ahead = ahead
        self._values: deque[Array] = deque(maxlen=stored)

    def step(self, replicas: Array) -> Array:
        """See `Model`; two values are needed."""
        self._values.append(replicas)
        y = np.stack(self._values)
        if len(y) < 2:
            return np.full(replicas.shape, np.nan)
        x = np.arange(1.0 - len(y), 1.0)  # the newest at 0
        slope = np.tensordot(x - x.mean(), y, 1) / ((x - x.mean()) ** 2).sum()
        return y.mean(axis=0) + slope * (self._ahead - x.mean())


class HoltWinters:
    """Additive triple exponential smoothing, one interval ahead.

        level  = α (y − season) + (1 − α) (level + trend)
        trend  = β (level − level before) + (1 − β) trend
        season = γ (y − level before − trend before) + (1 − γ) season

    of `period` intervals, as statsmodels' ExponentialSmoothing (Hyndman and Athanasopoulos, "Holt-Winters' additive
    method"); it starts with the first period's mean, no trend, and that period's deviations.
    """

    def __init__(self, period: int, alpha: float = 0.5, beta: float = 0.01, gamma: float = 0.3) -> None:
        self.alpha, self.beta, self.gamma, self.period = alpha, beta, gamma, period
        self._least = 10 + 2 * (period // 2)  # observations, as the original asks for
        self._count = 0
        self._level = self._trend = np.zeros(0)
        self._season: list[Array] = []

    def step(self, replicas: Array) -> Array:
        """See `Model`; a period is needed, and ten intervals."""
        if self._count < self.period:
            self._season.append(replicas)
            if self._count == self.period - 1:
                self._level = np.mean(self._season, axis=0)
                self._trend = np.zeros(replicas.shape)
                self._season = [value - self._level for value in self._season]
        else:
            place = self._count % self.period
            before = self._level + self._trend
            level = self.alpha * (replicas - self._season[place]) + (1 - self.alpha) * before
            self._trend = self.beta * (level - self._level) + (1 - self.beta) * self._trend
            self._season[place] = self.gamma * (replicas - before) + (1 - self.gamma) * self._season[place]
            self._level = level
        self._count += 1
        if self._count < max(self.period, self._least):
            return np.full(replicas.shape, np.nan)
        return self._level + self._trend + self._season[self._count % self.period]


@dataclass(frozen=True)
class PhpaSettings:
    """decisionType is "maximum", its default; the season of Holt-Winters is a day."""

    season_s: int = DAY_S
    hpa: HpaSettings = field(default=HpaSettings())


class PredictiveHorizontalPodAutoscaler:
    """The knob is the target utilisation (setting). `model` extrapolates the HPA's replicas; the larger is taken."""

    def __init__(
        self, facts: Facts, targets: Array, model: Model, settings: PhpaSettings | None = None
    ) -> None:
        self.facts, self.settings, self.model = facts, settings or PhpaSettings(), model
        self._targets = targets[:, None]
        self._hpa = HorizontalPodAutoscaler(facts, targets, self.settings.hpa)
        self._begun = False

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`. At first the model steps through what an HPA would have requested before."""
        if not self._begun:
            self._begun = True
            begin = max(0, row - SEASONS * self.facts.ticks(self.settings.season_s))
            need = largest(self.facts.load[begin:row])
            for replicas in whole(np.nan_to_num(need[:, None] / self._targets)) * 1.0:
                self.model.step(replicas)
        load = self.facts.load[row]
        calculated = self._hpa.proposed(load, ready[..., None], self._hpa.specified(row), ready)
        predicted = self.model.step(calculated.astype(np.float64))
        predicted = np.clip(
            np.nan_to_num(predicted), 0.0, self.facts.most
        )  # before it is whole: it may be huge
        return self._hpa.steadied(np.maximum(calculated, whole(predicted)), ready)
