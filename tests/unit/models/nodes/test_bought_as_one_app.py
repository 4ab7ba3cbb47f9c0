"""A pool's need bought by `models.purchase` as if it were one app, and packed: it holds in the asked share."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from models.capacity import Offer, Policy, replica_loads, replicas
from models.nodes.joint_need import QUANTA, Demand, held, joint_need, shares
from models.purchase.choose import choose
from models.purchase.market import Market
from tests.unit.models.nodes.test_joint_need import TYPES, pool

RESOURCES = ("cpu", "memory", "pods")
STEPS_S = [300, 600, 900, 1200, 1500]
PRICES = (0.8, 0.4, 1.1)


def offers(usable: np.ndarray, spot: bool, price: Sequence[float]) -> list[Offer]:
    """Each type on demand and, where asked for, on spot at two fifths of the price."""
    result: list[Offer] = []
    for kind, room in enumerate(usable.tolist()):
        has: dict[str, float] = dict(zip(RESOURCES, room, strict=True))
        sold = Offer(f"od-{kind}", "aws", "eu", "a", "ON_DEMAND", has, price[kind], 60, 90, 120)
        result.append(sold)
        if spot:
            sold = replace(sold, offer_id=f"spot-{kind}", tier="SPOT", price_h=0.4 * sold.price_h)
            result.append(replace(sold, interruption_h=0.2, launch_failure=0.02, pool=f"pool-{kind}"))
    return result


def bought(
    demand: Demand, share: float, spot: bool, types: np.ndarray = TYPES, price: Sequence[float] = PRICES
) -> tuple[float, float]:
    """Share of the scenarios in which all apps' replicas fit onto what serves, and the cost per hour."""
    window = slice(0, 5)
    need = joint_need(demand, types, window, share)
    assert (need.unit > 0).all()
    unit: dict[str, float] = dict(zip(RESOURCES, need.unit.tolist(), strict=True))
    policy = Policy("pool", RESOURCES, unit, confidence=share, max=10**6)
    quanta = replicas(replica_loads(need.totals, RESOURCES, policy), policy)
    market = Market(offers(need.usable, spot, price), {}, policy, quanta, STEPS_S, (1, b"pool", 1))
    assert min(market.size.values()) == QUANTA
    best = choose(market, policy, share).best
    assert best.feasible
    serving = np.zeros((len(quanta), len(types)), np.int64)
    for offer in market.offers:
        alive = market.alive(offer, [best.counts.get(offer.offer_id, 0)])[-1, 0]
        serving[:, int(offer.offer_id[-1])] += alive // market.size[offer.offer_id]
    inside = market.window.steps
    return held(demand, need, serving, types, slice(inside.start, inside.stop), share), best.cost


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_on_demand_nodes_hold_what_was_asked_for(share: float) -> None:
    holds, _ = bought(pool(scenarios=2_048), share, spot=False)
    # in whole nodes, and for mixes of types as safe as each type alone
    assert share - 0.004 <= holds


@pytest.mark.parametrize("seed", [1, 2])
def test_a_mix_of_large_and_small_nodes_holds_as_packing_shows(seed: int) -> None:
    rng, scenarios = np.random.default_rng(seed), 2_048
    common, own = rng.standard_normal(scenarios), rng.standard_normal((3, scenarios))
    level = np.ceil(np.array([[20], [8], [6]]) * np.exp(0.3 * (0.5 * common + 0.87 * own)))
    size = np.array([[0.5, 1.0, 1.0], [1.5, 2.0, 1.0], [0.25, 4.0, 1.0]])
    order = np.tile(np.arange(scenarios), (3, 1))
    demand = Demand(np.repeat(level[:, :, None], 5, axis=2).astype(np.int32), order, size)
    large_and_small, bare = np.array([[2.0, 8.0, 58.0], [16.0, 64.0, 110.0]]), (0.092, 0.736)
    holds, cost = bought(demand, 0.99, spot=False, types=large_and_small, price=bare)
    assert 0.986 <= holds < 1
    only = [
        bought(demand, 0.99, spot=False, types=large_and_small[[kind]], price=bare[kind : kind + 1])[1]
        for kind in (0, 1)
    ]
    assert cost <= min(only)


def test_spot_nodes_hold_in_the_scenarios_that_lose_some() -> None:
    demand = pool(scenarios=2_048)
    holds, cost = bought(demand, 0.95, spot=True)
    _, safe = bought(demand, 0.95, spot=False)
    assert holds >= 0.945
    assert cost < safe


def test_a_shared_pool_costs_less_than_own_nodes() -> None:
    demand = pool(6, 2_048)
    together = bought(demand, 0.95, spot=False)[1]
    apart = sum(bought(demand.part(np.arange(6) == app), 0.95, spot=False)[1] for app in range(6))
    assert together < apart
    whose = shares(demand, joint_need(demand, TYPES, slice(0, 5), 0.95), slice(0, 5), 0.95)
    # quanta of different types have different prices
    assert whose.joint / whose.own.sum() == pytest.approx(together / apart, abs=0.15)
