"""Replicas on shared nodes of the local provider: where they are, what waits, and what survives a kill."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Rejected
from pipeline.providers.base import Observation
from pipeline.providers.local import Faults, LocalProvider
from pipeline.providers.local_replicas import ReplicaSet
from pipeline.wire.commands import Target
from tests.unit.pipeline.providers.test_local import HOUR, command, counts, price

Make = Callable[..., LocalProvider]
SMALL = price("small", capacity=[{"metric": "cpu", "value": 4.0}, {"metric": "memory", "value": 16.0}])
BIG = price("big", capacity=[{"metric": "cpu", "value": 8.0}, {"metric": "memory", "value": 16.0}])
SPOT = price("spot", "SPOT", interruption=1.0, notice_s=120.0)
NODES = Target("local", "team/small")
DAY = 24 * HOUR


def target(app: str) -> Target:
    return Target("local", f"{app}/replicas", kind="REPLICAS")


def replicas(desired: int, epoch: int = 1, app: str = "shop", **more: Any) -> dict[str, Any]:
    """Each asks for a core: a small node, of 4 cores less 0.5, has room for three."""
    size = more.pop("size", {"cpu": 1.0})
    return command(
        desired,
        epoch,
        f"{app}/replicas",
        **{
            "target": target(app).record(),
            "resources": [{"metric": metric, "value": value} for metric, value in size.items()],
            "group": "team",
            "priority": 0,
            "zone_share": None,
        }
        | more,
    )


def nodes(desired: int, epoch: int = 1, ref: str = "team/small", **more: Any) -> dict[str, Any]:
    return command(desired, epoch, ref, **more)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    made: list[LocalProvider] = []

    def provider(faults: Faults | None = None, prices: Any = (SMALL, BIG, SPOT)) -> LocalProvider:
        """A provider on the test's folder, as after a kill of the one before."""
        for one in made:
            one.close()
        made.append(LocalProvider(tmp_path, tick_s=60, faults=faults))
        for record in prices:
            made[-1].offered(record)
        return made[-1]

    yield provider
    made[-1].close()


def state(provider: LocalProvider, at_s: float, *apps: str) -> list[tuple[int, int]]:
    """Ready and pending replicas of each app."""
    seen = [provider.observe(target(app), at_s) for app in apps or ("shop",)]
    return [(one.ready, one.pending) for one in seen]


def test_replicas_wait_for_a_node_and_then_start(make: Make) -> None:
    provider = make()
    result = provider.apply(replicas(2), 0.0)
    assert (result.before, result.after, result.generation, result.accepted_s) == (0, 2, 1, 0.0)
    waiting = provider.observe(target("shop"), 0.0, 0.0)
    assert counts(waiting) == (0, 2, 0, 0, 0)
    assert (waiting.reason, waiting.pending_ready_s) == ("there are no nodes", ())
    assert (waiting.allocatable, waiting.billed_h, waiting.generation) == ({"cpu": 1.0}, 0.0, 1)
    provider.apply(nodes(1), 0.0)
    ready_s = next(at_s for at_s in range(200) if provider.observe(NODES, float(at_s)).ready)
    starting = provider.observe(target("shop"), float(ready_s))
    assert (starting.ready, starting.pending, starting.reason) == (0, 2, "")
    assert all(9.0 < wait_s <= 10.0 for wait_s in starting.pending_ready_s)
    assert state(provider, ready_s + 9.0) == [(0, 2)]
    assert state(provider, ready_s + 10.0) == [(2, 0)]


def test_a_target_that_was_never_commanded_has_nothing(make: Make) -> None:
    assert make().observe(target("shop"), 60.0, 0.0) == Observation(
        0, 0, {}, generation=0, least_ready=0, billed_h=0.0
    )


def test_start_up_time_of_replicas_is_configured(make: Make) -> None:
    provider = make(Faults(replica_startup_s=45.0))
    provider.start(NODES, 1, 0.0)
    provider.apply(replicas(2), 600.0)
    assert [state(provider, at_s) for at_s in (600.0, 644.9, 645.0)] == [[(0, 2)], [(0, 2)], [(2, 0)]]


def test_replicas_that_ran_before_serve_at_once(make: Make) -> None:
    provider = make()
    provider.start(NODES, 1, 600.0)
    provider.start_replicas(target("shop"), ReplicaSet(4, "team", {"cpu": 1.0}), 600.0)
    provider.start_replicas(target("shop"), ReplicaSet(9, "team", {"cpu": 1.0}), 600.0)  # it is known
    assert state(provider, 600.0) == [(3, 1)]
    provider.apply(nodes(2), 660.0)
    # the fourth was not there before
    placed_s = next(at_s for at_s in range(660, 900) if provider.observe(NODES, float(at_s)).ready == 2)
    assert [state(provider, placed_s + wait_s) for wait_s in (9.0, 10.0)] == [[(3, 1)], [(4, 0)]]


def test_what_does_not_fit_waits_with_its_reason(make: Make) -> None:
    provider = make()
    provider.start(NODES, 2, 0.0)
    provider.apply(replicas(7), 600.0)
    provider.apply(replicas(1, app="hall", size={"cpu": 4.0}), 600.0)
    assert state(provider, 700.0, "shop", "hall") == [(6, 1), (0, 1)]
    assert provider.observe(target("shop"), 700.0).reason == "no node has room: cpu is short"
    assert provider.observe(target("hall"), 700.0).reason == (
        "a replica asks for 4 of cpu, the largest node has 3.5"
    )


def test_no_more_than_its_share_of_an_app_is_in_one_zone(make: Make) -> None:
    provider = make(prices=(SMALL, price("big", zone="other", capacity=BIG["capacity"])))
    provider.start(NODES, 2, 0.0)
    provider.start(Target("local", "team/big"), 1, 0.0)
    provider.apply(replicas(5, zone_share=0.5, size={"cpu": 3.5}), 600.0)
    # three may be in a zone: both small nodes carry one, the big one two
    assert state(provider, 700.0) == [(4, 1)]
    provider.apply(nodes(4, ref="team/small"), 700.0)
    assert state(provider, 2 * HOUR) == [(5, 0)]
    provider.apply(replicas(10, 2, zone_share=0.5, size={"cpu": 3.5}), 2 * HOUR)
    assert state(provider, 3 * HOUR) == [(6, 4)]
    provider.apply(nodes(9, 2, ref="team/small"), 3 * HOUR)
    assert state(provider, 4 * HOUR) == [(7, 3)]
    assert provider.observe(target("shop"), 4 * HOUR).reason == "the zones with room have their share"
    with pytest.raises(Rejected, match="zone_share must be above 0 and at most 1"):
        provider.apply(replicas(10, 3, zone_share=0.0), 4 * HOUR)


def test_a_metric_that_the_offer_does_not_list_does_not_bound(make: Make) -> None:
    provider = make()
    provider.start(NODES, 1, 0.0)
    provider.apply(replicas(3, size={"cpu": 1.0, "gpu": 1.0}), 0.0)
    assert state(provider, 60.0) == [(3, 0)]


def test_higher_priorities_take_the_room_of_lower_ones_and_equals_do_not(make: Make) -> None:
    provider = make()
    provider.start(NODES, 1, 0.0)
    provider.apply(replicas(3, app="low"), 0.0)
    provider.apply(replicas(2, app="equal"), 60.0)
    assert state(provider, 120.0, "low", "equal") == [(3, 0), (0, 2)]
    provider.apply(replicas(2, app="high", priority=5), 180.0)
    assert state(provider, 180.0, "low", "equal", "high") == [(1, 2), (0, 2), (0, 2)]
    assert state(provider, 190.0, "low", "equal", "high") == [(1, 2), (0, 2), (2, 0)]
    assert provider.observe(target("low"), 240.0, 120.0).least_ready == 1
    provider.apply(replicas(0, 2, app="high", priority=5), 300.0)
    assert state(provider, 400.0, "low", "equal", "high") == [(1 + 1, 1), (1, 1), (0, 0)]


def test_a_lost_node_takes_its_replicas_with_it_and_they_start_anew(make: Make) -> None:
    provider = make()
    spot = Target("local", "team/spot")
    provider.start(spot, 1, 0.0)
    provider.apply(replicas(3), 0.0)
    lost_s = next(float(at_s) for at_s in range(0, 360_000, 10) if provider.observe(spot, at_s).interrupted)
    assert state(provider, lost_s - 10.0) == [(3, 0)]
    assert state(provider, lost_s) == [(0, 3)]
    assert provider.observe(target("shop"), lost_s).reason == "there are no nodes"
    assert provider.observe(target("shop"), lost_s + 60.0, lost_s - 10.0).least_ready == 0
    assert provider.observe(target("shop"), lost_s - 10.0, 20.0).least_ready == 3
    back_s = next(
        at_s for at_s in range(int(lost_s), int(lost_s) + 300) if provider.observe(spot, at_s).ready
    )
    assert state(provider, back_s + 10.0) == [(3, 0)]


def test_replicas_of_a_lost_node_go_where_there_is_room(make: Make) -> None:
    provider = make()
    spot = Target("local", "team/spot")
    provider.start(spot, 1, 0.0)
    provider.start(NODES, 1, 0.0)
    provider.apply(replicas(4), 0.0)
    lost_s = next(float(at_s) for at_s in range(0, 360_000, 10) if provider.observe(spot, at_s).interrupted)
    seen = state(provider, lost_s)[0]
    assert seen[0] in (1, 3)  # what was on the other node
    assert state(provider, lost_s + 10.0) == [(3, 1)]


def test_of_shared_nodes_the_emptiest_goes_first_then_by_the_victim_rule(make: Make, tmp_path: Path) -> None:
    provider = make()
    provider.start(NODES, 4, 0.0)
    provider.apply(replicas(4), 0.0)  # three on the first, one on the second
    provider.apply(nodes(3, victim_rule="OLDEST"), 60.0)
    provider.apply(nodes(1, epoch=2), 120.0)
    values = json.loads((tmp_path / "team%2Fsmall.json").read_text())
    released = {one["serial"]: one["released_s"] for one in values["instances"]}
    assert released == {1: float("inf"), 2: 120.0, 3: 60.0, 4: 120.0}
    assert state(provider, 119.0) == [(4, 0)]
    assert state(provider, 120.0) == [(3, 1)]


def test_replicas_of_a_draining_node_move_at_once(make: Make) -> None:
    provider = make()
    provider.start(Target("local", "team/big"), 1, 0.0)
    provider.start(NODES, 2, 0.0)
    provider.apply(replicas(9), 0.0)  # seven on the big node, two on a small one
    provider.apply(replicas(3, app="hall"), 30.0)  # one beside them, two on the other
    provider.apply(replicas(8, 2), 60.0)
    provider.apply(nodes(1, drain_s=300.0), 120.0)
    assert provider.observe(NODES, 120.0).draining == 1
    assert state(provider, 119.0, "shop", "hall") == [(8, 0), (3, 0)]
    assert state(provider, 120.0, "shop", "hall") == [(8, 0), (1, 2)]
    assert state(provider, 130.0, "shop", "hall") == [(8, 0), (2, 1)]


def test_the_group_of_an_app_may_change(make: Make) -> None:
    provider = make()
    provider.start(NODES, 1, 0.0)
    provider.start(Target("local", "crew/small"), 1, 0.0)
    provider.apply(replicas(3), 0.0)
    provider.apply(replicas(3, app="hall"), 30.0)
    provider.apply(replicas(3, 2, group="crew"), 60.0)
    assert state(provider, 60.0, "shop", "hall") == [(0, 3), (0, 3)]
    assert state(provider, 70.0, "shop", "hall") == [(3, 0), (3, 0)]
    assert state(provider, 59.0, "shop", "hall") == [(3, 0), (0, 3)]


def test_a_size_that_grows_moves_only_what_has_no_room_any_more(make: Make) -> None:
    provider = make()
    provider.start(NODES, 2, 0.0)
    provider.apply(replicas(3), 0.0)
    result = provider.apply(replicas(3, 2, size={"cpu": 1.5}), 60.0)
    assert (result.before, result.after, result.generation) == (3, 3, 2)
    assert state(provider, 60.0) == [(2, 1)]
    assert state(provider, 70.0) == [(3, 0)]
    assert provider.observe(target("shop"), 59.0).allocatable == {"cpu": 1.0}


def test_instances_of_an_app_without_a_pool_are_as_before(make: Make, tmp_path: Path) -> None:
    provider = make()
    provider.apply(nodes(3), 0.0)
    provider.apply(nodes(1, epoch=2), 600.0)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "team%2Fsmall.json"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"group": ""}, "must name the allocation group"),
        ({"size": {}}, "must ask for a finite amount above 0"),
        ({"size": {"cpu": 0.0}}, "must ask for a finite amount above 0"),
        ({"size": {"cpu": -1.0, "memory": 1.0}}, "must ask for a finite amount above 0"),
        ({"resources": None}, "must ask for a finite amount above 0"),
        ({"target": Target("local", "shop/od-4", kind="REPLICAS").record()}, "must be shop/replicas"),
    ],
)
def test_what_cannot_be_placed_is_rejected_in_one_line(make: Make, more: Any, why: str) -> None:
    provider = make()
    with pytest.raises(Rejected, match=why) as error:
        provider.apply(replicas(3, **more), 0.0)
    assert "\n" not in str(error.value)
    assert state(provider, 60.0) == [(0, 0)]


def test_repeated_and_older_commands(make: Make, tmp_path: Path) -> None:
    provider = make()
    provider.start(NODES, 1, 0.0)
    first = provider.apply(replicas(3, epoch=5), 60.0)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert make().apply(replicas(3, epoch=5), 5000.0) == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == files
    with pytest.raises(Rejected, match="older-epoch"):
        make().apply(replicas(4, epoch=4), 120.0)
    same = make().apply(replicas(3, epoch=6), 120.0)  # nothing changes
    assert same.generation == 1
    assert make().observe(target("shop"), 180.0).command_id == replicas(3, epoch=5)["id"]


def test_faults_of_calls_are_of_replicas_too(make: Make) -> None:
    with pytest.raises(Rejected, match="by configuration"):
        make(Faults(rejected=frozenset({"shop/replicas"}))).apply(replicas(3), 0.0)
    half = make(Faults(partial=1.0)).apply(replicas(5), 0.0)
    assert (half.before, half.after, half.partial) == (0, 2, True)


@pytest.mark.parametrize("step", ["json.dumps", "os.fsync", "pathlib.Path.replace"])
def test_killed_while_writing_the_command_has_not_happened(
    make: Make, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    provider = make()
    provider.start(NODES, 2, 0.0)
    provider.apply(replicas(3), 0.0)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for asked in (replicas(5, epoch=2), nodes(1, epoch=2)):
        provider = make()
        with monkeypatch.context() as patch:
            patch.setattr(step, killed)
            with pytest.raises(KeyboardInterrupt):
                provider.apply(asked, 60.0)
    assert state(make(), 60.0) == [(3, 0)]
    assert make().observe(NODES, 60.0).ready == 2
    assert make().apply(replicas(5, epoch=2), 60.0).after == 5
    assert state(make(), 60.0) == [(3, 2)]
    make().apply(nodes(1, epoch=2), 60.0)
    assert state(make(), 70.0) == [(3, 2)]


def busy(
    provider: LocalProvider, hours: range, kill: Callable[[], LocalProvider] | None = None
) -> LocalProvider:
    """Replicas and nodes that change every hour."""
    for hour in hours:
        provider = kill() if kill else provider
        for asked in (
            nodes(1 + hour % 3, epoch=hour),
            replicas(2 + hour % 5, epoch=hour),
            replicas(hour % 4, epoch=hour, app="hall", priority=hour % 2),
        ):
            provider.apply(asked, hour * HOUR)
    return provider


def test_changes_older_than_a_day_are_forgotten_and_no_answer_changes(
    make: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_s = 40 * HOUR
    asked = [end_s - DAY + 60 * n for n in range(0, 24 * 60, 17)]

    def seen(provider: LocalProvider) -> list[Observation]:
        return [provider.observe(target(a), at_s, at_s - 1020) for at_s in asked for a in ("shop", "hall")]

    short = seen(busy(make(), range(40), kill=make))
    changes = json.loads((tmp_path / "replicas" / "shop%2Freplicas.json").read_text())["changes"]
    assert 24 <= len(changes) <= 28
    stored = json.loads((tmp_path / "pools" / "team.json").read_text())
    assert stored["at_s"] >= end_s - DAY - 3 * HOUR
    for module in ("local", "local_pool"):
        monkeypatch.setattr(f"pipeline.providers.{module}.KEPT_S", 1000 * DAY)
    whole = LocalProvider(tmp_path_factory.mktemp("whole"), tick_s=60)
    for record in (SMALL, BIG, SPOT):
        whole.offered(record)
    assert seen(busy(whole, range(40))) == short
    whole.close()


def test_killed_between_the_file_of_a_pool_and_that_of_a_command(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(make(), range(30))
    asked = [30 * HOUR - 60 * n for n in range(0, 21 * 60, 7)]  # a day before the next change

    def seen(provider: LocalProvider) -> list[tuple[int, int]]:
        return [pair for at_s in asked for pair in state(provider, at_s, "shop", "hall")]

    before = seen(make())
    for step in range(1, 4):  # files that one command replaces: the pool's and then its own
        provider = make()
        left = [step]

        def killed(path: Path, to: Path, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            path.rename(to)

        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.replace", killed)
            try:
                provider.apply(replicas(4, epoch=40), 32.5 * HOUR)
            except KeyboardInterrupt:
                assert seen(make()) == before
    assert state(make(), 33 * HOUR)[0] == state(make(), 33 * HOUR)[0]
    assert make().observe(target("shop"), 33 * HOUR).command_id == replicas(4, epoch=40)["id"]


APPS = ("a", "b", "c")
STEP = st.one_of(
    st.tuples(st.just("nodes"), st.sampled_from(["small", "spot"]), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("replicas"), st.sampled_from(APPS), st.integers(0, 6), st.integers(0, 2)),
)


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(st.tuples(STEP, st.sampled_from([0.0, 70.0, 600.0])), min_size=1, max_size=10),
    looks=st.lists(st.floats(0, 4 * HOUR), max_size=8),
)
def test_where_replicas_are_does_not_depend_on_how_often_one_looks_nor_on_kills(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[tuple[str, str, int, int], float]],
    looks: list[float],
) -> None:
    asked = [float(at_s) for at_s in range(0, int(4 * HOUR), 600)]
    seen: list[list[Observation]] = []
    wild = price("spot", "SPOT", interruption=6.0, notice_s=30.0, launch_failure=0.2)
    for looking in (False, True):
        folder = tmp_path_factory.mktemp("local")

        def opened(folder: Path = folder) -> LocalProvider:
            provider = LocalProvider(folder, tick_s=60)
            for record in (SMALL, wild):
                provider.offered(record)
            return provider

        provider, now_s = opened(), 0.0
        for epoch, ((kind, name, desired, priority), wait_s) in enumerate(steps):
            now_s += wait_s
            if looking:
                for at_s in looks:  # into the past and the future, in any order
                    provider.observe(target("a"), at_s, 0.0)
                    provider.observe(NODES, at_s, 0.0)
                provider.close()
                provider = opened()
            if kind == "nodes":
                provider.apply(nodes(desired, epoch, f"team/{name}"), now_s)
            else:
                provider.apply(replicas(desired, epoch, name, priority=priority), now_s)
        seen.append([provider.observe(target(a), at_s, max(0.0, at_s - 600)) for at_s in asked for a in APPS])
        seen[-1] += [provider.observe(NODES, at_s) for at_s in asked]
        provider.close()
    assert seen[0] == seen[1]
    wanted = {name: desired for (kind, name, desired, _), _ in steps if kind == "replicas"}
    last = seen[0][: len(asked) * len(APPS)][-len(APPS) :]
    assert [one.ready + one.pending for one in last] == [wanted.get(app, 0) for app in APPS]
    assert all((one.ready or 0) >= 0 and one.pending >= 0 for one in seen[0])
