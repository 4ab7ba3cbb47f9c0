"""Adjustments on the wire: the round trip, the signature, and why one is not followed."""

import io
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastavro import schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from models.capacity import Policy
from models.learning.adjustment import Adjustment, ExpertWeights
from pipeline.security.signing_keys import SigningKey, demo_key
from pipeline.wire.adjustments import (
    AdjustmentSpec,
    ArmEvidence,
    GateEvidence,
    LearnerEvent,
    RealisedShares,
    build,
    refusal,
    sign,
    spec_of,
    verify,
)
from pipeline.wire.codec import Record, _published, decode, encode

KEY = demo_key()
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"another key, for tests only.....".ljust(32)))
POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, version=3, hold_s_min=60.0, hold_s_max=900.0)
SPEC = AdjustmentSpec(
    app="shop",
    version=90,
    valid_from_tick=100,
    expires_tick=120,
    base_model="m@1",
    policy="shop@3",
    adjustment=Adjustment("lower", 0.95, hold_s=300.0, experts=ExpertWeights(0.75, 0.0, 0.25), speed=4.0),
)
FIGURES = st.floats(allow_nan=False)
SMALL = st.floats(allow_nan=False, width=32)
COUNTS = st.integers(0, 2**31 - 1)
OPTIONAL = st.none() | FIGURES
TICKS = st.integers(0, 2**62)
SPECS = st.builds(
    AdjustmentSpec,
    app=st.text(),
    version=TICKS,
    valid_from_tick=TICKS,
    expires_tick=TICKS,
    base_model=st.text(),
    policy=st.text(),
    adjustment=st.builds(
        Adjustment,
        arm=st.text(),
        confidence=FIGURES,
        shortage_price=OPTIONAL,
        hold_s=OPTIONAL,
        supply=OPTIONAL,
        experts=st.builds(ExpertWeights, FIGURES, FIGURES, FIGURES, FIGURES),
        speed=FIGURES,
    ),
    gate=st.builds(GateEvidence, FIGURES, TICKS, FIGURES, st.booleans()),
    model=st.text(),
    arms=st.lists(
        st.builds(ArmEvidence, st.text(), SMALL, SMALL, SMALL, SMALL, COUNTS, COUNTS), max_size=3
    ).map(tuple),
    events=st.lists(st.builds(LearnerEvent, TICKS, st.text()), max_size=3).map(tuple),
    realised=st.builds(RealisedShares, OPTIONAL, OPTIONAL, TICKS, OPTIONAL, OPTIONAL, TICKS),
    saving=OPTIONAL,
    saving_95=st.none() | st.tuples(FIGURES, FIGURES),
    reason=st.text(),
    reward=OPTIONAL,
    safe=st.booleans(),
)


def received(record: Record) -> Record:
    """As it comes off the topic."""
    return decode(encode("adjustment", record))[1]


def judge(record: Record, tick: int = 110, policy: Policy = POLICY) -> str | None:
    return refusal(received(record), app="shop", policy=policy, tick=tick, ring=KEY.keyring)


def adjusted(**change: Any) -> Record:
    """Signed, with other settings."""
    return build(replace(SPEC, adjustment=replace(SPEC.adjustment, **change)), KEY)


@given(SPECS)
def test_the_wire_keeps_the_specification_and_the_signature(spec: AdjustmentSpec) -> None:
    record = received(build(spec, KEY))
    assert spec_of(record) == spec
    assert verify(record, KEY.keyring)
    assert not verify(record, OTHER.keyring)


def test_what_is_left_alone_has_the_schemas_defaults() -> None:
    record = received(build(SPEC, KEY))
    assert record["profiler"] == {"scale": 1.0, "speed": 1.0, "weights": []}
    assert record["simulator"] == {"margin": 1.0, "correlation": 1.0}


def test_one_in_time_and_range_is_followed() -> None:
    assert judge(build(SPEC, KEY)) is None
    assert judge(build(replace(SPEC, adjustment=Adjustment.static(POLICY)), KEY)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"valid_from_tick": 0},
        {"expires_tick": 2**40},
        {"policy": "shop@4"},
        {"allocator": {"confidence": 0.5, "shortage_price": None, "hold_s": None, "supply": None}},
        {"speed": 16.0},
        {"reason": "trust me"},
        {"key_id": OTHER.key_id},
        {"key_id": ""},
        {"signature": b""},
        {"signature": b"\x00" * 64},
        {"schema_version": 999},
    ],
)
def test_whatever_is_changed_or_unsigned_is_forged(change: Record) -> None:
    said = judge(build(SPEC, KEY) | change)
    assert said is not None
    assert said.startswith("forged: no signature by a trusted key fits (key ")


def test_a_key_that_is_not_trusted_is_forged_under_its_own_and_under_a_trusted_name() -> None:
    record = sign(build(SPEC, KEY), OTHER)
    assert judge(record) == f"forged: no signature by a trusted key fits (key {OTHER.key_id})"
    assert (
        judge(record | {"key_id": KEY.key_id})
        == f"forged: no signature by a trusted key fits (key {KEY.key_id})"
    )


@pytest.mark.parametrize(
    ("tick", "why"),
    [
        (99, "not-yet-valid: from tick 100 on, tick 99 is planned"),
        (100, None),
        (120, None),
        (121, "expired: held to tick 120, tick 121 is planned"),
    ],
)
def test_first_and_last_tick_are_inclusive(tick: int, why: str | None) -> None:
    assert judge(build(SPEC, KEY), tick) == why


def test_another_apps_is_refused() -> None:
    assert judge(build(replace(SPEC, app="blog"), KEY)) == "unknown-app: it is for blog, shop is planned"


def test_a_policy_that_was_edited_since_is_named() -> None:
    edited = replace(POLICY, version=4)
    assert (
        judge(build(SPEC, KEY), policy=edited) == "other-policy: it was made for shop@3, shop@4 is in force"
    )
    default = replace(POLICY, app="*", version=2)
    assert judge(build(SPEC, KEY), policy=default) == "other-policy: it was made for shop@3, *@2 is in force"
    assert judge(build(replace(SPEC, policy="*@2"), KEY), policy=default) is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (adjusted(confidence=1.0), "confidence must be above 0 and below 1, got 1.0"),
        (adjusted(confidence=float("nan")), "confidence must be above 0 and below 1, got nan"),
        (adjusted(hold_s=30.0), "hold_s must be 60 to 900 seconds, got 30.0"),
        (adjusted(hold_s=float("inf")), "hold_s must be 60 to 900 seconds, got inf"),
        (adjusted(experts=ExpertWeights(1.0, 0.0, 1.5)), "weight of same_time must be in 0 to 1, got 1.5"),
        (
            adjusted(experts=ExpertWeights(1.0, 0.25, 0.0)),
            "weights of the experts must be at most 1 together, got 1.25",
        ),
        (
            build(replace(SPEC, arms=(ArmEvidence("late", breach=float("nan")),)), KEY),
            "breach of arm late must be a finite number, got nan",
        ),
        (
            build(replace(SPEC, realised=RealisedShares(plans_day=1.5)), KEY),
            "plans_day must be in 0 to 1, got 1.5",
        ),
        (
            build(replace(SPEC, gate=GateEvidence(e_value=float("inf"))), KEY),
            "e_value must be a finite number, got inf",
        ),
        (
            build(replace(SPEC, saving_95=(0.0, float("nan"))), KEY),
            "saving_95 must be a finite number, got nan",
        ),
        (sign(build(SPEC, KEY) | {"saving_95": [0.1]}, KEY), "saving_95 must be two numbers, got 1"),
    ],
)
def test_what_is_out_of_range_is_named(record: Record, why: str) -> None:
    assert judge(record) == f"out-of-range: {why}"


def test_one_of_the_first_schema_is_read_and_refused() -> None:
    first = _published()["adjustment"][0]
    body = io.BytesIO()
    old: Record = {
        "schema_version": 1, "app": "shop", "version": 7, "valid_from_tick": 0, "base_model": "m@1",
        "expires_tick": 10**6, "profiler": {}, "simulator": {},
    }  # fmt: skip
    schemaless_writer(body, first.parsed, old)
    record = decode(first.prefix + body.getvalue())[1]
    said = refusal(record, app="shop", policy=POLICY, tick=110, ring=KEY.keyring)
    assert said == "older-schema: version 1, 2 or newer is wanted"
