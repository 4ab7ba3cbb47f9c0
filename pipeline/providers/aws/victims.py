"""Which instances a shrink takes where the group's own choice would not do."""

from collections import Counter
from collections.abc import Collection
from typing import Final

from pipeline.errors import Rejected, Retryable
from pipeline.providers.aws.api import Call
from pipeline.providers.aws.resources import Described, is_counted, serves

BATCH: Final = 100
"""Instances in a request: the most that the API takes."""


def protected(group: Described) -> int:
    """Instances that are protected from scale in."""
    return sum(1 for i in group.get("Instances") or () if is_counted(i) and i.get("ProtectedFromScaleIn"))


def victims(
    group: Described,
    count: int,
    noticed: Collection[str],
    launched: dict[str, float],
    *,
    oldest: bool = False,
) -> list[str]:
    """Instances to terminate, at most `count` of those that are not protected.

    First those that go anyway (under notice), then those that do not serve, then from the zone that has most, so that
    zones stay balanced, the youngest first (or the oldest).

    Args:
        group: described.
        count: how many.
        noticed: instances under notice.
        launched: launch time of instances; unknown ones go last, or first of the oldest.
        oldest: whether the oldest go first.
    """
    free = [i for i in group.get("Instances") or () if is_counted(i) and not i.get("ProtectedFromScaleIn")]
    zones = Counter(str(i.get("AvailabilityZone")) for i in group.get("Instances") or () if is_counted(i))
    chosen: list[str] = []
    while free and len(chosen) < count:
        victim = min(
            free,
            key=lambda i: (
                i["InstanceId"] not in noticed,
                serves(i),
                -zones[str(i.get("AvailabilityZone"))],
                (1 if oldest else -1) * launched.get(i["InstanceId"], 0.0),
                i["InstanceId"],
            ),
        )
        free.remove(victim)
        zones[str(victim.get("AvailabilityZone"))] -= 1
        chosen.append(str(victim["InstanceId"]))
    return chosen


def launch_times(call: Call, group: Described) -> dict[str, float]:
    """When instances of a group were launched, unix seconds; empty where that cannot be told: it only orders them."""
    ids = [str(i["InstanceId"]) for i in group.get("Instances") or () if is_counted(i)]
    try:
        reservations = call.pages("DescribeInstances", "Reservations", service="ec2", InstanceIds=ids)
    except (Retryable, Rejected):
        return {}
    there = (instance for reservation in reservations for instance in reservation.get("Instances") or ())
    return {str(i["InstanceId"]): i["LaunchTime"].timestamp() for i in there if "LaunchTime" in i}
