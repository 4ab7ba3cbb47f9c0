"""Autopilot's recommenders as the paper describes them."""

import numpy as np
import pytest

from models.baselines.autoscalers.autopilot import (
    Horizontal,
    HorizontalSettings,
    MovingWindow,
    WindowSettings,
)
from tests.unit.models.baselines.autoscalers.fleet import HOUR, facts_of


def test_replicas_are_the_statistic_of_the_horizon_over_the_target():
    load = np.r_[np.arange(1.0, 22.0)]  # 1 to 21 in 21 hours
    # 0.95 × 20 = 19: the twentieth value is 20
    for settings, replicas in ((HorizontalSettings(statistic="max"), 42), (HorizontalSettings(), 40)):
        policy = Horizontal(facts_of(load, tick_s=HOUR), np.array([0.5]), settings)
        assert policy.decide(20, np.array([[1]])).tolist() == [[replicas]]
    short = HorizontalSettings(statistic="max", horizon_s=2 * HOUR, defer_s=HOUR)
    policy = Horizontal(facts_of([9.0, 1.0, 2.0], tick_s=HOUR), np.array([1.0]), short)
    assert policy.decide(2, np.array([[2]])).tolist() == [[2]]  # of the last two hours


def test_release_is_deferred_and_at_most_halves_in_an_hour():
    settings = HorizontalSettings(statistic="max", horizon_s=HOUR, defer_s=3 * HOUR)
    load = [16.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0]
    policy = Horizontal(facts_of(load, tick_s=HOUR), np.array([1.0]), settings)
    answers = [int(policy.decide(row, np.array([[16]]))[0, 0]) for row in range(8)]
    assert answers == [16, 16, 16, 8, 4, 2, 1, 9]  # up at once


def test_growth_is_immediate_silence_keeps_what_runs():
    policy = Horizontal(facts_of([np.nan, 5.0]), np.array([0.5]))
    assert [int(policy.decide(row, np.array([[7]]))[0, 0]) for row in range(2)] == [7, 10]


def test_the_percentile_is_of_load_not_of_time():
    # the paper's Figure 2: nine samples of 1 and one of 10 make 9 and 10 of area: the 90 % of load is 10, of time 1
    load = np.r_[np.full(9, 1.0), 10.0]
    settings = WindowSettings(percentile=0.9, half_life_s=10**9)
    policy = MovingWindow(facts_of(load), np.array([0.0]), settings)
    wanted = int(policy.decide(9, np.array([[1]]))[0, 0])
    assert 10 <= wanted <= 11  # a bucket is 5 % wide
    half = MovingWindow(facts_of(load), np.array([0.0]), WindowSettings(percentile=0.4, half_life_s=10**9))
    assert half.decide(9, np.array([[1]])).tolist() == [[2]]  # 0.4 of 19 lies in the nine of 1 to 1.05


def test_old_samples_fade_by_half_in_a_half_life_and_the_last_hour_is_held():
    load = np.r_[8.0, np.ones(100)]
    policy = MovingWindow(facts_of(load, tick_s=HOUR), np.array([0.0]))
    wanted = [int(policy.decide(row, np.array([[1]]))[0, 0]) for row in range(100)]
    assert wanted[0] in (8, 9)
    # with u = 2^(−t/12) the eight holds 8.3 u of the load and the ones 1.03 × 17.8 (1 − u), 17.8 = 1 / (1 − 2^(−1/12)):
    # the eight's share is under 5 % from u = 0.104 on, 39 hours
    changed = wanted.index(2)
    assert changed == pytest.approx(12 * np.log2(1 / 0.104), abs=1)
    assert set(wanted[changed:]) == {2}
    held = MovingWindow(facts_of(load, tick_s=HOUR // 2), np.array([0.0]), WindowSettings(half_life_s=60))
    # with a half life of a minute the eight is gone in the next half hour, and held as the largest of an hour
    answers = [int(held.decide(row, np.array([[1]]))[0, 0]) for row in range(3)]
    assert answers[0] == answers[1]
    assert answers[2] == 2


def test_the_margin_is_added_and_no_history_keeps_what_runs():
    policy = MovingWindow(facts_of([20.0]), np.array([0.0, 0.15]))
    plain, more = policy.decide(0, np.array([[1], [1]]))[:, 0]
    assert plain in (20, 21)
    assert more == pytest.approx(1.15 * plain, abs=1.2)
    nothing = MovingWindow(facts_of([np.nan]), np.array([0.15]))
    assert nothing.decide(0, np.array([[6]])).tolist() == [[6]]
