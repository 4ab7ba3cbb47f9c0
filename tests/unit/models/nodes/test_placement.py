"""Replicas on nodes from one time to the next."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.nodes.placement import Placement, Wanted, placed_at, use

CORES = {"a": {"cpu": 4.0}, "b": {"cpu": 4.0}}


def wanted(count: int, priority: int = 0, cpu: float = 1.0, **more: Any) -> Wanted:
    return Wanted(count, {"cpu": cpu}, priority, **more)


def test_replicas_keep_the_time_of_their_placement_and_new_ones_get_theirs() -> None:
    first = placed_at(Placement(), CORES, {"shop": wanted(3)}, 10.0)
    assert first == Placement({"a": {"shop": (10.0, 10.0, 10.0)}}, {})
    second = placed_at(first, CORES, {"shop": wanted(5)}, 20.0)
    assert second.on == {"a": {"shop": (10.0, 10.0, 10.0, 20.0)}, "b": {"shop": (20.0,)}}
    assert second.since_s("shop") == [10.0, 10.0, 10.0, 20.0, 20.0]
    # of the node that stays the newest go, and nodes that are used least are emptied first
    assert placed_at(second, CORES, {"shop": wanted(3)}, 30.0).on == {"a": {"shop": (10.0, 10.0, 10.0)}}


def test_a_node_that_is_gone_takes_its_replicas_with_it() -> None:
    first = placed_at(Placement(), CORES, {"shop": wanted(4)}, 10.0)
    left = placed_at(first, {"b": CORES["b"]}, {"shop": wanted(4)}, 20.0)
    assert left.on == {"b": {"shop": (20.0,) * 4}}
    nowhere = placed_at(left, {}, {"shop": wanted(4)}, 30.0)
    assert nowhere == Placement({}, {"shop": "there are no nodes"})


def test_those_that_ran_before_count_from_then() -> None:
    placed = placed_at(Placement(), CORES, {"shop": wanted(1, since_s=-50.0)}, 10.0)
    assert placed.since_s("shop") == [-50.0]


def test_replicas_are_spread_over_zones_as_far_as_the_share_asks() -> None:
    zones = {"a": "east", "b": "west"}
    apps = {"shop": wanted(4, zone_share=0.5)}
    spread = placed_at(Placement(), CORES, apps, 10.0, zones)
    assert spread.on == {"a": {"shop": (10.0,) * 2}, "b": {"shop": (10.0,) * 2}}
    assert placed_at(Placement(), CORES, {"shop": wanted(4)}, 10.0, zones).on == {"a": {"shop": (10.0,) * 4}}
    # with one zone there is nothing to spread over
    alone = placed_at(Placement(), {"a": CORES["a"]}, apps, 10.0, zones)
    assert alone.since_s("shop") == [10.0] * 4


def test_an_app_that_is_not_wanted_any_more_leaves_room() -> None:
    full = placed_at(Placement(), {"a": CORES["a"]}, {"shop": wanted(4), "hall": wanted(4, 1)}, 0.0)
    assert full.since_s("shop") == []
    assert full.reasons == {"shop": "no node has room: cpu is short"}
    alone = placed_at(full, {"a": CORES["a"]}, {"shop": wanted(4), "hall": wanted(0)}, 5.0)
    assert alone == Placement({"a": {"shop": (5.0,) * 4}}, {})
    assert placed_at(alone, CORES, {}, 6.0) == Placement()


def test_what_a_node_does_not_list_does_not_bound() -> None:
    gpu = {"shop": Wanted(3, {"cpu": 1.0, "gpu": 9.0})}
    placed = placed_at(Placement(), CORES, gpu, 0.0)
    assert placed.since_s("shop") == [0.0] * 3
    assert use(placed, CORES, gpu) == {"a": 0.75, "b": 0.0}


def test_use_is_of_the_resource_of_which_most_is_taken() -> None:
    room = {"a": {"cpu": 4.0, "memory": 10.0}}
    apps = {"shop": Wanted(1, {"cpu": 1.0, "memory": 6.0}), "hall": Wanted(1, {"cpu": 2.0})}
    assert use(placed_at(Placement(), room, apps, 0.0), room, apps) == {"a": 0.75}
    assert use(Placement(), room, {}) == {"a": 0.0}
    assert use(Placement(), {}, apps) == {}


EVENT = st.tuples(
    st.sets(st.sampled_from("abcd")),
    st.fixed_dictionaries({app: st.tuples(st.integers(0, 6), st.integers(0, 2)) for app in "xyz"}),
)


@given(st.lists(EVENT, min_size=1, max_size=6))
def test_nothing_is_lost_overfilled_or_placed_without_need(events: list[Any]) -> None:
    placement, before = Placement(), Placement()
    for number, (nodes, counts) in enumerate(events):
        room = {node: {"cpu": 4.0} for node in sorted(nodes)}
        asked = {app: wanted(count, priority, 1.5) for app, (count, priority) in counts.items()}
        before, placement = placement, placed_at(placement, room, asked, float(number))
        assert placement.on.keys() <= nodes
        assert all(sum(map(len, apps.values())) <= 2 for apps in placement.on.values())
        for app, of in asked.items():
            since_s = placement.since_s(app)
            assert len(since_s) <= of.count
            assert (len(since_s) < of.count) == (app in placement.reasons)
            old = [at_s for at_s in since_s if at_s < number]
            assert all(old.count(at_s) <= before.since_s(app).count(at_s) for at_s in old)
        placed = sum(len(placement.since_s(app)) for app in asked)
        assert placed == min(2 * len(nodes), sum(of.count for of in asked.values()))
        assert placed_at(placement, room, asked, number + 0.5) == placement
