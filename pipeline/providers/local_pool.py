"""Replicas on the local provider's shared nodes: what was commanded of each app, and where its replicas are.

Where they are at a moment is a function of the changes of nodes and of wanted replicas before it, in their order of
time (`models.nodes.placement`), and is not stored but for one placement a pool.

State is one JSON file an app (`replicas/`), with its changes and results, and one a pool (`pools/`), with its placement
at a time before which changes are forgotten. A command replaces its app's file alone. A pool's file is written before
anything that it stands for is forgotten, and changes no answer, so that a kill between the two does no harm.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, nextafter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipeline.errors import Rejected
from pipeline.providers.base import Observation, Record, Result
from pipeline.providers.local_instances import KEPT_RESULTS, KEPT_S, Instance, file_of, replaced
from pipeline.providers.local_replicas import AppReplicas, Change, ReplicaSet
from pipeline.wire.commands import REPLICAS, Target

SLACK_S: Final = 3_600.0
"""A pool's file is replaced once it is older than a day by so much, not with every command."""

if TYPE_CHECKING:  # loads a compiler, in a second: only where there are replicas
    from models.nodes.placement import Placement, Wanted


class Node(NamedTuple):
    """An instance that apps share: its name among its group's, room for replicas by metric, its life and its zone."""

    name: str
    room: Mapping[str, float]
    life: Instance
    zone: str = ""


@dataclass
class _History:
    """Placements of a pool: each from its time on, up to `to_s`; none before the first."""

    to_s: float
    times: list[float] = field(default_factory=list[float])
    placements: list[Placement] = field(default_factory=list["Placement"])

    def at(self, at_s: float) -> Placement | None:
        place = bisect_right(self.times, at_s)
        return self.placements[place - 1] if place else None


class Pools:
    """Replicas of all apps of one provider.

    Args:
        folder: of the provider's state.
        nodes: returns a group's nodes that were launched by a time, in the order in which they are filled.
        startup_s: returns how long a placed replica takes to serve.
    """

    def __init__(
        self, folder: Path, nodes: Callable[[str, float], Sequence[Node]], startup_s: Callable[[], float]
    ) -> None:
        self._folder, self._nodes, self._startup_s = folder, nodes, startup_s
        self._histories: dict[str, _History] = {}
        self._apps: dict[str, AppReplicas] = {}
        self._first_s: dict[str, float] = {}  # time of a group's earliest placement that is known
        for path in (folder / "pools").glob("*.json"):
            self._read_pool(path)
        for path in (folder / "replicas").glob("*.json"):
            app = AppReplicas.read(path)
            self._apps[app.ref] = app
        changes = [change for app in self._apps.values() for change in app.changes]
        for change in sorted(changes, key=lambda change: change.at_s):
            self._begin(change)

    def load(self) -> None:
        """Compile what places replicas, and place what was there before a restart: it may take some seconds."""
        _compile()
        for group in self._first_s:
            self._at(group, max((app.changes[-1].at_s for app in self._apps.values()), default=-inf))

    def has(self, group: str) -> bool:
        """Whether apps have, or had, replicas on the nodes of a group."""
        return group in self._first_s

    def result(self, ref: str, command_id: str) -> Result | None:
        """The stored result of a command."""
        app = self._apps.get(ref)
        return Result(**app.results[command_id]) if app and command_id in app.results else None

    def apply(self, command: Record, now_s: float, *, partial: bool) -> Result:
        """Set what is wanted of an app; partial: go half of the way to the count.

        Raises:
            Rejected: the command is older than the last one, or nothing can be placed by it.
        """
        target = Target.of(command)
        size = {item["metric"]: item["value"] for item in command["resources"] or ()}
        wanted = ReplicaSet(
            command["desired"], command["group"], size, command["priority"], command["zone_share"]
        )
        fault = wanted.fault()
        if target.offer_id != REPLICAS:
            fault = f"the target of replicas must be {target.app}/{REPLICAS}, got {target.ref}"
        if fault is not None:
            raise Rejected(fault)
        app = self._copy(target.ref)
        if command["epoch"] < app.epoch:
            raise Rejected("older-epoch")
        before = app.changes[-1].wanted.desired if app.changes else 0
        if partial:
            wanted = replace(wanted, desired=before + (wanted.desired - before) // 2)
        changed = self._change(app, wanted, now_s, command["id"])
        app.epoch = command["epoch"]
        request_id = f"local-{command['id'][:8]}"
        result = Result(before, wanted.desired, changed.at_s, app.changes[-1].generation, request_id, partial)
        app.results[command["id"]] = asdict(result)
        app.results = dict(list(app.results.items())[-KEPT_RESULTS:])
        self._save(app, changed.at_s)
        return result

    def start(self, target: Target, wanted: ReplicaSet, at_s: float) -> None:
        """Begin with replicas that serve at `at_s`, as far as there is room; a known target stays as it is."""
        if target.ref not in self._apps:
            app = AppReplicas(target.ref)
            self._change(app, wanted, at_s, "", running=True)
            self._save(app, at_s)

    def observe(self, ref: str, now_s: float, since_s: float | None) -> Observation:
        """Replicas of an app at any moment from a day before its last change on."""
        app = self._apps.get(ref)
        change = app.at(now_s) if app else None
        if app is None or change is None:
            return Observation(0, 0, {}, generation=0, least_ready=0, billed_h=0.0)
        placement = self._at(change.wanted.group, now_s)
        waits = [at_s + self._startup_s() - now_s for at_s in placement.since_s(app.app)]
        ready = sum(wait_s <= 0 for wait_s in waits)
        return Observation(
            ready=ready,
            pending=change.wanted.desired - ready,
            allocatable=change.wanted.size,
            generation=change.generation,
            command_id=change.command_id,
            pending_ready_s=tuple(wait_s for wait_s in waits if wait_s > 0),
            least_ready=None if since_s is None else self._least_ready(app, since_s, now_s),
            billed_h=0.0,
            reason=placement.reasons.get(app.app, ""),
        )

    def use(self, group: str, now_s: float) -> dict[str, float]:
        """By name of a group's node, the largest share of a resource that its replicas take at `now_s`."""
        from models.nodes.placement import use

        return use(
            self._at(group, now_s), self._room(self._nodes(group, now_s), now_s), self._wanted(group, now_s)
        )

    def changed(self, group: str, from_s: float) -> None:
        """Note that nodes or wanted replicas of a group changed, from a time on."""
        history = self._histories.get(group)
        if history is not None and history.to_s >= from_s:
            first = next((n for n, at_s in enumerate(history.times) if at_s >= from_s), len(history.times))
            del history.times[first:], history.placements[first:]
            history.to_s = nextafter(from_s, -inf)

    def needed_from(self, group: str, clock_s: float) -> float:
        """Time from which on lives of a group's nodes, and changes, are needed to know placements of the last day.

        The pool's file is replaced where that is longer ago than a day and `SLACK_S`.
        """
        if not self.has(group):
            return clock_s
        horizon_s = clock_s - KEPT_S
        if self._first_s[group] < horizon_s - SLACK_S:
            placement = self._at(group, horizon_s)
            stored = {"group": group, "at_s": horizon_s, **vars(placement)}
            replaced(self._path("pools", group), stored)
            history = self._histories[group]
            ended = bisect_right(history.times, horizon_s)
            history.times[:ended], history.placements[:ended] = [horizon_s], [placement]
            self._first_s[group] = horizon_s
        return self._first_s[group]

    # Over time.

    def _at(self, group: str, at_s: float) -> Placement:
        """Where replicas of a group's apps are at a time."""
        from models.nodes.placement import Placement, placed_at

        history = self._histories[group]
        if at_s > history.to_s:
            nodes = self._nodes(group, at_s)
            zones = {node.name: node.zone for node in nodes}
            placement = history.placements[-1] if history.placements else Placement()
            for moment_s in self._moments(group, nodes, history.to_s, at_s):
                room, wanted = self._room(nodes, moment_s), self._wanted(group, moment_s)
                placement = placed_at(placement, room, wanted, moment_s, zones)
                history.times.append(moment_s)
                history.placements.append(placement)
            history.to_s = at_s
        return history.at(at_s) or Placement()

    def _moments(self, group: str, nodes: Sequence[Node], after_s: float, to_s: float) -> list[float]:
        """Times in (after_s, to_s] at which a node begins or ends to be ready, or what is wanted changes."""
        moments = {at_s for n in nodes for at_s in (n.life.ready_s, n.life.leaves_s, n.life.released_s)}
        for app in self._apps.values():
            group_before = ""
            for change in app.changes:
                if group in (group_before, change.wanted.group):
                    moments.add(change.at_s)
                group_before = change.wanted.group
        return sorted(at_s for at_s in moments if after_s < at_s <= to_s)

    def _room(self, nodes: Sequence[Node], at_s: float) -> dict[str, Mapping[str, float]]:
        return {node.name: node.room for node in nodes if node.life.state(at_s) == "ready"}

    def _wanted(self, group: str, at_s: float) -> dict[str, Wanted]:
        from models.nodes.placement import Wanted

        wanted: dict[str, Wanted] = {}
        for app in self._apps.values():
            change = app.at(at_s)
            if change is not None and change.wanted.group == group:
                of, running = change.wanted, change.running and change.at_s == at_s
                since_s = at_s - self._startup_s() if running else None
                wanted[app.app] = Wanted(of.desired, of.size, of.priority, since_s, of.zone_share)
        return wanted

    def _least_ready(self, app: AppReplicas, from_s: float, to_s: float) -> int:
        """Least ready replicas at any moment of [from_s, to_s): they become fewer only where something changes."""
        moments = {from_s}
        for group in {change.wanted.group for change in app.changes}:
            self._at(group, to_s)
            moments.update(at_s for at_s in self._histories[group].times if from_s < at_s < to_s)
        return min(self.observe(app.ref, at_s, None).ready for at_s in moments)

    # The files.

    def _begin(self, change: Change) -> None:
        """Begin a group's history with its first change."""
        if not self.has(change.wanted.group):
            self._first_s[change.wanted.group] = change.at_s
            self._histories[change.wanted.group] = _History(nextafter(change.at_s, -inf))

    def _read_pool(self, path: Path) -> None:
        """Begin a group's history with the placement in its file."""
        from models.nodes.placement import Placement

        stored: dict[str, Any] = json.loads(path.read_text())
        on = {node: {app: tuple(of) for app, of in apps.items()} for node, apps in stored["on"].items()}
        group, at_s = stored["group"], stored["at_s"]
        self._first_s[group] = at_s
        self._histories[group] = _History(at_s, [at_s], [Placement(on, stored["reasons"])])

    def _copy(self, ref: str) -> AppReplicas:
        app = self._apps.get(ref)
        if app is None:
            return AppReplicas(ref)
        return replace(app, changes=list(app.changes), results=dict(app.results))

    def _change(
        self, app: AppReplicas, wanted: ReplicaSet, at_s: float, command_id: str, *, running: bool = False
    ) -> Change:
        """Change what is wanted, no earlier than the last change did; what is wanted already is no change."""
        last = app.changes[-1] if app.changes else None
        at_s = at_s if last is None else max(at_s, last.at_s)
        change = Change(at_s, last.generation + 1 if last else 1, command_id, wanted, running)
        if last is None or last.wanted != wanted:
            app.changes.append(change)
        return change

    def _save(self, app: AppReplicas, at_s: float) -> None:
        """Write an app's file, without the changes that ended long ago."""
        groups = {change.wanted.group for change in app.changes}
        from_s = min(self.needed_from(group, at_s) for group in groups)
        ended = sum(change.at_s <= from_s for change in app.changes)
        app.changes = app.changes[max(ended - 1, 0) :]
        app.write(self._path("replicas", app.ref))
        self._apps[app.ref] = app
        self._begin(app.changes[-1])
        for group in groups:
            self.changed(group, at_s)

    def _path(self, kind: str, name: str) -> Path:
        (self._folder / kind).mkdir(exist_ok=True)
        return file_of(self._folder / kind, name)


def _compile() -> None:
    """Compile what places replicas: it takes a second, and the first time on a machine some fifteen."""
    from models.nodes.placement import Placement, Wanted, placed_at

    one = Wanted(1, {"cpu": 1.0})
    placed = placed_at(Placement(), {"node": {"cpu": 1.0}}, {"a": one}, 0.0)
    placed_at(placed, {"node": {"cpu": 1.0}}, {"a": one, "b": replace(one, priority=1), "c": one}, 1.0)
