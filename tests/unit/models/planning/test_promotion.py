"""An app commands only when its plans, measured, were good enough."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.capacity import Policy, validate
from models.planning.allocate import Plan
from models.planning.guardrails import Telemetry
from models.planning.promotion import STAGES
from tests.unit.models.planning.test_allocate import OD, POLICY, TICKS, constant, plan_and_memory

GATED = replace(POLICY, promotion_gates={"coverage": 0.75, "decisions": 4})


def run(usage: list[float], policy: Policy = GATED, **changes: Any) -> list[Plan]:
    """Plans for a forecast of 9 cores, a tick each, with this usage of cores; NaN: nothing was measured."""
    memory: dict[str, Any] = {}
    plans = list[Plan]()
    for tick, cores in enumerate(usage):
        found, memory = plan_and_memory(
            constant(9.0), [OD], policy, memory=memory, tick=tick, now_s=300.0 * (tick + 1),
            usage=np.array([cores, 0.0]), **changes,
        )  # fmt: skip
        plans.append(found)
    return plans


def modes(plans: list[Plan]) -> str:
    return "".join(found.mode[0] for found in plans)


def test_an_app_is_promoted_step_by_step_and_falls_back():
    # a decision promises one step, two ticks ahead: the first is judged at tick 2, the fourth at tick 5
    plans = run([8.0] * 10)
    assert modes(plans) == "sssss" + "cccc" + "a"
    assert [found.promotion and found.promotion.coverage for found in plans[4:6]] == [None, 1.0]
    assert [found.promotion and found.promotion.decisions for found in plans[:6]] == [0, 0, 1, 2, 3, 4]
    # then of the last four one is missed (75 %, at the gate), then two (50 %): shadow, until four more are judged
    assert modes(run([8.0] * 10 + [10.0, 10.0] + [8.0] * 6))[9:] == "aa" + "ssss" + "ccc"


def test_what_the_policy_says_is_the_furthest():
    assert modes(run([8.0] * 14, replace(GATED, mode="canary"))) == "sssss" + "c" * 9
    assert modes(run([8.0] * 8, replace(GATED, mode="shadow"))) == "s" * 8
    assert modes(run([8.0] * 8, replace(GATED, mode="paused"))) == "p" * 8
    free = run([8.0] * 3, POLICY)
    assert (modes(free), free[0].promotion) == ("aaa", None)


def test_gates_judge_what_the_policy_asks_for_not_what_a_shortage_price_chose():
    # demand is evenly 0 to 10 cores; half of the scenarios is asked for, a dear shortage chooses nearly all of them
    even = constant(0.0)
    even[..., 0] = np.linspace(0, 10, len(even), dtype=np.float32)[:, None]
    priced = replace(GATED, confidence=0.5, shortage_price_h=1000.0)
    found, memory = plan_and_memory(even, [OD], priced)
    assert found.confidence_asked > 0.99
    assert found.required[1, 0] > 9.9
    (decision,) = memory["promotion"]["pending"]
    assert list(decision["required"]["cpu"].values()) == pytest.approx([5.0], abs=0.02)
    # 7 cores are within what was bought for, and beyond what was asked for: missed
    _, after = plan_and_memory(even, [OD], priced, memory=memory, tick=1002, usage=np.array([7.0, 0.0]))
    assert after["promotion"]["outcomes"] == "0"


def test_what_was_not_measured_is_not_judged():
    plans = run([8.0] * 4 + [float("nan")] * 2 + [8.0] * 2)
    assert plans[-1].promotion is not None
    assert (
        plans[-1].promotion.decisions == 4
    )  # of ticks 0, 1, 4 and 5; what 2 and 3 promised was not measured
    silent = run([8.0] * 6, telemetry=Telemetry(0, 10))
    assert silent[-1].promotion is not None
    assert silent[-1].promotion.decisions == 0


def test_all_steps_of_the_window_and_all_governed_metrics_count():
    slow = replace(OD, startup_p99_s=400.0)  # with a fast one, the window is 600 to 900 s
    memory: dict[str, Any] = {}
    covered = list[int]()
    for tick, memory_used in enumerate([0.0, 0.0, 0.0, 0.0, 5e10, 0.0, 0.0, 0.0]):
        found, memory = plan_and_memory(
            constant(9.0, 2e10),
            [OD, slow],
            GATED,
            memory=memory,
            tick=tick,
            usage=np.array([8.0, memory_used]),
        )
        assert found.promotion is not None
        covered.append(found.promotion.decisions)
    # decisions of ticks 0 to 4 are judged at 3 to 7; those of 1 and 2 promised something for tick 4, and missed it
    assert covered == [0, 0, 0, 1, 2, 3, 4, 4]
    assert memory["promotion"]["outcomes"] == "0011"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 20), max_size=25), st.sampled_from(["canary", "auto"]))
def test_memory_is_bounded_json_and_modes_rise_one_at_a_time(usage: list[float], mode: str):
    memory: dict[str, Any] = {}
    last = 0
    for tick, cores in enumerate(usage):
        found, memory = plan_and_memory(
            constant(9.0)[:10],
            [OD],
            replace(GATED, mode=mode),
            memory=memory,
            tick=tick,
            usage=np.array([cores, 0.0]),
        )
        stage = STAGES.index(found.mode)
        assert stage <= last + 1
        assert stage <= STAGES.index(mode)
        if found.promotion is not None and found.promotion.coverage is not None:
            assert stage == 0 or found.promotion.coverage >= 0.75
        last = stage
    kept = memory.get("promotion", {})
    assert json.loads(json.dumps(kept)) == kept
    assert len(kept.get("outcomes", "")) <= 4
    assert len(kept.get("pending", [])) <= len(TICKS)


@pytest.mark.parametrize(
    ("gates", "why"),
    [
        ({"speed": 1.0}, "promotion_gates must be of coverage, decisions, got 'speed'"),
        ({"decisions": 3.0}, "promotion_gates must give a coverage above 0 and at most 1"),
        ({"coverage": 1.1}, "promotion_gates must give a coverage above 0 and at most 1"),
        ({"coverage": 0.9, "decisions": 0.0}, "promotion_gates must give 1 to 10000 decisions, got 0"),
    ],
)
def test_gates_that_cannot_be_followed_are_refused(gates: dict[str, float], why: str):
    with pytest.raises(ValueError, match=f"^policy of shop: {why}$"):
        validate(replace(POLICY, promotion_gates=gates))
