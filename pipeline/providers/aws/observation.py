"""Groups as the API described them lately, and what that says of a target.

A thread an account and region describes all its groups, a hundred in a request, and asks for the scaling activities of
those that lack instances.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.providers.aws.api import Api
from pipeline.providers.aws.marks import TAG, state_of
from pipeline.providers.aws.notices import REBALANCE, WARNING, Notices
from pipeline.providers.aws.resources import (
    IN_SERVICE,
    LAUNCHING,
    LEAVING,
    Described,
    Group,
    is_counted,
    serves,
    state_of_life,
    uid_of,
)
from pipeline.providers.base import Observation
from pipeline.providers.marks import Mark, Memory, Whose, text_of
from pipeline.providers.polling import POLL_CALL_S, Poller

ACTIVITIES: Final = 20
"""Newest scaling activities that are read of a group."""
EXPLAINED: Final = 10
"""Groups whose activities are read in one poll."""
RECENT_S: Final = 1800.0
"""Age of a failed launch that still says why instances are missing: AWS tries again within minutes."""
NO_CAPACITY: Final = (
    ("InsufficientInstanceCapacity", "InsufficientInstanceCapacity"),
    ("MaxSpotInstanceCountExceeded", "MaxSpotInstanceCountExceeded"),
    ("VcpuLimitExceeded", "VcpuLimitExceeded"),
    ("UnfulfillableCapacity", "UnfulfillableCapacity"),
    ("do not have sufficient", "InsufficientInstanceCapacity"),
    ("no Spot capacity available", "InsufficientInstanceCapacity"),
    ("more vCPU capacity than your current vCPU limit", "VcpuLimitExceeded"),
)
"""What the message of a failed launch has, and the code that it stands for: some give the sentence alone."""


@dataclass(frozen=True)
class Failure:
    """A launch that failed: code where capacity is lacking, else empty; zone; message; start, unix seconds."""

    code: str
    zone: str
    message: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.code or self.message}{f' in {self.zone}' if self.zone else ''}"


class Region(Poller):
    """Groups of an account in a region, kept up to date by a thread.

    Args:
        api: its clients.
        groups: targets there.

    Attributes:
        failures: of launches, the newest of each zone, by name.
    """

    def __init__(self, api: Api, groups: Sequence[Group]) -> None:
        super().__init__("aws", str(groups[0].account), api.clock)
        self.api, self.groups, self.notices = api, groups, Notices()
        self.failures: dict[str, list[Failure]] = {}
        self._explained_s: dict[str, float] = {}

    def left(self, group: Group, described: Described, mark: Mark) -> None:
        """Keep a group as a command left it."""
        tag = {"Key": TAG, "Value": text_of(mark, uid_of(described))}
        tags = [t for t in described.get("Tags") or () if t.get("Key") != TAG]
        self.note(group.place.name, {**described, "DesiredCapacity": mark.desired, "Tags": [*tags, tag]})

    def noticed(self, described: Described) -> dict[str, str]:
        """Instances of a group that will be taken back, with the kind of notice.

        A recommendation counts where the group replaces instances at one: elsewhere nothing may come of it.
        """
        here = {str(i.get("InstanceId")) for i in described.get("Instances") or ()}
        return {
            name: notice.kind
            for name, notice in list(self.notices.of.items())
            if name in here and (notice.kind == WARNING or described.get("CapacityRebalance"))
        }

    def observe(self, group: Group, memory: Memory, now_s: float) -> Observation:
        """What a target has now; a group that is gone has nothing, at generation 0.

        Raises:
            Retryable, Rejected: it cannot be told.
        """
        described = self.known(group.place.name)
        if described is None:
            return Observation(0, 0, {}, generation=0)
        state = state_of(memory, described, self.clock())
        ours = state.whose is not Whose.FOREIGN
        return Observation(
            **self._counts(described, state.count, now_s),
            allocatable={},
            generation=state.generation,
            command_id=state.command,
            managed_by="leadtime" if ours else Whose.FOREIGN.value,
        )

    def _counts(self, described: Described, count: int, now_s: float) -> dict[str, Any]:
        instances: list[Described] = described.get("Instances") or []
        noticed = self.noticed(described)
        inside = [i for i in instances if state_of_life(i) == IN_SERVICE]
        interrupted = [i for i in inside if i["InstanceId"] in noticed]
        ready = sum(1 for i in inside if serves(i) and i["InstanceId"] not in noticed)
        launching = sum(1 for i in instances if state_of_life(i) in LAUNCHING)
        missing = max(0, count - len(inside) - launching)
        failures = [f for f in self._failures(described) if now_s - f.at_s < RECENT_S]
        failed = missing if any(f.code for f in failures) else 0
        leaving = sum(1 for i in instances if state_of_life(i) in LEAVING) + len(inside) - len(interrupted)
        reasons = [
            *(map(str, failures) if missing or launching else ()),
            *(_notice_words(noticed) if interrupted else ()),
        ]
        return {
            "ready": min(ready, count),
            "pending": launching + missing - failed,
            "draining": leaving - min(ready, count),
            "failed": failed,
            "interrupted": len(interrupted),
            "reason": "; ".join(reasons),
        }

    def _failures(self, described: Described) -> list[Failure]:
        with self.lock:
            return self.failures.get(str(described.get("AutoScalingGroupName")), [])

    def describe(self) -> dict[str, Described]:
        """All groups by name, a hundred in a request."""
        names = list(dict.fromkeys(group.place.name for group in self.groups))
        return self.api.call(POLL_CALL_S).groups(names)

    def explain(self, described: dict[str, Described]) -> None:
        """Read notices, and scaling activities of groups that lack instances."""
        for queue in dict.fromkeys(group.queue for group in self.groups if group.queue):
            self.optionally(lambda queue=queue: self._read(queue))
        for name in self._lacking(described):
            self.optionally(lambda name=name: self._ask(name))

    def _read(self, queue: str) -> None:
        self.notices.read(self.api.call(), queue, time.time())

    def _lacking(self, described: dict[str, Described]) -> list[str]:
        """Groups that lack instances, those first that were asked for longest ago."""
        lacking = [name for name, group in described.items() if _missing(group)]
        with self.lock:
            self.failures = {name: self.failures[name] for name in lacking if name in self.failures}
        return sorted(lacking, key=lambda name: self._explained_s.get(name, 0.0))[:EXPLAINED]

    def _ask(self, name: str) -> None:
        answer = self.api.call().request(
            "DescribeScalingActivities", AutoScalingGroupName=name, MaxRecords=ACTIVITIES
        )
        failures = failures_of(answer.get("Activities") or [])
        with self.lock:
            self.failures[name] = failures
            self._explained_s[name] = self.api.clock()


def failures_of(activities: Iterable[Described]) -> list[Failure]:
    """Failed launches, the newest of each zone, unless one succeeded there since.

    activities: of scaling, the newest first.
    """
    zones: dict[str, Failure | None] = {}
    for activity in activities:
        words = str(activity.get("Description") or "")
        if not words.startswith("Launching"):
            continue
        status, zone = activity.get("StatusCode"), _zone(str(activity.get("Details") or ""))
        if status == "Successful":
            zones.setdefault(zone, None)
        elif status in ("Failed", "Cancelled"):
            zones.setdefault(zone, _failure(activity, zone))
    return [failure for _, failure in sorted(zones.items()) if failure is not None]


def _failure(activity: Described, zone: str) -> Failure:
    message = " ".join(str(activity.get("StatusMessage") or activity.get("StatusCode")).split())
    code = next((code for words, code in NO_CAPACITY if words.lower() in message.lower()), "")
    at = activity.get("StartTime")
    return Failure(code, zone, message, at.timestamp() if isinstance(at, datetime) else 0.0)


def _zone(details: str) -> str:
    """Availability zone in the details of an activity, which are JSON; empty: they name none."""
    try:
        fields: Any = json.loads(details)
        return str(fields.get("Availability Zone") or "")
    except (ValueError, AttributeError):
        return ""


def _missing(group: Described) -> bool:
    here = sum(1 for i in group.get("Instances") or () if is_counted(i))
    return here < int(group.get("DesiredCapacity", 0)) or any(
        state_of_life(i) in LAUNCHING for i in group.get("Instances") or ()
    )


def _notice_words(noticed: dict[str, str]) -> list[str]:
    kinds = sorted(noticed.values())
    words = {WARNING: "under a spot interruption warning", REBALANCE: "recommended to be replaced"}
    return [f"{kinds.count(kind)} {words[kind]}" for kind in dict.fromkeys(kinds)]
