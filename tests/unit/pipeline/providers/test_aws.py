"""The AWS provider on moto behind a front: commands, observations, and its twelve failures by name."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Rejected, Retryable
from pipeline.providers.aws import observation as watching
from pipeline.providers.aws.checks import live_faults
from pipeline.providers.aws.discovery import discover
from pipeline.providers.aws.marks import PAUSED, TAG, state_of
from pipeline.providers.aws.notices import LASTS_S, REBALANCE, WARNING, parse
from pipeline.providers.aws.observation import Failure, failures_of
from pipeline.providers.aws.provider import AwsProvider
from pipeline.providers.aws.release import release
from pipeline.providers.aws.resources import Account, Group, Place
from pipeline.providers.aws.victims import victims
from pipeline.providers.base import Observation, Record, Result
from pipeline.providers.marks import LATE_S, Mark, Memory, Whose, text_of
from pipeline.providers.polling import STALE_S
from pipeline.providers.targets import TARGET_TAG
from pipeline.wire.commands import Target
from tests.unit.pipeline.providers import commanding
from tests.unit.pipeline.providers.aws_server import (
    NO_CAPACITY,
    REGION,
    ZONES,
    Cloud,
    Refused,
    Served,
    boto_client,
    served,
)
from tests.unit.pipeline.providers.commanding import (
    REF,
    assert_conflicts_are_refused,
    counts,
    eventually,
)
from tests.unit.pipeline.providers.faults import Fault

ROOT = Path(__file__).parents[4]
HERE = Account("", REGION)
WEB = Group(REF, Place(HERE, "web"))


class World(commanding.World[Served, AwsProvider]):
    """A cloud with providers on it."""

    def __init__(self, server: Served) -> None:
        super().__init__(server)
        self.cloud = server.cloud

    def provider(self, *groups: Group, dry_run: bool = False, **limits: Any) -> AwsProvider:
        return self.with_provider(
            AwsProvider(groups or [WEB], lambda _: self.server.api(**limits), dry_run=dry_run)
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


def order(desired: int, epoch: int = 10, ref: str = REF, **more: Any) -> Record:
    return commanding.order("aws", desired, epoch, ref, **more)


def apply(provider: AwsProvider, desired: int, epoch: int = 10, **more: Any) -> Result:
    return provider.apply(order(desired, epoch, **more), time.time())


def observe(provider: AwsProvider, ref: str = REF) -> Observation:
    """What a target has after another poll."""
    provider.regions[provider.groups[ref].account].poll()
    return provider.observe(Target("aws", ref), time.time())


def sets(cloud: Cloud) -> list[int]:
    """Desired capacities that requests set."""
    return [count for count, _, _ in cloud.written]


def requests_for(cloud: Cloud, operation: str) -> int:
    return sum(1 for request in cloud.requests if request.action.endswith(f":{operation}"))


# What it does.


def test_a_command_leaves_its_mark_and_then_sets_the_count(world: World) -> None:
    provider, seven = world.provider(), order(7)
    first = provider.apply(seven, 900.0)
    assert (first.before, first.after, first.generation, first.partial) == (2, 7, 2, False)
    (written,) = world.cloud.written
    assert written[0] == 7
    mark = world.cloud.mark()
    assert mark is not None
    assert mark == written[1]  # it was there before the count
    assert (mark.command, mark.epoch, mark.before, mark.desired, mark.original) == (seven["id"], 10, 2, 7, 2)
    assert mark.accepted_s == 900.0
    seen = observe(provider)
    assert counts(seen) == (7, 0, 0, 0, 0)
    assert (seen.command_id, seen.generation, seen.managed_by) == (seven["id"], 2, "leadtime")
    assert provider.apply(seven, 960.0) == first
    assert sets(world.cloud) == [7]


def test_right_after_a_command_an_observation_says_what_it_asked_for(world: World) -> None:
    provider = world.provider()
    observe(provider)
    apply(provider, 7)
    seen = provider.observe(Target("aws", REF), time.time())
    assert counts(seen) == (2, 5, 0, 0, 0)
    assert seen.command_id == order(7)["id"]


def test_a_count_that_is_there_already_is_marked_and_not_set(world: World) -> None:
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


def test_a_call_that_an_epoch_overtook_writes_nothing(world: World) -> None:
    provider, held = world.provider(), threading.Event()
    world.cloud.faults[:] = [Fault("DescribePolicies", late=held)]
    raised: list[Exception] = []

    def late() -> None:
        try:
            apply(provider, 7, epoch=10)
        except Rejected as error:
            raised.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    while not requests_for(world.cloud, "DescribePolicies"):
        time.sleep(0.01)
    newer = threading.Thread(target=lambda: apply(provider, 4, epoch=11))
    newer.start()
    while provider._epochs.newest[REF] != 11:
        time.sleep(0.01)
    held.set()
    thread.join()
    newer.join()
    assert [str(error) for error in raised] == ["older-epoch"]
    assert sets(world.cloud) == [4]


def test_a_dry_run_changes_nothing(world: World) -> None:
    provider = world.provider(dry_run=True)
    with pytest.raises(
        Rejected, match=r"^dry run: desired capacity 2 → 7 of AutoScalingGroup web in eu-west-1 would"
    ):
        apply(provider, 7)
    assert sets(world.cloud) == []
    assert world.cloud.mark() is None


def test_a_target_that_the_file_does_not_have_is_refused(world: World) -> None:
    with pytest.raises(Rejected, match="no shop/other"):
        apply(world.provider(), 3, ref="shop/other")


def test_a_group_of_the_same_name_with_the_tags_of_another_is_not_marked(world: World) -> None:
    """As a template makes it anew, with tags that were copied."""
    apply(world.provider(), 7)
    client = boto_client("autoscaling")
    tags = client.describe_auto_scaling_groups(AutoScalingGroupNames=["web"])["AutoScalingGroups"][0]["Tags"]
    client.delete_auto_scaling_group(AutoScalingGroupName="web", ForceDelete=True)
    world.cloud.make(
        "web", 3, Tags=[{k: tag[k] for k in ("Key", "Value", "PropagateAtLaunch")} for tag in tags]
    )
    assert world.cloud.mark() is None
    provider = world.provider()
    seen = observe(provider)
    assert (seen.generation, seen.command_id, seen.managed_by) == (1, "", "unknown")
    assert apply(provider, 5, epoch=3).before == 3


@pytest.mark.parametrize(
    "value", ["", "nonsense", "id=1 epoch=x", "id=a epoch=1 before=1 desired=1 original=1"]
)
def test_a_mark_that_somebody_edited_counts_as_none(world: World, value: str) -> None:
    tag = {"ResourceId": "web", "ResourceType": "auto-scaling-group", "Key": TAG, "PropagateAtLaunch": False}
    boto_client("autoscaling").create_or_update_tags(Tags=[{**tag, "Value": value}])
    seen = observe(world.provider())
    assert (seen.generation, seen.managed_by) == (1, "unknown")


def test_a_mark_that_was_taken_away_is_remembered_while_the_process_lives(world: World) -> None:
    provider = world.provider()
    first = apply(provider, 7)
    tag = {"ResourceId": "web", "ResourceType": "auto-scaling-group", "Key": TAG}
    boto_client("autoscaling").delete_tags(Tags=[tag])
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
    assert world.cloud.desired["web"] == 5
    apply(provider, 9, epoch=11)
    done, failed = release({HERE: world.server.api()}, [WEB])
    assert (done, failed) == ([f"target {REF}: desired capacity 9 → 5, no tag of ours"], [])
    assert world.cloud.mark() is None
    assert release({HERE: world.server.api()}, [WEB])[0] == [f"target {REF}: nothing of ours is on it"]


def test_an_edit_back_to_the_count_before_is_foreign_too(world: World) -> None:
    provider = world.provider()
    apply(provider, 7)
    world.cloud.scale(2)
    assert (observe(provider).generation, observe(provider).managed_by) == (3, "unknown")
    apply(provider, 7)
    assert world.cloud.desired["web"] == 2


def test_giving_back_keeps_a_count_that_somebody_else_set(world: World) -> None:
    apply(world.provider(), 7)
    world.cloud.scale(4)
    done, _ = release({HERE: world.server.api()}, [WEB])
    assert done == [f"target {REF}: desired capacity 4 → 4, no tag of ours"]
    assert world.cloud.desired["web"] == 4


@pytest.mark.parametrize(("desired", "granted"), [(30, 20), (1, 2), (20, 20), (2, 2)])
def test_what_the_group_bounds_is_granted_in_part(world: World, desired: int, granted: int) -> None:
    world.cloud.make("bounded", 3, least=2)
    provider = world.provider(Group(REF, Place(HERE, "bounded")))
    result = apply(provider, desired)
    assert (result.after, result.partial) == (granted, granted != desired)


def test_instances_are_counted_by_their_state(world: World) -> None:
    world.cloud.scale(9)
    ids = world.cloud.instances()
    states = [
        "Pending",
        "Pending:Wait",
        "Terminating",
        "Terminating:Wait",
        "Standby",
        "InService",
        "Warmed:Stopped",
    ]
    world.cloud.lives = dict(zip(ids, states, strict=False))
    world.cloud.ill = {ids[5]}
    # Two start, two end, one is ill, two serve; of nine that are desired two more are to come.
    assert counts(observe(world.provider())) == (2, 2 + 4, 3, 0, 0)


def test_more_than_desired_that_serve_are_draining(world: World) -> None:
    world.cloud.scale(5)
    world.cloud.desired["web"] = 3  # and nothing was terminated yet
    assert counts(observe(world.provider())) == (3, 0, 2, 0, 0)


def test_many_groups_are_described_in_one_request(world: World) -> None:
    groups = [Group(f"shop/{n}", Place(HERE, f"g-{n}")) for n in range(30)]
    for group in groups:
        world.cloud.make(group.place.name, 1)
    provider = world.provider(*groups)
    observe(provider, "shop/0")
    before = len(world.cloud.requests)
    observe(provider, "shop/0")
    assert len(world.cloud.requests) == before + 1
    for group in groups:
        assert provider.observe(Target("aws", group.ref), time.time()).ready == 1
    assert len(world.cloud.requests) == before + 1


def test_an_observation_of_before_a_command_does_not_undo_it(world: World) -> None:
    """A poll that began before the command and ends after it."""
    provider, late = world.provider(), threading.Event()
    observe(provider)
    world.cloud.faults[:] = [Fault("DescribeAutoScalingGroups", late=late)]
    poll = threading.Thread(target=provider.regions[HERE].poll)
    poll.start()
    while world.cloud.faults[0].times:
        time.sleep(0.01)
    apply(provider, 7)
    late.set()
    poll.join()
    seen = provider.observe(Target("aws", REF), time.time())
    assert (seen.command_id, sum(counts(seen))) == (order(7)["id"], 7)


# Victims.


def test_what_goes_anyway_goes_first_then_from_the_fullest_zone_the_youngest() -> None:
    def one(name: str, zone: str = "a", life: str = "InService", *, kept: bool = False) -> dict[str, Any]:
        health = {"HealthStatus": "Healthy", "LifecycleState": life, "ProtectedFromScaleIn": kept}
        return {"InstanceId": name, "AvailabilityZone": zone, **health}

    here = [one("a1"), one("a2"), one("a3"), one("b1", "b"), one("b2", "b"), one("kept", kept=True)]
    here += [one("starting", "b", "Pending"), one("gone", "b", "Terminating"), one("warned", "b")]
    group = {"Instances": here}
    ages = {"a1": 1.0, "a2": 2.0, "a3": 3.0, "b1": 1.0, "b2": 2.0}
    assert victims(group, 5, {"warned"}, ages) == ["warned", "starting", "a3", "a2", "b2"]
    assert victims(group, 4, {"warned"}, ages, oldest=True) == ["warned", "starting", "a1", "a2"]
    assert len(victims(group, 99, set(), ages)) == 7


@pytest.mark.parametrize(("rule", "going"), [("NEWEST", 3), ("OLDEST", 1)])
def test_a_shrink_beside_protected_instances_names_its_victims(world: World, rule: str, going: int) -> None:
    world.cloud.scale(4)
    ids = world.cloud.instances()
    world.cloud.protect(ids[:1])
    for age, ident in enumerate(reversed(ids)):
        world.cloud.launched(ident, age * 60.0)
    assert apply(world.provider(), 3, victim_rule=rule).after == 3
    assert requests_for(world.cloud, "TerminateInstanceInAutoScalingGroup") == 1
    assert requests_for(world.cloud, "SetDesiredCapacity") == 0
    (gone,) = set(ids) - set(world.cloud.instances())
    assert ids.index(gone) == going
    assert world.cloud.desired["web"] == 3


def test_victims_of_one_command_are_one_request(world: World) -> None:
    world.cloud.scale(12)
    world.cloud.protect(world.cloud.instances()[:2])
    assert apply(world.provider(), 4).after == 4
    assert requests_for(world.cloud, "TerminateInstanceInAutoScalingGroup") == 1
    assert len(world.cloud.instances()) == 4


def test_a_shrink_without_protection_is_left_to_the_groups_termination_policy(world: World) -> None:
    world.cloud.scale(9)
    apply(world.provider(), 4)
    assert requests_for(world.cloud, "TerminateInstanceInAutoScalingGroup") == 0
    assert requests_for(world.cloud, "DescribeInstances") == 0
    assert sets(world.cloud) == [4]


def test_a_shrink_takes_what_was_never_launched_too(world: World) -> None:
    world.cloud.room = 2
    world.cloud.scale(6)
    world.cloud.protect(world.cloud.instances()[:1])
    assert apply(world.provider(), 1).after == 1
    assert (len(world.cloud.instances()), world.cloud.desired["web"]) == (1, 1)


# Its twelve failures.


def test_failure_desired_above_max(world: World) -> None:
    provider = world.provider()
    result = apply(provider, 30)
    assert (result.after, result.partial) == (20, True)
    assert sets(world.cloud) == [20]


def test_failure_throttled_describe(world: World) -> None:
    """It is not zero: what was known counts for some polls, then nothing is reported."""
    now_s = [0.0]
    provider = world.provider(clock=lambda: now_s[0])
    assert counts(observe(provider)) == (2, 0, 0, 0, 0)
    world.cloud.faults[:] = [Fault("DescribeAutoScalingGroups", times=99, refused=Refused("Throttling"))]
    with pytest.raises(Retryable, match="Throttling"):
        provider.regions[HERE].poll()
    now_s[0] = STALE_S - 1
    assert provider.observe(Target("aws", REF), 900.0).ready == 2
    now_s[0] = STALE_S + 1
    with pytest.raises(Retryable, match="nothing was heard of eu-west-1 for 21 s"):
        provider.observe(Target("aws", REF), 900.0)
    with pytest.raises(Retryable, match="Throttling") as refused:
        apply(provider, 3)
    assert refused.value.retry_after == 10.0


def test_failure_abandoned_call_lands_late(world: World) -> None:
    provider, held = world.provider(read_s=0.3), threading.Event()
    fault = Fault("SetDesiredCapacity", held=held)
    world.cloud.faults[:] = [fault]
    with pytest.raises(Retryable, match="timeout"):
        apply(provider, 7, epoch=10)
    assert apply(provider, 4, epoch=11).after == 4
    held.set()
    assert fault.finished.wait(10)
    assert world.cloud.desired["web"] == 7  # which nothing of AWS prevents
    seen = observe(provider)
    # Ours, of the older command: no foreign edit, and not what the newest plan asked for.
    assert (seen.command_id, seen.managed_by) == (order(7, 10)["id"], "leadtime")
    assert seen.generation == 3  # after 1 of before and 2 of the newer command
    result = apply(provider, 5, epoch=12)
    assert (result.after, world.cloud.desired["web"]) == (5, 5)
    mark = world.cloud.mark()
    assert mark is not None
    assert mark.original == 2


def test_failure_token_repeated(world: World) -> None:
    """The id of a command is its token: here it comes again in another process, after the count has moved on."""
    first = apply(world.provider(), 7)
    assert apply(world.provider(), 7) == first
    world.cloud.scale(5)
    again = apply(world.provider(), 7)
    assert again == first
    assert (sets(world.cloud), world.cloud.desired["web"]) == ([7], 5)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (NO_CAPACITY, "InsufficientInstanceCapacity"),
        (
            "We currently do not have sufficient m5.large capacity in the Availability Zone you requested "
            "(eu-west-1a). Launching EC2 instance failed.",
            "InsufficientInstanceCapacity",
        ),
        (
            "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max spot instance count exceeded.",
            "MaxSpotInstanceCountExceeded",
        ),
        (
            "You have requested more vCPU capacity than your current vCPU limit of 32 allows for the instance "
            "bucket that the specified instance type belongs to. Launching EC2 instance failed.",
            "VcpuLimitExceeded",
        ),
        (
            "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity.",
            "UnfulfillableCapacity",
        ),
    ],
)
def test_failure_no_capacity_in_one_zone(world: World, message: str, code: str) -> None:
    world.cloud.room, world.cloud.messages = 3, {ZONES[0]: message}
    provider = world.provider()
    assert apply(provider, 7).after == 7  # AWS takes it, and goes on trying
    observe(provider)
    seen = observe(provider)
    assert counts(seen) == (3, 0, 0, 4, 0)
    assert seen.reason == f"{code} in {ZONES[0]}"
    world.cloud.room = None
    world.cloud.settle()
    assert observe(provider).reason == ""


def test_failure_part_granted(world: World) -> None:
    """Some launch, the rest has no room in any zone: what is there counts, and why it is not more."""
    world.cloud.room, world.cloud.messages = 5, dict.fromkeys(ZONES, NO_CAPACITY)
    provider = world.provider()
    assert (apply(provider, 9).after, len(world.cloud.instances())) == (9, 5)
    world.cloud.lives = {world.cloud.instances()[-1]: "Pending"}
    observe(provider)
    seen = observe(provider)
    assert counts(seen) == (4, 1, 0, 4, 0)
    assert seen.reason == "; ".join(f"InsufficientInstanceCapacity in {zone}" for zone in ZONES)


def test_failure_all_protected(world: World) -> None:
    world.cloud.scale(4)
    world.cloud.protect(world.cloud.instances())
    result = apply(world.provider(), 1)
    assert (result.before, result.after, result.partial) == (4, 4, True)
    assert (len(world.cloud.instances()), sets(world.cloud)) == (4, [])


def test_failure_hook_timeout(world: World) -> None:
    """An instance waits for its launch hook, which gives it up: AWS launches another."""
    provider = world.provider()
    apply(provider, 3)
    waiting = world.cloud.instances()[-1]
    world.cloud.lives = {waiting: "Pending:Wait"}
    assert counts(observe(provider)) == (2, 1, 0, 0, 0)
    world.cloud.end(waiting)
    words = f"Instance failed to complete user's Lifecycle Action: the token was abandoned for {waiting}"
    world.cloud.activity("Cancelled", ZONES[0], words)
    observe(provider)
    seen = observe(provider)
    assert counts(seen) == (2, 1, 0, 0, 0)
    assert seen.reason == f"{words} in {ZONES[0]}"


def event(instance: str, kind: str = WARNING, age_s: float = 0.0) -> dict[str, Any]:
    at = datetime.fromtimestamp(time.time() - age_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    detail = {"instance-id": instance, "instance-action": "terminate"}
    return {"source": "aws.ec2", "detail-type": kind, "time": at, "detail": detail}


def test_failure_spot_warning_without_replacement(world: World) -> None:
    queue = world.server.queue()
    provider = world.provider(Group(REF, Place(HERE, "web"), queue))
    world.cloud.scale(4)
    warned = world.cloud.instances()[1]
    world.server.send(queue, event(warned))
    seen = observe(provider)
    assert counts(seen) == (3, 0, 0, 0, 1)
    assert seen.reason == "1 under a spot interruption warning"
    # One fewer is wanted: the one that goes anyway is the victim.
    assert apply(provider, 3).after == 3
    assert warned not in world.cloud.instances()
    assert counts(observe(provider)) == (3, 0, 0, 0, 0)
    # Another is taken back, and nothing comes for it.
    lost = world.cloud.instances()[0]
    world.cloud.room = 2
    world.cloud.end(lost)
    world.cloud.settle()
    observe(provider)
    assert counts(observe(provider)) == (2, 0, 0, 1, 0)


@pytest.mark.parametrize(
    "kind", ["TargetTrackingScaling", "StepScaling", "SimpleScaling", "PredictiveScaling"]
)
def test_failure_predictive_policy_active(world: World, kind: str) -> None:
    put_policy(kind)
    provider = world.provider()
    with pytest.raises(Rejected, match="policy busy"):
        apply(provider, 7)
    assert sets(world.cloud) == []
    assert world.cloud.mark() is None
    (fault,) = live_faults({HERE: world.server.api()}, [WEB])
    assert fault.startswith(f"target {REF}: AutoScalingGroup web in eu-west-1: ")
    assert ("set its mode to ForecastOnly" in fault) == (kind == "PredictiveScaling")
    if kind == "PredictiveScaling":
        put_policy(kind, mode="ForecastOnly")
        assert apply(provider, 7).after == 7


def put_policy(kind: str, mode: str = "ForecastAndScale") -> None:
    metric = {"PredefinedMetricType": "ASGAverageCPUUtilization"}
    pair = {"PredefinedMetricPairSpecification": {"PredefinedMetricType": "ASGCPUUtilization"}}
    forms: dict[str, dict[str, Any]] = {
        "TargetTrackingScaling": {
            "TargetTrackingConfiguration": {"PredefinedMetricSpecification": metric, "TargetValue": 50.0}
        },
        "StepScaling": {
            "AdjustmentType": "ChangeInCapacity",
            "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
        },
        "SimpleScaling": {"AdjustmentType": "ChangeInCapacity", "ScalingAdjustment": 1},
        "PredictiveScaling": {
            "PredictiveScalingConfiguration": {
                "MetricSpecifications": [{"TargetValue": 40.0, **pair}],
                "Mode": mode,
            }
        },
    }
    names = {"AutoScalingGroupName": "web", "PolicyName": "busy", "PolicyType": kind}
    boto_client("autoscaling").put_scaling_policy(**names, **forms[kind])


def test_failure_group_deleted(world: World) -> None:
    provider = world.provider()
    apply(provider, 7)
    boto_client("autoscaling").delete_auto_scaling_group(AutoScalingGroupName="web", ForceDelete=True)
    assert observe(provider) == Observation(0, 0, {}, generation=0)
    with pytest.raises(Rejected, match="there is no AutoScalingGroup web in eu-west-1"):
        apply(provider, 3, epoch=11)


@pytest.mark.parametrize("again", ["the same command", "a newer one"])
def test_failure_tags_written_desired_not(world: World, again: str) -> None:
    """A kill between the two."""
    world.cloud.faults[:] = [Fault("SetDesiredCapacity", unheard=True)]
    with pytest.raises(Retryable, match="no answer"):
        apply(world.provider(), 7)
    assert (sets(world.cloud), world.cloud.desired["web"]) == ([], 2)
    provider = world.provider()
    seen = observe(provider)
    # The group is as before the command, and nobody else changed it.
    assert (seen.ready, seen.generation, seen.command_id, seen.managed_by) == (2, 1, "", "leadtime")
    if again == "the same command":
        result = apply(provider, 7)
        assert (result.before, result.after, result.generation) == (2, 7, 2)
        assert (sets(world.cloud), requests_for(world.cloud, "CreateOrUpdateTags")) == ([7], 1)
    else:
        result = apply(provider, 5, epoch=11)
        assert (result.before, result.after, result.generation) == (2, 5, 2)
    mark = world.cloud.mark()
    assert mark is not None
    assert mark.original == 2


def test_an_answer_that_was_lost_is_found_out(world: World) -> None:
    world.cloud.faults[:] = [Fault("SetDesiredCapacity", lost=True)]
    with pytest.raises(Retryable, match="no answer"):
        apply(world.provider(), 7)
    assert apply(world.provider(), 7).after == 7
    assert sets(world.cloud) == [7]


def test_a_mark_whose_answer_was_lost_is_written_again_where_it_is_not_there(world: World) -> None:
    provider = world.provider()
    world.cloud.faults[:] = [Fault("CreateOrUpdateTags", unheard=True)]
    with pytest.raises(Retryable, match="no answer"):
        apply(provider, 7)
    assert (world.cloud.mark(), sets(world.cloud)) == (None, [])
    assert apply(provider, 7).after == 7
    assert world.cloud.mark() is not None


# What others do.


def test_schedules_are_refused(world: World) -> None:
    boto_client("autoscaling").put_scheduled_update_group_action(
        AutoScalingGroupName="web", ScheduledActionName="night", DesiredCapacity=1, Recurrence="0 22 * * *"
    )
    with pytest.raises(Rejected, match="scheduled action night sets its capacity: delete it"):
        apply(world.provider(), 7)


def test_suspended_processes_are_refused(world: World) -> None:
    boto_client("autoscaling").suspend_processes(AutoScalingGroupName="web", ScalingProcesses=["Launch"])
    with pytest.raises(
        Rejected, match=r"process Launch is suspended: aws autoscaling resume-processes .* Launch"
    ):
        apply(world.provider(), 7)


def test_a_pause_is_honoured(world: World) -> None:
    tag = {
        "ResourceId": "web",
        "ResourceType": "auto-scaling-group",
        "Key": PAUSED,
        "PropagateAtLaunch": False,
    }
    boto_client("autoscaling").create_or_update_tags(Tags=[{**tag, "Value": "true"}])
    with pytest.raises(Rejected, match=r"is paused \(tag leadtime.dev/paused=true\)"):
        apply(world.provider(), 7)


def mixed(*types: str, share: int = 100, **more: str) -> dict[str, Any]:
    boto_client("ec2").create_launch_template(
        LaunchTemplateName="mixed", LaunchTemplateData={"ImageId": "ami-12345678", "InstanceType": "m5.large"}
    )
    template = {
        "LaunchTemplateSpecification": {"LaunchTemplateName": "mixed", "Version": "$Latest"},
        "Overrides": [{"InstanceType": of, **more} for of in types],
    }
    return {
        "LaunchTemplate": template,
        "InstancesDistribution": {"OnDemandPercentageAboveBaseCapacity": share},
    }


@pytest.mark.parametrize(
    ("types", "more", "why"),
    [
        (
            ("m5.large", "m6i.large"),
            {},
            r"has several types \(m5.large, m6i.large\): make one group an offer",
        ),
        (("m5.large",), {"share": 30}, "mixes on-demand and spot"),
        (("m5.large",), {"WeightedCapacity": "2"}, "has weights: only instances are counted"),
        (("m5.large",), {}, ""),
        (("m5.large",), {"share": 0}, ""),
    ],
)
def test_mixed_groups_hide_the_mix(
    world: World, types: tuple[str, ...], more: dict[str, Any], why: str
) -> None:
    world.cloud.make("mixed", 1, MixedInstancesPolicy=mixed(*types, **more))
    provider = world.provider(Group(REF, Place(HERE, "mixed")))
    try:
        if why:
            with pytest.raises(Rejected, match=why):
                apply(provider, 3)
        else:
            assert apply(provider, 3).after == 3
    finally:
        boto_client("ec2").delete_launch_template(LaunchTemplateName="mixed")


def test_policies_are_looked_for_again_after_some_minutes(world: World) -> None:
    now_s = [0.0]
    provider = world.provider(clock=lambda: now_s[0])
    apply(provider, 3)
    put_policy("StepScaling")
    assert apply(provider, 4, epoch=11).after == 4
    assert requests_for(world.cloud, "DescribePolicies") == 1
    now_s[0] = 301.0
    with pytest.raises(Rejected, match="policy busy"):
        apply(provider, 5, epoch=12)


# Spot.


def test_a_restart_reads_warnings_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.providers.aws.notices.HIDDEN_S", 0)
    queue = world.server.queue()
    group = Group(REF, Place(HERE, "web"), queue)
    world.server.send(queue, event(world.cloud.instances()[0]))
    for _ in range(2):
        provider = world.provider(group)
        assert counts(observe(provider)) == (1, 0, 0, 0, 1)
        provider.close()


@pytest.mark.parametrize("replaces", [True, False])
def test_a_recommendation_counts_where_the_group_follows_it(world: World, replaces: bool) -> None:
    world.cloud.make("spot", 2, CapacityRebalance=replaces)
    queue = world.server.queue()
    provider = world.provider(Group(REF, Place(HERE, "spot"), queue))
    world.server.send(queue, event(world.cloud.instances("spot")[0], REBALANCE))
    assert counts(observe(provider)) == ((1, 0, 0, 0, 1) if replaces else (2, 0, 0, 0, 0))


def test_what_is_over_or_no_notice_is_deleted(world: World) -> None:
    queue = world.server.queue()
    provider = world.provider(Group(REF, Place(HERE, "web"), queue))
    here = world.cloud.instances()
    for body in (
        event(here[0], age_s=LASTS_S[WARNING] + 1),
        "nonsense",
        [],
        {"detail-type": "else", "time": 3},
    ):
        world.server.send(queue, body)
    assert counts(observe(provider)) == (2, 0, 0, 0, 0)
    numbers = boto_client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert numbers["ApproximateNumberOfMessages"] == numbers["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_a_queue_that_cannot_be_read_hides_no_instances(world: World) -> None:
    provider = world.provider(Group(REF, Place(HERE, "web"), f"{world.server.url}/1/nosuch"))
    assert counts(observe(provider)) == (2, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "body", ["", "null", "[]", '{"detail-type": []}', json.dumps(event("i-1") | {"time": "now"})]
)
def test_what_is_no_notice(body: str) -> None:
    assert parse(body) is None


# Why instances are missing.


def test_a_launch_that_succeeds_ends_the_failures_of_its_zone() -> None:
    def one(status: str, zone: str, minute: int, message: str = NO_CAPACITY) -> dict[str, Any]:
        at = datetime(2026, 1, 1, 0, minute, tzinfo=UTC)
        details = json.dumps({"Availability Zone": zone})
        fields = {"StatusCode": status, "StatusMessage": message, "Details": details, "StartTime": at}
        return {"Description": "Launching a new EC2 instance: i-1", **fields}

    activities = [
        one("Successful", "a", 9),
        one("Failed", "b", 8),
        one("Failed", "a", 7),
        one("Failed", "b", 6),
    ]
    at_s = datetime(2026, 1, 1, 0, 8, tzinfo=UTC).timestamp()
    assert failures_of(activities) == [Failure("InsufficientInstanceCapacity", "b", NO_CAPACITY, at_s)]
    ending = one("Failed", "c", 5) | {"Description": "Terminating EC2 instance: i-1", "Details": "nonsense"}
    assert failures_of([ending, one("InProgress", "c", 4)]) == []


def test_an_old_failure_says_nothing(world: World) -> None:
    world.cloud.room = 2
    world.cloud.activity("Failed", ZONES[0], NO_CAPACITY, age_s=watching.RECENT_S + 5)
    world.cloud.desired["web"] = 4
    provider = world.provider()
    observe(provider)
    seen = observe(provider)
    assert (counts(seen), seen.reason) == ((2, 2, 0, 0, 0), "")


def test_few_groups_are_asked_why_in_one_poll(world: World) -> None:
    groups = [Group(f"shop/{n}", Place(HERE, f"g-{n}")) for n in range(13)]
    for group in groups:
        world.cloud.make(group.place.name, 0)
        world.cloud.desired[group.place.name] = 1
    provider = world.provider(*groups)
    provider.close()
    region = provider.regions[HERE]
    while not region._polled.is_set():
        time.sleep(0.01)
    time.sleep(0.5)
    before = len(world.cloud.requests)
    region.poll()
    assert len(world.cloud.requests) - before == 1 + watching.EXPLAINED
    names = {a.parameters["AutoScalingGroupName"] for a in world.cloud.requests if "Activities" in a.action}
    assert names == {group.place.name for group in groups}


# Permissions.


POLICY = json.loads((ROOT / "infra/aws/iam.json").read_text())["Statement"]
SHOP = Group(REF, Place(HERE, "shop-web"), "")


def everything(world: World) -> AwsProvider:
    """Make every kind of request once."""
    queue = world.server.queue("leadtime-spot-warnings")
    world.cloud.make("shop-web", 4)
    group = Group(REF, SHOP.place, queue)
    provider = world.provider(group)
    world.cloud.protect(world.cloud.instances("shop-web")[:1], "shop-web")
    world.cloud.room = 5
    world.server.send(queue, "nonsense")
    apply(provider, 7, epoch=10)
    observe(provider)
    apply(provider, 3, epoch=11)
    api = world.server.api()
    assert live_faults({HERE: api}, [group]) == []
    done, failed = release({HERE: api}, [group])
    assert (len(done), failed) == (1, [])
    return provider


def test_the_policy_of_iam_allows_what_is_asked_and_nothing_else(world: World) -> None:
    world.cloud.policy = POLICY
    everything(world)
    actions = {request.action for request in world.cloud.requests}
    allowed = {action for statement in POLICY for action in statement["Action"]}
    assert {action.replace("Batch", "") for action in actions} == allowed
    assert {statement["Sid"] for statement in POLICY} == {
        *("LeadtimeObserve", "LeadtimeSpotWarnings", "LeadtimeAct", "LeadtimeMark"),
    }


@pytest.mark.parametrize("sid", ["LeadtimeAct", "LeadtimeMark"])
def test_without_a_statement_the_permission_is_named(world: World, sid: str) -> None:
    world.cloud.make("shop-web", 4)
    world.cloud.policy = [statement for statement in POLICY if statement["Sid"] != sid]
    provider = world.provider(SHOP)
    observe(provider)
    action = {"LeadtimeAct": "SetDesiredCapacity", "LeadtimeMark": "CreateOrUpdateTags"}[sid]
    with pytest.raises(Rejected, match=rf"a policy must allow: autoscaling:{action} on arn:aws:"):
        apply(provider, 7)
    faults = live_faults({HERE: world.server.api()}, [SHOP])
    assert [action in fault for fault in faults] == ([True] if sid == "LeadtimeAct" else [])


def test_the_policy_allows_no_group_of_others(world: World) -> None:
    world.cloud.policy = POLICY
    with pytest.raises(Rejected, match="a policy must allow: autoscaling:CreateOrUpdateTags on arn:aws:"):
        apply(world.provider(), 7)


# Checks.


def test_a_live_check_changes_nothing(world: World) -> None:
    assert live_faults({HERE: world.server.api()}, [WEB]) == []
    assert (sets(world.cloud), world.cloud.mark(), world.cloud.desired["web"]) == ([], None, 2)


def test_a_live_check_names_what_is_gone_and_what_is_there_twice(world: World) -> None:
    other = Account("other", REGION)
    apis = {HERE: world.server.api(), other: world.server.api()}
    groups = [WEB, Group("shop/b", Place(other, "web")), Group("shop/c", Place(HERE, "gone"))]
    gone, twice = live_faults(apis, groups)
    assert gone == "target shop/c: there is no AutoScalingGroup gone in eu-west-1"
    assert twice.endswith("autoScalingGroupName/web: 2 targets are this group")


def test_groups_that_a_tag_names_are_proposed(world: World) -> None:
    tag = {"Key": TARGET_TAG, "Value": "shop/spot", "PropagateAtLaunch": False}
    world.cloud.make("tagged", 1, Tags=[tag])
    boto_client("autoscaling").suspend_processes(
        AutoScalingGroupName="tagged", ScalingProcesses=["Terminate"]
    )
    text = discover(world.server.api(), HERE)
    comment, *lines = text.splitlines()
    assert comment.startswith("# AutoScalingGroup tagged in eu-west-1: process Terminate is suspended")
    fields = ['ref = "shop/spot"', 'kind = "AutoScalingGroup"', 'region = "eu-west-1"', 'name = "tagged"']
    assert lines == ["[[target]]", *fields]


# With the executor.


def test_an_actuator_refuses_what_somebody_else_changed(world: World) -> None:
    provider = world.provider()
    eventually(lambda: provider.regions[HERE].heard_s is not None)

    def scale(count: int) -> None:
        world.cloud.scale(count)
        provider.regions[HERE].poll()

    assert_conflicts_are_refused("aws", provider, scale)


def test_what_lands_after_the_signature_has_expired_is_somebody_elses() -> None:
    mark, arn = (
        Mark("b", 11, 2, 4, 2, 0.0, 2),
        "arn:aws:autoscaling:eu:1:autoScalingGroup:uid:autoScalingGroupName/web",
    )
    memory = Memory()
    memory.wrote("uid", mark)
    memory.unknown(Mark("a", 10, 2, 7, 2, 0.0, 2), 0.0)
    late = {
        "AutoScalingGroupARN": arn,
        "DesiredCapacity": 7,
        "Tags": [{"Key": TAG, "Value": text_of(mark, "uid")}],
    }
    assert state_of(memory, late, LATE_S - 1).whose is Whose.LATE
    assert state_of(memory, late, LATE_S).whose is Whose.FOREIGN
    memory.unknown(mark, LATE_S)
    assert list(memory.unanswered) == ["b"]


def test_a_tag_is_short_enough_for_aws() -> None:
    mark = Mark("f" * 32, 10**10, 10**6, 10**6, 10**6, 1.8e9 + 1 / 3, 10**9)
    assert len(text_of(mark, "x" * 36)) <= 256


def test_a_newer_command_waits_for_the_request_of_an_older_one(world: World) -> None:
    provider, slow = world.provider(), Fault("SetDesiredCapacity", slow_s=0.5)
    world.cloud.faults[:] = [slow]
    thread = threading.Thread(target=lambda: apply(provider, 7, epoch=10))
    thread.start()
    eventually(lambda: not slow.times)
    apply(provider, 4, epoch=11)
    thread.join()
    assert sets(world.cloud) == [7, 4]
