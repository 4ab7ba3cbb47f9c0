"""What an actuator needs of Kafka: read a topic whole, publish and flush, and which messages are finished."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from pipeline import topics
from pipeline.actuators.barrier import Position
from pipeline.actuators.provider import Record
from pipeline.client import connection
from pipeline.codec import Codec
from pipeline.errors import Poison, Unreachable
from pipeline.settings import Settings

T = TypeVar("T")
TIMEOUT_S = 30.0
"""A broker that restarts is back within 10 s."""


class Outbox:
    """An idempotent producer of records."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._codec = settings, Codec(settings.registry_url)
        self._failures: list[str] = []
        self._producer = Producer(
            {
                **connection(settings),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 2,
                "log_level": 0,
            }
        )

    def publish(
        self, logical: str, schema: str, key: str, record: Record, headers: Mapping[str, str] | None = None
    ) -> None:
        """Hand a record over; `flush` says whether it arrived."""

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._failures.append(f"{logical}: {error.str()}")

        value = self._codec.encode(schema, record)
        self._producer.produce(
            topics.name(logical, self._settings),
            value,
            key.encode(),
            on_delivery=delivered,
            headers=[(name, text.encode()) for name, text in (headers or {}).items()],
        )
        self._producer.poll(0)

    def flush(self) -> None:
        """Return when all is on the broker.

        Raises:
            Unreachable: something is not.
        """
        left = self._producer.flush(TIMEOUT_S)
        if left or self._failures:
            raise Unreachable(f"not published: {self._failures[0] if self._failures else f'{left} messages'}")


class Positions:
    """Which messages are read but not finished, per partition of a topic."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._next: dict[tuple[str, int], int] = {}
        self._committed: dict[tuple[str, int], int] = {}

    def read(self, position: Position) -> None:
        """A message was read."""
        topic, partition, offset = position
        self._open[topic, partition].add(offset)
        self._next[topic, partition] = offset + 1

    def finish(self, position: Position) -> None:
        """All that a message asked for is published."""
        self._open[position[0], position[1]].discard(position[2])

    def to_commit(self) -> list[TopicPartition]:
        """Where a successor must begin, for the partitions in which that has moved since the last call."""
        resume = {at: min(self._open[at], default=following) for at, following in self._next.items()}
        moved = {at: offset for at, offset in resume.items() if self._committed.get(at) != offset}
        self._committed |= moved
        return [TopicPartition(topic, partition, offset) for (topic, partition), offset in moved.items()]


def position_of(message: Message) -> Position:
    """Where a message lies."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def value_of(message: Message) -> bytes:
    """A message's bytes; none for a deletion."""
    value = message.value()
    return value.encode() if isinstance(value, str) else value or b""


def dead_letter(message: Message, error: Poison) -> Record:
    """The record `dead_letter` for a message that cannot be read."""
    topic, partition, offset = position_of(message)
    key = message.key()
    return {
        "schema_version": 1,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "reason": error.reason,
        "detail": error.detail,
        "key": key.encode() if isinstance(key, str) else key,
        "value": value_of(message),
    }


def header_of(message: Message, name: str) -> str:
    """A header's text; "" where it is missing."""
    headers = message.headers()
    pairs = headers.items() if isinstance(headers, dict) else headers or []
    values = [value for key, value in pairs if key == name and value is not None]
    return (values[0].decode() if isinstance(values[0], bytes) else values[0]) if values else ""


def reader(settings: Settings, group: str, more: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer that commits only what it is told to; `group` is within this installation."""
    return Consumer(
        {
            **connection(settings),
            "group.id": f"{settings.group}-{group}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
            **(more or {}),
        }
    )


COORDINATOR_MOVES = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._WAIT_COORD,
    }
)
"""The group's broker is being found: after a start, or after it has moved."""


def offsets_call(call: Callable[[], T]) -> T:
    """Ask for or commit a group's offsets, again while its broker is being found.

    Raises:
        Unreachable: it cannot be.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if error.args[0].code() not in COORDINATOR_MOVES or time.monotonic() > deadline:
                raise Unreachable(f"offsets of the actuator: {error.args[0].str()}") from None
        time.sleep(0.05)


def partitions(consumer: Consumer, topic: str) -> list[TopicPartition]:
    """All partitions of a topic.

    Raises:
        Unreachable: Kafka does not answer, or there is no such topic.
    """
    try:
        found = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}") from None
    if found.error is not None:
        raise Unreachable(f"topic {topic}: {found.error.str()} (`leadtime topics create` makes it)")
    return [TopicPartition(topic, number) for number in sorted(found.partitions)]


def read_all(settings: Settings, logical: str) -> Generator[tuple[Message, Record]]:
    """Every record of a topic, from its beginning to where it ends now; what cannot be read is left out.

    Raises:
        Unreachable: Kafka does not answer, or there is no such topic.
    """
    codec = Codec(settings.registry_url)
    # The broker holds a fetch at the end of a partition back: half a second by default, for each partition.
    consumer = reader(settings, "reader", {"enable.partition.eof": True, "fetch.wait.max.ms": 10})
    try:
        left = partitions(consumer, topics.name(logical, settings))
        for at in left:
            at.offset = OFFSET_BEGINNING
        consumer.assign(left)
        unfinished = {at.partition for at in left}
        while unfinished:
            message = consumer.poll(TIMEOUT_S)
            if message is None:
                raise Unreachable(f"Kafka stopped answering within {logical}")
            error = message.error()
            if error is None:
                with suppress(Poison):  # a deletion, too
                    yield message, codec.decode(value_of(message))[1]
            elif error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(position_of(message)[1])
            elif not error.retriable():
                raise Unreachable(f"{logical}: {error.str()}")
    finally:
        consumer.close()
