"""What a run's figures are made of: coverage of forecasts, and outcomes beside the reactive policy."""

import numpy as np
import pytest
from scipy.special import ndtr

from models.metrics import EVENT_KINDS, METRICS
from models.quantile_function import QuantileFunction, Z
from pipeline.demo.recorder import Coverage
from pipeline.wire.codec import Record, decode, encode
from pipeline.wire.forecasts import forecast_records

USERS = 50


def forecast(tick: int, observed: np.ndarray, censored: np.ndarray) -> list[Record]:
    """Forecasts of a normal with mean 100 and deviation 5, for one metric of all users."""
    shape = (USERS, len(METRICS), 6)
    location = np.full(shape, np.nan, np.float32)
    location[:, 0] = 100.0
    quantiles = QuantileFunction(
        location, np.full(shape, 5.0, np.float32), np.broadcast_to(Z.astype(np.float16), (*shape, len(Z)))
    )
    usage = np.full((USERS, len(METRICS)), np.nan, np.float32)
    usage[:, 0] = observed
    flags = {"cold_start": np.zeros(USERS, bool), "censored": np.zeros(usage.shape, bool)}
    flags["censored"][:, 0] = censored
    frame = {"shard": 0, "seq": tick, "tick": tick, "tick_s": 60, "tick_start": tick * 60_000_000}
    ids = [bytes([user]) * 16 for user in range(USERS)]
    rates = np.full((USERS, len(EVENT_KINDS)), np.nan, np.float32)
    made = forecast_records(frame, "m", ids, ["app"] * USERS, quantiles, flags, usage, rates)
    return [decode(encode("forecast", record))[1] for record in made]


def test_coverage_is_the_share_inside_the_interval_and_leaves_censored_samples_out() -> None:
    coverage, rng, ticks = Coverage(0), np.random.default_rng(1), 60
    assert np.isnan(coverage.share)
    censored = np.arange(USERS) < 10
    for tick in range(ticks):
        coverage.add(forecast(tick, rng.normal(100, 5, USERS).astype(np.float32), censored))
    # Steps 1 to 6: the first tick has no forecast before it, the second one, ... the seventh and later six.
    pairs = sum(min(tick, 6) for tick in range(ticks))
    assert coverage.scored == pairs * 40
    assert coverage.censored == pairs * 10
    # The grid ends at 3.5 deviations, which does not touch the interval; standard error of 13,000 draws: 0.2 %.
    assert coverage.share == pytest.approx(ndtr(1.96) - ndtr(-1.96), abs=0.01)


def test_coverage_of_a_forecast_that_is_off_is_low() -> None:
    coverage = Coverage(0)
    for tick in range(5):
        coverage.add(forecast(tick, np.full(USERS, 120.0, np.float32), np.zeros(USERS, bool)))
    assert coverage.share == 0.0
