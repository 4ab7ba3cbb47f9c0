from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Poison
from pipeline.wire import codec
from pipeline.wire.batch_decoder import decode_batch
from pipeline.wire.codec import DEFAULT, Codec, published
from tests.unit.pipeline.messages import event, metric, watermark

finite = st.one_of(st.none(), st.floats(allow_nan=False))
metrics = st.builds(
    lambda ts, user, cpu, limits, saturated, scope: metric(
        ts, user, cpu=cpu, saturated=saturated, scope=scope,
        limits=[{"metric": "cpu", "value": limit} for limit in limits],
    ),
    st.integers(-(2**62), 2**62),
    st.one_of(st.none(), st.text(max_size=80)),
    finite,
    st.lists(st.floats(allow_nan=False), max_size=3),
    st.one_of(st.none(), st.booleans()),
    st.sampled_from(["USER", "SHARED", "APP", "INSTANCE"]),
)  # fmt: skip


def damage(data: bytes, how: int, at: int, byte: int) -> bytes:
    at %= len(data)
    return [
        data[:at],
        data + bytes([byte]),
        data[:at] + bytes([byte]) + data[at + 1 :],
        b"",
        data + data[10:],
    ][how]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(metrics, min_size=1, max_size=8),
    st.lists(
        st.tuples(metrics, st.integers(0, 4), st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 12)),
        max_size=4,
    ),
)
def test_what_is_accepted_is_what_fastavro_accepts_and_neighbours_are_untouched(
    good: list[bytes], bad: list[tuple[bytes, int, int, int, int]]
) -> None:
    batch = list(good)
    for body, how, at, byte, place in bad:
        batch.insert(place % (len(batch) + 1), damage(body, how, at, byte))
    decoded, poisons = decode_batch(DEFAULT, batch, ("metric", "watermark"))
    rows: dict[int, tuple[str, dict[str, Any]]] = {}
    for name, (indices, frame) in decoded.items():
        for index, row in zip(indices.tolist(), frame.drop("ts").to_dicts(), strict=True):
            rows[index] = (name, row)
    assert sorted([*rows, *poisons]) == list(range(len(batch)))
    for index, value in enumerate(batch):
        if index in poisons:
            with pytest.raises(Poison) as caught:
                DEFAULT.decode(value)
            assert caught.value.reason == poisons[index].reason
            continue
        name, record = DEFAULT.decode(value)
        assert rows[index][0] == name
        for key in ("interval_s", "app", "user", "scope", "cpu", "limits", "saturated", "producer_seq"):
            if name == "metric":
                assert repr(rows[index][1][key]) == repr(record[key])  # NaN equals itself as text


def test_a_union_index_out_of_range_is_refused_though_polars_reads_it_as_a_value() -> None:
    body = metric(user="u", cpu=None)
    at = body.index(b"\x02\x02u")
    assert decode_batch(DEFAULT, [body], ("metric",))[1] == {}
    _, bad = decode_batch(DEFAULT, [body, body[:at] + b"\x04" + body[at + 1 :], body], ("metric",))
    assert list(bad) == [1]


def test_legal_avro_in_another_form_is_read() -> None:
    # An array may come in several blocks: 1 + 1 items here, where the canonical form has one block of two.
    one, two = (
        codec.encode(
            "event", {"ts": 0, "event_id": "", "app": "a", "user": "u", "kind": "OTHER", "attributes": items}
        )
        for items in ([{"key": "k", "value": "v"}], [{"key": "k", "value": "v"}] * 2)
    )
    item = b"\x02k\x02v"
    blocks = one.replace(b"\x02" + item + b"\x00", b"\x02" + item + b"\x02" + item + b"\x00")
    decoded, bad = decode_batch(DEFAULT, [one, blocks, two], ("event",))
    assert bad == {}
    _, frame = decoded["event"]
    assert frame["attributes"].list.len().to_list() == [1, 2, 2]


@pytest.mark.parametrize("count", [10**3, 10**9, 2**36, 2**61])
def test_an_array_that_claims_more_than_there_is(count: int) -> None:
    body = metric(limits=[{"metric": "cpu", "value": 4.0}])
    at = body.index(b"\x06cpu") - 1
    huge = bytearray()
    number = count << 1
    while number > 0x7F:
        huge.append(number & 0x7F | 0x80)
        number >>= 7
    huge.append(number)
    decoded, bad = decode_batch(DEFAULT, [body, body[:at] + huge + body[at + 1 :], body], ("metric",))
    assert list(bad) == [1]
    assert bad[1].reason == "truncated"
    np.testing.assert_array_equal(decoded["metric"][0], [0, 2])


def test_reasons() -> None:
    batch = [None, b"", b"xyz", b"\xc3\x01" + bytes(8), b"\x00\x00\x00\x00\x07body", event(), metric()[:12]]
    _, bad = decode_batch(DEFAULT, batch, ("metric", "watermark"))
    assert [bad[i].reason for i in range(7)] == [
        "empty", "empty", "unknown-framing", "unknown-schema", "unknown-schema", "unknown-schema", "truncated",
    ]  # fmt: skip


def test_both_framings_are_read_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = Codec("http://127.0.0.1:1")
    monkeypatch.setitem(registered._prefixes, "metric", b"\x00\x00\x00\x00\x09")
    registered._by_id[b"\x00\x00\x00\x09"] = published("metric")
    body = {"ts": 5, "interval_s": 1.0, "app": "a", "user": "u"}
    confluent, single = registered.encode("metric", body), codec.encode("metric", body)
    assert confluent[:5] == b"\x00\x00\x00\x00\x09"
    assert confluent[5:] == single[10:]
    decoded, bad = decode_batch(registered, [confluent, single, watermark(1)], ("metric", "watermark"))
    assert bad == {}
    np.testing.assert_array_equal(decoded["metric"][0], [0, 1])
    assert registered.decode(confluent) == registered.decode(single)
