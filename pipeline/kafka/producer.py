"""What a process publishes: one idempotent producer, which waits when it is full and says when it failed."""

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from pipeline.errors import Unreachable
from pipeline.kafka import topics
from pipeline.kafka.connection import connection
from pipeline.settings import Settings
from pipeline.wire.codec import Codec, Record

TIMEOUT_S = 60.0
"""A broker that restarts is back within 10 s; the messages of a full queue take as long again."""
BY_KEY = -1
"""No partition of its own: by the key, as Java's default partitioner does."""


class Outputs:
    """A producer of records.

    Args:
        settings: where to, and how records are framed.
        options: librdkafka's, beside those that all have.
        check: called before each message; what it raises keeps it here.
    """

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._codec, self._check = settings, Codec(settings.registry_url), check
        self._failed: KafkaError | None = None
        self._producer = Producer(
            {
                **connection(settings),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 2,
                "log_level": 0,  # what matters of it, `flush` says
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
    ) -> None:
        """Encode a record and `send` it."""
        self.send(topic, self._codec.encode(name, record), key=key, partition=partition, headers=headers)

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
            key: None: without; then `partition` says where it goes, or chance.
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

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._failed = self._failed or error

    def flush(self) -> None:
        """Return when everything is acknowledged.

        Raises:
            Unreachable: something was not.
        """
        left = self._producer.flush(TIMEOUT_S)
        if left or self._failed is not None:
            why = (
                self._failed.str()
                if self._failed is not None
                else f"{left} messages wait after {TIMEOUT_S:g} s"
            )
            raise Unreachable(f"not published: {why}")
