import struct
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pipeline.security.signing_keys import SigningKey, demo_key
from pipeline.wire.codec import decode, encode
from pipeline.wire.commands import Ledger, Target, command_id, final, refusal, sign, signed_bytes, verify
from tests.unit.pipeline import messages

KEY = demo_key()
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"another key, for tests only.....".ljust(32)))
TARGET = Target(provider="local", ref="shop/od-4", region="eu")


def command(desired: int = 3, epoch: int = 10, **more: Any) -> dict[str, Any]:
    """Of tick `epoch`, for `TARGET`; at least one instance."""
    values: dict[str, Any] = {"plan_id": f"plan-{epoch}", "target": TARGET, "bounds": (1, 8)}
    return messages.command(epoch, desired, **values | more)


def judge(
    record: dict[str, Any], ledger: Ledger | None = None, now_s: float = 660.0, **more: Any
) -> str | None:
    return refusal(record, now_s=now_s, ledger=ledger or Ledger(), ring=KEY.keyring, **more)


def test_the_id_is_a_function_of_plan_target_and_count() -> None:
    # b2sum -l 128 of "plan-10\nshop/od-4\n3\n"
    assert command()["id"] == command_id("plan-10", "shop/od-4", 3) == "bc267c4b73dc022de6760d85cf3cbbd5"
    assert command(order=5)["id"] == command()["id"]
    assert len({command(3)["id"], command(4)["id"], command(3, epoch=11)["id"]}) == 3


def test_the_wire_keeps_the_signature() -> None:
    signed = command(resources={"memory": 2.0, "cpu": 1.0}, expected_generation=7)
    _, received = decode(encode("command", signed))
    assert received == signed
    assert verify(received, KEY.keyring)


def test_the_signed_bytes_are_the_avro_body_with_an_empty_signature() -> None:
    record = command()
    body = encode("command", record)[10:]  # after the single-object header
    # The signature is the last field: its length (64, zigzag 128 = 80 01), 64 bytes; empty: one zero byte.
    assert signed_bytes(record) == body[:-66] + b"\x00"
    assert body[-66:-64] == b"\x80\x01"
    assert body[:1] == b"\x06"  # schema_version 3, zigzag
    assert struct.pack("<d", record["drain_s"]) in body


@pytest.mark.parametrize(
    "change",
    [
        {"desired": 4},
        {"epoch": 11},
        {"max_allowed": 99},
        {"dry_run": True},
        {"plan_id": "another"},
        {"key_id": OTHER.key_id},
        {"signature": b""},
        {"signature": b"\x00" * 64},
        {"schema_version": 999},
        {"target": replace(TARGET, ref="shop/od-5").record()},
    ],
)
def test_whatever_is_changed_is_forged(change: dict[str, Any]) -> None:
    assert judge(command() | change) == "forged"


def test_a_key_that_is_not_trusted_is_forged_under_its_own_and_under_a_trusted_name() -> None:
    assert judge(sign(command(), OTHER)) == "forged"
    assert judge(sign(command(), OTHER) | {"key_id": KEY.key_id}) == "forged"


def test_a_command_in_order_is_accepted() -> None:
    assert judge(command()) is None


def test_expired_at_the_moment_of_expiry() -> None:
    # issued at 11 * 60 = 660 s, good for 300 s
    assert judge(command(), now_s=959.9) is None
    assert judge(command(), now_s=960.0) == "expired"


def test_replayed_before_anything_that_time_has_changed() -> None:
    ledger = Ledger()
    first = command()
    ledger.accept(TARGET.ref, 10, first["id"])
    assert judge(first, ledger, now_s=1e9) == "replayed"


@pytest.mark.parametrize(("epoch", "reason"), [(9, "older-epoch"), (10, "older-epoch"), (11, None)])
def test_an_epoch_must_be_newer_even_with_another_id(epoch: int, reason: str | None) -> None:
    ledger = Ledger()
    ledger.accept(TARGET.ref, 10, command(3)["id"])
    assert judge(command(4, epoch=epoch), ledger) == reason


def test_epochs_are_per_target() -> None:
    ledger = Ledger()
    ledger.accept("shop/spot-4", 99, "another")
    assert judge(command(), ledger) is None


@pytest.mark.parametrize(
    ("desired", "bounds", "reason"),
    [
        (0, (1, 8), "out-of-bounds"),
        (1, (1, 8), None),
        (8, (1, 8), None),
        (9, (1, 8), "out-of-bounds"),
        (-1, (-5, 8), "out-of-bounds"),
        (0, (0, 0), None),
    ],
)
def test_bounds_are_inclusive_and_nothing_is_negative(
    desired: int, bounds: tuple[int, int], reason: str | None
) -> None:
    assert judge(command(desired, bounds=bounds)) == reason


@pytest.mark.parametrize(
    ("expected", "generation", "reason"),
    [(None, 5, None), (5, 5, None), (5, 6, "conflict"), (5, None, None)],
)
def test_somebody_elses_change_is_a_conflict(
    expected: int | None, generation: int | None, reason: str | None
) -> None:
    assert judge(command(expected_generation=expected), generation=generation) == reason


def test_a_forgotten_id_is_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.wire.commands.REMEMBERED", 1)
    ledger = Ledger()
    for epoch in (10, 11):
        ledger.accept(TARGET.ref, epoch, command(epoch=epoch)["id"])
    assert ledger.ids == OrderedDict({command(epoch=11)["id"]: None})
    assert judge(command(epoch=10), ledger) == "older-epoch"


SIGNED = {(desired, epoch): command(desired, epoch) for desired in range(4) for epoch in range(10, 16)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(SIGNED)), st.booleans(), st.floats(600, 2000), st.sampled_from([3, None])
        ),
        max_size=40,
    )
)
def test_no_sequence_turns_an_epoch_back_or_follows_one_twice(
    sequence: list[tuple[tuple[int, int], bool, float, int | None]],
) -> None:
    ledger = Ledger()
    followed: list[tuple[str, int]] = []
    for which, forged, now_s, generation in sequence:
        record: dict[str, Any] = {**SIGNED[which], "desired": 1_000} if forged else SIGNED[which]
        before = dict(ledger.epochs)
        if judge(record, ledger, now_s, generation=generation) is None:
            ledger.accept(record["target"]["ref"], record["epoch"], record["id"])
            followed.append((record["id"], record["epoch"]))
            assert not forged
        else:
            assert ledger.epochs == before
        assert all(ledger.epochs[ref] >= epoch for ref, epoch in before.items())
    epochs = [epoch for _, epoch in followed]
    assert epochs == sorted(set(epochs))
    assert len({identity for identity, _ in followed}) == len(followed)


def test_a_ledger_rebuilt_in_any_order_is_the_same_for_epochs() -> None:
    one, two = Ledger(), Ledger()
    for epoch in (10, 12, 11):
        one.accept("a/b", epoch, str(epoch))
    for epoch in (12, 10, 11, 12):
        two.accept("a/b", epoch, str(epoch))
    assert one.epochs == two.epochs == {"a/b": 12}


def test_a_later_refusal_does_not_overrule_what_was_done() -> None:
    def said(identity: str, status: str, reason: str = "") -> dict[str, Any]:
        return {"command_id": identity, "status": status, "reason": reason}

    outcome = final(
        [
            said("a", "RETRYING"),
            said("a", "APPLIED"),
            said("a", "REFUSED", "replayed"),
            said("b", "REFUSED", "forged"),
            said("b", "APPLIED"),
            said("b", "REFUSED", "forged"),
            said("c", "REFUSED", "expired"),
        ]
    )
    assert {identity: result["status"] for identity, result in outcome.items()} == {
        "a": "APPLIED",
        "b": "APPLIED",
        "c": "REFUSED",
    }
