"""Autopilot's moving-window recommenders, for the number of replicas.

Source: Rzadca et al., "Autopilot: workload autoscaling at Google", EuroSys 2020, sections 3.2.2 (statistics, decay,
safety margin) and 3.3 (horizontal autoscaling and its smoothing).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from models.baselines.autoscalers.base import Array, Count, Facts, quantile

BUCKETS: Final = 400  # "about 400 usage buckets"
# Bounds of buckets as the open VPA recommender's: the first is 0.01 wide, each next 5 % wider (400: up to 6e7 replicas)
FIRST: Final = 0.01
WIDER: Final = 1.05
DECAY_S: Final = 300  # tasks are terminated every 5 minutes


@dataclass(frozen=True)
class HorizontalSettings:
    """The paper's defaults and its jobs' most usual choices.

    horizon_s: of the statistic, 72 hours; statistic: "max" or "p95"
    defer_s: a number of replicas is at least the largest recommendation of this time (40 % of jobs: two days)
    halve_s: in which release may at most halve the number (98 % of jobs: an hour)
    """

    horizon_s: int = 72 * 3_600
    statistic: Literal["max", "p95"] = "p95"
    defer_s: int = 48 * 3_600
    halve_s: int = 3_600


class Horizontal:
    """Horizontal autoscaling: replicas = S / r*, S a statistic of the app's usage, r* the knob (setting).

    The paper smooths usage over five minutes; a tick is taken as it is. Deferring small changes and limiting growth are
    for jobs that ask for them.
    """

    def __init__(self, facts: Facts, targets: Array, settings: HorizontalSettings | None = None) -> None:
        self.facts, self.settings, self._need = facts, settings or HorizontalSettings(), facts.need
        self._targets = targets[:, None]
        self._horizon = facts.ticks(self.settings.horizon_s)
        self._level = np.array([1.0 if self.settings.statistic == "max" else 0.95])
        self._recommended: deque[Array] = deque(maxlen=facts.ticks(self.settings.defer_s))
        self._asked: Count | None = None

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`. Deferral begins with the first decision; apps without history keep their replicas."""
        past = self._need[max(0, row + 1 - self._horizon) : row + 1]
        self._recommended.append(np.nan_to_num(quantile(past, self._level)[0], nan=-np.inf))
        top = np.max(self._recommended, axis=0)
        before = self.facts.bounded(ready) if self._asked is None else self._asked
        stable = np.where(np.isneginf(top), before, self.facts.whole(np.maximum(top, 0) / self._targets))
        rounds = max(1, self.facts.tick_s // DECAY_S)
        kept = 0.5 ** (rounds * DECAY_S / self.settings.halve_s)
        slowest = np.minimum(np.floor(before * kept), before - 1).astype(np.int64)
        self._asked = self.facts.bounded(np.maximum(stable, np.where(before > stable, slowest, stable)))
        return self._asked


@dataclass(frozen=True)
class WindowSettings:
    """The paper's numbers for CPU of serving jobs.

    half_life_s: of a sample's weight; percentile: of load-adjusted usage; hold_s: the largest of this time counts
    """

    half_life_s: int = 12 * 3_600
    percentile: float = 0.95
    hold_s: int = 3_600


class MovingWindow:
    """The limit of the moving-window recommender, as if the app were one task: percentile of a decayed histogram.

    A sample in bucket k weighs its load b[k] and halves in twelve hours; the knob is the safety margin (setting) that
    is added, 0.15 being 15 %. Then the largest of the last hour is taken.
    """

    def __init__(self, facts: Facts, margins: Array, settings: WindowSettings | None = None) -> None:
        self.facts, self.settings, self._need = facts, settings or WindowSettings(), facts.need
        self._margins = margins[:, None]
        self._bounds = FIRST * (WIDER ** np.arange(1, BUCKETS + 1) - 1) / (WIDER - 1)
        self._weights = np.zeros((len(facts.least), BUCKETS))
        self._kept = 2.0 ** (-facts.tick_s / self.settings.half_life_s)
        self._recent: deque[Array] = deque(maxlen=facts.ticks(self.settings.hold_s))
        self._next = 0

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`. An app without history keeps its running replicas."""
        for new_row in range(self._next, row + 1):
            self._add(self._need[new_row])
        self._next = row + 1
        shares = np.cumsum(self._weights, axis=1)
        place = (shares >= self.settings.percentile * shares[:, -1:]).argmax(axis=1)
        self._recent.append(np.where(shares[:, -1] > 0, self._bounds[place], np.nan))
        top = np.where(np.isnan(self._recent), -np.inf, self._recent).max(axis=0)
        limit = self.facts.whole((1 + self._margins) * np.maximum(top, 0))
        return np.where(np.isneginf(top), self.facts.bounded(ready), limit)

    def _add(self, need: Array) -> None:
        """Add a tick's need (app) to the histograms."""
        self._weights *= self._kept
        known = ~np.isnan(need)
        place = np.minimum(np.searchsorted(self._bounds, need[known], side="right"), BUCKETS - 1)
        self._weights[np.flatnonzero(known), place] += self._bounds[place]
