"""Which instances a shrink takes where the group's own choice would not do."""

from collections import Counter
from collections.abc import Collection
from typing import Final

from pipeline.errors import Rejected, Retryable
from pipeline.providers.aws.api import Call
from pipeline.providers.aws.resources import Described, is_counted, serves
from pipeline.providers.victims import Candidate
from pipeline.providers.victims import victims as chosen

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
    """Instances to terminate, at most `count` of those that are not protected: see `pipeline.providers.victims`.

    Args:
        group: described.
        count: how many.
        noticed: instances under notice.
        launched: launch time of instances, unix seconds.
        oldest: whether the oldest go first.
    """
    here = [i for i in group.get("Instances") or () if is_counted(i)]
    candidates = (
        Candidate(
            str(i["InstanceId"]),
            str(i.get("AvailabilityZone")),
            i["InstanceId"] in noticed,
            serves(i),
            launched.get(i["InstanceId"], 0.0),
        )
        for i in here
        if not i.get("ProtectedFromScaleIn")
    )
    zones = Counter(str(i.get("AvailabilityZone")) for i in here)
    return chosen(candidates, zones, count, oldest=oldest)


def launch_times(call: Call, group: Described) -> dict[str, float]:
    """When instances of a group were launched, unix seconds; empty where that cannot be told: it only orders them."""
    ids = [str(i["InstanceId"]) for i in group.get("Instances") or () if is_counted(i)]
    try:
        reservations = call.pages("DescribeInstances", "Reservations", service="ec2", InstanceIds=ids)
    except (Retryable, Rejected):
        return {}
    there = (instance for reservation in reservations for instance in reservation.get("Instances") or ())
    return {str(i["InstanceId"]): i["LaunchTime"].timestamp() for i in there if "LaunchTime" in i}
