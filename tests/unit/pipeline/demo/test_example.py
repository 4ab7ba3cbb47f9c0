"""The example that the demo begins with: apps with instances of their own, or on nodes that they share."""

from decimal import Decimal

from pipeline.inputs.example import GROUP, Example

MEDIANS = {"a": {"cpu": 12.0, "memory": 24e9}, "b": {"cpu": 36.0}, "learnt": {"cpu": 5.0}}


def test_apps_on_shared_nodes_begin_with_the_same_replicas_and_nodes_for_them() -> None:
    own = Example.of_medians(MEDIANS)
    shared = own.on_shared_nodes(["a", "b"])
    groups = {policy["app"]: policy["allocation_group"] for policy in shared.policies}
    assert groups == {"a": GROUP, "b": GROUP, "learnt": "learnt", GROUP: GROUP}
    assert next(p for p in shared.policies if p["app"] == GROUP)["nodes"] == "SHARED"
    units = {p["app"]: {of["metric"]: of["value"] for of in p["unit"]} for p in shared.policies}
    assert shared.replicas == {"a": 18 * 6, "b": 18 * 4}
    assert units["a"] == {"cpu": 1 / 6, "memory": 2e9 / 6}
    assert units["b"] == {"cpu": 3 / 4}
    assert shared.starting["learnt"] == own.starting["learnt"]
    nodes = {price["offer_id"]: price for price in shared.prices if price["commitment_id"] == GROUP}
    room = {name: {of["metric"]: of["value"] for of in node["capacity"]} for name, node in nodes.items()}
    # the largest node carries eight replicas of each, however large the app
    assert all(8 * size <= room["node-4.spot"][m] + 1e-6 for app in "ab" for m, size in units[app].items())
    counts = shared.starting[GROUP]
    for metric, taken in (("cpu", 18 * (1.0 + 3.0)), ("memory", 18 * 2e9)):
        assert sum(room[name][metric] * count for name, count in counts.items()) >= taken
    largest = nodes["node-4.on-demand"]
    # as for own instances, half of the median is reserved
    assert (counts["node-4.reserved"], nodes["node-4.reserved"]["owned_count"]) == (4, 4)
    assert [name for name in nodes if name.endswith("reserved")] == ["node-4.reserved"]
    # two apps' replicas at the price of their own instances
    per_replica = Decimal("0.1920") / 2
    assert largest["price"] == 2 * 12 * per_replica * 4 / 32
    assert {price["commitment_id"] for price in shared.prices} == {GROUP, "learnt"}


def test_the_group_is_not_named_as_an_app() -> None:
    example = Example.of_medians({GROUP: {"cpu": 12.0}, f"{GROUP}'": {"cpu": 6.0}})
    assert example.on_shared_nodes([GROUP]).group == f"{GROUP}''"
