"""What a Kafka message says: where it lies, its headers, and the dead letter that it becomes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.wire.codec import Record

DEAD_BYTES = 256 * 1024
"""Of a key or value in a dead letter: a raw message may have 4 MiB, and the topic takes 2."""

Position = tuple[str, int, int]
"""Topic, partition and offset of a message."""


class Received(Protocol):
    """A consumed message, as far as it is asked; `confluent_kafka.Message` is one."""

    def topic(self) -> str | None:
        """Its name on the cluster."""
        ...

    def partition(self) -> int | None:
        """Its number."""
        ...

    def offset(self) -> int | None:
        """Within the partition."""
        ...

    def key(self) -> bytes | None:
        """None: without."""
        ...

    def value(self) -> bytes | None:
        """None: a deletion."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """Its kind, and milliseconds since 1970."""
        ...

    def headers(self) -> Sequence[tuple[str, str | bytes | None]] | Mapping[str, str | bytes | None] | None:
        """Names and values."""
        ...


def position_of(message: Received) -> Position:
    """Where a message lies: only one that is yet to be sent does not know."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def header_of(message: Received, name: str) -> str:
    """A header's text; "" where it is missing.

    Raises:
        UnicodeDecodeError: it is no text.
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
        message: with which nothing can be done.
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
    """The key of a dead letter: a repeat has the same."""
    return f"{letter['topic']}/{letter['partition']}/{letter['offset']}"


SHIFT_HEADER = "shift_us"
"""Header in which a replay says how far its event times lie behind the wall clock; no replay: no header."""

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


MESSAGE_BYTES = 512 * 1024
"""Larger records are split into parts: the broker refuses 1 MiB and Faust's default request is 1,000,000 bytes."""
