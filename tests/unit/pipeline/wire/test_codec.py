"""What is encoded is decoded, in both framings; what is not whole is poison."""

import io
import json
import struct
import threading
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from fastavro import schemaless_writer
from fastavro.schema import to_parsing_canonical_form
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from pipeline.errors import Poison, Unreachable
from pipeline.wire import codec
from pipeline.wire.codec import DEFAULT, Codec, Record, decode_body, published

NAMES = schemas.names()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Whatever an Avro type of ours can hold, as the decoder gives it back."""
    match kind:
        case list():
            return st.one_of(*(values(one) for one in kind))
        case {"logicalType": "timestamp-micros"}:
            return st.integers(-(10**15), 4 * 10**15).map(lambda us: EPOCH + timedelta(microseconds=us))
        case {"logicalType": "decimal", "precision": precision, "scale": scale}:
            limit = 10**precision - 1
            return st.integers(-limit, limit).map(lambda digits: Decimal(digits).scaleb(-scale))
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=3)
        case {"type": "record", "fields": fields}:
            return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in fields})
        case {"type": "enum", "symbols": symbols}:
            return st.sampled_from(symbols)
        case {"type": "fixed", "size": size}:
            return st.binary(min_size=size, max_size=size)
        case {"type": inner}:
            return values(inner)
        case _:
            return {
                "null": st.none(),
                "boolean": st.booleans(),
                "int": st.integers(-(2**31), 2**31 - 1),
                "long": st.integers(-(2**63), 2**63 - 1),
                "float": st.floats(allow_nan=False, width=32),
                "double": st.floats(allow_nan=False),
                "bytes": st.binary(max_size=20),
                "string": st.text(max_size=20),
            }[kind]


RECORDS = {name: values(published(name).schema) for name in NAMES}
ANY = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), RECORDS[name]))


class Registry(BaseHTTPRequestHandler):
    """The two calls of Confluent's Schema Registry API that a codec makes; schemas by id, from 1."""

    known: ClassVar[list[str]] = []

    def do_POST(self) -> None:  # /subjects/<subject>/versions
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path.startswith("/subjects/leadtime.")
        assert body.get("schemaType", "AVRO") == "AVRO"
        if body["schema"] not in self.known:
            self.known.append(body["schema"])
        self._answer(200, {"id": self.known.index(body["schema"]) + 1})

    def do_GET(self) -> None:  # /schemas/ids/<id>
        number = int(self.path.partition("?")[0].rpartition("/")[2])
        if number == 500:
            self._answer(500, {"error_code": 50001, "message": "Error in the backend data store"})
        elif number > len(self.known):
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        else:
            self._answer(200, {"schema": self.known[number - 1]})

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def registered(url: str) -> Codec:
    return Codec(url)


def reason(of: Codec, data: bytes) -> str:
    with pytest.raises(Poison) as raised:
        of.decode(data)
    return raised.value.reason


@settings(deadline=None, max_examples=200)
@given(ANY)
def test_a_record_comes_back_as_it_was_in_both_framings(
    registered: Codec, any_record: tuple[str, Record]
) -> None:
    name, record = any_record
    single, framed = DEFAULT.encode(name, record), registered.encode(name, record)
    assert single[:2] == b"\xc3\x01"
    assert framed[:1] == b"\x00"
    assert single[10:] == framed[5:]
    assert DEFAULT.decode(single) == (name, record)
    # Whoever has a registry reads what was written without one as well.
    assert registered.decode(single) == registered.decode(framed) == (name, record)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=15)
@given(st.data())
def test_what_is_cut_or_longer_is_poison(name: str, data: st.DataObject) -> None:
    body = DEFAULT.encode(name, data.draw(RECORDS[name]))
    cut = data.draw(st.integers(10, len(body) - 1))
    assert reason(DEFAULT, body[:cut]) == "truncated"
    assert reason(DEFAULT, body + data.draw(st.binary(min_size=1, max_size=9))) == "overlong"


@pytest.mark.parametrize(
    ("text", "other", "why", "detail"),
    [
        (b"\x06ann", b"\x06a\xffn", "not-utf8", "user is not in UTF-8: invalid start byte at its byte 1"),
        (
            b"\x06key",
            b"\x06k\xc3y",
            "not-utf8",
            "attributes is not in UTF-8: invalid continuation byte at its byte 1",
        ),
        (b"\x06ann\x00", b"\x06ann\x7e", "malformed", "IndexError: list index out of range"),
    ],
)
def test_a_body_that_is_wrong_within_is_not_truncated(
    text: bytes, other: bytes, why: str, detail: str
) -> None:
    record = {"ts": EPOCH, "app": "shop", "user": "ann", "kind": "API_CALL", "event_id": "e"}
    body = DEFAULT.encode("event", record | {"attributes": [{"key": "key", "value": "value"}]})
    assert body.count(text) == 1
    with pytest.raises(Poison) as raised:
        DEFAULT.decode(body.replace(text, other))
    assert (raised.value.reason, raised.value.detail) == (why, detail)


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.binary(max_size=60))
def test_any_bytes_are_a_record_or_poison(name: str, body: bytes) -> None:
    try:
        found, record = DEFAULT.decode(published(name).prefix + body)
    except Poison as poison:
        assert poison.reason in ("truncated", "overlong", "not-utf8", "malformed")  # noqa: PT017
    else:
        assert found == name
        assert record.keys() == {field["name"] for field in published(name).schema["fields"]}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"{", "unknown-framing"),
        (b"\xc3\x02" + b"\0" * 20, "unknown-framing"),
        (b"\xc3\x01" + b"\0" * 20, "unknown-schema"),
        (b"\xc3\x01\xab", "unknown-schema"),
        (b"\x00\x00\x00\x00\x01", "unknown-schema"),  # no registry is set
    ],
)
def test_what_has_no_known_schema_is_poison(data: bytes, why: str) -> None:
    assert reason(DEFAULT, data) == why


def test_an_id_that_the_registry_does_not_know_is_poison(registered: Codec, url: str) -> None:
    assert reason(registered, b"\x00\x00\x00") == "unknown-schema"
    assert reason(registered, b"\x00" + (400).to_bytes(4, "big")) == "unknown-schema"
    foreign = {"type": "record", "name": "Other", "namespace": "elsewhere", "fields": []}
    number = SchemaRegistryClient({"url": url}).register_schema(
        "leadtime.x", Schema(json.dumps(foreign), "AVRO")
    )
    assert reason(registered, b"\x00" + number.to_bytes(4, "big")) == "unknown-schema"


def test_a_registry_that_fails_is_not_the_records_fault(
    registered: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = "confluent_kafka.schema_registry._sync.schema_registry_client"
    monkeypatch.setattr(f"{client}.full_jitter", lambda *_: 0)  # it tries thrice, seconds apart
    with pytest.raises(Unreachable, match="schema registry http://127"):
        registered.decode(b"\x00" + (500).to_bytes(4, "big"))
    with pytest.raises(Unreachable, match="schema registry http://127"):
        Codec("http://127.0.0.1:9").encode("watermark", {"ts": EPOCH})


def test_an_older_writer_is_read_with_the_newest_schema(registered: Codec, url: str) -> None:
    """A producer that knows neither the last field nor the order in which we write them."""
    schema = dict(published("metric").schema)
    kept = [field for field in schema["fields"] if field["name"] not in ("producer_seq", "limits")]
    schema["fields"] = kept[::-1]
    number = SchemaRegistryClient({"url": url}).register_schema(
        "leadtime.metric-old", Schema(json.dumps(schema), "AVRO")
    )
    writer = codec._writer("metric", None, schema)
    full = DEFAULT.decode(
        DEFAULT.encode("metric", {"ts": EPOCH, "interval_s": 5.0, "app": "shop", "cpu": 2.0})
    )[1]
    out = io.BytesIO()
    schemaless_writer(out, writer.parsed, full)
    assert registered.decode(b"\x00" + number.to_bytes(4, "big") + out.getvalue()) == ("metric", full)
    assert decode_body(writer, out.getvalue()) == full


def test_a_missing_or_wrong_field_is_said_when_encoding() -> None:
    with pytest.raises(ValueError, match="ts"):
        DEFAULT.encode("watermark", {})
    with pytest.raises((ValueError, TypeError)):
        DEFAULT.encode("watermark", {"ts": "now"})


def test_the_fingerprint_is_in_little_endian_order() -> None:
    """By the Avro specification's own algorithm: CRC-64-AVRO of the canonical form, bit by bit."""
    fingerprint = 0xC15D213AA4D7A795
    for byte in to_parsing_canonical_form(dict(published("watermark").schema)).encode():
        low = (fingerprint ^ byte) & 0xFF
        for _ in range(8):
            low = (low >> 1) ^ (0xC15D213AA4D7A795 & -(low & 1))
        fingerprint = (fingerprint >> 8) ^ low
    assert DEFAULT.encode("watermark", {"ts": EPOCH})[:10] == b"\xc3\x01" + struct.pack("<Q", fingerprint)
