"""The reactive rival behaves as the Kubernetes documentation says."""

import math

import pytest

from models.autoscalers import HorizontalPodAutoscaler, HpaSettings


def autoscaler(**changes: float) -> HorizontalPodAutoscaler:
    settings = {"min": 1, "max": 100} | changes
    return HorizontalPodAutoscaler(HpaSettings({"cpu": 1.0}, **settings))  # pyright: ignore[reportArgumentType]


def test_desired_is_the_ceiling_of_current_times_usage_over_target():
    # 4 replicas at 1.0 of 0.8: ceil(4 × 1.25) = 5
    assert autoscaler().decide({"cpu": 4.0}, 4, 0.0) == 5
    # the documentation's example: usage twice the target doubles the number
    assert autoscaler(target_utilisation=0.5).decide({"cpu": 4.0}, 4, 0.0) == 8
    # 3 × 0.8 / 0.8 is 3.0000000000000004 in floating point
    assert autoscaler(tolerance=0.0).decide({"cpu": 3 * 0.8}, 3, 0.0) == 3


@pytest.mark.parametrize(("usage", "desired"), [(8.7, 10), (7.3, 10), (8.9, 12), (7.1, 9)])
def test_within_a_tenth_of_the_target_nothing_changes(usage: float, desired: int):
    # 10 replicas, target 8.0: 8.8 and 7.2 are the ends
    assert autoscaler().decide({"cpu": usage}, 10, 0.0) == desired


def test_the_largest_over_metrics_is_taken():
    hpa = HorizontalPodAutoscaler(HpaSettings({"cpu": 1.0, "memory": 2.0}))
    assert hpa.decide({"cpu": 4.0, "memory": 9.6}, 4, 0.0) == 6  # 9.6 / (2 × 0.8) = 6


def test_growth_is_bounded_by_four_pods_or_doubling_in_fifteen_seconds():
    assert autoscaler().decide({"cpu": 40.0}, 2, 0.0) == 6  # 2 + 4
    assert autoscaler().decide({"cpu": 40.0}, 10, 0.0) == 20  # doubled
    hpa = autoscaler()
    hpa.decide({"cpu": 1.6}, 2, 0.0)
    assert hpa.decide({"cpu": 80.0}, 2, 30.0) == 12  # two periods: 2 to 6 to 12
    slow = autoscaler()
    slow.decide({"cpu": 1.6}, 2, 0.0)
    assert slow.decide({"cpu": 64.0}, 2, 300.0) == 80


def test_scale_down_takes_the_largest_recommendation_of_five_minutes():
    hpa = autoscaler()
    assert hpa.decide({"cpu": 8.0}, 10, 0.0) == 10
    assert hpa.decide({"cpu": 4.0}, 10, 60.0) == 10  # would be 5
    assert hpa.decide({"cpu": 5.6}, 10, 240.0) == 10  # would be 7
    assert hpa.decide({"cpu": 2.4}, 10, 300.0) == 7  # the ten are 300 s ago
    assert hpa.decide({"cpu": 2.4}, 7, 360.0) == 7
    assert hpa.decide({"cpu": 2.4}, 7, 540.0) == 3  # the seven too


def test_pods_on_their_way_are_not_asked_for_again():
    hpa = autoscaler()
    assert hpa.decide({"cpu": 6.4}, 4, 0.0) == 8
    assert (
        hpa.decide({"cpu": 4.0}, 4, 15.0) == 8
    )  # 4 of the 8 × 0.8 asked for: growth of the ready is no growth
    assert hpa.decide({"cpu": 8.0}, 4, 30.0) == 10  # 8 / 0.8


def test_a_missing_metric_stops_release_but_not_growth():
    hpa = HorizontalPodAutoscaler(HpaSettings({"cpu": 1.0, "memory": 1.0}, stabilisation_s=0.0))
    assert hpa.decide({"cpu": 1.0, "memory": math.nan}, 5, 0.0) == 5
    assert hpa.decide({"cpu": 1.0}, 5, 15.0) == 5
    assert hpa.decide({"cpu": 6.4}, 5, 30.0) == 8
    assert hpa.decide({"cpu": 1.0, "memory": 1.0}, 8, 45.0) == 2


def test_without_ready_replicas_the_number_stands():
    hpa = autoscaler()
    assert hpa.decide({"cpu": 3.2}, 4, 0.0) == 4
    assert hpa.decide({"cpu": 3.2}, 0, 15.0) == 4
    assert autoscaler(min=2).decide({}, 0, 0.0) == 2


def test_minimum_and_maximum_hold():
    assert autoscaler(max=6).decide({"cpu": 40.0}, 5, 0.0) == 6
    assert autoscaler(min=3, stabilisation_s=0.0).decide({"cpu": 0.0}, 5, 0.0) == 3
