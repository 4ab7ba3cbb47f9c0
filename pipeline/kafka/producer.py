"""The process's idempotent producer: it blocks while its queue is full, and `flush` raises for undelivered messages."""

from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.errors import Fenced, NotDelivered, Unreachable
from pipeline.kafka import topics
from pipeline.kafka.connection import connection
from pipeline.kafka.reader import whole
from pipeline.settings import Settings
from pipeline.wire.codec import Codec, Record

TIMEOUT_S = 60.0
"""A broker that restarts is back within 10 s; the messages of a full queue take as long again."""
BY_KEY = -1
"""Partition by the key, as Java's default partitioner chooses it."""


class Outputs:
    """A producer of records.

    Args:
        settings: address, topic prefix and framing of records.
        options: librdkafka options beside the shared ones.
        check: called before each message; an exception of it keeps the message from being sent.
    """

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._codec, self._check = settings, Codec(settings.registry_url), check
        self._failed, self._first = 0, ""
        self._complaint = complaint = deque[str](maxlen=1)
        self._producer = Producer(
            {
                **connection(settings),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 2,
                "log_level": 0,  # what matters of it, `flush` says
                "error_cb": lambda error: complaint.append(error.str()),
                # A scenario message is 0.2 MB: the default of 100,000 messages would be 20 GB.
                "queue.buffering.max.kbytes": 96 * 1024,
                **(options or {}),
            }
        )

    def publish(
        self,
        topic: str,
        name: str,
        record: Record,
        *,
        key: str | None,
        partition: int = BY_KEY,
        headers: Mapping[str, str] | None = None,
        timestamp_ms: int = 0,
    ) -> None:
        """Encode a record and `send` it."""
        value = self._codec.encode(name, record)
        self.send(topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: str | None,
        partition: int = BY_KEY,
        headers: Mapping[str, str] | None = None,
        timestamp_ms: int = 0,
    ) -> None:
        """Hand a message to the producer; delivery is certain only after `flush`.

        Args:
            topic: logical name.
            value: an encoded record; None deletes its key.
            key: None: no key; the message then goes to `partition`, or with BY_KEY to a random partition.
            partition: its number; BY_KEY: by the key.
            headers: names and texts.
            timestamp_ms: produce time, unix; 0: now, by this machine's clock.
        """
        self._check()
        while True:
            try:
                self._producer.produce(
                    topics.name(topic, self._settings),
                    value,
                    key,
                    partition,
                    on_delivery=self._delivered,
                    headers=dict[str, str | bytes | None](headers or {}),
                    timestamp=timestamp_ms,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def partitions(self, topic: str) -> int:
        """Number of partitions of a topic.

        Args:
            topic: logical name.

        Raises:
            Unreachable: Kafka does not answer, or the topic does not exist.
        """
        return len(whole(self._producer, topics.name(topic, self._settings)))

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            return
        self._failed += 1
        if not self._first:
            late = (
                error.code() == KafkaError._MSG_TIMED_OUT
            )  # why is what the client said last about its brokers
            self._first = "; ".join([error.str(), *(self._complaint if late else ())])

    def flush(self, timeout_s: float = TIMEOUT_S) -> None:
        """Return when all messages sent are acknowledged.

        Args:
            timeout_s: how long to wait for it.

        Raises:
            NotDelivered: a message was not acknowledged, now or before a flush that raised.
        """
        left = self._producer.flush(timeout_s)
        if left or self._failed:
            raise NotDelivered(self._failed, left, self._first or f"no answer within {timeout_s:g} s")

    @contextmanager
    def transaction(self, timeout_s: float = TIMEOUT_S) -> Generator[None]:
        """Send what is sent within it whole or not at all, after ending the one that another process has open.

        The producer needs a transactional.id, and no flush of its own. What is read within it is there to stay: who has
        read the same before and sends later is fenced.

        Raises:
            Fenced: another process has begun a transaction since; nothing of this one is there.
            Unreachable: Kafka does not take it.
        """
        try:
            self._producer.init_transactions(timeout_s)
            self._producer.begin_transaction()
            yield
            self._producer.commit_transaction(timeout_s)
        except BaseException as error:
            with suppress(KafkaException):
                self._producer.abort_transaction(timeout_s)
            if not isinstance(error, KafkaException):
                raise
            reason: KafkaError = error.args[0]
            if reason.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError._STATE):
                raise Fenced("another process publishes the same") from None
            raise Unreachable(f"Kafka does not take the transaction: {reason.str()}") from None

    def forget_failures(self) -> None:
        """Count failed messages from zero: for a caller that has reported them and goes on."""
        self._failed, self._first = 0, ""
