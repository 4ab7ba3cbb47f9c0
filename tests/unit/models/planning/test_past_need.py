"""The experts of an app's own past: their samples, and replicas averaged with the scenarios'."""

import numpy as np
import pytest

from models.capacity import Policy
from models.demand import same_time
from models.metrics import DAY_S, METRICS
from models.planning.past_need import LEAST, MOST, PastNeed, past

POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, max=10_000)
TICK_S = 300
DAY = DAY_S // TICK_S
PRICES = np.array([5.0, 100.0, 5_000.0])


def usage(cpu: float) -> np.ndarray:
    return np.array([cpu if metric == "cpu" else np.nan for metric in METRICS])


def kept(values: np.ndarray, tick_s: int = TICK_S) -> same_time.State:
    state = same_time.initial_state(tick_s)
    for tick, value in enumerate(values):
        state = same_time.observe(state, usage(value), tick, tick_s)
    return state


def test_recent_windows_are_those_of_the_last_day_and_changes_start_at_the_present() -> None:
    values = np.random.default_rng(3).uniform(1, 50, 9 * DAY).round(3)
    made = past(kept(values), usage(values[-1]), POLICY, slice(2, 4), TICK_S)
    now, last = len(values) - 1, 4  # steps 3 and 4 after the present tick
    ends = np.arange(now - last + 1)
    window = np.maximum(values[ends + 3], values[ends + 4])
    soon = np.maximum(values[ends + 1], values[ends + 2])
    assert made.recent is not None
    assert made.persistence is not None
    np.testing.assert_allclose(made.recent[0], window[-DAY:], rtol=1e-3)
    np.testing.assert_allclose(made.recent[1], soon[-DAY:], rtol=1e-3)
    expected = values[now] + window - values[ends]
    np.testing.assert_allclose(made.persistence[0], expected[-7 * DAY :], rtol=1e-3, atol=0.1)


def test_a_window_that_begins_at_once_has_the_next_step_before_it() -> None:
    values = np.arange(100.0) + 1
    made = past(kept(values), usage(100.0), POLICY, slice(0, 2), TICK_S)
    assert made.recent is not None
    np.testing.assert_allclose(made.recent[0, -1], 100.0, rtol=1e-3)
    np.testing.assert_allclose(made.recent[1, -1], 99.0, rtol=1e-3)


def test_too_short_a_history_is_no_expert() -> None:
    made = past(kept(np.ones(LEAST)), usage(1.0), POLICY, slice(1, 2), TICK_S)
    assert made.recent is None
    assert made.persistence is None
    nothing = past(same_time.initial_state(TICK_S), usage(1.0), POLICY, slice(1, 2), TICK_S)
    assert nothing.recent is None


def test_what_was_not_measured_is_no_sample() -> None:
    values = np.full(2 * DAY, 3.0)
    values[-DAY // 2 :] = np.nan
    made = past(kept(values), usage(np.nan), POLICY, slice(1, 2), TICK_S)
    assert made.recent is not None
    assert made.recent.shape[1] == pytest.approx(DAY // 2, abs=3)
    assert made.persistence is None


def test_samples_are_bounded_at_short_ticks() -> None:
    values = np.full(3 * DAY_S // 60, 2.0)
    made = past(kept(values, 60), usage(2.0), POLICY, slice(3, 5), 60)
    assert made.persistence is not None
    assert made.persistence.shape[1] <= MOST


def test_replicas_at_a_price_are_averaged_and_rounded_up() -> None:
    window = np.r_[np.full(950, 4.0), np.full(50, 19.5)]
    expert = PastNeed(window, np.full(1_000, 2.2), 0.5)
    scenarios = np.array([5, 6, 7])
    # 19.5 costs 16 replica-hours more and serves 5 % more: worth it from a price of 320 on
    window, soon = expert.at(0, PRICES.tolist())
    assert expert.averaged(scenarios, window).tolist() == [5, 5, 14]
    assert expert.averaged(scenarios, soon).tolist() == [4, 5, 5]
    owned, _ = expert.at(20, PRICES.tolist())
    assert expert.averaged(scenarios, owned).tolist() == [13, 13, 14]
