"""Guard rails that exclude each other: the minimum stands where an offer can carry it, and what bounds it is named."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.capacity import Observed, Offer, Policy
from models.planning.allocate import DecisionContext, Plan, allocate
from models.planning.groups import Member, together
from models.planning.guardrails import Fleet, Guarded, PresentNeed, Telemetry, guard
from pipeline.cli.inputs import check
from pipeline.errors import UsageError

POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, min=1, max=1, mode="auto", hold_s=0.0)
ALL = Telemetry(reporting=3, known=3)
STEPS_S = (60, 120, 180, 240, 300, 360)


def offers_of(sizes: dict[str, int], most: int = 10**6, **more: Any) -> Fleet:
    """On-demand offers of so many replicas an instance, none of them running."""
    names = tuple(sizes)
    none = dict.fromkeys(names, 0)
    base = Fleet(names, sizes, dict.fromkeys(names, 0.1), dict.fromkeys(names, most), none, none)
    return replace(base, **more)


def decide(
    fleet: Fleet, policy: Policy = POLICY, desired: dict[str, int] | None = None, **changes: Any
) -> Guarded:
    need = PresentNeed(changes.pop("floor", 1), changes.pop("needed_now", 0), running_holds=False)
    around: dict[str, Any] = {"telemetry": ALL, "memory": {}, "now_s": 0.0} | changes
    return guard(desired or {}, fleet, policy, need, **around)


@pytest.mark.parametrize(
    ("least", "most", "size"), [(1, 1, 2), (1, 3, 4), (0, 1, 2), (3, 3, 2), (5, 5, 3), (2, 2, 64)]
)
def test_a_maximum_below_an_instance_leaves_the_minimum(least: int, most: int, size: int) -> None:
    decision = decide(offers_of({"od": size}), replace(POLICY, min=least, max=most))
    assert decision.counts["od"] == -(-max(least, 1) // size)
    assert "minimum_beyond_maximum" in decision.guardrails


def test_what_runs_is_kept_where_its_instance_exceeds_the_maximum() -> None:
    running = offers_of({"od": 2}, ready={"od": 1})
    assert decide(running, desired={"od": 1}).counts == {"od": 1}


def test_smaller_instances_fill_what_the_maximum_leaves() -> None:
    policy = replace(POLICY, min=3, max=3)
    decision = decide(offers_of({"large": 4, "small": 1}), policy, desired={"large": 1}, floor=3)
    assert decision.counts == {"large": 0, "small": 3}
    assert "minimum_beyond_maximum" not in decision.guardrails


def test_an_exact_mix_is_found_where_one_offer_alone_exceeds_the_maximum() -> None:
    decision = decide(offers_of({"three": 3, "two": 2}), replace(POLICY, min=4, max=4), desired={"three": 1})
    assert decision.counts == {"three": 0, "two": 2}


def test_a_maximum_of_zero_is_meant() -> None:
    decision = decide(offers_of({"od": 2}), replace(POLICY, min=0, max=0), desired={"od": 2})
    assert (decision.counts, decision.guardrails) == ({"od": 0}, ("maximum",))


def test_silence_keeps_a_minimum_that_came_since() -> None:
    decision = decide(
        offers_of({"od": 2}),
        replace(POLICY, min=3, max=9),
        telemetry=Telemetry(0, 3),
        memory={"counts": {"od": 0}},
    )
    assert (decision.counts, decision.guardrails) == ({"od": 2}, ("missing_telemetry", "minimum"))


def test_a_quota_that_small_instances_would_fill_goes_to_those_that_reach_the_minimum() -> None:
    shared = offers_of({"small": 1, "large": 4}, quotas={("small", "large"): 1})
    decision = decide(shared, replace(POLICY, min=4, max=4), floor=0)
    assert decision.counts == {"small": 0, "large": 1}


def test_offers_that_end_below_the_floor_are_named() -> None:
    owned = offers_of({"own": 1}, most=2)
    decision = decide(owned, replace(POLICY, min=1, max=9), floor=5)
    assert (decision.counts, decision.guardrails) == ({"own": 2}, ("reactive_floor", "offers_exhausted"))
    quota = offers_of({"od": 1}, quotas={("od",): 2})
    decision = decide(quota, replace(POLICY, min=1, max=9), floor=5)
    assert (decision.counts, decision.guardrails) == ({"od": 2}, ("reactive_floor", "quota"))


def test_offers_of_which_nothing_can_be_bought_are_named() -> None:
    none = offers_of({"od": 1}, most=0)
    decision = decide(none, replace(POLICY, min=1, max=9), floor=5)
    assert (decision.counts, decision.guardrails) == ({"od": 0}, ("offers_exhausted",))
    barred = offers_of({"od": 1}, most=0, quotas={("od",): 0})
    decision = decide(barred, replace(POLICY, min=1, max=9), floor=5)
    assert (decision.counts, decision.guardrails) == ({"od": 0}, ("offers_exhausted", "quota"))


NAMES = ("a", "b", "c")
small = st.integers(0, 3)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    names = NAMES[: draw(st.integers(1, 3))]
    quotas = {}
    if draw(st.booleans()):
        quotas[names[: draw(st.integers(1, len(names)))]] = draw(st.integers(0, 4))
    return Fleet(
        names,
        {o: draw(st.integers(1, 7)) for o in names},
        {o: draw(st.sampled_from([0.0, 0.1, 1.0])) for o in names},
        {o: draw(st.sampled_from([0, 1, 4])) for o in names},
        {o: draw(small) for o in names},
        {o: draw(small) for o in names},
        quotas,
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    least = draw(st.integers(0, 9))
    return replace(
        POLICY,
        min=least,
        max=least + draw(st.integers(0, 9)),
        mode=draw(st.sampled_from(["shadow", "canary", "auto"])),
        beyond_max=draw(st.sampled_from([0.0, 0.3])),
        budget=draw(st.none() | st.sampled_from([0.0, 0.5])),
        max_up=draw(st.none() | st.integers(1, 4)),
        max_down=draw(st.none() | st.integers(1, 4)),
        hold_s=draw(st.sampled_from([0.0, 600.0])),
        scale_down=draw(st.sampled_from(["never", "any"])),
        churn_threshold=draw(st.sampled_from([0.0, 0.5])),
        idle_after_s=0.0,
    )


def attainable(fleet: Fleet) -> set[int]:
    """Replicas that instances can carry: what runs, and more of what may be bought, within the quotas."""
    running = fleet.running
    ranges = [range(max(fleet.most[o], running[o]) + 1) for o in fleet.offers]
    totals: set[int] = set()
    for numbers in product(*ranges):
        counts = dict(zip(fleet.offers, numbers, strict=True))
        if all(
            sum(counts[o] for o in of) <= most or all(counts[o] <= running[o] for o in of)
            for of, most in fleet.quotas.items()
        ):
            totals.add(fleet.replicas(counts))
    return totals


@given(
    fleets(),
    policies(),
    st.fixed_dictionaries(dict.fromkeys(NAMES, small)),
    st.integers(0, 30),
    st.sampled_from([ALL, Telemetry(3, 10), Telemetry(0, 3), Telemetry(3, 3, idle=True)]),
    st.sampled_from([{}, {"desired": [[-100.0, 9]]}, {"counts": dict.fromkeys(NAMES, 0)}]),
)
def test_every_pair_of_rails_leaves_the_minimum_and_names_what_bounds_the_floor(
    fleet: Fleet,
    policy: Policy,
    desired: dict[str, int],
    floor: int,
    telemetry: Telemetry,
    memory: dict[str, Any],
) -> None:
    decision = decide(fleet, policy, desired, floor=floor, telemetry=telemetry, memory=memory)
    carried, named = fleet.replicas(decision.counts), set(decision.guardrails)
    possible = attainable(fleet)
    silent, idle = "missing_telemetry" in named, "idle" in named
    least = 0 if idle else policy.min if silent else min(max(policy.min, 1), policy.limit)
    assert all(count >= 0 for count in decision.counts.values())
    if any(total >= least for total in possible):
        assert carried >= least
    if carried > policy.limit and not silent:
        assert "minimum_beyond_maximum" in named
        if not fleet.quotas:
            assert not any(least <= total <= policy.limit for total in possible)
    if carried < floor and not (silent or idle):
        assert named & {"maximum", "quota", "offers_exhausted"} or not fleet.most


def planned(policy: Policy, size: int, running: int = 0) -> Plan:
    """A plan for demand of 2 to 3 cores, of one on-demand offer."""
    demand = np.random.default_rng(1).uniform(2.0, 3.0, (128, len(STEPS_S), 1)).astype(np.float32)
    context = DecisionContext(
        demand, ("cpu",), STEPS_S, np.array([2.5]), np.zeros(1), ALL, now_s=0.0, seed=0, app=b"shop", tick=0
    )
    od = Offer("od", "local", "here", "z", "ON_DEMAND", {"cpu": float(size)}, 0.1, 5.0, 8.0, 10.0)
    plan, _ = allocate(
        context, offers=[od], observed={"od": Observed(ready=running)}, policy=policy, memory={}
    )
    return plan


@pytest.mark.parametrize("running", [0, 1])
@pytest.mark.parametrize(("most", "size"), [(1, 2), (3, 4)])
def test_the_plan_keeps_an_instance_and_names_the_contradiction(most: int, size: int, running: int) -> None:
    plan = planned(replace(POLICY, max=most), size, running)
    assert plan.counts["od"][0] >= 1
    assert plan.cost > 0
    assert "minimum_beyond_maximum" in plan.guardrails
    assert f"maximum of {most}" in plan.reason
    assert f"od {size}" in plan.reason


@pytest.mark.parametrize("budget", [None, 0.0])
def test_spot_keeps_the_minimum_where_on_demand_has_a_quota_of_zero(budget: float | None) -> None:
    """As where a group leaves an app no share of the quota."""
    demand = np.full((64, len(STEPS_S), 1), 2.5, np.float32)
    context = DecisionContext(
        demand, ("cpu",), STEPS_S, np.array([2.5]), np.zeros(1), ALL, now_s=0.0, seed=0, app=b"shop", tick=0
    )
    spot = Offer("spot", "local", "here", "z", "SPOT", {"cpu": 2.0}, 0.1, 5.0, 8.0, 10.0)
    full = replace(spot, offer_id="od", tier="ON_DEMAND", quota_group="q")
    other = replace(full, offer_id="small", allocatable={"cpu": 1.0}, quota_limit=0)
    policy = replace(POLICY, max=20, budget=budget)
    plan, _ = allocate(context, offers=[spot, full, other], observed={}, policy=policy, memory={})
    assert plan.counts["od"][0] == plan.counts["small"][0] == 0
    assert plan.counts["spot"][0] >= 2
    assert ("over_budget" in plan.guardrails) == (budget is not None)


ONE = """[[policy]]
app = "*"
governed = ["cpu"]
unit = {cpu = %s}
min = %d
max = %d
"""
NODE = """[[price]]
offer_id = "node"
provider = "local"
region = "here"
zone = "here-1"
tier = "%s"
instance_type = "n"
capacity = {cpu = 2.0}
price = 0.10
startup_p50_s = 5
startup_p90_s = 8
startup_p99_s = 10
"""


@pytest.mark.parametrize(
    ("unit", "least", "most", "node", "reason"),
    [
        ("1.0", 1, 1, NODE % "ON_DEMAND", "from min 1 to max 1 replicas (replicas an instance: node 2)"),
        ("0.5", 3, 3, NODE % "ON_DEMAND", "the smallest max that can be kept is 4"),
        ("4.0", 1, 9, NODE % "ON_DEMAND", "no offer carries a replica: node: a replica does not fit"),
        (
            "1.0",
            9,
            9,
            NODE % "RESERVED" + "owned_count = 2",
            "min is 9 replicas, all that may be bought carries 4",
        ),
        (
            "1.0",
            9,
            10,
            NODE % "ON_DEMAND" + 'quota_group = "q"\nquota_limit = 3',
            "min is 9 replicas, all that may be bought carries 6",
        ),
    ],
)
def test_policies_check_refuses_what_no_offer_can_keep(
    tmp_path: Path, unit: str, least: int, most: int, node: str, reason: str
) -> None:
    policy, prices = tmp_path / "one.toml", tmp_path / "node.toml"
    policy.write_text(ONE % (unit, least, most))
    prices.write_text(node)
    with pytest.raises(UsageError) as refusal:
        check(policy, prices=prices)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    prices.write_text(NODE % "ON_DEMAND")
    policy.write_text(ONE % ("1.0", 1, 2))
    check(policy, prices=prices)


def member(policy: Policy, cores: float, offer: Offer) -> Member:
    """An app of a group, of about so many cores of demand, and nothing that runs."""
    demand = np.random.default_rng(1).uniform(0.9 * cores, 1.1 * cores, (128, len(STEPS_S), 1))
    context = DecisionContext(
        demand.astype(np.float32),
        ("cpu",),
        STEPS_S,
        np.array([cores]),
        np.zeros(1),
        ALL,
        now_s=0.0,
        seed=0,
        app=policy.app.encode(),
        tick=0,
    )
    return Member(
        [offer],
        policy,
        {},
        lambda offers, bounded, draft: allocate(
            context, offers=offers, observed={}, policy=bounded, memory={}
        ),
    )


@pytest.mark.parametrize("tier", ["ON_DEMAND", "RESERVED"])
@pytest.mark.parametrize(
    ("most", "least", "counts"),
    [
        (3, (1, 1, 1), (1, 1, 1)),  # in proportion 3, 0, 0
        (5, (1, 3, 1), (2, 2, 1)),
        (6, (7, 1, 0), (4, 1, 1)),
        (2, (1, 1, 0), (1, 1, 0)),  # too few for all: by name
        (40, (1, 1, 1), (17, 1, 1)),
    ],
)
def test_what_a_group_shares_leaves_each_app_its_minimum(
    tier: Any, most: int, least: tuple[int, int, int], counts: tuple[int, int, int]
) -> None:
    quota: dict[str, Any] = (
        {"quota_group": "q", "quota_limit": most} if tier == "ON_DEMAND" else {"owned_count": most}
    )
    offer = Offer("od", "local", "here", "z", tier, {"cpu": 2.0}, 0.1, 5.0, 8.0, 10.0, **quota)
    policies = [replace(POLICY, app=app, min=n, max=99) for app, n in zip("abc", least, strict=True)]
    members = {p.app: member(p, cores, offer) for p, cores in zip(policies, (30.0, 0.5, 0.5), strict=True)}
    apart = together(members)
    assert tuple(apart[app].plan.counts["od"][0] for app in "abc") == counts
