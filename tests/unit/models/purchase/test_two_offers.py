"""The purchase that is looked up is the cheapest of all that hold on the same draws."""

from itertools import product

import numpy as np
import pytest

from models.capacity import Observed, Offer, Policy
from models.purchase import two_offers
from models.purchase.choose import choose
from models.purchase.constraints import bounds
from models.purchase.exchange_search import Search
from models.purchase.market import Market
from models.purchase.two_offers import Few

POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, min_on_demand=0.2, max=200)
TWO = {"cpu": 2.0}
OFFERS = [
    Offer("owned", "local", "here", "1", "RESERVED", TWO, 0.12, 60, 90, 150, owned_count=2),
    Offer("plain", "local", "here", "1", "ON_DEMAND", TWO, 0.19, 60, 90, 150, launch_failure=0.05),
    Offer("spot", "local", "here", "1", "SPOT", TWO, 0.07, 70, 110, 400, interruption_h=0.5),
]


def market_of(seed: int, running: int, offers: list[Offer] = OFFERS) -> Market:
    rng = np.random.default_rng(seed)
    needed = np.ceil(8 * rng.lognormal(0, 0.3, (400, 6))).astype(np.int32)
    observed = {"plain": Observed(ready=running), "spot": Observed(ready=2 * running)}
    return Market(offers, observed, POLICY, needed, [300 * k for k in range(1, 7)], (0, b"shop", seed))


@pytest.mark.parametrize(("seed", "running", "k"), [(0, 0, 4), (1, 2, 4), (2, 3, 40)])
def test_no_counts_that_hold_cost_less(seed: int, running: int, k: int) -> None:
    market = market_of(seed, running)
    limits = bounds(market, OFFERS, POLICY)
    search = Search(market, OFFERS, limits)
    found = Few(search).cheapest(k, limits)
    assert found is not None
    assert search.unserved(found) <= k
    assert limits.excess(found) == 0
    every = [np.array(counts) for counts in product(range(3), range(12), range(18))]
    holding = [c for c in every if limits.excess(c) <= 0 and search.unserved(c) <= k]
    assert search.cost(found) == pytest.approx(min(search.cost(c) for c in holding))


def test_no_more_of_what_is_owned_than_is_needed() -> None:
    market = market_of(0, 0)
    market.need[:] = 2
    limits = bounds(market, OFFERS, POLICY)
    assert Few(Search(market, OFFERS, limits)).cheapest(4, limits).tolist() == [1, 0, 0]  # pyright: ignore[reportOptionalMemberAccess]


def test_where_there_are_more_offers_or_nothing_holds_it_is_searched_for() -> None:
    third = [*OFFERS, Offer("other", "local", "here", "1", "ON_DEMAND", TWO, 0.2, 60, 90, 150)]
    market = market_of(0, 0, third)
    limits = bounds(market, third, POLICY)
    assert Few(Search(market, third, limits)).cheapest(4, limits) is None
    market = market_of(0, 0)
    small = bounds(market, OFFERS, Policy("shop", ("cpu",), {"cpu": 1.0}, max=6))
    assert Few(Search(market, OFFERS, small)).cheapest(4, small) is None


def test_the_search_finds_nothing_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = [choose(market_of(seed, seed % 3), POLICY, 0.99).best for seed in range(6)]
    monkeypatch.setattr(two_offers, "MOST", 0)
    searched = [choose(market_of(seed, seed % 3), POLICY, 0.99).best for seed in range(6)]
    assert all(one.feasible for one in looked_up)
    assert sum(one.cost for one in looked_up) <= sum(one.cost for one in searched) * 1.005


def test_of_hundreds_of_instances_the_search_finds_as_cheap_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    market = market_of(3, 50)
    market.need[:] *= 100  # some 1,500 replicas
    free = Policy("shop", ("cpu",), {"cpu": 1.0}, max=20_000)
    limits = bounds(market, OFFERS, free)
    assert Few(Search(market, OFFERS, limits)).cheapest(4, limits) is None
    searched = choose(market, free, 0.99).best
    monkeypatch.setattr(two_offers, "MOST", 100_000_000)
    looked_up = choose(market, free, 0.99).best
    assert sum(looked_up.counts.values()) > 500
    assert searched.feasible
    assert searched.cost <= looked_up.cost * 1.01


def test_what_rows_that_ask_for_more_allow() -> None:
    # of three replicas four in ten on demand at least: of two each, two beside three on spot
    limits = bounds(market_of(0, 0), OFFERS, Policy("shop", ("cpu",), {"cpu": 1.0}, min_on_demand=0.4))
    counts = np.array([[0, 0, 3], [0, 9, 3], [2, 0, 3], [0, 0, 0]])
    assert limits.least(counts, 1).tolist() == [2, 2, 0, 0]
    assert limits.least(counts, 2).tolist() == [0, 0, 0, 0]
