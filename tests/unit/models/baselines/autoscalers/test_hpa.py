"""The Kubernetes HPA as its documentation describes it; loads are in full replicas."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.baselines.autoscalers import hpa as kubernetes
from models.baselines.autoscalers.hpa import (
    SCALE_DOWN,
    SCALE_UP,
    Behaviour,
    HorizontalPodAutoscaler,
    HpaSettings,
)
from tests.unit.models.baselines.autoscalers.fleet import One, facts_of

Scaling = kubernetes.Scaling
AT_ONCE = replace(SCALE_DOWN, stabilisation_s=0)


def hpa(target: float = 0.8, *, settings: Any = None, tick_s: int = 15, **facts: Any) -> One:
    return One(
        lambda f, targets: HorizontalPodAutoscaler(f, targets, settings), target, tick_s=tick_s, **facts
    )


def test_desired_is_the_ceiling_of_current_times_usage_over_target():
    # 4 replicas at 1.0 of 0.8: ceil(4 × 1.25) = 5
    assert hpa().decide(4.0, 4) == 5
    # the documentation's example: usage twice the target doubles the number
    assert hpa(0.5).decide(4.0, 4) == 8
    # 3 × 0.8 / 0.8 is 3.0000000000000004 in floating point
    assert hpa(settings=HpaSettings(tolerance=0.0)).decide(3 * 0.8, 3) == 3


@pytest.mark.parametrize(("load", "desired"), [(8.7, 10), (7.3, 10), (8.9, 12), (7.1, 9)])
def test_within_a_tenth_of_the_target_nothing_changes(load: float, desired: int):
    # 10 replicas, target 8.0: 8.8 and 7.2 are the ends; 8.9 / 0.8 = 11.1, 7.1 / 0.8 = 8.9
    assert hpa(settings=HpaSettings(down=AT_ONCE)).decide(load, 10) == desired


def test_the_largest_over_metrics_is_taken():
    assert hpa(metrics=2).decide([4.0, 4.8], 4) == 6  # 4.8 / 0.8 = 6


def test_growth_is_bounded_by_four_pods_or_doubling_in_fifteen_seconds():
    assert hpa().decide(40.0, 2) == 6  # 2 + 4
    assert hpa().decide(40.0, 10) == 20  # doubled
    two = hpa(tick_s=30)
    two.decide(1.6, 2)
    assert two.decide(80.0, 2) == 12  # two synchronisations: 2 to 6 to 12
    slow = hpa(tick_s=300)
    slow.decide(1.6, 2)
    assert slow.decide(64.0, 2) == 80


def test_scale_down_takes_the_largest_recommendation_of_five_minutes():
    one = hpa(tick_s=60)
    assert one.decide(8.0, 10) == 10
    assert one.decide(4.0, 10) == 10  # would be 5
    assert one.decide(5.6, 10) == 10  # would be 7
    assert [one.decide(2.4, 10) for _ in range(2)] == [10, 10]  # 240 s after the ten
    assert one.decide(2.4, 10) == 7  # the ten are 300 s ago, the seven 180
    assert [one.decide(2.4, 7) for _ in range(2)] == [7, 3]  # 240 s and 300 s


def test_the_start_of_a_sync_period_bounds_change_within_it():
    # at most two pods a minute: after 30 s nothing more
    slow = HpaSettings(up=Behaviour((Scaling("Pods", 2, 60),)))
    one = hpa(settings=slow, tick_s=30)
    assert one.decide(0.8, 1) == 1
    assert [one.decide(8.0, r) for r in (1, 3, 3, 5)] == [3, 3, 5, 5]


def test_behaviours_bound_and_steady_each_direction():
    # the documentation: 10 % or 5 pods a minute, whichever is larger, going down
    down = Behaviour((Scaling("Pods", 4, 60), Scaling("Percent", 10, 60)))
    one = hpa(settings=HpaSettings(down=down), tick_s=60)
    one.decide(64.0, 80)
    # 80 replicas: 10 % of them is 8; 72: trunc(64.8); at 40 and fewer the four pods are more
    assert [one.decide(0.8, r) for r in (80, 72, 64)] == [72, 64, 57]
    few = hpa(settings=HpaSettings(down=replace(down, select="Min")), tick_s=60)
    few.decide(64.0, 80)
    assert few.decide(0.8, 80) == 76  # the smaller change
    never = hpa(settings=HpaSettings(down=replace(down, select="Disabled")), tick_s=60)
    never.decide(64.0, 80)
    assert never.decide(0.8, 80) == 80
    # growth steadied over 120 s takes the least recommendation of them
    calm = hpa(settings=HpaSettings(up=replace(SCALE_UP, stabilisation_s=120)), tick_s=60)
    calm.decide(0.8, 1)
    assert [calm.decide(3.2, r) for r in (1, 1)] == [1, 4]


def test_pods_on_their_way_are_not_asked_for_again():
    one = hpa()
    assert one.decide(6.4, 4) == 8
    # 4 of the 8 × 0.8 asked for: growth of the ready is no growth
    assert one.decide(4.0, 4) == 8
    assert one.decide(8.0, 4) == 10  # 8 / 0.8


def test_a_missing_metric_stops_release_but_not_growth():
    one = hpa(settings=HpaSettings(down=AT_ONCE), metrics=2)
    assert one.decide([4.0, 4.0], 5) == 5
    assert one.decide([1.0, np.nan], 5) == 5
    assert one.decide([6.4, np.nan], 5) == 8
    assert one.decide([np.nan, np.nan], 8) == 8
    assert one.decide([1.0, 1.0], 8) == 2


def test_a_metric_that_was_never_measured_is_not_one_of_its_metrics():
    assert hpa(settings=HpaSettings(down=AT_ONCE), metrics=2).decide([1.0, np.nan], 5) == 2


def test_without_ready_replicas_the_number_stands():
    one = hpa()
    assert one.decide(3.2, 4) == 4
    assert one.decide(3.2, 0) == 4
    assert hpa(least=2).decide(np.nan, 0) == 2


def test_minimum_and_maximum_hold():
    assert hpa(most=6).decide(40.0, 5) == 6
    assert hpa(settings=HpaSettings(down=AT_ONCE), least=3).decide(0.0, 5) == 3


def test_settings_and_apps_are_decided_apart():
    both = HorizontalPodAutoscaler(facts_of([[4.0, 8.0]]), np.array([0.8, 0.5]))
    wanted = both.decide(0, np.array([[4, 8], [4, 8]]))
    assert wanted.tolist() == [[5, 10], [8, 16]]  # 4 / 0.8, 8 / 0.8; 4 / 0.5, 8 / 0.5
