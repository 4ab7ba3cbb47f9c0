from typing import Any

import numpy as np
import pytest

from models.evaluation.forecast_scores import (
    BOUND_LEVELS,
    HELD_LEVELS,
    RELIABILITY,
    Scores,
    geometric_mean,
    matched,
)
from models.metrics import METRICS


def filled(metric: str = "cpu", blocks: int = 2, users: int = 2) -> Scores:
    """Hundred ticks of y = 3 a block and user at each step; CRPS 1 beside 2; 95, 96 and 99 of them held."""
    scores = Scores.zeros([f"u{i}" for i in range(users)], blocks, ["persistence"])
    m = METRICS.index(metric)
    scores.ticks[:] = 100
    scores.count[..., m, :], scores.sum_y[..., m, :] = 100, 300
    for sums, crps, slack in ((scores.model, 100, 30), (scores.rivals["persistence"], 200, 60)):
        sums.crps[..., m, :], sums.covered[..., m, :], sums.inside[..., m, :] = crps, 95, 96
        sums.held[..., m, :] = (100 * HELD_LEVELS)[:, None, None]
        # slack falls by its own size with each e-th part of the misses
        sums.slack[..., m, :] = (-slack * np.log(1 - BOUND_LEVELS))[:, None, None]
    return scores


def test_a_summary_by_hand() -> None:
    summary = filled().summary()
    assert (summary["users"], summary["ticks"], summary["excluded"]) == (2, 200, 0)
    assert summary["crps_ratio"] == {"persistence": pytest.approx(0.5)}
    assert summary["coverage_95_min"] == summary["coverage_95_max"] == pytest.approx(0.95)
    assert summary["inside_95"] == pytest.approx(0.96)
    assert summary["bound_99_min"] == summary["bound_99_max"] == pytest.approx(0.99)
    assert summary["slack_99_ratio"] == summary["slack_99_ratio_max"] == pytest.approx(0.5)
    assert summary["users_within_92_98"] == 1
    assert summary["metrics"] == ["cpu"]
    # days that are equal leave no doubt
    assert summary["intervals_95"]["coverage_95"] == pytest.approx([0.95, 0.95])


def test_the_mean_over_users_is_geometric_then_arithmetic_over_steps() -> None:
    scores = filled()
    scores.model.crps[:, 0, 0, 0] = 800  # ratio 4 beside 0.5: sqrt 2
    assert scores.table()[0]["crps_ratio"]["persistence"] == pytest.approx(np.sqrt(2))
    assert scores.table()[0]["users_worse"]["persistence"] == 0.5
    # of steps 1, 3 and 6
    assert scores.summary()["crps_ratio"]["persistence"] == pytest.approx((np.sqrt(2) + 0.5 + 0.5) / 3)


def test_a_rival_without_error_counts_as_a_thousandth_of_the_users_mean() -> None:
    scores = filled(users=1)
    scores.rivals["persistence"].crps[:] = 0
    # 200 of CRPS over 1e-3 of 600
    assert scores.crps_ratio("persistence")[0, 0, 0, 0] == pytest.approx(200 / 0.6)


def test_users_of_zeros_are_excluded_and_counted() -> None:
    scores = filled(users=3)
    scores.sum_y[:, 1] = 0
    scores.model.crps[:, 1] = 1e6
    summary = scores.summary()
    assert (summary["users"], summary["excluded"], summary["excluded_by_metric"]) == (2, 1, {"cpu": 1})
    assert summary["crps_ratio"]["persistence"] == pytest.approx(0.5)
    assert scores.table()[0]["excluded"] == 1


@pytest.mark.parametrize(
    ("covered", "repeats", "share"), [(91, 0, 0), (99, 0, 0), (99, 96, 1), (98, 0, 1), (91, 96, 0)]
)
def test_users_that_repeat_have_no_upper_limit(covered: int, repeats: int, share: float) -> None:
    scores = filled(users=1)
    scores.model.covered[..., 0, :], scores.repeats[..., 0, :] = covered, repeats
    assert scores.summary()["users_within_92_98"] == share


def test_slack_is_compared_at_the_same_realised_rate() -> None:
    scores = filled()
    # the model holds too much: its nominal 97 % is held in 99 % of ticks; the rival too little: at 99.5 %
    mine, theirs = scores.model, scores.rivals["persistence"]
    mine.held[..., 0, :] = 100 * (1 - (1 - HELD_LEVELS) / 3)[:, None, None]
    theirs.held[..., 0, :] = 100 * (1 - np.minimum(2 * (1 - HELD_LEVELS), 1))[:, None, None]
    row = scores.table()[0]
    assert row["slack_99"] == pytest.approx(0.1 * -np.log(0.01))
    assert row["slack_99_matched"] == pytest.approx(0.1 * -np.log(0.03), rel=1e-3)
    assert row["rivals"]["persistence"]["slack_99_matched"] == pytest.approx(0.2 * -np.log(0.005), rel=1e-3)
    assert row["slack_ratio"]["persistence"] == pytest.approx(0.5 * np.log(0.03) / np.log(0.005), rel=1e-3)


def test_what_no_level_holds_is_not_matched() -> None:
    scores = filled()
    scores.model.held[..., 0, :] = 90
    row, summary = scores.table()[0], scores.summary()
    assert (row["slack_99_matched"], row["slack_ratio"]["persistence"]) == (None, None)
    assert (summary["slack_99_ratio"], summary["slack_99_unmatched"]) == (None, 3)


def test_matching_is_linear_in_the_log_of_the_misses() -> None:
    held, slack = np.array([[0.9, 0.999]]), np.array([[1.0, 3.0]])
    assert matched(held, slack)[0] == pytest.approx(2)  # 1 % lies half way between 10 % and 0.1 %
    assert matched(held, slack, 0.9)[0] == 1
    assert np.isnan(matched(held, slack, 0.8)[0])


def test_days_that_differ_widen_the_interval() -> None:
    scores = filled(blocks=20)
    scores.model.covered[::2] -= 4
    low, high = scores.summary()["intervals_95"]["coverage_95"]
    # the standard error of the mean of 20 days, half of them at 91 and half at 95: 2 / sqrt(20) = 0.45
    assert low == pytest.approx(0.93 - 1.96 * 0.0045, abs=0.003)
    assert high == pytest.approx(0.93 + 1.96 * 0.0045, abs=0.003)


def test_reliability_is_of_all_and_of_each_user() -> None:
    scores = filled()
    scores.model.held[:, :, 1] = 0
    whole, first, second = scores.reliability(0, 0)
    np.testing.assert_allclose(first, RELIABILITY, rtol=1e-6)
    np.testing.assert_allclose(whole, RELIABILITY / 2, rtol=1e-6)
    assert not second.any()


def test_without_main_metrics_the_summary_is_of_those_there_are() -> None:
    assert filled("requests").summary()["metrics"] == ["requests"]


def test_one_day_has_no_interval() -> None:
    assert filled(blocks=1).summary()["intervals_95"] == {}


def test_geometric_mean_leaves_out_what_is_not_there() -> None:
    ratio: Any = np.array([[2.0, np.nan, 8.0], [np.nan] * 3])
    assert geometric_mean(ratio, 1)[0] == pytest.approx(4)
    assert np.isnan(geometric_mean(ratio, 1)[1])
