"""What an adjustment may say under a policy."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.capacity import Policy
from models.learning.adjustment import STATIC, Adjustment, ExpertWeights

POLICY = Policy(
    "shop", ("cpu",), {"cpu": 1.0}, confidence=0.95, hold_s=600.0, hold_s_min=60.0, hold_s_max=900.0
)
NAN, INF = float("nan"), float("inf")


def test_static_is_what_the_policy_asks_for() -> None:
    static = Adjustment.static(POLICY)
    assert static == Adjustment(STATIC, 0.95, None, None, None, ExpertWeights(1.0, 0.0, 0.0), 1.0)
    assert static.fault(POLICY) is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"arm": ""}, "arm must not be empty"),
        ({"confidence": 0.0}, "confidence must be above 0 and below 1, got 0.0"),
        ({"confidence": 1.0}, "confidence must be above 0 and below 1, got 1.0"),
        ({"confidence": NAN}, "confidence must be above 0 and below 1, got nan"),
        ({"shortage_price": -0.5}, "shortage_price must be finite and at least 0, got -0.5"),
        ({"shortage_price": INF}, "shortage_price must be finite and at least 0, got inf"),
        ({"hold_s": 59.0}, "hold_s must be 60 to 900 seconds, got 59.0"),
        ({"hold_s": 901.0}, "hold_s must be 60 to 900 seconds, got 901.0"),
        ({"hold_s": NAN}, "hold_s must be 60 to 900 seconds, got nan"),
        ({"supply": 1.0}, "supply must be above 0 and below 1, got 1.0"),
        ({"experts": ExpertWeights(1.0, -0.25, 0.25)}, "weight of persistence must be in 0 to 1, got -0.25"),
        ({"experts": ExpertWeights(NAN)}, "weight of network must be in 0 to 1, got nan"),
        (
            {"experts": ExpertWeights(0.5, 0.5, 0.5)},
            "weights of the experts must be at most 1 together, got 1.5",
        ),
        ({"speed": 0.0}, "speed must be finite and above 0, got 0.0"),
        ({"speed": INF}, "speed must be finite and above 0, got inf"),
    ],
)
def test_a_setting_beyond_its_range_is_named(change: dict[str, Any], fault: str) -> None:
    assert replace(Adjustment.static(POLICY), **change).fault(POLICY) == fault


def test_without_bounds_the_hold_time_is_the_policys() -> None:
    unbounded = replace(POLICY, hold_s_min=None, hold_s_max=None)
    static = Adjustment.static(unbounded)
    assert replace(static, hold_s=600.0).fault(unbounded) is None
    assert replace(static, hold_s=601.0).fault(unbounded) == "hold_s must be 600 to 600 seconds, got 601.0"


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(any))
def test_weights_that_are_shares_may_be_followed(weights: list[float]) -> None:
    shares = ExpertWeights(*(weight / sum(weights) for weight in weights))
    assert replace(Adjustment.static(POLICY), experts=shares).fault(POLICY) is None
