"""Replicas of many apps packed onto nodes: first-fit decreasing, by priority, with preemption and consolidation.

A replica asks for a vector of resources (cpu, memory, pods, …), a node has one. Apps are taken in the order of their
priority, of one priority in the order of their replicas' size, the largest first: the size is the largest share of the
pool's mean node that a replica takes of a resource (Panigrahy, Talwar, Uyeda and Wieder 2011 call it FFD over the
largest coordinate). A replica goes onto the first node with room. In one dimension that takes at most 11/9 of the
fewest nodes and 6/9 of a node (Dósa 2007), in d at most d + 7/10 of them (Garey, Graham, Johnson and Yao 1976).

Where a priority's replicas do not all fit, its apps get the same share of theirs, one at least where it can be; a
replica that fits no free room then takes that of lower priorities, as `kube-scheduler` preempts: on the node whose
highest victim is lowest, then whose victims are fewest. Running replicas stay where they are, and no app takes the
room of its equals. So a pool that runs needs a little more than one that is packed anew: in synthetic pools of 10 and
50 apps as many nodes as are enough in 99 % of the ticks for packing anew were in 97.6 to 99.3 %, and in 98.7 to 99.3 %
where `consolidate` ran in every third tick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.capacity import ROUNDING
from models.kernels import compiled

Amounts = NDArray[np.float64]
Counts = NDArray[np.int64]
UNLIMITED: Final = 2**40  # replicas, where nothing bounds them
MANY: Final = float(UNLIMITED)


@dataclass(frozen=True)
class Replicas:
    """What a replica of each app asks for, and where its replicas may be.

    Attributes:
        resources: names of the resources, with which reasons are given.
        size: (app, resource) amounts at least 0, not all 0 of an app, in the resources' units.
        priority: (app) any whole numbers, the higher first; None = all are equal.
        zone_share: (app) most of the app's replicas in one zone, rounded up to whole ones, above 0; 1 and more = no
            limit. A share below 1 / (number of zones) is taken as that, as no placement keeps it.
        per_node: (app) most of the app's replicas on one node, at least 1; None = no limit.
    """

    resources: tuple[str, ...]
    size: Amounts
    priority: Counts | None = None
    zone_share: Amounts | None = None
    per_node: Counts | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be packed.

        Raises:
            ValueError: a shape is wrong, or an amount or limit is out of its range; names the app by its index.
        """
        size = self.size
        if size.ndim != 2 or size.shape[1] != len(self.resources):
            raise ValueError(f"size must be (app, {len(self.resources)} resources), got {size.shape}")
        for name in ("priority", "zone_share", "per_node"):
            values = getattr(self, name)
            if values is not None and values.shape != (len(size),):
                raise ValueError(f"{name} must be ({len(size)} apps), got {values.shape}")
        checks = [("size", "finite and at least 0", (np.isfinite(size) & (size >= 0)).all(axis=1))]
        checks.append(("size", "above 0 in a resource", (size > 0).any(axis=1)))
        if self.zone_share is not None:
            checks.append(("zone_share", "above 0", self.zone_share > 0))
        if self.per_node is not None:
            checks.append(("per_node", "at least 1", self.per_node >= 1))
        for name, rule, holds in checks:
            if not holds.all():
                app = int(np.flatnonzero(~holds)[0])
                raise ValueError(f"{name} of app {app} must be {rule}, got {getattr(self, name)[app]}")


@dataclass(frozen=True)
class Nodes:
    """Nodes, in the order in which they are filled.

    Attributes:
        room: (node, resource) what a node has for replicas: the instance less its system and daemons.
        zone: (node) number of its zone, from 0.
    """

    room: Amounts
    zone: Counts

    @classmethod
    def of(cls, counts: Counts, allocatable: Amounts, zone: Counts | None = None) -> Nodes:
        """Nodes of several types, type by type.

        counts: (type); allocatable: (type, resource); zone: (type), None = all in one.

        Raises:
            ValueError: a count is negative.
        """
        if (counts < 0).any():
            raise ValueError(f"counts must be at least 0, got {counts.tolist()}")
        zone = np.zeros(len(counts), np.int64) if zone is None else zone
        return cls(np.repeat(allocatable, counts, axis=0).astype(np.float64), np.repeat(zone, counts))


@dataclass(frozen=True)
class Packing:
    """Where replicas are.

    Attributes:
        placed: (node, app) replicas.
        pending: (app) replicas that are on no node.
        evicted: (app) replicas that ran and had to leave their node; some may be placed on another one.
        reasons: (app) why replicas are pending, empty where none is.
    """

    placed: Counts
    pending: Counts
    evicted: Counts
    reasons: tuple[str, ...]

    @property
    def empty(self) -> NDArray[np.bool_]:
        """(node) whether it holds nothing, so that it can be released."""
        return self.placed.sum(axis=1) == 0


class _Pool(NamedTuple):
    """What the loops work on, in place.

    size: (app, resource); priority, per_node: (app); zone: (node); free: (node, resource); placed: (node, app);
    zone_left: (app, zone) replicas that may still be put there; evicted: (app); rising: (app) by priority, lowest
    first.
    """

    size: Amounts
    priority: Counts
    per_node: Counts
    zone: Counts
    free: Amounts
    placed: Counts
    zone_left: Counts
    evicted: Counts
    rising: Counts

    def copied(self) -> _Pool:
        changing = {name: getattr(self, name).copy() for name in ("free", "placed", "zone_left", "evicted")}
        return self._replace(**changing)


def pack(nodes: Nodes, replicas: Replicas, counts: Counts, placed: Counts | None = None) -> Packing:
    """Place replicas on nodes; the same arguments give the same placement.

    Args:
        nodes: in the order in which they are filled.
        replicas: of each app.
        counts: (app) replicas wanted, at least 0.
        placed: (node, app) replicas that run; they stay, but where fewer are wanted (those on the nodes that are used
            least go), a node has less than they ask for, or a higher priority needs the room. None = none run.

    Raises:
        ValueError: a shape is wrong or a count negative.
    """
    apps, (n, r) = len(replicas.size), nodes.room.shape
    if counts.shape != (apps,) or r != len(replicas.resources) or nodes.zone.shape != (n,):
        raise ValueError(
            f"counts {counts.shape}, room {nodes.room.shape} and zone {nodes.zone.shape} do not match {apps} apps "
            f"and the resources {', '.join(replicas.resources)}"
        )
    running = np.zeros((n, apps), np.int64) if placed is None else placed.astype(np.int64)
    if running.shape != (n, apps) or (running < 0).any() or (counts < 0).any():
        raise ValueError(f"placed must be ({n} nodes, {apps} apps), and it and counts at least 0")
    wanted = counts.astype(np.int64)
    pool = _pool(nodes, replicas, wanted, _shrunk(nodes, replicas, wanted, running))
    _relieve(pool)
    order = by_size(replicas.size, nodes.room)
    reachable = np.minimum(wanted, np.maximum(_most(nodes, pool), pool.placed.sum(axis=0)))
    for priority in np.unique(pool.priority)[::-1].tolist():
        pool = _place_equals(pool, order[pool.priority[order] == priority], wanted, reachable)
    pending = wanted - pool.placed.sum(axis=0)
    reasons = tuple(_reason(pool, nodes, replicas, app) if pending[app] else "" for app in range(apps))
    return Packing(pool.placed, pending, pool.evicted, reasons)


def consolidate(
    nodes: Nodes, replicas: Replicas, placed: Counts, most: int | None = None
) -> tuple[Counts, Counts]:
    """Placement (node, app) after nodes were emptied onto others, and the nodes that were, by index, in order.

    Nodes are tried from the one with the fewest replicas on, and each is emptied where all of its replicas fit onto
    other nodes that are in use; else it is left as it is.

    most: nodes that are emptied at most, None = no limit; a disruption budget.
    """
    pool = _pool(nodes, replicas, placed.sum(axis=0), placed.astype(np.int64))
    order, emptied = by_size(replicas.size, nodes.room), list[int]()
    in_use = placed.sum(axis=1) > 0
    for node in np.argsort(placed.sum(axis=1), kind="stable").tolist():
        if not in_use[node] or (most is not None and len(emptied) >= most):
            continue
        trial, moving = pool.copied(), pool.placed[node].copy()
        for app in range(len(moving)):
            _put(trial, node, app, -int(moving[app]))
        trial.free[~in_use] = trial.free[node] = -1.0
        if all(_first_fit(trial, app, int(moving[app]), 0)[0] == moving[app] for app in order.tolist()):
            in_use[node] = False
            trial.free[~in_use] = nodes.room[~in_use]
            pool = trial
            emptied.append(node)
    return pool.placed, np.array(emptied, np.int64)


def by_size(size: Amounts, room: Amounts) -> Counts:
    """Apps, those with the largest replicas first, equal ones in their order, (app).

    size: (app, resource); room: (node, resource): the reference is the mean node.
    """
    if not len(room):
        return np.arange(len(size))
    mean = room.mean(axis=0)
    share = np.divide(size, mean, out=np.where(size > 0, np.inf, 0.0), where=mean > 0)
    return np.argsort(-share.max(axis=1), kind="stable")


def fits(size: Amounts, allocatable: Amounts) -> NDArray[np.bool_]:
    """Whether a replica of each app fits an empty node of each type, (type, app).

    A type that bounds nothing of what a replica asks for is of no use, as in `models.capacity.replicas_per_instance`.

    size: (app, resource); allocatable: (type, resource), infinite where it does not bound replicas.
    """
    room = allocatable[:, None]
    return np.asarray(_fit_each(size, room).all(axis=-1) & ((size > 0) & np.isfinite(room)).any(axis=-1))


def _fit_each(size: Amounts, room: Amounts) -> NDArray[Any]:
    """Whether there is room for a size (…, resource), by resource, broadcast as NumPy does."""
    return (size == 0) | (size * (1 - ROUNDING) <= room)


def used(requested: Amounts, room: Amounts) -> Amounts:
    """Largest share of a resource that is requested of each node, (node).

    requested, room: (node, resource).
    """
    return np.divide(requested, room, out=np.zeros_like(requested), where=room > 0).max(axis=1)


def nodes_needed(counts: Counts, size: Amounts, allocatable: Amounts) -> Counts:
    """Nodes of one type that first-fit decreasing takes for each scenario's replicas, (scenario).

    It is `pack` onto as many nodes as it takes, without zones and limits, in time that does not grow with the nodes:
    those of the same contents are kept as a group.

    Args:
        counts: (scenario, app).
        size: (app, resource), each of which fits an empty node.
        allocatable: (resource) of a node.

    Raises:
        ValueError: a replica fits no empty node.
    """
    unfit = np.flatnonzero(~fits(size, allocatable[None])[0])
    if unfit.size:
        raise ValueError(f"a replica of app {unfit[0]} asks for more than a node has")
    order, needed = by_size(size, allocatable[None]), np.zeros(len(counts), np.int64)
    # contiguous: one compiled version
    chosen = np.ascontiguousarray(counts[:, order], np.int64), np.ascontiguousarray(size[order], np.float64)
    _count_nodes(*chosen, np.ascontiguousarray(allocatable, np.float64), needed)
    return needed


def left_over(counts: Counts, size: Amounts, nodes: Counts, allocatable: Amounts) -> Counts:
    """Replicas that first-fit decreasing finds no room for on nodes of several types, (scenario, app).

    It is `pack` without zones and limits and with no bound on an app but room: where all fit, both place all. Where not
    all do, equals do not share here: the largest replicas are placed first.

    Args:
        counts: (scenario, app).
        size: (app, resource).
        nodes: (scenario, type) or (type) nodes of each type, filled in their order.
        allocatable: (type, resource) of a node.
    """
    of_type = np.ascontiguousarray(np.broadcast_to(nodes, (len(counts), len(allocatable))), np.int64)
    order = by_size(size, np.repeat(allocatable, of_type.max(axis=0, initial=0), axis=0))
    left = np.zeros((len(counts), len(size)), np.int64)
    chosen = np.ascontiguousarray(counts[:, order], np.int64), np.ascontiguousarray(size[order], np.float64)
    _fill_types(*chosen, np.ascontiguousarray(allocatable, np.float64), of_type, left)
    unsorted = np.empty_like(left)
    unsorted[:, order] = left
    return unsorted


def fluid_nodes(counts: Counts, size: Amounts, allocatable: Amounts) -> Amounts:
    """Nodes of one type, not whole, that have what replicas ask for in all, (…): no packing takes fewer.

    counts: (…, app); size: (app, resource); allocatable: (resource).
    """
    requested = counts @ size
    share = np.divide(requested, allocatable, out=np.where(requested > 0, np.inf, 0.0), where=allocatable > 0)
    return share.max(axis=-1)


def _pool(nodes: Nodes, replicas: Replicas, wanted: Counts, placed: Counts) -> _Pool:
    apps, zones = len(wanted), int(nodes.zone.max(initial=0)) + 1
    priority = np.zeros(apps, np.int64) if replicas.priority is None else replicas.priority
    per_node = np.full(apps, UNLIMITED) if replicas.per_node is None else replicas.per_node
    share = np.ones(apps) if replicas.zone_share is None else replicas.zone_share
    share = np.maximum(share, 1 / max(len(np.unique(nodes.zone)), 1))
    most = np.where(share >= 1, UNLIMITED, np.ceil(share * wanted - ROUNDING)).astype(np.int64)
    in_zone = np.stack([placed[nodes.zone == z].sum(axis=0) for z in range(zones)], axis=1)
    return _Pool(
        size=np.ascontiguousarray(replicas.size, np.float64),
        priority=priority.astype(np.int64),
        per_node=per_node.astype(np.int64),
        zone=nodes.zone.astype(np.int64),
        free=np.ascontiguousarray(nodes.room - placed @ replicas.size, np.float64),
        placed=np.ascontiguousarray(placed),
        zone_left=np.ascontiguousarray(most[:, None] - in_zone),
        evicted=np.zeros(apps, np.int64),
        rising=np.argsort(priority, kind="stable"),
    )


def _shrunk(nodes: Nodes, replicas: Replicas, wanted: Counts, running: Counts) -> Counts:
    """Running replicas (node, app), no more than are wanted; those on the nodes that are used least go first."""
    surplus = np.maximum(running.sum(axis=0) - wanted, 0)
    if not surplus.any():
        return running
    order = np.argsort(used(running @ replicas.size.astype(np.float64), nodes.room), kind="stable")
    before = np.cumsum(running[order], axis=0) - running[order]
    kept = running.copy()
    kept[order] -= np.clip(surplus - before, 0, running[order])
    return kept


def _most(nodes: Nodes, pool: _Pool) -> Counts:
    """Replicas of each app that there would be room for if it were alone, (app)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        per_resource = np.where(pool.size > 0, nodes.room[:, None] / pool.size, MANY)
    on_node = np.floor(np.minimum(per_resource.min(axis=2), MANY) + ROUNDING).astype(np.int64)
    on_node = np.clip(on_node, 0, pool.per_node)
    zones = [nodes.zone == z for z in range(pool.zone_left.shape[1])]
    in_zone = np.stack([on_node[zone].sum(axis=0) for zone in zones], axis=1)
    allowed = pool.zone_left + np.stack([pool.placed[zone].sum(axis=0) for zone in zones], axis=1)
    return np.minimum(in_zone, np.maximum(allowed, 0)).sum(axis=1)


def _place_equals(pool: _Pool, order: Counts, wanted: Counts, reachable: Counts) -> _Pool:
    """The pool with the replicas of apps of one priority; they share alike where not all fit.

    order: (app) of this priority, the largest replicas first; wanted, reachable: (app), the latter those of the former
    that there would be room for if the app were alone.
    """

    def tried(share: float, preempt: int) -> tuple[_Pool, bool]:
        trial = pool.copied()
        upto = np.minimum(np.ceil(share * wanted - ROUNDING).astype(np.int64), reachable)
        missing = np.maximum(upto - trial.placed.sum(axis=0), 0)
        return trial, bool(_place_all(trial, order, missing, preempt))

    for preempt in (0, 1):
        trial, whole = tried(1.0, preempt)
        if whole:
            return trial
    least, most, best = 0.0, 1.0, pool.copied()
    # until the next share is one more replica
    for _ in range(int(wanted[order].max(initial=0)).bit_length() + 1):
        share = (least + most) / 2
        trial, whole = tried(share, 1)
        if whole:
            least, best = share, trial
        else:
            most = share
    _fill(best, order, wanted, reachable)
    return best


def _reason(pool: _Pool, nodes: Nodes, replicas: Replicas, app: int) -> str:
    """Why an app has pending replicas."""
    if not len(nodes.room):
        return "there are no nodes"
    size, names = replicas.size[app], replicas.resources
    fit = _fit_each(size, nodes.room)
    if not fit.all(axis=1).any():
        r = int(np.argmin(fit.any(axis=0)))
        if fit[:, r].any():
            return f"no node has enough of {', '.join(n for n, s in zip(names, size, strict=True) if s > 0)} at once"
        return f"a replica asks for {size[r]:.6g} of {names[r]}, the largest node has {nodes.room[:, r].max():.6g}"
    free = _fit_each(size, pool.free)
    roomy = free.all(axis=1)
    if roomy.any():
        full = pool.placed[roomy, app] >= pool.per_node[app]
        of_node, of_zone = (
            "each node has its most replicas of the app",
            "the zones with room have their share",
        )
        return of_node if full.all() else of_zone
    lacking = ~free[fit.all(axis=1)]
    return f"no node has room: {names[int(np.argmax(lacking.sum(axis=0)))]} is short"


@compiled
def _fitting(room: Amounts, node: int, size: Amounts, app: int) -> int:
    """Replicas of an app, of size (app, resource), for which a node has room, (node, resource)."""
    for r in range(size.shape[1]):  # by indices: slices take three times as long
        if size[app, r] > 0 and room[node, r] < size[app, r] * (1 - ROUNDING):
            return 0
    most = UNLIMITED
    for r in range(size.shape[1]):
        requested = size[app, r]
        if requested > 0:
            most = min(most, max(1, math.floor(min(room[node, r] / requested, MANY) + ROUNDING)))
    return most


@compiled
def _room(pool: _Pool, node: int, app: int) -> int:
    """Replicas of an app for which a node has room."""
    return _fitting(pool.free, node, pool.size, app)


@compiled
def _allowed(pool: _Pool, node: int, app: int) -> int:
    """Replicas of an app that may be put onto a node, whether or not there is room."""
    of_node = pool.per_node[app] - pool.placed[node, app]
    return max(0, min(of_node, pool.zone_left[app, pool.zone[node]]))


@compiled
def _put(pool: _Pool, node: int, app: int, count: int) -> None:
    """Put replicas onto a node, or take them away where the count is negative."""
    pool.placed[node, app] += count
    pool.zone_left[app, pool.zone[node]] -= count
    for r in range(pool.size.shape[1]):
        pool.free[node, r] -= count * pool.size[app, r]


@compiled
def _first_fit(pool: _Pool, app: int, count: int, first: int) -> tuple[int, int]:
    """Put up to `count` replicas onto the first nodes with room; how many were, and the last node that took some.

    first: node to begin with.
    """
    left, last = count, first
    for node in range(first, len(pool.free)):
        if left == 0:
            break
        n = min(left, _room(pool, node, app), _allowed(pool, node, app))
        if n > 0:
            _put(pool, node, app, n)
            left -= n
            last = node
    return count - left, last


@compiled
def _clear(pool: _Pool, node: int, app: int, victims: Counts) -> tuple[int, int]:
    """Take lower priorities off a node until a replica fits: highest victim's place in `rising` and their number.

    The lowest go first; then those of whom the room is not needed after all come back, the highest first. Place -1: it
    does not fit; the node is left as it was. victims: (app), filled.
    """
    victims[:] = 0
    for other in pool.rising:
        if pool.priority[other] >= pool.priority[app] or _room(pool, node, app) > 0:
            break
        while pool.placed[node, other] > 0 and _room(pool, node, app) == 0:
            _put(pool, node, other, -1)
            victims[other] += 1
    done = _room(pool, node, app) > 0
    highest, number = -1, 0
    for place in range(len(victims) - 1, -1, -1):
        other = pool.rising[place]
        while victims[other] > 0:
            _put(pool, node, other, 1)
            if done and _room(pool, node, app) == 0:
                _put(pool, node, other, -1)
                break
            victims[other] -= 1
        if victims[other] > 0:
            highest = max(highest, place)
            number += int(victims[other])
    return highest, number


@compiled
def _preempt(pool: _Pool, app: int) -> int:
    """Put a replica onto the node whose highest victim has the lowest priority, then the fewest; 1 where it was."""
    victims = np.zeros(len(pool.priority), np.int64)
    best, best_priority, best_number = -1, 0, 0
    for node in range(len(pool.free)):
        if _allowed(pool, node, app) == 0:
            continue
        place, number = _clear(pool, node, app, victims)
        for other in range(len(victims)):
            if victims[other] > 0:
                _put(pool, node, other, victims[other])
        if place < 0:
            continue
        priority = pool.priority[pool.rising[place]]
        if best < 0 or priority < best_priority or (priority == best_priority and number < best_number):
            best, best_priority, best_number = node, priority, number
    if best < 0:
        return 0
    _clear(pool, best, app, victims)
    pool.evicted[:] += victims
    _put(pool, best, app, 1)
    return 1


@compiled
def _place_all(pool: _Pool, order: Counts, missing: Counts, preempt: int) -> int:
    """Put the missing replicas (app) of apps in this order onto nodes; 0 where one finds no place."""
    for app in order:
        left = int(missing[app])
        left -= _first_fit(pool, app, left, 0)[0]
        while left > 0:
            if preempt == 0 or _preempt(pool, app) == 0:
                return 0
            left -= 1
    return 1


@compiled
def _fill(pool: _Pool, order: Counts, wanted: Counts, reachable: Counts) -> None:
    """Put replicas onto nodes, each of the app that has the least share of those wanted, until none fits."""
    have = pool.placed.sum(axis=0)
    open_ = have < reachable
    first = np.zeros(len(wanted), np.int64)  # nodes before have no room: it only shrinks, but for evictions
    while True:
        chosen, least = -1, 2.0
        for app in order:
            if open_[app] and have[app] / wanted[app] < least:
                chosen, least = app, have[app] / wanted[app]
        if chosen < 0:
            return
        put, last = _first_fit(pool, chosen, 1, first[chosen])
        if put:
            first[chosen] = last
        elif _preempt(pool, chosen):
            first[:] = 0
            put = 1
        have[chosen] += put
        open_[chosen] = put > 0 and have[chosen] < reachable[chosen]


@compiled
def _relieve(pool: _Pool) -> None:
    """Take replicas off nodes that have less than theirs ask for, the lowest priorities first."""
    for node in range(len(pool.free)):
        for r in range(pool.size.shape[1]):
            for app in pool.rising:
                requested = pool.size[app, r]
                while (
                    requested > 0
                    and pool.placed[node, app] > 0
                    and pool.free[node, r] < -2 * ROUNDING * requested
                ):
                    _put(pool, node, app, -1)
                    pool.evicted[app] += 1


@compiled
def _count_nodes(counts: Counts, size: Amounts, allocatable: Amounts, needed: Counts) -> None:
    """`nodes_needed` for apps in the order in which they are placed; needed: (scenario), filled."""
    apps, resources = size.shape
    groups = 4 * apps + 4  # an app splits one group, into three at most, and opens two
    free, number = np.empty((groups + 1, resources)), np.empty(groups + 1, np.int64)
    for s in range(len(counts)):
        groups = 0
        free[0] = allocatable
        for app in range(apps):
            groups, _ = _add_app(free, number, groups, size, app, counts[s, app])
        needed[s] = number[:groups].sum()


@compiled
def _fill_types(counts: Counts, size: Amounts, allocatable: Amounts, nodes: Counts, left: Counts) -> None:
    """`left_over` for apps in the order in which they are placed; left: (scenario, app), filled."""
    (types, resources), apps = allocatable.shape, len(size)
    free, number = np.empty((types + 4 * apps + 1, resources)), np.empty(types + 4 * apps + 1, np.int64)
    for s in range(len(counts)):
        groups = 0
        for kind in range(types):
            if nodes[s, kind] > 0:
                free[groups] = allocatable[kind]
                number[groups] = nodes[s, kind]
                groups += 1
        free[groups] = -1.0  # there are no more
        for app in range(apps):
            groups, left[s, app] = _add_app(free, number, groups, size, app, counts[s, app])


@compiled
def _add_app(
    free: Amounts, number: Counts, groups: int, size: Amounts, app: int, count: int
) -> tuple[int, int]:
    """Place an app's replicas; the number of groups after it, and the replicas for which there is no room.

    Nodes of equal contents lie together in first-fit's order, so that an app fills whole groups, and splits one. The
    group behind the last is of nodes that are still to come.

    free: (group, resource); number: (group) nodes.
    """
    g = 0
    while count > 0 and g <= groups:
        new = g == groups
        fit = _fitting(free, g, size, app)
        if fit == 0:
            g += 1
            continue
        alike = count if new else number[g]
        whole = min(alike, count // fit)
        part = count - whole * fit if whole < alike else 0
        untouched = alike - whole - (part > 0)
        count -= whole * fit + part
        more = (whole > 0) + (part > 0) + (0 if new else (untouched > 0) - 1)
        for r in range(free.shape[1]):
            before = free[g, r]
            for move in range(groups, g, -1):
                free[move + more, r] = free[move, r]
            free[g + more, r] = before
            if part:
                free[g + (whole > 0), r] = before - part * size[app, r]
            if whole:
                free[g, r] = before - fit * size[app, r]
        for move in range(groups - 1, g, -1):
            number[move + more] = number[move]
        number[g + more] = untouched
        if part:
            number[g + (whole > 0)] = 1
        if whole:
            number[g] = whole
        groups += more
        g += (whole > 0) + (part > 0)
    return groups, count
