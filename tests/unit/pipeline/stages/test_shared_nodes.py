"""Groups that share nodes, without Kafka: what is planned and commanded, also by a restored allocator."""

import pytest

from models.behaviour.lstm import BehaviourModel
from models.capacity import Policy
from models.tick import Tick
from pipeline.settings import Settings
from pipeline.stages.allocator.decide import AppState
from pipeline.stages.allocator.pool import Pool
from pipeline.stages.allocator.shared_nodes import SharedNodes, at_one_provider, replica_offer
from pipeline.wire import currencies
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.policies import policy_of
from tests.unit.pipeline.stages import driving
from tests.unit.pipeline.stages.driving import (
    TICKS,
    Published,
    allocator,
    distinct,
    drive,
    policy,
    price,
    scenarios,
)

NODES = [price("large", "ON_DEMAND", "0.40", capacity=[
    {"metric": "cpu", "value": 32.0}, {"metric": "memory", "value": 128e9},
])]  # fmt: skip


def group(**fields: object) -> list[Record]:
    shared = {"allocation_group": "web"}
    return [policy("shop", **shared), policy("blog", **shared), policy("web", nodes="SHARED", **fields)]


def decoded(name: str, record: Record) -> Record:
    return DEFAULT.decode(DEFAULT.encode(name, record))[1]


def plans_of(published: Published, app: str) -> list[Record]:
    return [record for topic, _, record, _ in published if topic == "plans" and record["app"] == app]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "GROUPS", ["web", "web"])


@pytest.mark.usefixtures("together")
def test_apps_get_replicas_and_their_group_the_nodes_for_them(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = scenarios(model, installation)
    whole = drive(allocator(model, installation, monkeypatch, group(), NODES), inputs, None)
    nodes, shop, blog = (plans_of(whole, app) for app in ("web", "shop", "blog"))
    assert len(nodes) == len(shop) == len(blog) == TICKS
    assert {plan["level"] for plan in nodes} == {"NODES"}
    assert {plan["level"] for plan in shop + blog} == {"REPLICAS"}
    assert all(plan["feasible"] for plan in nodes + shop + blog)
    for plan, one, other in zip(nodes, shop, blog, strict=True):
        count = {of["offer_id"]: of["desired"][0] for of in plan["counts"]}["large"]
        replicas = [of["desired"][0] for app in (one, other) for of in app["counts"]]
        assert 4.0 * sum(replicas) <= 32.0 * count
        assert [part["app"] for part in plan["parts"]] == ["blog", "shop"]
        assert sum(part["tail"] for part in plan["parts"]) == pytest.approx(1.0)
        assert all(part["adds"] > 0 and part["own"] > 0 for part in plan["parts"])
    issued = [record for topic, _, record, _ in whole if topic == "commands"]
    of_first = [command for command in issued if command["epoch"] == nodes[0]["tick"]]
    assert [command["target"]["ref"] for command in of_first] == [
        "web/large",
        "blog/replicas",
        "shop/replicas",
    ]
    assert [command["target"]["kind"] for command in of_first] == ["NODES", "REPLICAS", "REPLICAS"]
    assert of_first[1]["group"] == "web"
    assert {amount["metric"]: amount["value"] for amount in of_first[1]["resources"]} == {
        "cpu": 4.0,
        "memory": 8e9,
    }


@pytest.mark.usefixtures("together")
def test_a_restored_allocator_plans_shared_nodes_alike(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = scenarios(model, installation)
    make = allocator(model, installation, monkeypatch, group(), NODES)
    whole = drive(make, inputs, None)
    for restart_at in (10, 17, len(inputs) - 1):
        assert distinct(drive(make, inputs, restart_at)) == distinct(whole)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("first", ["blog", "shop"])
def test_where_nodes_are_too_few_apps_yield_by_priority_and_say_so(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    inputs = scenarios(model, installation)
    one_node = [{**NODES[0], "quota_group": "large", "quota_limit": 1}]
    policies = group()
    for record in policies:
        record["priority"] = int(record["app"] == first)
    whole = drive(allocator(model, installation, monkeypatch, policies, one_node), inputs, None)
    last = {app: plans_of(whole, app)[-1] for app in ("web", "shop", "blog")}
    assert not last["web"]["feasible"]
    counts = {app: last[app]["counts"][0]["desired"][0] for app in ("shop", "blog")}
    alone = drive(allocator(model, installation, monkeypatch, group(), NODES), inputs, None)
    wanted = {app: plans_of(alone, app)[-1]["counts"][0]["desired"][0] for app in counts}
    other = next(app for app in counts if app != first)
    assert sum(wanted.values()) > 8
    assert counts[first] >= min(7, wanted[first])
    assert counts[other] < wanted[other]
    assert "shared_nodes" in last[other]["guardrails"]
    assert not last[other]["feasible"]
    assert "room" in last[other]["reason"]


@pytest.mark.usefixtures("together")
def test_an_app_that_no_node_carries_is_named_and_its_neighbour_is_planned(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = scenarios(model, installation)
    policies = group()
    policies[0]["unit"] = [{"metric": "cpu", "value": 33.0}, {"metric": "memory", "value": 8e9}]
    whole = drive(allocator(model, installation, monkeypatch, policies, NODES), inputs, None)
    shop, blog, nodes = (plans_of(whole, app)[-1] for app in ("shop", "blog", "web"))
    assert not shop["feasible"]
    assert "no node of the group carries a replica of 33 cpu and 8e+09 memory" in shop["reason"]
    assert blog["feasible"]
    assert nodes["feasible"]
    assert [part["app"] for part in nodes["parts"]] == ["blog"]


def test_nodes_and_replicas_are_of_one_provider_and_stay_there() -> None:
    def node(offer: str, cloud: str, amount: str) -> Record:
        return decoded("price", price(offer, "ON_DEMAND", amount, provider=cloud))

    def of(**fields: object) -> Policy:
        return policy_of(decoded("policy", policy("web", **fields)))

    apps = {"shop": of()}
    prices = {"a": node("a", "here", "0.10"), "b": node("b", "there", "0.20"), "c": node("c", "here", "0.30")}
    assert at_one_provider(of(), apps, prices, {}).keys() == {"a", "c"}
    assert at_one_provider(of(), apps, prices, {"b": 1, "a": 0}).keys() == {"b"}
    bounded = at_one_provider(of(providers=["there"]), apps, prices, {"a": 3})
    assert bounded.keys() == {"b"}
    assert replica_offer(apps["shop"], bounded)["provider"] == "there"


def test_room_that_running_replicas_leave_unused_is_not_counted_on() -> None:
    """Nodes of 32 with replicas of 4 and of 20: a replica of 20 finds no node where 12 of each are free."""
    policies = {
        app: policy_of(decoded("policy", policy(app, unit=[{"metric": "cpu", "value": size}])))
        for app, size in (("shop", 20.0), ("blog", 4.0))
    }
    offers, _, _ = currencies.offers_of({"large": decoded("price", NODES[0])}, Tick(1, 300), None)
    pool = SharedNodes(AppState("web", "web", {}, {}, {}, True), 0)
    pool.paired = pool.paired.moved(Pool.of(policies))

    def observe(
        shop: tuple[int, int, str], blog: int, nodes: tuple[int, int], tick_s: int = 300, starting: int = 0
    ) -> float:
        replicas = {
            "shop": {"ready": shop[0], "pending": shop[1], "reason": shop[2], "pending_ready_s": []},
            "blog": {"ready": blog, "pending": starting, "reason": "", "pending_ready_s": [5.0] * starting},
        }
        pool.observe_placement(offers, {"large": {"ready": nodes[0], "pending": nodes[1]}}, replicas, tick_s)
        return pool.fragmented

    assert observe((2, 0, ""), 6, (4, 0)) == 1.0
    assert observe((2, 1, ""), 6, (4, 0)) == 1.0  # it starts
    assert observe((2, 1, "no node has room"), 6, (4, 1)) == 1.0  # a node is awaited
    assert observe((0, 1, "no node has room"), 0, (4, 0), starting=32) == 1.0  # those that start have room
    assert observe((2, 1, "no node has room"), 12, (4, 0)) == pytest.approx(128 / 88)
    assert observe((2, 0, ""), 6, (4, 0), 24 * 3600) == pytest.approx(1 + 40 / 88 / 2)
    assert (
        observe((0, 1, "the zones with room have their share"), 0, (4, 0)) == 2.0
    )  # 12 of 32 at most, or half


def test_what_was_learnt_of_placement_is_in_a_snapshot() -> None:
    pool = SharedNodes(AppState("web", "web", {}, {}, {}, True), 0)
    pool.fragmented = 1.25
    other = SharedNodes(AppState("web", "web", {}, {}, {}, True), 0)
    other.restore(pool.blocks())
    assert other.fragmented == 1.25
