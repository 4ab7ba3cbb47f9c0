import numpy as np

from models.evaluation.supplied_cloud import UNLIMITED, SuppliedCloud, Supply
from tests.unit.models.evaluation.test_simulated_cloud import offer

SPOT = offer("s", "SPOT", interruption_h=9.0, startup_p50_s=30.0, startup_p90_s=30.0, startup_p99_s=30.0)
DEMAND = offer("d", startup_p50_s=30.0, startup_p90_s=30.0, startup_p99_s=30.0)


def cloud(room: list[int], out: list[bool] | None = None) -> SuppliedCloud:
    outages = {} if out is None else {"p": np.array(out)}
    supply = Supply(0, {"s": np.array(room)}, {"s": np.arange(len(room)) / 10}, outages)
    return SuppliedCloud([SPOT, DEMAND], {}, supply, tick_s=60, seed=0, app="a")


def test_a_pool_takes_back_what_it_does_not_give_and_its_successors_wait_for_nothing() -> None:
    one = cloud([UNLIMITED, 2, 0, 0, UNLIMITED, UNLIMITED])
    fleet = one.start({"s": 5, "d": 1}, 1)
    rows: list[tuple[int, int, int, float]] = []
    for tick in range(6):
        one.apply(fleet, np.array([[5, 1]]), tick)
        one.live(fleet, tick)
        rows.append(
            (
                int(fleet.least[0, 0]),
                int(fleet.failed[0, 0]),
                int(fleet.interrupted[0, 0]),
                round(float(fleet.hours[0, 0]) * 60),
            )
        )
    # five serve; two stay, and the lost three are billed to the tick's end; all are lost; nothing; they start; serve
    assert rows == [(5, 0, 0, 5), (2, 3, 3, 5), (0, 5, 2, 2), (0, 5, 0, 0), (0, 0, 0, 5), (5, 0, 0, 5)]


def test_a_provider_that_is_out_changes_nothing_and_starts_nothing() -> None:
    one = cloud([UNLIMITED] * 4, [False, True, True, False])
    fleet = one.start({"s": 1, "d": 1}, 1)
    ready: list[list[int]] = []
    for tick in range(4):
        one.apply(fleet, np.array([[4, 0]] if tick else [[2, 1]]), tick)
        one.live(fleet, tick)
        ready.append(fleet.ready[0].tolist())
    assert ready == [[2, 1], [2, 1], [2, 1], [4, 0]]


def test_prices_are_of_their_time_and_repeat() -> None:
    supply = cloud([1, 2, 3]).supply
    assert [supply.price_of(SPOT, tick) for tick in (0, 2, 3)] == [0.0, 0.2, 0.0]
    assert supply.price_of(DEMAND, 0) == 1.0
    assert supply.room_of("d", 0) == UNLIMITED
