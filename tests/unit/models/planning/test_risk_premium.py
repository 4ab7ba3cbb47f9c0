"""What demand's and supply's risk cost, and what sizing every user alone would."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.planning.risk_premium import Level, Margin
from models.quantile_function import QuantileFunction, Z, sum_of_quantiles
from models.random_streams import stream
from tests.unit.models.planning.test_allocate import OD, POLICY, RESERVED, SPOT, constant, plan

FAILING = replace(OD, launch_failure=0.05)


def test_each_risk_adds_its_part():
    # 4 or 8 cores, one scenario in ten the second: the mean is 4.4, so 5 replicas in 3 instances; 99 % ask for 8 in 4.
    # Of 4 launches that fail in 5 % each, 4 come in 0.95⁴ = 81.5 %, of 5 in 97.7 %, of 6 in 99.8 %. But 8 are needed
    # in a tenth alone: 1 - 0.1 (1 - 0.977) = 99.8 % with 5, and with 4 1 - 0.1 (1 - 0.815) = 98.1 %.
    demand = constant(4.0)
    demand[::10] = [8.0, 0.0]
    margin = plan(demand, [FAILING]).margin
    assert margin == Margin(Level(5, 3.0), Level(8, 4.0), Level(10, 5.0))


def test_certain_demand_and_supply_have_no_margin():
    margin = plan(constant(9.0), [OD, RESERVED]).margin
    # two owned instances at 0.5 carry 4 of the 9 replicas, three bought ones 6
    assert margin == Margin(Level(9, 4.0), Level(9, 4.0), Level(10, 4.0))


def test_the_sum_of_users_is_priced_with_the_same_offers():
    users = np.broadcast_to([14.0, 0.0], (6, 2))
    # 14 replicas: 4 owned, 10 in five instances at 1 beside the 2 × 0.5 committed
    assert plan(constant(9.0), [OD, RESERVED], user_quantiles=users).sum_of_users == Level(14, 6.0)
    # 7 launches of 5 % failures: P(at least 7 of 9) = 0.9916, of 8 0.943
    assert plan(constant(9.0), [FAILING], user_quantiles=users).sum_of_users == Level(14, 9.0)
    assert plan(constant(9.0), [OD]).sum_of_users is None


def test_neither_budget_nor_maximum_hides_what_a_thing_costs():
    found = plan(constant(20.0), [OD], replace(POLICY, budget=6.0, max=15))
    assert found.margin == Margin(Level(20, 10.0), Level(20, 10.0), Level(12, None))


def test_without_offers_there_is_nothing_to_price():
    found = plan(constant(9.0), [], user_quantiles=np.ones((6, 2)))
    assert (found.margin, found.sum_of_users) == (None, None)


@settings(max_examples=15, deadline=None)
@given(
    st.floats(1, 40),
    st.integers(1, 30),
    st.sampled_from([[OD], [FAILING], [OD, SPOT], [FAILING, SPOT, RESERVED]]),
)
def test_more_risk_never_costs_less(mean: float, seed: int, offers: list[object]):
    demand = stream(np, seed).gamma(4, mean / 4, (400, 6, 2)).astype(np.float32)
    margin = plan(demand, offers).margin  # pyright: ignore[reportArgumentType]
    assert margin is not None
    assert margin.expected.replicas <= margin.demand.replicas <= margin.purchase.replicas
    costs = [level.cost for level in (margin.expected, margin.demand, margin.purchase)]
    known = [cost for cost in costs if cost is not None]
    assert known == pytest.approx(sorted(known))


def test_quantiles_of_users_add_up_and_absent_ones_are_left_out():
    location = np.array([[[10.0, 20.0]], [[5.0, math.nan]]], np.float32)  # (user, metric, step)
    forecast = QuantileFunction(
        location, np.ones_like(location), np.broadcast_to(Z.astype(np.float16), (2, 1, 2, len(Z)))
    )
    # the 99 % of a normal is its mean and 2.326 of its scale
    assert sum_of_quantiles(forecast, 0.99) == pytest.approx(
        np.array([[15 + 2 * 2.326], [20 + 2.326]]), abs=0.01
    )
