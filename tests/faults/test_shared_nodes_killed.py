"""Stages killed while two apps share nodes and one leaves the group: nodes and replicas are the unbroken run's."""

import pytest

from pipeline.inputs.example import Example
from pipeline.settings import Settings
from pipeline.traces.window import TickWindow
from pipeline.wire.codec import decode
from pipeline.wire.commands import REPLICAS, Target
from tests.faults import replaying
from tests.faults.harm import Deaths, Together, killers
from tests.faults.replaying import APPS, TICKS

LEAVES, STAYS = APPS
SESSION_S = 6


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two apps leaves its group in the middle of the window, for instances of its own."""
    on_shared_nodes = Example.on_shared_nodes

    def leaves(own: Example, apps: list[str]) -> Example:
        shared = on_shared_nodes(own, apps)
        policy = next(policy for policy in shared.policies if policy["app"] == LEAVES)
        window = replaying.trace()
        first = TickWindow.of(window, window.tick_s).first
        later = policy | {"version": 2, "valid_from_tick": first + TICKS // 3, "allocation_group": LEAVES}
        prices = [price for price in own.prices if price["commitment_id"] == LEAVES]
        return Example(
            [*shared.policies, later],
            [*shared.prices, *prices],
            shared.starting,
            shared.group,
            shared.replicas,
        )

    monkeypatch.setattr(Example, "on_shared_nodes", leaves)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("leaving")
def test_nodes_and_replicas_of_a_group_that_an_app_leaves_are_the_same_after_kills(
    settings: Settings,
) -> None:
    whole = replaying.run(settings, settings.data_dir / "whole", shared=True, partitions=1)
    plans = [decode(value)[1] for value in whole.records["plans"].values()]
    of_leaving = [plan["level"] for plan in plans if plan["app"] == LEAVES]
    assert of_leaving[0] == "REPLICAS"
    assert of_leaving[-1] == "INSTANCES"
    targets = {Target.of(decode(value)[1]) for value in whole.records["commands"].values()}
    offers_of = {app: {target.offer_id for target in targets if target.app == app} for app in (LEAVES, STAYS)}
    assert offers_of[STAYS] == {REPLICAS}
    # none of the nodes of the group that it leaves is bought for it alone
    assert REPLICAS in offers_of[LEAVES]
    assert {offer.partition(".")[0] for offer in offers_of[LEAVES] - {REPLICAS}} == {LEAVES}
    assert whole.figures["commands"] == whole.figures["applied"]

    steps = Deaths(["profiler blocks 2", "allocator folded 9", "simulator committed 2"])
    fault = Together(killers(5, {"ingest": 2, "actuator": 3}, {"ingest": 5.0, "actuator": 5.0}), steps)
    broken = replaying.run(
        settings,
        settings.data_dir / "broken",
        fault,
        ticks_per_s=2,
        shared=True,
        partitions=1,
        session_timeout_s=SESSION_S,
    )
    assert broken.figures["restarts"] == {"ingest": 2, "worker": 3, "actuator": 3}
    replaying.assert_same(broken, whole)
