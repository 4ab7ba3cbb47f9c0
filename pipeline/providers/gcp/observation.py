"""Groups as the API described them lately, and what that says of a target.

A thread a zone or region describes all its groups, fifty in a request, asks for the instances of those that are not as
they should be, and follows the operations of commands: a resize that was accepted may still end with an error.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipeline.errors import Retryable
from pipeline.providers.base import Observation
from pipeline.providers.gcp.api import Api, Call, failure_of, permission_of
from pipeline.providers.gcp.marks import mark_of, state_of, with_mark
from pipeline.providers.gcp.resources import (
    LAUNCHING,
    LEAVING,
    NO_CAPACITY,
    SERVING,
    Described,
    Group,
    Place,
    errors_of,
    scheduled,
    size_of,
    state_of_life,
    zone_of,
)
from pipeline.providers.marks import Mark, Memory, Whose
from pipeline.providers.polling import POLL_CALL_S, Poller

EXPLAINED: Final = 10
"""Groups whose instances are read in one poll."""
FLIGHT_S: Final = 60.0
"""For how long a resize that is not done yet is taken for one that will be."""
TAKEN: Final = "taken back or stopped while the group wants them to run"


@dataclass(frozen=True)
class Flight:
    """A resize that was accepted and was not done yet.

    Attributes:
        operation: its name.
        group, mark: of which, and what for.
        memory: of the group.
        until_s: monotonic time at which it is given up.
    """

    operation: str
    group: Group
    mark: Mark
    memory: Memory
    until_s: float

    def forget(self) -> None:
        """Take back that its size was in force."""
        if self.memory.settled == self.mark.command:
            self.memory.settled = ""


class Area(Poller):
    """Groups of a zone or region, kept up to date by a thread.

    Args:
        api: its clients.
        groups: targets there.

    Attributes:
        instances: managed instances of groups that are not as they should be, by name.
        errors: of groups that are smaller than we set them, by name.
    """

    def __init__(self, api: Api, groups: Sequence[Group]) -> None:
        self.location = groups[0].location
        super().__init__("gcp", str(self.location), api.clock)
        self.api, self.groups = api, groups
        self.instances: dict[str, list[Described]] = {}
        self.errors: dict[str, list[Described]] = {}
        self._flights: dict[str, Flight] = {}
        self._explained_s: dict[str, float] = {}

    def left(
        self, group: Group, described: Described, mark: Mark, memory: Memory, operation: Described
    ) -> None:
        """Keep a group as a command left it, whose operation may not be done yet; empty: it needed none."""
        name = group.place.name
        with self.lock:
            earlier = self._flights.pop(name, None)
            if operation and operation.get("status") != "DONE":
                until_s = self.clock() + FLIGHT_S
                self._flights[name] = Flight(str(operation["name"]), group, mark, memory, until_s)
            elif earlier is not None and not operation:  # what is on its way is what this command wants too
                self._flights[name] = replace(earlier, mark=mark)
            else:
                memory.settled = mark.command
        self.note(name, _as_left(described, mark))

    def seen(self, described: Described) -> Described:
        """A group as it will be once the operation of our last command is done."""
        with self.lock:
            flight = self._flights.get(str(described.get("name")))
        if flight is None or flight.until_s <= self.clock() or mark_of(described) != flight.mark:
            return described
        return _as_left(described, flight.mark)

    def observe(self, group: Group, memory: Memory, now_s: float) -> Observation:
        """What a target has now; a group that is gone has nothing, at generation 0.

        Raises:
            Retryable, Rejected: it cannot be told.
        """
        described = self.known(group.place.name)
        if described is None:
            return Observation(0, 0, {}, generation=0)
        with self.lock:
            instances = self.instances.get(group.place.name)
            errors = self.errors.get(group.place.name, [])
        state = state_of(memory, described, self.clock(), errors)
        lost = errors if state.whose is Whose.REDUCED else []
        lives = counts(described, instances, state.count)
        return Observation(
            ready=lives["ready"],
            pending=lives["pending"],
            draining=lives["draining"],
            failed=lives["failed"],
            interrupted=lives["interrupted"],
            reason="; ".join(reasons(instances or [], lost)),
            allocatable={},
            generation=state.generation,
            command_id=state.command,
            managed_by=Whose.FOREIGN.value if state.whose is Whose.FOREIGN else "leadtime",
        )

    def taken_back(self, place: Place) -> bool:
        """Whether a group had instances lately that were taken back or cannot be launched."""
        with self.lock:
            instances = self.instances.get(place.name, [])
        return any(state_of_life(instance) in ("interrupted", "failed") for instance in instances)

    def describe(self) -> dict[str, Described]:
        """All groups by name."""
        call = self.api.call(POLL_CALL_S)
        with self.lock:
            flights = list(self._flights.items())
        for name, flight in flights:  # before the list: what is done then shows there
            self.optionally(lambda name=name, flight=flight: self._follow(call, name, flight))
        names = list(dict.fromkeys(group.place.name for group in self.groups))
        described = call.groups(self.location, names)
        return {name: self.seen(group) for name, group in described.items()}

    def explain(self, described: dict[str, Described]) -> None:
        """Read the instances of groups that are not as they should be, and what those lost that are too small."""
        with self.lock:
            odd = [name for name, group in described.items() if is_odd(group)]
            self.instances = {name: of for name, of in self.instances.items() if name in odd}
            small = [name for name, group in described.items() if is_small(group)]
            self.errors = {name: of for name, of in self.errors.items() if name in small}
        for name in sorted({*odd, *small}, key=lambda name: self._explained_s.get(name, 0.0))[:EXPLAINED]:
            self._explained_s[name] = self.clock()
            place = Place(self.location, name)
            self.optionally(lambda place=place: self._keep(self.instances, place, instances_of))
            if name in small:
                self.optionally(lambda place=place: self._keep(self.errors, place, losses_of))

    def _keep(
        self,
        into: dict[str, list[Described]],
        place: Place,
        read: Callable[[Call, Place], list[Described]],
    ) -> None:
        items = read(self.api.call(), place)
        with self.lock:
            into[place.name] = items

    def _follow(self, call: Call, name: str, flight: Flight) -> None:
        """Ask for an operation that was not done yet.

        Raises:
            Retryable, Rejected: that cannot be told, or it ended with an error.
        """
        if flight.until_s <= self.clock():
            self._end(name, flight)
            flight.forget()
            raise Retryable(f"operation {flight.operation} on {flight.group.place} does not end", FLIGHT_S)
        operation = call.request(self.location, "operations", "get", operation=flight.operation)
        if operation.get("status") != "DONE":
            return
        self._end(name, flight)
        failure = failure_of(permission_of(flight.group.place, "resize"), operation)
        if failure is not None:
            flight.forget()
            raise failure

    def _end(self, name: str, flight: Flight) -> None:
        with self.lock:
            if self._flights.get(name) is flight:
                del self._flights[name]


def _as_left(described: Described, mark: Mark) -> Described:
    return {**described, "targetSize": mark.desired, "description": with_mark(described, mark)}


def instances_of(call: Call, place: Place) -> list[Described]:
    """Managed instances of a group.

    Raises:
        Retryable, Rejected: as GCP answers.
    """
    named = {"instance_group_manager": place.name}
    return call.pages(place.location, "groups", "list_managed_instances", "managedInstances", **named)


def losses_of(call: Call, place: Place) -> list[Described]:
    """Errors of a group's instances.

    Raises:
        Retryable, Rejected: as GCP answers.
    """
    return call.pages(place.location, "groups", "list_errors", "items", instance_group_manager=place.name)


def is_odd(group: Described) -> bool:
    """Whether a group has not just its size of instances that stay."""
    stays = scheduled(group, SERVING)
    stable = (group.get("status") or {}).get("isStable", True)
    return not stable or stays != size_of(group) or scheduled(group, (*LAUNCHING, *LEAVING)) > 0


def is_small(group: Described) -> bool:
    """Whether a group is smaller than our last command set it."""
    mark = mark_of(group)
    return mark is not None and size_of(group) < mark.desired


def counts(group: Described, instances: list[Described] | None, size: int) -> dict[str, int]:
    """Instances by state.

    Args:
        group: described.
        instances: its managed instances; None: not read, so that its own summary counts.
        size: that it is to have.
    """
    if instances is None:
        lives = Counter(
            ready=scheduled(group, SERVING),
            pending=scheduled(group, LAUNCHING),
            draining=scheduled(group, LEAVING),
        )
    else:
        lives = Counter(state_of_life(instance) for instance in instances)
    here = lives["ready"] + lives["pending"] + lives["failed"] + lives["interrupted"]
    ready = min(lives["ready"], size)
    return {
        "ready": ready,
        "pending": lives["pending"] + max(0, size - here),
        "draining": lives["draining"] + lives["ready"] - ready,
        "failed": lives["failed"],
        "interrupted": lives["interrupted"],
    }


def reasons(instances: Iterable[Described], lost: Iterable[Described]) -> list[str]:
    """Why instances are missing, each reason once.

    Args:
        instances: managed instances.
        lost: errors of instances that the group did without.
    """
    taken = 0
    texts: dict[str, None] = {}
    for instance in instances:
        life = state_of_life(instance)
        taken += life == "interrupted"
        if life in ("pending", "failed"):
            texts |= {_words(code, text, zone_of(instance)): None for code, text in errors_of(instance)}
    for error in lost:
        of, details = error.get("error") or {}, error.get("instanceActionDetails") or {}
        words = _words(str(of.get("code") or ""), str(of.get("message") or ""), zone_of(details))
        texts[f"{words}, which is not tried again"] = None
    return [*sorted(texts), *([f"{taken} {TAKEN}"] if taken else [])]


def _words(code: str, message: str, zone: str) -> str:
    what = code if code in NO_CAPACITY else " ".join(f"{code} {message}".split())
    return f"{what}{f' in {zone}' if zone else ''}"
