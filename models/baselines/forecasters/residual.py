"""Point forecasts with the rolling quantiles of their own residuals: persistence and seasonal naive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.baselines.forecasters.observations import Array
from models.metrics import DAY_S, METRICS

WINDOW_S: Final = 7 * DAY_S
REFRESH_S: Final = 3 * 3_600  # 1/56 of the window: finer changes no figure, and each renewal costs a sort
MIN_RESIDUALS: Final = 12  # an hour of five-minute ticks: fewer do not determine a distribution

Point = Callable[[int, range, int], Array]
"""Forecasts (row, user) of a metric, made at consecutive rows, a number of ticks ahead."""


class Residual:
    """A point forecast plus the quantiles of its residuals of the last seven days, per user, metric and step."""

    def __init__(self, name: str, point: Point, values: Array, *, window: int, refresh: int) -> None:
        """Values (tick, user, 5), NaN where absent.

        Residuals of `window` ticks are kept; their quantiles are renewed at every multiple of `refresh` ticks, and
        before at powers of two.
        """
        self.name = name
        self._point, self._values, self._window, self._refresh = point, values, window, refresh

    def quantiles(self, metric: int, rows: range, step: int, levels: NDArray[np.float64]) -> Array:
        """Quantiles (level, row, user), at least 0; NaN where the point forecast or 12 residuals are not known."""
        stop = rows[-1] + 1
        first = max(0, rows.start - self._refresh - self._window - step)
        point = self._point(metric, range(first, stop), step)
        known = max(0, stop - first - step)
        errors = np.ascontiguousarray((self._values[first + step : stop, :, metric] - point[:known]).T)
        out = np.empty((len(levels), stop - rows.start, point.shape[1]), np.float32)
        begin = rows.start
        while begin < stop:
            stride = min(
                self._refresh, max(16, 1 << begin.bit_length() >> 1)
            )  # in the beginning powers of two
            renewed = begin // stride * stride
            end = min(stop, renewed + stride)
            last = renewed - step + 1 - first  # the residual of a later forecast is not known yet
            residuals = errors[:, max(0, last - self._window) : max(0, last)]
            out[:, begin - rows.start : end - rows.start] = _quantiles(residuals, levels)[:, None]
            begin = end
        out += point[rows.start - first :]
        return np.maximum(out, 0, out=out)[:, :: rows.step]


def carried(values: Array) -> Array:
    """(tick, ...) with each NaN replaced by the newest value before it."""
    rows = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    rows = np.maximum.accumulate(np.where(np.isnan(values), 0, rows), axis=0)
    return np.take_along_axis(values, rows, axis=0)


def persistence(values: Array, *, tick_s: int) -> Residual:
    """The last of the values (tick, user, 5) as point forecast: a strong baseline at ticks of five minutes."""
    last = carried(values)
    return _residual(
        "persistence", lambda metric, rows, _: last[rows.start : rows.stop, :, metric], values, tick_s
    )


def seasonal_naive(values: Array, *, tick_s: int, warm_up: int) -> Residual:
    """The value a day before the target, or a week before where its error is less in the user's warm-up.

    The last value where that is not known, and for targets more than a day ahead.

    Args:
        values: (tick, user, 5).
        tick_s: tick length in seconds.
        warm_up: rows from which the period is chosen.
    """
    last = carried(values)
    day, week = DAY_S // tick_s, 7 * DAY_S // tick_s
    weekly = _mean_error(last[:warm_up], week) < _mean_error(last[:warm_up], day)

    def point(metric: int, rows: range, step: int) -> Array:
        newest = last[rows.start : rows.stop, :, metric]
        out = newest
        for period, chosen in ((day, ~weekly[:, metric]), (week, weekly[:, metric])):
            at = np.arange(rows.start, rows.stop) + step - period
            usable = ((at >= 0) & (at <= np.arange(rows.start, rows.stop)))[:, None] & chosen
            before = last[np.clip(at, 0, len(last) - 1), :, metric]
            out = np.where(usable & ~np.isnan(before), before, out)
        return out

    return _residual("seasonal_naive", point, values, tick_s)


def _residual(name: str, point: Point, values: Array, tick_s: int) -> Residual:
    return Residual(
        name, point, values, window=max(1, WINDOW_S // tick_s), refresh=max(1, REFRESH_S // tick_s)
    )


def _mean_error(last: Array, period: int) -> NDArray[Any]:
    """Mean |change| over a period, (user, 5); infinite without a known change."""
    if len(last) <= period:
        return np.full((last.shape[1], len(METRICS)), np.inf)
    error = np.abs(last[period:] - last[:-period])
    known = ~np.isnan(error)
    return np.where(known.any(0), np.where(known, error, 0).sum(0) / np.maximum(known.sum(0), 1), np.inf)


def _quantiles(x: Array, levels: NDArray[np.float64]) -> Array:
    """Quantiles (level, user) of x (user, residual) without its NaN, interpolated linearly."""
    if not x.shape[1]:
        return np.full((len(levels), len(x)), np.nan, np.float32)
    ordered = np.sort(x, axis=1)  # NaN last
    count = (~np.isnan(x)).sum(1)
    position = levels[:, None] * np.maximum(count - 1, 0)
    low = position.astype(int)
    users = np.arange(len(x))
    a, b = ordered[users, low], ordered[users, np.minimum(low + 1, np.maximum(count - 1, 0))]
    return np.where(count >= MIN_RESIDUALS, a + (position - low) * (b - a), np.nan).astype(np.float32)
