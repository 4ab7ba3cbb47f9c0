from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from models import scoring
from models.lstm import BehaviourModel, Network
from models.rivals import persistence_quantiles
from models.scoring import CRPS_LEVELS, PUBLISHED, crps
from tests.unit.models.normal import Normal


def series(ticks: int, users: int, seed: int = 0) -> Any:
    """CPU of independent noise around a level, (tick, user, 5)."""
    values = np.full((ticks, users, 5), np.nan, np.float32)
    values[..., 0] = np.random.default_rng(seed).normal(10, 1, (ticks, users))
    return values


def score(model: Any, values: Any, saturated: Any = None, start: int = 100, **changes: Any) -> scoring.Scores:
    return scoring.evaluate(
        model,
        values,
        np.full((*values.shape[:2], 4), np.nan, np.float32),
        np.zeros(values.shape, bool) if saturated is None else saturated,
        [f"u{i}" for i in range(values.shape[1])],
        first_tick=0,
        tick_s=300,
        score_from=start,
        **changes,
    )


def test_crps_is_twice_the_mean_pinball_loss() -> None:
    # all quantiles 0 and y = 1: the losses are the levels, whose mean is a half
    assert crps(np.zeros((99, 1)), np.ones(1))[0] == pytest.approx(1.0)
    # levels of a uniform on (0, 1) at y = 0.5: E|x - y| - E|x - x'| / 2 = 1/4 - 1/6 = 1/12
    assert crps(CRPS_LEVELS[:, None], np.array([0.5]))[0] == pytest.approx(1 / 12, abs=1e-3)


def test_a_perfect_forecast_is_calibrated() -> None:
    scores = score(Normal(), series(3000, 4))
    (row, *_) = scores.table()
    n = 4 * 2899
    # standard errors with n = 11,600: 0.95 ± 0.002, 0.99 ± 0.0009; three of them
    assert row["coverage_95"] == pytest.approx(0.95, abs=0.006)
    assert row["bound_99"] == pytest.approx(0.99, abs=0.003)
    assert scores.count[:, 0, 0].sum() == n
    # CRPS of N(0,1) is 1/sqrt(pi) = 0.564 (0.559 over the 99 levels); persistence errs by N(0, 2)
    assert (scores.crps[:, 0, 0] / scores.count[:, 0, 0]).mean() == pytest.approx(0.56, abs=0.02)
    assert row["crps_ratio"] == pytest.approx(1 / np.sqrt(2), abs=0.02)
    # slack: E(12.326 - x)+ = 2.33 over a mean of 10
    assert row["slack_99"] == pytest.approx(0.233, abs=0.005)
    summary = scores.summary()
    assert (summary["users"], summary["excluded"]) == (4, 0)
    assert summary["users_covered_92_to_98"] == 1


def test_sharper_or_wider_than_the_truth_shows_in_coverage() -> None:
    values = series(1500, 2)
    values[..., 0] = 10 + 2 * (values[..., 0] - 10)
    row = score(Normal(), values).table()[0]
    assert row["coverage_95"] == pytest.approx(2 * ndtr(1.96 / 2) - 1, abs=0.02)  # 0.673


def test_zero_users_are_excluded_and_counted() -> None:
    values = series(400, 3)
    values[:, 1, 0] = 0
    summary = score(Normal(), values).summary()
    assert (summary["users"], summary["excluded"]) == (2, 1)


def test_censored_targets_are_counted_and_not_scored() -> None:
    values = series(400, 1)
    saturated = np.zeros(values.shape, bool)
    saturated[200:250] = True
    whole, part = score(Normal(), values), score(Normal(), values, saturated)
    assert part.censored[0, 0].tolist() == [50] * 6
    assert (whole.count - part.count)[0, 0].tolist() == [50] * 6


def test_nothing_to_score() -> None:
    assert score(Normal(), series(50, 2), start=60).summary() == {"users": 0, "ticks": 0, "excluded": 2}


def test_blocks_and_seeds_do_not_change_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values = series(600, 2)
    a = score(Normal(), values)
    monkeypatch.setattr(scoring, "BLOCK", 77)
    b = score(Normal(), values)
    np.testing.assert_allclose(a.crps, b.crps, rtol=1e-6)
    np.testing.assert_allclose(a.rival_slack, b.rival_slack, rtol=1e-6)
    assert PUBLISHED == 5


def test_one_pass_of_the_network_is_causal() -> None:
    model = BehaviourModel(Network(), {"model_id": "fresh"})
    values = series(40, 2)
    events, saturated = np.full((40, 2, 4), np.nan, np.float32), np.zeros(values.shape, bool)
    changed = values.copy()
    changed[30:] *= 3
    a, b = (
        list(scoring.forecasts(model, v, events, saturated, first_tick=0, tick_s=300))
        for v in (values, changed)
    )
    for t in range(30):
        np.testing.assert_array_equal(a[t].location, b[t].location)
    assert not np.array_equal(a[30].location, b[30].location, equal_nan=True)


def test_persistence_with_residual_quantiles() -> None:
    values = np.cumsum(np.ones((100, 2), np.float32), axis=0)  # rises by one per tick
    values[:, 1] = np.nan
    out = persistence_quantiles(values, range(50, 60), 3, np.array([0.1, 0.5]), window=40, refresh=10)
    assert out.shape == (2, 10, 2)
    # last value t + 1 plus residuals that are all 3
    np.testing.assert_allclose(out[:, :, 0], np.tile(np.arange(54.0, 64.0), (2, 1)))
    assert np.isnan(out[:, :, 1]).all()


def test_persistence_reads_only_its_past_and_its_window() -> None:
    values = np.random.default_rng(0).normal(50, 1, (300, 1)).astype(np.float32)
    levels = np.array([0.05, 0.5, 0.95])
    changed = values.copy()
    changed[200:] = 0
    changed[:100] = 90
    a, b = (
        persistence_quantiles(v, range(150, 200), 1, levels, window=45, refresh=5) for v in (values, changed)
    )
    np.testing.assert_array_equal(a, b)
    few = persistence_quantiles(values, range(8, 9), 1, levels, window=45, refresh=1)
    assert np.isnan(few).all()  # eight residuals are under twelve


def test_persistence_carries_the_last_value_over_a_gap() -> None:
    values = np.arange(60, dtype=np.float32)[:, None]
    values[50:55] = np.nan
    out = persistence_quantiles(values, range(52, 53), 1, np.array([0.5]), window=60, refresh=1)
    assert out[0, 0, 0] == 49 + 1
