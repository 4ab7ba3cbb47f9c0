"""Managed instance groups as targets, and what the API says of them (InstanceGroupManager, ManagedInstance)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

Described = dict[str, Any]
"""A group, instance or operation in the JSON of the API."""

KIND: Final = "InstanceGroupManager"
SERVING: Final = ("NONE", "REFRESHING")
"""Actions that the group has scheduled for instances which stay."""
LAUNCHING: Final = (
    *("CREATING", "CREATING_WITHOUT_RETRIES", "RECREATING"),
    *("RESTARTING", "RESUMING", "STARTING", "VERIFYING"),
)
LEAVING: Final = ("ABANDONING", "DELETING", "STOPPING", "SUSPENDING")
TAKEN_BACK: Final = ("DEPROVISIONING", "PENDING_STOP", "STOPPING", "SUSPENDING")
"""Status of instances that the group wants to run and that do not any more."""
ENDED: Final = ("STOPPED", "SUSPENDED", "TERMINATED")
UNHEALTHY: Final = ("TIMEOUT", "UNHEALTHY")
NO_CAPACITY: Final = frozenset(
    {
        "IP_SPACE_EXHAUSTED",
        "IP_SPACE_EXHAUSTED_WITH_DETAILS",
        "QUOTA_EXCEEDED",
        "REGION_RESOURCE_POOL_EXHAUSTED",
        "RESOURCE_POOL_EXHAUSTED",
        "STOCKOUT",
        "VM_MIN_COUNT_NOT_REACHED",
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
    }
)
"""Codes of an instance's last attempt at which other offers have to stand in."""


@dataclass(frozen=True)
class Location:
    """Where requests go: a zone or a region of a project, or all of it; endpoint: URL; empty: Google's own."""

    project: str
    zone: str = ""
    region: str = ""
    endpoint: str = ""

    @property
    def scope(self) -> dict[str, str]:
        """Fields of a request that say where."""
        fields = {"project": self.project, "zone": self.zone, "region": self.region}
        return {name: value for name, value in fields.items() if value}

    def __str__(self) -> str:
        return "/".join(self.scope.values())


@dataclass(frozen=True)
class Place:
    """Where a group is."""

    location: Location
    name: str

    @property
    def path(self) -> str:
        """Of the resource, as IAM names it."""
        at = self.location
        where = f"zones/{at.zone}" if at.zone else f"regions/{at.region}"
        return f"projects/{at.project}/{where}/instanceGroupManagers/{self.name}"

    def __str__(self) -> str:
        return f"{KIND} {self.name} in {self.location}"


@dataclass(frozen=True)
class Group:
    """A target of commands: `ref` is `app/offer`."""

    ref: str
    place: Place

    @property
    def location(self) -> Location:
        """Where its requests go."""
        return self.place.location


def uid_of(group: Described) -> str:
    """What differs where a group was made anew under its name."""
    return str(group["id"])


def size_of(group: Described) -> int:
    """The size that a group is to have."""
    return int(group.get("targetSize") or 0)


def scheduled(group: Described, actions: Iterable[str]) -> int:
    """Instances of a group for which it has scheduled one of the actions."""
    counts: dict[str, Any] = group.get("currentActions") or {}
    return sum(int(counts.get(_camel(action)) or 0) for action in actions)


def zone_of(instance: Described) -> str:
    """Zone of a managed instance; empty: it has none yet."""
    named = re.search(r"zones/([^/]+)/", str(instance.get("instance") or ""))
    return named[1] if named else ""


def errors_of(instance: Described) -> list[tuple[str, str]]:
    """Code and message of each error of the last attempt to create or delete an instance."""
    errors = ((instance.get("lastAttempt") or {}).get("errors") or {}).get("errors") or ()
    return [(str(error.get("code") or ""), str(error.get("message") or "")) for error in errors]


def state_of_life(instance: Described) -> str:
    """What an instance is in an observation: ready, pending, draining, failed or interrupted."""
    action, status = str(instance.get("currentAction") or "NONE"), str(instance.get("instanceStatus") or "")
    if action in LEAVING or str(instance.get("targetStatus") or "RUNNING") != "RUNNING":
        return "draining"
    if status in TAKEN_BACK or (status in ENDED and action in SERVING):
        return "interrupted"
    if action in LAUNCHING:
        return "failed" if any(code in NO_CAPACITY for code, _ in errors_of(instance)) else "pending"
    if status != "RUNNING":
        return "pending"
    health = [str(of.get("detailedHealthState")) for of in instance.get("instanceHealth") or ()]
    return "draining" if any(state in UNHEALTHY for state in health) else "ready"


def _camel(action: str) -> str:
    first, *rest = action.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)
