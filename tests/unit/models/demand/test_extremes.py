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
