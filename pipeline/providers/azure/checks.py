"""What would hinder commands: sets that are not there, whose capacity others set, or that hide what they buy."""

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from pipeline.errors import Rejected
from pipeline.providers.azure.api import AUTOSCALE, PERMISSIONS, Api, Call
from pipeline.providers.azure.marks import PAUSED, tag, tags_of
from pipeline.providers.azure.resources import (
    Account,
    Described,
    Place,
    ScaleSet,
    group_path,
    is_flexible,
    properties,
    uid_of,
)

SETTINGS: Final = "/providers/Microsoft.Insights/autoscaleSettings"
ACTIONS: Final = (
    "Microsoft.Compute/virtualMachineScaleSets/read",
    "Microsoft.Compute/virtualMachineScaleSets/instanceView/read",
    "Microsoft.Compute/virtualMachineScaleSets/virtualMachines/read",
    "Microsoft.Compute/virtualMachineScaleSets/write",
    "Microsoft.Compute/virtualMachineScaleSets/delete/action",
    "Microsoft.Insights/autoscaleSettings/read",
)
"""What commands and observations of a set need."""
FLEXIBLE: Final = "Microsoft.Compute/virtualMachines/read"
"""What those of a set of flexible orchestration need besides."""


def refuse_described(place: Place, scale_set: Described) -> None:
    """Refuse a set whose description says that its capacity is not ours to set, or not a count of equal instances.

    Raises:
        Rejected: it is.
    """
    for fault in _described_faults(place, scale_set):
        raise Rejected(f"{place}: {fault}")


def refuse_scaled(call: Call, place: Place) -> None:
    """Refuse a set that an autoscale setting of its resource group scales.

    Raises:
        Rejected: one does.
        Retryable: that cannot be told.
    """
    where = group_path(place.account.subscription, place.resource_group)
    for setting in call.pages(where + SETTINGS, AUTOSCALE):
        of = properties(setting)
        if str(of.get("targetResourceUri") or "").lower() == place.path.lower() and of.get("enabled", True):
            name = setting.get("name")
            raise Rejected(
                f"{place}: autoscale setting {name} sets its capacity: az monitor autoscale update "
                f"--resource-group {place.resource_group} --name {name} --enabled false"
            )


def live_faults(apis: Mapping[Account, Api], scale_sets: Iterable[ScaleSet]) -> list[str]:
    """What hinders targets, as Azure tells now, each as a line; nothing is changed.

    Permissions are those that Azure says we have on each set.

    Raises:
        Retryable: Azure does not answer.
    """
    faults: list[str] = []
    uids: Counter[str] = Counter()
    for target in scale_sets:
        call = apis[target.account].call()
        try:
            described = call.scale_set(target.place)
            uids[uid_of(described)] += 1
            refuse_described(target.place, described)
            refuse_scaled(call, target.place)
            faults += [f"target {target.ref}: {fault}" for fault in _missing(call, target.place, described)]
        except Rejected as error:
            faults.append(f"target {target.ref}: {error}")
    return [*faults, *(f"{uid}: {n} targets are this set" for uid, n in uids.items() if n > 1)]


def _missing(call: Call, place: Place, scale_set: Described) -> list[str]:
    """Permissions that a set lacks, each as a line."""
    granted = call.pages(f"{place.path}/providers/Microsoft.Authorization/permissions", PERMISSIONS)
    needed = [*ACTIONS, *([FLEXIBLE] if is_flexible(scale_set) else [])]
    return [
        f"not allowed, a role must allow: {action} on {place.path}"
        for action in needed
        if not any(allows(permission, action) for permission in granted)
    ]


def allows(permission: Mapping[str, Any], action: str) -> bool:
    """Whether a permission of a role, with `actions` and `notActions`, allows an action."""

    def has(name: str) -> bool:
        return any(fnmatchcase(action.lower(), str(of).lower()) for of in permission.get(name) or ())

    return has("actions") and not has("notActions")


def _described_faults(place: Place, scale_set: Described) -> list[str]:
    of, tags = properties(scale_set), tags_of(scale_set)
    sku = scale_set.get("sku") or {}
    is_of_aks = any(name.lower().startswith("aks-managed-") for name in tags)
    rules = [
        (tag(scale_set, PAUSED).lower() == "true", f"is paused (tag {PAUSED}=true)"),
        (
            is_of_aks or place.resource_group.lower().startswith("mc_"),
            "is a node pool of AKS, which sets its capacity: make it a target of Kubernetes",
        ),
        (not sku.get("name"), "has no size: its capacity cannot be set"),
        (
            bool(of.get("skuProfile")) or str(sku.get("name")).lower() == "mix",
            "mixes several sizes: make one set an offer",
        ),
        (bool(of.get("priorityMixPolicy")), "mixes regular and spot instances: make one set an offer"),
    ]
    return [fault for bad, fault in rules if bad]
