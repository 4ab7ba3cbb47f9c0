from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from models.behaviour import causal_pass
from models.behaviour.lstm import BehaviourModel, Network
from models.evaluation import forecast_pass
from models.evaluation.forecast_pass import crps
from models.evaluation.forecast_scores import CRPS_LEVELS, LEVELS
from models.evaluation.trace_window import TraceWindow
from models.quantile_function import QuantileFunction
from tests.unit.models.normal import Normal


def series(ticks: int, users: int, seed: int = 0) -> Any:
    """CPU of independent noise around a level, (tick, user, 5)."""
    values = np.full((ticks, users, 5), np.nan, np.float32)
    values[..., 0] = np.random.default_rng(seed).normal(10, 1, (ticks, users))
    return values


def score(
    model: Any, values: Any, saturated: Any = None, start: int = 100, **changes: Any
) -> forecast_pass.Scores:
    return forecast_pass.evaluate(
        model,
        TraceWindow(
            values,
            np.full((*values.shape[:2], 4), np.nan, np.float32),
            np.zeros(values.shape, bool) if saturated is None else saturated,
            first_tick=0,
            tick_s=300,
            score_from=start,
        ),
        [f"u{i}" for i in range(values.shape[1])],
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
    theirs = row["rivals"]["persistence"]
    n = 4 * 2899
    # standard errors with n = 11,600: 0.95 ± 0.002, 0.99 ± 0.0009; three of them
    assert row["coverage_95"] == pytest.approx(0.95, abs=0.006)
    assert row["bound_99"] == pytest.approx(0.99, abs=0.003)
    assert row["samples"] == scores.count[..., 0, 0].sum() == n
    # CRPS of N(0,1) is 1/sqrt(pi) = 0.564 (0.559 over the 99 levels); persistence errs by N(0, 2)
    assert row["crps"] == pytest.approx(0.56, abs=0.02)
    assert row["crps_ratio"]["persistence"] == pytest.approx(1 / np.sqrt(2), abs=0.02)
    assert theirs["coverage_95"] == pytest.approx(0.95, abs=0.01)
    # slack: E(12.326 - x)+ = 2.33 over a mean of 10
    assert row["slack_99"] == pytest.approx(0.233, abs=0.005)
    # at the same realised 99 % persistence, whose error is wider by sqrt(2), needs about that much more
    assert row["slack_99_matched"] == pytest.approx(0.233, abs=0.02)
    assert row["slack_ratio"]["persistence"] == pytest.approx(1 / np.sqrt(2), abs=0.06)
    assert row["reliability"]["realised"] == pytest.approx(row["reliability"]["nominal"], abs=0.015)
    summary = scores.summary()
    assert (summary["users"], summary["excluded"]) == (4, 0)
    assert summary["users_within_92_98"] == 1
    assert summary["coverage_95_min"] <= summary["coverage_95"] <= summary["coverage_95_max"]
    low, high = summary["intervals_95"]["coverage_95"]
    assert 0.94 < low < summary["coverage_95"] < high < 0.96


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
    assert part.censored.sum(0)[0, 0].tolist() == [50] * 6
    assert (whole.count - part.count).sum(0)[0, 0].tolist() == [50] * 6
    row, without = part.table()[0], whole.table()[0]
    assert (row["censored"], without["censored"], without["censored_crps"]) == (50, 0, None)
    both = row["crps"] * row["samples"] + row["censored_crps"] * 50
    assert both == pytest.approx(without["crps"] * without["samples"], rel=1e-5)
    assert row["censored_bound_99"] == pytest.approx(0.99, abs=0.05)


def test_nothing_to_score() -> None:
    assert score(Normal(), series(50, 2), start=60).summary() == {"users": 0, "ticks": 0, "excluded": 2}


def test_blocks_and_seeds_do_not_change_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values = series(600, 2)
    a = score(Normal(), values)
    monkeypatch.setattr(forecast_pass, "BLOCK", 77)
    b = score(Normal(), values)
    np.testing.assert_allclose(a.model.crps, b.model.crps, rtol=1e-5)
    np.testing.assert_allclose(a.rivals["persistence"].slack, b.rivals["persistence"].slack, rtol=1e-5)


def test_a_block_is_a_day_and_only_every_so_many_ticks_are_scored() -> None:
    scores = score(Normal(), series(700, 1), every=10)
    # rows 100 to 287 are of the first day, to 575 of the second
    assert scores.ticks.tolist() == [19, 29, 12]
    # five targets of the last forecast, at row 690, are in the trace, and one of step 10 would not be
    assert scores.count[:, 0, 0].tolist() == [[19] * 6, [29] * 6, [12] * 6]


def test_the_model_can_be_made_to_forget() -> None:
    class Counts(Normal):
        def initial_state(self, n: int) -> dict[str, Any]:
            return {"ticks": 0}

        def step(self, state: Any, values: Any, *_: Any, tick: int, tick_s: int) -> Any:
            _, forecast, flags = super().step(state, values, tick=tick, tick_s=tick_s)
            return {"ticks": state["ticks"] + 1}, forecast, flags

    def known(forget: int | None) -> list[int]:
        none = np.full((7, 1, 4), np.nan, np.float32)
        values = series(7, 1)
        model: Any = Counts()
        passed = causal_pass.forecasts(
            model, values, none, np.zeros(values.shape, bool), first_tick=0, tick_s=300, forget=forget
        )
        return [int(state["ticks"]) for state, _, _ in passed]

    assert known(None) == [1, 2, 3, 4, 5, 6, 7]
    assert known(3) == [1, 2, 3, 1, 2, 3, 1]
    assert known(1) == [1] * 7


def test_pit_of_quantiles() -> None:
    quantiles = np.linspace(0, 10, len(LEVELS), dtype=np.float32)[:, None]
    i = int(np.flatnonzero(LEVELS == 0.5)[0])
    between = (quantiles[i] + quantiles[i + 1]) / 2
    assert forecast_pass.pit_of(quantiles, between, np.zeros(1))[0] == 0.5
    assert forecast_pass.pit_of(quantiles, between, np.full(1, 0.5))[0] == pytest.approx(0.505)
    assert forecast_pass.pit_of(quantiles, np.full(1, 11, np.float32), np.zeros(1))[0] == LEVELS[-1]
    # zero up to the median: a zero may lie anywhere below it
    quantiles[: i + 1] = 0
    pit = forecast_pass.pit_of(np.tile(quantiles, 1000), np.zeros(1000, np.float32), np.arange(1000) / 1000)
    assert pit[0] == 0
    assert (pit <= 0.25).mean() == pytest.approx(0.25 / 0.505, abs=0.002)


def test_quantiles_are_those_of_the_forecast() -> None:
    rng = np.random.default_rng(0)
    offsets = np.sort(rng.normal(0, 2, (3, 2, 21)), axis=-1).astype(np.float16)
    forecast = QuantileFunction(
        rng.random((3, 2), np.float32) * 3, rng.random((3, 2), np.float32) + 0.1, offsets
    )
    levels = ndtri(LEVELS)[:, None, None].astype(np.float32)
    np.testing.assert_allclose(
        forecast_pass.quantiles_of(forecast), forecast.at(levels), rtol=1e-4, atol=1e-5
    )
    # a flat part is flat to the bit, at the value of the grid: a tie with the last value is seen
    offsets[..., 5:12] = offsets[..., 5:6]
    flat = forecast_pass.quantiles_of(forecast)[(LEVELS > 0.05) & (LEVELS < 0.6)]
    np.testing.assert_array_equal(flat, np.tile(np.maximum(forecast.grid()[..., 5], 0), (len(flat), 1, 1)))


def test_one_pass_of_the_network_is_causal() -> None:
    model = BehaviourModel(Network(), {"model_id": "fresh"})
    values = series(40, 2)
    events, saturated = np.full((40, 2, 4), np.nan, np.float32), np.zeros(values.shape, bool)
    changed = values.copy()
    changed[30:] *= 3
    a, b = (
        [f for _, f, _ in causal_pass.forecasts(model, v, events, saturated, first_tick=0, tick_s=300)]
        for v in (values, changed)
    )
    for t in range(30):
        np.testing.assert_array_equal(a[t].location, b[t].location)
    assert not np.array_equal(a[30].location, b[30].location, equal_nan=True)
