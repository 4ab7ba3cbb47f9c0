from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import ndtr, ndtri

from models.quantile_function import MEAN_WEIGHTS, QuantileFunction, Z

finite = st.floats(-1e4, 1e4, width=32)


@st.composite
def forecasts(draw: st.DrawFn) -> QuantileFunction:
    """Any quantile functions of shape (4,), some with flat parts and many below zero."""
    rises = draw(hnp.arrays(np.float32, (4, 21), elements=st.sampled_from([0.0, 0.0, 0.125, 1.0, 40.0])))
    start = draw(hnp.arrays(np.float32, (4, 1), elements=st.floats(-100, 0, width=16)))
    location = draw(hnp.arrays(np.float32, (4,), elements=st.floats(0, 1e3, width=16)))
    scale = draw(hnp.arrays(np.float32, (4,), elements=st.floats(0.0009765625, 100, width=16)))
    return QuantileFunction(location, scale, (start + np.cumsum(rises, -1)).astype(np.float16))


def normal(location: float, scale: float) -> QuantileFunction:
    return QuantileFunction(
        np.array([location], np.float32), np.array([scale], np.float32), Z.astype(np.float16)[None]
    )


@given(forecasts(), st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=30))
def test_quantiles_are_monotone_and_never_negative(forecast: QuantileFunction, levels: list[float]) -> None:
    values = forecast.at(np.sort(np.array(levels, np.float32))[:, None])
    assert values.shape == (len(levels), 4)
    assert (np.diff(values, axis=0) >= 0).all()
    assert (values >= 0).all()


@given(forecasts(), st.floats(-4, 4, width=32))
def test_scalar_and_array_levels_agree(forecast: QuantileFunction, z: float) -> None:
    np.testing.assert_array_equal(forecast.at(z), forecast.at(np.full(4, z, np.float32)))


@given(forecasts(), hnp.arrays(np.float32, (4,), elements=st.floats(0, 5e3, width=32)))
def test_pit_is_a_distribution_function_and_inverts_the_quantile(forecast: QuantileFunction, y: Any) -> None:
    low, high = forecast.pit(y, 0.0), forecast.pit(y, 1.0)
    assert ((low >= 0) & (low <= high) & (high <= 1)).all()
    inside = (low > ndtr(-3.5)) & (high < ndtr(3.5))
    tolerance = (
        1e-3 * forecast.scale * np.abs(forecast.offsets.astype(np.float32)).max(-1) + 1e-4 * forecast.location
    )
    # between the first and the last level of y, the quantile function is y
    middle = forecast.at(ndtri(np.where(inside, (low + high) / 2, 0.5)))
    assert (np.abs(middle - y)[inside] <= tolerance[inside] + 1e-6).all()


def test_interpolates_between_levels() -> None:
    forecast = normal(10, 2)
    # 10 + 2 * 0.175 half way between the levels 0 and 0.35, float16 of 0.35 is 0.35010
    assert forecast.at(0.175)[0] == pytest.approx(10.35, abs=2e-4)
    assert forecast.at(9.0)[0] == forecast.at(3.5)[0] == 17  # clamped to 3.5
    lo, hi = forecast.interval()
    assert (lo[0], hi[0]) == pytest.approx((10 - 2 * 1.96, 10 + 2 * 1.96), abs=2e-3)
    assert forecast.quantile(np.array([[0.5], [0.975]])).shape == (2, 1)


def test_clamped_at_zero_with_its_point_mass() -> None:
    forecast = normal(1, 1)
    assert forecast.at(-2.0)[0] == 0
    # y = 0 lies on the flat part of all levels up to z = -1
    assert forecast.pit(np.array([0], np.float32), np.array([0.0]))[0] == 0
    assert forecast.pit(np.array([0], np.float32), np.array([1.0]))[0] == pytest.approx(ndtr(-1), abs=1e-3)
    assert forecast.pit(np.array([1], np.float32), 0.3)[0] == pytest.approx(0.5, abs=1e-3)


def test_pit_splits_a_flat_part() -> None:
    offsets = np.where(np.abs(Z) <= 0.71, 0, Z).astype(np.float16)[None]  # point mass from z = -0.7 to 0.7
    forecast = QuantileFunction(np.array([5], np.float32), np.array([1], np.float32), offsets)
    y = np.array([5], np.float32)
    assert forecast.pit(y, 0.0)[0] == pytest.approx(ndtr(-0.7), abs=1e-6)
    assert forecast.pit(y, 1.0)[0] == pytest.approx(ndtr(0.7), abs=1e-6)
    assert forecast.pit(y, 0.25)[0] == pytest.approx(0.75 * ndtr(-0.7) + 0.25 * ndtr(0.7), abs=1e-6)


def test_pit_of_samples_is_uniform() -> None:
    rng = np.random.default_rng(1)
    forecast = QuantileFunction(
        np.full(20_000, 0.5, np.float32),
        np.ones(20_000, np.float32),
        np.tile(Z.astype(np.float16), (20_000, 1)),
    )
    y = forecast.at(rng.standard_normal(20_000))
    u = forecast.pit(y, rng.random(20_000))
    # Kolmogorov-Smirnov at 1 % with n = 20,000: 1.63 / sqrt(n) = 0.0115
    assert np.abs(np.sort(u) - np.arange(20_000) / 20_000).max() < 0.0115


def test_outside_the_grid() -> None:
    forecast = normal(100, 1)
    assert forecast.pit(np.array([50], np.float32), 0.5)[0] == 0
    assert forecast.pit(np.array([150], np.float32), 0.5)[0] == 1
    assert np.isnan(normal(np.nan, 1).pit(np.array([1], np.float32), 0.5)[0])


def test_mean_of_the_grid() -> None:
    assert MEAN_WEIGHTS.sum() == pytest.approx(1, abs=1e-6)
    assert normal(10, 2).mean()[0] == pytest.approx(10, abs=1e-5)
    # a normal clamped at zero has mean mu Phi(mu) + phi(mu): 0.5 * 0.6915 + 0.3521 = 0.6978
    assert normal(0.5, 1).mean()[0] == pytest.approx(0.6978, abs=0.01)


def test_slices_leading_axes() -> None:
    rng = np.random.default_rng(0)
    shape = (3, 5, 6)
    forecast = QuantileFunction(
        rng.random(shape).astype(np.float32),
        np.ones(shape, np.float32),
        np.broadcast_to(Z.astype(np.float16), (*shape, 21)),
    )
    part = forecast[1:, 2]
    assert part.shape == (2, 6)
    np.testing.assert_array_equal(part.at(0.1), forecast.at(0.1)[1:, 2])
    draws = rng.standard_normal((7, *shape)).astype(np.float32)
    np.testing.assert_array_equal(forecast.at(draws)[3], forecast.at(draws[3]))


def test_offsets_of_any_precision_give_the_same_values() -> None:
    half = np.sort(np.random.default_rng(0).normal(0, 3, (5, 2, len(Z))), axis=-1).astype(np.float16)
    location, scale = np.ones((5, 2), np.float32), np.full((5, 2), 2, np.float32)
    forecasts = [QuantileFunction(location, scale, half.astype(kind)) for kind in ("f2", "f4", "f8")]
    for other in forecasts[1:]:
        np.testing.assert_array_equal(other.grid(), forecasts[0].grid())
        np.testing.assert_array_equal(other.at(0.3), forecasts[0].at(0.3))
    np.testing.assert_array_equal(forecasts[0].grid(), 1 + 2 * half.astype(np.float32))
    assert (half == forecasts[0].offsets).all()
