"""Case 01: commands follow from what is observed; what is not there does not count, and is asked for again."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from models.behaviour.lstm import BehaviourModel
from models.capacity import Answer, Observed, Offer, Policy
from models.planning import delivery
from pipeline.errors import Rejected, Retryable
from pipeline.inputs import released_models
from pipeline.providers.base import Observation, Result
from pipeline.reports.decision_text import text
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.commands import Target
from tests.cases.closed_loop import CORES, FIRST, START_S, TICK_S, Fleet, Installation, policy, price

NEEDED = 3  # instances that four cores, give or take, need
Make = Callable[..., Installation]


@pytest.fixture(scope="module")
def model() -> BehaviourModel:
    return BehaviourModel.load(released_models.folder(Settings()))


@pytest.fixture
def make(model: BehaviourModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr("pipeline.kafka.reader.newest", lambda *_: None)

    def installation(fleet: Fleet, *, event_time: bool = True, **inputs: Any) -> Installation:
        here = Settings(
            tick_s=TICK_S, partitions=1, scenarios=256, demo_keys=True, bootstrap="none:1",
            event_time=event_time, data_dir=tmp_path,
        )  # fmt: skip
        return Installation(model, here, fleet, **inputs)

    return installation


def until(end_s: float, error: Exception) -> Callable[[Record, float], None]:
    def fault(command: Record, at_s: float) -> None:
        if at_s < end_s:
            raise error

    return fault


def states(plans: list[Record]) -> list[str]:
    return [plan["capacity"][0]["state"] for plan in plans]


def assert_nothing_absent_is_served(plans: list[Record]) -> None:
    """Where nothing runs and nothing was launched in the last seconds, no plan counts anything as served."""
    for plan in plans:
        if plan["feasible"] and all(row["ready"] + row["pending"] == 0 for row in plan["capacity"]):
            assert plan["commands_issued"] or plan["tick"] < FIRST + 5, plan["reason"]


def test_an_observation_of_less_than_nothing_is_refused_with_its_reason(make: Make) -> None:
    run = make(Fleet())
    run.run(3)
    known = run.inputs.observed("shop", FIRST + 90)
    broken = next(iter(known.values())) | {"ready": -5, "tick": FIRST + 50}
    with structlog.testing.capture_logs() as logs:
        run.inputs.put("capacity.observed", "capacity_observed", broken)
    assert run.inputs.observed("shop", FIRST + 90) == known
    (log,) = (log for log in logs if log["event"] == "side input ignored")
    assert log["error"] == "ready of node is -5: a count is 0 or more"


def test_without_faults_nothing_is_asked_for_twice(make: Make) -> None:
    run = make(Fleet())
    plans = run.run(30)
    assert [count for _, count in run.issued()][-1] == NEEDED
    assert len(run.issued()) <= 6  # while the forecast learns the app
    assert {state for plan in plans for state in [run.state(plan)["state"]]} == {""}
    assert all(plan["feasible"] for plan in plans)


@pytest.mark.parametrize("error", [Rejected("quota exceeded"), Retryable("throttled", 15.0)])
def test_what_a_provider_refuses_for_200_s_is_asked_for_with_growing_pauses_until_it_comes(
    make: Make, error: Exception
) -> None:
    run = make(Fleet(until(200, error)))
    plans = run.run(40)
    refused = [plan for plan in plans if 10 <= (plan["tick"] - FIRST) * TICK_S <= 200]
    assert not any(plan["feasible"] for plan in refused)
    assert {plan["confidence_planned"] for plan in refused} == {0.0}
    assert all(str(error) in plan["reason"] for plan in refused)
    assert all("undelivered" in plan["guardrails"] for plan in refused)
    at = [s for s, _ in run.issued()]
    assert [b - a for a, b in pairwise(at)][:5] == [10, 20, 40, 60, 60]
    back = next(plan for plan in plans if plan["feasible"] and plan["tick"] > FIRST)
    assert (back["tick"] - FIRST) * TICK_S <= 200 + 60 + TICK_S
    assert (plans[-1]["feasible"], plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)
    assert_nothing_absent_is_served(plans)


def test_commands_that_are_lost_are_sent_again(make: Make) -> None:
    run = make(Fleet())
    run.lost = lambda at_s: at_s < 100
    plans = run.run(25)
    assert "unanswered" in states(plans)
    assert not any(plan["feasible"] for plan in plans[5:13])
    assert (plans[-1]["feasible"], plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)


def test_what_somebody_else_undid_is_commanded_again_and_said_once(make: Make) -> None:
    fleet = Fleet()
    run = make(fleet)
    with structlog.testing.capture_logs() as logs:
        plans = run.run(20, lambda at_s: fleet.resize(0, START_S + at_s) if at_s == 100 else None)
    conflict = next(plan for plan in plans if "conflict" in plan["guardrails"])
    assert (conflict["tick"] - FIRST) * TICK_S == 110
    assert (conflict["commands_issued"], run.state(conflict)["managed_by"]) == (1, "kubectl")
    assert "kubectl set its size, 0 instances run" in conflict["reason"]
    assert "kubectl set its size" in text(conflict)
    assert run.issued()[-1] == (110, NEEDED)
    assert (plans[-1]["feasible"], plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)
    warned = [log for log in logs if log["event"] == "somebody else changed capacity"]
    assert [(log["app"], log["offer"], log["log_level"]) for log in warned] == [("shop", "node", "warning")]


def test_growth_by_somebody_else_is_undone_as_well(make: Make) -> None:
    fleet = Fleet()
    run = make(fleet)
    plans = run.run(30, lambda at_s: fleet.resize(9, START_S + at_s) if at_s == 100 else None)
    assert plans[-1]["capacity"][0]["ready"] == NEEDED


def test_two_that_fight_over_a_target_get_growing_pauses(make: Make) -> None:
    fleet = Fleet()

    def undo(at_s: float) -> None:
        if at_s >= 100 and fleet.group().command:
            fleet.resize(0, START_S + at_s)

    run = make(fleet)
    run.run(60, undo)
    again = [s for s, _ in run.issued() if s >= 100]
    pauses = [b - a for a, b in pairwise(again)]
    assert pauses == sorted(pauses)
    assert max(pauses) == 60
    assert len(again) <= 11


def test_a_policy_that_holds_leaves_a_changed_target_alone_until_it_says_otherwise(make: Make) -> None:
    fleet = Fleet()
    run = make(fleet, policies=[policy(on_conflict="hold")])
    held = run.run(20, lambda at_s: fleet.resize(1, START_S + at_s) if at_s == 100 else None)[11:]
    assert {plan["commands_issued"] for plan in held} == {0}
    assert not any(plan["feasible"] for plan in held)
    assert {plan["counts"][0]["desired"][0] for plan in held} == {1}
    assert all("it is left alone (on_conflict hold)" in plan["reason"] for plan in held)
    run.inputs.put("policies", "policy", policy(version=2, valid_from_tick=FIRST + 20))
    run.run(5)
    assert (run.plans[-1]["feasible"], run.plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)


@pytest.mark.parametrize("shows_pending", [True, False])
def test_what_is_accepted_and_never_comes_is_not_counted(make: Make, shows_pending: bool) -> None:
    fleet = Fleet(startup_s=1e9)
    fleet.shows_pending = shows_pending
    run = make(fleet)
    plans = run.run(30)
    # 10 s to start at most, and a tick in which to see it: from the fifth plan on nothing may count
    assert not any(plan["feasible"] for plan in plans[5:])
    assert {plan["confidence_planned"] for plan in plans[5:]} == {0.0}
    assert states(plans)[-1] == "late"
    assert 2 <= len([s for s, _ in run.issued() if s > 60]) <= 6
    fleet.startup_s = 5.0
    run.run(3)
    assert (run.plans[-1]["feasible"], states(run.plans)[-1]) == (True, "")


def test_of_what_is_granted_in_part_the_rest_is_asked_for_again(make: Make) -> None:
    fleet = Fleet(grants=lambda count: min(count, 1))
    run = make(fleet)
    plans = run.run(20)
    assert not any(plan["feasible"] for plan in plans[2:])
    assert states(plans)[-1] == "partly"
    fleet.grants = lambda count: count
    run.run(9)
    assert (run.plans[-1]["feasible"], run.plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)


def crashing(up: int, period: int, some: int = 99) -> Callable[[float], int]:
    """From 60 s on, so many instances are ready in `up` ticks of a period only."""
    return lambda at_s: some if at_s >= 60 and int(at_s / TICK_S) % period >= up else 0


@pytest.mark.parametrize(("up", "period"), [(1, 3), (1, 5)])
def test_of_a_crash_loop_nothing_counts_from_the_second_loss_on(make: Make, up: int, period: int) -> None:
    fleet = Fleet()
    fleet.crashed = crashing(up, period)
    run = make(fleet)
    with structlog.testing.capture_logs() as logs:
        plans = run.run(45)
    ready = [run.state(plan)["ready"] for plan in plans]
    fell = [i for i in range(6, 45) if ready[i] < min(ready[i - 1], NEEDED)]
    after = range(fell[1], 45)
    assert not any(plans[i]["feasible"] for i in after if ready[i] < NEEDED)
    assert {run.state(plans[i])["state"] for i in after} == {"unstable"}
    assert "instances are lost as often as they come" in plans[fell[1]]["reason"]
    assert "instances are lost as often as they come" in text(plans[fell[1]])
    again = [s for s, _ in run.issued() if s > 60]
    pauses = [b - a for a, b in pairwise(again)]
    assert pauses == sorted(pauses)
    assert (len(again) >= 5, pauses[-1]) == (True, 60)
    warned = [log for log in logs if log["event"] == "capacity does not come"]
    assert [(log["offer"], log["state"], log["log_level"]) for log in warned] == [
        ("node", "unstable", "warning")
    ]


def test_a_crash_loop_that_ends_counts_again(make: Make) -> None:
    fleet = Fleet()
    fleet.crashed = lambda at_s: crashing(1, 3)(at_s) if at_s < 150 else 0
    plans = make(fleet).run(32)
    assert not plans[14]["feasible"]
    assert (plans[19]["feasible"], states(plans)[-1]) == (True, "")  # its starts were slower than stated


@pytest.mark.parametrize("lost", [1, NEEDED])
def test_an_interruption_that_is_replaced_stays_as_it_was(make: Make, lost: int) -> None:
    fleet = Fleet()
    fleet.crashed = lambda at_s: lost if at_s == 100 else 0
    run = make(fleet)
    plans = run.run(25)
    assert all(plan["feasible"] for plan in plans)
    assert set(states(plans)) == {""}
    assert not [s for s, _ in run.issued() if s > 60]


@pytest.mark.parametrize("fault", ["crashes", "never comes"])
def test_another_offer_stands_in_for_instances_that_do_not_stay(make: Make, fault: str) -> None:
    """Also where what runs of the first would suffice if it served (`churn` keeps it no more)."""

    class Partly(Fleet):
        def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
            bad = target.ref == "shop/node"
            self.startup_s = 1e9 if bad and fault == "never comes" else 5.0
            self.crashed = crashing(1, 3) if bad and fault == "crashes" else lambda at_s: 0
            return super().observe(target, now_s, since_s)

    run = make(Partly(), prices=[price(), price("dear", "0.30")])
    plans = run.run(20)
    ready = {row["offer_id"]: row["ready"] for row in plans[-1]["capacity"]}
    assert (ready, plans[-1]["feasible"]) == ({"dear": NEEDED, "node": 0}, True)


@pytest.mark.parametrize("ticks", [2, 5])
def test_of_two_offers_that_flap_in_turn_neither_counts_once_both_have_lost_twice(
    make: Make, ticks: int
) -> None:
    """An offer that was left for the other is no fresh one when it is bought again."""

    class InTurn(Fleet):
        def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
            turn = int((now_s - START_S) / TICK_S) // ticks
            up = now_s < START_S + 60 or turn % 2 == (target.ref == "shop/node")
            self.crashed = lambda at_s: 0 if up else 99
            return super().observe(target, now_s, since_s)

    plans = make(InTurn(), prices=[price(), price("dear", "0.30")]).run(70)
    short = [plan for plan in plans[6:] if sum(row["ready"] for row in plan["capacity"]) < NEEDED]
    assert len(short) > 25
    # each offer's first loss and second launch may be what they look like: an interruption, a start
    assert sum(plan["feasible"] for plan in short) <= 8
    assert not any(plan["feasible"] for plan in short if plan["tick"] > FIRST + 40)


@pytest.mark.parametrize("fault", ["refused", "partly"])
@pytest.mark.parametrize("failing", [2, 4])
def test_the_dearest_offer_stands_in_where_all_cheaper_ones_of_its_size_fail(
    make: Make, fault: str, failing: int
) -> None:
    """Of offers of one size a purchase looks at the cheapest two: those that fail are not among them."""

    class Partly(Fleet):
        def apply(self, command: Record, now_s: float) -> Result:
            self.grants = lambda count: count if command["offer_id"] == "dear" else min(count, 1)
            if fault == "refused" and command["offer_id"] != "dear":
                raise Rejected("quota exceeded")
            return super().apply(command, now_s)

    cheap = [price(f"node-{number}", f"0.1{number}") for number in range(failing)]
    run = make(Partly(), prices=[*cheap, price("dear", "0.30")])
    plans = run.run(12)
    ready = {row["offer_id"]: row["ready"] for row in plans[-1]["capacity"]}
    assert (sum(ready.values()) >= NEEDED, plans[-1]["feasible"]) == (True, True)
    assert ready["dear"] >= NEEDED - (failing if fault == "partly" else 0)


def test_more_than_was_asked_for_is_named_so_and_asked_back(make: Make) -> None:
    run = make(Fleet(grants=lambda count: count + 4))
    plans = run.run(30)
    assert set(states(plans)) == {"", "unreleased"}
    assert {run.state(plan)["state"] for plan in plans[10:]} == {"unreleased"}
    assert all(plan["feasible"] for plan in plans)
    assert "7 instances run where 3 were commanded" in plans[-1]["reason"]
    pauses = [b - a for (a, _), (b, _) in pairwise(run.issued()) if a > 60]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60


def test_what_an_autoscaler_holds_above_its_floor_is_not_asked_back(make: Make) -> None:
    """It serves, and nothing is wrong: the floor is commanded no more once it is what is needed."""

    class Autoscaled(Fleet):
        def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
            seen = super().observe(target, now_s, since_s)
            return replace(seen, ready=seen.ready + 4, autoscaled=4)

    run = make(Autoscaled())
    plans = run.run(30)
    assert set(states(plans)) == {""}
    assert plans[-1]["capacity"][0]["autoscaled"] == 4
    assert max(at_s for at_s, _ in run.issued()) <= 60


@pytest.mark.parametrize(
    "until", [{"commitment_end": datetime.fromtimestamp(START_S + 120, UTC)}, {"launch_failure": 1.0}]
)
def test_what_replaces_an_offer_that_is_not_to_be_had_any_more_does_not_run_beside_it(
    make: Make, until: Record
) -> None:
    """Also where what is left costs nothing more, as of reserved instances: `churn` keeps it no longer."""
    owned: Record = {"tier": "RESERVED", "owned_count": NEEDED}
    run = make(Fleet(), prices=[price(amount="0.05", **owned), price("dear", "0.30")])
    run.inputs.put(
        "prices", "price", price(amount="0.05", version=2, valid_from_tick=FIRST + 12, **owned, **until)
    )
    plans = run.run(20)
    ready = {row["offer_id"]: row["ready"] for row in plans[-1]["capacity"]}
    assert (ready, plans[-1]["feasible"]) == ({"dear": NEEDED, "node": 0}, True)
    assert min(sum(row["ready"] for row in plan["capacity"]) for plan in plans[6:]) >= NEEDED


def test_a_deleted_target_is_made_again(make: Make) -> None:
    fleet = Fleet()
    run = make(fleet)
    plans = run.run(20, lambda at_s: fleet.groups.clear() if at_s == 100 else None)
    gone = next(plan for plan in plans if run.state(plan)["state"] == "gone")
    assert gone["commands_issued"] == 1
    assert (plans[-1]["feasible"], plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)


@pytest.mark.parametrize("fault", ["deleted", "scaled to one"])
def test_what_a_paused_policy_leaves_undone_is_not_served(make: Make, fault: str) -> None:
    fleet = Fleet()

    def undo(at_s: float) -> None:
        if at_s == 150 and fault == "deleted":
            fleet.groups.clear()
        elif at_s == 150:
            fleet.resize(1, START_S + at_s)

    run = make(fleet)
    run.run(10)
    run.inputs.put("policies", "policy", policy(mode="paused", version=2, valid_from_tick=FIRST + 10))
    undone = run.run(20, undo)[16:]
    assert not any(plan["feasible"] for plan in undone)
    assert {plan["confidence_planned"] for plan in undone} == {0.0}
    assert {"paused"} < set.intersection(*({*plan["guardrails"]} for plan in undone))
    run.inputs.put("policies", "policy", policy(version=3, valid_from_tick=FIRST + 30))
    run.run(4)
    assert (run.plans[-1]["feasible"], run.plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)


def test_a_size_that_somebody_else_set_as_wanted_is_commanded_once_and_then_ours(make: Make) -> None:
    fleet = Fleet()
    run = make(fleet)
    plans = run.run(20, lambda at_s: fleet.resize(NEEDED, START_S + at_s) if at_s == 100 else None)
    assert [plan["tick"] - FIRST for plan in plans if "conflict" in plan["guardrails"]] == [11]
    assert [order for order in run.issued() if order[0] >= 100] == [(110, NEEDED)]
    assert states(plans)[-1] == ""


def test_a_target_of_which_nothing_is_wanted_may_be_deleted(make: Make) -> None:
    fleet = Fleet()
    run = make(fleet, prices=[price(), price("dear", "0.30")])
    run.inputs.put("prices", "price", price(amount="0.90", version=2, valid_from_tick=FIRST + 10))
    plans = run.run(25, lambda at_s: fleet.groups.pop("shop/node") and None if at_s == 200 else None)
    assert run.state(plans[18])["in_force"] == 0
    assert {run.state(plan)["state"] for plan in plans} == {""}
    assert not plans[-1]["excluded"]
    assert [c["offer_id"] for c in run.commands if c["epoch"] >= FIRST + 20] == []


def test_while_an_actuator_is_down_no_promise_is_kept_and_with_an_empty_ledger_it_goes_on(make: Make) -> None:
    run = make(Fleet(), event_time=False)
    run.down = lambda at_s: 60 < at_s < 260
    plans = run.run(26)
    assert not any(plan["feasible"] for plan in plans[14:])
    assert "nothing was reported of it" in plans[14]["reason"]
    assert all("; node: " in plan["reason"] for plan in plans[14:])  # also between two commands
    run.fleet.resize(0, START_S + 250)
    run.actuator_starts()
    run.run(14)
    assert (run.plans[-1]["feasible"], run.plans[-1]["capacity"][0]["ready"]) == (True, NEEDED)


def test_live_without_any_actuator_no_promise_is_kept(make: Make) -> None:
    run = make(Fleet(), event_time=False)
    run.inputs.observations.clear()
    run.down = lambda at_s: True
    plans = run.run(20)
    assert not any(plan["feasible"] for plan in plans[14:])
    assert "no actuator answered the command" in plans[-1]["reason"]
    assert plans[-1]["capacity"][0]["tick"] == -1


def test_other_offers_stand_in_for_one_that_does_not_deliver(make: Make) -> None:
    def refuse(command: Record, at_s: float) -> None:
        if command["offer_id"] == "node":
            raise Rejected("quota exceeded")

    run = make(Fleet(refuse), prices=[price(), price("dear", "0.30")])
    plans = run.run(12)
    ready = {row["offer_id"]: row["ready"] for row in plans[-1]["capacity"]}
    assert (ready, plans[-1]["feasible"]) == ({"dear": NEEDED, "node": 0}, True)
    assert "not bought more of node: the command was refused: quota exceeded" in plans[-1]["reason"]
    assert len([c for c in run.commands if c["offer_id"] == "node"]) == 1


def cores(amount: float) -> dict[str, Any]:
    return {"capacity": [{"metric": "cpu", "value": amount}]}


def test_of_an_instance_counts_what_is_reported_where_its_price_says_more(make: Make) -> None:
    with structlog.testing.capture_logs() as logs:
        run = make(Fleet(), prices=[price(**cores(4.0))])  # of two, as the fleet reports
        plans = run.run(30)
    assert run.state(plans[-1])["ready"] == NEEDED
    assert run.state(plans[-1])["allocatable"] == [{"metric": "cpu", "value": 2.0}]
    assert all(
        2 * run.state(plan)["ready"] >= CORES for plan in plans if plan["feasible"] and plan["seq"] > 3
    )
    why = "an instance is reported to have 2 of cpu: 2 replicas fit, and 4 by its price's capacity"
    assert f"node: {why}" in plans[-1]["reason"]
    assert [log["reason"] for log in logs if log["event"].startswith("instances are not as")] == [
        f"node: {why}"
    ]


@pytest.mark.parametrize(("says", "wanted"), [(4.0, NEEDED), (1.0, 5)])
def test_a_capacity_that_is_edited_acts_at_its_tick_and_leaves_nothing_short(
    make: Make, says: float, wanted: int
) -> None:
    run = make(Fleet())
    edited = price(version=2, valid_from_tick=FIRST + 20, **cores(says))
    run.run(19)
    run.inputs.put("prices", "price", edited)
    plans = run.run(11)
    desired = [plan["counts"][0]["desired"][0] for plan in plans[15:]]
    assert desired == [NEEDED] * 5 + [wanted] * 10
    assert all(plan["feasible"] for plan in plans)


def test_an_offer_found_smaller_is_not_bought_again_for_what_its_price_says(make: Make) -> None:
    run = make(Fleet(), prices=[price(**cores(4.0)), price("true", "0.06")])
    plans = run.run(40)
    ready = {row["offer_id"]: row["ready"] for row in plans[-1]["capacity"]}
    assert ready == {"node": 0, "true": NEEDED}
    assert max(tick_s for tick_s, _ in run.issued()) <= 100
    mended = price(version=2, valid_from_tick=FIRST + 41, amount="0.02")
    run.inputs.put("prices", "price", mended)
    assert run.run(6)[-1]["counts"][0] == {"offer_id": "node", "desired": [NEEDED] * 6}


def test_an_offer_of_which_by_its_reports_no_replica_fits_is_not_bought(make: Make) -> None:
    run = make(
        Fleet(), policies=[policy(unit=[{"metric": "cpu", "value": 3.0}])], prices=[price(**cores(4.0))]
    )
    plan = run.run(8)[-1]
    assert not plan["feasible"]
    assert (
        "a replica does not fit (an instance is reported to have 2 of cpu: 0 replicas fit" in plan["reason"]
    )


@pytest.mark.parametrize(
    ("killed_at", "says"), [(3, 2.0), (12, 2.0), (13, 2.0), (14, 2.0), (21, 2.0), (13, 4.0), (21, 4.0)]
)
def test_an_allocator_that_was_killed_sends_the_same_bytes(make: Make, killed_at: int, says: float) -> None:
    """Also live, where an observation is replaced within its tick: a plan keeps what it started from."""

    def run(restart: int | None) -> tuple[list[Record], list[Record]]:
        fleet = Fleet(until(60, Rejected("quota exceeded")))
        one = make(fleet, event_time=False, prices=[price(**cores(says))])
        snapshot: dict[bytes, bytes] = {}
        for number in range(25):
            if number == 12:
                fleet.resize(0, START_S + 120)
            one.tick(number)
            if restart is not None and number == restart - 2:
                snapshot = dict(one.allocator.blocks())
            if number == restart:
                plans, commands = list(one.plans), list(one.commands)
                # an observation that came since, of a tick that is planned again
                observation = one.inputs.observations["shop"]["node"][FIRST + number - 1]
                one.inputs.put(
                    "capacity.observed",
                    "capacity_observed",
                    observation | {"ready": 7, "generation": 99, "allocatable": []},
                )
                one.allocator = one.allocators()
                one.allocator.restore(snapshot)
                later = [plan for plan in plans if plan["tick"] > one.allocator.done]
                one.allocator.pinned = {
                    p["plan_id"]: p["versions"] | {n: p[n] for n in ("observed_tick", "capacity")}
                    for p in later
                }
                one.plans, one.commands = [], []
                for value in one.scenarios:
                    one.allocator.fold(value)
                assert one.plans == later
                assert one.commands == [c for c in commands if c["epoch"] > FIRST + number - 2]
                one.waiting = []
                one.plans, one.commands = plans, commands
                one.inputs.put("capacity.observed", "capacity_observed", observation)
        return one.plans, one.commands

    whole, restarted = run(None), run(killed_at)
    for name, ours, theirs in zip(("plan", "command"), restarted, whole, strict=True):
        assert [DEFAULT.encode(name, r) for r in ours] == [DEFAULT.encode(name, r) for r in theirs]


# The mathematics alone, under any provider.

OFFER = Offer("o", "p", "r", "z", "ON_DEMAND", {"cpu": 2.0}, 0.1, 5.0, 8.0, 10.0)
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto")
ANSWERS = st.one_of(st.none(), st.sampled_from(["APPLIED", "PARTIAL", "REFUSED", "FAILED", "RETRYING"]))
TICKS = st.lists(
    st.tuples(
        st.integers(0, 9),  # wanted
        st.integers(0, 9),  # ready
        st.integers(0, 9),  # pending
        ANSWERS,
        st.booleans(),  # somebody else changed it
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60)
@given(TICKS, st.sampled_from(["reassert", "hold"]))
def test_whatever_a_provider_does(
    ticks: list[tuple[int, int, int, str | None, bool]], on_conflict: str
) -> None:
    """Memory is JSON; served is never more than planned; what stays absent is asked for within the longest pause.

    After the provider has come to its senses, what is wanted is in force.
    """
    memory: dict[str, Any] = {}
    rules = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto", on_conflict=on_conflict)
    generation, tick = 0, 0

    def step(wanted: int, seen: Observed, policy: Policy) -> tuple[delivery.Delivery, dict[str, int]]:
        nonlocal memory
        clock = delivery.Clock((tick + 1) * 10.0, tick, 10.0)
        followed = delivery.follow([OFFER], {"o": seen}, policy, memory, clock)
        counts = followed.kept({"o": wanted})
        served = followed.served(counts)["o"]
        assert 0 <= served <= counts["o"]
        if not followed.orders["o"].trusted:
            assert served <= seen.running
        issued, orders = followed.issued(counts)
        memory = json.loads(json.dumps(delivery.memory_of(orders)))
        assert delivery.memory_of(orders) == memory
        return followed, issued

    for wanted, ready, pending, status, foreign in ticks:
        sent = memory.get("o", {}).get("sent") or [[-1, 0]]
        generation += foreign
        answer = None if status is None else Answer(sent[-1][0], status, "why", sent[-1][1] // 2, generation)
        set_by = -1 if foreign else sent[-1][0]
        seen = Observed(ready, pending, generation=generation, at_s=tick * 10.0, set_by=set_by, answer=answer)
        step(wanted, seen, rules)
        tick += 1
    running, set_by, answer, last = 0, -1, None, -100
    for _ in range(40):  # a sound provider, and a policy that reasserts
        seen = Observed(running, 0, generation=generation, at_s=tick * 10.0, set_by=set_by, answer=answer)
        _, issued = step(5, seen, POLICY)
        if issued:
            assert tick - last >= 1
            generation, running, set_by, last = generation + 1, 5, tick, tick
            answer = Answer(tick, "APPLIED", after=5, generation=generation)
        tick += 1
    assert running == 5
    assert not memory["o"]["state"]
