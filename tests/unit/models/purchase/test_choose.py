"""Supply that may fail, and the least cost at which it meets the scenarios."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.capacity import Observed, Offer, Policy
from models.purchase.choose import choose
from models.purchase.market import POOL_CORRELATION, Market
from models.purchase.promise_window import window
from models.random_streams import stream

S = 4096
TICKS = (300, 600, 900, 1200, 1500, 1800)
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto")
OD = Offer("od", "aws", "eu", "a", "ON_DEMAND", {"cpu": 2.0}, 1.0, 60, 90, 120)
SPOT = replace(OD, offer_id="spot", tier="SPOT", price_h=0.3, interruption_h=0.1, pool="p")
RESERVED = replace(OD, offer_id="own", tier="RESERVED", price_h=0.5, owned_count=2)


def market(
    offers: list[Offer], need: Any, observed: dict[str, Observed] | None = None, seed: int = 1, tick: int = 2
) -> Market:
    """need: a number, or (scenario) replicas in every step."""
    replicas = np.repeat(np.broadcast_to(np.asarray(need, np.int32), (S,))[:, None], 6, axis=1)
    return Market(offers, observed or {}, POLICY, replicas, TICKS, (seed, b"shop", tick))


@pytest.mark.parametrize(
    ("steps_s", "startup_s", "expected"),
    [
        # started at 0 and ready at 120, new instances serve the whole tick 300 to 600; 120 + 300 = 420 is in it
        (TICKS, 120, (1, 2)),
        # ready at 120: from the tick 120 to 180 on, to 300 s
        ((60, 120, 180, 240, 300, 360), 120, (2, 5)),
        ((60, 120, 180, 240, 300, 360), 0, (0, 5)),
        # 10-second ticks, steps 1, 3, 6, 12, 18, 30: the step that ends at 180 starts at 170
        ((10, 30, 60, 120, 180, 300), 120, (4, 6)),
        # slower than the last step: the promise is for the last one
        ((10, 30, 60, 120, 180, 300), 900, (5, 6)),
    ],
)
def test_the_promise_covers_lead_time_to_horizon(
    steps_s: tuple[int, ...], startup_s: float, expected: tuple[int, int]
):
    steps = window([replace(OD, startup_p99_s=startup_s)], steps_s).steps
    assert (steps.start, steps.stop) == expected


def test_each_offer_serves_from_its_own_step():
    found = window([OD, replace(OD, startup_p99_s=400)], TICKS)
    # to max(300, 400 + 300) = 700 s; the slow one is there at 400, in time for the tick 600 to 900
    assert (found.steps.start, found.steps.stop) == (1, 3)
    assert found.late.tolist() == [[True, True], [False, True]]


def test_spot_losses_are_beta_binomial():
    n, q = 20, math.exp(-0.1 * 600 / 3600)
    alive = market([SPOT], 0).alive(replace(SPOT, launch_failure=0.0), [n])[0, 0] / 2
    # variance n q (1 - q) (1 + (n - 1) ρ): losses in waves, 6.7 times the independent
    assert alive.mean() == pytest.approx(n * q, abs=0.1)
    assert alive.var() == pytest.approx(n * q * (1 - q) * (1 + (n - 1) * POOL_CORRELATION), rel=0.25)


def test_one_pool_is_lost_together_and_two_are_not():
    other = replace(SPOT, offer_id="spot2")
    same, apart = market([SPOT, other], 0), market([SPOT, replace(other, pool="q")], 0)

    def correlation(m: Market) -> float:
        return float(np.corrcoef(m.alive(m.offers[0], [50])[0, 0], m.alive(m.offers[1], [50])[0, 0])[0, 1])

    assert correlation(same) > 0.8
    assert abs(correlation(apart)) < 0.1


def test_more_instances_never_serve_less_and_new_ones_serve_late():
    found = Market(
        [SPOT, replace(SPOT, offer_id="slow", startup_p99_s=400, launch_failure=0.2)],
        {"slow": Observed(ready=3)},
        POLICY,
        np.zeros((S, 6), np.int32),
        TICKS,
        (1, b"shop", 2),
    )
    alive = found.alive(found.offers[1], [0, 2, 3, 5, 9])  # groups: before it serves, and after
    assert np.all(np.diff(alive, axis=1) >= 0)
    early, late = (alive[0], alive[1]) if alive[1].max() > alive[0].max() else (alive[1], alive[0])
    assert early[4].max() == 2 * 3  # of nine asked for, the three that are ready
    # 3 ready + 6 launched, 80 % of them there, all surviving with exp(-0.1 × 0.25 h) = 0.975
    assert late[4].mean() == pytest.approx(2 * (3 + 6 * 0.8) * math.exp(-0.1 * 900 / 3600), rel=0.02)


def test_a_known_need_is_bought_exactly():
    choice = choose(market([OD], 9), POLICY, 0.99, (0.95,))
    assert choice.best.counts == {"od": 5}  # 9 replicas, two an instance
    assert (choice.best.cost, choice.best.risk, choice.best.feasible) == (5.0, 0.0, True)
    assert choice.cost_at == {0.95: 5.0}


def test_reserved_instances_come_first():
    choice = choose(market([OD, RESERVED], 9), POLICY, 0.99)
    assert choice.best.counts == {"own": 2, "od": 3}
    assert choice.best.cost == 2 * 0.5 + 3  # the commitment is paid whatever is used
    assert choose(market([OD, RESERVED], 2), POLICY, 0.99).best.counts == {"own": 1}


def test_confidence_decides_how_much_of_a_rare_need_is_bought():
    need = np.where(np.arange(S) < 0.02 * S, 20, 10)  # 2 % of the scenarios need 20
    found = market([OD], need)
    assert choose(found, POLICY, 0.95).best.counts == {"od": 5}
    choice = choose(found, POLICY, 0.99, (0.95, 0.99, 0.999))
    assert choice.best.counts == {"od": 10}
    assert choice.cost_at == {0.95: 5.0, 0.99: 10.0, 0.999: 10.0}
    assert choose(found, replace(POLICY, max=15), 0.99, (0.95, 0.99)).cost_at == {0.95: 5.0, 0.99: None}


def test_the_search_finds_what_trying_every_pair_finds():
    need = stream(np, 5).poisson(12, S).astype(np.int32)
    offers = [replace(SPOT, price_h=0.8), replace(OD, launch_failure=0.02)]
    found = market(offers, need)
    best = choose(found, POLICY, 0.99).best
    costs = {
        (n, m): 0.8 * n + m
        for n in range(25)
        for m in range(25)
        if found.holds({"spot": n, "od": m})
        >= 0.99 + 0.002  # its launches are other draws: leave their error
    }
    assert best.feasible
    assert best.cost <= min(costs.values())
    assert found.holds(best.counts) >= 0.99 - 0.002


def test_the_promise_holds_in_scenarios_that_the_search_has_not_seen():
    need = stream(np, 6).poisson(30, (2, S)).astype(np.int32)
    offers = [replace(SPOT, interruption_h=0.5), replace(OD, launch_failure=0.05)]
    best = choose(market(offers, need[0]), POLICY, 0.95).best
    assert best.counts["spot"] > 0
    fresh = [market(offers, need[1], seed=9, tick=t).holds(best.counts) for t in range(4)]
    # error of a share at 0.95: sqrt(0.95 × 0.05 / 4096) = 0.0034, of the choice the same
    assert np.mean(fresh) == pytest.approx(0.95, abs=0.015)


def test_riskier_spot_is_used_less():
    def spot(rate: float) -> int:
        offers = [replace(SPOT, interruption_h=rate), OD]
        return choose(market(offers, 20), POLICY, 0.99).best.counts.get("spot", 0)

    assert spot(0.0) == 10  # never lost: just what is needed, at 0.3 an instance
    assert spot(20.0) == 0  # survives with exp(-3.3) = 4 %


def test_the_on_demand_share_is_kept():
    policy = replace(POLICY, min_on_demand=0.5)
    counts = choose(market([SPOT, OD], 20), policy, 0.99).best.counts
    assert counts["od"] >= counts["spot"]
    with_own = choose(market([SPOT, OD, RESERVED], 20), policy, 0.99).best.counts
    assert with_own["own"] + with_own.get("od", 0) >= with_own["spot"]


def test_the_budget_drops_instances_and_says_so():
    best = choose(market([OD], 20), replace(POLICY, budget=7.5), 0.99).best
    assert (best.counts, best.cost, best.feasible) == ({"od": 7}, 7.0, False)
    assert best.short == "the budget drops 3 of 10 instances"


def test_the_maximum_bounds_what_is_bought():
    best = choose(market([OD], 20), replace(POLICY, max=15), 0.99).best
    assert best.counts == {"od": 7}  # 14 replicas; 16 would be above
    assert best.short == "20 replicas are needed, the maximum is 15"
    assert (best.feasible, best.risk) == (False, 1.0)
    # 15 replicas fit under the maximum, eight instances of two do not
    odd = choose(market([OD], 15), replace(POLICY, max=15), 0.99).best
    assert (odd.counts, odd.short) == ({"od": 7}, "the maximum drops 1 of 8 instances")
    assert choose(market([OD], 20), replace(POLICY, max=16), 0.99).best.counts == {"od": 8}


def test_a_budget_below_the_commitment_buys_nothing_more():
    best = choose(market([OD, RESERVED], 20), replace(POLICY, budget=0.5), 0.99).best
    assert (best.counts, best.feasible) == ({"own": 2}, False)


def test_without_offers_nothing_is_bought():
    best = choose(market([], 5), POLICY, 0.99, (0.99,)).best
    assert (best.counts, best.risk, best.feasible) == ({}, 1.0, False)


def test_a_step_that_only_a_slower_offer_could_serve_is_not_promised():
    slow = replace(OD, startup_p99_s=400)
    fast = replace(SPOT, interruption_h=0.0, price_h=5.0)
    replicas = np.tile(np.array([0, 6, 2, 0, 0, 0], np.int32), (S, 1))
    found = Market([slow, fast], {}, POLICY, replicas, TICKS, (1, b"shop", 2))
    # the tick 300 to 600 needs 6 replicas, which only the dear fast offer can bring
    assert choose(found, POLICY, 0.99).best.counts == {"spot": 3}


def test_hundreds_of_instances_are_searched_on_a_coarser_grid():
    need = stream(np, 7).normal(4000, 100, S).astype(np.int32)
    best = choose(market([SPOT, OD], need), replace(POLICY, max=10_000), 0.99).best
    assert best.feasible
    assert best.cost < 0.5 * 2120  # on demand alone: (4000 + 2.33 × 100) / 2 = 2116 instances
