import math

import numpy as np
import pytest

from models.capacity import Offer
from models.evaluation.simulated_cloud import Fleet, SimulatedCloud, Terms


def offer(name: str, tier: str = "ON_DEMAND", **fields: object) -> Offer:
    plain: dict[str, object] = {
        "provider": "p", "region": "r", "zone": "z", "allocatable": {"cpu": 2.0}, "price_h": 1.0,
        "startup_p50_s": 90.0, "startup_p90_s": 90.0, "startup_p99_s": 90.0,
    }  # fmt: skip
    return Offer(offer_id=name, tier=tier, **plain | fields)  # pyright: ignore[reportArgumentType]


def cloud(*offers: Offer, tick_s: int = 60, **terms: Terms) -> SimulatedCloud:
    return SimulatedCloud(offers, terms, tick_s=tick_s, seed=0, app="a")


def through(provider: SimulatedCloud, fleet: Fleet, asked: list[list[list[int]]]) -> list[tuple[int, float]]:
    """Least ready and hours of the first lane's first offer, tick by tick."""
    found: list[tuple[int, float]] = []
    for tick, desired in enumerate(asked):
        provider.apply(fleet, np.array(desired), tick)
        provider.live(fleet, tick)
        found.append((int(fleet.least[0, 0]), float(fleet.hours[0, 0])))
    return found


def test_an_instance_serves_in_the_first_tick_that_starts_after_it_is_ready() -> None:
    one = cloud(offer("o"))
    # asked for at 0 s, ready at 90 s: not at the starts of ticks 0 and 1 (0 and 60 s), but at 120 s; billed from 0 on
    assert through(one, one.start({}, 1), [[[1]]] * 4) == [(0, 1 / 60), (0, 1 / 60), (1, 1 / 60), (1, 1 / 60)]


def test_a_start_up_takes_its_median_and_99_percent() -> None:
    one = cloud(offer("o", startup_p50_s=60.0, startup_p99_s=300.0), tick_s=60)
    fleet = one.start({}, 1)
    one.apply(fleet, np.array([[20_000]]), 0)
    ready = np.cumsum(fleet.pending[0, 0]) / 20_000
    # at the end of tick k all that took up to 60 (k + 1) s
    assert ready[0] == pytest.approx(0.5, abs=0.01)
    assert ready[4] == pytest.approx(0.99, abs=0.002)


def test_a_failed_launch_is_tried_again() -> None:
    one = cloud(offer("o", launch_failure=0.25), tick_s=60)
    fleet = one.start({}, 1)
    one.apply(fleet, np.array([[40_000]]), 0)
    share = fleet.pending[0, 0] / 40_000
    # 90 s: in the second tick; after a failure 90 + 60 + 90 = 240 s: in the fourth; after two 390 s: in the seventh
    assert share[[1, 3, 6]] == pytest.approx([0.75, 0.25 * 0.75, 0.25**2 * 0.75], abs=0.01)


def test_spot_is_lost_at_its_rate_and_in_waves() -> None:
    one = cloud(offer("o", "SPOT", interruption_h=1.0), tick_s=300)
    lost: list[float] = []
    for tick in range(4_000):
        fleet = one.start({"o": 100}, 1)
        one.live(fleet, tick)
        lost.append(1 - float(fleet.least[0, 0]) / 100)
    expected = 1 - math.exp(-1 / 12)
    assert np.mean(lost) == pytest.approx(expected, abs=0.01)
    # beta-binomial of 100: p q (1 + 99 ρ) / 100 with ρ = 0.3
    assert np.var(lost) == pytest.approx(expected * (1 - expected) * (1 + 99 * 0.3) / 100, rel=0.15)


def test_every_lane_meets_the_same_luck() -> None:
    one = cloud(offer("o", "SPOT", interruption_h=2.0, launch_failure=0.1, startup_p99_s=400.0), tick_s=60)
    few, many = one.start({"o": 3}, 1), one.start({"o": 3}, 2)
    for tick in range(50):
        one.apply(few, np.array([[5]]), tick)
        one.apply(many, np.array([[5], [40]]), tick)
        one.live(few, tick)
        one.live(many, tick)
        assert few.least[0, 0] == many.least[0, 0]
        assert few.hours[0, 0] == many.hours[0, 0]
        assert (many.running[:, 0] == [5, 40]).all()


def test_pending_instances_are_released_first_and_a_least_time_is_billed() -> None:
    one = cloud(offer("o"), tick_s=60, o=Terms(billing_min_s=180.0))
    fleet = one.start({"o": 2}, 1)
    seen = through(one, fleet, [[[5]], [[2]], [[2]]])
    # three are released after 60 s and billed for 120 s more, beside two that run for 60 s
    assert seen == [(2, pytest.approx(5 / 60)), (2, pytest.approx((2 * 60 + 3 * 120) / 3600)), (2, 2 / 60)]


def test_what_is_reserved_is_paid_used_or_not() -> None:
    one = cloud(offer("o", "RESERVED", owned_count=4), tick_s=60)
    seen = through(one, one.start({}, 1), [[[9]], [[0]]])
    assert [hours for _, hours in seen] == [4 / 60, 4 / 60]
