"""What would hinder commands: groups that are not there, whose size others set, or that hide what they buy."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from pipeline.errors import Rejected
from pipeline.providers.gcp.api import Api, Call, Conflict, NotFound
from pipeline.providers.gcp.marks import PAUSED
from pipeline.providers.gcp.observation import instances_of, losses_of
from pipeline.providers.gcp.resources import Described, Group, Place, uid_of

OLD_FINGERPRINT: Final = "AAAAAAAAAAA="
"""One that no group has: a change on condition of it is refused, or not even allowed."""


def refuse_described(place: Place, group: Described) -> None:
    """Refuse a group whose description says that its size is not ours to set, or not one of equal instances.

    Raises:
        Rejected: it does.
    """
    for fault in _described_faults(group):
        raise Rejected(f"{place}: {fault}")


def refuse_scaled(call: Call, place: Place, group: Described) -> None:
    """Refuse a group that an autoscaler scales.

    Raises:
        Rejected: one does.
        Retryable: that cannot be told.
    """
    url = autoscaler_of(group)
    if not url:
        return
    name = url.rpartition("/")[2]
    try:
        autoscaler = call.request(place.location, "autoscalers", "get", autoscaler=name)
    except NotFound:
        return
    mode = str((autoscaler.get("autoscalingPolicy") or {}).get("mode") or "ON")
    if mode != "OFF":
        where = (
            f"--zone {place.location.zone}" if place.location.zone else f"--region {place.location.region}"
        )
        command = f"update-autoscaling {place.name} {where} --project {place.location.project} --mode off"
        raise Rejected(
            f"{place}: autoscaler {name} (mode {mode}) sets its size: gcloud compute instance-groups managed {command}"
        )


def autoscaler_of(group: Described) -> str:
    """URL of the autoscaler that targets a group; empty: none does."""
    return str((group.get("status") or {}).get("autoscaler") or "")


def live_faults(apis: Mapping[str, Api], groups: Iterable[Group]) -> list[str]:
    """What hinders targets, as GCP tells now, each as a line; nothing is changed.

    Whether size and description may be written is asked by a change on condition of a fingerprint that no group has.

    Args:
        apis: by endpoint.
        groups: targets.

    Raises:
        Retryable: GCP does not answer.
    """
    faults: list[str] = []
    ids: Counter[str] = Counter()
    for group in groups:
        call, place = apis[group.location.endpoint].call(), group.place
        try:
            described = call.group(place)
            ids[f"{place} ({uid_of(described)})"] += 1
            refuse_described(place, described)
            refuse_scaled(call, place, described)
            call.groups(place.location, [place.name])
            instances_of(call, place)
            losses_of(call, place)
            _refuse_unfollowed(call, place)
            _refuse_unsettable(call, place, described)
        except Rejected as error:
            faults.append(f"target {group.ref}: {error}")
    return [*faults, *(f"{what}: {n} targets are this group" for what, n in ids.items() if n > 1)]


def _refuse_unfollowed(call: Call, place: Place) -> None:
    try:
        call.request(place.location, "operations", "get", operation="leadtime-is-allowed")
    except NotFound:
        return


def _refuse_unsettable(call: Call, place: Place, group: Described) -> None:
    body = {"fingerprint": OLD_FINGERPRINT, "description": str(group.get("description") or "")}
    try:
        call.of_group(place, "patch", instance_group_manager_resource=body)
    except Conflict:
        return


def _described_faults(group: Described) -> list[str]:
    selections: Mapping[str, Described] = (group.get("instanceFlexibilityPolicy") or {}).get(
        "instanceSelections"
    ) or {}
    types = sorted({str(name) for of in selections.values() for name in of.get("machineTypes") or ()})
    stateful = ((group.get("status") or {}).get("stateful") or {}).get("hasStatefulConfig")
    mode = str((group.get("targetSizePolicy") or {}).get("mode") or "INDIVIDUAL")
    rules = [
        (PAUSED in str(group.get("description") or ""), f"is paused ({PAUSED} in its description)"),
        (len(types) > 1, f"its instances are of several types ({', '.join(types)}): make one group an offer"),
        (bool(stateful), "it is stateful: a smaller size would take the disks of some instance"),
        (mode == "BULK", "its target size policy is BULK, all instances or none: set it to individual"),
    ]
    return [fault for bad, fault in rules if bad]
