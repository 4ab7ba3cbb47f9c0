from dataclasses import replace

import numpy as np
import pytest

from models.evaluation.day_bootstrap import by_day, figures, stated
from models.evaluation.policy_outcomes import Outcomes

# two days of three ticks, one app of demand 4, one lane; ready falls short in ticks 1, 2, 3 (across midnight)
OUTCOMES = Outcomes(
    demand=np.full((6, 1), 4.0),
    scored=np.ones((6, 1), bool),
    day=np.array([0, 0, 0, 1, 1, 1]),
    ready=np.array([5.0, 3.0, 2.0, 3.5, 4.0, 8.0])[:, None, None],
    asked=np.array([5.0, 5.0, 4.0, 4.0, 8.0, 8.0])[:, None, None],
    cost=np.full((6, 1, 1), 0.5),
)


def test_sums_of_days_and_what_is_largest_of_them() -> None:
    spent = {"SPOT": np.full((6, 1), 0.125)}
    known = np.ones((6, 1), bool)
    kept = np.array([True, True, False, True, True, True])[:, None]
    days = by_day(OUTCOMES, 0, tiers=spent, promise=(known, kept))
    assert days["misses"].tolist() == [2, 1]
    assert days["app_ticks"].tolist() == [3, 3]
    assert days["short"].tolist() == [1 + 2, 0.5]
    assert days["spare"].tolist() == [1, 4]
    assert days["actions"].tolist() == [1, 1]
    assert days["worst_shortfall"].tolist() == [2, 0.5]
    assert days["longest_run"].tolist() == [2, 3]  # the run began the day before
    assert days["cost_spot"].tolist() == [0.375, 0.375]

    # the days as they were, then the first day twice, then the second
    got = figures(days, np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    assert got["hit_rate"].tolist() == [0.5, 1 - 2 / 3, 1 - 1 / 3]
    assert got["unserved"].tolist() == [3.5 / 24, 6 / 24, 1 / 24]
    assert got["worst_shortfall"].tolist() == [2, 2, 0.5]
    assert got["longest_run"].tolist() == [3, 2, 3]
    assert got["cost"].tolist() == [3, 3, 3]
    assert got["promise"].tolist() == pytest.approx([5 / 6, 2 / 3, 1])
    assert stated(got["worst_shortfall"]) == {
        "value": 2,
        "low": pytest.approx(0.5375),
        "high": pytest.approx(1.9625),
    }


def test_nothing_to_count_is_none() -> None:
    none = replace(OUTCOMES, scored=np.zeros((6, 1), bool))
    got = figures(by_day(none, 0), np.ones((3, 2)))
    assert stated(got["hit_rate"]) == {"value": None, "low": None, "high": None}
    assert stated(got["cost"])["value"] == 3


def test_a_backlog_is_carried_over() -> None:
    # lacking 1 in tick 1: 5 are due in tick 2, of which 2 come: 3 + 4 = 7 in tick 3, of which 3.5: 7.5, then 7.5
    carried = replace(OUTCOMES, carry=True)
    assert carried.due[:, 0, 0].tolist() == [4, 4, 5, 7, 7.5, 7.5]
    assert carried.missed[:, 0, 0].tolist() == [False, True, True, True, True, False]
    assert by_day(carried, 0)["spare"].tolist() == [1, 0.5]
    assert OUTCOMES.missed.sum() == 3
    gap = replace(carried, demand=np.array([[4.0], [4.0], [np.nan], [4.0], [4.0], [4.0]]))
    assert np.isnan(gap.due[2, 0, 0])
    assert gap.due[3, 0, 0] == 5  # what was lacking before the gap still is
