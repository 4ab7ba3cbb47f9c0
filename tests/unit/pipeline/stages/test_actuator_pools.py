"""The actuator's decisions on shared nodes without Kafka: which plans are one unit, in which order, and executor."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Retryable
from pipeline.providers.base import Observation, Provider, Result
from pipeline.security.signing_keys import demo_key
from pipeline.stages.actuator.executor import Executor
from pipeline.stages.actuator.plan_order import PlanOrder, Queue, Unit, in_order
from pipeline.wire.codec import encode
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command

GROUP, A, B = "team", "a", "b"


def plan(tick: int, app: str = GROUP, issued: int = 0, parts: tuple[str, ...] = (A, B), **more: Any) -> Any:
    """Of the group's nodes, or of an app's replicas."""
    return {
        "plan_id": f"{app}@{tick}",
        "allocation_group": GROUP,
        "app": app,
        "tick": tick,
        "tick_s": 60,
        "commands_issued": issued,
        "counts": [],
        "level": "NODES" if app == GROUP else "REPLICAS",
        "parts": [{"app": part} for part in parts] if app == GROUP else [],
    } | more


def asked(epoch: int, app: str = GROUP, desired: int = 3, **more: Any) -> Any:
    kind, offer = ("NODES", "od-4") if app == GROUP else ("REPLICAS", "replicas")
    ref = f"{app}/{offer}"
    target = Target("local", ref, kind=kind, region="eu")
    return command(epoch, desired, ref, **{"plan_id": f"{app}@{epoch}", "target": target} | more)


class Reader:
    """Gives an order what arrives, and takes what is complete."""

    def __init__(self) -> None:
        self.order, self.offset, self.done = PlanOrder(), 0, list[tuple[int, list[str], list[str]]]()

    def read(self, *records: Any) -> "Reader":
        for record in records:
            self.offset += 1
            if "desired" in record:
                self.order.add_command(("commands", 0, self.offset), record)
            else:
                self.order.add_plan(("plans", 0, self.offset), record)
        moved = True
        while moved:
            moved = False
            for queue in self.order.queues():
                moved |= self._take(queue)
        return self

    def _take(self, queue: Queue) -> bool:
        unit: Unit | None = None
        moved = False
        while (unit := self.order.head(queue)) is not None:
            if not unit.repeated:
                refs = [item[1]["target"]["ref"] for item in unit.commands]
                self.done.append((unit.tick, [item[1]["app"] for item in unit.plans], sorted(refs)))
            self.order.pop(unit)
            moved = True
        return moved


REFS = ["a/replicas", "b/replicas", "team/od-4"]
EVENTS = [(name, tick, kind) for name in (GROUP, A, B) for tick in (10, 11) for kind in ("plan", "command")]


@given(st.permutations(EVENTS))
def test_the_tick_of_a_pool_is_one_unit_in_any_order_of_arrival(events: list[tuple[str, int, str]]) -> None:
    reader, ticks = Reader(), {name: iter([10, 11]) for name in (GROUP, A, B)}
    for name, tick, kind in events:
        # plans of one app keep their order: they share a partition
        reader.read(plan(next(ticks[name]), name, issued=1) if kind == "plan" else asked(tick, name))
    assert reader.done == [(10, [GROUP, A, B], REFS), (11, [GROUP, A, B], REFS)]
    assert reader.order.strays() == []
    assert [reader.order.done(name) for name in (GROUP, A, B)] == [11, 11, 11]


def test_a_plan_of_one_app_that_is_missing_is_waited_for() -> None:
    reader = Reader().read(plan(10), plan(10, A))
    assert reader.done == []
    assert reader.read(plan(10, B)).done == [(10, [GROUP, A, B], [])]


def test_replicas_wait_for_the_plan_of_their_nodes() -> None:
    reader = Reader().read(plan(10, A), plan(10, B))
    assert reader.done == []
    assert reader.read(plan(10)).done == [(10, [GROUP, A, B], [])]


def test_a_plan_that_can_not_come_any_more_is_not_waited_for() -> None:
    assert Reader().read(plan(10), plan(10, A), plan(11, B)).done == [(10, [GROUP, A], [])]


def test_replicas_that_no_unit_names_come_alone_after_it() -> None:
    reader = Reader().read(plan(10, A), plan(10, B, issued=1), asked(10, B), plan(10, parts=(A,)))
    assert reader.done == [(10, [GROUP, A], []), (10, [B], ["b/replicas"])]


def test_an_app_of_another_group_does_not_join() -> None:
    reader = Reader().read(plan(10), plan(10, A), plan(10, B, allocation_group="crew"))
    assert reader.done == [(10, [GROUP, A], [])]
    reader.read(plan(10, "crew", level="NODES") | {"parts": [{"app": B}]})
    assert reader.done[1:] == [(10, ["crew", B], [])]


def test_repeated_plans_are_no_new_tick_and_hold_nobody_up() -> None:
    reader = Reader().read(plan(10), plan(10, A), plan(10, A), plan(10, B))
    reader.read(plan(10), plan(10, B), plan(11), plan(11, A), plan(11, B))
    assert [(tick, names) for tick, names, _ in reader.done] == [(10, [GROUP, A, B]), (11, [GROUP, A, B])]
    reader.read(asked(10, A), asked(10))
    assert [(one["target"]["ref"], now_s) for _, one, now_s in reader.order.strays()] == [
        ("a/replicas", 720.0),
        ("team/od-4", 720.0),
    ]


def test_an_app_that_goes_back_to_its_own_instances_comes_before_its_group() -> None:
    own = plan(11, A, level="INSTANCES", issued=1)
    reader = Reader().read(plan(10), plan(10, A), plan(10, B), plan(11), plan(11, B), own)
    assert [names for _, names, _ in reader.done] == [[GROUP, A, B]]
    reader.read(asked(11, A, desired=0))
    assert [names for _, names, _ in reader.done[1:]] == [[A], [GROUP, B]]
    assert reader.done[1][2] == ["a/replicas"]
    reader.read(asked(11, A, desired=5))  # of a tick that is done: judged alone
    assert [one["desired"] for _, one, _ in reader.order.strays()] == [5]


def test_an_app_and_a_group_of_the_same_name_do_not_mix() -> None:
    both = plan(10, GROUP, level="REPLICAS", parts=(), issued=1)
    reader = Reader().read(plan(10, issued=1, parts=(GROUP,)), both)
    replicas = asked(10, GROUP, target=Target("local", "team/replicas", kind="REPLICAS", region="eu"))
    reader.read(replicas)
    assert reader.done == []
    reader.read(asked(10, GROUP, desired=4))
    assert reader.done == [(10, [GROUP, GROUP], ["team/od-4", "team/replicas"])]


def test_commands_are_in_an_order_in_which_no_replica_loses_its_room() -> None:
    before = {"team/od-4": 3, "team/od-8": 3, "a/replicas": 3, "b/replicas": 3}

    def grows(record: Any) -> bool:
        return record["desired"] >= before[record["target"]["ref"]]

    eight = asked(10, GROUP, 5, target=Target("local", "team/od-8", region="eu"))
    given = [asked(10, GROUP, 1), asked(10, A, 4), asked(10, B, 2), eight]
    ordered = in_order([(("commands", 0, n), record) for n, record in enumerate(given)], grows)
    assert [item[1]["target"]["ref"] for item in ordered] == [
        "team/od-8",
        "b/replicas",
        "a/replicas",
        "team/od-4",
    ]


class Shared(Provider):
    """Has shared nodes, or not; notes the calls."""

    def __init__(self, *script: Exception, shares: bool = True) -> None:
        self.script, self.shares, self.calls = list(script), shares, list[str]()

    def can_share_nodes(self) -> bool:
        self.calls.append("can")
        return self.shares

    def apply(self, command: dict[str, Any], now_s: float) -> Result:
        self.calls.append(f"apply {command['target']['ref']} {now_s:g}")
        if self.script:
            raise self.script.pop(0)
        return Result(0, command["desired"], now_s, 1)

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        self.calls.append("observe")
        return Observation(2, 1, {"cpu": 1.0}, 7, reason="no node has room: cpu is short")


def test_replicas_at_a_provider_without_shared_nodes_have_failed_in_one_line() -> None:
    provider = Shared(shares=False)
    desk = Executor({"local": provider}, demo_key().keyring)
    [(_, settled)] = desk.submit(asked(10, A, expected_generation=3), 660.0)
    encode("command_result", settled)
    assert (settled["status"], settled["reason"]) == ("FAILED", "provider 'local' has no shared nodes")
    assert desk.observe(Target("local", "a/replicas", kind="REPLICAS"), 10, 60, 660.0) is None
    assert [settled["status"] for _, settled in desk.submit(asked(10), 660.0)] == ["APPLIED"]
    assert provider.calls == ["can", "apply team/od-4 660"]


def test_the_base_provider_has_none() -> None:
    class Plain(Shared):
        can_share_nodes = Provider.can_share_nodes

    [(_, settled)] = Executor({"local": Plain()}, demo_key().keyring).submit(asked(10, A), 660.0)
    assert settled["reason"] == "provider 'local' has no shared nodes"


def test_a_provider_whose_shared_nodes_have_a_defect_has_none_and_does_the_rest() -> None:
    class Broken(Shared):
        def can_share_nodes(self) -> bool:
            raise KeyError("zone")

    desk = Executor({"local": Broken()}, demo_key().keyring)
    done = [desk.submit(asked(10, name), 660.0)[0][1]["status"] for name in (A, GROUP)]
    assert done == ["FAILED", "APPLIED"]


def test_an_observation_of_replicas_says_why_they_wait() -> None:
    desk = Executor({"local": Shared()}, demo_key().keyring)
    record = desk.observe(Target("local", "a/b/replicas", kind="REPLICAS"), 10, 60, 660.0)
    assert record is not None
    encode("capacity_observed", record)
    assert (record["app"], record["offer_id"], record["ready"], record["pending"]) == (
        "a/b",
        "replicas",
        2,
        1,
    )
    assert record["reason"] == "no node has room: cpu is short"


def test_the_count_that_was_last_accepted_before_an_epoch() -> None:
    desk = Executor({"local": Shared()}, demo_key().keyring)

    def settle(epoch: int, desired: int) -> None:
        for _, settled in desk.submit(asked(epoch, A, desired), (epoch + 1) * 60.0):
            desk.note(settled)

    assert desk.accepted("a/replicas", 10) is None
    settle(10, 3)
    settle(11, 5)
    assert [desk.accepted("a/replicas", epoch) for epoch in (10, 11, 12)] == [None, 3, 5]


@pytest.mark.parametrize("apps", [["a"], ["team"], ["a", "team"]])
def test_retries_of_a_unit_are_those_of_its_group_and_apps(apps: list[str]) -> None:
    provider = Shared(Retryable("busy", 30.0), Retryable("busy", 20.0), Retryable("busy", 10.0))
    desk = Executor({"local": provider}, demo_key().keyring)
    for name in (GROUP, A, B):
        desk.submit(asked(10, name), 660.0)
    done = [one["target"]["ref"] for one, _ in desk.retry(720.0, apps)]
    assert done == [ref for app, ref in (("a", "a/replicas"), ("team", "team/od-4")) if app in apps]
