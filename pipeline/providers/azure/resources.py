"""Virtual machine scale sets as targets, and what describes them and their instances.

Descriptions are the JSON of the API version of `azure.mgmt.compute`. In a set of flexible orchestration instances are
virtual machines of their own, which have the same fields where we look.
"""

from dataclasses import dataclass
from typing import Any, Final

Described = dict[str, Any]
"""A set, an instance or another resource as the API describes it."""

KIND: Final = "VirtualMachineScaleSet"
SPOT: Final = ("spot", "low")
FAILED: Final = "failed"
"""Provisioning state of a set or instance whose last change failed; all states in small letters."""


@dataclass(frozen=True)
class Account:
    """Where requests go: a subscription; endpoint: URL of its resource manager, empty: of the SDK's cloud."""

    subscription: str
    endpoint: str = ""


@dataclass(frozen=True)
class Place:
    """Where a set is; names in small letters, as Azure does not tell capital ones apart."""

    account: Account
    resource_group: str
    name: str

    @property
    def path(self) -> str:
        """Its resource id."""
        return f"{group_path(self.account.subscription, self.resource_group)}{SETS}/{self.name}"

    def __str__(self) -> str:
        return f"{KIND} {self.name} in {self.resource_group}"


@dataclass(frozen=True)
class ScaleSet:
    """A target of commands: `ref` is `app/offer`."""

    ref: str
    place: Place

    @property
    def account(self) -> Account:
        """Where its requests go."""
        return self.place.account

    @property
    def group(self) -> tuple[Account, str]:
        """Account and resource group, whose sets are described together."""
        return self.account, self.place.resource_group


SETS: Final = "/providers/Microsoft.Compute/virtualMachineScaleSets"


def group_path(subscription: str, resource_group: str) -> str:
    """Path of a resource group, or of a subscription where that is empty."""
    within = f"/resourceGroups/{resource_group}" if resource_group else ""
    return f"/subscriptions/{subscription}{within}"


def place_of(scale_set: Described, account: Account) -> Place:
    """Where a set is, from its resource id."""
    parts = str(scale_set["id"]).lower().split("/")
    return Place(account, parts[4], parts[-1])


def properties(resource: Described) -> Described:
    """Properties of a resource."""
    return resource.get("properties") or {}


def uid_of(scale_set: Described) -> str:
    """What differs where a set was made anew under its name."""
    return str(properties(scale_set).get("uniqueId") or "")


def capacity(scale_set: Described) -> int:
    """Instances that a set shall have."""
    return int((scale_set.get("sku") or {}).get("capacity") or 0)


def provisioning(resource: Described) -> str:
    """Provisioning state of a set or instance, in small letters: succeeded, updating, creating, deleting, failed."""
    return str(properties(resource).get("provisioningState") or "").lower()


def is_flexible(scale_set: Described) -> bool:
    """Whether its instances are virtual machines of their own."""
    return properties(scale_set).get("orchestrationMode") == "Flexible"


def is_spot(scale_set: Described) -> bool:
    """Whether its instances can be evicted."""
    profile = properties(scale_set).get("virtualMachineProfile") or {}
    return str(profile.get("priority") or "").lower() in SPOT


def deletes_evicted(scale_set: Described) -> bool:
    """Whether an eviction deletes the instance and lowers the capacity, as nothing restores it."""
    profile = properties(scale_set).get("virtualMachineProfile") or {}
    restored = (properties(scale_set).get("spotRestorePolicy") or {}).get("enabled")
    return is_spot(scale_set) and profile.get("evictionPolicy") == "Delete" and not restored


def instance_name(instance: Described) -> str:
    """What names an instance in requests: its number in a uniform set, its name in a flexible one."""
    return str(instance.get("instanceId") or instance.get("name") or "")


def statuses(instance: Described) -> list[Described]:
    """Statuses of the instance view of an instance."""
    return (properties(instance).get("instanceView") or {}).get("statuses") or []


def power(instance: Described) -> str:
    """What follows `PowerState/` in its statuses; empty: nothing does."""
    codes = (str(status.get("code") or "") for status in statuses(instance))
    return next((code.partition("/")[2].lower() for code in codes if code.startswith("PowerState/")), "")


def health(instance: Described) -> str:
    """What follows `HealthState/` where a health probe or extension looks; empty: none does."""
    view = properties(instance).get("instanceView") or {}
    status = (view.get("vmHealth") or {}).get("status") or {}
    return str(status.get("code") or "").partition("/")[2].lower()


def is_protected(instance: Described) -> bool:
    """Whether a shrink spares it."""
    policy = properties(instance).get("protectionPolicy") or {}
    return bool(policy.get("protectFromScaleIn") or policy.get("protectFromScaleSetActions"))


def is_evicted(scale_set: Described, instance: Described) -> bool:
    """Whether Azure has taken an instance back, and keeps its disk."""
    return is_spot(scale_set) and power(instance) in ("deallocated", "deallocating")


def state(scale_set: Described, instance: Described) -> str:
    """What an instance is in an observation: ready, pending, draining, failed or interrupted."""
    is_at = provisioning(instance)
    if is_at == "deleting":
        return "draining"
    if is_evicted(scale_set, instance):
        return "interrupted"
    if is_at == FAILED:
        return "failed"
    if power(instance) in ("stopped", "stopping", "deallocated", "deallocating"):
        return "draining"
    if is_at == "creating" or power(instance) != "running":
        return "pending"
    return {"": "ready", "healthy": "ready", "unhealthy": "draining"}.get(health(instance), "pending")


def zone_of(resource: Described) -> str:
    """The zone of a set or instance, as `westeurope-1`; empty: it has none, or several."""
    zones = resource.get("zones") or []
    return f"{resource.get('location')}-{zones[0]}" if len(zones) == 1 else ""
