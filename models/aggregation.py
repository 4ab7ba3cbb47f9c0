"""Samples of many users and ticks -> one value for each tick and user.

Sums run over the rows in the order given (`numpy.bincount`), so the same rows give the same bits however they
were batched.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grouped:
    """Values by tick and user, ascending.

    Attributes:
        tick: (group,) int64.
        user: (group,) int64: position in the order of pseudonyms.
        values: (group, metric) float32, NaN = absent: mean over time, weighted by each sample's interval.
        saturated: (group, metric) bool: some sample was a lower bound.
        samples, events: (group,) uint32: metric samples and event records.
        rates: (group, kind) float32, 1/s, NaN = no event.
    """

    tick: np.ndarray
    user: np.ndarray
    values: np.ndarray
    saturated: np.ndarray
    samples: np.ndarray
    events: np.ndarray
    rates: np.ndarray

    def of(self, tick: int) -> "Grouped":
        """The groups of one tick."""
        first, last = np.searchsorted(self.tick, [tick, tick + 1])
        return Grouped(*(getattr(self, name)[first:last] for name in self.__dataclass_fields__))


def group(
    tick: np.ndarray,
    user: np.ndarray,
    interval_s: np.ndarray,
    values: np.ndarray,
    saturated: np.ndarray,
    event_tick: np.ndarray,
    event_user: np.ndarray,
    kind: np.ndarray,
    count: np.ndarray,
    kinds: int,
    tick_s: int,
) -> Grouped:
    """Reduce samples and events to one value a tick, user and column.

    Args:
        tick, user, interval_s: (sample,) of the metric samples.
        values, saturated: (sample, metric).
        event_tick, event_user, kind, count: (event,).
        kinds: number of event kinds.
        tick_s: seconds of a tick.
    """
    width = int(max(user.max(initial=0), event_user.max(initial=0))) + 1
    keys, row = np.unique(
        np.concatenate([tick * width + user, event_tick * width + event_user]), return_inverse=True
    )
    sample_row, event_row, groups = row[: len(tick)], row[len(tick) :], len(keys)
    metrics = values.shape[1]
    mean = np.full((groups, metrics), np.nan, np.float32)
    hit = np.zeros((groups, metrics), bool)
    for metric in range(metrics):
        present = ~np.isnan(values[:, metric])
        rows, weight = sample_row[present], interval_s[present]
        total = np.bincount(rows, weight, groups)
        weighted = np.bincount(rows, weight * values[present, metric], groups)
        np.divide(weighted, total, out=mean[:, metric], where=total > 0, casting="unsafe")
        hit[:, metric] = np.bincount(sample_row, saturated[:, metric] & present, groups) > 0
    cells = np.bincount(event_row * kinds + kind, count, groups * kinds).reshape(groups, kinds)
    return Grouped(
        tick=keys // width,
        user=keys % width,
        values=mean,
        saturated=hit,
        samples=np.bincount(sample_row, minlength=groups).astype(np.uint32),
        events=np.bincount(event_row, minlength=groups).astype(np.uint32),
        rates=np.where(cells > 0, cells / tick_s, np.nan).astype(np.float32),
    )
