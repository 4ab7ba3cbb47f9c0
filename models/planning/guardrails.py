"""Guard rails: bounds on the counts that a purchase wants, whatever the forecast says; a pure function.

They are applied in this order, and a plan names each that changed the counts:

1. `paused`, `missing_telemetry`: the counts last commanded stay. Telemetry is missing where no user reported, or nobody
   reported any governed metric.
2. `idle`: after `idle_after_s` of reported zeros, and only where the minimum is 0, the need is zero.
3. `missing_telemetry`, `incomplete_telemetry`, `producer_stopped`, `doubtful_telemetry`, `scale_down_never`: nothing is
   released. Telemetry is missing in part where nobody reported one of the governed metrics, incomplete where records of
   the app were refused or series of users who report stopped, doubtful where too few of its users reported.
4. `hold_time`: replicas are not released below the largest number desired within the last `hold_s`.
5. `churn`: instances are not exchanged for a saving below the threshold while what runs keeps the promise, but for
   those of an offer that may not be bought any more. Nodes that apps share are not either while it is not kept: of
   alike offers (one tier and zone) those that run stay, up to the capacity that is wanted. So do on-demand instances of
   one size, of any zone unless the policy has a zone share, for those that cost about as much.
6. `max_up`, `max_down`, `canary`: the change per tick is bounded.
7. `grow_before_shrink`: an offer shrinks only as far as the ready capacity that stays carries what is wanted, or as
   much as is ready: replicas find no room on nodes that are still starting, and spot that stays may be lost.
8. `unproven_pool`: launches in spot pools that may refuse them (`models.supply.offers.unproven`) carry nothing of
   what is needed now until they are ready; others are kept or bought beside them.
9. `reactive_floor`, `minimum`: at least the capacity for the present usage and the policy's minimum, despite the rails
   above.
10. `maximum`: never above it, despite the rails above; room below it that a whole instance leaves is filled with
    smaller ones.
11. `quota`: growth of the offers that share a quota stays within it; other offers are bought instead.
12. `minimum_beyond_maximum`: where no number of instances lies between the minimum and the maximum, the fewest replicas
    that reach the minimum, though they exceed the maximum by a part of an instance.
13. `offers_exhausted`, `quota`: offers or quotas do not suffice for what the rails ask for; only named.
14. `over_budget`: what the rails ask for costs more than the policy's budget; only named.

So an app that needs a replica has one where an offer can carry it, and capacity is below what the present usage needs
only under a bound that the plan names.

Before them, no more is bought of offers that fail (`models.planning.failing_offers`: `spot_return_wait`,
`pool_failing`, `provider_failing`, `stale_price`); and instances that were not delivered, or were changed by somebody
else, are named (`models.planning.delivery`: `undelivered`, `conflict`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from models.capacity import Policy

# Of an app's known users, the share that must have reported for a release: with fewer, quiet cannot be told from
# loss. A lost partition of 8 takes 12 %, which must be noticed; single missing samples take less.
REPORTING_SHARE: Final = 0.9
# Of an app's records, the share that must have been used for a release: a lost user of a thousand must be noticed; a
# straggler in ten thousand, which large installations always have, must not keep capacity for ever.
COMPLETE_SHARE: Final = 0.999
CANARY_SHARE: Final = 0.1  # of the instances may change in a tick, and at least one: a mistake costs a tenth
CENT: Final = 1e-6  # money's least digit in records: less than that is a rounding

Counts = dict[str, int]
Rail = tuple[str, Callable[[Counts], Counts]]  # its name, and the counts that it leaves of those given


@dataclass(frozen=True)
class Telemetry:
    """Reports of an app in the tick.

    reporting, known: users that reported, and users known; idle: whether all reported zero; used: share of the app's
    records that was not refused, 0 to 1; stopped: share of its usage that is what series last used which stopped while
    others of their user report, carried: the same with series that may only slip over a tick's edge; seen: share of
    the demand for a governed metric that is not of silent users, the least; unreported: governed metrics that nobody
    reported; usual: whether one reported governed metric suffices, as under the default policy, which nobody wrote for
    the app.
    """

    reporting: int
    known: int
    idle: bool = False
    used: float = 1.0
    stopped: float = 0.0
    carried: float = 0.0
    seen: float = 1.0
    unreported: tuple[str, ...] = ()
    usual: bool = False

    def missing(self, policy: Policy) -> bool:
        """Whether nothing is known of demand: no user reported, or none of the governed metrics is reported."""
        return self.reporting == 0 or set(self.unreported) >= set(policy.governed)

    @property
    def completeness(self) -> float:
        """The least of four shares, 0 to 1: of records used, of known users that reported, of demand that is not of
        silent ones, of usage not stopped."""
        return min(self.used, self.reporting / self.known if self.known else 1.0, self.seen, 1 - self.stopped)

    @property
    def representative(self) -> bool:
        """Whether usage is the app's demand, so that plans may be judged by it; else it is what was heard of that."""
        return min(self.completeness, 1 - self.carried) >= REPORTING_SHARE

    def withheld(self) -> Iterator[str]:
        """Names of the guard rails by which nothing is released: too little was heard of the app."""
        if self.unreported and not self.usual:
            yield "missing_telemetry"
        if self.used < COMPLETE_SHARE:
            yield "incomplete_telemetry"
        if 1 - self.stopped < COMPLETE_SHARE or 1 - self.carried < REPORTING_SHARE:
            yield "producer_stopped"
        if self.reporting < REPORTING_SHARE * self.known or self.seen < REPORTING_SHARE:
            yield "doubtful_telemetry"


@dataclass(frozen=True)
class Fleet:
    """Offers and instances of an app, as the guard rails need them.

    offers: ids, those to keep or to buy first in front; size: replicas per instance; price: per instance and hour;
    most: instances up to which a guard rail may buy, 0 = none; ready, pending: instances; quotas: most instances of
    some offers together; committed: price per hour of reserved instances, used or not; unusable: offers of which what
    runs is to be replaced, whatever that costs or saves; alike: of offers of which any instance stands for any other;
    unproven: offers whose launches may be refused.
    """

    offers: tuple[str, ...]
    size: Mapping[str, int]
    price: Mapping[str, float]
    most: Mapping[str, int]
    ready: Mapping[str, int]
    pending: Mapping[str, int]
    quotas: Mapping[tuple[str, ...], int] = field(default_factory=dict[tuple[str, ...], int])
    committed: float = 0.0
    unusable: frozenset[str] = frozenset()
    alike: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    unproven: frozenset[str] = frozenset()

    @property
    def running(self) -> Counts:
        """Instances by offer that serve or are starting."""
        return {o: self.ready[o] + self.pending[o] for o in self.offers}

    def replicas(self, counts: Mapping[str, int]) -> int:
        """Replicas that these instances carry."""
        return sum(self.size[o] * counts[o] for o in self.offers)

    def ready_replicas(self, counts: Mapping[str, int]) -> int:
        """Replicas ready now that stay with these counts: pending instances are released before ready ones."""
        return sum(self.size[o] * min(self.ready[o], counts[o]) for o in self.offers)

    def cost(self, counts: Mapping[str, int]) -> float:
        """Price per hour of these instances."""
        return sum(self.price[o] * counts[o] for o in self.offers)


@dataclass(frozen=True)
class Guarded:
    """Counts that may be commanded, names of the guard rails that acted, the app's memory for the next tick (JSON)."""

    counts: Counts
    guardrails: tuple[str, ...]
    memory: dict[str, Any]


@dataclass(frozen=True)
class PresentNeed:
    """Replicas that are needed before anything bought now can serve.

    floor: replicas for the present usage; needed_now: replicas that ready instances must carry until new ones can
    serve; running_holds: whether what runs would keep the promise.
    """

    floor: int
    needed_now: int
    running_holds: bool


def guard(
    desired: Mapping[str, int],
    fleet: Fleet,
    policy: Policy,
    need: PresentNeed,
    *,
    telemetry: Telemetry,
    memory: Mapping[str, Any],
    now_s: float,
) -> Guarded:
    """Bound the desired counts by all guard rails, in the module's order.

    Args:
        desired: instances by offer; absent = 0.
        fleet: offers, prices, and what runs.
        policy: of the app.
        need: of the present.
        telemetry: how much of the app was reported.
        memory: as returned the tick before, {} at first.
        now_s: the tick's end in seconds since 1970.
    """
    running = fleet.running
    commanded = {o: int(memory.get("counts", {}).get(o, running[o])) for o in fleet.offers}
    if policy.mode == "paused":
        return Guarded(commanded, ("paused",), dict(memory))
    if telemetry.missing(policy):
        return _silent(commanded, fleet, policy, memory)

    acted: list[str] = []
    zero_since_s = memory.get("zero_since_s")
    zero_since_s = (now_s if zero_since_s is None else zero_since_s) if telemetry.idle else None
    counts = {o: desired.get(o, 0) for o in fleet.offers}
    least = min(max(policy.min, 1), policy.limit)
    if policy.min == 0 and zero_since_s is not None and now_s - zero_since_s >= policy.idle_after_s:
        counts, least = dict.fromkeys(fleet.offers, 0), 0
        need = replace(need, floor=0, needed_now=0)
        acted.append("idle")
    history = _remember(memory.get("desired", []), now_s, fleet.replicas(counts), policy.hold_s)
    rails = (
        *_release_rails(fleet, policy, need, telemetry, held=int(history[0][1])),
        *_change_rails(fleet, policy),
        ("grow_before_shrink", lambda c: _grown_before_shrunk(c, fleet, _carried_now(c, fleet, need))),
        ("unproven_pool", lambda c: _covered(c, fleet, need.needed_now)),
        ("reactive_floor", lambda c: _raised(c, fleet, need.floor)),
        ("minimum", lambda c: _raised(c, fleet, least)),
        *_bound_rails(fleet, policy.limit, wanted=max(need.floor, least), least=least),
    )
    for name, bound in rails:
        bounded = bound(counts)
        if bounded != counts:
            counts = bounded
            acted.append(name)
    acted += [name for name in _exhausted(counts, fleet, max(need.floor, least)) if name not in acted]
    if policy.budget is not None and fleet.committed + fleet.cost(counts) > policy.budget + CENT:
        acted.append("over_budget")

    after: dict[str, Any] = {"desired": history, "zero_since_s": zero_since_s}
    if policy.mode != "shadow":  # a shadow plan commands nothing
        after["counts"] = dict(counts)
    return Guarded(counts, tuple(acted), after)


def _silent(commanded: Counts, fleet: Fleet, policy: Policy, memory: Mapping[str, Any]) -> Guarded:
    """Where telemetry is missing: the commanded counts, raised to the policy's minimum where they are below."""
    after = {**memory, "zero_since_s": None}
    if fleet.replicas(commanded) >= policy.min:
        return Guarded(commanded, ("missing_telemetry",), after)
    counts = _raised(commanded, fleet, policy.min)
    if policy.mode != "shadow":
        after["counts"] = dict(counts)
    return Guarded(counts, ("missing_telemetry", "minimum"), after)


def _release_rails(
    fleet: Fleet, policy: Policy, need: PresentNeed, telemetry: Telemetry, *, held: int
) -> Iterator[Rail]:
    """Rails that bound releases; held: most replicas desired within the hold time."""
    for name in telemetry.withheld():
        yield name, lambda c: _only_grown(c, fleet)
    if policy.scale_down == "never":
        yield "scale_down_never", lambda c: _only_grown(c, fleet)
    least = min(held, fleet.replicas(fleet.running))
    yield "hold_time", lambda c: _kept(c, fleet, least)
    yield "churn", lambda c: _without_churn(c, fleet, policy, need.running_holds)


def _change_rails(fleet: Fleet, policy: Policy) -> Iterator[Rail]:
    """Rails that bound the change in a tick."""
    up, down = policy.max_up, policy.max_down
    if up is not None:
        yield "max_up", lambda c: _bounded(c, fleet, fleet.size, up=up)
    if down is not None:
        yield "max_down", lambda c: _bounded(c, fleet, fleet.size, down=down)
    if policy.mode == "canary":
        change = max(1, int(CANARY_SHARE * sum(fleet.running.values())))
        unit = dict.fromkeys(fleet.offers, 1)
        yield "canary", lambda c: _bounded(c, fleet, unit, up=change, down=change)


def _bound_rails(fleet: Fleet, limit: int, *, wanted: int, least: int) -> Iterator[Rail]:
    """Rails of the maximum and the quotas, and of the minimum where it and the maximum exclude each other.

    limit: most replicas; wanted: replicas that the floor and the minimum ask for, least: the minimum alone.
    """
    yield "maximum", lambda c: _lowered(c, fleet, limit, wanted, least)
    yield "quota", lambda c: _filled(_within_quotas(c, fleet), c, fleet, limit, wanted)
    yield "minimum_beyond_maximum", lambda c: c if fleet.replicas(c) >= least else _fewest(c, fleet, least)


def _exhausted(counts: Counts, fleet: Fleet, wanted: int) -> Iterator[str]:
    """Names of the bounds that keep offers from carrying the wanted replicas; none where they are carried."""
    if fleet.replicas(counts) >= wanted or not fleet.most:
        return
    more = _added(counts, fleet, wanted, fleet.most)
    lacking = fleet.replicas(more) < wanted
    if lacking:
        yield "offers_exhausted"
    if _within_quotas(more, fleet) != more or (lacking and 0 in fleet.quotas.values()):
        yield "quota"


def _remember(
    history: Sequence[Sequence[float]], now_s: float, replicas: int, hold_s: float
) -> list[list[float]]:
    """[time, replicas] of the last `hold_s` seconds, without entries that a later one reaches: replicas fall."""
    kept = [[t, r] for t, r in history if now_s - t < hold_s and r > replicas]
    return [*kept, [now_s, replicas]]


def _kept(counts: Counts, fleet: Fleet, replicas: int) -> Counts:
    """Counts with running instances kept, by preference, until they carry `replicas`."""
    return _added(counts, fleet, replicas, fleet.running)


def _added(counts: Mapping[str, int], fleet: Fleet, replicas: int, most: Mapping[str, int]) -> Counts:
    """Counts raised by preference, each offer's up to its `most`, until they carry `replicas`."""
    result, missing = dict(counts), replicas - fleet.replicas(counts)
    for o in fleet.offers:
        more = min(most[o] - result[o], -(-missing // fleet.size[o]))
        if missing > 0 and more > 0:
            result[o] += more
            missing -= more * fleet.size[o]
    return result


def _only_grown(counts: Counts, fleet: Fleet) -> Counts:
    """What runs, plus as much of the wanted growth as reaches the replicas of `counts`: nothing is released."""
    return _added(fleet.running, fleet, fleet.replicas(counts), counts)


def _without_churn(counts: Counts, fleet: Fleet, policy: Policy, running_holds: bool) -> Counts:
    """What runs, where it keeps the promise and a change would release something but save too little; else `counts`.

    Where others replace what may not be bought any more, that is no exchange for a saving.
    """
    running = fleet.running
    if any(counts[o] < running[o] for o in fleet.unusable):
        return counts
    shrinks = any(counts[o] < running[o] for o in fleet.offers)
    saving = fleet.cost(running) - fleet.cost(counts)
    if running_holds and shrinks and saving < policy.churn_threshold * fleet.cost(running):
        return running
    kept = _least_exchanged(counts, fleet)
    return (
        kept
        if fleet.cost(kept) - fleet.cost(counts) < policy.churn_threshold * fleet.cost(running)
        else counts
    )


def _least_exchanged(counts: Counts, fleet: Fleet) -> Counts:
    """Counts with running nodes kept instead of alike ones bought, so far that as many replicas are carried."""
    result, running = dict(counts), fleet.running
    for kind in sorted(set(fleet.alike.values())):
        alike = [o for o in fleet.offers if fleet.alike.get(o) == kind]
        surplus = sum(fleet.size[o] * max(0, running[o] - counts[o]) for o in alike)
        for o in alike:
            result[o] = max(counts[o], running[o])
        # dearest first: what is bought is given up before what runs is released
        for o, least in [*((o, running) for o in alike[::-1]), *((o, counts) for o in alike[::-1])]:
            fewer = min(max(0, result[o] - least[o]), surplus // fleet.size[o])
            result[o] -= fewer
            surplus -= fewer * fleet.size[o]
    return result


def _carried_now(counts: Counts, fleet: Fleet, need: PresentNeed) -> int:
    """Replicas that ready instances must carry until what is bought now serves."""
    return max(need.needed_now, min(fleet.replicas(counts), fleet.ready_replicas(fleet.ready)))


def _bounded(
    counts: Counts,
    fleet: Fleet,
    weight: Mapping[str, int],
    *,
    up: float = float("inf"),
    down: float = float("inf"),
) -> Counts:
    """Counts whose growth and release weigh at most `up` and `down`; one instance of each is always allowed.

    weight: of an instance, by offer. Growth is granted in order of preference, release in the opposite order.
    """
    result = fleet.running
    for offers, sign, budget in ((fleet.offers, 1, up), (fleet.offers[::-1], -1, down)):
        granted = False
        for o in offers:
            wanted = sign * (counts[o] - fleet.running[o])
            if wanted <= 0:
                continue
            allowed = wanted if budget == float("inf") else min(wanted, int(budget // weight[o]))
            if allowed == 0 and not granted:
                allowed = 1
            granted = granted or allowed > 0
            budget = max(0, budget - allowed * weight[o])
            result[o] += sign * allowed
    return result


def _grown_before_shrunk(counts: Counts, fleet: Fleet, needed: int) -> Counts:
    """Counts in which ready instances stay until the other ready ones carry the needed replicas."""
    result = dict(counts)
    spare = fleet.ready_replicas(fleet.ready) - needed
    for o in fleet.offers[::-1]:
        release = min(max(0, fleet.ready[o] - counts[o]), max(0, spare // fleet.size[o]))
        if counts[o] < fleet.ready[o]:
            result[o] = fleet.ready[o] - release
            spare -= release * fleet.size[o]
    return result


def _raised(counts: Counts, fleet: Fleet, replicas: int) -> Counts:
    """Counts raised to carry at least `replicas`: running instances are kept first, then more bought, by preference."""
    result = _kept(counts, fleet, replicas)
    for o in fleet.offers:  # one by one: what a quota keeps from one offer, the next may bring
        result = _added(result, fleet, replicas, {**result, o: _most(result, fleet, o)})
    return result


def _covered(counts: Counts, fleet: Fleet, replicas: int) -> Counts:
    """Counts raised so that `replicas` are carried without launches of unproven offers."""
    certain = {o: min(n, fleet.ready[o]) if o in fleet.unproven else n for o, n in counts.items()}
    if certain == counts:
        return counts
    raised = _raised(certain, fleet, replicas)
    return {o: max(n, raised[o]) for o, n in counts.items()}


def _most(counts: Counts, fleet: Fleet, offer: str) -> int:
    """Most instances of an offer that may be bought beside `counts`: its own limit, and what its quotas leave."""
    rooms = [most - sum(counts[o] for o in of) for of, most in fleet.quotas.items() if offer in of]
    return min([fleet.most[offer], *(counts[offer] + max(0, room) for room in rooms)])


def _within_quotas(counts: Counts, fleet: Fleet) -> Counts:
    """Counts whose growth is within the quotas; growth is cut in reverse order of preference, what runs stays."""
    result = dict(counts)
    for of, most in fleet.quotas.items():
        for o in [o for o in fleet.offers[::-1] if o in of]:
            excess = sum(result[x] for x in of) - most
            result[o] -= max(0, min(excess, result[o] - fleet.running[o]))
    return result


def _lowered(counts: Counts, fleet: Fleet, limit: int, wanted: int, least: int) -> Counts:
    """Counts cut to carry at most `limit` replicas: growth first, then what runs, in reverse order of preference.

    Room that a whole instance leaves below the limit is filled with others, up to the wanted replicas. Where that does
    not reach `least`, the fewest replicas that do, if they are within the limit.
    """
    result = dict(counts)
    for keep in (fleet.running, dict.fromkeys(fleet.offers, 0)):
        for o in fleet.offers[::-1]:
            excess = fleet.replicas(result) - limit
            surplus = max(0, result[o] - keep[o])
            if excess > 0 and surplus > 0:
                result[o] -= min(surplus, -(-excess // fleet.size[o]))
    result = _filled(result, counts, fleet, limit, wanted)
    if result != counts and fleet.replicas(result) < least:
        fewest = _fewest(result, fleet, least)
        if least <= fleet.replicas(fewest) <= limit:
            return fewest
    return result


def _filled(counts: Counts, before: Counts, fleet: Fleet, limit: int, wanted: int) -> Counts:
    """Counts that a bound has lowered, raised towards the wanted replicas by what fits below `limit`, by preference.

    before: counts before the bound was applied; where nothing was lowered, nothing is raised.
    """
    result = dict(counts)
    if result == before:
        return result
    for o in fleet.offers:
        room = max(0, limit - fleet.replicas(result)) // fleet.size[o]
        most = max(min(before[o], fleet.running[o]), _most(result, fleet, o))
        result = _added(result, fleet, wanted, {**result, o: min(most, result[o] + room)})
    return result


def _fewest(counts: Counts, fleet: Fleet, least: int) -> Counts:
    """Counts that carry the fewest replicas of at least `least`, preferred offers first.

    Of each offer at most what runs or may be bought beside the others' running instances. The set of attainable totals
    is kept as the bits of an integer, to which an offer's instances are added in powers of two (bounded subset sum).
    Where no counts reach `least`, or the fewest exceed a quota that offers share: `counts` raised, or what runs raised
    by the largest instances, whichever is nearer.
    """
    running, top = fleet.running, least + max(fleet.size.values(), default=1)
    most = {o: max(running[o], _most(running, fleet, o)) for o in fleet.offers}
    totals = [1]  # attainable with none of the offers, the last, the last two, ...
    for o in fleet.offers[::-1]:
        bits, left, step = totals[-1], min(most[o], top // fleet.size[o]), 1
        while left > 0:
            step = min(step, left)
            bits |= (bits << step * fleet.size[o]) & ((1 << top + 1) - 1)
            left, step = left - step, 2 * step
        totals.append(bits)
    reached = totals.pop() >> least
    total, result = least + (reached & -reached).bit_length() - 1, dict(counts)
    for o, behind in zip(fleet.offers, totals[::-1], strict=True):
        fits = range(min(most[o], max(total, 0) // fleet.size[o]), -1, -1)
        result[o] = next((n for n in fits if behind >> (total - n * fleet.size[o]) & 1), 0) if reached else 0
        total -= result[o] * fleet.size[o]
    if reached and _within_quotas(result, fleet) == result:
        return result
    largest = replace(fleet, offers=tuple(sorted(fleet.offers, key=lambda o: -fleet.size[o])))
    raised = (_raised(counts, fleet, least), _raised(running, largest, least))
    return min(raised, key=lambda c: (max(0, least - fleet.replicas(c)), fleet.replicas(c)))
