"""Matches plans with their commands in a replay, where the end of a plan's tick is the event time of its app.

Plans and commands are read from different topics, in any order. A plan carries the number of its commands, and is
released, in the order of an app's plans, once all of them were read. Only commands with a valid signature count, as
a forged command could otherwise take the place of a real one.

On shared nodes a group's plan of NODES and the plans of REPLICAS of the apps that it names (`parts`), all of one tick,
are one unit: they are released once all of them and all of their commands were read. An app that goes back to instances
of its own comes before its group. Plans of an app come in the order of their ticks, so that one which has not come when
a later one has is not waited for; a plan of REPLICAS that no unit of its tick names is one by itself, after it.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.providers.base import Record
from pipeline.wire.commands import Target, turn
from pipeline.wire.messages import Position

Item = tuple[Position, Record]
Queue = tuple[str, bool]
"""Name of an app or group, and whether its plans are of replicas on shared nodes."""


@dataclass(frozen=True)
class Unit:
    """Plans that are applied together, and their commands by `order`.

    Attributes:
        plans: one, or that of a group's nodes and those of its apps' replicas.
        commands: of all of them; none where the tick was complete before, and nothing is to be done.
        repeated: whether it was.
    """

    plans: tuple[Item, ...]
    commands: tuple[Item, ...] = ()
    repeated: bool = False

    @property
    def tick(self) -> int:
        """Number of the tick."""
        return self.plans[0][1]["tick"]

    @property
    def tick_s(self) -> int:
        """Length of the tick, seconds."""
        return self.plans[0][1]["tick_s"]

    @property
    def end_s(self) -> float:
        """End of the tick, Unix seconds of event time."""
        return float((self.tick + 1) * self.tick_s)

    @property
    def names(self) -> list[str]:
        """Names of the apps and of the group, sorted."""
        return sorted({plan["app"] for _, plan in self.plans})

    @property
    def shared(self) -> bool:
        """Whether it is of shared nodes."""
        return any(plan["level"] != "INSTANCES" for _, plan in self.plans)


@dataclass
class PlanOrder:
    """Queues of plans and of commands, held until a unit of plans has all of its commands."""

    _done: dict[Queue, tuple[int, float]] = field(default_factory=dict[Queue, tuple[int, float]])
    """The last tick that was complete, and its end, Unix seconds of event time."""
    _groups: set[str] = field(default_factory=set[str])
    """Names with plans of shared nodes."""
    _plans: dict[Queue, deque[Item]] = field(default_factory=lambda: defaultdict(deque))
    _commands: dict[str, dict[str, Item]] = field(default_factory=lambda: defaultdict(dict))

    def add_plan(self, position: Position, plan: Record) -> None:
        """Queue the next plan of an app, or of a group's nodes."""
        self._plans[_queue(plan)].append((position, plan))
        if plan["level"] == "NODES":
            self._groups.add(plan["app"])

    def add_command(self, position: Position, command: Record) -> bool:
        """Hold a command, whose signature was checked, for its plan; False for a repeat of a held command."""
        held = self._commands[command["plan_id"]]
        if command["id"] in held:
            return False
        held[command["id"]] = (position, command)
        return True

    def head(self, queue: Queue) -> Unit | None:
        """The unit of a queue's next plan, or None while a part of it is missing. Nothing is removed."""
        plans = self._plans.get(queue)
        if not plans:
            return None
        # A repeated plan (its worker restarted) is dropped by the caller; its commands are strays.
        if plans[0][1]["tick"] <= self._tick(queue):
            return Unit((plans[0],), repeated=True)
        together = self._together(plans[0])
        if together is None:
            return None
        commands: list[Item] = []
        issued = Counter[str]()
        for _, plan in together:
            issued[plan["plan_id"]] += plan["commands_issued"]
        for plan_id, number in issued.items():
            held = self._commands.get(plan_id, {})
            if len(held) < number:
                return None
            commands += held.values()
        return Unit(
            tuple(together), tuple(sorted(commands, key=lambda item: (item[1]["order"], item[1]["id"])))
        )

    def pop(self, unit: Unit) -> None:
        """Remove a unit's plans, which were processed; their event time becomes the end of its tick."""
        for _, plan in unit.plans:
            queue = _queue(plan)
            self._plans[queue].popleft()
            if plan["tick"] > self._tick(queue):
                self._commands.pop(plan["plan_id"], None)
                self._done[queue] = plan["tick"], unit.end_s

    def queues(self) -> list[Queue]:
        """Queues that have plans, sorted."""
        return sorted(queue for queue, plans in self._plans.items() if plans)

    def done(self, app: str) -> int:
        """The last tick of an app or group that was complete, -1 before the first."""
        return max(self._tick((app, False)), self._tick((app, True)))

    def strays(self) -> list[tuple[Position, Record, float]]:
        """Remove and return commands that no queued plan can claim, and when they are judged, Unix seconds.

        Their tick is done, or they have expired: they are repeats, attacks or too late; the executor judges each of
        them alone, at the end of the last tick of their app.
        """
        strays: list[tuple[Position, Record, float]] = []
        for plan_id, held in list(self._commands.items()):
            for identity, (position, command) in list(held.items()):
                reached = self._reached(Target.of(command))
                if reached is None:
                    continue
                tick, clock_s = reached
                if command["epoch"] <= tick or command["expires"].timestamp() <= clock_s:
                    strays.append((position, command, clock_s))
                    del held[identity]
            if not held:
                del self._commands[plan_id]
        return sorted(strays, key=lambda of: (of[1]["epoch"], of[1]["order"], of[1]["id"]))

    def _tick(self, queue: Queue) -> int:
        return self._done.get(queue, (-1, 0.0))[0]

    def _reached(self, target: Target) -> tuple[int, float] | None:
        """The last complete tick whose plans command a target, and its end; None before the first.

        An app's plans are of one level in a tick, which commands both its instances and its replicas where the level
        has just changed. A group that is called as an app has plans of its own.
        """
        queues = [(target.app, target.is_replicas)]
        if target.app not in self._groups:
            queues.append((target.app, not target.is_replicas))
        return max((self._done[queue] for queue in queues if queue in self._done), default=None)

    def _together(self, first: Item) -> list[Item] | None:
        """The plans that are applied with a queue's first, and it; None while one of them may still come."""
        plan = first[1]
        if plan["level"] == "REPLICAS":
            return [first] if self._alone(plan) else None
        together = [first]
        for app in sorted({part["app"] for part in plan["parts"]} if plan["level"] == "NODES" else ()):
            queued = self._plans.get((app, True))
            if not queued:
                if not self._past((app, False), plan["tick"]):
                    return None
                continue  # it has gone back to instances of its own
            head = queued[0][1]
            if head["tick"] < plan["tick"]:
                return None
            if head["tick"] == plan["tick"] and head["allocation_group"] == plan["app"]:
                together.append(queued[0])
        return together

    def _past(self, queue: Queue, tick: int) -> bool:
        """Whether a queue's plan of a tick was processed, or there is none."""
        queued = self._plans.get(queue)
        return tick <= self._tick(queue) or bool(queued and queued[0][1]["tick"] > tick)

    def _alone(self, plan: Record) -> bool:
        """Whether no plan of nodes of its tick will name an app's next plan of replicas."""
        return self._past((plan["allocation_group"], False), plan["tick"])


def _queue(plan: Record) -> Queue:
    return plan["app"], plan["level"] == "REPLICAS"


def in_order(commands: Iterable[Item], grows: Callable[[Record], bool]) -> list[Item]:
    """Commands of shared nodes by their turn (`pipeline.wire.commands.turn`), of one turn as they are given.

    Args:
        commands: of the same tick.
        grows: returns whether a command asks for as much as there is, or more.
    """
    return sorted(commands, key=lambda item: turn(item[1], grows=grows(item[1])))
