"""Matches plans with their commands in a replay, where the end of a plan's tick is the event time of its app.

Plans and commands are read from different topics, in any order. A plan carries the number of its commands, and is
released, in the order of an app's plans, once all of them were read. Only commands with a valid signature count, as
a forged command could otherwise take the place of a real one.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from pipeline.providers.base import Record
from pipeline.wire.commands import Target
from pipeline.wire.messages import Position

Item = tuple[Position, Record]


@dataclass
class PlanOrder:
    """Queues of plans and of commands by app, held until a plan has all of its commands.

    Attributes:
        done: the last tick of each app that was complete.
        clock_s: the end of that tick, Unix seconds of event time.
    """

    done: dict[str, int] = field(default_factory=dict[str, int])
    clock_s: dict[str, float] = field(default_factory=dict[str, float])
    _plans: dict[str, deque[Item]] = field(default_factory=lambda: defaultdict(deque))
    _commands: dict[str, dict[str, Item]] = field(default_factory=lambda: defaultdict(dict))

    def add_plan(self, position: Position, plan: Record) -> None:
        """Queue an app's next plan."""
        self._plans[plan["app"]].append((position, plan))

    def add_command(self, position: Position, command: Record) -> bool:
        """Hold a command, whose signature was checked, for its plan; False for a repeat of a held command."""
        held = self._commands[command["plan_id"]]
        if command["id"] in held:
            return False
        held[command["id"]] = (position, command)
        return True

    def head(self, app: str) -> tuple[Item, list[Item]] | None:
        """The app's next plan and its commands by `order`, or None while any is missing. Nothing is removed."""
        plans = self._plans.get(app)
        if not plans:
            return None
        commands = list(self._commands.get(plans[0][1]["plan_id"], {}).values())
        # A repeated plan (its worker restarted) is dropped by the caller; its commands are strays.
        if plans[0][1]["tick"] > self.done.get(app, -1) and len(commands) < plans[0][1]["commands_issued"]:
            return None
        return plans[0], sorted(commands, key=lambda item: (item[1]["order"], item[1]["id"]))

    def pop(self, app: str) -> None:
        """Remove the head, which was processed; the app's event time becomes the end of its tick."""
        _, plan = self._plans[app].popleft()
        if plan["tick"] > self.done.get(app, -1):
            self._commands.pop(plan["plan_id"], None)
            self.done[app] = plan["tick"]
            self.clock_s[app] = float((plan["tick"] + 1) * plan["tick_s"])

    def apps(self) -> list[str]:
        """Names of apps with queued plans, sorted."""
        return sorted(app for app, plans in self._plans.items() if plans)

    def strays(self) -> list[Item]:
        """Remove and return commands that no queued plan can claim: their tick is done, or they have expired.

        They are repeats, attacks or too late; the executor judges each of them alone.
        """
        strays: list[Item] = []
        for plan_id, held in list(self._commands.items()):
            for identity, (position, command) in list(held.items()):
                app = Target.of(command).app
                if app not in self.done:
                    continue
                late = command["epoch"] <= self.done[app]
                if late or command["expires"].timestamp() <= self.clock_s[app]:
                    strays.append((position, command))
                    del held[identity]
            if not held:
                del self._commands[plan_id]
        return sorted(strays, key=lambda item: (item[1]["epoch"], item[1]["order"], item[1]["id"]))
