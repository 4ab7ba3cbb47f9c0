"""What a plan becomes: commands in their order; and the versions of what it was made from."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.planning.allocate import Plan
from models.planning.sweep import NeedCurve, SweepNeed
from models.tick import Tick
from pipeline.security import signing_keys
from pipeline.settings import Settings
from pipeline.wire import plans, policies
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.typed import PublishedPlan
from tests.unit.pipeline.messages import TICK_S
from tests.unit.pipeline.stages.driving import FakeInputs, policy, price

LEVELS = st.lists(st.floats(0, 1), max_size=4)
ARMS = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=3)
NEEDS = st.integers(0, 2**31 - 1)


def settings(folder: Path) -> Settings:
    return Settings(bootstrap="none:1", demo_keys=True, tick_s=TICK_S, data_dir=folder)


def test_a_commitment_that_has_ended_owns_nothing() -> None:
    record = DEFAULT.decode(
        DEFAULT.encode(
            "price",
            price("kept", "RESERVED", "0.05", owned_count=2, commitment_end=datetime(2026, 1, 1, tzinfo=UTC)),
        )
    )[1]
    end_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    before, after = policies.offer_of(record, end_s - 1), policies.offer_of(record, end_s)
    assert (before.owned_count, before.ended) == (2, "")
    assert (after.owned_count, after.ended) == (0, "its commitment ended on 2026-01-01 00:00 UTC")


def test_a_price_is_stale_beyond_the_age_allowed() -> None:
    record = DEFAULT.decode(DEFAULT.encode("price", price("spot", "SPOT", "0.05", valid_from_tick=10)))[1]
    # valid from 600 s on: at 7,800 s it is two hours old
    fresh, old = (policies.offer_of(record, now_s, 7200.0, 60) for now_s in (7800.0, 7801.0))
    assert (fresh.stale, old.stale) == ("", "its price is 2.0 h old")
    assert policies.offer_of(record, 1e9, None, 60).stale == ""
    assert policies.offer_of(record | {"tier": "RESERVED"}, 1e9, 7200.0, 60).stale == ""  # paid already


def test_a_release_drains_and_growth_comes_first(tmp_path: Path) -> None:
    made = policies.policy_of(
        DEFAULT.decode(DEFAULT.encode("policy", policy("shop", scale_down="drain", drain_s=90.0)))[1]
    )
    prices = {offer: price(offer, "ON_DEMAND", "0.1") | {"region": ""} for offer in ("a", "b", "c")}
    record: Record = {
        "plan_id": "shop@7", "app": "shop", "mode": "canary", "tick": 7, "tick_s": TICK_S,
        "counts": [{"offer_id": o, "desired": [n]} for o, n in (("a", 1), ("b", 4), ("c", 2))],
    }  # fmt: skip
    key = signing_keys.signing_key(settings(tmp_path))
    issued = plans.command_records(record, made, prices, {"a": 3, "b": 2}, {}, key)
    assert [(c["target"]["ref"], c["desired"], c["drain_s"]) for c in issued] == [
        ("shop/b", 4, 0.0),
        ("shop/a", 1, 90.0),
    ]
    # the mode of the plan decides, which gates may have held back, not the policy's
    assert plans.command_records(record | {"mode": "shadow"}, made, prices, {}, {}, key) == []


def test_side_inputs_by_tick(tmp_path: Path) -> None:
    versions = [policy("shop", version=1), policy("shop", version=2, valid_from_tick=10, max=5)]
    inputs = FakeInputs(
        settings(tmp_path), [*versions, policy("shop", version=3, valid_from_tick=5, confidence=2.0)]
    )

    def at(tick: int, pinned: int | None = None) -> Record:
        found = inputs.at("policies", "shop", tick, pinned)
        assert found is not None
        return found

    assert [at(tick)["version"] for tick in (0, 9, 10, 99)] == [1, 1, 2, 2]
    assert at(99, pinned=1)["version"] == 1
    assert inputs.at("policies", "blog", 0) is None
    assert policies.policy_of(at(10)).max == 5


def published(**decided: Any) -> tuple[Record, PublishedPlan]:
    """The record of a plan as it comes off the topic, and as programs read it."""
    values: Record = {
        "confidence_asked": 0.99, "confidence_planned": 1.0, "required": np.zeros((6, 1), np.float32), "alpha": 0.99,
        "window": (60, 300), "replicas": (1,) * 6, "counts": {}, "cost": 0.0, "cost_at": {}, "binding": None,
        "reactive_floor": 0, "alternatives": (), "guardrails": (), "feasible": True, "reason": "",
    }  # fmt: skip
    versions = {"policy": "shop@1", "prices": [], "model": "m"}
    context = plans.PlanContext("shop", "shop", Tick(7, TICK_S), 0, 0, ("cpu",), versions, {}, (), 0, "USD")
    made = plans.plan_record(Plan(**values | decided), context, {})
    record = DEFAULT.decode(DEFAULT.encode("plan", made))[1]
    return record, PublishedPlan.model_validate(record)


def test_a_plan_without_a_learner_has_an_empty_curve() -> None:
    record, typed = published()
    assert record["curve"] == {"confidences": [], "prices": [], "arms": []}
    assert (record["confidence_of"], record["realised_share"]) == ("plan", None)
    assert (typed.curve.arms, typed.realised_share) == ((), None)


@given(LEVELS, LEVELS, ARMS, st.data())
def test_a_plans_curve_is_the_needs_of_every_arm_at_every_setting(
    confidences: list[float], prices: list[float], arms: list[str], data: st.DataObject
) -> None:
    settings = len(confidences) + len(prices)
    needs = {
        arm: [data.draw(st.lists(NEEDS, min_size=settings, max_size=settings)) for _ in ("wanted", "soon")]
        for arm in arms
    }
    swept = {
        arm: SweepNeed(np.array(wanted, np.int64), np.array(soon, np.int64), np.zeros(3))
        for arm, (wanted, soon) in needs.items()
    }
    record, typed = published(
        curve=NeedCurve(confidences, prices, swept), confidence_of="time", realised_share=0.991
    )
    curve = record["curve"]
    assert (curve["confidences"], curve["prices"]) == (confidences, prices)
    assert {need["arm"]: [need["wanted"], need["soon"]] for need in curve["arms"]} == needs
    assert [need["arm"] for need in curve["arms"]] == sorted(arms)
    assert (record["confidence_of"], record["realised_share"]) == ("time", 0.991)
    assert typed.model_dump(mode="json")["curve"] == curve
