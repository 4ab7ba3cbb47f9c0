"""The GCP provider on its contract server: commands, observations, and its twelve failures by name."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Rejected, Retryable, Throttled
from pipeline.providers.base import Observation, Record, Result
from pipeline.providers.gcp import observation as watching
from pipeline.providers.gcp.api import Conflict
from pipeline.providers.gcp.checks import live_faults
from pipeline.providers.gcp.discovery import discover
from pipeline.providers.gcp.marks import COMMAND, PAUSED
from pipeline.providers.gcp.provider import GcpProvider
from pipeline.providers.gcp.release import release
from pipeline.providers.gcp.resources import Group, Location, Place
from pipeline.providers.marks import Mark, text_of
from pipeline.providers.polling import STALE_S
from pipeline.wire.commands import Target
from tests.unit.pipeline.providers import commanding
from tests.unit.pipeline.providers.commanding import REF, assert_conflicts_are_refused, counts, eventually
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.gcp_server import (
    PROJECT,
    REGION,
    STOCKOUT,
    ZONES,
    Cloud,
    Instance,
    Refused,
    Served,
    served,
)

ROOT = Path(__file__).parents[4]


class World(commanding.World[Served, GcpProvider]):
    """A cloud with providers on it."""

    def __init__(self, server: Served) -> None:
        super().__init__(server)
        self.cloud = server.cloud

    def group(self, name: str = "web", ref: str = REF, *, regional: bool = False) -> Group:
        at = self.server.location
        return Group(ref, Place(replace(at, zone="", region=REGION) if regional else at, name))

    def provider(self, *groups: Group, dry_run: bool = False, **limits: Any) -> GcpProvider:
        return self.with_provider(
            GcpProvider(groups or [self.group()], lambda _: self.server.api(**limits), dry_run=dry_run)
        )

    @property
    def apis(self) -> dict[str, Any]:
        return {self.server.url: self.server.api()}


@pytest.fixture
def world() -> Iterator[World]:
    with served() as server:
        made = World(server)
        made.cloud.make()
        try:
            yield made
        finally:
            made.close()


def order(desired: int, epoch: int = 10, ref: str = REF, **more: Any) -> Record:
    return commanding.order("gcp", desired, epoch, ref, **more)


def apply(provider: GcpProvider, desired: int, epoch: int = 10, **more: Any) -> Result:
    return provider.apply(order(desired, epoch, **more), time.time())


def poll(provider: GcpProvider, ref: str = REF) -> None:
    provider.areas[provider.groups[ref].location].poll()


def observe(provider: GcpProvider, ref: str = REF) -> Observation:
    """What a target has after another poll."""
    poll(provider, ref)
    return provider.observe(Target("gcp", ref), time.time())


def sets(cloud: Cloud) -> list[int]:
    """Sizes that requests set."""
    return [size for size, _, _ in cloud.written]


def requests_for(cloud: Cloud, method: str) -> int:
    return sum(1 for request in cloud.requests if request.fault == method)


# What it does.


@pytest.mark.parametrize("regional", [False, True])
def test_a_command_leaves_its_mark_and_then_sets_the_size(world: World, regional: bool) -> None:
    world.cloud.make("wide", 2, zone="", description="their words")
    group = world.group("wide", regional=True) if regional else world.group()
    provider, seven = world.provider(group), order(7)
    first = provider.apply(seven, 900.0)
    assert (first.before, first.after, first.generation, first.partial) == (2, 7, 2, False)
    (written,) = world.cloud.written
    assert written[0] == 7
    mark = world.cloud.mark(group.place.name)
    assert mark is not None
    assert mark == written[1]  # it was there before the size
    assert (mark.command, mark.epoch, mark.before, mark.desired, mark.original) == (seven["id"], 10, 2, 7, 2)
    assert world.cloud.group("wide").description.startswith("their words")
    seen = observe(provider)
    assert counts(seen) == (7, 0, 0, 0, 0)
    assert (seen.command_id, seen.generation, seen.managed_by) == (seven["id"], 2, "leadtime")
    assert provider.apply(seven, 960.0) == first
    assert sets(world.cloud) == [7]


def test_right_after_a_command_an_observation_says_what_it_asked_for(world: World) -> None:
    provider = world.provider()
    observe(provider)
    apply(provider, 7)
    seen = provider.observe(Target("gcp", REF), time.time())
    assert counts(seen) == (2, 5, 0, 0, 0)
    assert seen.command_id == order(7)["id"]


def test_a_size_that_is_there_already_is_marked_and_not_set(world: World) -> None:
    provider = world.provider()
    assert apply(provider, 2).after == 2
    assert sets(world.cloud) == []
    assert observe(provider).command_id == order(2)["id"]
    with pytest.raises(Rejected, match="older-epoch"):
        apply(provider, 9, epoch=9)


def test_an_older_or_equal_epoch_is_not_applied_by_another_process_either(world: World) -> None:
    apply(world.provider(), 7, epoch=10)
    for epoch in (9, 10):
        with pytest.raises(Rejected, match="older-epoch"):
            apply(world.provider(), 3, epoch=epoch)
    assert sets(world.cloud) == [7]


def test_a_dry_run_changes_nothing(world: World) -> None:
    provider = world.provider(dry_run=True)
    words = rf"^dry run: target size 2 → 7 of InstanceGroupManager web in {PROJECT}/{ZONES[0]} would"
    with pytest.raises(Rejected, match=words):
        apply(provider, 7)
    assert (sets(world.cloud), world.cloud.mark()) == ([], None)


def test_a_target_that_the_file_does_not_have_is_refused(world: World) -> None:
    with pytest.raises(Rejected, match="no shop/other"):
        apply(world.provider(), 3, ref="shop/other")


def test_a_group_that_is_gone_has_nothing(world: World) -> None:
    provider = world.provider()
    apply(provider, 7)
    world.cloud.groups.clear()
    assert observe(provider) == Observation(0, 0, {}, generation=0)
    with pytest.raises(Rejected, match="instanceGroupManagers/web' was not found"):
        apply(provider, 3, epoch=11)


def test_a_group_of_the_same_name_with_the_description_of_another_is_not_marked(world: World) -> None:
    apply(world.provider(), 7)
    text = world.cloud.group().description
    world.cloud.groups.clear()
    world.cloud.make("web", 3, description=text)
    seen = observe(provider := world.provider())
    assert (seen.generation, seen.command_id, seen.managed_by) == (1, "", "unknown")
    assert apply(provider, 5, epoch=3).before == 3


@pytest.mark.parametrize(
    "text", ["", "nonsense", "id=1 epoch=x", "id=a epoch=1 before=1 desired=1 original=1"]
)
def test_a_mark_that_somebody_edited_counts_as_none(world: World, text: str) -> None:
    world.cloud.group().description = f"[leadtime.dev/command {text}]"
    seen = observe(provider := world.provider())
    assert (seen.generation, seen.managed_by) == (1, "unknown")
    apply(provider, 7)
    assert len(COMMAND.findall(world.cloud.group().description)) == 1


def test_a_mark_that_was_taken_away_is_remembered_while_the_process_lives(world: World) -> None:
    provider = world.provider()
    first = apply(provider, 7)
    world.cloud.group().description = ""
    assert observe(provider).generation == first.generation
    with pytest.raises(Rejected, match="older-epoch"):
        apply(provider, 3, epoch=9)


def test_an_edit_by_hand_is_foreign_and_what_is_given_back(world: World) -> None:
    world.cloud.group().description = "their words"
    provider = world.provider()
    apply(provider, 7)
    world.cloud.scale(5)
    seen = observe(provider)
    assert (seen.generation, seen.command_id, seen.managed_by) == (3, "", "unknown")
    assert apply(provider, 7).after == 7  # the same command again: answered as the first time
    assert world.cloud.group().target == 5
    apply(provider, 9, epoch=11)
    done, failed = release(world.apis, [world.group()])
    assert done == [f"target {REF}: target size 9 → 5, nothing of ours in its description"]
    assert (failed, world.cloud.group().description) == ([], "their words")
    assert release(world.apis, [world.group()])[0] == [f"target {REF}: nothing of ours is on it"]


def test_giving_back_keeps_a_size_that_somebody_else_set(world: World) -> None:
    apply(world.provider(), 7)
    world.cloud.scale(4)
    release(world.apis, [world.group()])
    assert (world.cloud.group().target, world.cloud.group().description) == (4, "")


def test_instances_are_counted_by_their_state(world: World) -> None:
    lives = [
        *(("NONE", "RUNNING"), ("REFRESHING", "RUNNING"), ("VERIFYING", "RUNNING"), ("CREATING", "STAGING")),
        *(
            ("DELETING", "STOPPING"),
            ("ABANDONING", "RUNNING"),
            ("NONE", "STOPPING"),
            ("RECREATING", "TERMINATED"),
        ),
        *(("STARTING", ""), ("NONE", "TERMINATED"), ("NONE", "PROVISIONING")),
    ]
    group = world.cloud.group()
    group.instances = [Instance(f"web-{n}", ZONES[0], *life) for n, life in enumerate(lives)]
    group.instances.append(Instance("web-ill", ZONES[0], health="UNHEALTHY"))
    group.target = 12
    # Two serve; four start; two are leaving and one is ill; two were taken back; of twelve three more are to come.
    assert counts(observe(world.provider())) == (2, 5 + 3, 3, 0, 2)


def test_more_than_the_size_that_serve_are_draining(world: World) -> None:
    group = world.cloud.make("web", 5)
    group.target = 3
    assert counts(observe(world.provider())) == (3, 0, 2, 0, 0)


def test_many_groups_are_described_in_one_request(world: World) -> None:
    groups = [world.group(f"g-{n}", f"shop/{n}") for n in range(30)]
    for group in groups:
        world.cloud.make(group.place.name, 1)
    provider = world.provider(*groups)
    observe(provider, "shop/0")
    before = len(world.cloud.requests)
    poll(provider, "shop/0")
    assert len(world.cloud.requests) == before + 1
    for group in groups:
        assert provider.observe(Target("gcp", group.ref), time.time()).ready == 1
    assert len(world.cloud.requests) == before + 1


def test_few_groups_are_asked_why_in_one_poll(world: World) -> None:
    groups = [world.group(f"g-{n}", f"shop/{n}") for n in range(13)]
    world.cloud.slow = True
    for group in groups:
        world.cloud.make(group.place.name, 1)
    provider = world.provider(*groups)
    provider.close()
    area = provider.areas[groups[0].location]
    eventually(lambda: len(area.instances) == watching.EXPLAINED)
    area.poll()
    assert set(area.instances) == {group.place.name for group in groups}


def test_an_observation_of_before_a_command_does_not_undo_it(world: World) -> None:
    """A poll that began before the command and ends after it."""
    provider, late = world.provider(), threading.Event()
    observe(provider)
    world.cloud.faults[:] = [Fault("list", late=late)]
    polling = threading.Thread(target=poll, args=(provider,))
    polling.start()
    eventually(lambda: not world.cloud.faults[0].times)
    apply(provider, 7)
    late.set()
    polling.join()
    seen = provider.observe(Target("gcp", REF), time.time())
    assert (seen.command_id, sum(counts(seen))) == (order(7)["id"], 7)


# Its twelve failures.


def test_failure_stockout(world: World) -> None:
    world.cloud.room = {ZONES[0]: 3}
    provider = world.provider()
    assert apply(provider, 7).after == 7  # GCP takes it, and goes on trying
    seen = observe(provider)
    assert counts(seen) == (3, 0, 0, 4, 0)
    assert seen.reason == f"{STOCKOUT} in {ZONES[0]}"
    world.cloud.room = {}
    world.cloud.settle(world.cloud.group())
    assert (counts(observe(provider)), observe(provider).reason) == ((7, 0, 0, 0, 0), "")


def test_failure_quota(world: World) -> None:
    """Of instances: the group goes on trying; of the request itself: it is refused."""
    world.cloud.room, world.cloud.code = {ZONES[0]: 2}, "QUOTA_EXCEEDED"
    provider = world.provider()
    apply(provider, 4)
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((2, 0, 0, 2, 0), f"QUOTA_EXCEEDED in {ZONES[0]}")
    words = "Quota 'INSTANCE_GROUP_MANAGERS' exceeded. Limit: 100.0"
    world.cloud.faults[:] = [Fault("resize", refused=Refused("quotaExceeded", 403, words))]
    with pytest.raises(Rejected, match=words):
        apply(provider, 5, epoch=11)


def test_failure_412(world: World) -> None:
    """Somebody edits the group between our read and our write: nothing is written, and it is read again."""
    provider, late = world.provider(), threading.Event()
    world.cloud.faults[:] = [Fault("get", late=late)]
    raised: list[Exception] = []

    def run() -> None:
        try:
            apply(provider, 7)
        except Retryable as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert world.cloud.faults[0].finished.wait(10)
    world.cloud.scale(5)
    late.set()
    thread.join()
    assert [type(error) for error in raised] == [Conflict]
    assert (sets(world.cloud), world.cloud.mark()) == ([], None)
    result = apply(provider, 7)
    assert (result.before, result.after, sets(world.cloud)) == (5, 7, [7])


def test_failure_request_id_repeated(world: World) -> None:
    """The answer is lost, and what the group is to have does not show yet: the same id is sent again, and done once."""
    world.cloud.faults[:] = [Fault("resize", lost=True)]
    with pytest.raises(Retryable, match="no answer"):
        apply(world.provider(), 7)
    world.cloud.group().target = 2
    assert apply(world.provider(), 7).after == 7
    first, second = (r.parameters["requestId"] for r in world.cloud.requests if r.fault == "resize")
    assert first == second
    assert sets(world.cloud) == [7]


def test_failure_done_with_error(world: World) -> None:
    """The operation ends at once with an error: it is tried again with another id, or refused."""
    provider = world.provider()
    world.cloud.failing = [("RESOURCE_NOT_READY", "try again", 400)]  # of the patch
    with pytest.raises(Retryable, match="try again"):
        apply(provider, 7, epoch=11)
    assert (sets(world.cloud), world.cloud.mark()) == ([], None)
    fail_resizes(world, ("RESOURCE_NOT_READY", "later", 400))
    with pytest.raises(Retryable, match="later"):
        apply(provider, 7, epoch=11)
    assert apply(provider, 7, epoch=11).after == 7
    ids = [r.parameters["requestId"] for r in world.cloud.requests if r.fault == "resize"]
    assert len(set(ids)) == len(ids) == 2
    fail_resizes(world, ("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded", 403))
    with pytest.raises(Rejected, match="Quota 'CPUS' exceeded"):
        apply(provider, 9, epoch=12)
    assert sets(world.cloud) == [7]


def fail_resizes(world: World, *errors: tuple[str, str, int]) -> None:
    """Let the next operations of resizes end with errors, and none of patches."""
    world.cloud.failing_of = "resize"
    world.cloud.failing = list(errors)


def test_failure_is_stable_false_for_an_hour(world: World) -> None:
    """Neither commands nor counts wait for a group to be stable."""
    world.cloud.group().stable = False
    provider = world.provider()
    for hour, size in enumerate((3, 5, 2)):
        assert apply(provider, size, epoch=10 + hour).after == size
        assert counts(observe(provider)) == (size, 0, 0, 0, 0)


@pytest.mark.parametrize("mode", ["ON", "ONLY_SCALE_OUT", "ONLY_UP"])
def test_failure_autoscaler_attached(world: World, mode: str) -> None:
    world.cloud.attach(mode)
    provider = world.provider()
    where = f"--zone {ZONES[0]} --project {PROJECT}"
    change = f"gcloud compute instance-groups managed update-autoscaling web {where} --mode off"
    with pytest.raises(Rejected, match=rf"autoscaler web-as \(mode {mode}\) sets its size: {change}"):
        apply(provider, 7)
    assert (sets(world.cloud), world.cloud.mark()) == ([], None)
    (fault,) = live_faults(world.apis, [world.group()])
    assert fault.endswith(change)
    world.cloud.autoscalers["web-as"] = "OFF"
    assert live_faults(world.apis, [world.group()]) == []
    assert apply(provider, 7).after == 7
    world.cloud.autoscalers.clear()  # its URL may outlive it
    assert apply(provider, 8, epoch=11).after == 8


def test_failure_creating_without_retries(world: World) -> None:
    """The group lowers its own size by what it could not create: nobody's edit, and asked for again."""
    world.cloud.group().retries = False
    world.cloud.room = {ZONES[0]: 4}
    provider = world.provider()
    apply(provider, 7)
    assert world.cloud.group().target == 4
    seen = observe(provider)
    assert counts(seen) == (4, 0, 0, 0, 0)
    assert (seen.command_id, seen.managed_by, seen.generation) == ("", "leadtime", 3)
    assert seen.reason == f"{STOCKOUT} in {ZONES[0]}, which is not tried again"
    world.cloud.room = {}
    assert apply(provider, 7, epoch=11).after == 7
    mark = world.cloud.mark()
    assert mark is not None
    assert mark.original == 2
    world.cloud.scale(5)
    assert observe(provider).managed_by == "unknown"


def test_failure_preemption(world: World) -> None:
    world.cloud.scale(4)
    taken = world.cloud.group().instances[1]
    taken.status = "STOPPING"
    provider = world.provider()
    seen = observe(provider)
    assert counts(seen) == (3, 0, 0, 0, 1)
    assert seen.reason == f"1 {watching.TAKEN}"
    # One fewer is wanted: the one that goes anyway is the victim.
    assert apply(provider, 3).after == 3
    assert requests_for(world.cloud, "deleteInstances") == 1
    assert taken not in world.cloud.group().instances
    assert counts(observe(provider)) == (3, 0, 0, 0, 0)
    # Another is taken back, and comes again only when there is room.
    world.cloud.group().instances[0].action = "RECREATING"
    world.cloud.group().instances[0].status = "TERMINATED"
    assert counts(observe(provider)) == (2, 1, 0, 0, 0)
    world.cloud.group().instances[0].errors = (STOCKOUT,)
    assert counts(observe(provider)) == (2, 0, 0, 1, 0)


def test_failure_regional_imbalance(world: World) -> None:
    """One zone has no room: the others are as they were asked for, and the reason names the zone."""
    world.cloud.room = {ZONES[1]: 1}
    world.cloud.make("wide", 3, zone="")
    provider = world.provider(world.group("wide", regional=True))
    apply(provider, 9)
    seen = observe(provider)
    assert counts(seen) == (7, 0, 0, 2, 0)
    assert seen.reason == f"{STOCKOUT} in {ZONES[1]}"
    zones = [i.zone for i in world.cloud.group("wide").instances if not i.errors]
    assert [zones.count(zone) for zone in ZONES] == [3, 1, 3]
    # A smaller size takes what could not be launched first.
    apply(provider, 7, epoch=11)
    assert requests_for(world.cloud, "deleteInstances") == 1
    assert counts(observe(provider)) == (7, 0, 0, 0, 0)


def test_failure_rate_limit(world: World) -> None:
    """A list that is throttled is not zero: what was known counts for some polls, then nothing is reported."""
    now_s = [0.0]
    provider = world.provider(clock=lambda: now_s[0])
    assert counts(observe(provider)) == (2, 0, 0, 0, 0)
    provider.close()
    limit = Refused("rateLimitExceeded", 403, "Quota exceeded for quota metric 'Read requests'")
    world.cloud.faults[:] = [Fault(of, times=99, refused=limit) for of in ("list", "get")]
    with pytest.raises(Throttled, match="Read requests"):
        poll(provider)
    now_s[0] = STALE_S - 1
    assert provider.observe(Target("gcp", REF), 900.0).ready == 2
    now_s[0] = STALE_S + 1
    with pytest.raises(Retryable, match=f"nothing was heard of {PROJECT}/{ZONES[0]} for 21 s"):
        provider.observe(Target("gcp", REF), 900.0)
    with pytest.raises(Throttled) as refused:
        apply(provider, 3)
    assert refused.value.retry_after == 10.0


def test_failure_operation_poll_timeout(world: World) -> None:
    """The resize was accepted; its operation cannot be asked for, or does not end: then what is there counts."""
    now_s = [0.0]
    provider = world.provider(clock=lambda: now_s[0], read_s=0.3)
    apply(provider, 2)
    provider.close()
    world.cloud.deferred = True
    with pytest.raises(Retryable, match="not written yet"):  # the mark's own operation has not ended
        apply(provider, 7, epoch=11)
    world.cloud.finish()
    assert apply(provider, 7, epoch=11).after == 7
    held = threading.Event()
    world.cloud.faults[:] = [Fault("operations.get", times=9, held=held)]
    seen = observe(provider)
    assert (counts(seen), seen.command_id) == ((2, 5, 0, 0, 0), order(7, 11)["id"])
    held.set()
    world.cloud.faults.clear()
    now_s[0] = watching.FLIGHT_S + 1
    seen = observe(provider)
    assert (counts(seen), seen.command_id, seen.managed_by) == ((2, 0, 0, 0, 0), "", "leadtime")
    world.cloud.finish()
    seen = observe(provider)
    assert (counts(seen), seen.command_id) == ((7, 0, 0, 0, 0), order(7, 11)["id"])


def test_an_operation_that_fails_later_leaves_the_size_as_it_was(world: World) -> None:
    provider = world.provider()
    apply(provider, 2)
    world.cloud.deferred = True
    world.cloud.deferred_of = "resize"
    apply(provider, 7, epoch=11)
    seen = observe(provider)
    assert (counts(seen), seen.command_id) == ((2, 5, 0, 0, 0), order(7, 11)["id"])
    world.cloud.failing = [("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded", 403)]
    world.cloud.finish()
    seen = observe(provider)
    # As before the command, and nobody else changed it.
    assert (counts(seen), seen.command_id, seen.managed_by) == ((2, 0, 0, 0, 0), "", "leadtime")
    world.cloud.deferred = False
    assert apply(provider, 4, epoch=12).before == 2
    mark = world.cloud.mark()
    assert mark is not None
    assert mark.original == 2


def test_a_command_for_the_size_that_is_on_its_way_goes_with_it(world: World) -> None:
    provider = world.provider()
    world.cloud.deferred, world.cloud.deferred_of = True, "resize"
    apply(provider, 7)
    apply(provider, 7, epoch=11)
    seen = observe(provider)
    assert (counts(seen), seen.command_id, seen.managed_by) == (
        (2, 5, 0, 0, 0),
        order(7, 11)["id"],
        "leadtime",
    )
    world.cloud.finish()
    assert (sets(world.cloud), counts(observe(provider))) == ([7], (7, 0, 0, 0, 0))


@pytest.mark.parametrize("again", ["the same command", "a newer one"])
def test_a_kill_between_mark_and_size_is_mended(world: World, again: str) -> None:
    world.cloud.faults[:] = [Fault("resize", unheard=True)]
    with pytest.raises(Retryable, match="no answer"):
        apply(world.provider(), 7)
    assert (sets(world.cloud), world.cloud.group().target) == ([], 2)
    provider = world.provider()
    seen = observe(provider)
    assert (seen.ready, seen.generation, seen.command_id, seen.managed_by) == (2, 1, "", "leadtime")
    if again == "the same command":
        result = apply(provider, 7)
        assert (result.before, result.after, result.generation) == (2, 7, 2)
        assert (sets(world.cloud), requests_for(world.cloud, "patch")) == ([7], 1)
    else:
        assert apply(provider, 5, epoch=11).before == 2
    mark = world.cloud.mark()
    assert mark is not None
    assert mark.original == 2


def test_a_resize_that_was_given_up_and_lands_late_is_mended(world: World) -> None:
    provider, held = world.provider(read_s=0.3), threading.Event()
    fault = Fault("resize", held=held)
    world.cloud.faults[:] = [fault]
    with pytest.raises(Retryable, match="timed out"):
        apply(provider, 7, epoch=10)
    assert apply(provider, 4, epoch=11).after == 4
    held.set()
    assert fault.finished.wait(10)
    assert world.cloud.group().target == 7  # which nothing of GCP prevents
    seen = observe(provider)
    assert (seen.command_id, seen.managed_by, seen.generation) == (order(7, 10)["id"], "leadtime", 3)
    assert apply(provider, 5, epoch=12).after == 5
    assert world.cloud.group().target == 5


def test_a_mark_that_was_given_up_cannot_land_after_a_newer_one(world: World) -> None:
    provider, held = world.provider(read_s=0.3), threading.Event()
    fault = Fault("patch", held=held)
    world.cloud.faults[:] = [fault]
    with pytest.raises(Retryable, match="timed out"):
        apply(provider, 7, epoch=10)
    apply(provider, 4, epoch=11)
    held.set()
    assert fault.finished.wait(10)
    mark = world.cloud.mark()
    assert mark is not None
    assert (mark.epoch, world.cloud.group().target) == (11, 4)


def test_a_mark_that_could_not_be_written_is_no_command_that_was_done(world: World) -> None:
    """Somebody scales after our mark was refused: the command, when it comes again, is not taken for done."""
    provider = world.provider()
    world.cloud.faults[:] = [Fault("patch", refused=Refused("conditionNotMet", 412))]
    with pytest.raises(Conflict):
        apply(provider, 7)
    world.cloud.scale(5)
    assert apply(provider, 7).before == 5
    assert sets(world.cloud) == [7]


# Victims.


def test_a_shrink_of_a_whole_group_is_left_to_the_group(world: World) -> None:
    world.cloud.scale(9)
    provider = world.provider()
    observe(provider)
    apply(provider, 4)
    assert (requests_for(world.cloud, "deleteInstances"), sets(world.cloud)) == (0, [4])


def test_victims_that_have_gone_meanwhile_leave_the_choice_to_the_group(world: World) -> None:
    world.cloud.scale(4)
    world.cloud.group().instances[0].status = "STOPPING"
    provider = world.provider()
    observe(provider)
    world.cloud.faults[:] = [Fault("deleteInstances", refused=Refused("invalid", 400, "not a member"))]
    assert apply(provider, 2).after == 2
    assert (requests_for(world.cloud, "resize"), sets(world.cloud)) == (1, [2])


# What others do.


def test_a_pause_is_honoured(world: World) -> None:
    world.cloud.group().description = f"their words {PAUSED}"
    with pytest.raises(Rejected, match=r"is paused \(\[leadtime.dev/paused\] in its description\)"):
        apply(world.provider(), 7)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {
                "instanceFlexibilityPolicy": {
                    "instanceSelections": {"a": {"machineTypes": ["e2-small", "n2-small"]}}
                }
            },
            r"several types \(e2-small, n2-small\): make one group an offer",
        ),
        ({"status": {"stateful": {"hasStatefulConfig": True}}}, "it is stateful"),
        ({"targetSizePolicy": {"mode": "BULK"}}, "all instances or none"),
    ],
)
def test_groups_that_hide_what_they_buy_are_refused(world: World, more: dict[str, Any], why: str) -> None:
    world.cloud.group().more = more
    with pytest.raises(Rejected, match=why):
        apply(world.provider(), 7)
    (fault,) = live_faults(world.apis, [world.group()])
    assert fault.startswith(f"target {REF}: InstanceGroupManager web in {PROJECT}/{ZONES[0]}: ")


def test_the_autoscaler_is_looked_for_again_after_some_minutes(world: World) -> None:
    now_s = [0.0]
    world.cloud.attach("OFF")
    provider = world.provider(clock=lambda: now_s[0])
    apply(provider, 3)
    world.cloud.autoscalers["web-as"] = "ON"
    assert apply(provider, 4, epoch=11).after == 4
    assert requests_for(world.cloud, "autoscalers.get") == 1
    now_s[0] = 301.0
    with pytest.raises(Rejected, match="autoscaler web-as"):
        apply(provider, 5, epoch=12)


# Permissions.


def permissions(*names: str) -> set[str]:
    """What the roles of infra/gcp include."""
    roles = [
        json.loads((ROOT / f"infra/gcp/{name}.json").read_text()) for name in names or ("observe", "act")
    ]
    return {permission for role in roles for permission in role["includedPermissions"]}


def test_the_roles_allow_what_is_asked_and_nothing_else(world: World) -> None:
    world.cloud.permissions = permissions()
    for regional in (False, True):
        name = "wide" if regional else "web"
        world.cloud.make(name, 4, zone="" if regional else ZONES[0])
        world.cloud.attach("OFF", name)
        group = world.group(name, regional=regional)
        provider = world.provider(group)
        world.cloud.deferred, world.cloud.deferred_of = True, "resize"
        apply(provider, 7, epoch=10)
        observe(provider)
        world.cloud.finish()
        world.cloud.group(name).instances[0].status = "STOPPING"
        observe(provider)
        apply(provider, 3, epoch=11)
        world.cloud.finish()
        world.cloud.scale(2, name)
        observe(provider)
        assert live_faults(world.apis, [group]) == []
        world.cloud.deferred = False
        assert len(release(world.apis, [group])[0]) == 1
    world.server.api().call().everywhere(PROJECT)
    needed = {world.cloud.permission_of(request) for request in world.cloud.requests}
    assert needed == permissions()


def test_without_a_role_the_permission_is_named(world: World) -> None:
    world.cloud.permissions = permissions("observe")
    provider = world.provider()
    assert counts(observe(provider)) == (2, 0, 0, 0, 0)
    needed = f"compute.instanceGroupManagers.update on projects/{PROJECT}/zones/{ZONES[0]}/instanceGroupManagers/web"
    with pytest.raises(Rejected, match=f"not allowed, a role must have: {needed}"):
        apply(provider, 7)
    (fault,) = live_faults(world.apis, [world.group()])
    assert needed in fault
    world.cloud.permissions = set()
    (fault,) = live_faults(world.apis, [world.group()])
    assert "a role must have: compute.instanceGroupManagers.get on projects/" in fault


# Checks.


def test_a_live_check_changes_nothing(world: World) -> None:
    world.cloud.group().description = "their words"
    assert live_faults(world.apis, [world.group()]) == []
    group = world.cloud.group()
    assert (sets(world.cloud), group.description, group.target, group.version) == ([], "their words", 2, 1)


def test_a_live_check_names_what_is_gone_and_what_is_there_twice(world: World) -> None:
    by_number = Group("shop/b", Place(replace(world.server.location, endpoint=f"{world.server.url}"), "web"))
    gone, twice = live_faults(world.apis, [world.group(), by_number, world.group("gone", "shop/c")])
    assert gone.startswith(f"target shop/c: The resource 'projects/{PROJECT}/zones/{ZONES[0]}/")
    assert twice.endswith(": 2 targets are this group")


def test_groups_whose_description_names_them_are_proposed(world: World) -> None:
    world.cloud.make("spot", 1, zone="", description="words [leadtime.dev/target shop/spot]")
    world.cloud.make("paused", 1, description=f"[leadtime.dev/target shop/b] {PAUSED}")
    first, second = discover(world.server.api(), PROJECT).split("\n\n")
    fields = ['ref = "shop/spot"', 'kind = "InstanceGroupManager"', f'project = "{PROJECT}"']
    endpoint = f'endpoint = "{world.server.url}"'
    assert first.splitlines() == ["[[target]]", *fields, f'region = "{REGION}"', 'name = "spot"', endpoint]
    comment, *lines = second.splitlines()
    assert comment.startswith(f"# InstanceGroupManager paused in {PROJECT}/{ZONES[0]}: is paused")
    assert f'zone = "{ZONES[0]}"' in lines


def test_an_actuator_refuses_what_somebody_else_changed(world: World) -> None:
    provider = world.provider()
    poll(provider)

    def scale(size: int) -> None:
        world.cloud.scale(size)
        poll(provider)

    assert_conflicts_are_refused("gcp", provider, scale)


def test_a_mark_is_short_beside_what_a_description_holds() -> None:
    mark = Mark("f" * 32, 10**10, 10**6, 10**6, 10**6, 1.8e9 + 1 / 3, 10**9)
    assert len(f"[leadtime.dev/command {text_of(mark, '9' * 20)}]") <= 256


def test_places_are_told_apart() -> None:
    zonal, regional = Location("p", zone="europe-west1-b"), Location("p", region="europe-west1")
    assert (str(Place(zonal, "web")), str(regional)) == (
        "InstanceGroupManager web in p/europe-west1-b",
        "p/europe-west1",
    )
