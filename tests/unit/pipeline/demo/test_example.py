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
    assert shared.replicas == {"a": 18, "b": 18}
    assert shared.starting["learnt"] == own.starting["learnt"]
    largest = next(price for price in shared.prices if price["offer_id"] == "node-4.on-demand")
    room = {pair["metric"]: pair["value"] for pair in largest["capacity"]}
    count = shared.starting[GROUP]["node-4.on-demand"]
    assert room["cpu"] * count >= 18 * (1.0 + 3.0)
    assert room["memory"] * count >= 18 * 2e9
    # two apps' replicas at the price of their own instances
    per_replica = Decimal("0.1920") / 2
    assert largest["price"] == 2 * 12 * per_replica * 4 / 32
    assert {price["commitment_id"] for price in shared.prices} == {GROUP, "learnt"}


def test_the_group_is_not_named_as_an_app() -> None:
    example = Example.of_medians({GROUP: {"cpu": 12.0}, f"{GROUP}'": {"cpu": 6.0}})
    assert example.on_shared_nodes([GROUP]).group == f"{GROUP}''"
