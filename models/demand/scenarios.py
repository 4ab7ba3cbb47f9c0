"""Monte Carlo simulation: joint scenarios of an app's demand from its users' forecasts.

`xp` is the array module, numpy or cupy. Demand is (scenario, step, metric), forecasts are (user, metric,
step); units are those of the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models.behaviour.error_dependence import Dependence
from models.kernels import add_users, look_up
from models.quantile_function import LEVELS, Z_MAX, Z_STEP, QuantileFunction, Selected
from models.random_streams import stream

CELLS: Final = LEVELS - 1  # intervals of the grid
TOP: Final = np.nextafter(np.float32(CELLS), np.float32(0))  # the largest position whose cell is the last
# Bytes of one array of normal scores. NumPy: 24 rows × 4,096 scenarios × 4 bytes = 384 KiB, one user, stays
# in a core's cache; CuPy: 64 MiB, some 170 users a launch, a dozen such arrays are under 1 GiB on the device.
CHUNK_BYTES: Final = {"numpy": 512 * 1024, "cupy": 64 * 1024 * 1024}
# Users draw their scores from this many equally probable values, 16 random bits each: three times faster than
# Philox normals on a core (4 against 12 ns), and a quantile is off by at most 1 / 65,536 in probability.
SCORE_LEVELS: Final = 65_536
# OpenBLAS multiplies with one thread up to 2¹⁸ multiplications. More threads gain nothing on matrices this small
# and, where processors are shared, wait for each other: 20 times slower was measured.
BLAS_PRODUCTS: Final = 200_000
TABLE_USERS: Final = 128  # users whose grids are unpacked at once: 128 × 24 × 20 cells × 2 × 4 bytes = 4.9 MB


@dataclass(frozen=True)
class ScenarioKey:
    """Identity of a simulation, from which its random streams follow, and the number of scenarios.

    Attributes:
        app: name of the application.
        tick: demand is simulated from its end on.
        shard: of the users.
        scenarios: how many, even and at least 2.
        seed: of the installation.
    """

    app: bytes
    tick: int
    shard: int
    scenarios: int
    seed: int


def simulate(
    xp: Any,
    forecasts: QuantileFunction,
    dependence: Dependence,
    key: ScenarioKey,
    *,
    loading: int = 1,
    common: Any = None,
) -> Any:
    """Sampled demand of a shard's users, summed over the users: (scenario, step, metric) float32.

    The app's factor is drawn from the stream (seed, app, tick), the same on all shards, so that shards' sums add up
    scenario by scenario. The users' own parts are drawn in users' order from the stream (seed, app, tick, shard), or
    from one with the loading added where that is not 1.
    Scenario S/2 + s negates all normal scores of scenario s (antithetic variates, Hammersley and Morton 1956): both
    have the same distribution, and half the normals are drawn. The median's error is a third of that of independent
    scenarios, the 99 % quantile's is the same.

    Args:
        xp: the array module, numpy or cupy.
        forecasts: (user, metric, step) arrays of `xp`; a forecast with a NaN location contributes nothing.
        dependence: of the app's scores.
        key: names the random streams.
        loading: of all these users on the app's factor.
        common: the factor where it is drawn already, see `factor`.

    Raises:
        ValueError: scenarios is odd or less than 2.
    """
    scenarios = key.scenarios
    if scenarios < 2 or scenarios % 2:
        raise ValueError(f"scenarios must be even and at least 2, got {scenarios}")
    users, metrics, steps = forecasts.shape
    half = scenarios // 2
    total = xp.zeros((scenarios, steps, metrics), dtype=xp.float32)
    known = xp.isfinite(forecasts.location)
    active = np.flatnonzero(_host(known.any(axis=(0, 2))))
    if users == 0 or active.size == 0:
        return total

    kept, strength = dependence.part(active), np.tile(dependence.strength(loading)[active], steps)[:, None]
    own_map = kept.root(steps) * np.sqrt(1 - strength**2)
    # positions on the grid, not scores: (z + 3.5) / 0.35, so that one product does scale and dependence
    own_map = xp.asarray(own_map / Z_STEP, dtype=xp.float32)
    rows = own_map.shape[0]

    scores = xp.asarray(_score_table())
    if common is None:
        common = factor(xp, dependence, steps, key)
    common = common[:, active].reshape(rows, half) * xp.asarray(strength / Z_STEP, dtype=xp.float32)

    own = stream(xp, key.seed, key.app, key.tick, key.shard, *(() if loading == 1 else (loading,)))
    chunk = max(1, CHUNK_BYTES[xp.__name__] // (4 * rows * scenarios))
    acc = xp.zeros((rows, 2, half), dtype=xp.float32)
    for first in range(0, users, TABLE_USERS):
        block = forecasts[first : first + TABLE_USERS, active]
        intercept, slope = _tables(xp, block)
        for begin in range(0, intercept.shape[0], chunk):
            part = slice(begin, begin + chunk)
            draws = _normals(xp, own, (intercept[part].shape[0], rows, half), scores)
            _add_users(xp, _mixed(xp, own_map, draws) + common, intercept[part], slope[part], acc)
    total[:, :, active] = acc.reshape(steps, active.size, scenarios).transpose(2, 0, 1)
    return total


def factor(xp: Any, dependence: Dependence, steps: int, key: ScenarioKey) -> Any:
    """The app's factor F, standard normal, (step, metric, scenario) of the first half of the scenarios."""
    half = key.scenarios // 2
    shape = (steps * dependence.shared.size, half)
    draws = _normals(xp, stream(xp, key.seed, key.app, key.tick), shape, xp.asarray(_score_table()))
    return _mixed(xp, xp.asarray(dependence.root(steps), dtype=xp.float32), draws).reshape(steps, -1, half)


def by_loading(
    xp: Any,
    sample: Callable[..., Any],
    forecasts: QuantileFunction | Selected,
    dependence: Dependence,
    loading: NDArray[np.integer[Any]],
    metrics: NDArray[np.intp],
    key: ScenarioKey,
) -> Any:
    """Sampled demand (scenario, step, metric) of users with different loadings on the app's factor.

    The users of each loading are sampled apart, and the results added.

    Args:
        xp: the array module, numpy or cupy.
        sample: `simulate` with the array module bound, or `collapsed_sampler.simulate`.
        forecasts: (user, metric, step).
        dependence: of the app's scores, of all metrics.
        loading: (user) of `error_dependence.LOADINGS`.
        metrics: indices in `dependence` of the forecasts' metrics. The factor is drawn for all metrics, so that it is
            the same on shards whose users have others.
        key: names the random streams.

    Raises:
        ValueError: scenarios is odd or less than 2.
    """
    common = factor(xp, dependence, forecasts.shape[2], key)[:, metrics]
    dependence = dependence.part(metrics).among(loading)
    levels = np.unique(loading).tolist()
    if len(levels) < 2:
        return sample(forecasts, dependence, key, loading=levels[0] if levels else 1, common=common)

    def those(level: int) -> QuantileFunction | Selected:
        chosen = loading == level
        return forecasts.where(chosen) if isinstance(forecasts, Selected) else forecasts[chosen]

    return sum(sample(those(level), dependence, key, loading=level, common=common) for level in levels)


def _tables(xp: Any, forecasts: QuantileFunction) -> tuple[Any, Any]:
    """Intercept and slope over the grid position in each cell, both (user, step × metric, 20) float32."""
    grid = xp.where(xp.isfinite(forecasts.location)[..., None], forecasts.grid(), 0)
    grid = grid.transpose(0, 2, 1, 3).reshape(grid.shape[0], -1, LEVELS)
    slope = grid[..., 1:] - grid[..., :-1]
    intercept = grid[..., :-1] - slope * xp.arange(CELLS, dtype=xp.float32)
    return intercept.astype(xp.float32), slope.astype(xp.float32)


def _add_users(xp: Any, deviation: Any, intercept: Any, slope: Any, acc: Any) -> None:
    """As `kernels.add_users`, for arrays of NumPy or CuPy: adds the users' demand to `acc` (row, 2, half)."""
    middle = xp.float32(Z_MAX / Z_STEP)
    if xp is np:
        add_users(deviation, intercept, slope, middle, TOP, acc)
        return
    users, rows, half = deviation.shape
    position = xp.empty((users, rows, 2, half), dtype=xp.float32)
    xp.add(middle, deviation, out=position[:, :, 0])
    xp.subtract(middle, deviation, out=position[:, :, 1])
    xp.clip(position, xp.float32(0), TOP, out=position)
    cell = position.astype(xp.int32)  # below 2³¹: a chunk has at most 64 MiB / 4 positions, and fewer cells
    cell += (xp.arange(users * rows, dtype=xp.int32) * CELLS).reshape(users, rows, 1, 1)
    cell = cell.astype(xp.intp)
    position *= xp.take(slope, cell)
    position += xp.take(intercept, cell)
    xp.clip(position, xp.float32(0), xp.float32(np.inf), out=position)  # faster than maximum
    for user in range(users):
        acc += position[user]


def _mixed(xp: Any, matrix: Any, draws: Any) -> Any:
    """Product of a matrix (row, row) and draws (..., row, half), a few columns at a time (see BLAS_PRODUCTS)."""
    result = xp.empty_like(draws)
    width = draws.shape[-1] if xp is not np else max(1, BLAS_PRODUCTS // matrix.size)
    for begin in range(0, draws.shape[-1], width):
        part = (..., slice(begin, begin + width))
        xp.matmul(matrix, draws[part], out=result[part])
    return result


def _normals(xp: Any, generator: Any, shape: tuple[int, ...], scores: Any) -> Any:
    """Standard normals of this shape, float32, drawn from the equally probable values `scores`."""
    if xp is np:  # raw bits in half the time
        normals = np.empty(shape, np.float32)
        bits = generator.bit_generator.random_raw(-(-normals.size // 4)).astype("<u8", copy=False).view("<u2")
        look_up(scores, bits[: normals.size], normals.ravel())
        return normals
    return xp.take(scores, generator.integers(0, SCORE_LEVELS, size=shape, dtype=xp.uint16))


@lru_cache(maxsize=1)
def _score_table() -> NDArray[np.float32]:
    """Mean of a standard normal within each of 65,536 equally probable intervals: n (φ(a) - φ(b))."""
    bounds = ndtri(np.linspace(0, 1, SCORE_LEVELS + 1))
    density = np.exp(-(bounds**2) / 2) / math.sqrt(2 * math.pi)
    return (SCORE_LEVELS * (density[:-1] - density[1:])).astype(np.float32)


def required(
    demand: NDArray[np.floating[Any]], confidence: float, window: slice, metrics: Sequence[int]
) -> tuple[NDArray[np.float32], float]:
    """Demand to be met, (step, metric) float32, and the common level alpha of these marginal quantiles.

    Alpha is the smallest level whose marginal quantiles hold jointly, over these metrics and all steps of `window`, in
    at least the share `confidence` of the scenarios. Other metrics and steps get the same level.

    demand: (scenario, step, metric); metrics: indices of the governed ones.
    """
    return requirements(demand, [confidence], window, metrics)[0]


def requirements(
    demand: NDArray[np.floating[Any]], confidences: Sequence[float], window: slice, metrics: Sequence[int]
) -> list[tuple[NDArray[np.float32], float]]:
    """`required` at each of several confidences, in their order; the scenarios are sorted once."""
    scenarios = demand.shape[0]
    rising = np.sort(demand.transpose(1, 2, 0), axis=-1).transpose(
        2, 0, 1
    )  # columns that lie together sort fast
    inside, quantiles = demand[:, window, metrics], rising[:, window, metrics]
    requirements_at: list[tuple[NDArray[np.float32], float]] = []
    for confidence in confidences:
        # ranks; at the largest all scenarios hold
        low, high = math.ceil(confidence * scenarios - 1e-9), scenarios
        enough = low
        while low < high:
            rank = (low + high) // 2
            held = (inside <= quantiles[rank - 1]).all(axis=(1, 2)).sum()
            low, high = (low, rank) if held >= enough else (rank + 1, high)
        requirements_at.append((rising[high - 1].astype(np.float32), high / scenarios))
    return requirements_at


def pack(demand: Any) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Demand (scenario, step, metric) as float16 in units of its largest value, and that unit, float32 (step, metric).

    Rounding is within 2⁻¹¹ of the value (0.05 %), or 6e-8 of the largest. Both are little-endian, as in topics.
    """
    host = _host(demand)
    scale = host.max(axis=0, initial=0.0).astype("<f4")
    scale[scale == 0] = 1
    return (host / scale).astype("<f2"), scale


def unpack(packed: NDArray[np.float16], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Demand (scenario, step, metric) float32 from the arrays of `pack`."""
    return packed.astype(np.float32) * scale


def _host(array: Any) -> NDArray[Any]:
    """The array in the host's memory, as NumPy's."""
    return array.get() if hasattr(array, "get") else np.asarray(array)
