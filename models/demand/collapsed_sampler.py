"""Scenarios of many users: those with most of the variance are drawn one by one, the sum of the rest from its moments.

Given the app's factor F, users are independent, so the sum of many is nearly normal. With s = sqrt(shared) F, a user's
demand is g(s + sqrt(1 - shared) e), e standard normal, and g piecewise linear: the sum of the grid's hat functions
times the values at its levels. Its moments given s are therefore linear or quadratic in these values, and sums over
users need only the sums of values and of their products:

    mean(s)      = w(s) · Σ g,          w(s) = E hat
    variance(s)  = <V(s), Σ g gᵀ>,      V(s) = E hat hatᵀ - w wᵀ
    covariance   of two steps or metrics, whose e correlate by r: Σ_n rⁿ / n! Σ α_n α'_n with α_n = E g He_n, the
                 Hermite coefficients (Mehler's formula), at s = 0; only the correlation is taken from it

So 100,000 users cost little more than reading their forecasts.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.polynomial.hermite_e import hermevander
from numpy.typing import NDArray

from models.behaviour.error_dependence import Dependence, square_root
from models.demand import scenarios as exact
from models.quantile_function import LEVELS, Z_MAX, Z_STEP, QuantileFunction, Selected, single
from models.random_streams import stream

Array = NDArray[np.float32]

# Users drawn one by one at most: 128 × 24 rows × 4,096 scenarios take some 0.07 s of a core.
DRAWN: Final = 128
LEAST: Final = 16  # of them, where there are more
# Σ (σ_i² / Σ σ²)^1.5 over those not drawn, a bound of the sum's skewness in units of a user's own. By Cornish and
# Fisher (1938) the 99 % quantile is off by (2.33² - 1) / 6 of the skewness: 0.04 standard deviations at a user's
# skewness of 2, where 4,096 scenarios err by 0.06.
SKEWNESS: Final = 0.03
NODES: Final = np.linspace(
    -7, 7, 2_801
)  # of e, over which a user's own part is integrated; 70 to a cell, and ...
MASS: Final = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()  # ... their probability
SCORES: Final = np.linspace(-4.5, 4.5, 73)  # of the factor, where moments are tabulated: between, linear
ORDERS: Final = 8  # Hermite coefficients: rⁿ at r = 0.9 and n = 9 is 0.39, and α_n² / n! falls as fast again
# The moments of users' own parts are tabulated for shared in these steps, kept from tick to tick as the estimate moves:
# sqrt(1 - shared) is off by at most 0.1 %, and the factor itself takes the exact value.
SHARED_UNIT: Final = 1 / 256
# Users whose grids are unpacked at once: 512 × 24 × 21 × 4 bytes = 1 MB, which a core's cache holds.
BLOCK: Final = 512


def simulate(
    forecasts: QuantileFunction | Selected,
    dependence: Dependence,
    key: exact.ScenarioKey,
    *,
    loading: int = 1,
    common: Any = None,
    drawn: int = DRAWN,
) -> Array:
    """Scenarios as of `scenarios.simulate`, (scenario, step, metric) float32, in much less time for many users.

    They have the same factor, the same antithetic pairs and, up to the normal approximation, the same distribution,
    but other random numbers. With at most `drawn` users the result is that of `scenarios.simulate` to the bit.

    forecasts: (user, metric, step) NumPy arrays; drawn: most users that are drawn one by one; others as there.

    Raises:
        ValueError: scenarios is odd or less than 2.
    """
    users, metrics, steps = forecasts.shape

    def one_by_one(some: QuantileFunction, common: Any) -> Array:
        return exact.simulate(np, some, dependence, key, loading=loading, common=common)

    if users <= drawn:
        return one_by_one(forecasts[:], common)
    strength = dependence.strength(loading)
    shared = np.rint(strength**2 / SHARED_UNIT) * SHARED_UNIT
    basis = np.stack([_hermite(float(share)) for share in shared]).transpose(0, 2, 1)  # (metric, 21, n)
    moments, variance = _moments(forecasts, basis)
    heavy = _heavy(variance, drawn)
    half = key.scenarios // 2
    if common is None:
        common = exact.factor(np, dependence, steps, key)
    some = forecasts[heavy]
    demand = one_by_one(some, common)
    sums, products, gram = (
        every - part for every, part in zip(moments, _moments(some, basis)[0], strict=True)
    )

    factor = common * strength[:, None].astype(np.float32)
    position = np.concatenate([factor, -factor], axis=-1)  # (step, metric, scenario)
    generator = stream(np, key.seed, key.app, key.tick, key.shard, "rest", loading)
    noise = _noise(gram, dependence, steps, half, generator)
    for m in range(metrics):
        weights, spreads = _tables(float(shared[m]))
        for k in range(steps):
            mean = weights @ sums[m, k]
            deviation = np.sqrt(np.maximum(np.tensordot(spreads, products[m, k], 2), 0))
            at = position[k, m]
            part = np.interp(at, SCORES, mean) + np.interp(at, SCORES, deviation) * noise[k, m]
            demand[:, k, m] += np.maximum(part, 0)
    return demand


def _heavy(variance: Array, drawn: int) -> NDArray[np.intp]:
    """Indices of the users with the largest shares of any step's and metric's variance, rising.

    At least LEAST, and as many as it takes, up to `drawn`, to bring the bound of the others' skewness to SKEWNESS.

    variance: (user, metric, step) of each user's demand.
    """
    total = variance.sum(axis=0, dtype=np.float64)
    total[total == 0] = 1
    largest, cubed = np.empty(len(variance), np.float32), np.zeros(total.shape)
    for first in range(0, len(variance), BLOCK):
        share = variance[first : first + BLOCK] / total
        largest[first : first + BLOCK] = share.max(axis=(1, 2))
        cubed += (share * np.sqrt(share)).sum(axis=0)
    order = np.argsort(-largest, kind="stable")[:drawn]
    left = cubed - np.cumsum((variance[order] / total) ** 1.5, axis=0)
    enough = np.flatnonzero((left <= SKEWNESS).all(axis=(1, 2)))
    count = max(LEAST, int(enough[0]) + 1) if len(enough) else drawn
    return np.sort(order[:count])


def _moments(
    forecasts: QuantileFunction | Selected, basis: Array
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], Array]:
    """Sums over the users, and each user's variance (user, metric, step).

    Sums: Σ g (metric, step, 21); Σ g gᵀ (metric, step, 21, 21), of g less its middle level; Σ α_n α'_n (n,
    step × metric, step × metric). basis: (metric, 21, n), of `_hermite`.
    """
    users, metrics, steps = forecasts.shape
    sums, products = np.zeros((metrics, steps, LEVELS)), np.zeros((metrics, steps, LEVELS, LEVELS))
    gram = np.zeros((ORDERS, steps * metrics, steps * metrics))
    variance = np.empty((users, metrics, steps), np.float32)
    weight = (1 / _factorials()).astype(np.float32)
    for first in range(0, users, BLOCK):
        part = slice(first, first + BLOCK)
        grid = _grids(forecasts[part])
        sums += np.matmul(np.ones(grid.shape[2], np.float32), grid)
        grid -= grid[..., LEVELS // 2, None]  # V's and He_n's rows sum to zero: nothing changes but rounding
        products += np.matmul(grid.swapaxes(-1, -2), grid)
        alpha = np.matmul(grid, basis[:, None])  # (metric, step, user, n)
        variance[part] = (alpha * alpha @ weight).transpose(2, 0, 1)
        rows = alpha.transpose(3, 1, 0, 2).reshape(ORDERS, steps * metrics, -1)
        gram += np.matmul(rows, rows.swapaxes(-1, -2))
    return (sums, products, gram), variance


def _grids(forecasts: QuantileFunction) -> Array:
    """Quantiles at the grid's levels, (metric, step, user, 21), negative ones and those without a forecast 0."""
    known = np.isfinite(forecasts.location)
    location, scale = (
        np.where(known, array, 0).transpose(1, 2, 0)[..., None]
        for array in (forecasts.location, forecasts.scale)
    )
    grid = single(np.ascontiguousarray(forecasts.offsets.transpose(1, 2, 0, 3)))
    grid *= scale
    grid += location
    return np.maximum(grid, 0, out=grid)


def _noise(gram: NDArray[np.float64], dependence: Dependence, steps: int, half: int, generator: Any) -> Array:
    """Standard normals (step, metric, scenario) with the correlation of the rest's sums; the second half is mirrored.

    gram: (n, step × metric, step × metric) of `_moments`; half: scenarios to draw.
    """
    metrics = gram.shape[-1] // steps
    r = dependence.correlation(steps)
    powers = r[None] ** np.arange(1, ORDERS + 1)[:, None, None] / _factorials()[:, None, None]
    covariance = (powers * gram).sum(axis=0)
    size = np.sqrt(np.maximum(np.diag(covariance), 0))  # of no rest, what rounding leaves may be negative
    known = size > 0
    correlation = np.where(
        known & known[:, None], covariance / np.where(known, size, 1) / np.where(known, size, 1)[:, None], 0
    )
    np.fill_diagonal(correlation, 1)
    drawn = square_root(correlation) @ generator.standard_normal((steps * metrics, half))
    drawn = drawn.reshape(steps, metrics, half)
    return np.concatenate([drawn, -drawn], axis=-1)


def _hats(shared: float, score: float) -> NDArray[np.float64]:
    """The grid's hat functions at `score` plus each node of a user's own part, (node, 21)."""
    position = np.clip((score + math.sqrt(1 - shared) * NODES + Z_MAX) / Z_STEP, 0, LEVELS - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(LEVELS)))


@lru_cache(maxsize=257)
def _tables(shared: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """w (score, 21) and V (score, 21, 21) of the module's formulae, at SCORES."""
    weights, spreads = np.zeros((len(SCORES), LEVELS)), np.zeros((len(SCORES), LEVELS, LEVELS))
    for i, score in enumerate(SCORES.tolist()):
        hats = _hats(shared, score)
        weights[i] = MASS @ hats
        spreads[i] = (MASS[:, None] * hats).T @ hats - np.outer(weights[i], weights[i])
    return weights, spreads


@lru_cache(maxsize=257)
def _hermite(shared: float) -> Array:
    """E hat He_n, (n, 21). Rows sum to zero exactly, so that a constant added to g changes no coefficient."""
    basis = (hermevander(NODES, ORDERS)[:, 1:] * MASS[:, None]).T @ _hats(shared, 0.0)
    basis[:, LEVELS // 2] -= basis.sum(axis=1)
    return basis.astype(np.float32)


def _factorials() -> NDArray[np.float64]:
    return np.array([math.factorial(n) for n in range(1, ORDERS + 1)], np.float64)
