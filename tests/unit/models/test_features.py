import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features import calendar, horizon_steps, is_saturated, slot


@pytest.mark.parametrize(
    ("tick_s", "steps"),
    [
        (10, (1, 3, 6, 12, 18, 30)),
        (1, (1, 30, 60, 120, 180, 300)),
        (30, (1, 2, 3, 4, 6, 10)),
        (60, (1, 2, 3, 4, 5, 6)),
        (3600, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_horizon_of_the_contract(tick_s: int, steps: tuple[int, ...]) -> None:
    assert horizon_steps(tick_s) == steps


@given(st.integers(1, 90_000))
def test_horizon_increases_and_reaches_five_minutes(tick_s: int) -> None:
    steps = horizon_steps(tick_s)
    assert len(steps) == 6
    assert steps[0] == 1
    assert all(a < b for a, b in pairwise(steps))
    assert steps[-1] * tick_s >= 300


def test_a_tick_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        horizon_steps(0)


def test_saturated_from_98_percent_of_the_limit() -> None:
    values = np.array([0.97, 0.98, 1.0, np.nan, 5.0], np.float64)
    limits = np.array([1.0, 1.0, 1.0, 1.0, np.nan], np.float64)
    assert is_saturated(values, limits).tolist() == [False, True, True, False, False]


def test_slot_is_the_half_hour_of_the_day() -> None:
    assert slot(86_400 * 3 + 5 * 3_600 + 1_799) == 10
    assert slot(np.array([86_399, 86_400])).tolist() == [47, 0]


def test_calendar_repeats_after_a_week_and_knows_the_tick_length() -> None:
    a = calendar(np.array([1_000_000]), np.array([300]))
    b = calendar(np.array([1_000_000 + 7 * 86_400]), np.array([300]))
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert a.shape == (1, 7)
    assert a[0, 6] == 0  # log(300 / 300)
    assert calendar(np.array([0]), np.array([300]))[0, :2].tolist() == [0, 1]  # midnight: sin 0, cos 0


def test_arrays_alone_do_not_load_tensorflow() -> None:
    code = "import sys, models.features, models.distribution; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
