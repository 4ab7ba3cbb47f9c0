"""The least cost by HiGHS, against trying every count; the search and the pairs against it."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.baselines.spot_pairs import cheapest_pair, needed
from models.capacity import Observed, Offer, Policy
from models.purchase.choose import allowed, choose
from models.purchase.constraints import bounds
from models.purchase.market import Fluid, Market
from models.purchase.milp import least_cost
from models.random_streams import stream
from models.synthetic.purchases import STEPS_S, instance

POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, max=100_000)
OD = Offer("od", "aws", "eu", "a", "ON_DEMAND", {"cpu": 2.0}, 1.0, 20, 40, 60, launch_failure=0.05)
SPOT = replace(OD, offer_id="spot", tier="SPOT", price_h=0.4, interruption_h=1.0, pool="p")
OTHER = replace(SPOT, offer_id="other", price_h=0.45, pool="q", allocatable={"cpu": 1.0})


def fluid(
    offers: list[Offer],
    need: Any,
    observed: dict[str, Observed] | None = None,
    policy: Policy = POLICY,
    kind: type[Market] = Fluid,
) -> Any:
    replicas = np.repeat(np.asarray(need, np.int32)[:, None], len(STEPS_S), axis=1)
    return kind(offers, observed or {}, policy, replicas, STEPS_S, (1, b"shop", 2))


def by_hand(market: Market, limits: Any, confidence: float, most: int) -> float:
    """The least cost among all counts up to `most`."""
    costs = [
        sum(n * o.price_h for n, o in zip(counts, market.offers, strict=True))
        for counts in itertools.product(range(most), repeat=len(market.offers))
        if limits.excess(np.array(counts)) <= 0
        and market.holds(dict(zip((o.offer_id for o in market.offers), counts, strict=True))) >= confidence
    ]
    return min(costs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("observed", [{}, {"spot": Observed(ready=3), "od": Observed(ready=1)}])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_reference_finds_what_trying_every_count_finds(
    seed: int, observed: dict[str, Observed], share: float
):
    policy = replace(POLICY, min_on_demand=share)
    market = fluid([OD, SPOT, OTHER], stream(np, seed).poisson(5, 200), observed, policy)
    limits = bounds(market, market.offers, policy)
    found = least_cost(market, market.offers, limits, allowed(market, 0.9))
    assert found.proven
    assert found.counts is not None
    assert limits.excess(found.counts) <= 0
    assert market.holds({o.offer_id: int(n) for o, n in zip(market.offers, found.counts, strict=True)}) >= 0.9
    assert found.cost == pytest.approx(by_hand(market, limits, 0.9, 11))
    assert found.bound <= found.cost + 1e-9


def test_the_reference_says_where_nothing_holds():
    market = fluid([SPOT], np.full(50, 4), policy=replace(POLICY, max=2))
    found = least_cost(market, market.offers, bounds(market, market.offers, replace(POLICY, max=2)), 0)
    assert (found.counts, found.cost, found.proven) == (None, math.inf, True)


@pytest.mark.parametrize("seed", range(5))  # apps of 8, 40, 200, 1,000 and 4,000 replicas
def test_the_search_is_near_the_least_cost_and_below_every_pair(seed: int):
    offers, replicas = instance(seed, 30, 256)
    market = Fluid(offers, {}, POLICY, replicas, STEPS_S, (seed, b"bench", 1))
    exact = least_cost(market, offers, bounds(market, offers, POLICY), allowed(market, 0.95), 20.0)
    best, pair = choose(market, POLICY, 0.95, alternatives=False).best, cheapest_pair(market, 0.95)
    paid = sum(o.price_h * o.owned_count for o in offers if o.tier == "RESERVED")
    assert best.feasible
    assert exact.bound * (1 - 1e-4) <= best.cost - paid <= 1.02 * exact.bound
    assert not pair.feasible or best.cost <= pair.cost


def test_expected_supply_is_the_mean_of_sampled_supply():
    observed = {"spot": Observed(ready=4)}
    need = np.zeros(4096)
    mean = fluid([SPOT], need, observed).alive(SPOT, [10])[..., 0, :]
    drawn = fluid([SPOT], need, observed, kind=Market).alive(SPOT, [10])[..., 0, :]
    # 2 (4 p + 6 × 0.95 p); of 10 instances one in 4,096 scenarios errs by 2 sqrt(10 × 0.25) / 64 = 0.05 at most
    survival = fluid([SPOT], need).survival(SPOT)
    assert np.allclose(mean[-1], 2 * (4 + 6 * 0.95) * survival)
    assert drawn[-1].mean() == pytest.approx(mean[-1].mean(), abs=0.1)


def test_pairs_order_failed_launches_again():
    offer = replace(OD, launch_failure=0.1)
    lacking = np.full((1, 1, 4096), 40, np.int32)
    asked = needed(fluid([offer], np.zeros(4096), kind=Market), offer, lacking)
    # 20 instances; failures before 20 successes: 20 × 0.1 / 0.9 = 2.22
    assert asked.mean() == pytest.approx(22.22, abs=0.1)
    assert np.all(needed(fluid([offer], np.zeros(4096)), offer, lacking) == 23)  # 20 / 0.9, rounded up
    ready = fluid([offer], np.zeros(4096), {"od": Observed(ready=20)}, kind=Market)
    assert np.all(needed(ready, offer, lacking) == 20)
