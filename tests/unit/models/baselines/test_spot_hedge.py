import numpy as np

from models.baselines.spot_hedge import SpotHedge
from tests.unit.models.evaluation.test_simulated_cloud import offer

OFFERS = [offer("a", "SPOT"), offer("b", "SPOT"), offer("c", "SPOT"), offer("d"), offer("e")]
PRICE = np.array([0.3, 0.3, 0.2, 1.0, 0.9])
NOTHING, QUIET = np.zeros((1, 5), np.int64), np.zeros((1, 5), bool)


def test_replicas_are_spread_and_backed_on_demand_until_they_are_ready() -> None:
    hedge = SpotHedge(OFFERS, [1])
    first = hedge.decide(np.array([5]), NOTHING, NOTHING, QUIET, PRICE)
    assert first.tolist() == [[2, 2, 2, 0, 5]]
    later = hedge.decide(
        np.array([5]), np.array([[2, 1, 1, 0, 5]]), np.array([[0, 1, 1, 0, 0]]), QUIET, PRICE
    )
    assert later.tolist() == [[2, 2, 2, 0, 2]], "min(5, 5 + 1 - 4) on demand"


def test_a_preempting_zone_is_left_until_fewer_than_two_are_active() -> None:
    hedge = SpotHedge(OFFERS, [1])
    hit = np.array([[True, False, False, False, False]])
    after = hedge.decide(np.array([5]), np.array([[0, 2, 2, 0, 0]]), NOTHING, hit, PRICE)
    assert after[0, :3].tolist() == [0, 3, 3]
    hedge.decide(np.array([5]), NOTHING, NOTHING, np.array([[True, True, False, False, False]]), PRICE)
    assert hedge.active[0] == {0, 1, 2}, "rebalanced"


def test_what_is_too_much_is_given_back() -> None:
    hedge = SpotHedge(OFFERS, [0])
    after = hedge.decide(np.array([2]), np.array([[2, 2, 2, 0, 3]]), NOTHING, QUIET, PRICE)
    assert after.tolist() == [[1, 0, 1, 0, 0]]
