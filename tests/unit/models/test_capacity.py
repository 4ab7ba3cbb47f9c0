"""From demand to replicas, from offers to replicas per instance, and policies that cannot be followed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.capacity import (
    Observed,
    Offer,
    Policy,
    as_reported,
    floor_demand,
    replica_loads,
    replicas,
    replicas_per_instance,
    validate,
    why_unusable,
)

POLICY = Policy(
    app="shop",
    governed=("cpu", "memory"),
    unit={"cpu": 4.0, "memory": 8e9},
    overhead={"cpu": 0.2},
    base={"cpu": 2.0},
    target_utilisation={"cpu": 0.8},
)
METRICS = ("memory", "network", "cpu")
OFFER = Offer("od", "aws", "eu", "a", "ON_DEMAND", {"cpu": 15.5, "memory": 30e9}, 0.2, 60, 90, 120)


def needed(cpu: float, memory: float, policy: Policy = POLICY) -> int:
    return int(replicas(replica_loads(np.array([memory, 0.0, cpu], np.float32), METRICS, policy), policy))


def test_replicas_are_the_largest_need_over_metrics():
    # cpu: (2 + 10) / (0.8 × 4 - 0.2) = 4 exactly; a little more is 5. memory: 50e9 / 8e9 = 6.25
    assert needed(10.0, 0.0) == 4
    assert needed(10.01, 0.0) == 5
    assert needed(10.0, 50e9) == 7
    assert needed(0.0, 0.0) == 1  # the base alone: 2 / 3
    assert needed(0.0, 0.0, replace(POLICY, min=3)) == 3


def test_requests_can_be_a_capacity_of_their_own():
    policy = replace(POLICY, governed=("requests",), rps_per_replica=50.0, base={})
    loads = replica_loads(np.array([[120.0], [100.0]], np.float32), ("requests",), policy)
    assert replicas(loads, policy).tolist() == [3, 2]


def test_what_is_not_forecast_needs_nothing():
    assert needed(np.nan, 50e9) == 7
    assert int(replicas(replica_loads(np.zeros(1, np.float32), ("network",), POLICY), POLICY)) == 0


def test_a_saturated_user_counts_one_and_a_half_times():
    # one user uses 4 and is saturated, the others use 6: 6 + 1.5 × 4 = 12
    assert floor_demand(np.array([10.0]), np.array([4.0])).tolist() == [12.0]


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(0, 5))
def test_replicas_suffice_are_not_too_many_and_rise_with_demand(cpu: float, more: float, least: int):
    policy = replace(POLICY, min=least)
    n = needed(cpu, 0.0, policy)
    room = 0.8 * 4 - 0.2
    assert n * room >= (2 + cpu) * (1 - 1e-5) - 1e-4
    assert n == least or (n - 1) * room < (2 + cpu) * (1 + 1e-5)
    assert needed(cpu + more, 0.0, policy) >= n


@pytest.mark.parametrize(
    ("allocatable", "fits"),
    [
        ({"cpu": 15.5, "memory": 30e9}, 3),  # min(15.5 / 4 = 3.9, 30 / 8 = 3.75), whole
        ({"cpu": 12.0, "memory": 64e9}, 3),
        ({"cpu": 3.9, "memory": 64e9}, 0),
        ({"cpu": 12.0}, 3),  # what the offer does not name does not bound
        ({"cpu": 0.0, "memory": 64e9}, 0),
        ({"cpu": float("nan"), "memory": 64e9}, 0),
        ({"gpu": 8.0}, 0),
        ({}, 0),
    ],
)
def test_instances_hold_whole_replicas(allocatable: dict[str, float], fits: int):
    assert replicas_per_instance(replace(OFFER, allocatable=allocatable), POLICY) == fits


@pytest.mark.parametrize(
    ("reported", "fits", "mismatch"),
    [
        ({}, 3, ""),
        ({"cpu": 15.5, "memory": 30e9}, 3, ""),
        ({"cpu": 20.0, "memory": 40e9}, 3, ""),  # more, as without an overhead: the price counts
        ({"cpu": 12.5}, 3, ""),  # less, and as many replicas
        (
            {"cpu": 64.0, "memory": 8e9, "disk": 1e9},
            1,
            "1e+09 of disk, 8e+09 of memory: 1 replicas fit, and 3 by",
        ),
        ({"cpu": 8.0}, 2, "8 of cpu: 2 replicas fit, and 3 by its price's capacity"),
        ({"cpu": 3.9}, 0, "3.9 of cpu: 0 replicas fit, and 3 by its price's capacity"),
        ({"cpu": 0.0, "memory": float("nan")}, 3, ""),  # not known
        (
            {"cpu": 64.0, "memory": 64e9},
            3,
            "6.4e+10 of memory: 8 replicas fit, and 3 by its price's capacity, which",
        ),
    ],
)
def test_an_offer_has_no_more_than_is_reported_of_it(reported: dict[str, float], fits: int, mismatch: str):
    offer = as_reported(OFFER, reported, POLICY)
    assert replicas_per_instance(offer, POLICY) == fits
    assert mismatch in offer.mismatch
    assert (offer == OFFER) == (not mismatch)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"app": ""}, "app must not be empty"),
        ({"mode": "on"}, "mode must be one of shadow, canary, auto, paused, got 'on'"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ({"confidence": float("nan")}, "confidence must be between 0 and 1, got nan"),
        ({"confidence_of": "TIME"}, "confidence_of must be one of plan, time, got 'TIME'"),
        ({"governed": ()}, "governed must name at least one metric"),
        ({"governed": ("disk",)}, "unit has no size for the governed metric disk"),
        ({"unit": {"cpu": -1.0, "memory": 1.0}}, "unit of cpu must be at least 0, got -1.0"),
        ({"unit": {"cpu": 0.0, "memory": 1.0}}, "unit of cpu must be above 0"),
        ({"overhead": {"cpu": 3.2}}, "overhead of cpu leaves nothing of a replica"),
        ({"base": {"cpu": float("inf")}}, "base of cpu must be at least 0, got inf"),
        ({"target_utilisation": {"cpu": 1.2}}, "target_utilisation of cpu must be above 0 and at most 1"),
        ({"min": -1}, "min must be at least 0, got -1"),
        ({"min": 5, "max": 3}, r"max \(3\) is below min \(5\)"),
        ({"beyond_max": -0.1}, "beyond_max must be at least 0"),
        ({"budget": float("nan")}, "budget must be at least 0"),
        ({"min_on_demand": 1.5}, "min_on_demand must be in 0 to 1, got 1.5"),
        ({"max_up": 0}, "max_up must be at least 1, got 0"),
        ({"hold_s": -1.0}, "hold_s must be at least 0 seconds, got -1.0"),
        ({"hold_s_min": -1.0}, "hold_s_min must be at least 0 seconds, got -1.0"),
        ({"hold_s_max": float("nan")}, "hold_s_max must be at least 0 seconds, got nan"),
        ({"hold_s_min": 601.0}, r"hold_s_min \(601\) must be at most hold_s \(600\)"),
        ({"hold_s_max": 599.0}, r"hold_s_max \(599\) must be at least hold_s \(600\)"),
        ({"scale_down": "drain"}, "scale_down drain needs a drain_s above 0"),
        ({"scale_down": "maybe"}, "scale_down must be one of never, drain, any, got 'maybe'"),
        ({"churn_threshold": 1.0}, "churn_threshold must be at least 0 and below 1, got 1.0"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_in_one_line(change: dict[str, Any], line: str):
    with pytest.raises(ValueError, match=line) as error:
        validate(replace(POLICY, **change))
    assert str(error.value).startswith(f"policy of {change.get('app', 'shop') or '?'}: ")
    assert "\n" not in str(error.value)


def test_a_sound_policy_passes_and_a_new_app_is_in_shadow():
    assert validate(POLICY) is POLICY
    assert (POLICY.mode, POLICY.confidence) == ("shadow", 0.99)
    validate(Policy("api", ("requests",), {}, rps_per_replica=10.0))


def test_the_learner_may_choose_a_hold_time_within_the_bounds_that_are_given():
    assert POLICY.hold_bounds == (600.0, 600.0)
    assert validate(replace(POLICY, hold_s_min=0.0)).hold_bounds == (0.0, 600.0)
    assert validate(replace(POLICY, hold_s_max=900.0)).hold_bounds == (600.0, 900.0)


def test_the_limit_is_the_maximum_and_what_it_may_be_exceeded_by():
    assert replace(POLICY, max=10).limit == 10
    assert replace(POLICY, max=10, beyond_max=0.25).limit == 12  # 12.5, whole


@pytest.mark.parametrize(
    ("offer", "policy", "why"),
    [
        ({}, {}, None),
        ({}, {"providers": ("gcp",)}, "provider aws is not allowed"),
        ({}, {"regions": ("us",)}, "region eu is not allowed"),
        ({"price_h": float("nan")}, {}, "price nan is not a price"),
        ({"price_h": -1.0}, {}, "price -1.0 is not a price"),
        ({"launch_failure": 1.0}, {}, "launch failure 1.0 is not a share below 1"),
        ({"tier": "SPOT"}, {"min_on_demand": 1.0}, "the policy buys no spot"),
        ({"allocatable": {"cpu": 1.0}}, {}, "a replica does not fit"),
    ],
)
def test_offers_that_may_not_be_bought(offer: dict[str, Any], policy: dict[str, Any], why: str | None):
    assert why_unusable(replace(OFFER, **offer), replace(POLICY, **policy)) == why


def test_only_ready_and_pending_instances_are_counted_on():
    assert Observed(ready=3, pending=2, draining=4, failed=1, interrupted=5).running == 5
