"""Reading a topic from here to its present end, outside any consumer group."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline import topics
from pipeline.client import connection
from pipeline.errors import Unreachable
from pipeline.settings import Settings

T = TypeVar("T")

_PASSING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
POLL_S = 30.0
"""Longer without a message before the end: the broker is gone."""


def reader(settings: Settings, more: Mapping[str, int] | None = None) -> Consumer:
    """A consumer outside of any group: positions are assigned by hand and never committed."""
    return Consumer(
        {
            **connection(settings),
            "group.id": f"{settings.group}-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            **(more or {}),
        }
    )


def read(
    settings: Settings,
    logical: str,
    partitions: Mapping[int, int] | None = None,
    end: Mapping[int, int] | None = None,
) -> Iterator[Message]:
    """Messages of a topic up to its end as it is now, in order per partition.

    Args:
        settings: where.
        logical: topic of the table.
        partitions: which, and from which offset; None: all from the beginning.
        end: stop before these offsets instead of at the end.

    Raises:
        Unreachable: the broker does not answer, or the topic does not exist.
    """
    topic = topics.name(logical, settings)
    # The broker holds a fetch at the end back, half a second by default: 1.2 s of a small topic's read, now 0.1 s.
    consumer = reader(settings, {"fetch.wait.max.ms": 10})
    try:
        if partitions is None:
            found = consumer.list_topics(topic, timeout=POLL_S).topics[topic]
            if found.error is not None:
                raise Unreachable(f"topic {topic}: {found.error.str()}")
            partitions = dict.fromkeys(found.partitions, OFFSET_BEGINNING)
        ends = {p: (end or {}).get(p, 2**63 - 1) for p in partitions}
        consumer.assign([TopicPartition(topic, p, offset) for p, offset in partitions.items()])
        open_partitions = set(partitions)
        waited = time.monotonic()
        while open_partitions:
            messages = consumer.consume(10_000, timeout=0.1)
            if messages:
                waited = time.monotonic()
            elif time.monotonic() > waited + POLL_S:
                raise Unreachable(f"topic {topic}: no answer for {POLL_S:g} s")
            for message in messages:
                error, number = message.error(), message.partition()
                if error is None:
                    if message.offset() < ends[number]:
                        yield message
                    if message.offset() + 1 >= ends[number]:
                        open_partitions.discard(number)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(number)
                else:
                    raise Unreachable(f"topic {topic}: {error.str()}")
    except KafkaException as error:
        raise Unreachable(f"topic {topic}: {error.args[0].str()}") from None
    finally:
        consumer.close()


def bounds(settings: Settings, logical: str, partition: int) -> tuple[int, int]:
    """First offset, and the one after the last."""
    consumer = reader(settings)
    at = TopicPartition(topics.name(logical, settings), partition)
    deadline = time.monotonic() + POLL_S
    try:
        while True:
            try:
                return consumer.get_watermark_offsets(at, timeout=POLL_S)
            except KafkaException as error:  # a topic just made may not have a leader yet
                if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                    raise Unreachable(f"topic {at.topic}: {error.args[0].str()}") from None
                time.sleep(0.1)
    finally:
        consumer.close()


def newest(
    settings: Settings,
    logical: str,
    partition: int,
    found: Callable[[list[Message], bool], T | None],
    count: int = 64,
) -> T | None:
    """Read a partition backwards in growing windows until `found` sees what it needs in one.

    Args:
        settings, logical, partition: where.
        found: gets the last messages in order, and whether these are all there are; None asks for more.
        count: messages of the first window; each further one is four times as long.
    """
    low, high = bounds(settings, logical, partition)
    while True:
        start = max(low, high - count)
        messages = (
            list(read(settings, logical, {partition: start}, {partition: high})) if start < high else []
        )
        result = found(messages, start == low)
        if result is not None or start == low:
            return result
        count *= 4
