"""Reads position and headers of Kafka messages, and makes dead-letter records from them."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from pipeline.wire.codec import Record

DEAD_BYTES = 256 * 1024
"""Most bytes of a key or value in a dead letter: a raw message may have 4 MiB, the dead-letter topic takes 2 MiB."""

Position = tuple[str, int, int]
"""Topic, partition and offset of a message."""


class Received(Protocol):
    """The methods of a consumed message that are used here; `confluent_kafka.Message` has them."""

    def topic(self) -> str | None:
        """Name of the topic on the cluster."""
        ...

    def partition(self) -> int | None:
        """Number of the partition."""
        ...

    def offset(self) -> int | None:
        """Offset within the partition."""
        ...

    def key(self) -> bytes | None:
        """Key, or None without a key."""
        ...

    def value(self) -> bytes | None:
        """Value, or None for a tombstone (deletion of the key)."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """Kind of timestamp (create or append time), and milliseconds since 1970."""
        ...

    def headers(self) -> Sequence[tuple[str, str | bytes | None]] | Mapping[str, str | bytes | None] | None:
        """Names and values of the headers, or None."""
        ...


def position_of(message: Received) -> Position:
    """Topic, partition and offset of a consumed message; a message that was not sent yet has none."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def header_of(message: Received, name: str) -> str:
    """Value of a header as text; "" if it is missing or empty.

    Raises:
        UnicodeDecodeError: the value is not UTF-8.
    """
    headers = message.headers() or ()
    for key, value in headers.items() if isinstance(headers, Mapping) else headers:
        if key == name and value:
            return value.decode() if isinstance(value, bytes) else value
    return ""


def dead_letter(topic: str, message: Received, reason: str, detail: str) -> Record:
    """The record `dead_letter` for a message that cannot be used.

    Args:
        topic: logical name: the same on every installation.
        message: that could not be decoded or was refused.
        reason, detail: what is wrong, as in `Poison`.
    """
    key, value = message.key(), message.value()
    for name, data in (("key", key), ("value", value)):
        if data is not None and len(data) > DEAD_BYTES:
            digest = hashlib.sha256(data).hexdigest()
            detail += f"{'; ' if detail else ''}{name} cut from {len(data)} bytes, sha256 {digest}"
    _, partition, offset = position_of(message)
    return {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "reason": reason,
        "detail": detail,
        "key": None if key is None else key[:DEAD_BYTES],
        "value": None if value is None else value[:DEAD_BYTES],
    }


def letter_key(letter: Record) -> str:
    """Message key of a dead letter, from the position of the original: a repeat has the same key."""
    return f"{letter['topic']}/{letter['partition']}/{letter['offset']}"


SHIFT_HEADER = "shift_us"
"""Header in which a replay says how far its event times lie behind the wall clock; no replay: no header."""

CLOCK_HEADER = "clock_us"
"""Header in which a replay says by which wall clock it reckoned the shift: when the message was produced, also where
the broker stamps messages itself."""

END_HEADER = "replay_end"
"""Header of the last watermark that a replay writes into a partition: no event time will pass after it."""


def shift_of(message: Received) -> int:
    """Microseconds by which a replay shifts event time, 0 without the header."""
    if not message.headers():
        return 0
    try:
        return int(header_of(message, SHIFT_HEADER) or 0)
    except ValueError:  # UnicodeDecodeError is one
        return 0


def produced_at(message: Received) -> int:
    """When a message was produced, microseconds since 1970: by Kafka's timestamp, or a replay's CLOCK_HEADER.

    Kafka's timestamp has milliseconds: the last microsecond of it is meant. Where a topic stamps by append time, no
    producer's clock is in it.
    """
    if message.headers():
        with suppress(ValueError):  # UnicodeDecodeError is one
            if clock := header_of(message, CLOCK_HEADER):
                return int(clock)
    return message.timestamp()[1] * 1000 + 999


MESSAGE_BYTES = 512 * 1024
"""Bytes beyond which records are split into parts: brokers refuse 1 MiB, Faust's default request 1,000,000 bytes."""
