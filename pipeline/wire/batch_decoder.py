"""Decodes batches of raw records to polars columns; a malformed record cannot change the values of its neighbours.

Concatenated Avro bodies are exactly the block of an Avro container file, so a batch is decoded by building a
container in memory and handing it to polars. Two guards keep a malformed body to itself:

1. the writer's schema is extended by a trailing double, and after each body stands a sentinel: a random number
   of this process plus the record's index. A truncated, overlong or shifted body puts some sentinel off; a
   crafted one cannot know the number;
2. the length of each body must be that of its values in canonical form, and each union's index must be in range
   (polars reads an index out of range as "value present"). What fails this is read by fastavro alone.

A batch that fails as a whole is read by fastavro record by record, which says what is wrong with the bad ones, and
the others go to polars again. So what is accepted is what fastavro accepts, whatever the batch.
"""

import io
import json
import os
import secrets
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PanicException, PolarsError

from models.epoch import YEARS_US
from pipeline.errors import Poison
from pipeline.wire.codec import Codec, Record, Writer, decode_body, published

# Polars panics on some malformed bodies, and that is caught: a page of Rust frames for each would be spam.
os.environ["RUST_BACKTRACE"] = "0"

_SYNC = bytes(16)
_SENTINEL = "_sentinel"
# An integer that a double holds exactly, also after a batch's index is added: 2^52 + 2^20 < 2^53.
_BASE = float(secrets.randbits(52))

Decoded = tuple[np.ndarray, pl.DataFrame]
"""Indices (rows) of the records in the batch, and their fields as columns."""


def decode_batch(
    codec: Codec, values: Sequence[bytes | None], names: Sequence[str]
) -> tuple[dict[str, Decoded], dict[int, Poison]]:
    """Decode messages of one topic.

    Args:
        codec: knows the framings.
        values: message values.
        names: of the records that the topic carries; others are `unknown-schema`.

    Returns:
        Per record name the rows and columns of the good ones, in order; per index of a bad one what is wrong.
    """
    groups: dict[bytes, list[int]] = {}
    for index, value in enumerate(values):
        head = value[:10] if value and value[0] == 0xC3 else value[:5] if value else b""
        groups.setdefault(head, []).append(index)
    parts: dict[str, list[Decoded]] = {name: [] for name in names}
    bad: dict[int, Poison] = {}
    for head, indices in groups.items():
        try:
            writer, start = codec.split(head)
            if writer.name not in parts:
                raise Poison("unknown-schema", f"a {writer.name} does not belong in this topic")
        except Poison as poison:
            bad |= dict.fromkeys(indices, poison)
            continue
        bodies = [value[start:] for index in indices if (value := values[index]) is not None]
        frames, wrong = _decode(writer, bodies)
        bad |= {indices[position]: poison for position, poison in wrong.items()}
        rows = np.asarray(indices)
        parts[writer.name] += [(rows[positions], frame) for positions, frame in frames]
    return {name: _concat(decoded) for name, decoded in parts.items() if decoded}, bad


def _concat(parts: list[Decoded]) -> Decoded:
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(rows, kind="stable")
    return rows[order], pl.concat([frame for _, frame in parts])[order]


def _decode(writer: Writer, bodies: list[bytes]) -> tuple[list[Decoded], dict[int, Poison]]:
    """Decode bodies of one schema: columns in the newest version's form, positions of those that are bad."""
    places = np.arange(len(bodies))
    rows: dict[int, Record] = {}
    bad: dict[int, Poison] = {}

    def apart(positions: np.ndarray) -> None:
        for position in positions.tolist():
            try:
                rows[position] = decode_body(writer, bodies[position])
            except Poison as poison:
                bad[position] = poison

    frame = _polars(writer, bodies)
    if frame is None:
        apart(places)
        places = np.fromiter(rows, np.int64, len(rows))
        frame = _polars(writer, [bodies[place] for place in rows])
    if frame is None:
        return [(places, _frame(writer, list(rows.values())))], bad
    plain = _canonical(writer, frame, [bodies[place] for place in places.tolist()])
    good = [(places[plain], _newest(writer, frame if plain.all() else frame.filter(plain)))]
    if not plain.all():
        apart(places[~plain])
        odd = [place for place in places[~plain].tolist() if place in rows]
        good.append((np.array(odd, np.int64), _frame(writer, [rows[place] for place in odd])))
    return good, bad


@cache
def _header(schema: str) -> bytes:
    extended = bare(json.loads(schema))
    extended["fields"].append({"name": _SENTINEL, "type": "double"})
    meta = {"avro.schema": json.dumps(extended).encode(), "avro.codec": b"null"}
    out = bytearray(b"Obj\x01") + _varint(len(meta))
    for key, value in meta.items():
        out += _varint(len(key)) + key.encode() + _varint(len(value)) + value
    return bytes(out) + b"\x00" + _SYNC


def bare(schema: Any) -> Any:
    """The schema without docs and defaults: polars refuses some valid ones, and decoding needs none."""
    if isinstance(schema, dict):
        return {key: bare(value) for key, value in schema.items() if key not in ("doc", "default")}
    return [bare(part) for part in schema] if isinstance(schema, list) else schema


def _varint(value: int) -> bytes:
    """Zig-zag varint of a non-negative number (Avro specification, "Binary encoding")."""
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _polars(writer: Writer, bodies: list[bytes]) -> pl.DataFrame | None:
    """All bodies as columns; None when polars fails or a sentinel is off."""
    marks = (_BASE + np.arange(len(bodies))).astype("<f8")
    raw = marks.tobytes()
    block = b"".join(
        chain.from_iterable(zip(bodies, (raw[i : i + 8] for i in range(0, len(raw), 8)), strict=True))
    )
    container = b"".join(
        (_header(json.dumps(writer.schema)), _varint(len(bodies)), _varint(len(block)), block, _SYNC)
    )
    try:
        frame = pl.read_avro(io.BytesIO(container))
    except (PolarsError, PanicException, OSError, OverflowError, MemoryError):
        return None
    if frame.height != len(bodies) or not np.array_equal(frame[_SENTINEL].to_numpy(), marks):
        return None
    return frame.drop(_SENTINEL)


def _frame(writer: Writer, rows: list[Record]) -> pl.DataFrame:
    """Records that fastavro decoded, as columns like polars gives them."""
    return pl.DataFrame(rows, schema=_empty(json.dumps(published(writer.name).schema)).schema, strict=False)


@cache
def _empty(schema: str) -> pl.DataFrame:
    return pl.read_avro(io.BytesIO(_header(schema))).drop(_SENTINEL)


def _newest(writer: Writer, frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of the newest version: defaults for what the writer did not know, without what is gone."""
    newest = published(writer.name)
    if newest.schema == writer.schema:
        return frame
    empty = _empty(json.dumps(newest.schema))
    missing = [
        pl.Series(
            field["name"],
            [field.get("default")] * frame.height,
            dtype=empty.schema[field["name"]],
            strict=False,
        )
        for field in newest.schema["fields"]
        if field["name"] not in frame.columns
    ]
    return frame.with_columns(missing).select(empty.columns).cast(dict(empty.schema))  # pyright: ignore


def _canonical(writer: Writer, frame: pl.DataFrame, bodies: list[bytes]) -> np.ndarray:
    """Which bodies are the canonical encoding of their columns, and mean the same to fastavro."""
    lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
    flat = np.frombuffer(b"".join(bodies) + b"\x00", np.uint8)
    at = np.cumsum(lengths) - lengths
    ends, good = at + lengths, np.ones(len(bodies), bool)
    for field in writer.schema["fields"]:
        column, kind = frame[field["name"]], field["type"]
        present = column.is_not_null().to_numpy()
        if isinstance(kind, list):
            null_first = kind[0] == "null"
            good &= flat[np.minimum(at, ends)] == np.where(present == null_first, 2, 0)
            kind = kind[1] if null_first else kind[0]
            at = at + 1
        if kind == "boolean":  # polars reads 2 as false, fastavro as true
            good &= ~present | (flat[np.minimum(at, ends)] <= 1)
        if isinstance(kind, dict) and kind.get("logicalType") == "timestamp-micros":
            good &= column.to_physical().is_between(*YEARS_US).fill_null(True).to_numpy()
        at = at + np.where(present, _sizes(column, kind), 0)
    return good & (at == ends)


def _sizes(column: pl.Series, kind: Any) -> np.ndarray:
    """Bytes of each value in canonical Avro; undefined for null values."""
    if isinstance(kind, dict):
        if kind["type"] == "enum":
            return _varint_sizes(column.to_physical().fill_null(0).to_numpy())
        if kind["type"] == "array":
            return _array_sizes(column, kind["items"])
        kind = kind["type"]
    if kind in ("int", "long"):
        return _varint_sizes(column.to_physical().fill_null(0).to_numpy().astype(np.int64))
    if kind in ("string", "bytes"):
        size = column.str.len_bytes() if kind == "string" else column.bin.size()
        count = size.fill_null(0).to_numpy().astype(np.int64)
        return count + _varint_sizes(count)
    return np.full(len(column), {"double": 8, "float": 4, "boolean": 1, "null": 0}[kind], np.int64)


def _array_sizes(column: pl.Series, items: Any) -> np.ndarray:
    counts = column.list.len().fill_null(0).to_numpy().astype(np.int64)
    # One block with its count and the closing zero; an empty array is the zero alone.
    sizes = np.where(counts > 0, 1 + _varint_sizes(counts), 1)
    if counts.sum():
        inner = column.explode(empty_as_null=False, keep_nulls=False)
        each = np.zeros(len(inner), np.int64)
        for field in items["fields"]:
            each += _sizes(inner.struct.field(field["name"]), field["type"])
        sizes = sizes + np.bincount(np.repeat(np.arange(len(counts)), counts), each, len(counts)).astype(
            np.int64
        )
    return sizes


def _varint_sizes(values: np.ndarray) -> np.ndarray:
    zigzag = (values.astype(np.int64) << 1) ^ (values.astype(np.int64) >> 63)
    size = np.ones(len(values), np.int64)
    unsigned = zigzag.view(np.uint64) >> np.uint64(7)
    while unsigned.any():
        size += unsigned > 0
        unsigned = unsigned >> np.uint64(7)
    return size
