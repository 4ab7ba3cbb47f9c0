"""Apps of one allocation group, planned together: they share reserved instances, quotas and a budget.

Each app is planned by `decide`, whatever that does, with offers and a policy in which its share stands for the whole.

1. Every app as if it were alone: what it would take of each thing that is shared.
2. Reserved instances go where one saves most: its replicas, at the price at which the app would buy them otherwise.
3. With these, again, where they were too few: what is now wanted of quotas and budget. What is too little is divided
   in proportion.
4. One after the other, each with its share, but with no more than the others leave: first those whose commands stand,
   then those that release, those to whom a reserved instance is worth most last. What nobody needs is the last one's,
   for its guard rails.

So, where what runs is within what there is, the sum of the counts never exceeds what is owned or the quota, also while
instances move from one app to another. The budget bounds purchases alike; where guard rails need more, they say so.
The order of names decides nothing but ties.
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

    running: instances, by offer; decide: its plan, and the memory after it, from offers and a policy; true: a draft
    will do, of which only the counts matter. Asked more than once, it must answer alike
    """

    offers: Sequence[Offer]
    policy: Policy
    running: Mapping[str, int]
    decide: Callable[[Sequence[Offer], Policy, bool], tuple[Plan, Memory]]


@dataclass(frozen=True)
class Decision:
    """An app's plan, its memory, and its share: by offer id, `quota <group>` and `budget`."""

    plan: Plan
    memory: Memory
    shares: Numbers


@dataclass(frozen=True)
class _Shared:
    """Something of which there is so much: offers whose instances count, their number."""

    offers: tuple[str, ...]
    total: int
    reserved: bool

    def of(self, counts: Mapping[str, int]) -> int:
        return sum(counts.get(o, 0) for o in self.offers)


def together(members: Mapping[str, Member], budget: float | None = None) -> dict[str, Decision]:
    """A plan for each app of a group.

    budget: per hour, of all apps together, reserved commitments included; None = no limit.
    """
    if len(members) == 1 and budget is None:
        ((name, one),) = members.items()
        return {name: Decision(*one.decide(one.offers, one.policy, False), {})}
    names = sorted(members)
    shared = _shared(o for name in names for o in members[name].offers)
    alone = {
        name: members[name].decide(members[name].offers, members[name].policy, True)[0] for name in names
    }
    wanted = {name: _first(alone[name]) for name in names}
    worth = {
        what: {name: _worth(members[name], what) for name in names}
        for what, one in shared.items()
        if one.reserved
    }
    targets = {
        what: _by_worth(
            worth[what], {name: shared[what].of(wanted[name]) for name in names}, shared[what].total
        )
        for what in worth
    }
    short = any(sum(shared[what].of(wanted[name]) for name in names) > shared[what].total for what in worth)
    if short:
        for name in names:
            caps = {what: targets[what][name] for what in worth}
            wanted[name] = _first(
                members[name].decide(_capped(members[name].offers, shared, caps), members[name].policy, True)[
                    0
                ]
            )
    for what, one in shared.items():
        if not one.reserved:
            targets[what] = _in_proportion({name: one.of(wanted[name]) for name in names}, one.total)

    spent = {name: _spent(members[name], wanted[name]) for name in names}
    everyone = {o.offer_id: o for name in names for o in members[name].offers}.values()
    money = math.inf if budget is None else max(0.0, budget - committed(everyone))
    part = {name: min(spent[name], money * spent[name] / max(sum(spent.values()), 1e-12)) for name in names}

    def turn(name: str) -> tuple[bool, bool, float, str]:
        stands = bool(STANDING & set(alone[name].guardrails))
        releases = any(one.of(members[name].running) > targets[what][name] for what, one in shared.items())
        return not stands, not releases, max((by[name] for by in worth.values()), default=0.0), name

    order = sorted(names, key=turn)
    left = {what: one.total for what, one in shared.items()}
    decided: dict[str, Decision] = {}
    for i, name in enumerate(order):
        member, others = members[name], order[i + 1 :]
        caps: dict[str, int] = {}
        for what, one in shared.items():
            room = left[what] - sum(one.of(members[other].running) for other in others)
            caps[what] = max(0, min(room, targets[what][name]) if others else room)
        share: Numbers = {what: float(cap) for what, cap in caps.items()}
        policy, offers = member.policy, _capped(member.offers, shared, caps)
        if budget is not None:
            paid = committed(offers)
            free = max(0.0, money - sum(part[other] for other in others))
            share["budget"] = paid + free
            own = math.inf if policy.budget is None else policy.budget
            policy = replace(policy, budget=min(own, paid + free))
        plan, memory = member.decide(offers, policy, False)
        counts = _first(plan)
        money -= _spent(member, counts)
        for what, one in shared.items():
            left[what] -= max(one.of(counts), caps[what] if one.reserved else 0)
        decided[name] = Decision(plan, memory, share)
    return {name: decided[name] for name in names}


def _first(plan: Plan) -> dict[str, int]:
    return {o: n[0] for o, n in plan.counts.items()}


def _shared(offers: Iterable[Offer]) -> dict[str, _Shared]:
    """What the apps share, by name: reserved offers, and quota groups with a limit."""
    by_id = {o.offer_id: o for o in offers}
    found: dict[str, _Shared] = {}
    for name, offer in sorted(by_id.items()):
        if offer.tier == "RESERVED":
            found[name] = _Shared((name,), offer.owned_count, reserved=True)
    for group, (ids, limit) in quotas([o for _, o in sorted(by_id.items())]).items():
        found[f"quota {group}"] = _Shared(ids, limit, reserved=False)
    return found


def _capped(offers: Sequence[Offer], shared: Mapping[str, _Shared], caps: Mapping[str, int]) -> list[Offer]:
    """The offers with an app's share of what is owned, and of the quotas."""
    result: list[Offer] = []
    for offer in offers:
        for what, cap in caps.items():
            if offer.offer_id in shared[what].offers:
                offer = replace(offer, **{"owned_count" if shared[what].reserved else "quota_limit": cap})
        result.append(offer)
    return result


def _worth(member: Member, offer_id: str) -> float:
    """What a reserved instance saves an app per hour: its replicas, bought otherwise; infinite where they cannot be."""
    policy = member.policy
    offers = [o for o in member.offers if why_unusable(o, policy) is None]
    size = {o.offer_id: replicas_per_instance(o, policy) for o in offers}
    otherwise = [o.price_h / size[o.offer_id] for o in offers if o.tier != "RESERVED"]
    return size.get(offer_id, 0) * min(otherwise, default=math.inf) if size.get(offer_id) else 0.0


def _spent(member: Member, counts: Mapping[str, int]) -> float:
    """Per hour, beyond commitments."""
    return sum(
        o.price_h * counts.get(o.offer_id, 0)
        for o in member.offers
        if o.tier != "RESERVED" and math.isfinite(o.price_h)
    )


def _by_worth(worth: Mapping[str, float], wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """To those to whom one is worth most, as many as they want."""
    found: dict[str, int] = {}
    for name in sorted(wanted, key=lambda name: (-worth[name], name)):
        found[name] = min(wanted[name], total)
        total -= found[name]
    return found


def _in_proportion(wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """What is wanted where there is enough, else whole parts in proportion, by largest remainder."""
    asked = sum(wanted.values())
    if asked <= total:
        return dict(wanted)
    found = {name: total * n // asked for name, n in wanted.items()}
    rest = sorted(wanted, key=lambda name: (-(total * wanted[name] % asked), name))
    for name in rest[: total - sum(found.values())]:
        found[name] += 1
    return found
