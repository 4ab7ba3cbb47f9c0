"""Reads a topic up to its present end, or follows it, outside any consumer group."""

import time
from collections.abc import Callable, Iterator, Mapping
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

from pipeline.errors import Poison, Unreachable
from pipeline.kafka import topics
from pipeline.kafka.connection import connection
from pipeline.settings import Settings
from pipeline.wire.codec import Codec, Record
from pipeline.wire.messages import position_of

T = TypeVar("T")

_PASSING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
POLL_S = 30.0
"""Seconds without a message before the end after which the broker counts as unreachable."""


def reader(settings: Settings, group: str = "reader", more: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer that begins at the oldest message and commits only when `commit` is called.

    Args:
        settings: of the installation.
        group: name within this installation; readers that never commit share a group.
        more: further options of librdkafka.
    """
    return Consumer(
        {
            **connection(settings),
            "group.id": f"{settings.group}-{group}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            "log_level": 0,  # what is wrong is raised, or comes as a message's error
            **(more or {}),
        }
    )


def whole(client: Consumer | Producer, topic: str) -> list[TopicPartition]:
    """All partitions of a topic, by its name on the cluster, from their beginning.

    Raises:
        Unreachable: Kafka does not answer, or there is no such topic.
    """
    try:
        metadata = client.list_topics(topic, timeout=POLL_S).topics[topic]
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}") from None
    if metadata.error is not None:
        raise Unreachable(f"topic {topic}: {metadata.error.str()} (`leadtime topics create` makes it)")
    return [TopicPartition(topic, number, OFFSET_BEGINNING) for number in sorted(metadata.partitions)]


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
    more = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
    consumer = reader(settings, more=more)
    try:
        begin = whole(consumer, topic) if partitions is None else _from(topic, partitions)
        consumer.assign(begin)
        yield from _to_the_end(
            consumer, topic, {at.partition: (end or {}).get(at.partition, 2**63 - 1) for at in begin}
        )
    except KafkaException as error:
        raise Unreachable(f"topic {topic}: {error.args[0].str()}") from None
    finally:
        consumer.close()


def _from(topic: str, partitions: Mapping[int, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, number, offset) for number, offset in partitions.items()]


def _to_the_end(consumer: Consumer, topic: str, ends: Mapping[int, int]) -> Iterator[Message]:
    """Messages of assigned partitions until each partition's present end, or the offset in `ends` before it.

    Args:
        consumer: assigned; with `enable.partition.eof`.
        topic: its name on the cluster, for errors.
        ends: by partition, the offset before which reading stops.

    Raises:
        Unreachable: an error that does not pass, or no message for POLL_S seconds before the end.
    """
    open_partitions = set(ends)
    newest_s = time.monotonic()
    while open_partitions:
        messages = consumer.consume(10_000, timeout=0.1)
        for message in messages:
            error = message.error()
            if error is None:
                _, number, offset = position_of(message)
                if offset < ends[number]:
                    yield message
                if offset + 1 >= ends[number]:
                    open_partitions.discard(number)
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(position_of(message)[1])
            elif not error.retriable():
                raise Unreachable(f"topic {topic}: {error.str()}")
        if messages:
            newest_s = time.monotonic()  # read after the loop: the time that the caller took does not count
        elif time.monotonic() > newest_s + POLL_S:
            raise Unreachable(f"topic {topic}: no answer for {POLL_S:g} s")


def follow(
    settings: Settings,
    logical: str,
    *,
    from_end: bool = False,
    partitions: Mapping[int, int] | None = None,
) -> Iterator[Message]:
    """Messages of a topic for as long as the caller asks, in order per partition, outside any consumer group.

    Where it begins is settled by this call, not by the first message asked for.

    Args:
        settings: where.
        logical: topic of the table.
        from_end: begin with what is published from now on; else with the oldest message that is kept.
        partitions: which, and from which offset, instead; None: all.

    Raises:
        Unreachable: the broker does not answer, or the topic does not exist; also from the iterator.
    """
    topic, complaints = topics.name(logical, settings), list[KafkaError]()
    consumer = reader(settings, more={"error_cb": complaints.append})
    try:
        begin = whole(consumer, topic) if partitions is None else _from(topic, partitions)
        for at in begin if from_end else ():
            at.offset = bounds(settings, logical, at.partition)[1]
        consumer.assign(begin)
    except BaseException:
        consumer.close()
        raise

    def messages() -> Iterator[Message]:
        try:
            while True:
                for message in batch(consumer, 1_000, 0.5):
                    error = message.error()
                    if error is None:
                        yield message
                    elif not error.retriable():
                        raise Unreachable(f"topic {topic}: {error.str()}")
                if any(error.code() == KafkaError._ALL_BROKERS_DOWN for error in complaints):
                    whole(consumer, topic)  # raises where none of them comes back
                complaints.clear()
        finally:
            consumer.close()

    return messages()


def records(settings: Settings, logical: str) -> Iterator[tuple[Message, Record]]:
    """Every record of a topic up to its end as it is now; deletions, and what cannot be read, are left out.

    Raises:
        Unreachable: the broker does not answer, or the topic does not exist.
    """
    codec = Codec(settings.registry_url)
    for message in read(settings, logical):
        with suppress(Poison):
            yield message, codec.decode(message.value() or b"")[1]


def batch(consumer: Consumer, most: int, timeout_s: float) -> list[Message]:
    """The messages available now: `consume` alone waits for a whole batch or its timeout.

    All from one call: a message of a call before could be of a partition that this one gives away and takes back, from
    an earlier offset on.

    Args:
        consumer: assigned or subscribed.
        most: messages.
        timeout_s: for the first of them.
    """
    if waiting := consumer.consume(most, timeout=0):
        return waiting
    first = consumer.poll(timeout_s)
    return [] if first is None else [first]


def bounds(settings: Settings, logical: str, partition: int) -> tuple[int, int]:
    """Offsets of the first message kept, and after the last."""
    consumer = reader(settings)
    try:
        return _bounds(consumer, TopicPartition(topics.name(logical, settings), partition))
    finally:
        consumer.close()


def _bounds(consumer: Consumer, at: TopicPartition) -> tuple[int, int]:
    deadline = time.monotonic() + POLL_S
    while True:
        try:
            return consumer.get_watermark_offsets(at, timeout=POLL_S)
        except KafkaException as error:  # a topic just made may not have a leader yet
            if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                raise Unreachable(f"topic {at.topic}: {error.args[0].str()}") from None
            time.sleep(0.1)


def since(settings: Settings, logical: str, at_s: float) -> dict[int, int]:
    """Offset by partition of the first message with this timestamp or a later one; without any, of the next message.

    Args:
        settings, logical: where.
        at_s: unix seconds.

    Raises:
        Unreachable: the broker does not answer, or the topic does not exist.
    """
    consumer = reader(settings)
    try:
        times = whole(consumer, topics.name(logical, settings))
        for at in times:
            at.offset = int(at_s * 1000)
        begin = consumer.offsets_for_times(times, timeout=POLL_S)
        return {at.partition: at.offset if at.offset >= 0 else _bounds(consumer, at)[1] for at in begin}
    except KafkaException as error:
        raise Unreachable(f"topic {logical}: {error.args[0].str()}") from None
    finally:
        consumer.close()


def last(settings: Settings, logical: str) -> list[Message]:
    """The last message of each partition of a topic that has one.

    Raises:
        Unreachable: the broker does not answer, or the topic does not exist.
    """
    consumer = reader(settings)
    try:
        ends: dict[int, int] = {}
        for at in whole(consumer, topics.name(logical, settings)):
            low, high = _bounds(consumer, at)
            if low < high:
                ends[at.partition] = high
    finally:
        consumer.close()
    return list(read(settings, logical, {n: end - 1 for n, end in ends.items()}, ends)) if ends else []


def newest(
    settings: Settings,
    logical: str,
    partition: int,
    search: Callable[[list[Message], bool], T | None],
    count: int = 64,
) -> T | None:
    """Read a partition backwards in growing windows until `search` returns a result.

    Args:
        settings, logical, partition: where.
        search: gets the last messages in order, and whether these are all there are; None asks for more.
        count: messages of the first window; each further one is four times as long.
    """
    low, high = bounds(settings, logical, partition)
    while True:
        start = max(low, high - count)
        messages = (
            list(read(settings, logical, {partition: start}, {partition: high})) if start < high else []
        )
        result = search(messages, start == low)
        if result is not None or start == low:
            return result
        count *= 4
