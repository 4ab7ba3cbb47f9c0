"""How sure to be where a shortage has a price."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from models.capacity import Offer, validate
from models.planning.shortage_price import MOST, confidence, confidences, prices
from models.purchase.market import Market
from models.random_streams import stream
from tests.unit.models.planning.test_allocate import OD, POLICY, RESERVED, SPOT, TICKS, constant, plan


def test_the_confidence_is_where_one_more_replica_costs_what_it_saves():
    # N(1000, 100) replicas at 1, a shortage at 1000: 1 = 1000 f(r), so φ(z) = 0.1, z = sqrt(-2 ln(0.1 √2π)) = 1.66
    need = np.rint(norm.ppf((np.arange(100_000) + 0.5) / 100_000, 1000, 100)).astype(int)
    z = np.sqrt(-2 * np.log(0.1 * np.sqrt(2 * np.pi)))
    assert confidence(need, 0, 1.0, 1000.0) == pytest.approx(norm.cdf(z), abs=2e-3)
    assert confidence(need, 0, 2.0, 2000.0) == confidence(need, 0, 1.0, 1000.0)


def test_many_prices_at_once_have_the_confidence_of_each():
    need, shortages = np.random.default_rng(3).integers(0, 40, 1_024), (1, 5, 20, 100, 700, 5_000)
    each = [confidence(need, 7, 1.0, price) for price in shortages]
    assert confidences(np.sort(need), 7, shortages).tolist() == each


def test_misses_fall_where_a_replica_saves_most():
    calm, bursts = np.full(1000, 10), np.full(1000, 10)
    calm[:20], bursts[:20] = 11, 60  # 2 % of the scenarios: one replica more, or fifty
    assert confidence(calm, 0, 1.0, 100.0) == MOST
    assert confidence(bursts, 0, 1.0, 100.0) == 0.98
    assert confidence(bursts, 60, 1.0, 100.0) == MOST  # all of them are paid for
    assert confidence(bursts, 0, 1.0, 1e6) == MOST


def test_the_price_of_a_replica_is_the_cheapest_one_that_serves():
    def of(*offers: Offer) -> tuple[int, float]:
        return prices(Market(offers, {}, POLICY, np.ones((4, 6), np.int32), TICKS, (1, b"a", 1)))

    assert of(OD, RESERVED) == (4, 0.5)  # two instances of two replicas are owned; one on demand costs 1
    assert of(RESERVED) == (4, 0.0)
    owned, price = of(OD, SPOT, RESERVED)
    assert owned == 4
    assert 0.15 < price < 0.16  # 0.3 for two replicas, of which 5 % an hour are interrupted
    assert of(replace(OD, launch_failure=0.5)) == (0, 1.0)


def test_a_plan_is_as_sure_as_costs_least_and_at_least_as_the_policy_says():
    demand = constant(4.0)
    demand[:30] = [40.0, 0.0]  # 3 % of the scenarios need 36 replicas more, at 0.5 each
    lean, dear, sure = (
        replace(POLICY, confidence=c, shortage_price_h=p)
        for c, p in ((0.9, 100.0), (0.9, 1000.0), (0.99, 100.0))
    )
    assert (plan(demand, [OD], lean).confidence_asked, plan(demand, [OD], lean).cost) == (0.97, 2.0)
    found = plan(demand, [OD], dear)  # 0.03 × 1000 is more than 18
    assert (found.confidence_asked, found.cost, found.feasible) == (MOST, 20.0, True)
    assert found.reason.endswith("; an hour's shortage at 1000 asks for more than 0.9")
    assert plan(demand, [OD], sure).confidence_asked == 0.99
    assert plan(demand, [OD], replace(POLICY, confidence=0.9)).confidence_asked == 0.9


def test_fewer_misses_are_dear_in_all_the_more_they_cost():
    need = stream(np, 3).lognormal(3, 1, 4096).astype(int)
    asked = [confidence(need, 0, 1.0, price) for price in (1.0, 30.0, 300.0, 3000.0)]
    assert asked == sorted(asked)
    assert asked[0] < 0.5 < asked[-1]


@pytest.mark.parametrize("price", [-1.0, float("inf"), float("nan")])
def test_a_price_is_finite_and_not_negative(price: float):
    with pytest.raises(ValueError, match=r"policy of shop: shortage_price_h must be at least 0"):
        validate(replace(POLICY, shortage_price_h=price))
