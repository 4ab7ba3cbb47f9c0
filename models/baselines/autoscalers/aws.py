"""Predictive scaling beside target tracking, as AWS documents it.

Source: AWS, "How Application Auto Scaling predictive scaling works", "PredictiveScalingConfiguration" (EC2 Auto
Scaling), and "Target tracking scaling policies". Documented, and implemented here: hourly forecasts of the next 48
hours from up to 14 days of history, at least 24 hours, updated every 6 hours; capacity goes up at the start of each
hour, and `SchedulingBufferTime` earlier; a forecast only adds capacity; with several policies the largest wins; target
tracking adds at once when the metric is above the target for three minutes, and removes when it was 10 % below for
fifteen.

What AWS does not publish is its model of the load. Ours is the mean of two seasonal means, of the same hour of all days
and of the same hour of the same weekday, over the history: the daily and weekly patterns that the documentation names.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.baselines.autoscalers.base import Array, Count, Facts, largest, whole

HOUR_S: Final = 3_600
DAY: Final = 24  # hours


@dataclass(frozen=True)
class AwsSettings:
    """AWS's documented numbers.

    buffer_s: SchedulingBufferTime; history_h, least_h, ahead_h, every_h: of the forecast, in hours
    out_s, in_s: how long the metric must be beyond its alarm; below: share under the target of the lower alarm
    """

    buffer_s: int = 300
    history_h: int = 14 * DAY
    least_h: int = DAY
    ahead_h: int = 2 * DAY
    every_h: int = 6
    out_s: int = 180
    in_s: int = 900
    below: float = 0.1


class PredictiveScaling:
    """The knob is the target value (setting): load of a full replica, for the forecast and for target tracking.

    Requested capacity that does not serve yet counts, as instances that warm up do.
    """

    def __init__(self, facts: Facts, targets: Array, settings: AwsSettings | None = None) -> None:
        self.facts, self.settings = facts, settings or AwsSettings()
        self._targets = targets[:, None]
        s = self.settings
        self._recent: deque[Array] = deque(maxlen=max(facts.ticks(s.out_s), facts.ticks(s.in_s)))
        self._asked: Count | None = None
        self._forecast = np.full((s.ahead_h, len(facts.least)), np.nan)
        self._from_h = self._next_h = -(10**9)  # before any hour: the first decision forecasts

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`. Without telemetry target tracking holds; the forecast stays."""
        s, now_s = self.settings, self.facts.ended_s(row)
        desired = self._asked if self._asked is not None else self.facts.bounded(ready)
        self._recent.append(largest(self.facts.load[row]) / self._targets)
        recent = np.stack(self._recent)
        n_out, n_in = self.facts.ticks(s.out_s), self.facts.ticks(s.in_s)
        up = (recent[-n_out:] > desired).all(axis=0) & (len(recent) >= n_out)
        down = (recent[-n_in:] < (1 - s.below) * desired).all(axis=0) & (len(recent) >= n_in)
        desired = np.where(up, whole(np.nan_to_num(recent[-1])), desired)
        desired = np.where(down, whole(np.nan_to_num(recent[-n_in:].max(axis=0))), desired)
        hour = now_s // HOUR_S
        if hour >= self._next_h:
            self._forecast, self._from_h = self._ahead(row, hour), hour
            self._next_h = hour + s.every_h
        soon = self._forecast[hour - self._from_h : (now_s + s.buffer_s) // HOUR_S - self._from_h + 1]
        floor = np.where(np.isnan(soon), 0.0, soon).max(axis=0, initial=0.0) / self._targets
        self._asked = self.facts.bounded(np.maximum(desired, whole(floor)))
        return self._asked

    def _ahead(self, row: int, hour: int) -> Array:
        """Forecast load (hour, app) of the hours from `hour` on; NaN where too little is known."""
        s, facts = self.settings, self.facts
        past = largest(facts.load[max(0, row + 1 - facts.ticks(s.history_h * HOUR_S)) : row + 1])
        ticks = facts.first_tick + row + 1 - len(past) + np.arange(len(past))
        age = hour - 1 - ticks * facts.tick_s // HOUR_S  # 0: the hour that has ended
        past, age = past[(age >= 0) & (age < s.history_h)], age[(age >= 0) & (age < s.history_h)]
        begin = np.flatnonzero(np.diff(age, prepend=-1))  # of each hour
        total, count = np.zeros((2, s.history_h, past.shape[1]))
        if len(age):
            total[age[begin]] = np.add.reduceat(np.nan_to_num(past), begin)
            count[age[begin]] = np.add.reduceat(~np.isnan(past), begin, dtype=np.float64)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        out = np.full((s.ahead_h, past.shape[1]), np.nan)
        for h in range(s.ahead_h):
            daily = _mean(mean[DAY - 1 - h % DAY :: DAY])
            weekly = _mean(mean[7 * DAY - 1 - h :: 7 * DAY])
            out[h] = _mean(np.stack([daily, weekly]))
        out[:, (count > 0).sum(axis=0) < s.least_h] = np.nan
        return out


def _mean(values: Array) -> Array:
    """Mean over the first axis without NaN; NaN where all are."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
