import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.behaviour.features import clock
from models.metrics import horizon_steps, is_saturated, steps_of


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


def at(second: int, tick_s: int) -> Any:
    length = np.array([tick_s])
    return clock(np.array([second // tick_s]), length, steps_of(length))


def test_slots_of_day_and_hour() -> None:
    now = at(86_400 * 3 + 5 * 3_600 + 1_500, 300)  # 05:25 and 5, 10, .. 30 minutes ahead
    assert now.daily[0].tolist() == [32, 33, 33, 34, 34, 35, 35]
    assert now.hourly[0].tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert at(3_600 + 58 * 60, 60).hourly[0].tolist() == [
        58,
        59,
        0,
        1,
        2,
        3,
        4,
    ]  # minutes, where a tick is shorter
    late = at(86_400 - 600, 600)
    assert late.daily[0, :2].tolist() == [143, 0]
    assert late.hourly[0, :2].tolist() == [10, 0]


def test_time_repeats_after_a_week_and_knows_the_tick_length() -> None:
    a, b = at(1_000_200, 300), at(1_000_200 + 7 * 86_400, 300)
    np.testing.assert_allclose(a.time, b.time, atol=1e-6)
    assert a.time.shape == (1, 9)
    assert a.time[0, 8] == 0  # log(300 / 300)
    assert at(0, 300).time[0, :2].tolist() == [0, 1]  # midnight: sin 0, cos 0


def test_rates_follow_the_tick_length() -> None:
    names = (
        "day",
        "lately",
        "minute",
        "daily",
        "hourly",
        "decay",
        "codes",
        "take_daily",
        "take_hourly",
        "push",
    )

    def rates(second: int, tick_s: int) -> dict[str, float]:
        return dict(zip(names, at(second, tick_s).rate[0].tolist(), strict=True))

    five, one, ten = rates(0, 300), rates(240, 60), rates(50, 10)
    assert (five["lately"], five["minute"], one["minute"]) == (1, 1, 1)  # a tick as long is itself the mean
    assert one["lately"] == pytest.approx(0.2)
    assert ten["minute"] == pytest.approx(1 / 6)
    assert five["decay"] == pytest.approx(0.5 ** (300 / (7 * 86_400)))
    assert (five["codes"], one["codes"]) == (5_000, 20)
    assert (five["take_daily"], five["take_hourly"]) == (1, 1)
    assert (one["take_daily"], one["take_hourly"]) == (
        1,
        1,
    )  # the tick ends a slot of five minutes, and a minute
    assert (rates(180, 60)["take_daily"], rates(180, 60)["take_hourly"]) == (0, 1)
    assert (ten["take_daily"], ten["take_hourly"], rates(40, 10)["take_hourly"]) == (0, 1, 0)


def test_arrays_alone_do_not_load_tensorflow() -> None:
    code = "import sys, models.behaviour.features, models.quantile_function; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
