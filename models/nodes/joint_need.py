"""What the apps of a pool need together, as one app could be bought for; whose tail binds, and what each app adds.

In each scenario the apps' replicas ask for so much of each resource: the fluid need. A pool of nodes carries it where,
after what packing loses (`fragmentation`), it has as much of each. Types lose different shares, so a factor stands on
both sides: totals are the fluid need times that of the type that loses least, and what a node of another type has is
less by what it loses more.

To be bought for by `models.purchase`, the pool is an app whose replica is a small quantum of resources, in the
proportion in which the pool needs them at the asked share: a node carries so many quanta as the resource of which it
has least allows. Of what every type has more than its quanta take, a quantum has more, so that it does not bind. A node
type that has much of what is short on others is not paid for it: a mix of types that make up for each other is judged
by what each would do alone, never too few. In five synthetic pools of 6 to 20 apps and three types that costs up to 6 %
more than the cheapest counts that packing allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import ROUNDING
from models.kernels import compiled
from models.nodes import fragmentation
from models.nodes.packing import Amounts, Counts, fits, left_over, nodes_needed

Array = NDArray[np.float32]
Replicas = NDArray[np.int32]

QUANTA: Final = 100
"""Of the pool that the smallest node carries: rounding down to whole ones loses at most 1 % of another."""
PACKED: Final = 192  # scenarios that a purchase is checked in: some 5 ms, and 0.1 % of all at 99 %
NEAR: Final = 0.01  # share of the scenarios, around the one that binds, whose mean says whose tail it is


@dataclass(frozen=True)
class Demand:
    """Replicas of a pool's apps, by scenario.

    Attributes:
        replicas: (app, scenario, step) whole replicas, as each app's own scenarios have them.
        order: (app, scenario) of `app_dependence.paired`: scenario s of the pool is `order[a, s]` of app a.
        size: (app, resource) what a replica asks for.
    """

    replicas: Replicas
    order: NDArray[np.int64]
    size: Amounts

    def part(self, apps: NDArray[np.bool_]) -> Demand:
        """The demand of some apps, (app) mask."""
        return self if apps.all() else Demand(self.replicas[apps], self.order[apps], self.size[apps])

    @cached_property
    def fluid(self) -> Array:
        """What all replicas ask for, (scenario, step, resource); not to be changed."""
        _, scenarios, steps = self.replicas.shape
        total = np.zeros((scenarios, steps, self.size.shape[1]), np.float32)
        _add_up(self.replicas, self.order, self.size.astype(np.float32), total)
        return total

    def counts(self, scenarios: NDArray[np.intp], steps: NDArray[np.intp]) -> Counts:
        """Replicas in some scenarios of the pool, each at a step, (chosen, app)."""
        apps = np.arange(len(self.replicas))[:, None]
        return self.replicas[apps, self.order[:, scenarios], steps[None]].T.astype(np.int64)


@dataclass(frozen=True)
class Need:
    """What a pool needs, and what nodes have for it.

    Attributes:
        totals: (scenario, step, resource) the fluid need times what the type that loses least loses.
        usable: (type, resource) of a node, less what its type loses more; 0 of a type that carries nothing.
        factor: (type) what packing onto nodes of a type alone multiplies the fluid need by; NaN of a type that carries
            nothing.
        unit: (resource) a quantum; 0 of a resource that nobody asks for or no node limits, which is not to be governed.
        carried: (app) whether a replica fits a type; the others' replicas are not in `totals`.
        carries: (type) whether each carried app's replica fits it; others are not to be bought, as the fluid need does
            not tell which replicas are on which nodes. Where no type carries all, the types that carry most apps do,
            and the apps that fit none of these are not carried.
    """

    totals: Array
    usable: Amounts
    factor: Amounts
    unit: Amounts
    carried: NDArray[np.bool_]
    carries: NDArray[np.bool_]

    def quanta(self, window: slice) -> NDArray[np.float64]:
        """Quanta needed over the window, not whole, (scenario)."""
        return _largest(self.totals[:, window], self.unit)


def joint_need(
    demand: Demand,
    allocatable: Amounts,
    window: slice,
    share: float,
    key: tuple[str | int | bytes, ...] = (0,),
) -> Need:
    """What the apps need together over the steps of `window`, in the asked share of the scenarios.

    Args:
        demand: of the apps.
        allocatable: (type, resource) what a node has for replicas; infinite where it does not limit them.
        window: steps that the promise covers.
        share: of the scenarios, above 0 and below 1; it decides factors and the quantum's proportions alone.
        key: names the random stream of what is packed.
    """
    carried, carries = common(fits(demand.size, allocatable))
    some = demand.part(carried)
    totals = some.fluid
    factor = np.full(len(allocatable), np.nan)
    kinds, kind_of = np.unique(allocatable[carries], axis=0, return_inverse=True)
    factor[carries] = np.array([_loss(some, totals, kind, window, share, key) for kind in kinds])[
        kind_of.reshape(-1)
    ]
    least = float(np.nanmin(factor)) if carries.any() else 1.0
    usable = np.where(carries[:, None], allocatable * (least / np.where(carries, factor, 1.0))[:, None], 0.0)
    totals = totals * np.float32(least)
    return Need(totals, usable, factor, _quantum(totals[:, window], usable[carries], share), carried, carries)


def common(fit: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The apps that a pool carries, (app), and the types that carry each of them, (type).

    fit: (type, app) of `packing.fits`.
    """
    most = fit.sum(axis=1).max(initial=0)
    carried = fit.any(axis=0)
    if most < carried.sum():  # no type carries all: those of the first type that carries most
        carried = fit[int(np.argmax(fit.sum(axis=1)))]
    return np.asarray(carried), np.asarray(fit[:, carried].all(axis=1) & carried.any())


def held(
    demand: Demand,
    need: Need,
    nodes: Counts,
    allocatable: Amounts,
    window: slice,
    share: float,
    key: tuple[str | int | bytes, ...] = (0,),
) -> float:
    """Share of the scenarios in which all carried replicas fit over the window, as packing shows.

    Scenarios are packed near the asked share alone (`fragmentation.near`), each at the step of its largest need; those
    that need less are taken to fit.

    Args:
        demand: as given to `joint_need`.
        need: what it gave.
        nodes: (type) or (scenario, type) nodes that serve.
        allocatable: as given to it, and so are the others.
        window: likewise.
        share: about what is expected.
        key: likewise.
    """
    inside, (scenarios, types) = need.totals[:, window], (len(need.totals), len(allocatable))
    of_type, total = np.broadcast_to(nodes, (scenarios, types)), np.zeros((scenarios, inside.shape[2]))
    for count, room in zip(of_type.T, allocatable, strict=True):
        total[count > 0] += count[count > 0, None] * room
    filled = inside / np.maximum(total, 1e-300)[:, None]
    chosen = fragmentation.near(filled.max(axis=(1, 2), initial=0.0), share, key, PACKED)
    steps = filled[chosen].max(axis=2).argmax(axis=1) + range(need.totals.shape[1])[window].start
    some = demand.part(need.carried)
    left = left_over(some.counts(chosen, steps), some.size, of_type[chosen], allocatable)
    return 1 - float((left > 0).any(axis=1).mean()) * fragmentation.region(scenarios, share) / scenarios


@dataclass(frozen=True)
class Shares:
    """Whose need a pool's is, in quanta.

    Attributes:
        joint: that the pool needs in the asked share of the scenarios.
        own: (app) that each app needs alone, at the same share, on nodes of the type of which it needs least; their sum
            is what own nodes have, were they not whole.
        adds: (app) by which `joint` is more than the need without the app: a fair price for it.
        tail: (app) mean of what each has of the resource and step that bind, in the scenarios around the one that
            binds; they sum to about `joint` (Euler's allocation, Tasche 1999).
        mean: (app) the same over all scenarios: where `tail` is far more, the app's burst is what is bought for.
        resource, step: that most often bind in these scenarios; the step counts from the window's first.
    """

    joint: float
    own: Amounts
    adds: Amounts
    tail: Amounts
    mean: Amounts
    resource: int
    step: int

    @property
    def binding(self) -> int:
        """The app whose burst makes the most of the need: `tail` less `mean`; -1 without apps."""
        return int(np.argmax(self.tail - self.mean)) if len(self.tail) else -1


def shares(demand: Demand, need: Need, window: slice, share: float) -> Shares:
    """Whose need the pool's is; apps that are not carried have 0 of everything.

    Args:
        demand: as given to `joint_need`.
        need: what it gave.
        window: likewise.
        share: likewise.
    """
    apps, governed = len(demand.replicas), need.unit > 0
    if not governed.any():
        nothing = np.zeros(apps)
        return Shares(0.0, nothing, nothing, nothing, nothing, 0, 0)
    inside = Demand(np.ascontiguousarray(demand.replicas[:, :, window]), demand.order, demand.size)
    inverse = np.divide(1.0, need.unit, out=np.zeros(len(need.unit)), where=governed)
    per_replica = np.where(need.carried[:, None], demand.size * inverse * np.nanmin(need.factor), 0.0)
    quanta = np.ascontiguousarray(need.totals[:, window] * inverse.astype(np.float32))
    load = quanta.max(axis=(1, 2))
    joint, around = _at(load, share), _around(load, share)
    largest, without = np.empty((2, apps, len(load)), np.float32)
    _leave_out(inside.replicas, inside.order, per_replica.astype(np.float32), quanta, largest, without)
    usable = need.usable[need.carries][:, governed]
    of_type = (demand.size[:, None, governed] * np.nanmin(need.factor) / usable).max(axis=2)
    alone = (of_type * (usable / need.unit[governed]).min(axis=1)).min(axis=1) * need.carried
    steps, resources = np.divmod(quanta[around].reshape(len(around), -1).argmax(axis=1), len(inverse))
    step, resource = divmod(int(np.bincount(steps * len(inverse) + resources).argmax()), len(inverse))
    return Shares(
        joint=joint,
        own=np.array([_at(row, share) for row in largest]) * alone,
        adds=joint - np.array([_at(row, share) for row in without]),
        tail=(inside.counts(around, steps) * per_replica[:, resources].T).mean(axis=0),
        mean=inside.replicas[:, :, step].mean(axis=1) * per_replica[:, resource],
        resource=resource,
        step=step,
    )


def _at(load: NDArray[np.floating[Any]], share: float) -> float:
    """The load that suffices in the asked share of the scenarios."""
    last = max(0, min(len(load) - 1, int(np.ceil(share * len(load) - 1e-9)) - 1))
    return float(np.partition(load, last)[last]) if len(load) else 0.0


def _around(load: NDArray[np.floating[Any]], share: float) -> NDArray[np.intp]:
    """Scenarios around the one whose load suffices in the asked share."""
    scenarios = len(load)
    last, half = int(np.ceil(share * scenarios - 1e-9)) - 1, max(1, round(NEAR * scenarios / 2))
    low, high = max(0, last - half), min(scenarios, last + half + 1)
    return np.argsort(load, kind="stable")[low:high]


def _loss(
    demand: Demand,
    totals: Array,
    allocatable: Amounts,
    window: slice,
    share: float,
    key: tuple[str | int | bytes, ...],
) -> float:
    """`fragmentation.factor` of one node type, from the scenarios of a pool, each at the step of its largest need."""
    inside = totals[:, window]
    fluid = _largest(inside, allocatable)
    chosen = fragmentation.near(fluid, share, key)
    nodes = np.divide(inside[chosen], allocatable, where=allocatable > 0, out=np.zeros(inside[chosen].shape))
    steps = nodes.max(axis=2).argmax(axis=1) + range(totals.shape[1])[window].start
    needed = nodes_needed(demand.counts(chosen, steps), demand.size, allocatable)
    return fragmentation.lost(fluid[chosen], needed, share, len(fluid))


def _quantum(totals: Array, usable: Amounts, share: float) -> Amounts:
    """A quantum (resource): at least in the proportions of what is needed at this share, QUANTA to the smallest node.

    totals: (scenario, step, resource); usable: (type, resource).
    """
    peak = totals.max(axis=1) if totals.shape[1] else np.zeros((len(totals), totals.shape[2]))
    needed = np.array([_at(peak[:, r], share) for r in range(peak.shape[1])])
    # of what is not needed at this share, what is needed at most, if anything
    needed = np.where(needed > 0, needed, peak.max(axis=0, initial=0.0))
    return quantum(needed, usable, QUANTA)


def quantum(needed: Amounts, usable: Amounts, quanta: int) -> Amounts:
    """A quantum (resource): at least in the proportions of what is needed; 0 of what is not.

    needed: (resource); usable: (type, resource) of a node; quanta: that the smallest node carries.
    """
    if not needed.any() or not len(usable):
        return np.zeros(len(needed))
    governed = needed > 0
    carried = (usable[:, governed] / needed[governed]).min(axis=1)
    of_type = np.floor(quanta * carried / carried.min() + ROUNDING)
    # of what a type has more than its quanta take, these may take more: nobody pays for it
    unit = (usable / of_type[:, None]).min(axis=0)
    return np.where(governed & np.isfinite(unit), unit, 0.0)


def _largest(totals: Array, unit: Amounts) -> NDArray[np.float64]:
    """Largest total over steps and resources, in units, (scenario); a unit of 0 is left out.

    totals: (scenario, step, resource); unit: (resource).
    """
    largest = np.zeros(len(totals))
    inverse = np.divide(1.0, unit, out=np.zeros(len(unit)), where=unit > 0)
    _take_largest(np.ascontiguousarray(totals), inverse, largest)
    return largest


@compiled
def _add_up(replicas: Replicas, order: NDArray[np.int64], size: Array, total: Array) -> None:
    """Add what each app's replicas ask for to total (scenario, step, resource)."""
    apps, scenarios, steps = replicas.shape
    for app in range(apps):
        for s in range(scenarios):
            own = order[app, s]
            for step in range(steps):
                count = np.float32(replicas[app, own, step])
                for r in range(size.shape[1]):
                    total[s, step, r] += count * size[app, r]


@compiled
def _take_largest(totals: Array, inverse: Amounts, largest: Amounts) -> None:
    """Largest total times the inverse (resource) of its unit, over steps and resources, into largest (scenario)."""
    for s in range(totals.shape[0]):
        most = 0.0
        for step in range(totals.shape[1]):
            for r in range(totals.shape[2]):
                most = max(most, totals[s, step, r] * inverse[r])
        largest[s] = most


@compiled
def _leave_out(
    replicas: Replicas,
    order: NDArray[np.int64],
    per_replica: Array,
    quanta: Array,
    largest: Array,
    without: Array,
) -> None:
    """Most replicas of each app over steps, and largest quanta of all others over steps and resources.

    Both are (app, scenario), filled.

    per_replica: (app, resource) quanta; quanta: (scenario, step, resource) of all apps.
    """
    apps, scenarios, steps = replicas.shape
    for app in range(apps):
        for s in range(scenarios):
            own, most, rest = order[app, s], np.float32(0), np.float32(0)
            for step in range(steps):
                count = np.float32(replicas[app, own, step])
                most = max(most, count)
                for r in range(per_replica.shape[1]):
                    rest = max(rest, quanta[s, step, r] - count * per_replica[app, r])
            largest[app, s] = most
            without[app, s] = rest
