"""KEDA as its documentation describes it, and fixed capacity."""

import numpy as np

from models.baselines.autoscalers.fixed import FixedCapacity
from models.baselines.autoscalers.keda import ScaledObject
from tests.unit.models.baselines.autoscalers.fleet import DAY, One, facts_of


def keda(threshold: float = 0.5, least: int = 0) -> One:
    return One(ScaledObject, threshold, least=least, tick_s=60)


def test_replicas_are_the_ceiling_of_the_total_over_the_threshold_ready_or_not():
    one = keda()
    assert (
        one.decide(2.2, 4) == 5
    )  # 2.2 / 0.5 = 4.4; of 4 replicas 1.1 is at the end of the tolerance, 4.4 / 4
    assert one.decide(4.0, 0) == 8  # none of the five is ready: an external metric does not ask


def test_it_goes_to_none_after_the_cool_down_and_comes_back_with_the_first_load():
    one = keda()
    assert one.decide(1.0, 2) == 2
    # 300 s after the last active tick; until then the HPA holds its largest of five minutes, then its least of one
    assert [one.decide(0.0, 2) for _ in range(5)] == [2, 2, 2, 2, 0]
    assert one.decide(0.0, 0) == 0
    assert one.decide(np.nan, 0) == 0
    assert one.decide(0.2, 0) == 1  # activated; 0.2 / 0.5 is one
    assert one.decide(2.0, 1) == 4


def test_with_a_least_there_is_no_cool_down():
    one = keda(least=1)
    one.decide(1.0, 2)
    assert [one.decide(0.0, 2) for _ in range(6)][-1] == 1


def test_silence_is_not_idleness():
    one = keda()
    one.decide(1.0, 2)
    assert [one.decide(np.nan, 2) for _ in range(8)] == [2] * 8


def test_fixed_capacity_is_the_quantile_of_the_week_before_and_holds_for_a_week():
    tick_s = DAY // 10
    load = np.concatenate([np.arange(1.0, 71.0), np.full(70, 5.0), [5.0]])
    policy = FixedCapacity(facts_of(load, tick_s=tick_s), np.array([0.5, 1.0]))
    ready = np.array([[1], [1]])
    # of 1 to 70 the least that reaches the median is the 36th of 70 (0.5 × 69 = 34.5, rounded up is place 35 from 0)
    answers = [policy.decide(row, ready)[:, 0].tolist() for row in range(69, 141)]
    assert answers[0] == [36, 70]
    assert answers[69] == [36, 70]
    assert answers[70] == [5, 5]


def test_fixed_capacity_begins_with_what_runs_and_is_set_each_day_until_there_is_a_week():
    tick_s = DAY // 2
    policy = FixedCapacity(facts_of([np.nan, np.nan, 4.0, 9.0, 2.0], tick_s=tick_s), np.array([1.0]))
    answers = [int(policy.decide(row, np.array([[7]]))[0, 0]) for row in range(5)]
    assert answers == [7, 7, 4, 4, 9]
