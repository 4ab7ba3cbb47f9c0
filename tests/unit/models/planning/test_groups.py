"""Apps that share: sums stay within what there is, reserved instances go where they save most, names decide nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.capacity import Observed, Offer, Policy
from models.planning.allocate import Plan
from models.planning.groups import Decision, Member, together
from models.random_streams import stream
from tests.unit.models.planning.test_allocate import (
    OD,
    POLICY,
    RESERVED,
    SPOT,
    constant,
    first,
    plan_and_memory,
)

OWN = replace(RESERVED, owned_count=4)


def member(
    demand: np.ndarray,
    offers: list[Offer],
    policy: Policy = POLICY,
    running: dict[str, int] | None = None,
    key: bytes = b"shop",
    **changes: Any,
) -> Member:
    """An app that is planned by `allocate`; what runs is ready."""
    seen = {o: Observed(ready=n) for o, n in (running or {}).items()}

    def decide(given_: Sequence[Offer], bounded: Policy, draft: bool) -> tuple[Plan, dict[str, Any]]:
        return plan_and_memory(demand, list(given_), bounded, observed=seen, app=key, draft=draft, **changes)

    return Member(offers, policy, running or {}, decide)


def counts(found: dict[str, Decision]) -> dict[str, dict[str, int]]:
    return {name: first(one.plan) for name, one in found.items()}


def test_an_app_by_itself_is_planned_as_ever():
    alone = member(constant(9.0), [OD, OWN])
    found = together({"shop": alone})["shop"]
    assert (repr(found.plan), found.shares) == (repr(alone.decide([OD, OWN], POLICY, False)[0]), {})


def test_owned_instances_are_counted_and_paid_once():
    # 6 and 4 replicas, three and two instances; four are owned, one is bought on demand
    found = together({"blog": member(constant(4.0), [OD, OWN]), "shop": member(constant(6.0), [OD, OWN])})
    assert sum(count.get("own", 0) for count in counts(found).values()) == 4
    assert sum(count.get("od", 0) for count in counts(found).values()) == 1
    assert sum(one.plan.cost for one in found.values()) == 4 * 0.5 + 1.0
    assert sum(one.shares["own"] for one in found.values()) == 4
    assert all(one.plan.feasible for one in found.values())


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_owned_instances_go_where_one_saves_most(names: tuple[str, str]):
    # an instance is two of the small app's replicas, 1.0 on demand, and one of the large one's, which fill an
    # instance of 1.0 each as well; but the small one may buy spot at 0.3: one of the owned saves it 0.3
    small, large = names
    found = together(
        {
            small: member(constant(6.0), [SPOT, OWN]),
            large: member(constant(3.0), [OD, OWN], replace(POLICY, unit={"cpu": 2.0, "memory": 4e9})),
        }
    )
    # 3 cores are two replicas of two cores: two owned; the other takes the two that are left, 4 of its 6 replicas
    assert counts(found)[large] == {"own": 2}
    assert counts(found)[small]["own"] == 2
    assert found[large].shares["own"] == 2


def test_a_quota_is_divided_in_proportion():
    limited = replace(OD, quota_group="q", quota_limit=6)
    # 8 and 4 instances are wanted of 6: 4 and 2
    found = together({"a": member(constant(16.0), [limited]), "b": member(constant(8.0), [limited])})
    assert counts(found) == {"a": {"od": 4}, "b": {"od": 2}}
    assert found["a"].shares == {"quota q": 4.0}
    assert not found["a"].plan.feasible


def test_a_budget_is_divided_and_commitments_are_paid_from_it():
    # 2 for the four owned, 4 left; 8 and 2 replicas more are wanted, 4 and 1 instances: 3.2 and 0.8 of it
    apps = {"a": member(constant(12.0), [OD, OWN]), "b": member(constant(6.0), [OD, OWN])}
    found = together(apps, budget=6.0)
    assert sum(one.plan.cost for one in found.values()) <= 6.0
    assert any("the budget drops" in one.plan.reason for one in found.values())
    assert sum(one.plan.cost for one in together(apps, budget=7.0).values()) == 7.0


def test_instances_move_when_they_are_released_and_never_count_twice():
    # "a" has all owned ones and may buy spot; they are worth more to "b". While b's do not run, a keeps its own
    apps = {
        "a": member(constant(8.0), [SPOT, OWN], running={"own": 4}),
        "b": member(constant(8.0), [OD, OWN], key=b"b"),
    }
    first_tick = counts(together(apps))
    assert (first_tick["a"]["own"], first_tick["b"]) == (4, {"od": 4})
    later = {
        "a": member(constant(8.0), [SPOT, OWN], running={"own": 4, "spot": 6}),
        "b": member(constant(8.0), [OD, OWN], running={"od": 4}, key=b"b"),
    }
    moved = counts(together(later))
    assert (moved["a"].get("own", 0), moved["b"]["own"]) == (0, 4)


LIMITED = replace(OD, quota_group="q", quota_limit=5)
CHEAP = replace(SPOT, quota_group="q", quota_limit=5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 30),  # mean demand
            st.floats(0, 20),  # usage, for the reactive floor
            st.integers(0, 2),  # owned instances that run, of six
            st.integers(0, 1),  # on-demand ones, of five of the quota
            st.sampled_from(["auto", "canary", "shadow", "paused"]),
            st.sampled_from([0.0, 600.0]),
            st.sampled_from([[LIMITED, OWN], [LIMITED, CHEAP, OWN], [CHEAP, OWN], [LIMITED]]),
        ),
        min_size=2,
        max_size=3,
    ),
    st.none() | st.floats(0, 20),
)
def test_sums_never_exceed_what_there_is(apps: list[tuple[Any, ...]], budget: float | None):
    members: dict[str, Member] = {}
    for number, (mean, usage, own, od, mode, hold_s, offers) in enumerate(apps):
        owned = [replace(o, owned_count=6) if o.tier == "RESERVED" else o for o in offers]
        members[f"app{number}"] = member(
            stream(np, number).gamma(4, mean / 4 + 1e-3, (100, 6, 2)).astype(np.float32),
            owned,
            replace(POLICY, mode=mode, hold_s=hold_s),
            {o.offer_id: {"own": own, "od": od, "spot": 0}[o.offer_id] for o in owned},
            usage=np.array([usage, 0.0]),
            key=str(number).encode(),
        )
    found = together(members, budget)
    assert sum(count.get("own", 0) for count in counts(found).values()) <= 6
    assert sum(count.get("od", 0) + count.get("spot", 0) for count in counts(found).values()) <= 5
    if budget is not None and not any("over_budget" in one.plan.guardrails for one in found.values()):
        committed = 6 * 0.5 * any(o.tier == "RESERVED" for one in members.values() for o in one.offers)
        bought = sum(
            o.price_h * first(found[name].plan).get(o.offer_id, 0)
            for name, one in members.items()
            for o in one.offers
            if o.tier != "RESERVED"
        )
        assert bought <= max(0.0, budget - committed) + 1e-6 or any(
            one.policy.mode == "paused" for one in members.values()
        )
    again = together(dict(reversed(members.items())), budget)
    assert {name: repr(one.plan) for name, one in again.items()} == {
        name: repr(one.plan) for name, one in found.items()
    }
    assert json.loads(json.dumps(found["app0"].shares)) == found["app0"].shares


@given(st.floats(1, 20), st.floats(1, 20))
@settings(max_examples=10, deadline=None)
def test_names_decide_nothing_but_ties(one: float, two: float):
    if np.ceil(one / 2) == np.ceil(two / 2):
        return  # alike: a tie

    def planned(small: str, large: str) -> list[dict[str, int]]:
        found = counts(
            together({small: member(constant(one), [SPOT, OWN]), large: member(constant(two), [OD, OWN])})
        )
        return [found[small], found[large]]

    assert planned("a", "b") == planned("b", "a")
