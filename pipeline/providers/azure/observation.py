"""Sets as the API described them lately, and what that says of a target.

A thread a resource group lists its sets in one request, and then the instances of some of them, which is a request a
set and rationed by Azure: of all that were never listed, and of a few others, those first that are changing. Where a
set could not reach its capacity, the operation of our last command is asked why, or, once its link has expired, the
set's instance view.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.errors import Rejected, Retryable
from pipeline.providers.azure.api import Answer, Api, Call
from pipeline.providers.azure.codes import Fault, fault_of
from pipeline.providers.azure.marks import state_of
from pipeline.providers.azure.resources import (
    FAILED,
    Described,
    ScaleSet,
    capacity,
    deletes_evicted,
    instance_name,
    is_evicted,
    is_protected,
    place_of,
    properties,
    provisioning,
    state,
    statuses,
    uid_of,
    zone_of,
)
from pipeline.providers.base import Observation
from pipeline.providers.marks import Memory, State, Whose
from pipeline.providers.polling import POLL_CALL_S, Poller
from pipeline.providers.victims import Candidate

RELISTED: Final = 2
"""Sets whose instances are listed again in one poll: Azure allows some hundreds of such lists in half an hour."""
LISTED_S: Final = 120.0
"""Age of a list of instances that is not reported any more."""
RECENT_S: Final = 1800.0
"""For how long a failed operation says why instances are missing."""
FAILED_CODE: Final = "ProvisioningState/failed"
ZONE: Final = re.compile(r"\bzones?[:= ]+'?(\d)\b", re.IGNORECASE)
"""A zone in the message of a failed allocation."""


@dataclass(frozen=True)
class Failure:
    """Why instances are missing: code and message, and the zone, as `westeurope-1`, or empty; at_s: unix seconds."""

    fault: Fault
    zone: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.fault.code or self.fault.message}{f' in {self.zone}' if self.zone else ''}"


@dataclass(frozen=True)
class Instances:
    """Instances of a set; uid: of the set; at_s: monotonic time."""

    uid: str
    listed: Sequence[Described]
    at_s: float


class ResourceGroup(Poller):
    """Sets of a resource group, kept up to date by a thread.

    Args:
        api: client of the subscription.
        targets: sets there.

    Attributes:
        instances: of sets, by name.
        operations: links of the operations of our last commands, by name.
        failures: of those operations, by name.
    """

    def __init__(self, api: Api, targets: Sequence[ScaleSet]) -> None:
        super().__init__("azure", f"resource group {targets[0].place.resource_group}", api.clock)
        self.api, self.targets = api, {target.place.name: target for target in targets}
        self.instances: dict[str, Instances] = {}
        self.operations: dict[str, str] = {}
        self.failures: dict[str, Failure] = {}

    def left(self, target: ScaleSet, answer: Answer) -> None:
        """Keep a set as the answer to a command describes it, and the link of the operation that goes on."""
        name = target.place.name
        with self.lock:
            self.operations[name] = answer.operation
            self.failures.pop(name, None)
        self.note(name, answer.body)

    def observe(self, target: ScaleSet, memory: Memory, now_s: float) -> Observation:
        """What a target has now; a set that is gone has nothing, at generation 0.

        Raises:
            Retryable, Rejected: it cannot be told.
        """
        described = self.known(target.place.name)
        if described is None or provisioning(described) == "deleting":
            return Observation(0, 0, {}, generation=0)
        instances = self._listed(target.place.name, described)
        of = state_of(memory, described, self.clock())
        failures = self._failures(described, instances, now_s)
        return Observation(
            **_counts(described, of, instances, failures),
            allocatable={},
            generation=of.generation,
            command_id=of.command,
            managed_by=Whose.FOREIGN.value if of.whose is Whose.FOREIGN else "leadtime",
        )

    def describe(self) -> dict[str, Described]:
        """Sets that are targets, by name."""
        (group,) = {target.group for target in self.targets.values()}
        listed = self.api.call(POLL_CALL_S).scale_sets(group[1])
        described = {place_of(scale_set, self.api.account).name: scale_set for scale_set in listed}
        return {name: scale_set for name, scale_set in described.items() if name in self.targets}

    def explain(self, described: dict[str, Described]) -> None:
        """List instances, and ask why there are too few."""
        for name in self._due(described):
            self.optionally(
                lambda name=name: self.list_instances(self.api.call(), self.targets[name], described[name])
            )
        for name, scale_set in described.items():
            if provisioning(scale_set) == FAILED and name not in self.failures:
                self.optionally(lambda name=name: self._ask(name))
        with self.lock:
            going = {name for name, of in described.items() if provisioning(of) == "succeeded"}
            self.failures = {name: of for name, of in self.failures.items() if name not in going}

    def list_instances(self, call: Call, target: ScaleSet, described: Described) -> Sequence[Described]:
        """List the instances of a set, and keep them."""
        at_s = self.clock()
        listed = call.instances(target.place, described)
        with self.lock:
            self.instances[target.place.name] = Instances(uid_of(described), listed, at_s)
        return listed

    def _due(self, described: dict[str, Described]) -> list[str]:
        """Sets whose instances are listed in this poll."""
        with self.lock:
            self.instances = {name: of for name, of in self.instances.items() if name in described}
            known = dict(self.instances)
        unlisted = [name for name, of in described.items() if not _is_of(known.get(name), of)]
        rest = sorted(set(described) - set(unlisted), key=lambda name: known[name].at_s)
        changing = [name for name in rest if _is_changing(described[name], known[name])]
        return list(dict.fromkeys([*unlisted, *changing[: RELISTED - 1], *rest]))[: len(unlisted) + RELISTED]

    def _listed(self, name: str, described: Described) -> Sequence[Described]:
        """Instances of a set.

        Raises:
            Retryable: they were not listed lately.
        """
        with self.lock:
            known = self.instances.get(name)
        if known is None or known.uid != uid_of(described):
            raise Retryable(f"the instances of {name} were not listed yet", 1.0)
        if self.clock() - known.at_s > LISTED_S:
            raise Retryable(f"the instances of {name} were not listed for {LISTED_S:.0f} s", 5.0)
        return known.listed

    def _ask(self, name: str) -> None:
        """Ask why a set has failed."""
        call, place = self.api.call(), self.targets[name].place
        with self.lock:
            link = self.operations.pop(name, "")
        fault = Fault("", "")
        if link:
            try:
                fault = fault_of(call.follow(link).body)
            except Rejected:  # the link has expired, or may not be read
                link = ""
        if not fault.code:
            fault = _of_statuses(call.request("GET", f"{place.path}/instanceView").body.get("statuses"))
        with self.lock:
            self.failures[name] = Failure(fault, "", time.time())

    def _failures(self, described: Described, instances: Iterable[Described], now_s: float) -> list[Failure]:
        """Why instances are missing: what failed instances say, and the last operation."""
        of_instances = [
            Failure(_of_statuses(statuses(instance)), zone_of(instance) or zone_of(described), now_s)
            for instance in instances
            if state(described, instance) == "failed"
        ]
        with self.lock:
            last = self.failures.get(str(described["name"]).lower())
        if last is None or now_s - last.at_s > RECENT_S:
            return of_instances
        named = ZONE.search(last.fault.message)
        zone = f"{described.get('location')}-{named[1]}" if named else zone_of(described)
        return [*of_instances, Failure(last.fault, zone, last.at_s)]


def candidates(scale_set: Described, instances: Iterable[Described]) -> list[Candidate]:
    """Instances that a shrink may take: those that are not protected, nor on their way out."""
    return [
        Candidate(
            instance_name(instance),
            zone_of(instance),
            is_evicted(scale_set, instance) or state(scale_set, instance) == "failed",
            state(scale_set, instance) == "ready",
            _created_s(instance),
        )
        for instance in instances
        if not is_protected(instance) and provisioning(instance) != "deleting"
    ]


def _counts(
    described: Described, of: State, instances: Sequence[Described], failures: list[Failure]
) -> dict[str, Any]:
    """Counts of an observation; instances that a set makes beyond its capacity, to keep the first, are none."""
    count = of.count
    there = Counter(state(described, instance) for instance in instances)
    ready = min(there["ready"], count)
    interrupted = there["interrupted"]
    pending = min(there["pending"], max(0, count - ready - interrupted - there["failed"]))
    missing = max(0, count - ready - pending - interrupted - there["failed"])
    failed = there["failed"]
    wanted = of.mark.desired if of.mark is not None and of.whose is Whose.OURS else count
    if provisioning(described) == FAILED:
        failed, missing = failed + missing + max(0, wanted - count), 0
    elif deletes_evicted(described):
        interrupted += max(0, wanted - count)
    surplus = 0 if provisioning(described) == "updating" else there["ready"] - ready
    codes = Counter(map(str, failures))
    evicted = [f"{interrupted} evicted"] if interrupted else []
    return {
        "ready": ready,
        "pending": pending + missing,
        "draining": there["draining"] + surplus,
        "failed": failed,
        "interrupted": interrupted,
        "reason": "; ".join([*codes, *evicted]) if failed or interrupted or missing or pending else "",
    }


def _is_of(known: Instances | None, described: Described) -> bool:
    """Whether instances were listed of the set, made as it is."""
    return known is not None and known.uid == uid_of(described)


def _is_changing(described: Described, known: Instances) -> bool:
    """Whether instances come or go."""
    here = sum(1 for instance in known.listed if state(described, instance) == "ready")
    return provisioning(described) != "succeeded" or here != capacity(described)


def _of_statuses(there: Any) -> Fault:
    """The fault in statuses of an instance view: `ProvisioningState/failed/AllocationFailed`."""
    for status in there if isinstance(there, list) else []:
        code = str(status.get("code") or "")
        if code.startswith(FAILED_CODE):
            inner = code.removeprefix(FAILED_CODE).strip("/")
            return Fault(inner, " ".join(str(status.get("message") or "failed").split()))
    return Fault("", "failed")


def _created_s(instance: Described) -> float:
    """When an instance was made, unix seconds; 0: nobody says."""
    try:
        return datetime.fromisoformat(str(properties(instance)["timeCreated"])).timestamp()
    except (KeyError, ValueError):
        return 0.0
