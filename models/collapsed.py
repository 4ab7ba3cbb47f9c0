"""The collapsed sampler: the users who matter most drawn one by one, the sum of the rest from its moments.

Given the app's factor, users are independent, so the sum of many is nearly normal. With s = sqrt(shared) F the score
that the factor gives, a user's demand is g(s + sqrt(1 - shared) e), e standard normal, and g piecewise linear: the sum
of the grid's hat functions times the values at its levels. Its moments given s are therefore linear or quadratic in
these values, and sums over users need only the sums of values and of their products:

    mean(s)      = w(s) · Σ g,          w(s) = E hat
    variance(s)  = <V(s), Σ g gᵀ>,      V(s) = E hat hatᵀ - w wᵀ
    covariance   of two steps or metrics, whose e correlate by r: Σ_n rⁿ / n! Σ α_n α'_n with α_n = E g He_n, the
                 Hermite coefficients (Mehler's formula), at s = 0; of it the correlation alone is used

so that 100,000 users cost little more than reading their forecasts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.polynomial.hermite_e import hermevander
from numpy.typing import NDArray

from models import scenarios as exact
from models.dependence import Dependence, square_root
from models.distribution import LEVELS, Z_MAX, Z_STEP, QuantileFunction, Selected
from models.scenarios import stream

Array = NDArray[np.float32]

DRAWN: Final = 128  # users drawn one by one: 128 × 24 rows × 4,096 scenarios take some 0.15 s of a core
NODES: Final = np.linspace(
    -7, 7, 2_801
)  # of e, over which a user's own part is integrated; 70 to a cell, and ...
MASS: Final = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()  # ... their probability
SCORES: Final = np.linspace(-4.5, 4.5, 73)  # of the factor, where moments are tabulated: between, linear
ORDERS: Final = 8  # Hermite coefficients: rⁿ at r = 0.9 and n = 9 is 0.39, and α_n² / n! falls as fast again
# The moments of users' own parts are tabulated for shared in these steps, kept from tick to tick as the estimate moves:
# sqrt(1 - shared) is off by at most 0.1 %, and the factor itself takes the exact value.
SHARED_UNIT: Final = 1 / 256
BLOCK: Final = 2_048  # users whose grids are unpacked at once: 2,048 × 24 × 21 × 4 bytes = 4.1 MB


def simulate(
    forecasts: QuantileFunction | Selected,
    dependence: Dependence,
    *,
    app: bytes,
    tick: int,
    shard: int,
    scenarios: int,
    seed: int,
    loading: int = 1,
    common: Any = None,
    drawn: int = DRAWN,
) -> Array:
    """As `scenarios.simulate`, of NumPy's arrays: the same law, factor and mirrored scenarios, other numbers.

    Up to `drawn` users it is the exact sampler, to the bit.
    """
    users, metrics, steps = forecasts.shape

    def one_by_one(some: QuantileFunction, common: Any) -> Array:
        return exact.simulate(
            np, some, dependence, app=app, tick=tick, shard=shard, scenarios=scenarios, seed=seed, loading=loading,
            common=common,
        )  # fmt: skip

    if users <= drawn:
        return one_by_one(forecasts[:], common)
    strength = dependence.strength(loading)
    shared = np.rint(strength**2 / SHARED_UNIT) * SHARED_UNIT
    basis = np.stack([_hermite(float(share)) for share in shared]).transpose(0, 2, 1)  # (metric, 21, n)
    heavy = np.sort(np.argsort(-_share(forecasts, basis), kind="stable")[:drawn])
    half = scenarios // 2
    if common is None:
        common = exact.factor(np, dependence, steps, half, app=app, tick=tick, seed=seed)
    demand = one_by_one(forecasts[heavy], common)
    rest = np.ones(users, bool)
    rest[heavy] = False

    sums, products, gram = _sums(forecasts, rest, basis)
    factor = common * strength[:, None].astype(np.float32)
    position = np.concatenate([factor, -factor], axis=-1)  # (step, metric, scenario)
    noise = _noise(gram, dependence, steps, half, stream(np, seed, app, tick, shard, "rest", loading))
    for m in range(metrics):
        weights, spreads = _tables(float(shared[m]))
        for k in range(steps):
            mean = weights @ sums[m, k]
            deviation = np.sqrt(np.maximum(np.tensordot(spreads, products[m, k], 2), 0))
            at = position[k, m]
            part = np.interp(at, SCORES, mean) + np.interp(at, SCORES, deviation) * noise[k, m]
            demand[:, k, m] += np.maximum(part, 0)
    return demand


def _grids(forecasts: QuantileFunction) -> Array:
    """Values at the levels, clamped at zero, (user, metric, step, 21); without a forecast zero."""
    return np.where(np.isfinite(forecasts.location)[..., None], np.maximum(forecasts.grid(), 0), 0)


def _apart(grid: Array) -> Array:
    """Less the value in the middle: V's and He_n's rows sum to zero, so that nothing changes but rounding."""
    return grid - grid[..., LEVELS // 2, None]


def _blocks(forecasts: QuantileFunction | Selected) -> Iterator[tuple[slice, Array]]:
    """Slices of users, and their values less the one in the middle."""
    for first in range(0, forecasts.shape[0], BLOCK):
        part = slice(first, first + BLOCK)
        yield part, _grids(forecasts[part])


def _share(forecasts: QuantileFunction | Selected, basis: Array) -> Array:
    """The most that each user is of any step's and metric's variance, (user)."""
    spread = np.empty(forecasts.shape, np.float32)
    for part, grid in _blocks(forecasts):
        alpha = np.matmul(_apart(grid), basis)
        spread[part] = np.einsum("umkn,n->umk", alpha * alpha, 1 / _factorials())
    total = spread.sum(axis=0)
    return (spread / np.where(total > 0, total, 1)).max(axis=(1, 2))


def _sums(
    forecasts: QuantileFunction | Selected, rest: NDArray[np.bool_], basis: Array
) -> tuple[Any, Any, Any]:
    """Over the rest: Σ g (metric, step, 21), Σ g gᵀ (metric, step, 21, 21) of g less its middle, and Σ α_n α'_n (n,
    step × metric, step × metric).
    """
    _, metrics, steps = forecasts.shape
    sums, products = np.zeros((metrics, steps, LEVELS)), np.zeros((metrics, steps, LEVELS, LEVELS))
    gram = np.zeros((ORDERS, steps * metrics, steps * metrics))
    for part, grids in _blocks(forecasts):
        grid = grids * rest[part, None, None, None]
        sums += grid.sum(axis=0, dtype=np.float64)
        apart = np.ascontiguousarray(_apart(grid).transpose(1, 2, 0, 3))
        products += np.matmul(apart.swapaxes(-1, -2), apart)
        alpha = np.matmul(apart, basis[:, None])  # (metric, step, user, n)
        rows = alpha.transpose(3, 1, 0, 2).reshape(ORDERS, steps * metrics, -1)
        gram += np.matmul(rows, rows.swapaxes(-1, -2))
    return sums, products, gram


def _noise(gram: NDArray[np.float64], dependence: Dependence, steps: int, half: int, generator: Any) -> Array:
    """Standard normals (step, metric, scenario) that correlate as the rest's sums do, the second half mirrored."""
    metrics = gram.shape[-1] // steps
    r = dependence.correlation(steps)
    powers = r[None] ** np.arange(1, ORDERS + 1)[:, None, None] / _factorials()[:, None, None]
    covariance = (powers * gram).sum(axis=0)
    size = np.sqrt(np.diag(covariance))
    known = size > 0
    correlation = np.where(
        known & known[:, None], covariance / np.where(known, size, 1) / np.where(known, size, 1)[:, None], 0
    )
    np.fill_diagonal(correlation, 1)
    drawn = square_root(correlation) @ generator.standard_normal((steps * metrics, half))
    drawn = drawn.reshape(steps, metrics, half)
    return np.concatenate([drawn, -drawn], axis=-1)


def _hats(shared: float, score: float) -> NDArray[np.float64]:
    """The hat functions at `score` and the nodes of a user's own part, (node, 21)."""
    position = np.clip((score + math.sqrt(1 - shared) * NODES + Z_MAX) / Z_STEP, 0, LEVELS - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(LEVELS)))


@lru_cache(maxsize=257)
def _tables(shared: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """w (score, 21) and V (score, 21, 21) at SCORES."""
    weights, spreads = np.zeros((len(SCORES), LEVELS)), np.zeros((len(SCORES), LEVELS, LEVELS))
    for i, score in enumerate(SCORES.tolist()):
        hats = _hats(shared, score)
        weights[i] = MASS @ hats
        spreads[i] = (MASS[:, None] * hats).T @ hats - np.outer(weights[i], weights[i])
    return weights, spreads


@lru_cache(maxsize=257)
def _hermite(shared: float) -> Array:
    """E hat He_n, (n, 21); its rows sum to zero exactly, so that a level adds nothing to a coefficient."""
    basis = (hermevander(NODES, ORDERS)[:, 1:] * MASS[:, None]).T @ _hats(shared, 0.0)
    basis[:, LEVELS // 2] -= basis.sum(axis=1)
    return basis.astype(np.float32)


def _factorials() -> NDArray[np.float64]:
    return np.array([math.factorial(n) for n in range(1, ORDERS + 1)], np.float64)
