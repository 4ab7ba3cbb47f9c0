"""Training series: of users, of groups of users, of coarser ticks, and random variations of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import METRICS, STEPS, horizon_steps

HELD_OUT: Final = 5  # one user of so many

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Series:
    """Consecutive ticks of a user.

    Attributes:
        name: of the user.
        tick_s: tick length in seconds.
        first_tick: number of the first row's tick.
        values: (tick, 5) in the metrics' units, NaN = absent.
        events: (tick, 4) rates in 1/s, NaN = absent.
        saturated: (tick, 5): the value is only a lower bound of demand.
        error: (5, 6) persistence's CRPS in the metrics' units, that of the distribution of changes over each step of
            the horizon, by which losses are divided; 0 = not scored.
        weight: how often the series is drawn, times the root of its length.
    """

    name: str
    tick_s: int
    first_tick: int
    values: Array
    events: Array
    saturated: NDArray[np.bool_]
    error: Array
    weight: float = 1.0

    @classmethod
    def of(
        cls,
        name: str,
        tick_s: int,
        first_tick: int,
        values: Array,
        events: Array,
        saturated: Any,
        weight: float = 1.0,
    ) -> Series:
        """A series with `error` computed from its values."""
        error = np.zeros((len(METRICS), STEPS), np.float32)
        for m in np.flatnonzero(~np.isnan(values).all(0)):
            y = values[:, m].astype(np.float64)
            for k, step in enumerate(horizon_steps(tick_s)):
                # the rival's floor in docs/scoring.md
                error[m, k] = max(_spread(y[step:] - y[:-step]), 1e-3 * np.nanmean(np.abs(y)))
        return cls(name, tick_s, first_tick, values, events, saturated, error, weight)

    def part(self, start: int, stop: int) -> Series:
        """Rows from start to before stop, with the whole series' error."""
        return replace(
            self,
            first_tick=self.first_tick + start,
            values=self.values[start:stop],
            events=self.events[start:stop],
            saturated=self.saturated[start:stop],
        )


def _spread(x: NDArray[np.float64]) -> float:
    """CRPS of the distribution of x: half the mean difference of two draws (Gneiting and Raftery 2007, eq. 21)."""
    x = np.sort(x[~np.isnan(x)])
    n = len(x)
    return float(x @ (2 * np.arange(n) - n + 1)) / n**2 if n else 0.0


def held_out(name: str) -> bool:
    """Whether a user is of the fixed fifth that is not trained on: BLAKE2b-64 of the name, modulo 5, is 0."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % HELD_OUT == 0


def coarser(series: Series, ticks: int) -> Series:
    """The series on ticks that are `ticks` times as long: means of the values, saturated where any sample was."""
    begin = -series.first_tick % ticks
    n = (len(series.values) - begin) // ticks

    def mean(x: Array) -> Array:
        x = x[begin : begin + n * ticks].reshape(n, ticks, -1)
        known = ~np.isnan(x)
        total = np.where(known, x, 0).sum(1) / np.maximum(known.sum(1), 1)
        return np.where(known.any(1), total, np.nan).astype(np.float32)

    hit = series.saturated[begin : begin + n * ticks].reshape(n, ticks, -1).any(1)
    first = (series.first_tick + begin) // ticks
    name = f"{series.name}/{ticks}"
    return Series.of(name, series.tick_s * ticks, first, mean(series.values), mean(series.events), hit)


def groups(series: list[Series], sizes: list[int], seed: int) -> list[Series]:
    """Totals of random groups of series with one tick length, since an app's total is forecast by the same model.

    A total is saturated where a fifth of it or more is. sizes: number of series of each group; seed: of their choice.
    """
    rng = np.random.default_rng(seed)
    low, high = min(s.first_tick for s in series), max(s.first_tick + len(s.values) for s in series)
    out: list[Series] = []
    for size in sizes:
        values = np.zeros((high - low, len(METRICS)))
        events = np.zeros((high - low, series[0].events.shape[1]))
        known, counted, hit = (
            np.zeros(values.shape, bool),
            np.zeros(events.shape, bool),
            np.zeros(values.shape),
        )
        for i in rng.choice(len(series), min(size, len(series)), replace=False):
            s = series[i]
            at = slice(s.first_tick - low, s.first_tick - low + len(s.values))
            values[at] += np.nan_to_num(s.values)
            hit[at] += np.where(s.saturated, np.nan_to_num(s.values), 0)
            events[at] += np.nan_to_num(s.events)
            known[at] |= ~np.isnan(s.values)
            counted[at] |= ~np.isnan(s.events)
        total = np.where(known, values, np.nan).astype(np.float32)
        rates = np.where(counted, events, np.nan).astype(np.float32)
        out.append(
            Series.of(
                f"group-{len(out)}",
                series[0].tick_s,
                low,
                total,
                rates,
                known & (hit >= 0.2 * values) & (hit > 0),
                series[0].weight,
            )
        )
    return out


def augmented(series: Series, rng: np.random.Generator) -> Series:
    """A random variation of a series: metrics permuted, metrics, events and samples absent, values cut and scaled."""
    values, events, saturated = series.values.copy(), series.events.copy(), series.saturated.copy()
    error = series.error
    if rng.random() < 0.25:  # what is learnt of one metric serves another
        order = rng.permutation(len(METRICS))
        values, saturated, error = values[:, order], saturated[:, order], error[order]
    present = np.flatnonzero(~np.isnan(values).all(0))
    if len(present) > 1 and rng.random() < 0.2:
        values[:, rng.choice(present, rng.integers(1, len(present)), replace=False)] = np.nan
    if rng.random() < 0.2:
        gone = rng.random(len(values)) < rng.uniform(0, 0.2)
        values[gone], events[gone] = np.nan, np.nan
    if rng.random() < 0.2:
        events[:] = np.nan
    if rng.random() < 0.1 and len(present):
        m = int(rng.choice(present))
        limit = (
            np.nanquantile(values[:, m], rng.uniform(0.7, 0.99))
            if (~np.isnan(values[:, m])).any()
            else np.nan
        )
        with np.errstate(invalid="ignore"):
            over = values[:, m] >= limit
        values[over, m], saturated[over, m] = limit, True
    scale = np.float32(10 ** rng.uniform(-2, 2))
    return replace(
        series,
        values=values * scale,
        events=events,
        saturated=saturated,
        error=(error * scale).astype(np.float32),
    )
