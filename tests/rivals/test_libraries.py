"""The rivals with the libraries that they stand on: `uv run --group rivals pytest tests/rivals`.

They are 3 GB, so that these tests are not among those of `make test`; what needs no library is tested in
tests/unit/models/baselines/test_forecasters.py.
"""

from typing import Any

import numpy as np
import pytest

from models.baselines.forecasters import deepar, exponential, make
from models.baselines.forecasters.observations import Observations
from tests.unit.models.baselines.test_forecasters import LEVELS, cpu

# the libraries' own, of the versions that are locked
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_filter_is_that_of_statsforecast() -> None:
    from statsforecast.models import AutoETS  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)
    found: set[str] = set()
    for series in (
        50 + np.cumsum(rng.normal(size=400)),
        100 + np.arange(400) + rng.normal(size=400),
        np.exp(rng.normal(size=400) / 3 + np.sin(np.arange(400) / 60)),
    ):
        values = cpu(series)
        series = values[:, 0, 0].astype(float)
        mean = series.mean()
        fitted = AutoETS(season_length=1, model=exponential.MODEL).fit(series / mean).model_
        found.add(fitted["components"])
        before, after = exponential.parameters(AutoETS, values)
        level, trend, phi = exponential.filtered(values, {0: before})
        np.testing.assert_allclose(level[:, 0, 0], fitted["states"][1:, 0] * mean, rtol=1e-4)
        np.testing.assert_allclose(after[3:, 0, 0], (level[-1, 0, 0], trend[-1, 0, 0]), rtol=1e-4, atol=1e-4)
        ahead = level[-1, 0, 0] + trend[-1, 0, 0] * sum(phi[-1, 0, 0] ** i for i in range(1, 7))
        mine = (
            AutoETS(season_length=1, model=exponential.MODEL).fit(series / mean).predict(6)["mean"][-1] * mean
        )
        assert ahead == pytest.approx(mine, rel=1e-3)
    assert len(found) > 1  # more than one kind of model was chosen


@pytest.fixture(scope="module")
def waves() -> Any:
    """CPU and memory of six users, each a sine of an hour with some noise, over four days of five minutes."""
    rng = np.random.default_rng(0)
    t = np.arange(4 * 288)[:, None]
    values = np.full((len(t), 6, 5), np.nan, np.float32)
    for m in (0, 1):
        wave = np.sin(2 * np.pi * (t / 12 + rng.random(6)))
        values[..., m] = (10.0 ** (4 * m)) * (3 + wave + rng.normal(0, 0.05, (len(t), 6)))
    return values


@pytest.mark.timeout(1_200)
def test_deepar_learns_and_reads_nothing_of_the_future(waves: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepar, "EPOCHS", 3)
    monkeypatch.setattr(deepar, "BATCHES", 50)
    monkeypatch.setattr(deepar, "SAMPLES", 100)
    changed = waves[:, 4:].copy()
    changed[900:, :, :2] = 7
    out: list[Any] = []
    for values in (waves[:, 4:], changed):
        silent = np.full((len(waves), 6, 4), np.nan, np.float32)
        rival = make(
            "deepar",
            Observations(values, silent[:, 4:]),
            tick_s=300,
            warm_up=800,
            train=Observations(waves[:800, :4], silent[:800, :4]),
        )
        out.append([rival.quantiles(m, range(880, 900, 4), step, LEVELS) for m in (0, 1) for step in (1, 6)])
    np.testing.assert_array_equal(out[0], out[1])
    for (m, step), quantiles in zip(((0, 1), (0, 6), (1, 1), (1, 6)), out[0], strict=True):
        y = waves[880 + step : 900 + step : 4, 4:, m]
        error = np.abs(quantiles[1] - y).mean() / 10.0 ** (4 * m)
        assert error < 0.25  # the wave's mean change over an hour's quarter is 0.7
        assert (quantiles[0] < quantiles[2]).all()
    assert np.isnan(rival.quantiles(2, range(880, 900), 1, LEVELS)).all()
