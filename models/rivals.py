"""The forecasters that we compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_RESIDUALS = 12  # an hour of five-minute ticks: fewer say nothing about a distribution


def persistence_quantiles(
    values: NDArray[np.float32],
    rows: range,
    step: int,
    levels: NDArray[np.float64],
    *,
    window: int,
    refresh: int,
) -> NDArray[np.float32]:
    """The last value plus rolling quantiles of the persistence residuals: strong at five minutes.

    Args:
        values: (tick, user), NaN where absent; a forecast at a tick reads up to that tick.
        rows: ticks at which to forecast.
        step: ticks ahead.
        levels: (level) probabilities.
        window: residuals of this many ticks are kept.
        refresh: their quantiles are renewed at every multiple of this many ticks, and before at powers of two.

    Returns:
        (level, len(rows), user), never negative; NaN before the first value or with under 12 residuals.
    """
    out = np.full((len(levels), len(rows), values.shape[1]), np.nan, np.float32)
    begin = rows.start
    while begin < rows.stop:
        stride = min(refresh, max(16, 1 << begin.bit_length() >> 1))  # in the beginning at powers of two
        renewed = begin // stride * stride
        end = min(rows.stop, renewed + stride)
        known = values[max(0, renewed - window - step + 1) : renewed + 1]
        residuals = known[step:] - known[:-step] if len(known) > step else known[:0]
        out[:, begin - rows.start : end - rows.start] = _quantiles(residuals, levels)[:, None]
        begin = end
    last = _carried(values[: rows.stop])[rows.start :]
    return np.maximum(out + last, 0)


def _quantiles(x: NDArray[np.float32], levels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Quantiles (level, user) of x (tick, user) without its NaN, interpolated linearly."""
    if not len(x):
        return np.full((len(levels), x.shape[1]), np.nan, np.float32)
    ordered = np.sort(x, axis=0)  # NaN last
    count = (~np.isnan(x)).sum(0)
    position = levels[:, None] * np.maximum(count - 1, 0)
    low = position.astype(int)
    users = np.arange(x.shape[1])
    a, b = ordered[low, users], ordered[np.minimum(low + 1, np.maximum(count - 1, 0)), users]
    return np.where(count >= MIN_RESIDUALS, a + (position - low) * (b - a), np.nan).astype(np.float32)


def _carried(values: NDArray[np.float32]) -> NDArray[Any]:
    """(tick, user) with each NaN replaced by the newest value before it."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)
