"""Packing: never more than there is, near the fewest nodes, by priority, and alike among equals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.capacity import ROUNDING
from models.nodes.packing import (
    Nodes,
    Packing,
    Replicas,
    consolidate,
    fits,
    fluid_nodes,
    left_over,
    nodes_needed,
    pack,
)

CPU = ("cpu",)
THREE = ("cpu", "memory", "pods")


def apps(*size: float, **limits: Any) -> Replicas:
    """Apps whose replicas take these amounts of one resource."""
    arrays = {name: np.array(values) for name, values in limits.items()}
    return Replicas(CPU, np.array(size)[:, None], **arrays)


def nodes(*room: float, zone: Any = None) -> Nodes:
    return Nodes(np.array(room)[:, None], np.zeros(len(room), np.int64) if zone is None else np.array(zone))


def placed(packing: Packing) -> list[int]:
    return packing.placed.sum(axis=0).tolist()


@st.composite
def pools(draw: st.DrawFn, resources: int = 2) -> tuple[Nodes, Replicas, np.ndarray]:
    """Few apps and nodes of one to three types in two zones, with priorities and limits; often too few nodes."""
    number = draw(st.integers(1, 5))
    whole = st.lists(st.integers(1, 9), min_size=resources, max_size=resources)
    size = np.array([draw(whole) for _ in range(number)], float)
    kinds = draw(st.integers(1, 3))
    allocatable = np.array([[2.0 * v for v in draw(whole)] for _ in range(kinds)])
    count = np.array([draw(st.integers(0, 4)) for _ in range(kinds)])
    replicas = Replicas(
        THREE[:resources],
        size,
        priority=np.array([draw(st.integers(0, 2)) for _ in range(number)]),
        zone_share=np.array([draw(st.sampled_from([0.3, 0.5, 0.7, 1.0])) for _ in range(number)]),
        per_node=np.array([draw(st.integers(1, 9)) for _ in range(number)]),
    )
    counts = np.array([draw(st.integers(0, 9)) for _ in range(number)])
    return Nodes.of(count, allocatable, np.arange(kinds) % 2), replicas, counts


def zone_most(pool: Nodes, replicas: Replicas, counts: np.ndarray) -> np.ndarray:
    assert replicas.zone_share is not None
    share = np.maximum(replicas.zone_share, 1 / max(len(set(pool.zone.tolist())), 1))
    return np.where(share < 1, np.ceil(share * counts - ROUNDING), np.inf)


def assert_valid(packing: Packing, pool: Nodes, replicas: Replicas, counts: np.ndarray) -> None:
    """Counts add up, no node and no limit is exceeded, and what is pending fits nowhere and has a reason."""
    assert replicas.per_node is not None
    assert (packing.placed >= 0).all()
    assert (packing.pending >= 0).all()
    assert (packing.placed.sum(axis=0) + packing.pending == counts).all()
    free = pool.room - packing.placed @ replicas.size
    assert (free >= -1e-4).all()
    assert (packing.placed <= replicas.per_node).all()
    in_zone = np.array([packing.placed[pool.zone == z].sum(axis=0) for z in range(2)])
    assert (in_zone <= zone_most(pool, replicas, counts)).all()
    for app, pending in enumerate(packing.pending):
        assert bool(packing.reasons[app]) == (pending > 0)
        if pending:
            roomy = (free >= replicas.size[app]).all(axis=1) & (
                packing.placed[:, app] < replicas.per_node[app]
            )
            roomy &= in_zone[pool.zone, app] < zone_most(pool, replicas, counts)[app]
            assert not roomy.any()


@given(pools())
def test_a_packing_is_valid_and_leaves_out_only_what_fits_nowhere(instance: Any) -> None:
    pool, replicas, counts = instance
    assert_valid(pack(pool, replicas, counts), pool, replicas, counts)


@given(pools())
def test_the_same_arguments_give_the_same_placement(instance: Any) -> None:
    first, second = pack(*instance), pack(*instance)
    assert (first.placed == second.placed).all()
    assert first.reasons == second.reasons


@given(pools())
def test_a_priority_is_placed_as_if_lower_ones_were_not_there(instance: Any) -> None:
    pool, replicas, counts = instance
    highest = replicas.priority == replicas.priority.max()
    # the reference node's order is by size alone, so lower priorities do not change it
    alone = pack(pool, replicas, np.where(highest, counts, 0))
    assert (pack(pool, replicas, counts).placed[:, highest] == alone.placed[:, highest]).all()


@given(pools(), st.data())
def test_what_runs_stays_unless_a_higher_priority_needs_it(instance: Any, data: st.DataObject) -> None:
    pool, replicas, counts = instance
    before = pack(pool, replicas, counts).placed
    wanted = np.array([data.draw(st.integers(0, 9)) for _ in counts])
    # limits are of the count: those who run were placed under another one
    replicas = replace(replicas, zone_share=np.ones(len(counts)))
    after = pack(pool, replicas, wanted, before)
    assert_valid(after, pool, replicas, wanted)
    highest = replicas.priority == replicas.priority.max()
    kept = np.minimum(before.sum(axis=0), wanted)
    assert (after.evicted[highest] == 0).all()
    assert (after.placed.sum(axis=0) + after.evicted >= kept).all()
    if not after.evicted.any():
        grown = wanted >= before.sum(axis=0)
        assert (after.placed[:, grown] >= before[:, grown]).all()
    same = pack(pool, replicas, before.sum(axis=0), before)
    assert (same.placed == before).all()


def fewest(size: np.ndarray, allocatable: np.ndarray) -> int:
    """The fewest nodes for these replicas (replica, resource), by trying every placement."""
    best = [len(size)]

    def place(index: int, free: list[np.ndarray]) -> None:
        if len(free) >= best[0]:
            return
        if index == len(size):
            best[0] = len(free)
            return
        for node, room in enumerate(free):
            if (room >= size[index] - 1e-9).all():
                place(index + 1, [*free[:node], room - size[index], *free[node + 1 :]])
        place(index + 1, [*free, allocatable - size[index]])

    place(0, [])
    return best[0]


@given(
    st.integers(1, 2),
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10), st.integers(0, 3)), min_size=1, max_size=4),
)
def test_nodes_are_between_the_fewest_and_the_known_bound(resources: int, kinds: Any) -> None:
    size = np.array([kind[:resources] for kind in kinds], float)
    counts, allocatable = np.array([kind[2] for kind in kinds]), np.full(resources, 10.0)
    least = fewest(np.repeat(size, counts, axis=0), allocatable)
    needed = int(nodes_needed(counts[None], size, allocatable)[0])
    bound = 11 / 9 * least + 6 / 9 if resources == 1 else (resources + 0.7) * least
    assert least <= needed <= bound + 1e-9
    assert fluid_nodes(counts, size, allocatable) <= least + 1e-9


@given(pools())
def test_groups_of_equal_nodes_count_as_the_nodes_do(instance: Any) -> None:
    _, replicas, counts = instance
    allocatable = np.array([9.0, 18.0])
    needed = int(nodes_needed(counts[None], replicas.size, allocatable)[0])
    plain = Replicas(replicas.resources, replicas.size)
    for more in (0, 3):  # a node more never places less than all
        enough = pack(Nodes.of(np.array([needed + more]), allocatable[None]), plain, counts)
        assert not enough.pending.any()
        assert (~enough.empty).sum() == needed
    if needed:
        less = Nodes.of(np.array([needed - 1]), allocatable[None])
        # first-fit decreasing itself does not get them in; the fill that follows a shortage may
        assert_valid(
            pack(less, plain, counts),
            less,
            replace(plain, per_node=np.full(len(counts), 99), zone_share=np.ones(len(counts))),
            counts,
        )


@given(pools(resources=3))
def test_no_more_is_placed_than_the_fluid_bound(instance: Any) -> None:
    pool, replicas, counts = instance
    asked = pack(pool, replicas, counts).placed.sum(axis=0) @ replicas.size
    assert (asked <= pool.room.sum(axis=0) + 1e-4).all()


@given(pools())
def test_what_is_left_over_is_what_does_not_fit(instance: Any) -> None:
    _, replicas, counts = instance
    plain, kinds = Replicas(replicas.resources, replicas.size), np.array([[9.0, 18.0], [18.0, 9.0]])
    for nodes_of in (np.array([0, 0]), np.array([1, 2]), np.array([4, 3]), np.array([9, 9])):
        left = left_over(counts[None], replicas.size, nodes_of, kinds)[0]
        assert (left >= 0).all()
        assert (left <= counts).all()
        assert ((counts - left) @ replicas.size <= nodes_of @ kinds + 1e-4).all()
        if not left.any():
            assert not pack(Nodes.of(nodes_of, kinds), plain, counts).pending.any()
    needed = nodes_needed(counts[None], replicas.size, kinds[0])
    assert not left_over(counts[None], replicas.size, needed, kinds[:1]).any()
    if needed[0]:
        assert left_over(counts[None], replicas.size, needed - 1, kinds[:1]).any()


def test_scenarios_have_nodes_of_their_own() -> None:
    left = left_over(
        np.array([[3], [3], [3]]), np.array([[1.0]]), np.array([[0], [1], [2]]), np.array([[2.0]])
    )
    assert left.tolist() == [[3], [1], [0]]
    assert left_over(np.ones((2, 1), np.int64), np.ones((1, 1)), np.zeros(0, np.int64), np.ones((0, 1))).all()


def test_what_no_node_limits_does_not_bind() -> None:
    size, endless = np.array([[2.0, 7.0], [1.0, 3.0]]), np.array([4.0, np.inf])
    assert nodes_needed(np.array([[3, 2]]), size, endless).tolist() == [2]
    assert not left_over(np.array([[3, 2]]), size, np.array([2]), endless[None]).any()
    packing = pack(Nodes.of(np.array([2]), endless[None]), Replicas(("cpu", "disk"), size), np.array([3, 3]))
    assert packing.pending.tolist() == [0, 1]
    assert packing.reasons[1] == "no node has room: cpu is short"


def test_many_groups_are_counted_as_many_nodes() -> None:
    rng = np.random.default_rng(1)
    size = np.stack([rng.uniform(0.1, 4, 30), rng.uniform(0.1, 16, 30), np.ones(30)], axis=1)
    counts, allocatable = rng.poisson(rng.gamma(1, 20, 30), (5, 30)), np.array([15.5, 60.0, 110.0])
    needed = nodes_needed(counts, size, allocatable)
    for scenario, number in zip(counts, needed.tolist(), strict=True):
        many = Nodes.of(np.array([number + 9]), allocatable[None])
        assert (~pack(many, Replicas(THREE, size), scenario).empty).sum() == number


def test_the_largest_go_first_and_equal_sizes_in_their_order() -> None:
    packing = pack(nodes(10, 10), apps(3, 6, 3), np.array([1, 2, 1]))
    assert packing.placed.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_equals_get_the_same_share_and_none_is_starved() -> None:
    packing = pack(nodes(10, 10), apps(1, 1, 1), np.array([20, 10, 1]))
    # 20 of 31 fit; one of the third is all that it wants
    assert placed(packing) == [13, 6, 1]
    assert packing.reasons[0] == packing.reasons[1] == "no node has room: cpu is short"
    many = pack(nodes(2), apps(1, 1, 1), np.array([9, 9, 9]))
    assert placed(many) == [1, 1, 0]
    assert many.pending.tolist() == [8, 8, 9]
    assert many.reasons[2] != ""


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 60))
def test_equals_that_lack_room_have_the_same_share_to_a_replica(wanted: list[int], room: int) -> None:
    counts = np.array(wanted)
    have = np.array(placed(pack(nodes(room), apps(*[1.0] * len(wanted)), counts)))
    assert have.sum() == min(room, counts.sum())
    short = have < counts
    for app in np.flatnonzero(short):
        # nobody has another replica while this one has less than its share
        assert ((have - 1) / counts <= have[app] / counts[app] + 1 / counts[app]).all()
    if room >= len(wanted):
        assert (have >= 1).all()


def test_a_replica_that_fits_no_node_is_pending_and_costs_its_equals_nothing() -> None:
    packing = pack(nodes(10, 10), apps(11, 6, 4), np.array([2, 2, 2]))
    assert placed(packing) == [0, 2, 2]
    assert packing.reasons[0] == "a replica asks for 11 of cpu, the largest node has 10"
    both = Replicas(("cpu", "memory"), np.array([[4.0, 4.0]]))
    apart = Nodes(np.array([[4.0, 2.0], [2.0, 4.0]]), np.zeros(2, np.int64))
    assert pack(apart, both, np.array([1])).reasons == ("no node has enough of cpu, memory at once",)
    assert pack(nodes(), apps(1), np.array([1])).reasons == ("there are no nodes",)


def test_higher_priorities_take_the_room_of_the_lowest_and_of_the_fewest() -> None:
    three = apps(4, 2, 2, priority=[5, 1, 0])
    before = np.array([[0, 2, 0], [0, 1, 1], [0, 0, 2]])
    after = pack(nodes(4, 4, 4), three, np.array([1, 3, 3]), before)
    # the third node's victims are of priority 0 alone; what is left of the lower ones has no room
    assert after.placed.tolist() == [[0, 2, 0], [0, 1, 1], [1, 0, 0]]
    assert after.evicted.tolist() == [0, 0, 2]
    assert after.pending.tolist() == [0, 0, 2]


def test_a_victim_whose_room_is_not_needed_stays() -> None:
    mixed = apps(4, 1, 3, priority=[5, 0, 1])
    after = pack(nodes(5), mixed, np.array([1, 2, 1]), np.array([[0, 2, 1]]))
    # both of priority 0 go first, then the one of 1; one of priority 0 fits beside
    assert after.placed.tolist() == [[1, 1, 0]]
    assert after.evicted.tolist() == [0, 1, 1]


def test_the_evicted_are_placed_where_there_is_room() -> None:
    two = apps(4, 2, priority=[1, 0])
    after = pack(nodes(4, 3), two, np.array([1, 1]), np.array([[0, 1], [0, 0]]))
    assert after.placed.tolist() == [[1, 0], [0, 1]]
    assert after.evicted.tolist() == [0, 1]
    assert after.pending.tolist() == [0, 0]


def test_equals_keep_what_runs() -> None:
    after = pack(nodes(4), apps(2, 2), np.array([1, 2]), np.array([[0, 2]]))
    assert placed(after) == [0, 2]
    assert after.reasons == ("no node has room: cpu is short", "")


def test_fewer_replicas_go_from_the_nodes_used_least() -> None:
    after = pack(nodes(9, 9, 9), apps(3), np.array([3]), np.array([[2], [1], [3]]))
    assert after.placed.tolist() == [[0], [0], [3]]
    assert after.empty.tolist() == [True, True, False]


def test_a_node_with_less_room_than_before_sheds_the_lowest() -> None:
    two = apps(2, 2, priority=[1, 0])
    after = pack(nodes(4, 2), two, np.array([2, 1]), np.array([[2, 1], [0, 0]]))
    assert after.placed.tolist() == [[2, 0], [0, 1]]
    assert after.evicted.tolist() == [0, 1]


def test_zones_and_nodes_take_their_share() -> None:
    zoned = apps(1, zone_share=[0.5])
    packing = pack(nodes(9, 9, zone=[0, 1]), zoned, np.array([4]))
    assert packing.placed.tolist() == [[2], [2]]
    uneven = pack(nodes(9, 1, zone=[0, 1]), zoned, np.array([4]))
    assert uneven.placed.tolist() == [[2], [1]]
    assert uneven.reasons == ("the zones with room have their share",)
    # three zones carry a third each at least, so a tenth is taken as that; one zone is no zone
    assert placed(pack(nodes(9, 9, 9, zone=[0, 1, 2]), apps(1, zone_share=[0.1]), np.array([3]))) == [3]
    assert placed(pack(nodes(9, zone=[4]), zoned, np.array([4]))) == [4]
    alone = pack(nodes(9, 9), apps(1, per_node=[1]), np.array([3]))
    assert alone.placed.tolist() == [[1], [1]]
    assert alone.reasons == ("each node has its most replicas of the app",)


@given(pools(), st.integers(0, 3))
def test_consolidation_moves_everything_or_nothing_of_a_node(instance: Any, most: int) -> None:
    pool, replicas, counts = instance
    before = pack(pool, replicas, counts).placed
    rng = np.random.default_rng(int(counts.sum()))
    before = rng.binomial(before, 0.5)  # replicas have ended since
    replicas = replace(replicas, zone_share=np.ones(len(counts)))
    after, emptied = consolidate(pool, replicas, before, most)
    assert (after.sum(axis=0) == before.sum(axis=0)).all()
    assert (pool.room - after @ replicas.size >= -1e-4).all()
    assert (after <= replicas.per_node).all()
    assert len(emptied) <= most
    assert before[emptied].any(axis=1).all()
    assert (~after.any(axis=1)).sum() == (~before.any(axis=1)).sum() + len(emptied)
    assert not after[emptied].any()


def test_consolidation_empties_the_nodes_with_the_fewest() -> None:
    after, emptied = consolidate(nodes(4, 4, 4, 4), apps(1), np.array([[2], [1], [0], [2]]))
    assert emptied.tolist() == [1]
    assert after.tolist() == [[3], [0], [0], [2]]


def test_what_fits_is_what_can_be_placed() -> None:
    size, room = np.array([[1.0, 5.0], [3.0, 1.0]]), np.array([[2.0, 6.0], [4.0, 6.0]])
    assert fits(size, room).tolist() == [[True, False], [True, True]]
    with pytest.raises(ValueError, match="a replica of app 1 asks for more than a node has"):
        nodes_needed(np.ones((1, 2), np.int64), size, room[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": np.array([[1.0], [-1.0]])}, "size of app 1 must be finite and at least 0"),
        ({"size": np.array([[0.0]])}, "size of app 0 must be above 0 in a resource"),
        ({"size": np.ones((2, 2))}, r"size must be \(app, 1 resources\)"),
        ({"size": np.ones((2, 1)), "priority": np.ones(3)}, r"priority must be \(2 apps\)"),
        ({"size": np.ones((1, 1)), "per_node": np.zeros(1)}, "per_node of app 0 must be at least 1"),
        ({"size": np.ones((1, 1)), "zone_share": np.zeros(1)}, "zone_share of app 0 must be above 0"),
    ],
)
def test_what_cannot_be_packed_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Replicas(CPU, **wrong)


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match 1 apps"):
        pack(nodes(1), apps(1), np.array([1, 2]))
    with pytest.raises(ValueError, match="placed must be"):
        pack(nodes(1), apps(1), np.array([1]), np.zeros((2, 1), np.int64))
    with pytest.raises(ValueError, match="counts must be at least 0"):
        Nodes.of(np.array([-1]), np.ones((1, 1)))
