"""Bounds of demand by what it has reached."""

import numpy as np
import pytest

from models.demand import extremes
from models.metrics import DAY_S, METRICS

TICK_S = 300
DAY = DAY_S // TICK_S
LIKELY = np.array([0.5, 0.01])
INDEX = 0.4


def after(days: list[float], first_day: int = 100) -> extremes.State:
    """Two ticks a day of one metric, the smaller one last; 0 is a day without."""
    state = extremes.initial_state()
    for day, largest in enumerate(days, first_day):
        for hour, share in ((3, 1.0), (9, 0.5)):
            if largest:
                demand = np.array([share * largest, *[np.nan] * (len(METRICS) - 1)])
                state = extremes.observe(state, demand, day * DAY + hour * 12, TICK_S)
    return state


def bound(state: extremes.State) -> np.ndarray:
    return extremes.most(state, LIKELY, TICK_S, INDEX)[0]


def test_the_largest_of_a_week_and_a_tenth():
    assert bound(after([10.0, 9.0, 10.0, 8.0])) == pytest.approx([11.0, 11.0])
    assert bound(after([30.0, *[10.0] * 8])) == pytest.approx([11.0, 11.0])  # eight days ago
    assert bound(after([30.0, *[10.0] * 7])) == pytest.approx([33.0, 33.0])


def test_growth_goes_on_as_it_did_within_a_week():
    assert bound(after([10.0, 10.0, 15.0])) == pytest.approx([22.5, 22.5])
    assert bound(after([10.0, 10.0, 15.0, *[15.0] * 7])) == pytest.approx([22.5, 22.5])
    assert bound(after([10.0, 10.0, 15.0, *[15.0] * 8])) == pytest.approx([16.5, 16.5])


@pytest.mark.parametrize("days", [[], [10.0], [10.0, *[0.0] * 9, 10.0]])
def test_the_first_day_knows_no_bound(days: list[float]):
    assert np.isinf(bound(after(days))).all()


def test_what_is_not_measured_has_no_bound():
    assert np.isinf(extremes.most(after([10.0, 10.0]), LIKELY, TICK_S, INDEX)[1:]).all()


def test_what_is_rarer_than_a_tick_of_all_lies_beyond_the_largest():
    """A Pareto tail of index 0.4: of 288 ticks the largest is exceeded with 1/288, and p times rarer p**0.4 farther."""
    rare = np.array([1 / DAY, 1 / DAY / 10, 0.0])
    found = extremes.most(after([10.0, 10.0]), rare, TICK_S, INDEX)[0]
    assert found[:2] == pytest.approx(11 * np.array([1, 10**INDEX]))
    assert np.isfinite(found).all()


def test_a_late_tick_counts_as_of_today():
    state = after([10.0, 10.0])
    late = extremes.observe(state, np.full(len(METRICS), 20.0), 100 * DAY, TICK_S)
    assert late["day"] == state["day"]
    assert late["largest"][-1, 0] == 20


MINUTE_S = 60
PROBABILITIES = np.array([0.5, 0.02, 0.01, 0.001, 1e-5])


def minutes(demand: list[float], first: int = 1_000) -> extremes.State:
    """State after consecutive minutes of one metric; NaN is not measured."""
    state = extremes.initial_state()
    for tick, value in enumerate(demand, first):
        usage = np.array([value, *[np.nan] * (len(METRICS) - 1)])
        state = extremes.observe(state, usage, tick, MINUTE_S)
    return state


def horizon(state: extremes.State, tick_s: int = MINUTE_S) -> np.ndarray:
    return extremes.horizon_most(state, PROBABILITIES, tick_s)[0]


def noise(n: int, share: float = 0.012, seed: int = 3) -> np.ndarray:
    return 1 + share * np.random.default_rng(seed).standard_normal(n)


def test_of_nothing_there_is_no_bound():
    assert np.isinf(horizon(extremes.initial_state())).all()
    assert np.isinf(horizon(minutes([0.0] * 9))).all()
    assert np.isinf(horizon(minutes([np.nan] * 9))).all()


def test_the_bound_is_the_quantile_of_the_stated_law():
    """Ten slots of which the three largest are 1.1 of the next: x(p) = s (r / p - 1), r = 6 / 16."""
    state = minutes([10.0] * 7 + [11.0] * 3)
    scale = (extremes.SCALE_WEIGHT * extremes.SCALE + 3 * np.log(1.1)) / (extremes.SCALE_WEIGHT + 3)
    excess = scale * (6 / 16 / np.array([0.02, 0.02, 0.01, 0.001, 1e-5]) - 1)
    assert horizon(state) == pytest.approx(11 * np.exp(np.minimum(excess, extremes.EXCESS_LIMIT)))


def test_a_steady_app_is_bounded_within_half_an_hour_and_one_that_alternates_too():
    assert horizon(minutes((6 * noise(30)).tolist()))[2] < 8.5
    assert horizon(minutes((6 * noise(60)).tolist()))[2] < 7
    flap = np.where(np.arange(60) % 2, 12, 6) * noise(60)
    assert horizon(minutes(flap.tolist()))[2] < 14


def test_an_app_that_bursts_or_grows_is_not_bounded():
    bursts = [*[1.0] * 20, 4.0, *[1.0] * 15, 30.0, *[1.0] * 10]
    assert horizon(minutes(bursts))[2] > 100
    growth = (1.3 ** np.arange(20)).tolist()  # within the next horizon 1.3 to the 6th, 4.8
    assert horizon(minutes(growth))[2] > 4.8 * growth[-1]


def test_a_first_tick_bounds_nothing_that_a_forecast_says():
    assert horizon(minutes([10.0]))[2] > 100


@pytest.mark.parametrize("tick_s", [1, 10, 30])
def test_short_ticks_count_as_slots_of_a_sixth_of_the_horizon(tick_s: int):
    """A minute of noise every tick: five ticks of ten seconds are one slot, whose largest counts."""
    state = extremes.initial_state()
    level = (6 * noise(1200 // tick_s)).tolist()
    for tick, value in enumerate(level, 10**6 * 300):
        state = extremes.observe(state, np.full(len(METRICS), value), tick, tick_s)
    assert np.isfinite(state["recent"][:, 0]).sum() == {1: 24, 10: 24, 30: 20}[tick_s]
    assert max(level) < horizon(state, tick_s)[2] < 12


def test_after_a_day_the_days_themselves_bound_and_not_at_the_first_midnight():
    """What began five minutes before midnight knows a few minutes, not a day."""
    midnight = 30 * DAY_S // MINUTE_S
    state = minutes([10.0] * 10, midnight - 5)
    assert np.isinf(extremes.most(state, LIKELY, MINUTE_S, INDEX)[0]).all()
    assert np.isfinite(horizon(state)).all()
    for tick in range(midnight + 5, midnight + 1436):
        state = extremes.observe(state, np.full(len(METRICS), 10.0), tick, MINUTE_S)
    assert extremes.most(state, LIKELY, MINUTE_S, INDEX)[0] == pytest.approx([11.0, 11.0])
    assert np.isinf(horizon(state)).all()


def test_an_explicit_zero_falls_within_a_horizon_to_nothing():
    state, before = minutes((6 * noise(15)).tolist()), np.inf
    for tick in range(1_015, 1_030):
        state = extremes.observe(state, np.zeros(len(METRICS)), tick, MINUTE_S)
        most = horizon(state)
        assert (most == most[0]).all()
        assert most[0] < before or most[0] == 0
        before = most[0]
    assert before == 0
    silent = extremes.observe(state, np.full(len(METRICS), np.nan), 1_030, MINUTE_S)
    assert (horizon(silent) > 0).all(), "what was not heard is not zero"


def test_an_app_that_came_back_from_zero_may_come_back():
    state = minutes([*(6 * noise(15)).tolist(), 0.0, 6.0, 0.0, 0.0])
    assert (horizon(state) > 6).all()


def test_zeros_before_the_first_demand_are_no_return():
    assert horizon(minutes([0.0, 0.0, *(6 * noise(15)).tolist(), *[0.0] * 6]))[0] == 0
