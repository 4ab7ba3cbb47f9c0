import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.baselines.forecasters import NAMES, deepar, exponential, make
from models.baselines.forecasters.observations import Observations
from models.baselines.forecasters.residual import Residual, carried, persistence, seasonal_naive

LEVELS = np.array([0.1, 0.5, 0.9])


def cpu(series: Any) -> Any:
    """(tick, user, 5) of which CPU is given as (tick) or (tick, user)."""
    series = np.asarray(series, np.float32)
    series = series[:, None] if series.ndim == 1 else series
    values = np.full((*series.shape, 5), np.nan, np.float32)
    values[..., 0] = series
    return values


def last_value(values: Any, window: int, refresh: int) -> Residual:
    last = carried(values)
    return Residual(
        "last", lambda m, rows, _: last[rows.start : rows.stop, :, m], values, window=window, refresh=refresh
    )


def test_persistence_with_residual_quantiles() -> None:
    rising = np.cumsum(np.ones((100, 2), np.float32), axis=0)  # by one per tick
    rising[:, 1] = np.nan
    out = last_value(cpu(rising), 40, 10).quantiles(0, range(50, 60), 3, LEVELS)
    assert out.shape == (3, 10, 2)
    # last value t + 1 plus residuals that are all 3
    np.testing.assert_allclose(out[:, :, 0], np.tile(np.arange(54.0, 64.0), (3, 1)))
    assert np.isnan(out[:, :, 1]).all()


def test_rows_may_be_some_ticks_only() -> None:
    values = cpu(np.random.default_rng(0).normal(50, 1, 200))
    rival = last_value(values, 60, 7)
    np.testing.assert_array_equal(
        rival.quantiles(0, range(100, 160, 7), 2, LEVELS),
        rival.quantiles(0, range(100, 160), 2, LEVELS)[:, ::7],
    )


@pytest.mark.parametrize("step", [1, 4])
def test_residual_quantiles_by_hand(step: int) -> None:
    values = cpu(np.random.default_rng(1).normal(50, 1, 200))
    out = last_value(values, 60, 10).quantiles(0, range(150, 152), step, LEVELS)
    x = values[:151, 0, 0]
    known = (x[step:] - x[:-step])[-60:]  # up to row 150, at which they were renewed
    np.testing.assert_allclose(out[:, 0, 0], x[150] + np.quantile(known, LEVELS), rtol=1e-5)
    np.testing.assert_allclose(out[:, 1, 0], values[151, 0, 0] + np.quantile(known, LEVELS), rtol=1e-5)


def test_residuals_are_of_the_past_and_the_window() -> None:
    values = cpu(np.random.default_rng(0).normal(50, 1, 300))
    changed = values.copy()
    changed[200:] = 0
    changed[:100] = 90
    a, b = (last_value(v, 45, 5).quantiles(0, range(150, 200), 1, LEVELS) for v in (values, changed))
    np.testing.assert_array_equal(a, b)
    few = last_value(values, 45, 1).quantiles(0, range(8, 9), 1, LEVELS)
    assert np.isnan(few).all()  # eight residuals are under twelve


def test_the_last_value_is_carried_over_a_gap() -> None:
    series = np.arange(60, dtype=np.float32)
    series[50:55] = np.nan
    out = last_value(cpu(series), 60, 1).quantiles(0, range(52, 53), 1, LEVELS)
    assert out[1, 0, 0] == 49 + 1


def test_seasonal_naive_is_the_value_of_a_day_ago() -> None:
    day = np.tile(np.arange(24.0), 12) + 1  # hourly: the same each day
    rival = seasonal_naive(cpu(day), tick_s=3600, warm_up=72)
    out = rival.quantiles(0, range(200, 240), 5, LEVELS)
    np.testing.assert_array_equal(out, np.tile(day[205:245, None], (3, 1, 1)))


def test_seasonal_naive_takes_a_week_where_that_erred_less() -> None:
    week = np.random.default_rng(0).integers(1, 50, 168)
    both = np.stack([np.tile(week, 5), np.tile(week[:24], 35)], axis=1)
    rival = seasonal_naive(cpu(both), tick_s=3600, warm_up=400)
    np.testing.assert_array_equal(
        rival.quantiles(0, range(500, 600), 2, LEVELS)[1], both[502:602].astype(np.float32)
    )


def test_seasonal_naive_begins_with_the_last_value() -> None:
    values = cpu(np.random.default_rng(0).normal(50, 1, 60))
    a, b = (
        rival.quantiles(0, range(15, 20), 1, LEVELS)
        for rival in (seasonal_naive(values, tick_s=3600, warm_up=15), persistence(values, tick_s=3600))
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["persistence", "seasonal_naive"])
def test_a_rival_reads_nothing_of_the_future(name: str) -> None:
    values = cpu(np.random.default_rng(0).normal(50, 1, (900, 2)))
    changed = values.copy()
    changed[700:] *= 3
    a, b = (
        make(name, Observations(v), tick_s=300, warm_up=400).quantiles(0, range(600, 700), 6, LEVELS)
        for v in (values, changed)
    )
    np.testing.assert_array_equal(a, b)


def test_a_rival_that_is_not_there() -> None:
    values = cpu(np.ones(20))
    with pytest.raises(
        ValueError, match="no rival 'arima'; known are persistence, seasonal_naive, ets, deepar"
    ):
        make("arima", Observations(values), tick_s=300, warm_up=5)
    with pytest.raises(ValueError, match="users to train on"):
        make("deepar", Observations(values), tick_s=300, warm_up=5)
    assert NAMES[0] == "persistence"


class Chosen:
    """Stands for statsforecast's AutoETS: finds alpha 0.5, and beta 0.25 undamped where the series rises."""

    def __init__(self, season_length: int, model: str) -> None:
        assert (season_length, model) == (1, "ZZN")

    def fit(self, y: Any) -> Any:
        rises = y[-1] > 2 * y[0]
        nan = float("nan")
        self.model_ = {
            "components": "AANN" if rises else "MNNN",
            "par": [0.5, 0.25 if rises else nan, nan, nan, y[0], 0.0],
            "states": np.array([[y[0], 0.0], [y[-1], y[-1] - y[-2]]]),
        }
        return self


def test_ets_takes_its_parameters_from_the_library() -> None:
    history = np.full((20, 2, 5), np.nan, np.float32)
    history[:, 0, 0], history[:, 1, 0], history[:, 1, 1] = np.arange(1, 21), 4 + np.arange(20) % 2, 7
    before, after = exponential.parameters(Chosen, history)
    assert before[:, 0, 0] == pytest.approx([0.5, 0.25, 1, 1, 0])
    assert after[:, 0, 0] == pytest.approx([0.5, 0.25, 1, 20, 1])
    assert after[:, 1, 0] == pytest.approx([0.5, 0, 0, 5, 0])
    assert after[:, 1, 1].tolist() == pytest.approx(exponential.PERSISTENCE, nan_ok=True)  # constant


def test_ets_goes_forward_by_its_recursion() -> None:
    values = cpu([10.0, 14.0, np.nan, 20.0])
    fit, later = np.zeros((2, 5, 1, 5))
    fit[:, 0, 0] = 0.5, 0.25, 1.0, 10, 0
    later[:, 0, 0] = 1.0, 0.25, 1.0, np.nan, np.nan
    level, trend, _ = exponential.filtered(values, {0: fit, 3: later})
    # 14 is 4 above the level: half of it moves the level, a quarter the trend; the gap follows the trend;
    # from row 3 alpha is 1
    assert level[:, 0, 0].tolist() == [10, 12, 13, 20]
    assert trend[:, 0, 0].tolist() == [0, 1, 1, 1 + 0.25 * (20 - 14)]
    # a fit with states of its own puts them in place of those there are
    later[3:, 0, 0] = 15, 2
    level, trend, _ = exponential.filtered(values, {0: fit, 3: later})
    assert (level[3, 0, 0], trend[3, 0, 0]) == (20, 2 + 0.25 * (20 - 17))


def test_ets_forecasts_along_its_trend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        exponential.importlib, "import_module", lambda _: type("models", (), {"AutoETS": Chosen})
    )
    values = cpu(np.arange(1.0, 401.0))
    rival = make("ets", Observations(values), tick_s=3600, warm_up=100)
    out = rival.quantiles(0, range(300, 310), 6, LEVELS)
    np.testing.assert_allclose(out[1, :, 0], values[306:316, 0, 0], rtol=1e-3)
    changed = values.copy()
    changed[310:] = 0
    again = make("ets", Observations(changed), tick_s=3600, warm_up=100).quantiles(
        0, range(300, 310), 6, LEVELS
    )
    np.testing.assert_array_equal(out, again)


def test_deepar_scales_each_series_and_names_its_ticks() -> None:
    values = cpu(np.array([[2.0, 0.0], [4.0, 0.0]]))
    assert deepar.scale_of(values)[:, 0].tolist() == [3.0, 1.0]
    assert deepar.scale_of(values)[:, 1].tolist() == [1.0, 1.0]
    assert [deepar.frequency(s) for s in (10, 60, 300, 3600)] == ["10s", "1min", "5min", "60min"]
    assert deepar.lags([1, 2, 9_000], 300) == [1, 2, 287, 288, 289]
    assert deepar.lags([1], 10) == [1]  # a day is longer than its memory


class Tensor(np.ndarray):
    """Stands for a tensor of torch."""

    def float(self) -> Any:
        return self.astype(np.float32)

    def numpy(self) -> Any:
        return np.asarray(self)


def test_deepar_asks_its_network_with_what_was_known() -> None:
    series = np.arange(1.0, 41.0, dtype=np.float32)
    rival = object.__new__(deepar.DeepAR)
    rival._torch = SimpleNamespace(
        no_grad=contextlib.nullcontext,
        from_numpy=lambda a: a.view(Tensor),
        full=np.full,
        zeros=np.zeros,
        long=int,
    )
    rival._steps, rival._past, rival._values = (1, 2, 3), 5, cpu(series)
    rival._scale, rival._sampled = np.full((1, 5), 2, np.float32), None
    padded = np.pad(series / 2, (5, 0))
    # one feature: the number of the tick, which is known ahead
    rival._inputs = {(0, 0): (padded, padded > 0, np.arange(-5, 43, dtype=np.float32)[:, None])}
    asked: list[Any] = []

    def network(**inputs: Any) -> Any:
        asked.append(inputs)
        last, ahead = inputs["past_target"][:, -1:, None], inputs["future_time_feat"][:, None, :, 0]
        return np.tile(last + 0 * ahead, (1, inputs["num_parallel_samples"], 1)).view(Tensor)

    rival._net = network
    rows = range(20, 30, 3)
    out = rival.quantiles(0, rows, 2, LEVELS)
    # the network gives back the last value that it saw: that of the row, in its own units
    np.testing.assert_array_equal(out, np.tile(series[[20, 23, 26, 29], None], (3, 1, 1)))
    assert asked[0]["past_time_feat"][0, :, 0].tolist() == [16, 17, 18, 19, 20]
    assert asked[0]["future_time_feat"][0, :, 0].tolist() == [21, 22, 23]
    rival.quantiles(0, rows, 1, LEVELS)
    assert len(asked) == 1  # the paths of one pass serve every step
    assert np.isnan(rival.quantiles(1, rows, 1, LEVELS)).all()


def test_deepars_covariates_are_known_over_the_whole_horizon() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3, 1) * np.ones(5, np.float32)
    values[1, 0, 2] = np.nan
    events = np.full((4, 3, 4), 2.0, np.float32)
    found = deepar.covariates(values, events, 2)
    assert found.shape == (6, 3, 9)
    assert (found[:2] == 0).all()
    np.testing.assert_allclose(found[2:, 1, 0], np.arcsinh(values[:, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(found[2:, :, 5:], np.log1p(events), rtol=1e-6)
    assert found[3, 0, 2] == 0
