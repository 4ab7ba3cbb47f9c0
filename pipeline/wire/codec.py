"""Encodes and decodes single records in Avro; `pipeline.wire.batch_decoder` decodes batches of raw records.

Two framings, told apart by their first byte and both readable everywhere:
- single-object encoding: `C3 01`, the schema's CRC-64-AVRO fingerprint (8 bytes, little-endian), the body
  (Avro specification 1.12, "Single-object encoding"); needs no registry and is the default;
- Confluent wire format: `00`, the schema's id in a registry (4 bytes, big-endian), the body; written when a
  registry's URL is set.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.common._httpx_compat import (  # pyright: ignore[reportPrivateUsage]
    httpx,  # what its client raises when nobody answers comes as it is
)
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint, to_parsing_canonical_form

import schemas
from models import epoch
from pipeline.errors import Poison, Unreachable

SINGLE_OBJECT = b"\xc3\x01"
CONFLUENT = b"\x00"
Record = dict[str, Any]


@dataclass(frozen=True)
class Writer:
    """The schema that a record was written with.

    Attributes:
        name: of the record, as the folder in `schemas/` is called.
        version: as published; None for one that only a registry knows.
        schema: as JSON.
        parsed: as fastavro wants it.
        prefix: the single-object header.
    """

    name: str
    version: int | None
    schema: Mapping[str, Any]
    parsed: Any
    prefix: bytes


def _writer(name: str, version: int | None, schema: dict[str, Any]) -> Writer:
    crc = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    # fastavro gives the fingerprint's bytes in little-endian order already, as hex.
    return Writer(name, version, schema, _parsed(schema), SINGLE_OBJECT + bytes.fromhex(crc))


def _parsed(schema: dict[str, Any]) -> Any:
    """As fastavro wants it, which takes the default of bytes as it stands: a schema has text, a character a byte."""
    parsed: Any = parse_schema(schema)
    for field in parsed["fields"]:
        if "default" in field:
            field["default"] = _default(field["type"], field["default"])
    return parsed


def _default(kind: Any, default: Any) -> Any:
    """The default of a field, with bytes as bytes, also in a record."""
    if kind == "bytes":
        return default.encode("latin-1")
    if isinstance(kind, dict) and kind.get("type") == "record":
        return {
            field["name"]: _default(field["type"], default[field["name"]])
            for field in kind["fields"]
            if field["name"] in default
        }
    return default


@cache
def published(name: str) -> Writer:
    """The newest version of a record's schema: what is written, and what readers see."""
    return _published()[name][-1]


@cache
def _published() -> dict[str, list[Writer]]:
    return {
        name: [_writer(name, number, schema) for number, schema in schemas.versions(name).items()]
        for name in schemas.names()
    }


@cache
def _by_prefix() -> dict[bytes, Writer]:
    return {writer.prefix: writer for group in _published().values() for writer in group}


@cache
def _by_full_name() -> dict[str, str]:
    """Record names by the schema's full name: `leadtime.Metric` -> `metric`."""
    return {
        f"{group[-1].schema['namespace']}.{group[-1].schema['name']}": name
        for name, group in _published().items()
    }


@cache
def _registry(url: str) -> SchemaRegistryClient:
    """Client of the registry, cached so that all codecs of a process share one connection."""
    return SchemaRegistryClient({"url": url})


class Codec:
    """Encodes records with one framing, decodes both framings.

    Args:
        registry_url: of a Confluent-compatible schema registry; None: single-object encoding.
    """

    def __init__(self, registry_url: str | None = None) -> None:
        self.registry_url = registry_url
        self._registry = _registry(registry_url) if registry_url else None
        self._prefixes: dict[str, bytes] = {}
        self._by_id: dict[bytes, Writer] = {}

    def prefix(self, name: str) -> bytes:
        """Bytes of the framing that precede the Avro body of a record of this name.

        Raises:
            Unreachable: the registry does not answer, or refuses the schema.
        """
        if name not in self._prefixes:
            writer = published(name)
            if self._registry is None:
                self._prefixes[name] = writer.prefix
            else:
                try:
                    number = self._registry.register_schema(
                        f"leadtime.{name}", Schema(json.dumps(writer.schema), "AVRO")
                    )
                except (SchemaRegistryError, httpx.TransportError) as error:
                    raise Unreachable(f"schema registry {self.registry_url}: {error}") from None
                self._prefixes[name] = CONFLUENT + number.to_bytes(4, "big")
        return self._prefixes[name]

    def encode(self, name: str, record: Record) -> bytes:
        """Encode a record: framing, then Avro body.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        out = io.BytesIO()
        out.write(self.prefix(name))
        schemaless_writer(out, published(name).parsed, record)
        return out.getvalue()

    def split(self, data: bytes) -> tuple[Writer, int]:
        """The schema that a message was written with, and where its body begins.

        Raises:
            Poison: `empty`, `unknown-framing` or `unknown-schema`.
        """
        if data[:2] == SINGLE_OBJECT:
            writer = _by_prefix().get(bytes(data[:10]))
            if writer is None:
                raise Poison("unknown-schema", f"fingerprint {bytes(data[2:10]).hex()}")
            return writer, 10
        if data[:1] == CONFLUENT:
            return self._registered(bytes(data[1:5])), 5
        raise Poison("unknown-framing" if data else "empty", f"first bytes {bytes(data[:2]).hex()}")

    def _registered(self, number: bytes) -> Writer:
        if number not in self._by_id:
            if self._registry is None or len(number) < 4:
                raise Poison("unknown-schema", "a registry's id, and no registry is set")
            try:
                schema = json.loads(str(self._registry.get_schema(int.from_bytes(number, "big")).schema_str))
            except SchemaRegistryError as error:
                if error.http_status_code != 404:
                    raise Unreachable(f"schema registry {self.registry_url}: {error}") from None
                raise Poison("unknown-schema", f"id {int.from_bytes(number, 'big')}") from None
            except httpx.TransportError as error:
                raise Unreachable(f"schema registry {self.registry_url}: {error}") from None
            name = _by_full_name().get(f"{schema.get('namespace')}.{schema.get('name')}")
            if name is None:
                raise Poison("unknown-schema", f"a record {schema.get('name')!r}")
            self._by_id[number] = _writer(name, None, schema)
        return self._by_id[number]

    def with_defaults(self, name: str, record: Record) -> Record:
        """A record as it is read: with the defaults of its schema.

        Raises:
            ValueError: as `encode`.
        """
        return self.decode(self.encode(name, record))[1]

    def decode(self, data: bytes) -> tuple[str, Record]:
        """The record's name and its fields, by the newest schema (defaults filled).

        Raises:
            Poison: `empty`, `unknown-framing`, `unknown-schema`, or a reason of `decode_body`.
        """
        writer, start = self.split(data)
        return writer.name, decode_body(writer, data[start:])


def decode_body(writer: Writer, body: bytes) -> Record:
    """One Avro body, read by the newest schema.

    Raises:
        Poison: `truncated` where the body ends within a field, `overlong` where bytes follow the record, `not-utf8`
            where a text is not in UTF-8, `malformed` where an index or a length is out of range, or `timestamp-old` or
            `timestamp-ahead` where a time is beyond the years 1 to 9999, which fastavro, like Python, cannot hold.
    """
    stream = io.BytesIO(body)
    try:
        reader = published(writer.name)
        record = schemaless_reader(stream, writer.parsed, None if reader is writer else reader.parsed)
    except OverflowError as error:
        raise _beyond_calendar(writer, body) or Poison("malformed", f"OverflowError: {error}") from None
    except UnicodeDecodeError as error:
        where = _not_utf8(writer, body)
        raise Poison(
            "not-utf8", f"{where} is not in UTF-8: {error.reason} at its byte {error.start}"
        ) from None
    except (EOFError, ValueError, IndexError, KeyError, TypeError) as error:
        at_end = isinstance(error, EOFError | IndexError) and stream.tell() == len(body)
        raise Poison("truncated" if at_end else "malformed", f"{type(error).__name__}: {error}") from None
    except MemoryError:
        raise Poison("malformed", "a length beyond memory") from None
    if stream.tell() != len(body):
        raise Poison("overlong", f"{len(body) - stream.tell()} bytes after the record")
    return cast("Record", record)


def _beyond_calendar(writer: Writer, body: bytes) -> Poison | None:
    """What is wrong with a body whose time is no date, from the number that it holds; None if it has no such time."""
    try:
        numbers = schemaless_reader(io.BytesIO(body), _numeric(json.dumps(writer.schema)), None)
    except (EOFError, ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError):
        return None
    for field, value in cast("Record", numbers).items():
        if (
            _is_time(writer.schema, field)
            and isinstance(value, int)
            and not epoch.YEARS_US[0] <= value <= epoch.YEARS_US[1]
        ):
            return Poison("timestamp-old" if value < 0 else "timestamp-ahead", unit_detail(field, value))
    return None


def _not_utf8(writer: Writer, body: bytes) -> str:
    """Name of the first field that has a text which is not in UTF-8; "a text" where the rest cannot be read."""

    def is_text(value: Any) -> bool:
        match value:
            case dict():
                return all(map(is_text, cast("dict[str, Any]", value).values()))
            case list():
                return all(map(is_text, cast("list[Any]", value)))
            case bytes():
                return value.decode(errors="replace").encode() == value
            case _:
                return True

    schema = json.dumps(writer.schema).replace('"string"', '"bytes"')
    try:
        record = cast("Record", schemaless_reader(io.BytesIO(body), _numeric(schema), None))
    except (EOFError, ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError):
        return "a text"
    texts = (f["name"] for f in writer.schema["fields"] if '"string"' in json.dumps(f["type"]))
    return next((name for name in texts if not is_text(record[name])), "a text")


def unit_detail(field: str, value: int) -> str:
    """Which unit a time that should be in microseconds seems to be in; "" if no other unit explains it."""
    unit = epoch.unit_of(value)
    if unit in (None, "microseconds"):
        return ""
    return f"{field} is {value}: microseconds since 1970 are wanted, this looks like {unit}"


def _is_time(schema: Mapping[str, Any], name: str) -> bool:
    kinds = next(field["type"] for field in schema["fields"] if field["name"] == name)
    return any(
        isinstance(kind, dict) and cast("dict[str, Any]", kind).get("logicalType") == "timestamp-micros"
        for kind in (kinds if isinstance(kinds, list) else [kinds])
    )


@cache
def _numeric(schema: str) -> Any:
    """The parsed schema without logical types: times are read as the numbers that they are."""

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: plain(value) for key, value in part.items() if key != "logicalType"}
        return [plain(value) for value in part] if isinstance(part, list) else part

    return parse_schema(plain(json.loads(schema)))


DEFAULT = Codec()
encode, decode = DEFAULT.encode, DEFAULT.decode
