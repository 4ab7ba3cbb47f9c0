"""The Azure provider on a contract server: commands, observations, and its twelve failures by name."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Rejected, Retryable, Throttled
from pipeline.providers.azure import observation as watching
from pipeline.providers.azure.api import Changed, NotFound
from pipeline.providers.azure.checks import ACTIONS, FLEXIBLE, allows, live_faults
from pipeline.providers.azure.discovery import discover
from pipeline.providers.azure.marks import PAUSED, TAG, TARGET, marked
from pipeline.providers.azure.provider import AzureProvider
from pipeline.providers.azure.release import release
from pipeline.providers.azure.resources import Account, Place, ScaleSet
from pipeline.providers.base import Observation, Record, Result
from pipeline.providers.marks import Mark
from pipeline.providers.polling import STALE_S
from pipeline.wire.commands import Target
from tests.unit.pipeline.providers import commanding
from tests.unit.pipeline.providers.azure_server import (
    GROUP,
    LOCATION,
    ROOT,
    SUBSCRIPTION,
    Cloud,
    Refused,
    Served,
    served,
)
from tests.unit.pipeline.providers.commanding import REF, assert_conflicts_are_refused, counts, eventually
from tests.unit.pipeline.providers.faults import Fault

INFRA = Path(__file__).parents[4] / "infra/azure/role.json"
ACCOUNT = Account(SUBSCRIPTION)
HERE = (ACCOUNT, GROUP)
WEB = ScaleSet(REF, Place(ACCOUNT, GROUP, "web"))
SETS = "/virtualMachineScaleSets"
GET = f"{SETS}/web"


class World(commanding.World[Served, AzureProvider]):
    """A cloud with providers on it."""

    def __init__(self, server: Served) -> None:
        super().__init__(server)
        self.cloud = server.cloud

    def provider(self, *targets: ScaleSet, dry_run: bool = False, **limits: Any) -> AzureProvider:
        return self.with_provider(
            AzureProvider(targets or [WEB], lambda _: self.server.api(**limits), dry_run=dry_run)
        )


@pytest.fixture
def world() -> Iterator[World]:
    with served() as server:
        made = World(server)
        made.cloud.make()
        try:
            yield made
        finally:
            made.close()


def order(desired: int, epoch: int = 10, **more: Any) -> Record:
    return commanding.order("azure", desired, epoch, **more)


def apply(provider: AzureProvider, desired: int, epoch: int = 10, **more: Any) -> Result:
    return provider.apply(order(desired, epoch, **more), time.time())


def observe(provider: AzureProvider, ref: str = REF) -> Observation:
    """What a target has after another poll."""
    provider.pollers[provider.groups[ref].group].poll()
    return provider.observe(Target("azure", ref), time.time())


def sets(cloud: Cloud) -> list[int]:
    """Capacities that requests set."""
    return [count for count, _, _ in cloud.written]


def requests_for(cloud: Cloud, method: str, end: str = "") -> int:
    return sum(1 for request in cloud.requests if request.method == method and request.path.endswith(end))


# What it does.


def test_a_command_writes_capacity_and_mark_at_once(world: World) -> None:
    provider, seven = world.provider(), order(7)
    first = provider.apply(seven, 900.0)
    assert (first.before, first.after, first.generation, first.partial) == (2, 7, 2, False)
    assert requests_for(world.cloud, "PATCH") == 1
    ((count, mark, _),) = world.cloud.written
    assert count == 7
    assert mark is not None
    assert (mark.command, mark.epoch, mark.before, mark.desired, mark.original) == (seven["id"], 10, 2, 7, 2)
    assert mark.accepted_s == 900.0
    seen = observe(provider)
    assert counts(seen) == (7, 0, 0, 0, 0)
    assert (seen.command_id, seen.generation, seen.managed_by) == (seven["id"], 2, "leadtime")
    assert provider.apply(seven, 960.0) == first
    assert sets(world.cloud) == [7]


def test_a_command_keeps_the_tags_of_others(world: World) -> None:
    world.cloud.tag("team", "a")
    apply(world.provider(), 7)
    assert world.cloud.sets["web"].described["tags"]["team"] == "a"


def test_an_operation_that_goes_on_is_not_waited_for(world: World) -> None:
    world.cloud.settles, world.cloud.accepted = False, 202
    provider = world.provider()
    observe(provider)
    before = len(world.cloud.requests)
    assert apply(provider, 7).after == 7
    methods = [request.method for request in world.cloud.requests[before:]]
    assert methods == ["GET", "GET", "PATCH"]  # the set, autoscale settings, the change
    seen = provider.observe(Target("azure", REF), time.time())
    assert (counts(seen), seen.command_id) == ((2, 5, 0, 0, 0), order(7)["id"])


def test_a_capacity_that_is_there_already_is_marked(world: World) -> None:
    provider = world.provider()
    assert apply(provider, 2).after == 2
    assert observe(provider).command_id == order(2)["id"]
    with pytest.raises(Rejected, match="older-epoch"):
        apply(provider, 9, epoch=9)


def test_an_older_or_equal_epoch_is_not_applied_by_another_process_either(world: World) -> None:
    apply(world.provider(), 7, epoch=10)
    for epoch in (9, 10):
        with pytest.raises(Rejected, match="older-epoch"):
            apply(world.provider(), 3, epoch=epoch)
    assert sets(world.cloud) == [7]


def test_a_call_that_an_epoch_overtook_writes_nothing(world: World) -> None:
    provider, held = world.provider(), threading.Event()
    world.cloud.faults[:] = [Fault("GET", "autoscaleSettings", late=held)]
    raised: list[Exception] = []

    def late() -> None:
        try:
            apply(provider, 7, epoch=10)
        except Rejected as error:
            raised.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    eventually(lambda: requests_for(world.cloud, "GET", "autoscaleSettings") > 0)
    newer = threading.Thread(target=lambda: apply(provider, 4, epoch=11))
    newer.start()
    eventually(lambda: provider._epochs.newest[REF] == 11)
    held.set()
    thread.join()
    newer.join()
    assert [str(error) for error in raised] == ["older-epoch"]
    assert sets(world.cloud) == [4]


def test_a_dry_run_changes_nothing(world: World) -> None:
    provider = world.provider(dry_run=True)
    with pytest.raises(
        Rejected, match=r"^dry run: capacity 2 → 7 of VirtualMachineScaleSet web in shop would"
    ):
        apply(provider, 7)
    assert (sets(world.cloud), world.cloud.mark()) == ([], None)


def test_a_target_that_the_file_does_not_have_is_refused(world: World) -> None:
    with pytest.raises(Rejected, match="no shop/other"):
        apply(world.provider(), 3, ref="shop/other")


def test_a_set_that_was_made_anew_with_the_tags_of_another_is_not_marked(world: World) -> None:
    apply(world.provider(), 7)
    tags = world.cloud.sets["web"].described["tags"]
    world.cloud.make("web", 3, tags=tags)
    assert world.cloud.mark() is None
    provider = world.provider()
    seen = observe(provider)
    assert (seen.generation, seen.command_id, seen.managed_by) == (1, "", "unknown")
    assert apply(provider, 5, epoch=3).before == 3


@pytest.mark.parametrize("value", ["", "nonsense", "id=1 epoch=x", "id=a epoch=1 before=1 desired=1"])
def test_a_mark_that_somebody_edited_counts_as_none(world: World, value: str) -> None:
    world.cloud.tag(TAG, value)
    seen = observe(world.provider())
    assert (seen.generation, seen.managed_by) == (1, "unknown")


def test_a_mark_that_was_taken_away_is_remembered_while_the_process_lives(world: World) -> None:
    provider = world.provider()
    first = apply(provider, 7)
    world.cloud.tag(TAG, None)
    assert observe(provider).generation == first.generation
    with pytest.raises(Rejected, match="older-epoch"):
        apply(provider, 3, epoch=9)


def test_an_edit_by_hand_is_foreign_and_what_is_given_back(world: World) -> None:
    provider = world.provider()
    apply(provider, 7)
    world.cloud.scale(5)
    seen = observe(provider)
    assert (seen.generation, seen.command_id, seen.managed_by) == (3, "", "unknown")
    assert apply(provider, 7).after == 7  # the same command again: answered as the first time
    assert world.cloud.sets["web"].capacity == 5
    apply(provider, 9, epoch=11)
    done, failed = release({ACCOUNT: world.server.api()}, [WEB])
    assert (done, failed) == ([f"target {REF}: capacity 9 → 5, no tag of ours"], [])
    assert world.cloud.mark() is None
    again, _ = release({ACCOUNT: world.server.api()}, [WEB])
    assert again == [f"target {REF}: nothing of ours is on it"]


@pytest.mark.parametrize("process", ["the same", "another"])
def test_an_edit_back_to_the_count_before_is_foreign_too(world: World, process: str) -> None:
    provider = world.provider()
    apply(provider, 7)
    world.cloud.scale(2)
    provider = provider if process == "the same" else world.provider()
    seen = observe(provider)
    assert (seen.generation, seen.managed_by) == (3, "unknown")
    apply(provider, 7)
    assert world.cloud.sets["web"].capacity == 2


def test_giving_back_keeps_a_count_that_somebody_else_set(world: World) -> None:
    apply(world.provider(), 7)
    world.cloud.scale(4)
    done, _ = release({ACCOUNT: world.server.api()}, [WEB])
    assert done == [f"target {REF}: capacity 4 → 4, no tag of ours"]
    assert world.cloud.sets["web"].capacity == 4


def test_a_set_of_one_placement_group_is_granted_in_part(world: World) -> None:
    world.cloud.make("web", 3, singlePlacementGroup=True)
    result = apply(world.provider(), 130)
    assert (result.after, result.partial) == (100, True)


@pytest.mark.parametrize("flexible", [False, True])
def test_instances_are_counted_by_their_state(world: World, flexible: bool) -> None:
    cloud = world.cloud
    cloud.make("web", 2, flexible=flexible)
    cloud.sets["web"].described["sku"]["capacity"] = 10
    for state, power, health in (
        ("Creating", "", ""),
        ("Succeeded", "starting", ""),
        ("Deleting", "running", ""),
        ("Succeeded", "deallocated", ""),
        ("Succeeded", "running", "unhealthy"),
        ("Succeeded", "running", "unknown"),
        ("Updating", "running", "healthy"),
        ("Failed", "", ""),
    ):
        cloud.add(state, power, health=health)
    # Three serve, three start, of ten that are desired three are to come, and three are on their way out.
    assert counts(observe(world.provider())) == (3, 3 + 3, 3, 1, 0)


def test_more_than_the_capacity_that_serve_are_draining(world: World) -> None:
    world.cloud.scale(5)
    world.cloud.sets["web"].described["sku"]["capacity"] = 3  # and nothing was deleted yet
    assert counts(observe(world.provider())) == (3, 0, 2, 0, 0)


def test_many_sets_are_listed_in_one_request(world: World) -> None:
    targets = [ScaleSet(f"shop/{n}", Place(ACCOUNT, GROUP, f"s-{n}")) for n in range(12)]
    for target in targets:
        world.cloud.make(target.place.name, 1)
    provider = world.provider(*targets)
    poller = provider.pollers[HERE]
    poller.stop()
    eventually(poller._polled.is_set)
    eventually(lambda: len(poller.instances) == 12)
    before = len(world.cloud.requests)
    poller.poll()
    paths = [request.path.rpartition("/")[2] for request in world.cloud.requests[before:]]
    assert paths == ["virtualMachineScaleSets", *["virtualMachines"] * watching.RELISTED]
    for target in targets:
        assert provider.observe(Target("azure", target.ref), time.time()).ready == 1
    assert len(world.cloud.requests) - before == 1 + watching.RELISTED


def test_a_set_that_changes_is_listed_before_others_and_none_is_forgotten(world: World) -> None:
    targets = [ScaleSet(f"shop/{n}", Place(ACCOUNT, GROUP, f"s-{n}")) for n in range(4)]
    for target in targets:
        world.cloud.make(target.place.name, 1)
    provider = world.provider(*targets)
    poller = provider.pollers[HERE]
    poller.stop()
    eventually(lambda: len(poller.instances) == 4)
    world.cloud.sets["s-3"].described["properties"]["provisioningState"] = "Updating"
    listed: list[str] = []
    for _ in range(3):
        before = len(world.cloud.requests)
        poller.poll()
        listed += [r.name for r in world.cloud.requests[before:] if r.path.endswith("virtualMachines")]
    assert listed[::2] == ["s-3"] * 3
    assert set(listed) == {"s-0", "s-1", "s-2", "s-3"}


def test_lists_come_in_pages(world: World) -> None:
    for number in range(5):
        world.cloud.make(f"other-{number}", 0)
    world.cloud.scale(7)
    world.cloud.page = 2
    assert observe(world.provider()).ready == 7
    assert requests_for(world.cloud, "GET", SETS) >= 3


def test_an_observation_of_before_a_command_does_not_undo_it(world: World) -> None:
    """A poll that began before the command and ends after it."""
    provider, late = world.provider(), threading.Event()
    observe(provider)
    fault = Fault("GET", SETS, late=late)
    world.cloud.faults[:] = [fault]
    poll = threading.Thread(target=provider.pollers[HERE].poll)
    poll.start()
    eventually(lambda: not fault.times)
    apply(provider, 7)
    late.set()
    poll.join()
    seen = provider.observe(Target("azure", REF), time.time())
    assert (seen.command_id, sum(counts(seen))) == (order(7)["id"], 7)


def test_instances_that_were_not_listed_for_long_are_not_reported(world: World) -> None:
    now_s = [0.0]
    provider = world.provider(clock=lambda: now_s[0])
    observe(provider)
    world.cloud.faults[:] = [
        Fault("GET", "/virtualMachines", times=99, refused=Refused("TooManyRequests", 429))
    ]
    now_s[0] = watching.LISTED_S + 1
    with pytest.raises(Retryable, match="the instances of web were not listed for 120 s"):
        observe(provider)


# Victims.


def test_a_shrink_without_ill_instances_is_left_to_the_set(world: World) -> None:
    world.cloud.scale(9)
    apply(world.provider(), 4)
    assert (requests_for(world.cloud, "POST"), sets(world.cloud)) == (0, [4])


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize(("rule", "kept"), [("NEWEST", 0), ("OLDEST", -1)])
def test_a_shrink_takes_evicted_and_failed_instances_first(
    world: World, rule: str, kept: int, flexible: bool
) -> None:
    cloud = world.cloud
    cloud.make("web", 4, spot="Deallocate", flexible=flexible, zones=())
    keys = cloud.keys()
    for age, key in enumerate(keys):
        cloud.sets["web"].instances[key]["properties"]["timeCreated"] = f"2026-01-0{age + 1}T00:00:00Z"
    cloud.evict(keys[1])
    cloud.sets["web"].instances[keys[2]]["properties"]["provisioningState"] = "Failed"
    result = apply(world.provider(), 1, victim_rule=rule)
    assert (result.before, result.after, result.partial) == (4, 1, False)
    assert cloud.keys() == [keys[kept]]
    (deleted,) = (request.body for request in cloud.requests if request.method == "POST")
    assert deleted is not None
    assert set(deleted["instanceIds"][:2]) == {keys[1], keys[2]}
    assert cloud.sets["web"].capacity == 1


@pytest.mark.parametrize("again", ["the same command", "a newer one"])
def test_a_kill_between_tag_and_victims_is_repaired(world: World, again: str) -> None:
    cloud = world.cloud
    cloud.make("web", 4, spot="Deallocate")
    cloud.evict(cloud.keys()[0])
    cloud.faults[:] = [Fault("POST", unheard=True)]
    with pytest.raises(Retryable, match="no answer"):
        apply(world.provider(), 3)
    assert (cloud.sets["web"].capacity, sets(cloud)) == (4, [])
    provider = world.provider()
    seen = observe(provider)
    assert (seen.generation, seen.command_id, seen.managed_by) == (1, "", "leadtime")
    if again == "the same command":
        result = apply(provider, 3)
        assert requests_for(cloud, "PATCH") == 1
    else:
        result = apply(provider, 3, epoch=11)
    assert (result.before, result.after, result.generation, sets(cloud)) == (4, 3, 2, [3])
    assert observe(provider).command_id


def test_an_answer_that_was_lost_is_found_out(world: World) -> None:
    world.cloud.faults[:] = [Fault("PATCH", lost=True)]
    with pytest.raises(Retryable, match="no answer"):
        apply(world.provider(), 7)
    assert apply(world.provider(), 7).after == 7
    assert sets(world.cloud) == [7]


# Its twelve failures.


def test_failure_412_race(world: World) -> None:
    """Somebody edits a tag between our read and our write: nothing is written, and it is read again at once."""
    provider = world.provider()
    world.cloud.faults[:] = [Fault("GET", "autoscaleSettings", late=(late := threading.Event()))]
    raised: list[Retryable] = []

    def race() -> None:
        try:
            apply(provider, 7)
        except Changed as error:
            raised.append(error)

    thread = threading.Thread(target=race)
    thread.start()
    eventually(lambda: requests_for(world.cloud, "GET", "autoscaleSettings") > 0)
    world.cloud.tag("note", "x")
    late.set()
    thread.join()
    assert [error.retry_after < 0.1 for error in raised] == [True]
    assert sets(world.cloud) == []
    assert apply(provider, 7).after == 7
    assert world.cloud.sets["web"].described["tags"]["note"] == "x"


def test_failure_abandoned_call_lands_late(world: World) -> None:
    """What was given up is refused once a newer command has written."""
    provider, held = world.provider(read_s=0.3), threading.Event()
    fault = Fault("PATCH", held=held)
    world.cloud.faults[:] = [fault]
    with pytest.raises(Retryable, match="no answer"):
        apply(provider, 7, epoch=10)
    assert apply(provider, 4, epoch=11).after == 4
    held.set()
    assert fault.finished.wait(10)
    assert (sets(world.cloud), world.cloud.sets["web"].capacity) == ([4], 4)


def test_failure_429_on_get_while_patch_passes(world: World) -> None:
    """It is not zero: nothing is reported after some polls, and no command is carried out on a guess."""
    now_s = [0.0]
    provider = world.provider(clock=lambda: now_s[0])
    assert counts(observe(provider)) == (2, 0, 0, 0, 0)
    details = [{"code": "TooManyRequests", "target": "HighCostGet30Min", "message": "{}"}]
    throttled = Refused("OperationNotAllowed", 429, "too many", details, {"Retry-After": "42"})
    world.cloud.faults[:] = [Fault("GET", times=99, refused=throttled)]
    with pytest.raises(Throttled):
        provider.pollers[HERE].poll()
    now_s[0] = STALE_S - 1
    assert provider.observe(Target("azure", REF), 900.0).ready == 2
    now_s[0] = STALE_S + 1
    with pytest.raises(Retryable, match="nothing was heard of resource group shop for 21 s"):
        provider.observe(Target("azure", REF), 900.0)
    for desired in (1, 9):
        with pytest.raises(Throttled) as refused:
            apply(provider, desired)
        assert refused.value.retry_after == 42.0
    assert requests_for(world.cloud, "PATCH") == 0
    world.cloud.faults[:] = [Fault("GET", "/virtualMachines", refused=throttled)]
    with pytest.raises(Throttled):
        apply(provider, 1, epoch=11)  # a shrink whose instances cannot be listed
    assert (requests_for(world.cloud, "PATCH"), requests_for(world.cloud, "POST")) == (0, 0)


@pytest.mark.parametrize("link", ["known", "of another process"])
@pytest.mark.parametrize("reverts", [False, True])
def test_failure_allocation_failed_after_202(world: World, link: str, reverts: bool) -> None:
    """Azure takes the capacity, and cannot reach it; sometimes it takes the capacity back."""
    cloud = world.cloud
    cloud.accepted, cloud.settles, cloud.sets["web"].room = 202, False, 3
    provider = world.provider()
    assert apply(provider, 7).after == 7
    cloud.settle()
    if reverts:
        cloud.sets["web"].described["sku"]["capacity"] = 3
    provider = provider if link == "known" else world.provider()
    observe(provider)
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((3, 0, 0, 4, 0), "AllocationFailed")
    assert (seen.command_id, seen.generation, seen.managed_by) == (order(7)["id"], 2, "leadtime")
    assert requests_for(cloud, "GET", "instanceView") == (0 if link == "known" else 1)
    assert apply(provider, 7).after == 7  # answered as the first time
    assert len(cloud.written) == 1
    cloud.sets["web"].room, cloud.settles = None, True
    assert apply(provider, 7, epoch=11).after == 7  # the next plan asks again
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((7, 0, 0, 0, 0), "")


def test_failure_quota(world: World) -> None:
    world.cloud.quota = 10
    with pytest.raises(Rejected, match=r"exceeding approved Cores quota.*OperationNotAllowed"):
        apply(world.provider(), 11)
    assert (sets(world.cloud), world.cloud.mark()) == ([], None)


def test_failure_updating_409(world: World) -> None:
    busy = Refused("Conflict", 409, "Another operation is in progress on the set.")
    world.cloud.faults[:] = [Fault("PATCH", refused=busy)]
    provider = world.provider()
    with pytest.raises(Retryable, match="in progress") as refused:
        apply(provider, 7)
    assert refused.value.retry_after == 5.0
    assert apply(provider, 7).after == 7


def test_failure_nested_code(world: World) -> None:
    """The code that matters is in the details, also as JSON in a message; the outer one alone would never pass."""
    inner = {"error": {"code": "ZonalAllocationFailed", "message": "No room in zone 2."}}
    details = [{"code": "DeploymentFailed", "message": json.dumps(inner)}]
    provider = world.provider()
    for refused, kind in (
        (Refused("BadRequest", 400, "one failed", details), Retryable),
        (Refused("BadRequest", 400, "one failed", [{"code": "QuotaExceeded", "message": "cores"}]), Rejected),
        (Refused("Conflict", 409, "failed", [{"code": "ScopeLocked", "message": "a lock"}]), Rejected),
    ):
        world.cloud.faults[:] = [Fault("PATCH", refused=refused)]
        with pytest.raises(kind):
            apply(provider, 7)
    assert sets(world.cloud) == []


def test_failure_eviction_with_restore(world: World) -> None:
    cloud = world.cloud
    cloud.make("web", 4, spot="Deallocate", spotRestorePolicy={"enabled": True})
    provider = world.provider()
    apply(provider, 4)
    evicted = cloud.keys()[1]
    cloud.evict(evicted)
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((3, 0, 0, 0, 1), "1 evicted")
    assert (seen.command_id, seen.managed_by) == (order(4)["id"], "leadtime")
    cloud.become(cloud.sets["web"].instances[evicted], "running")
    assert counts(observe(provider)) == (4, 0, 0, 0, 0)


def test_an_eviction_that_deletes_is_no_edit_of_somebody_else(world: World) -> None:
    """Nothing restores it, and the capacity is one less: the next plan asks for it again."""
    cloud = world.cloud
    cloud.make("web", 2, spot="Delete")
    provider = world.provider()
    apply(provider, 4)
    cloud.evict(cloud.keys()[1])
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((3, 0, 0, 0, 1), "1 evicted")
    assert (seen.command_id, seen.generation, seen.managed_by) == (order(4)["id"], 2, "leadtime")
    assert apply(provider, 4, epoch=11).before == 3
    assert counts(observe(provider)) == (4, 0, 0, 0, 0)


def test_failure_protected_instance(world: World) -> None:
    world.cloud.scale(4)
    world.cloud.protect(world.cloud.keys()[1:])
    result = apply(world.provider(), 1)
    assert (result.before, result.after, result.partial) == (4, 3, True)
    assert (len(world.cloud.keys()), sets(world.cloud)) == (3, [3])


def test_failure_overprovision_count(world: World) -> None:
    """A set makes more instances than its capacity, and deletes those that come last: they are not there."""
    world.cloud.settles = False
    provider = world.provider()
    apply(provider, 4)
    for _ in range(4):
        world.cloud.add("Creating")
    assert counts(observe(provider)) == (2, 2, 0, 0, 0)
    for instance in world.cloud.sets["web"].instances.values():
        instance["properties"]["provisioningState"] = "Succeeded"
        world.cloud.become(instance, "running")
    assert counts(observe(provider)) == (4, 0, 0, 0, 0)
    world.cloud.settle()
    assert counts(observe(provider)) == (4, 0, 0, 0, 0)


def test_failure_zone_constrained_sku(world: World) -> None:
    """One zone has none: what failed, and where, is told of instances and of the set's operation."""
    cloud = world.cloud
    cloud.sets["web"].described["sku"]["capacity"] = 4
    cloud.fail("ZonalAllocationFailed", "2")
    cloud.fail("ZonalAllocationFailed", "2")
    provider = world.provider()
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((2, 0, 0, 2, 0), f"ZonalAllocationFailed in {LOCATION}-2")
    message = "The requested size is not available in zone '1' of location westeurope."
    cloud.make("web", 2).fault = Refused("SkuNotAvailable", 200, message)
    cloud.sets["web"].room = 2
    assert apply(provider, 4, epoch=11).after == 4
    observe(provider)
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((2, 0, 0, 2, 0), f"SkuNotAvailable in {LOCATION}-1")


def test_failure_autoscale_setting_present(world: World) -> None:
    world.cloud.autoscale()
    provider = world.provider()
    words = "autoscale setting auto sets its capacity: az monitor autoscale update .*--enabled false"
    with pytest.raises(Rejected, match=words):
        apply(provider, 7)
    assert (sets(world.cloud), world.cloud.mark()) == ([], None)
    (fault,) = live_faults({ACCOUNT: world.server.api()}, [WEB])
    assert fault.startswith(f"target {REF}: VirtualMachineScaleSet web in shop: autoscale setting auto")
    world.cloud.settings[0]["properties"]["enabled"] = False
    assert apply(provider, 7).after == 7


def test_failure_expired_operation_link(world: World) -> None:
    """Its fault is then read from the set."""
    cloud = world.cloud
    cloud.sets["web"].room = 3
    provider = world.provider()
    apply(provider, 7)
    cloud.expire()
    observe(provider)
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((3, 0, 0, 4, 0), "AllocationFailed")


def test_a_set_that_is_gone_has_nothing(world: World) -> None:
    provider = world.provider()
    apply(provider, 7)
    world.cloud.delete()
    assert observe(provider) == Observation(0, 0, {}, generation=0)
    with pytest.raises(NotFound, match="web"):
        apply(provider, 3, epoch=11)


# What others do.


def test_a_pause_is_honoured(world: World) -> None:
    world.cloud.tag(PAUSED.capitalize(), "True")
    with pytest.raises(Rejected, match=r"is paused \(tag leadtime-paused=true\)"):
        apply(world.provider(), 7)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tags": {"aks-managed-poolName": "a"}}, "is a node pool of AKS"),
        ({"priorityMixPolicy": {"baseRegularPriorityCount": 1}}, "mixes regular and spot instances"),
        (
            {"skuProfile": {"vmSizes": [{"name": "Standard_D2s_v5"}]}},
            "mixes several sizes: make one set an offer",
        ),
    ],
)
def test_sets_that_are_not_ours_or_no_count_are_refused(world: World, more: dict[str, Any], why: str) -> None:
    world.cloud.make("web", 2, **more)
    with pytest.raises(Rejected, match=why):
        apply(world.provider(), 7)


def test_a_set_without_a_size_is_refused(world: World) -> None:
    del world.cloud.make("web", 0, flexible=True).described["sku"]["name"]
    with pytest.raises(Rejected, match="has no size: its capacity cannot be set"):
        apply(world.provider(), 7)


# Permissions.


def everything(world: World) -> None:
    """Make every kind of request once."""
    cloud = world.cloud
    cloud.make("web", 4, spot="Deallocate")
    cloud.make("flexible", 1, flexible=True)
    flexible = ScaleSet("shop/flexible", Place(ACCOUNT, GROUP, "flexible"))
    provider = world.provider(WEB, flexible)
    cloud.sets["web"].room = 5
    apply(provider, 7, epoch=10)
    observe(provider)
    cloud.expire()
    apply(provider, 6, epoch=11)
    provider.pollers[HERE].failures.clear()
    cloud.expire()
    observe(provider)
    cloud.evict(cloud.keys()[0])
    apply(provider, 2, epoch=12)
    assert live_faults({ACCOUNT: world.server.api()}, [WEB, flexible]) == []
    done, failed = release({ACCOUNT: world.server.api()}, [WEB, flexible])
    assert (len(done), failed) == (2, [])


def test_the_role_allows_what_is_requested_and_nothing_else(world: World) -> None:
    role = json.loads(INFRA.read_text())
    world.cloud.actions = role["Actions"]
    everything(world)
    assert {request.action for request in world.cloud.requests} == set(role["Actions"])
    assert set(role["Actions"]) > {*ACTIONS, FLEXIBLE}
    assert role["NotActions"] == role["DataActions"] == role["NotDataActions"] == []


@pytest.mark.parametrize("missing", ["write", "delete/action", "virtualMachines/read"])
def test_without_an_action_the_permission_is_named(world: World, missing: str) -> None:
    cloud = world.cloud
    cloud.make("web", 4, spot="Deallocate")
    cloud.evict(cloud.keys()[0])
    action = f"Microsoft.Compute/virtualMachineScaleSets/{missing}"
    cloud.actions = [of for of in json.loads(INFRA.read_text())["Actions"] if of != action]
    with pytest.raises(Rejected, match=f"a role must allow: {action} on {ROOT}"):
        apply(world.provider(), 3)
    (fault,) = live_faults({ACCOUNT: world.server.api()}, [WEB])
    assert fault == f"target {REF}: not allowed, a role must allow: {action} on {WEB.place.path}"


def test_wildcards_and_exceptions_of_roles_are_understood() -> None:
    write = "Microsoft.Compute/virtualMachineScaleSets/write"
    assert allows({"actions": ["*"], "notActions": []}, write)
    assert allows({"actions": ["microsoft.compute/*"]}, write)
    assert not allows({"actions": ["*/read"]}, write)
    assert not allows(
        {"actions": ["*"], "notActions": ["Microsoft.Compute/virtualMachineScaleSets/*"]}, write
    )


# Checks.


def test_a_live_check_changes_nothing_and_names_what_is_gone(world: World) -> None:
    gone = ScaleSet("shop/c", Place(ACCOUNT, GROUP, "gone"))
    (fault,) = live_faults({ACCOUNT: world.server.api()}, [WEB, gone])
    assert fault.startswith("target shop/c: GET gone: The Resource")
    assert all(request.method == "GET" for request in world.cloud.requests)


def test_sets_that_a_tag_names_are_proposed(world: World) -> None:
    world.cloud.make("Tagged", 1, tags={TARGET: "shop/spot"}).described["tags"][PAUSED] = "true"
    comment, *lines = discover(world.server.api(), "").splitlines()
    assert comment == f"# VirtualMachineScaleSet tagged in shop: is paused (tag {PAUSED}=true)"
    assert lines == [
        "[[target]]",
        'ref = "shop/spot"',
        'kind = "VirtualMachineScaleSet"',
        f'subscription = "{SUBSCRIPTION}"',
        'resource_group = "shop"',
        'name = "tagged"',
        f'endpoint = "{world.server.url}"',
    ]


# With the executor.


def test_an_actuator_refuses_what_somebody_else_changed(world: World) -> None:
    provider = world.provider()
    poller = provider.pollers[HERE]
    eventually(lambda: "web" in poller.instances)

    def scale(count: int) -> None:
        world.cloud.scale(count)
        poller.poll()

    assert_conflicts_are_refused("azure", provider, scale)


def test_a_tag_is_short_enough_for_azure() -> None:
    mark = Mark("f" * 32, 10**10, 10**4, 10**4, 10**4, 1.8e9 + 1 / 3, 10**9)
    described = {"properties": {"uniqueId": "x" * 36}}
    assert len(marked(described, mark, names_victims=True)[TAG]) <= 256
