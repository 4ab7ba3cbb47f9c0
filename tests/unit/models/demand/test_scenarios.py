"""Monte Carlo: marginals, dependence, sums with known truth, shards, reconciliation, packing."""

import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from models import kernels
from models.demand.scenarios import Dependence, ScenarioKey, _add_users, pack, required, simulate, unpack
from models.quantile_function import Z_MAX, Z_STEP, QuantileFunction, Z
from models.random_streams import stream

S = 4096
CORRELATION = np.array([[1.0, 0.5], [0.5, 1.0]])


def normal_users(
    users: int, metrics: int, steps: int, mean: float = 100.0, sd: float = 1.0
) -> QuantileFunction:
    """Users whose demand is mean + sd z: the grid of offsets is z itself."""
    shape = (users, metrics, steps)
    offsets = np.broadcast_to(Z.astype(np.float16), (*shape, 21)).copy()
    return QuantileFunction(np.full(shape, mean, np.float32), np.full(shape, sd, np.float32), offsets)


def draw(forecasts: QuantileFunction, dependence: Dependence, **changes: int) -> np.ndarray:
    key = {"tick": 7, "shard": 0, "scenarios": S, "seed": 1} | changes
    return simulate(np, forecasts, dependence, ScenarioKey(b"shop", **key))


MODULES = [np, *([importlib.import_module("cupy")] if importlib.util.find_spec("cupy") else [])]


def host(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_one_users_score_is_standard_normal():
    z = (
        draw(normal_users(1, 1, 1), Dependence(np.array([0.3]), np.eye(1), 0.0), scenarios=65_536)[:, 0, 0]
        - 100
    )
    levels = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    # Monte Carlo error of a level p: sqrt(p (1 - p) / S), at S = 65,536 and p = 0.5 0.002; four of them
    found = (z[:, None] <= ndtri(levels)).mean(0)
    assert np.all(np.abs(found - levels) <= 4 * np.sqrt(levels * (1 - levels) / z.size))
    assert np.abs(z).max() <= Z_MAX + 1e-4


@pytest.mark.parametrize("xp", MODULES)
def test_sum_of_independent_normals_has_their_quantiles(xp: Any):
    # 50 users of N(100, 1): the total is N(5000, sqrt(50)), so q99 = 5000 + 7.07 × 2.326 = 5016.4
    users = normal_users(50, 1, 1)
    users = QuantileFunction(xp.asarray(users.location), xp.asarray(users.scale), xp.asarray(users.offsets))
    key = ScenarioKey(b"shop", tick=7, shard=0, scenarios=65_536, seed=1)
    packed, scale = pack(simulate(xp, users, Dependence.independent(1), key))
    assert packed.dtype == np.float16
    totals = host(simulate(xp, users, Dependence.independent(1), key))[:, 0, 0]
    # float16 rounds to 2⁻¹¹ of the value
    assert unpack(packed, scale)[:, 0, 0] == pytest.approx(totals, rel=2**-11)
    for level in (0.05, 0.5, 0.95, 0.99):
        truth = 5000 + np.sqrt(50) * ndtri(level)
        density = np.exp(-(ndtri(level) ** 2) / 2) / np.sqrt(2 * np.pi * 50)
        error = np.sqrt(level * (1 - level) / totals.size) / density
        assert abs(np.quantile(totals, level) - truth) <= 4 * error


def test_shared_factor_correlates_users_metrics_and_steps_as_stated():
    shared = np.array([0.4, 0.2])
    # two shards of one user each are two users: their factor is the same, their own parts are not
    one = draw(normal_users(1, 2, 2), Dependence(shared, CORRELATION, 0.8), scenarios=32_768)
    two = draw(normal_users(1, 2, 2), Dependence(shared, CORRELATION, 0.8), scenarios=32_768, shard=1)
    within = np.sqrt(0.4 * 0.2) + np.sqrt(0.6 * 0.8)  # a user's own part carries the same correlations
    expected = [
        (one[:, 0, 0], two[:, 0, 0], 0.4),
        (one[:, 0, 1], two[:, 0, 1], 0.2),
        (one[:, 0, 0], two[:, 0, 1], np.sqrt(0.4 * 0.2) * 0.5),
        (one[:, 0, 0], two[:, 1, 0], 0.4 * 0.8),
        (one[:, 0, 0], one[:, 0, 1], within * 0.5),
        (one[:, 0, 0], one[:, 1, 0], 0.8),
        (one[:, 0, 0], one[:, 1, 1], within * 0.5 * 0.8),
    ]
    for a, b, value in expected:
        # error of a correlation: at most 1 / sqrt(16,384 pairs; mirror images add none) = 0.008
        assert correlation(a, b) == pytest.approx(value, abs=0.03)


def test_two_shards_have_the_distribution_of_one():
    dependence = Dependence(np.array([0.3]), np.eye(1), 0.5)
    whole = draw(normal_users(40, 1, 2), dependence, scenarios=32_768)
    parts = [draw(normal_users(20, 1, 2), dependence, scenarios=32_768, shard=i) for i in (0, 1)]
    # variance of the sum of n: n (1 - 0.3) + n² 0.3 = 28 + 480 = 508 for n = 40
    for totals in (whole, parts[0] + parts[1]):
        assert totals.mean() == pytest.approx(4000, abs=0.1)
        assert totals.std(0) == pytest.approx(np.sqrt(508), rel=0.02)
        truth = 4000 + np.sqrt(508) * ndtri([0.9, 0.99])
        assert np.quantile(totals[:, 1, 0], [0.9, 0.99]) == pytest.approx(truth, abs=2.0)


def test_same_arguments_same_bits_and_every_key_counts():
    forecasts, dependence = normal_users(300, 2, 3), Dependence(np.array([0.2, 0.2]), CORRELATION, 0.5)
    first = draw(forecasts, dependence, scenarios=64)
    assert draw(forecasts, dependence, scenarios=64).tobytes() == first.tobytes()
    for changed in ({"tick": 8}, {"shard": 1}, {"seed": 2}):
        assert not np.array_equal(draw(forecasts, dependence, scenarios=64, **changed), first)
    assert stream(np, b"ab", b"c").random() != stream(np, b"a", b"bc").random()


def test_users_without_a_forecast_add_nothing():
    forecasts = normal_users(4, 3, 2)
    forecasts.location[1:, 0] = np.nan  # metric 0: one user left
    forecasts.location[:, 2] = np.nan  # metric 2: none
    demand = draw(forecasts, Dependence.independent(3))
    assert demand.shape == (S, 2, 3)
    assert demand[..., 0].mean() == pytest.approx(100, abs=0.1)
    assert demand[..., 1].mean() == pytest.approx(400, abs=0.2)
    assert not demand[..., 2].any()
    assert not draw(normal_users(0, 3, 2), Dependence.independent(3)).any()


def test_demand_is_never_negative_and_keeps_point_masses():
    # mean 0, so half of the normal is cut to a point mass at zero
    demand = draw(normal_users(1, 1, 1, mean=0.0), Dependence.independent(1))
    assert demand.min() == 0
    assert (demand == 0).mean() == pytest.approx(0.5, abs=0.001)  # mirrored scores: half, up to ties


def test_the_sampler_interpolates_as_the_quantile_function_does():
    forecasts = normal_users(1, 1, 1, mean=5.0, sd=2.0)
    forecasts.offsets[:] = np.sort(stream(np, 3).normal(size=21)).astype(np.float16)
    demand = np.sort(draw(forecasts, Dependence.independent(1), scenarios=32_768)[:, 0, 0])
    levels = np.array([0.01, 0.2, 0.5, 0.8, 0.99])
    assert np.quantile(demand, levels) == pytest.approx(forecasts[0, 0, 0].quantile(levels), abs=0.1)


def test_an_odd_number_of_scenarios_is_refused():
    with pytest.raises(ValueError, match="even"):
        draw(normal_users(1, 1, 1), Dependence.independent(1), scenarios=7)


def test_a_correlation_that_is_not_quite_semidefinite_still_gives_unit_variance():
    estimate = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    root = Dependence(np.zeros(3), estimate, 0.5).root(2)
    assert np.linalg.norm(root, axis=1) == pytest.approx(np.ones(6))


def test_required_holds_jointly_in_just_the_asked_share():
    demand = draw(normal_users(10, 2, 4), Dependence.independent(2))
    window = slice(1, 4)
    curve, alpha = required(demand, 0.95, window, [0, 1])
    held = (demand[:, window] <= curve[window]).all(axis=(1, 2)).mean()
    assert 0.95 <= held < 0.95 + 7 / S  # one rank less in all six cells loses at most six scenarios
    # six independent cells: alpha⁶ = 0.95, alpha = 0.9915
    assert alpha == pytest.approx(0.95 ** (1 / 6), abs=0.003)
    assert curve.shape == (4, 2)
    # with one metric promised: alpha³ = 0.95
    assert required(demand, 0.95, window, [1])[1] == pytest.approx(0.95 ** (1 / 3), abs=0.003)


def test_required_of_a_constant_is_the_constant():
    curve, _ = required(np.full((100, 3, 1), 2.5, np.float32), 0.99, slice(0, 3), [0])
    assert np.array_equal(curve, np.full((3, 1), 2.5))


@given(st.floats(1e-6, 1e9), st.integers(0, 2**32 - 1))
def test_packing_keeps_demand_within_float16(size: float, seed: int):
    demand = (stream(np, seed).random((16, 2, 3)) * size).astype(np.float32)
    demand[:, 0, 0] = 0
    back = unpack(*pack(demand))
    assert np.all(np.abs(back - demand) <= 2**-11 * demand + 6e-8 * demand.max(0))


def test_normal_scores_are_uniform_in_probability():
    u = ndtr(draw(normal_users(1, 1, 1), Dependence.independent(1), scenarios=2**16)[:, 0, 0] - 100)
    counts = np.histogram(u, 16, (0, 1))[0]
    # 65,536 / 16 = 4096 a bin, standard deviation 62 (88 with mirrored pairs); five of them
    assert np.abs(counts - 4096).max() < 5 * 88


def test_the_compiled_loop_has_the_bits_of_the_array_expression():
    rng = np.random.default_rng(3)
    other = SimpleNamespace(
        **{n: getattr(np, n) for n in np.__all__}
    )  # any array module that is not NumPy itself
    deviation = (4 * rng.standard_normal((9, 24, 50)) / Z_STEP).astype(np.float32)  # some beyond both ends
    slope = rng.gamma(1, 1, (9, 24, 20)).astype(np.float32)
    intercept = rng.normal(0, 5, slope.shape).astype(np.float32)  # some demand is below zero
    looped, arrays = rng.random((2, 24, 2, 50)).astype(np.float32)[[0, 0]]
    _add_users(np, deviation, intercept, slope, looped)
    _add_users(other, deviation, intercept, slope, arrays)
    np.testing.assert_array_equal(looped, arrays)


def test_loops_are_compiled_again_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch):
    def without_a_place(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda loop: loop

    monkeypatch.setattr(kernels.numba, "njit", without_a_place)
    found: list[int] = []
    kernels.compiled(found.append)(3)
    assert found == [3]
