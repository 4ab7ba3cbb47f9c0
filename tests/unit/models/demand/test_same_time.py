"""The expert "same time of the last 14 days": what it keeps, and its quantiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from models.demand import same_time
from models.demand.same_time import ABSENT, DAYS, initial_state, observe, packed, quantiles, slots, unpacked
from models.metrics import DAY_S, METRICS, horizon_steps
from models.quantile_function import LEVELS, Z

CPU = METRICS.index("cpu")
HOUR = 3600
TICKS_A_DAY = DAY_S // HOUR


def usage(cpu: float) -> np.ndarray:
    return np.array([cpu if metric == "cpu" else np.nan for metric in METRICS])


def kept(values: dict[int, float], tick_s: int = HOUR) -> same_time.State:
    state = initial_state(tick_s)
    for tick in sorted(values):
        state = observe(state, usage(values[tick]), tick, tick_s)
    return state


def of_cpu(state: same_time.State, tick: int, tick_s: int = HOUR) -> np.ndarray:
    return quantiles(state, tick, horizon_steps(tick_s), tick_s)[CPU]


@given(st.lists(st.floats(0, 2.0**49), min_size=1, max_size=50))
def test_codes_rise_with_the_values_and_err_by_a_2048th(values: list[float]) -> None:
    given_values = np.sort(np.array(values))
    codes = packed(given_values)
    assert (np.diff(codes.astype(int)) >= 0).all()
    read = unpacked(codes)
    assert read == pytest.approx(given_values, rel=2**-11, abs=2**-14)
    assert (packed(read) == codes).all()


def test_codes_of_what_is_absent_and_of_what_is_too_large() -> None:
    codes = packed(np.array([np.nan, 0.0, 1e30, 1.0]))
    assert codes[0] == ABSENT
    read = unpacked(codes)
    assert np.isnan(read[0])
    assert read[1:].tolist() == [0.0, unpacked(np.array([ABSENT - 1], np.uint16))[0], 1.0]


@settings(max_examples=20)
@given(
    st.integers(DAYS * TICKS_A_DAY, 40 * TICKS_A_DAY),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
)
def test_quantiles_are_those_of_the_values_at_the_same_time(now: int, seed: int, absent: float) -> None:
    """Against the definition, written out: 14 days and their neighbours, without what was not measured."""
    rng = np.random.default_rng(seed)
    ticks = range(max(0, now - 20 * TICKS_A_DAY), now + 1)
    values = {t: np.nan if rng.random() < absent else float(rng.integers(0, 1000)) for t in ticks}
    expert = of_cpu(kept(values), now)
    for k, step in enumerate(horizon_steps(HOUR)):
        days = [
            [values.get(now + step - d * TICKS_A_DAY + j, np.nan) for j in (-1, 0, 1)] for d in range(1, 15)
        ]
        known = [[v for v in day if not np.isnan(v)] for day in days]
        if sum(bool(day) for day in known) < 3:
            assert np.isnan(expert[k]).all()
            continue
        rising = np.sort(np.concatenate(known))
        levels = (np.arange(len(rising)) + 0.5) / len(rising)
        # quantiles of whole numbers below 1,024 are kept as they are
        assert expert[k] == pytest.approx(np.interp(ndtr(Z.astype(float)), levels, rising), rel=1e-6)


@settings(max_examples=20)
@given(st.sampled_from([7, 10, 60, 90, 300, 1800]), st.integers(0, 10**6))
def test_a_schedule_is_known_at_its_time_and_only_then(tick_s: int, begin: int) -> None:
    """A job of the same minutes of each day: its level at its own time, at every tick length."""
    state = initial_state(tick_s)
    day, each = DAY_S / tick_s, same_time.bin_ticks(tick_s)
    job = begin + np.rint(np.arange(16) * day).astype(int)
    wide = 3 * each  # a neighbour, its other ticks, and the rounding of a day to bins
    for at in job[:15]:
        for tick in range(at - wide - each, at + wide + each + 1):
            state = observe(state, usage(9.0 if abs(tick - at) <= wide else 1.0), int(tick), tick_s)
    assert (quantiles(state, int(job[15]) - 1, (1,), tick_s)[CPU] == 9).all()
    assert np.isnan(quantiles(state, int(job[15] - day / 2), (1,), tick_s)[CPU]).all()  # nothing was measured


def test_days_that_were_not_measured_are_left_out_and_old_ones_forgotten() -> None:
    state = kept({d * TICKS_A_DAY: float(d) for d in range(1, 4)})
    at = 4 * TICKS_A_DAY - 1
    assert np.isfinite(of_cpu(state, at)[0]).all()
    assert np.isnan(of_cpu(kept({TICKS_A_DAY: 1.0, 2 * TICKS_A_DAY: 2.0}), at)).all()  # two days are too few
    later = (3 + DAYS) * TICKS_A_DAY
    assert np.isnan(of_cpu(observe(state, usage(5.0), later, HOUR), later + TICKS_A_DAY - 1)[0]).all()
    assert np.isnan(quantiles(state, at, horizon_steps(HOUR), HOUR)[1:]).all()  # metrics never reported


def test_a_silence_longer_than_the_ring_leaves_nothing_of_before() -> None:
    values = dict.fromkeys(range(15 * TICKS_A_DAY), 7.0)
    state = observe(kept(values), usage(1.0), 100 * TICKS_A_DAY, HOUR)
    assert np.count_nonzero(state["usage"] != ABSENT) == 1


def test_a_tick_that_comes_again_or_too_late_changes_nothing() -> None:
    state = kept({5: 1.0, 6: 2.0})
    again = observe(observe(state, usage(9.0), 6, HOUR), usage(9.0), 5, HOUR)
    assert again["usage"].tolist() == state["usage"].tolist()
    anew = observe(state, usage(9.0), 60, 300)
    assert (int(anew["tick_s"][0]), anew["usage"].shape) == (300, (1, slots(300)))


@pytest.mark.parametrize(("tick_s", "each"), [(10, 40_324), (60, 40_324), (300, 8_068)])
def test_a_metric_needs_the_bytes_that_are_stated(tick_s: int, each: int) -> None:
    assert observe(initial_state(tick_s), np.ones(len(METRICS)), 0, tick_s)["usage"].nbytes == 5 * each


def test_of_a_bin_of_several_ticks_one_is_kept_and_its_place_moves_with_the_day() -> None:
    state, day = initial_state(10), DAY_S // 10
    for tick in range(12 * day, 26 * day):
        if tick % day < 18:
            state = observe(state, usage(float(tick % 6 + 1)), tick, 10)
    values = unpacked(np.sort(state["usage"][state["usage"] != ABSENT]))
    assert np.unique(values).tolist() == [1, 2, 3, 4, 5, 6]
    assert len(values) == 3 * DAYS
    assert quantiles(state, 26 * day + 5, horizon_steps(10), 10)[CPU].shape == (6, LEVELS)
