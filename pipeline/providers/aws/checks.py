"""What would hinder commands: groups that are not there, whose count others set, or that hide what they buy."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from pipeline.errors import Rejected
from pipeline.providers.aws.api import Api, Call
from pipeline.providers.aws.marks import PAUSED, tags_of
from pipeline.providers.aws.resources import Account, Described, Group, Place

ACTING: Final = ("Launch", "Terminate")
"""Processes without which a group does not follow its desired capacity."""
FORECAST_ONLY: Final = "ForecastOnly"
PREDICTIVE: Final = "PredictiveScaling"


def refuse_described(place: Place, group: Described) -> None:
    """Refuse a group whose description says that its count is not ours to set, or not a count of equal instances.

    Raises:
        Rejected: it is.
    """
    for fault in _described_faults(group):
        raise Rejected(f"{place}: {fault}")


def refuse_scaled(call: Call, place: Place) -> None:
    """Refuse a group whose count others set: policies and schedules.

    Raises:
        Rejected: one does.
        Retryable: that cannot be told.
    """
    policies = call.pages("DescribePolicies", "ScalingPolicies", AutoScalingGroupName=place.name)
    for policy in policies:
        if (fault := _policy_fault(policy)) is not None:
            raise Rejected(f"{place}: {fault}")
    scheduled = call.pages(
        "DescribeScheduledActions", "ScheduledUpdateGroupActions", AutoScalingGroupName=place.name
    )
    for action in scheduled:
        name = action.get("ScheduledActionName")
        raise Rejected(f"{place}: scheduled action {name} sets its capacity: delete it")


def live_faults(apis: dict[Account, Api], groups: Iterable[Group]) -> list[str]:
    """What hinders targets, as AWS tells now, each as a line; nothing is changed.

    Whether a count may be set is asked by one above the group's maximum, which AWS refuses either way.

    Raises:
        Retryable: AWS does not answer.
    """
    faults: list[str] = []
    arns: Counter[str] = Counter()
    for group in groups:
        call = apis[group.account].call()
        try:
            described = call.group(group.place)
            arns[str(described["AutoScalingGroupARN"])] += 1
            refuse_described(group.place, described)
            refuse_scaled(call, group.place)
            call.pages("DescribeScalingActivities", "Activities", AutoScalingGroupName=group.place.name)
            if group.queue:
                call.request(
                    "GetQueueAttributes", service="sqs", QueueUrl=group.queue, AttributeNames=["QueueArn"]
                )
            _refuse_unsettable(call, group.place, described)
        except Rejected as error:
            faults.append(f"target {group.ref}: {error}")
    return [*faults, *(f"{arn}: {n} targets are this group" for arn, n in arns.items() if n > 1)]


def _refuse_unsettable(call: Call, place: Place, group: Described) -> None:
    beyond = int(group["MaxSize"]) + 1
    try:
        call.request("SetDesiredCapacity", AutoScalingGroupName=place.name, DesiredCapacity=beyond)
    except Rejected as error:
        if "ValidationError" not in str(error):
            raise


def _described_faults(group: Described) -> list[str]:
    suspended = {str(process.get("ProcessName")) for process in group.get("SuspendedProcesses") or ()}
    stopped = [name for name in ACTING if name in suspended]
    unit = str(group.get("DesiredCapacityType") or "units")
    weights = {str(instance.get("WeightedCapacity") or "1") for instance in group.get("Instances") or ()}
    rules = [
        (tags_of(group).get(PAUSED, "").lower() == "true", f"is paused (tag {PAUSED}=true)"),
        (
            bool(stopped),
            f"process {' and '.join(stopped)} is suspended: aws autoscaling resume-processes "
            f"--auto-scaling-group-name {group['AutoScalingGroupName']} --scaling-processes {' '.join(stopped)}",
        ),
        (unit != "units", f"its desired capacity counts {unit}: only instances are counted"),
        (
            weights > {"1"} or weights not in ({"1"}, set()),
            "its instances have weights: only instances are counted",
        ),
    ]
    return [fault for bad, fault in rules if bad] + _mix_faults(group.get("MixedInstancesPolicy") or {})


def _mix_faults(policy: dict[str, Any]) -> list[str]:
    """What a mixed instances policy hides: an offer is one type of instances and one way to pay for them."""
    template, shares = policy.get("LaunchTemplate") or {}, policy.get("InstancesDistribution") or {}
    overrides = template.get("Overrides") or []
    types = sorted({str(override["InstanceType"]) for override in overrides if "InstanceType" in override})
    base = int(shares.get("OnDemandBaseCapacity") or 0)
    share = int(shares.get("OnDemandPercentageAboveBaseCapacity", 100))
    faults: list[str] = []
    if len(types) > 1 or any("InstanceRequirements" in override for override in overrides):
        what = ", ".join(types) or "by requirements"
        faults.append(f"its mixed instances policy has several types ({what}): make one group an offer")
    if any(str(override.get("WeightedCapacity") or "1") != "1" for override in overrides):
        faults.append("its mixed instances policy has weights: only instances are counted")
    if 0 < share < 100 or (share == 0 and base > 0):
        faults.append("its mixed instances policy mixes on-demand and spot: make one group an offer")
    return faults


def _policy_fault(policy: Described) -> str | None:
    name, kind = policy.get("PolicyName"), policy.get("PolicyType") or "SimpleScaling"
    if policy.get("Enabled") is False:
        return None
    if kind == PREDICTIVE:
        mode = (policy.get("PredictiveScalingConfiguration") or {}).get("Mode") or FORECAST_ONLY
        return (
            None
            if mode == FORECAST_ONLY
            else f"predictive policy {name} scales: set its mode to {FORECAST_ONLY}"
        )
    return (
        f"policy {name} ({kind}) sets its capacity: disable it (put-scaling-policy --no-enabled) or delete it"
    )
