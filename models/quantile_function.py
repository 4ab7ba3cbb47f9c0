"""Forecasts as quantile functions on a grid of standard-normal levels, whatever model made them.

The arrays may be NumPy's or CuPy's; the module is taken from them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Z_MAX: Final = 3.5
LEVELS: Final = 21
Z_STEP: Final = 2 * Z_MAX / (LEVELS - 1)  # 0.35
Z: Final[NDArray[np.float32]] = np.linspace(-Z_MAX, Z_MAX, LEVELS, dtype=np.float32)
OFFSET_LIMIT: Final = 60_000.0  # float16 ends at 65,504


def _hat_weights() -> NDArray[np.float32]:
    """Weight of each grid value in the mean of its interpolation under the normal density, shape (21,).

    The integral of hat function j: from phi' = -z phi, over [a, b] the rising hat (z - a) / h integrates to
    [phi(a) - phi(b) - a (Phi(b) - Phi(a))] / h. The mass beyond the ends goes to the end values. Sums to 1.
    """
    z = np.linspace(-Z_MAX, Z_MAX, LEVELS)
    density, mass = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), ndtr(z)
    moment, inside = density[:-1] - density[1:], mass[1:] - mass[:-1]
    weights = np.zeros(LEVELS)
    weights[1:] += (moment - z[:-1] * inside) / Z_STEP
    weights[:-1] += (z[1:] * inside - moment) / Z_STEP
    weights[0] += mass[0]
    weights[-1] += 1 - mass[-1]
    return weights.astype(np.float32)


MEAN_WEIGHTS: Final[NDArray[np.float32]] = _hat_weights()


def _module(array: Any) -> Any:
    """The module of an array: numpy or cupy."""
    return importlib.import_module(type(array).__module__.partition(".")[0])


_SINGLE: Final[NDArray[np.float32]] = np.arange(65_536, dtype=np.uint16).view(np.float16).astype(np.float32)


def single(offsets: Any) -> Any:
    """As float32, a copy; NumPy converts each half by itself: to look them up takes half the time."""
    if isinstance(offsets, np.ndarray) and offsets.dtype == np.float16:
        return np.take(_SINGLE, offsets.view(np.uint16), mode="wrap")
    return offsets.astype("float32")


def _normal_cdf(xp: Any, z: Any) -> Any:
    return ndtr(z) if xp is np else importlib.import_module("cupyx.scipy.special").ndtr(z)


@dataclass(frozen=True)
class QuantileFunction:
    """Forecast distributions of a quantity that is never negative.

    The value at standard-normal level z is max(0, location + scale * offsets(z)), `offsets` interpolated
    linearly over the grid Z, z clamped to [-3.5, 3.5]. Flat parts are point masses.
    A NaN location is no forecast.

    location, scale: (...) float32 in units of the metric, scale > 0
    offsets: (..., 21) float16, not decreasing along the last axis, in units of scale
    """

    location: Any
    scale: Any
    offsets: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading shape (...), without the grid."""
        return self.location.shape

    def __getitem__(self, index: Any) -> QuantileFunction:
        """Slice of the leading axes."""
        return QuantileFunction(self.location[index], self.scale[index], self.offsets[index])

    def grid(self) -> Any:
        """Values at the levels Z before the clamp at zero, (..., 21) float32."""
        values = single(self.offsets)
        values *= self.scale[..., None]
        values += self.location[..., None]
        return values

    def at(self, z: Any) -> Any:
        """Values at levels z, a scalar or an array that broadcasts with the leading shape; float32."""
        xp = _module(self.location)
        position = xp.clip((xp.asarray(z, dtype="float32") + Z_MAX) / Z_STEP, 0, LEVELS - 1)
        low = xp.minimum(position.astype("int32"), LEVELS - 2)
        share = (position - low).astype("float32")
        if low.ndim == 0:
            left, right = self.offsets[..., int(low)], self.offsets[..., int(low) + 1]
        else:
            row = xp.arange(self.location.size).reshape(self.location.shape) * LEVELS
            flat = xp.ascontiguousarray(self.offsets).reshape(-1)
            left, right = flat[row + low], flat[row + low + 1]
        left, right = single(left), single(right)
        # left + share * (right - left) can pass `right` by a rounding and break monotony at the knots
        offset = xp.minimum(left + share * (right - left), right)
        return xp.maximum(self.location + self.scale * offset, xp.float32(0))

    def quantile(self, level: Any) -> Any:
        """Values at probability levels in (0, 1), a scalar or an array as in `at`."""
        return self.at(ndtri(level))

    def mean(self) -> Any:
        """Mean of the grid's values, clamped at zero, under the normal density; (...) float32."""
        xp = _module(self.location)
        return xp.maximum(self.grid(), 0) @ xp.asarray(MEAN_WEIGHTS)

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Central interval (lo, hi) of this probability, each (...)."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def pit(self, y: Any, u: Any) -> Any:
        """Randomised probability integral transform F(y-) + u (F(y) - F(y-)), (...) float.

        Where y lies on a flat part, u, uniform on [0, 1), splits it (docs/scoring.md, coverage). NaN without y or
        forecast.
        """
        xp = _module(self.location)
        y = xp.asarray(y, dtype="float32")
        grid = self.grid()
        below = xp.where(y > 0, self._mass(xp, grid, y, (grid < y[..., None]).sum(-1)), 0.0)
        upto = xp.where(y >= 0, self._mass(xp, grid, y, (grid <= y[..., None]).sum(-1)), 0.0)
        return xp.where(xp.isnan(self.location + y), xp.nan, below + u * (upto - below))

    @staticmethod
    def _mass(xp: Any, grid: Any, y: Any, passed: Any) -> Any:
        """Probability at the level where the grid reaches y, `passed` grid values being before it."""
        index = xp.clip(passed, 1, LEVELS - 1)
        left = xp.take_along_axis(grid, index[..., None] - 1, -1)[..., 0]
        right = xp.take_along_axis(grid, index[..., None], -1)[..., 0]
        width = xp.where(right > left, right - left, 1)
        z = -Z_MAX + Z_STEP * (index - 1 + xp.clip((y - left) / width, 0, 1))
        return xp.where(passed == 0, 0.0, xp.where(passed == LEVELS, 1.0, _normal_cdf(xp, z)))


@dataclass(frozen=True)
class Selected:
    """Some users' forecasts out of many, without a copy: those of any slice are taken when they are asked for.

    Attributes:
        forecasts: (user, metric, step).
        rows: (row,) which users; None: all.
        metrics: (metric,) which metrics; None: all.
    """

    forecasts: QuantileFunction
    rows: NDArray[np.intp] | None = None
    metrics: NDArray[np.intp] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(row, metric, step)."""
        users, metrics, *steps = self.forecasts.shape
        rows = users if self.rows is None else len(self.rows)
        return rows, metrics if self.metrics is None else len(self.metrics), *steps

    def __getitem__(self, index: Any) -> QuantileFunction:
        """Slice of the rows."""
        chosen = self.forecasts[index if self.rows is None else self.rows[index]]
        return chosen if self.metrics is None else chosen[:, self.metrics]

    def where(self, chosen: NDArray[np.bool_]) -> Selected:
        """Those of the rows that are chosen, (row)."""
        rows = np.flatnonzero(chosen)
        return Selected(self.forecasts, rows if self.rows is None else self.rows[rows], self.metrics)


QUANTILE_BLOCK: Final = 8_192  # users at once: 8,192 × 24 × 4 bytes are 0.8 MB an array


def sum_of_quantiles(forecast: QuantileFunction | Selected, level: float) -> NDArray[Any]:
    """Sum over users of each one's own quantile, (step, metric) float64; users without a forecast add nothing.

    forecast: (user, metric, step); level: of each quantile, in (0, 1).
    """
    total = np.zeros(forecast.shape[1:])
    for first in range(0, forecast.shape[0], QUANTILE_BLOCK):
        part = forecast[first : first + QUANTILE_BLOCK]
        total += np.nansum(part.quantile(level), axis=0, dtype=np.float64)
    return np.ascontiguousarray(total.T)
