"""Auto scaling groups as targets, and what their descriptions (DescribeAutoScalingGroups) say."""

from dataclasses import dataclass, field
from typing import Any, Final

Described = dict[str, Any]
"""A group, instance or activity as the API describes it."""

KIND: Final = "AutoScalingGroup"
IN_SERVICE: Final = "InService"
LAUNCHING: Final = ("Pending", "ReplacingRootVolume", "RootVolumeReplaced")
"""Lifecycle states, without what follows a colon, of instances that will serve."""
LEAVING: Final = ("Terminating", "Detaching", "EnteringStandby", "Quarantined")
"""Those of instances that will not any more."""


@dataclass(frozen=True)
class Account:
    """Where requests go: a region, with the credentials of a profile, or of the default chain where it is empty."""

    profile: str
    region: str

    def __str__(self) -> str:
        return f"{self.region} ({self.profile})" if self.profile else self.region


@dataclass(frozen=True)
class Place:
    """Where a group is."""

    account: Account
    name: str

    def __str__(self) -> str:
        return f"{KIND} {self.name} in {self.account}"


@dataclass(frozen=True)
class Group:
    """A target of commands: `ref` is `app/offer`; queue: URL of the SQS queue of its spot warnings, or empty."""

    ref: str
    place: Place
    queue: str = field(default="", compare=False)

    @property
    def account(self) -> Account:
        """Where its requests go."""
        return self.place.account


def uid_of(group: Described) -> str:
    """What differs where a group was made anew under its name: the identifier within its ARN."""
    return str(group["AutoScalingGroupARN"]).split(":")[-2]


def state_of_life(instance: Described) -> str:
    """Lifecycle state of an instance, without what it waits for: `Pending:Wait` is `Pending`."""
    return str(instance.get("LifecycleState", "")).partition(":")[0]


def serves(instance: Described) -> bool:
    """Whether an instance is in service and healthy."""
    return state_of_life(instance) == IN_SERVICE and instance.get("HealthStatus") == "Healthy"


def is_counted(instance: Described) -> bool:
    """Whether an instance is there for the desired capacity: in service or on its way to that."""
    return state_of_life(instance) in (IN_SERVICE, *LAUNCHING)
