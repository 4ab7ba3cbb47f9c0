"""Plans of the apps of one allocation group, which share reserved instances, quotas and a budget.

Each app is planned by its own `Member.decide`, with offers and a policy that hold its share instead of the whole.

1. Every app is planned as if it were alone: what it would take of each shared thing.
2. Reserved instances go to the apps for which one saves most: its replicas, at the least price at which the app would
   buy them otherwise.
3. Where they were too few, every app is planned again with its reserved instances: what it now wants of quotas and
   budget. A quota or budget that is too small is divided in proportion to what is wanted; of a quota each app first
   gets what carries its minimum, at least one replica.
4. The apps are decided one after another, each with its share and with no more than the others leave: first those whose
   commands stand, then those that release, last those for which a reserved instance is worth most. What no app needs
   is offered to the last, for its guard rails.

Where the running instances are within what is owned and the quota, so is the sum of the counts, also while instances
move from one app to another. The budget bounds purchases alike; guard rails that need more name it. The order of names
decides ties only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from models.capacity import Offer, Policy, committed, quotas, replicas_per_instance, why_unusable
from models.planning.allocate import Plan

STANDING: Final = {
    "paused",
    "missing_telemetry",
}  # guard rails that leave what is commanded, whatever the share

Numbers = dict[str, float]
Memory = dict[str, Any]  # of an app, plain JSON


@dataclass(frozen=True)
class Member:
    """An app of a group.

    Attributes:
        offers: of the app.
        policy: of the app.
        running: instances by offer.
        decide: gives a plan and the app's memory after it, from offers, a policy and whether a draft suffices, of
            which only the counts are used. It is called more than once and must give the same for the same arguments.
    """

    offers: Sequence[Offer]
    policy: Policy
    running: Mapping[str, int]
    decide: Callable[[Sequence[Offer], Policy, bool], tuple[Plan, Memory]]


@dataclass(frozen=True)
class Decision:
    """An app's plan, its memory for the next tick, and its shares: by offer id, `quota <group>` and `budget`."""

    plan: Plan
    memory: Memory
    shares: Numbers


@dataclass(frozen=True)
class _Shared:
    """A thing that apps share.

    offers: whose instances count; total: most instances of them together; reserved: owned instances, else a quota.
    """

    offers: tuple[str, ...]
    total: int
    reserved: bool

    def of(self, counts: Mapping[str, int]) -> int:
        return sum(counts.get(o, 0) for o in self.offers)


@dataclass(frozen=True)
class _Group:
    """The apps of a group, what they share, and what each would do alone.

    members: by app; shared: by name; alone: plan of each app with nothing shared; worth: by reserved offer and app,
    what one instance saves per hour.
    """

    members: Mapping[str, Member]
    shared: Mapping[str, _Shared]
    alone: Mapping[str, Plan]
    worth: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, members: Mapping[str, Member]) -> _Group:
        """The group with every app planned as if it were alone; apps in the order of their names."""
        names = sorted(members)
        shared = _shared(o for name in names for o in members[name].offers)
        alone = {
            name: members[name].decide(members[name].offers, members[name].policy, True)[0] for name in names
        }
        worth = {
            thing: {name: _worth(members[name], thing) for name in names}
            for thing, amount in shared.items()
            if amount.reserved
        }
        return cls({name: members[name] for name in names}, shared, alone, worth)

    def wanted(self) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
        """Targets in instances by shared thing and app; and the counts that each app wants with them."""
        names, shared = list(self.members), self.shared
        wanted = {name: _first(self.alone[name]) for name in names}
        amounts = {thing: {name: shared[thing].of(wanted[name]) for name in names} for thing in self.worth}
        targets = {
            thing: _by_worth(
                self.worth[thing],
                amounts[thing],
                shared[thing].total,
                {name: self._least(name, thing, amounts[thing][name]) for name in names},
            )
            for thing in self.worth
        }
        if any(sum(amounts[thing].values()) > shared[thing].total for thing in self.worth):
            for name, member in self.members.items():
                caps = {thing: targets[thing][name] for thing in self.worth}
                offers = _capped(member.offers, shared, caps)
                wanted[name] = _first(member.decide(offers, member.policy, True)[0])
        for thing, amount in shared.items():
            if not amount.reserved:
                asked_of = {name: amount.of(wanted[name]) for name in names}
                least = {name: self._least(name, thing, asked_of[name]) for name in names}
                targets[thing] = _in_proportion(asked_of, amount.total, least)
        return targets, wanted

    def _least(self, name: str, thing: str, wanted: int) -> int:
        """Instances of a shared thing, at most those wanted, that carry the app's minimum, at least one replica.

        0 for a reserved offer where the app may buy others.
        """
        member, amount = self.members[name], self.shared[thing]
        usable = [o for o in member.offers if why_unusable(o, member.policy) is None]
        if amount.reserved and any(o.tier != "RESERVED" for o in usable):
            return 0
        size = max(
            (replicas_per_instance(o, member.policy) for o in usable if o.offer_id in amount.offers),
            default=0,
        )
        least = max(1, member.policy.min) if member.policy.max > 0 else 0
        return min(wanted, -(-least // size)) if size else 0

    def order(self, targets: Mapping[str, Mapping[str, int]]) -> list[str]:
        """Names in the order in which apps are decided: apps whose commands stand, apps that release, then by worth."""

        def turn(name: str) -> tuple[bool, bool, float, str]:
            stands = bool(STANDING & set(self.alone[name].guardrails))
            running = self.members[name].running
            releases = any(amount.of(running) > targets[thing][name] for thing, amount in self.shared.items())
            worth = max((by[name] for by in self.worth.values()), default=0.0)
            return not stands, not releases, worth, name

        return sorted(self.members, key=turn)


def together(members: Mapping[str, Member], budget: float | None = None) -> dict[str, Decision]:
    """Plan all apps of a group; one decision for each, by the apps' names.

    budget: of all apps together per hour, reserved commitments included; None = no limit.
    """
    if len(members) == 1 and budget is None:
        ((name, member),) = members.items()
        return {name: Decision(*member.decide(member.offers, member.policy, False), {})}
    group = _Group.of(members)
    targets, wanted = group.wanted()
    spent = {name: _spent(member, wanted[name]) for name, member in group.members.items()}
    everyone = {o.offer_id: o for member in group.members.values() for o in member.offers}.values()
    money = math.inf if budget is None else max(0.0, budget - committed(everyone))
    part = {
        name: min(spent[name], money * spent[name] / max(sum(spent.values()), 1e-12))
        for name in group.members
    }
    order = group.order(targets)
    left = {thing: amount.total for thing, amount in group.shared.items()}
    decided: dict[str, Decision] = {}
    for i, name in enumerate(order):
        member, others = members[name], order[i + 1 :]
        caps = _caps(group, left, targets, name, others)
        share: Numbers = {thing: float(cap) for thing, cap in caps.items()}
        policy, offers = member.policy, _capped(member.offers, group.shared, caps)
        if budget is not None:
            paid = committed(offers)
            free = max(0.0, money - sum(part[other] for other in others))
            share["budget"] = paid + free
            own = math.inf if policy.budget is None else policy.budget
            policy = replace(policy, budget=min(own, paid + free))
        plan, memory = member.decide(offers, policy, False)
        counts = _first(plan)
        money -= _spent(member, counts)
        for thing, amount in group.shared.items():
            left[thing] -= max(amount.of(counts), caps[thing] if amount.reserved else 0)
        decided[name] = Decision(plan, memory, share)
    return {name: decided[name] for name in group.members}


def _caps(
    group: _Group,
    left: Mapping[str, int],
    targets: Mapping[str, Mapping[str, int]],
    name: str,
    others: Sequence[str],
) -> dict[str, int]:
    """Most instances of each shared thing that an app may have: its target, and no more than `others` leave.

    left: instances of each thing that no earlier app has taken; others: apps decided later, which keep what they run.
    """
    caps: dict[str, int] = {}
    for thing, amount in group.shared.items():
        room = left[thing] - sum(amount.of(group.members[other].running) for other in others)
        caps[thing] = max(0, min(room, targets[thing][name]) if others else room)
    return caps


def _first(plan: Plan) -> dict[str, int]:
    return {o: n[0] for o, n in plan.counts.items()}


def _shared(offers: Iterable[Offer]) -> dict[str, _Shared]:
    """What the apps share, by name: reserved offers by id, and quota groups that have a limit as `quota <group>`."""
    by_id = {o.offer_id: o for o in offers}
    shared: dict[str, _Shared] = {}
    for name, offer in sorted(by_id.items()):
        if offer.tier == "RESERVED":
            shared[name] = _Shared((name,), offer.owned_count, reserved=True)
    for group, (ids, limit) in quotas([o for _, o in sorted(by_id.items())]).items():
        shared[f"quota {group}"] = _Shared(ids, limit, reserved=False)
    return shared


def _capped(offers: Sequence[Offer], shared: Mapping[str, _Shared], caps: Mapping[str, int]) -> list[Offer]:
    """The offers with `owned_count` and `quota_limit` set to an app's share, `caps` by shared thing."""
    result: list[Offer] = []
    for offer in offers:
        for thing, cap in caps.items():
            if offer.offer_id in shared[thing].offers:
                offer = replace(offer, **{"owned_count" if shared[thing].reserved else "quota_limit": cap})
        result.append(offer)
    return result


def _worth(member: Member, offer_id: str) -> float:
    """What a reserved instance saves an app per hour: its replicas' least price elsewhere, else infinite."""
    policy = member.policy
    offers = [o for o in member.offers if why_unusable(o, policy) is None]
    size = {o.offer_id: replicas_per_instance(o, policy) for o in offers}
    otherwise = [o.price_h / size[o.offer_id] for o in offers if o.tier != "RESERVED"]
    return size.get(offer_id, 0) * min(otherwise, default=math.inf) if size.get(offer_id) else 0.0


def _spent(member: Member, counts: Mapping[str, int]) -> float:
    """Cost of these counts per hour, reserved commitments left out."""
    return sum(
        o.price_h * counts.get(o.offer_id, 0)
        for o in member.offers
        if o.tier != "RESERVED" and math.isfinite(o.price_h)
    )


def _by_worth(
    worth: Mapping[str, float], wanted: Mapping[str, int], total: int, least: Mapping[str, int]
) -> dict[str, int]:
    """Divide `total` instances: what it wants to the app for which one is worth most, then to the next.

    Each leaves the others their `least`, where the total suffices for all of these.
    """
    given: dict[str, int] = {}
    reserve = sum(least.values())
    for name in sorted(wanted, key=lambda name: (-worth[name], name)):
        reserve -= least[name]
        given[name] = min(wanted[name], max(total - reserve, min(least[name], total)))
        total -= given[name]
    return given


def _in_proportion(wanted: Mapping[str, int], total: int, least: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` instances: what each app wants, else parts in proportion to it, but each app's `least` first.

    Where the total does not suffice for these, parts in proportion to them.
    """
    given = _parts(wanted, total)
    short = {name: least[name] for name in wanted if given[name] < least[name]}
    if not short:
        return given
    if sum(least[name] for name in wanted) >= total:
        return _parts({name: least[name] for name in wanted}, total)
    others = {name: n for name, n in wanted.items() if name not in short}
    return short | _in_proportion(others, total - sum(short.values()), least)


def _parts(wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """What is wanted where `total` suffices, else whole parts in proportion to it, by the largest remainder method."""
    whole = sum(wanted.values())
    if whole <= total:
        return dict(wanted)
    given = {name: total * n // whole for name, n in wanted.items()}
    rest = sorted(wanted, key=lambda name: (-(total * wanted[name] % whole), name))
    for name in rest[: total - sum(given.values())]:
        given[name] += 1
    return given
