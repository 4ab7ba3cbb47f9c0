import numpy as np
import pytest

from models.evaluation.policy_outcomes import (
    Outcomes,
    at_rate,
    compared,
    nearest,
    relative_difference,
    weights,
)


def outcomes() -> Outcomes:
    """One app, four ticks of two days, two lanes: capacities of 2 and 4."""
    demand = np.array([[1.0], [3.0], [3.5], [2.0]])
    ready = np.tile([2.0, 4.0], (4, 1, 1))
    return Outcomes(
        demand, np.ones((4, 1), bool), np.array([0, 0, 1, 1]), ready, ready, np.tile([1.0, 3.0], (4, 1, 1))
    )


def test_figures_of_a_lane() -> None:
    short, ample = outcomes().lanes()
    # misses at 3 and 3.5: half of the ticks, one after the other, 1 + 1.5 of 9.5 unserved; spare (2-1) and (2-2)
    assert (short["hit_rate"], short["misses"], short["longest_run"], short["worst_shortfall"]) == (
        0.5,
        2,
        2,
        1.5,
    )
    assert short["unserved"] == pytest.approx(2.5 / 9.5)
    assert short["slack"] == pytest.approx(1 / 9.5)
    assert short["miss_after_miss"] == 0.5
    assert (ample["hit_rate"], ample["cost"], ample["unserved"]) == (1.0, 12.0, 0.0)


def test_what_was_not_measured_or_not_scored_counts_nowhere() -> None:
    all_ = outcomes()
    scored = np.array([[True], [False], [True], [True]])
    some = Outcomes(all_.demand, scored, all_.day, all_.ready, all_.asked, all_.cost)
    assert [row["app_ticks"] for row in some.lanes()] == [3, 3]
    assert some.lanes()[0]["misses"] == 1


def test_cost_at_a_rate_is_read_between_settings() -> None:
    rng = np.random.default_rng(0)
    demand = rng.random((1000, 1))
    lanes = np.array([0.9, 0.99, 0.999, 2.0])
    ready = np.tile(lanes, (1000, 1, 1))
    cost = ready.copy()
    cost[..., 3] = 9.0
    day = np.arange(1000) // 100
    all_ = Outcomes(demand, np.ones((1000, 1), bool), day, ready, ready, cost)
    hit = [row["hit_rate"] for row in all_.lanes()]
    spent, _ = at_rate(all_, range(4), 0.95, weights(10, 0))
    # linear in the log of the misses between 0.9 and 0.99
    share = (np.log(1 - hit[0]) - np.log(0.05)) / (np.log(1 - hit[0]) - np.log(1 - hit[1]))
    assert spent[0] == pytest.approx(900 + 90 * share)
    assert np.isnan(at_rate(all_, [1], 0.95, weights(10, 0))[0][0])


def test_what_is_spent_where_nothing_is_scored_is_apart() -> None:
    all_ = outcomes()
    some = Outcomes(
        all_.demand, np.array([[True], [False], [True], [True]]), all_.day, all_.ready, all_.asked, all_.cost
    )
    row = some.lanes()[1]
    assert (row["cost"], row["cost_scored"]) == (12.0, 9.0)
    assert at_rate(some, [0, 1], 1 - 1 / 3, weights(2, 0))[0][0] == pytest.approx(
        3.0
    )  # the short lane's 3 × 1
    assert some.by_day[1].tolist() == [[1.0, 3.0], [2.0, 6.0]]


def test_a_setting_that_is_beaten_is_left_out() -> None:
    all_ = outcomes()
    worse = np.concatenate(
        [all_.cost, np.full((4, 1, 1), 5.0)], axis=-1
    )  # as the short lane, dearer than the ample
    ready = np.concatenate([all_.ready, all_.ready[..., :1]], axis=-1)
    more = Outcomes(all_.demand, all_.scored, all_.day, ready, ready, worse)
    both = [at_rate(of, range(n), 0.9, weights(2, 0))[0][0] for of, n in ((all_, 2), (more, 3))]
    assert both[0] == both[1]


def test_the_lane_next_to_a_rate() -> None:
    """Of 1,000 ticks lanes miss 100, 12, 9 and 9: 12 and 9 are about as far from 10, the cheaper of the nines is it."""
    demand = np.linspace(0, 1, 1000)[:, None]
    ready = np.tile([0.9, 0.988, 0.991, 0.991], (1000, 1, 1))
    cost = np.tile([1.0, 2.0, 4.0, 3.0], (1000, 1, 1))
    all_ = Outcomes(demand, np.ones((1000, 1), bool), np.zeros(1000, int), ready, ready, cost)
    assert nearest(all_, range(4), 0.99) == 3
    assert nearest(all_, range(4), 0.9) == 0


def test_what_a_lane_has_more_is_told_by_when_it_has_it() -> None:
    """A peak at 10 of 40 ticks, an hour of four after it; the first lane has more there, and where demand is low."""
    demand = np.where(np.arange(40) % 2, 2.0, 1.0)[:, None]
    demand[10] = 9.0
    one, other = np.full((2, 40, 1), 3.0)
    one[10:14] += 5
    one[demand == 1] += 1  # 20 even ticks, but the tenth is the peak, and the twelfth is of the hour after it
    ready = np.stack([one, other], axis=-1)
    scored = np.ones((40, 1), bool)
    scored[39] = False
    demand[39] = np.nan
    all_ = Outcomes(demand, scored, np.zeros(40, int), ready, ready, 0.5 * ready)
    found = compared(all_, 0, 1, 4)
    both = np.tile(ready, (1, 2, 1))  # beside it an app of which nothing is scored
    beside = Outcomes(np.tile(demand, 2), scored & [True, False], np.zeros(40, int), both, both, 0.5 * both)
    assert compared(beside, 0, 1, 4) == found
    assert found["when"] == pytest.approx({"after a peak": 21 / 39, "below the median": 18 / 39, "else": 0.0})
    assert found["one"]["ready"] - found["other"]["ready"] == pytest.approx(1.0)
    assert (
        found["one"]["replica_hour"] == found["other"]["replica_hour"] == pytest.approx(2.0)
    )  # four ticks an hour


def test_a_relative_difference_is_a_share_of_a_reference_above_zero():
    assert relative_difference(1.2, 1.0) == pytest.approx(0.2)
    assert relative_difference(1.0, 4.0) == -0.75
    assert np.isnan(relative_difference(1.0, 0.0))
    assert np.isnan(relative_difference(np.nan, 1.0))
