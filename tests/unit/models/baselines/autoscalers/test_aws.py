"""Predictive scaling and target tracking as AWS documents them."""

from typing import Any

import numpy as np

from models.baselines.autoscalers.aws import PredictiveScaling
from tests.unit.models.baselines.autoscalers.fleet import HOUR, One, facts_of


def aws(target: float = 0.5, tick_s: int = 300, **facts: Any) -> One:
    return One(PredictiveScaling, target, tick_s=tick_s, **facts)


def decisions(load: Any, rows: range, target: float = 0.5, tick_s: int = HOUR, **facts: Any) -> list[int]:
    policy = PredictiveScaling(facts_of(load, tick_s=tick_s, **facts), np.array([target]))
    return [int(policy.decide(row, np.array([[1]]))[0, 0]) for row in rows]


def test_target_tracking_adds_at_once_and_removes_after_fifteen_minutes_ten_percent_below():
    one = aws()
    assert one.decide(4.0, 4) == 8  # 4 / 0.5
    assert one.decide(3.7, 4) == 8  # 7.4 is above 0.9 × 8: nothing
    # 3.0 / 0.5 = 6 for three ticks of five minutes
    assert [one.decide(3.0, 8) for _ in range(3)] == [8, 8, 6]
    # the largest of the fifteen minutes counts
    assert [one.decide(x, 6) for x in (2.2, 1.0, 1.0)] == [6, 6, 5]  # 2.2 / 0.5 = 4.4


def test_it_adds_only_after_three_minutes():
    one = aws(tick_s=60)
    assert [one.decide(4.0, 4) for _ in range(3)] == [4, 4, 8]


def test_silence_changes_nothing():
    one = aws()
    one.decide(4.0, 4)
    assert [one.decide(np.nan, 8) for _ in range(4)] == [8] * 4


def test_the_forecast_needs_a_day_and_is_the_mean_of_days_and_of_weekdays():
    day = np.ones(24)
    day[12] = 10.0  # at noon
    # three days; the fourth at 11, that is after the row that ends at 12: noon is forecast as 10 / 0.5
    load = np.concatenate([day, day, day, day])
    assert decisions(load, range(83, 84)) == [20]
    # with 23 hours there is no forecast: 1 / 0.5
    assert decisions(load[:35], range(22, 23)) == [2]
    # a week and a day on: at noon 2, but 10 on the same weekday: days' mean (2 × 7 + 10 − 2) / 7 = 22 / 7, weekday's 10
    days = [np.ones(24) for _ in range(8)]
    for one in days:
        one[12] = 2.0
    days[0][12] = 10.0
    found = decisions(np.concatenate(days), range(7 * 24 + 11, 7 * 24 + 12))
    assert found == [int(np.ceil(((2 * 6 + 10) / 7 + 10) / 2 / 0.5))]  # (3.14 + 10) / 2 / 0.5 = 13.1


def test_capacity_is_launched_the_buffer_time_before_its_hour_and_removed_only_by_target_tracking():
    day = np.ones(24 * 12)
    day[12 * 12 : 13 * 12] = 8.0
    load = np.concatenate([day, day, np.ones(24 * 12)])  # today noon stays quiet
    start = 2 * 24 * 12 + 12 * 12
    found = decisions(load, range(start - 4, start + 15), tick_s=300)
    # rows end at 11:45, 11:50, 11:55: the last is five minutes before noon
    assert found[:3] == [2, 2, 16]
    # while the forecast of the hour holds nothing is removed; it ends with the row that ends at 13:00, start + 11
    assert found[3:15] == [16] * 12
    assert found[15] == 2
