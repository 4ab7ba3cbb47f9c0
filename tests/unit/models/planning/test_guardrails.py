"""Guard rails: each names itself where it acts; what holds whatever was desired."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.capacity import Policy
from models.planning.guardrails import Fleet, Guarded, PresentNeed, Telemetry, guard

POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto", hold_s=0.0)
ALL = Telemetry(reporting=10, known=10)
OFFERS = ("own", "spot", "od")


def fleet(own: int = 0, spot: int = 0, od: int = 0, **pending: int) -> Fleet:
    """Ready instances of three offers, of 1, 2 and 2 replicas each."""
    return Fleet(
        offers=OFFERS,
        size={"own": 1, "spot": 2, "od": 2},
        price={"own": 0.0, "spot": 0.3, "od": 1.0},
        most={"own": 2, "spot": 0, "od": 1000},
        ready={"own": own, "spot": spot, "od": od},
        pending={o: pending.get(f"{o}_pending", 0) for o in OFFERS},
    )


def decide(desired: dict[str, int], seen: Fleet, policy: Policy = POLICY, **changes: Any) -> Guarded:
    around: dict[str, Any] = {
        "floor": 0,
        "needed_now": 0,
        "running_holds": False,
        "telemetry": ALL,
        "memory": {},
        "now_s": 1000.0,
    } | changes
    need = PresentNeed(**{name: around.pop(name) for name in ("floor", "needed_now", "running_holds")})
    return guard(desired, seen, policy, need, **around)


def outcome(found: Guarded) -> tuple[int, int, int, tuple[str, ...]]:
    return found.counts["own"], found.counts["spot"], found.counts["od"], found.guardrails


def test_what_is_desired_passes_where_nothing_objects():
    assert outcome(decide({"spot": 3, "od": 1}, fleet(own=1, spot=5, od=1))) == (0, 3, 1, ())


def test_a_paused_app_keeps_what_is_commanded():
    held = decide({"od": 9}, fleet(od=2), replace(POLICY, mode="paused"), memory={"counts": {"od": 3}})
    assert outcome(held) == (0, 0, 3, ("paused",))


def test_silence_keeps_what_is_commanded_even_if_less_is_seen():
    silent = Telemetry(0, 10)
    held = decide({"od": 1}, fleet(od=2), telemetry=silent, memory={"counts": {"own": 0, "spot": 0, "od": 4}})
    assert outcome(held) == (0, 0, 4, ("missing_telemetry",))
    assert outcome(decide({"od": 1}, fleet(od=2), telemetry=silent)) == (0, 0, 2, ("missing_telemetry",))


def test_few_reports_allow_growth_but_no_release():
    doubt = Telemetry(8, 10)
    assert outcome(decide({"od": 1}, fleet(od=4), telemetry=doubt)) == (0, 0, 4, ("doubtful_telemetry",))
    # eight replicas run, ten are wanted: one instance more, and the spot ones stay
    assert outcome(decide({"od": 5}, fleet(spot=3, od=1), telemetry=doubt)) == (
        0,
        3,
        2,
        ("doubtful_telemetry",),
    )
    assert outcome(decide({"od": 1}, fleet(od=4), telemetry=Telemetry(9, 10))) == (0, 0, 1, ())


def test_an_app_that_never_scales_down_keeps_what_runs():
    policy = replace(POLICY, scale_down="never")
    assert outcome(decide({"od": 1}, fleet(od=4), policy)) == (0, 0, 4, ("scale_down_never",))


def test_release_waits_for_the_hold_time():
    policy = replace(POLICY, hold_s=600.0)
    first = decide({"od": 5}, fleet(od=5), policy, now_s=0.0)
    second = decide({"od": 2}, fleet(od=5), policy, now_s=300.0, memory=first.memory)
    assert outcome(second) == (0, 0, 5, ("hold_time",))
    third = decide({"od": 3}, fleet(od=5), policy, now_s=600.0, memory=second.memory)
    assert outcome(third) == (0, 0, 3, ())  # the five are 600 s ago; the largest since is three
    fourth = decide({"od": 1}, fleet(od=3), policy, now_s=900.0, memory=third.memory)
    assert outcome(fourth) == (0, 0, 3, ("hold_time",))


def test_a_hold_never_buys():
    policy = replace(POLICY, hold_s=600.0)
    memory = {"desired": [[900.0, 40]]}  # wanted, and never there
    assert outcome(decide({"od": 2}, fleet(od=4), policy, memory=memory)) == (0, 0, 4, ("hold_time",))


def test_the_memory_is_short_and_plain_json():
    policy, memory = replace(POLICY, hold_s=3600.0), {}
    for t in range(500):
        memory = decide({"od": t % 7 + 1}, fleet(od=3), policy, now_s=t * 10.0, memory=memory).memory
    assert json.loads(json.dumps(memory)) == memory
    assert len(memory["desired"]) <= 7  # falling, so at most one per number


def test_trivial_savings_are_not_worth_a_change():
    policy = replace(POLICY, churn_threshold=0.2)
    running = fleet(spot=1, od=10)  # 10.3 an hour; one spot less saves 0.3, 3 %
    kept = decide({"od": 10}, running, policy, running_holds=True)
    assert outcome(kept) == (0, 1, 10, ("churn",))
    assert outcome(decide({"od": 10}, running, policy, running_holds=False)) == (0, 0, 10, ())
    assert outcome(decide({"od": 7}, running, policy, running_holds=True)) == (0, 0, 7, ())  # saves 32 %


def test_changes_are_bounded_in_replicas():
    policy = replace(POLICY, max_up=4, max_down=2)
    assert outcome(decide({"od": 9}, fleet(od=1), policy)) == (0, 0, 3, ("max_up",))
    assert outcome(decide({"od": 1}, fleet(od=9), policy)) == (0, 0, 8, ("max_down",))
    # an instance is larger than the step: one all the same, or nothing could ever change
    assert outcome(decide({"od": 9}, fleet(od=1), replace(POLICY, max_up=1))) == (0, 0, 2, ("max_up",))


def test_a_canary_changes_a_tenth_of_the_instances():
    policy = replace(POLICY, mode="canary")
    assert outcome(decide({"od": 90}, fleet(od=50), policy)) == (0, 0, 55, ("canary",))
    assert outcome(decide({"od": 1}, fleet(od=50), policy)) == (0, 0, 45, ("canary",))
    assert outcome(decide({"od": 9}, fleet(od=3), policy)) == (0, 0, 4, ("canary",))
    # the floor is not for it to bound: two owned, 12 = 2 × 1 + 5 × 2
    floored = decide({"od": 9}, fleet(od=3), policy, floor=12)
    assert outcome(floored) == (2, 0, 5, ("canary", "reactive_floor"))


def test_grow_before_shrink():
    # from five spot to three on demand, eight replicas needed now: on demand is not ready, one spot may go
    grown = decide({"od": 3}, fleet(spot=5), needed_now=8)
    assert outcome(grown) == (0, 4, 3, ("grow_before_shrink",))
    # where six are wanted and none is needed now, the promise's six stay
    assert outcome(decide({"od": 3}, fleet(spot=5))) == (0, 3, 3, ("grow_before_shrink",))
    started = decide({"od": 5}, fleet(spot=4, od_pending=5), needed_now=8)
    assert outcome(started) == (0, 4, 5, ("grow_before_shrink",))
    ready = decide({"od": 5}, fleet(spot=4, od=5), needed_now=8)
    assert outcome(ready) == (0, 0, 5, ())


def test_pending_instances_can_be_given_up():
    assert outcome(decide({"od": 2}, fleet(od=2, od_pending=3), needed_now=4)) == (0, 0, 2, ())


def test_the_reactive_floor_keeps_what_runs_before_it_buys():
    assert outcome(decide({"spot": 2}, fleet(spot=4), floor=7)) == (0, 4, 0, ("reactive_floor",))
    # own instances up to the two owned, then on demand: 2 × 1 + 4 × 2 + 1 × 2 = 12
    assert outcome(decide({"spot": 2}, fleet(spot=4), floor=11)) == (2, 4, 1, ("reactive_floor",))


def test_minimum_and_maximum_have_the_last_word():
    low = decide({}, fleet(), replace(POLICY, min=3))
    assert outcome(low) == (2, 0, 1, ("minimum",))
    high = decide({"od": 9}, fleet(od=2), replace(POLICY, max=7), floor=20)
    # the floor takes two owned; of 9 on demand the two that run stay: 6 replicas, 8 would be above 7
    assert outcome(high) == (2, 0, 2, ("reactive_floor", "maximum"))
    beyond = replace(POLICY, max=7, beyond_max=0.2)
    assert outcome(decide({"od": 9}, fleet(od=2), beyond)) == (0, 0, 4, ("maximum",))  # 8 of 8.4


def test_zero_needs_an_hour_of_reported_zeros():
    idle, policy = Telemetry(10, 10, idle=True), replace(POLICY, idle_after_s=3600.0)
    first = decide({}, fleet(od=1), policy, telemetry=idle, now_s=0.0)
    assert outcome(first) == (0, 0, 1, ("minimum",))  # one replica is kept
    before = decide({}, fleet(od=1), policy, telemetry=idle, now_s=3599.0, memory=first.memory)
    assert outcome(before) == (0, 0, 1, ("minimum",))
    after = decide({"od": 1}, fleet(od=1), policy, telemetry=idle, now_s=3600.0, memory=before.memory)
    assert outcome(after) == (0, 0, 0, ("idle",))
    kept = decide({}, fleet(od=1), replace(policy, min=1), telemetry=idle, now_s=3600.0, memory=before.memory)
    assert outcome(kept) == (0, 0, 1, ("minimum",))


@pytest.mark.parametrize("telemetry", [ALL, Telemetry(0, 10)])
def test_use_or_silence_ends_the_idle_time(telemetry: Telemetry):
    memory = {"zero_since_s": 0.0}
    assert decide({"od": 1}, fleet(od=1), telemetry=telemetry, memory=memory).memory["zero_since_s"] is None


def test_a_shadow_plan_is_not_remembered_as_commanded():
    shadow = decide({"od": 9}, fleet(od=2), replace(POLICY, mode="shadow"))
    assert shadow.counts["od"] == 9
    assert "counts" not in shadow.memory


counts = st.fixed_dictionaries({o: st.integers(0, 30) for o in OFFERS})
fleets = st.builds(
    fleet,
    own=st.integers(0, 2),
    spot=st.integers(0, 30),
    od=st.integers(0, 30),
    spot_pending=st.integers(0, 5),
    od_pending=st.integers(0, 5),
)
policies = st.builds(
    replace,
    st.just(POLICY),
    mode=st.sampled_from(["shadow", "canary", "auto"]),
    min=st.integers(0, 10),
    max=st.integers(10, 100),
    beyond_max=st.sampled_from([0.0, 0.2]),
    max_up=st.none() | st.integers(1, 20),
    max_down=st.none() | st.integers(1, 20),
    hold_s=st.sampled_from([0.0, 600.0]),
    scale_down=st.sampled_from(["never", "drain", "any"]),
    churn_threshold=st.sampled_from([0.0, 0.1]),
)
circumstances = st.fixed_dictionaries(
    {
        "floor": st.integers(0, 60),
        "needed_now": st.integers(0, 60),
        "running_holds": st.booleans(),
        "telemetry": st.sampled_from([ALL, Telemetry(5, 10)]),
        "memory": st.just({}) | st.builds(lambda n: {"desired": [[700.0, n]]}, st.integers(0, 60)),
    }
)


@given(counts, fleets, policies, circumstances)
def test_never_above_the_maximum_and_never_below_the_floor_unless_it_says_so(
    desired: dict[str, int], seen: Fleet, policy: Policy, around: dict[str, Any]
):
    found = decide(desired, seen, policy, **around)
    carried = seen.replicas(found.counts)
    assert carried <= policy.limit
    assert all(count >= 0 for count in found.counts.values())
    if "maximum" not in found.guardrails:
        assert carried >= max(around["floor"], policy.min, 1)


@given(counts, fleets, policies, circumstances, counts)
def test_silence_never_shrinks_and_never_grows(
    desired: dict[str, int],
    seen: Fleet,
    policy: Policy,
    around: dict[str, Any],
    commanded: dict[str, int],
):
    silent = around | {"telemetry": Telemetry(0, 10), "memory": {"counts": commanded}}
    found = decide(desired, seen, policy, **silent)
    if seen.replicas(commanded) >= policy.min:
        assert (found.counts, found.guardrails) == (commanded, ("missing_telemetry",))
    else:  # a minimum that came since, or was never reached
        assert found.guardrails == ("missing_telemetry", "minimum")
        assert seen.replicas(found.counts) >= policy.min
        assert all(found.counts[o] >= commanded[o] for o in OFFERS)


@given(counts, fleets, policies, circumstances)
def test_doubt_never_shrinks(desired: dict[str, int], seen: Fleet, policy: Policy, around: dict[str, Any]):
    found = decide(desired, seen, policy, **around | {"telemetry": Telemetry(5, 10)})
    if "maximum" not in found.guardrails:
        assert all(found.counts[o] >= seen.running[o] for o in OFFERS)


@given(counts, policies, circumstances)
def test_nothing_changes_when_nothing_changes(
    desired: dict[str, int], policy: Policy, around: dict[str, Any]
):
    seen = fleet(**desired)
    assume(policy.limit >= seen.replicas(desired) >= max(around["floor"], policy.min, 1))
    first = decide(desired, seen, policy, **around)
    assert (first.counts, first.guardrails) == (desired, ())
    again = decide(desired, seen, policy, **around | {"memory": first.memory, "now_s": 1300.0})
    assert (again.counts, again.guardrails) == (desired, ())


@given(counts, fleets, circumstances)
def test_what_is_ready_and_needed_stays(desired: dict[str, int], seen: Fleet, around: dict[str, Any]):
    found = decide(desired, seen, **around)
    kept = seen.ready_replicas(found.counts)
    assert kept >= min(around["needed_now"], seen.ready_replicas(seen.ready)) or "maximum" in found.guardrails


@given(counts, fleets, policies, circumstances)
def test_repeated_ticks_settle(desired: dict[str, int], seen: Fleet, policy: Policy, around: dict[str, Any]):
    """Commanded instances become ready: after enough ticks the same answer comes back."""
    memory: dict[str, Any] = {}
    answers: list[dict[str, int]] = []
    for tick in range(120):
        found = decide(desired, seen, policy, **around | {"memory": memory, "now_s": tick * 300.0})
        answers.append(found.counts)
        memory, seen = found.memory, replace(seen, ready=found.counts, pending=dict.fromkeys(OFFERS, 0))
    assert answers[-1] == answers[-2] == answers[-3]


def test_a_quota_bounds_growth_and_another_offer_brings_what_it_keeps():
    seen = replace(fleet(od=2), quotas={("od", "spot"): 3})
    assert outcome(decide({"od": 9}, seen)) == (0, 0, 3, ("quota",))
    assert outcome(decide({"od": 9}, replace(seen, quotas={("od",): 1}))) == (
        0,
        0,
        2,
        ("quota",),
    )  # what runs stays
    # a floor of 8 replicas: two of the owned ones, three of the quota; no more is to be had
    assert outcome(decide({"od": 2}, seen, floor=8)) == (2, 0, 3, ("reactive_floor",))


def test_more_than_the_budget_is_said():
    policy = replace(POLICY, budget=3.0)
    assert outcome(decide({"od": 3}, fleet(), policy)) == (0, 0, 3, ())
    # the floor of 8 replicas takes the two owned ones and three at 1.0 an hour, which with 0.5 committed is 3.5
    found = decide({"od": 1}, replace(fleet(), committed=0.5), policy, floor=8)
    assert outcome(found) == (2, 0, 3, ("reactive_floor", "over_budget"))


def shared_nodes(ready: dict[str, int], **pending: int) -> Fleet:
    """Nodes of 1, 2 and 4 replicas, on spot and on demand, as dear as they are large."""
    sizes: dict[str, int] = {"s1": 1, "s2": 2, "s4": 4, "d4": 4}
    return Fleet(
        offers=tuple(sizes),
        size=sizes,
        price={o: float(size if o[0] == "s" else 3 * size) for o, size in sizes.items()},
        most=dict.fromkeys(sizes, 0) | {"d4": 1000},
        ready={o: ready.get(o, 0) for o in sizes},
        pending={o: pending.get(o, 0) for o in sizes},
        alike={o: (o[0],) for o in sizes},
    )


@pytest.mark.parametrize(
    ("desired", "counts", "rails"),
    [
        # eight small ones run: of ten replicas two are bought, instead of ten on other nodes
        ({"s2": 5}, {"s1": 8, "s2": 1}, ("churn",)),
        # of four wanted four of those that run are released
        ({"s4": 1}, {"s1": 4}, ("churn",)),
        # nodes on demand do not stand for spot ones; these stay until those serve
        ({"d4": 2}, {"s1": 8, "d4": 2}, ("grow_before_shrink",)),
        ({"s1": 8, "s4": 1}, {"s1": 8, "s4": 1}, ()),
    ],
)
def test_shared_nodes_that_run_are_not_exchanged_for_alike_ones(
    desired: dict[str, int], counts: dict[str, int], rails: tuple[str, ...]
) -> None:
    policy = replace(POLICY, churn_threshold=0.02)
    guarded = decide(desired, shared_nodes({"s1": 8}), policy)
    assert {o: n for o, n in guarded.counts.items() if n} == counts
    assert guarded.guardrails == rails
    # offers that are not alike are exchanged once those that replace them serve
    unlike = replace(shared_nodes({"s1": 8, **desired}), alike={})
    assert {o: n for o, n in decide(desired, unlike, policy).counts.items() if n} == desired


def test_launches_that_may_be_refused_carry_nothing_of_what_is_needed_now() -> None:
    seen = replace(fleet(spot=1, od=2), unproven=frozenset({"spot"}))
    # of ten replicas needed two are ready on spot and four on demand, which stay; four are bought beside
    assert outcome(decide({"spot": 5}, seen, needed_now=10)) == (
        2,
        5,
        3,
        ("grow_before_shrink", "unproven_pool"),
    )
    assert outcome(decide({"spot": 5}, replace(seen, unproven=frozenset()), needed_now=10)) == (
        0,
        5,
        2,
        ("grow_before_shrink",),
    )


def test_shared_nodes_are_exchanged_where_that_saves_enough_and_released_once_others_serve() -> None:
    policy = replace(POLICY, churn_threshold=0.1)
    # one node of four for five that carry five, where three are wanted: a fifth is saved
    dear = replace(shared_nodes({"s1": 3}), price={"s1": 4.0, "s2": 2.0, "s4": 4.0, "d4": 12.0})
    begun = decide({"s4": 1}, dear, policy)
    assert (begun.counts["s1"], begun.counts["s4"]) == (3, 1)
    served = replace(dear, ready={"s1": 3, "s2": 0, "s4": 1, "d4": 0})
    done = decide({"s4": 1}, served, policy)
    assert (done.counts["s1"], done.counts["s4"]) == (0, 1)


@given(
    ready=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    desired=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    needed=st.integers(0, 40),
)
def test_shared_nodes_carry_what_is_wanted_of_each_kind_and_release_no_more_than_that(
    ready: list[int], desired: list[int], needed: int
) -> None:
    offers: list[str] = ["s1", "s2", "s4", "d4"]
    fleet_ = shared_nodes(dict(zip(offers, ready, strict=True)))
    wanted = dict(zip(offers, desired, strict=True))
    counts = decide(wanted, fleet_, replace(POLICY, churn_threshold=0.02), needed_now=needed).counts
    for kind in ("s", "d"):
        of = [o for o in offers if o[0] == kind]
        assert sum(fleet_.size[o] * counts[o] for o in of) >= sum(fleet_.size[o] * wanted[o] for o in of)
    for o in offers:
        assert counts[o] <= max(wanted[o], fleet_.ready[o], int(o == "d4") * 1000)
    carried = fleet_.ready_replicas(counts)
    assert carried >= min(needed, fleet_.replicas(wanted), fleet_.ready_replicas(fleet_.ready))
