"""GCP as a provider: `two_writes` on managed instance groups, with a part of the description as the mark.

The mark is written on condition of the group's fingerprint: whoever changed it in between is not overwritten (412), and
a mark that was given up cannot land after a newer one. `resize` has no condition, but an id: repeated, it is done once.
An operation is not waited for: its answer says whether it failed at once, and the poll follows it from then on.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from pipeline.errors import Rejected, Retryable
from pipeline.providers.base import Observation, Record
from pipeline.providers.bounds import Lately
from pipeline.providers.gcp.api import Api, Call, Unanswered, connect, failure_of, permission_of
from pipeline.providers.gcp.checks import autoscaler_of, refuse_described, refuse_scaled
from pipeline.providers.gcp.marks import mark_of, state_of, with_mark
from pipeline.providers.gcp.observation import Area, instances_of, is_small, losses_of
from pipeline.providers.gcp.resources import (
    Described,
    Group,
    size_of,
    state_of_life,
    uid_of,
    zone_of,
)
from pipeline.providers.marks import Mark
from pipeline.providers.two_writes import Read, TwoWrites
from pipeline.providers.victims import Candidate, victims
from pipeline.wire.commands import Target

CHECKED_S: Final = 300.0
"""For how long the autoscaler of a group is known to be off."""
NAMESPACE: Final = uuid5(NAMESPACE_URL, "https://leadtime.dev/commands")


class GcpProvider(TwoWrites[Group, Call]):
    """Managed instance groups of any number of projects, zones and regions.

    Args:
        groups: targets.
        connected: makes the clients of an endpoint.
        dry_run: as `TwoWrites`.
    """

    count = "target size"

    def __init__(
        self, groups: Iterable[Group], connected: Callable[[str], Api] = connect, *, dry_run: bool = False
    ) -> None:
        super().__init__(groups, dry_run=dry_run)
        of = self.groups.values()
        self.apis = {
            endpoint: connected(endpoint) for endpoint in dict.fromkeys(g.location.endpoint for g in of)
        }
        self.areas = {
            location: Area(self.apis[location.endpoint], [g for g in of if g.location == location])
            for location in dict.fromkeys(g.location for g in of)
        }
        for area in self.areas.values():
            area.start()
        self._checked = Lately(CHECKED_S)
        self._failed: dict[str, tuple[str, int]] = {}

    def close(self) -> None:
        """End the polling."""
        for area in self.areas.values():
            area.stop()
        for api in self.apis.values():
            api.close()

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """As the last polls tell; see `Area.observe`."""
        group = self.group(target.ref)
        return self.areas[group.location].observe(group, self.memory[group.ref], now_s)

    def read(self, group: Group) -> Read[Group, Call]:
        """Read a group."""
        call = self.apis[group.location.endpoint].call()
        described = self.areas[group.location].seen(call.group(group.place))
        errors = losses_of(call, group.place) if is_small(described) else []
        state = state_of(self.memory[group.ref], described, call.api.clock(), errors)
        return Read(group, call, described, uid_of(described), mark_of(described), state)

    def granted(self, read: Read[Group, Call], command: Record) -> int:
        """What the command asks for: a group has no bounds of its own.

        Raises:
            Rejected: as `TwoWrites.granted`.
        """
        group, call, described = read.group, read.call, read.described
        refuse_described(group.place, described)
        if autoscaler_of(described):
            self._checked.check(
                group.ref, call.api.clock, lambda: refuse_scaled(call, group.place, described)
            )
        return int(command["desired"])

    def leave(self, read: Read[Group, Call], mark: Mark) -> None:
        """Leave the command in the group's description.

        Raises:
            Conflict: the group changed since it was read.
            Retryable, Rejected: as GCP answers.
        """
        call, group = read.call, read.group
        body = {
            "fingerprint": str(read.described.get("fingerprint") or ""),
            "description": with_mark(read.described, mark),
        }
        operation = call.of_group(group.place, "patch", instance_group_manager_resource=body)
        failure = failure_of(permission_of(group.place, "patch"), operation)
        if failure is not None:
            raise failure
        if operation.get("status") != "DONE" and mark_of(call.group(group.place)) != mark:
            raise Retryable(f"the description of {group.place} is not written yet", 1.0)

    def write(self, read: Read[Group, Call], mark: Mark, command: Record) -> None:
        """Set the size.

        Raises:
            Retryable, Rejected: as GCP answers.
        """
        group, memory, operation = read.group, self.memory[read.group.ref], {}
        memory.wrote(read.uid, mark)
        if mark.desired != size_of(read.described):
            try:
                operation = self._set(read, mark, oldest=command["victim_rule"] == "OLDEST")
            except Unanswered:
                memory.unknown(mark, read.call.api.clock())
                raise
            failure = failure_of(permission_of(group.place, "resize"), operation)
            if failure is not None:
                self._failed[group.ref] = (mark.command, self._attempt(group, mark) + 1)
                raise failure
        self.areas[group.location].left(group, read.described, mark, memory, operation)

    def _set(self, read: Read[Group, Call], mark: Mark, *, oldest: bool) -> Described:
        """Begin to change the size; returns the operation."""
        place, count = read.group.place, size_of(read.described)
        request = str(uuid5(NAMESPACE, f"{mark.command}/{self._attempt(read.group, mark)}"))
        if mark.desired < count and self.areas[place.location].taken_back(place):
            going = _victims(instances_of(read.call, place), count - mark.desired, oldest=oldest)
            if len(going) == count - mark.desired:
                kind = "" if place.location.zone else "region_"
                field = f"{kind}instance_group_managers_delete_instances_request_resource"
                try:
                    return read.call.of_group(
                        place, "delete_instances", request_id=request, **{field: {"instances": going}}
                    )
                except Rejected:  # one of them has gone meanwhile
                    pass
        return read.call.of_group(place, "resize", size=mark.desired, request_id=request)

    def _attempt(self, group: Group, mark: Mark) -> int:
        """How many operations of a command have failed: the id of one that failed only tells of it again."""
        command, attempts = self._failed.get(group.ref, ("", 0))
        return attempts if command == mark.command else 0


def _victims(instances: list[Described], count: int, *, oldest: bool) -> list[str]:
    """URLs of the instances that go."""
    lives = [(instance, state_of_life(instance)) for instance in instances]
    here = [(instance, life) for instance, life in lives if life != "draining" and instance.get("instance")]
    candidates = (
        Candidate(str(instance["instance"]), zone_of(instance), life == "interrupted", life == "ready", 0.0)
        for instance, life in here
    )
    return victims(candidates, Counter(zone_of(instance) for instance, _ in here), count, oldest=oldest)
