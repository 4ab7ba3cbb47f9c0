"""A tick is complete when every shard has marked it, and whole when all that was sent is there."""

from typing import Any

import numpy as np
import pytest

from models.metrics import METRICS
from pipeline.stages.allocator.barrier import Barrier
from pipeline.wire.codec import DEFAULT
from pipeline.wire.demand import Demand


def scenario(shard: int, tick: int, app: str = "shop", part: int = 0, of: int = 1) -> dict[str, Any]:
    return {"shard": shard, "tick": tick, "app": app, "part": part, "of": of}


def marker(shard: int, tick: int, *apps: str) -> dict[str, Any]:
    return {"shard": shard, "tick": tick, "apps": list(apps), "telemetry": []}


def test_a_tick_waits_for_every_shard_also_for_one_that_began_later() -> None:
    barrier = Barrier(2)
    assert barrier.next_tick() is None
    barrier.add("scenario", scenario(0, 5))
    barrier.add("marker", marker(0, 5, "shop"))
    assert (barrier.next_tick(), barrier.missing(5)) == (5, [1])
    barrier.add("marker", marker(1, 7))  # shard 1 begins at tick 7: it has nothing before
    assert barrier.missing(5) == []
    assert list(barrier.pop(5)) == ["shop"]
    assert barrier.missing(7) == [0]


def test_what_comes_again_is_dropped() -> None:
    barrier = Barrier(1)
    assert barrier.add("scenario", scenario(0, 1))
    assert not barrier.add("scenario", scenario(0, 1))
    assert barrier.add("marker", marker(0, 1, "shop"))
    assert not barrier.add("marker", marker(0, 1, "shop"))
    barrier.pop(1)
    assert not barrier.add("scenario", scenario(0, 1))
    assert not barrier.add("marker", marker(0, 1, "shop"))


def test_shards_and_parts_are_in_order() -> None:
    barrier = Barrier(2)
    for shard, part in ((1, 0), (0, 1), (0, 0)):
        barrier.add("scenario", scenario(shard, 3, part=part, of=2 if shard == 0 else 1))
    for shard in (1, 0):
        barrier.add("marker", marker(shard, 3, "shop"))
    assert [(p["shard"], p["part"]) for p in barrier.pop(3)["shop"]] == [(0, 0), (0, 1), (1, 0)]


def test_an_app_of_which_something_was_deleted_is_left_out() -> None:
    barrier = Barrier(2)
    barrier.add("scenario", scenario(0, 3, "blog"))
    barrier.add("scenario", scenario(0, 3, "shop"))
    barrier.add("scenario", scenario(0, 3, "wiki", part=1, of=2))  # its part 0 is gone
    barrier.add("marker", marker(0, 3, "blog", "shop", "wiki"))
    barrier.add("marker", marker(1, 3, "shop"))  # and the scenarios of shop that shard 1 sent
    assert list(barrier.pop(3)) == ["blog"]


@pytest.mark.parametrize(
    ("cpu", "memory", "idle"),
    [(0.0, 0.0, True), (0.0, np.nan, False), (np.nan, np.nan, False), (0.0, 1.0, False)],
)
def test_only_an_explicit_zero_of_all_that_is_forecast_is_idle(cpu: float, memory: float, idle: bool) -> None:
    usage = np.full(len(METRICS), np.nan)
    usage[[METRICS.index("cpu"), METRICS.index("memory")]] = cpu, memory
    nothing = np.full(len(METRICS), np.nan)
    assert Demand(np.zeros((1, 6, 2)), ("cpu", "memory"), usage, nothing, nothing, 1, 1).idle is idle
    assert not Demand.silent((), 6).idle


def whole(shard: int, user_quantiles: list[float] | None) -> dict[str, Any]:
    """A shard's scenario of two steps of one metric, as it comes off the topic."""
    two = np.ones(2, "<f2").tobytes()
    fields = {
        "app": "shop", "allocation_group": "shop", "shard": shard, "seq": 0, "tick": 3, "tick_s": 60,
        "steps": [60, 120], "metrics": ["cpu"], "users": 1, "reporting": 1, "scenarios": 1,
        "scale": np.ones(2, "<f4").tobytes(), "demand": two, "observed": np.ones(1).tobytes(),
        "saturated": np.zeros(1).tobytes(), "kinds": [], "rates": b"", "model_id": "m",
        "user_quantiles": None if user_quantiles is None else np.array(user_quantiles).tobytes(),
    }  # fmt: skip
    return DEFAULT.decode(DEFAULT.encode("scenario", fields))[1]


def test_users_own_quantiles_add_up_over_the_shards_where_all_say_them() -> None:
    found = Demand.of([whole(0, [2.0, 3.0]), whole(1, [0.5, 1.0])]).user_quantiles
    assert found is not None
    assert found.tolist() == [[2.5], [4.0]]
    assert Demand.of([whole(0, [2.0, 3.0]), whole(1, None)]).user_quantiles is None  # of an older simulator
