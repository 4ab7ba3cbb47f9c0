import numpy as np
import pytest

from models.evaluation.promise import Promise, groupings, totals


def test_groupings_are_seeded_and_of_each_size_that_there_are_users_for() -> None:
    made = groupings(30, 3, seed=4)
    assert [len(users) for users in made] == [10, 10, 10, 25, 25, 25, 30]
    assert all(len(set(users.tolist())) == len(users) for users in made)
    assert all(np.array_equal(a, b) for a, b in zip(made, groupings(30, 3, seed=4), strict=True))


def test_totals_leave_out_who_is_absent_and_are_absent_where_nobody_is() -> None:
    values = np.array([[[1.0], [np.nan], [4.0]], [[np.nan], [np.nan], [8.0]]], np.float32)
    sums = totals(values, [np.array([0, 1]), np.array([1, 2])])
    assert np.array_equal(sums[..., 0], [[1, 4], [np.nan, 8]], equal_nan=True)


def test_the_table_counts_misses_of_known_decisions_and_resamples_days_whole() -> None:
    kept = np.ones((40, 2, 3), bool)
    kept[:10, 0, 0] = False  # the first day's, of the first app, at 95 %
    known = np.ones((40, 2), bool)
    known[20:, 1] = False
    promise = Promise(kept, known, np.repeat(np.arange(4), 10), np.array([10, 25]))
    row = promise.table()[0]
    # 40 + 20 decisions, 10 missed, 3 allowed
    assert (row["decisions"], row["misses"]) == (60, 10)
    assert row["allowed"] == pytest.approx(3)
    assert row["kept"] == pytest.approx(1 - 10 / 60)
    assert row["kept_by_users"] == {"10": pytest.approx(0.75), "25": 1.0}
    low, high = row["interval_95"]
    assert high == 1.0  # of four days, the first is drawn not at all in (3/4)⁴ = 32 %
    assert low < 0.75
    assert promise.table()[1]["kept"] == 1.0
