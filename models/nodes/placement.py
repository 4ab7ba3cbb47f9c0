"""Where each replica on shared nodes is, and since when: a placement follows from the one before it.

`placed_at` depends on the placement before, the nodes that are ready and the replicas that are wanted, and on nothing
else. So where replicas are at a moment is a function of the events before it, in their order of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from models.nodes.packing import Amounts, Counts, Nodes, Replicas, pack, used

Room = Mapping[str, Mapping[str, float]]
"""By node, in the order in which they are filled: what it has for replicas, by resource; what it does not list does not
bound it, as in `models.capacity.replicas_per_instance`."""


@dataclass(frozen=True)
class Wanted:
    """Replicas that an app is to have.

    Attributes:
        count: of replicas, at least 0.
        size: what one asks for, by resource, at least 0, and above 0 of one resource.
        priority: the higher is placed first.
        since_s: time from which those that are placed next count as placed, unix seconds; None = when they are.
        zone_share: largest share of them in one zone, as `models.nodes.packing.Replicas` has it; None = no limit.
    """

    count: int
    size: Mapping[str, float]
    priority: int = 0
    since_s: float | None = None
    zone_share: float | None = None


@dataclass(frozen=True)
class Placement:
    """Replicas on nodes at one time.

    Attributes:
        on: by node and app, when each replica was placed, unix seconds, the oldest first; without empty ones.
        reasons: by app, why replicas are on no node; only of apps of which some are on none.
    """

    on: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])

    def since_s(self, app: str) -> list[float]:
        """When each of an app's replicas that are on a node was placed, unix seconds, the oldest first."""
        return sorted(at_s for apps in self.on.values() for at_s in apps.get(app, ()))


def placed_at(
    before: Placement,
    room: Room,
    wanted: Mapping[str, Wanted],
    at_s: float,
    zones: Mapping[str, str] | None = None,
) -> Placement:
    """The placement at a time at which nodes or wanted replicas change (`models.nodes.packing.pack`).

    Replicas of nodes that are no longer in `room` are placed anew where there is room, and begin anew. Of those that
    leave a node which stays, the newest go.

    Args:
        before: until then.
        room: of the nodes that are ready.
        wanted: by app.
        at_s: the time, unix seconds.
        zones: of the nodes, by node; None: all are in one.
    """
    apps, nodes = sorted(app for app, of in wanted.items() if of.count), list(room)
    if not apps:
        return Placement()
    resources, size = _sizes(wanted, apps)
    number = {zone: z for z, zone in enumerate(sorted({*(zones or {}).values()}))}
    zone = np.array([number[zones[node]] if zones else 0 for node in nodes], np.int64)
    share = [wanted[app].zone_share for app in apps]
    packing = pack(
        Nodes(_amounts(room, resources), zone),
        Replicas(
            resources,
            size,
            np.array([wanted[app].priority for app in apps]),
            np.array([1.0 if of is None else of for of in share]),
        ),
        np.array([wanted[app].count for app in apps]),
        _counts(before, nodes, apps),
    )
    on: dict[str, dict[str, tuple[float, ...]]] = {}
    for n, a in np.argwhere(packing.placed).tolist():
        node, app, count = nodes[n], apps[a], int(packing.placed[n, a])
        since_s, placed = wanted[app].since_s, before.on.get(node, {}).get(app, ())
        if count > len(placed):
            new = (at_s if since_s is None else since_s,) * (count - len(placed))
            placed = tuple(sorted(placed + new))
        on.setdefault(node, {})[app] = placed[:count]
    return Placement(on, {app: why for app, why in zip(apps, packing.reasons, strict=True) if why})


def use(placement: Placement, room: Room, wanted: Mapping[str, Wanted]) -> dict[str, float]:
    """By node, the share that replicas take of the resource of which they take most."""
    apps, nodes = sorted(wanted), list(room)
    if not apps or not nodes:
        return dict.fromkeys(nodes, 0.0)
    resources, size = _sizes(wanted, apps)
    counts = _counts(placement, nodes, apps)
    return dict(zip(nodes, used(counts @ size, _amounts(room, resources)).tolist(), strict=True))


def _counts(placement: Placement, nodes: list[str], apps: list[str]) -> Counts:
    """(node, app) replicas of these on these."""
    counts, place = np.zeros((len(nodes), len(apps)), np.int64), {app: a for a, app in enumerate(apps)}
    for n, node in enumerate(nodes):
        for app, placed in placement.on.get(node, {}).items():
            if app in place:
                counts[n, place[app]] = len(placed)
    return counts


def _sizes(wanted: Mapping[str, Wanted], apps: list[str]) -> tuple[tuple[str, ...], Amounts]:
    """Names of all resources that replicas ask for, and what each app's ask for, (app, resource)."""
    resources = tuple(sorted({name for app in apps for name in wanted[app].size}))
    return resources, np.array([[wanted[app].size.get(name, 0.0) for name in resources] for app in apps])


def _amounts(room: Room, resources: tuple[str, ...]) -> Amounts:
    """(node, resource) what each node has, infinite where it does not say."""
    rows = [[of.get(name, np.inf) for name in resources] for of in room.values()]
    return np.array(rows, np.float64).reshape(len(rows), len(resources))
