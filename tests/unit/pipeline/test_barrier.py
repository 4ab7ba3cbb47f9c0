"""A tick is complete when every shard has marked it, and whole when all that was sent is there."""

from typing import Any

from pipeline.barrier import Barrier


def scenario(shard: int, tick: int, app: str = "shop", part: int = 0, of: int = 1) -> dict[str, Any]:
    return {"shard": shard, "tick": tick, "app": app, "part": part, "of": of}


def marker(shard: int, tick: int, *apps: str) -> dict[str, Any]:
    return {"shard": shard, "tick": tick, "apps": list(apps)}


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
