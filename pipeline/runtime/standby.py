"""Warm standby: keeps a copy of a stage's state of the partitions that other workers own.

When such a partition is assigned to this worker, only the messages since then must be read. It takes the memory of all
users of other workers (2.5 KB a user), so it is off unless `LEADTIME_STANDBY` is set.
"""

import threading
from collections.abc import Set as AbstractSet

from confluent_kafka import TopicPartition

from pipeline.kafka import reader, topics
from pipeline.settings import Settings
from pipeline.wire.messages import position_of

Blocks = dict[bytes, bytes]
POLL_S = 0.2
BATCH = 200
"""Messages read at once: 100 MB at most, at half a megabyte each."""


class Standby:
    """Follows partitions of a state topic in a thread of its own.

    Args:
        stage: name of the stage whose state is followed.
        settings: of the installation.
    """

    def __init__(self, stage: str, settings: Settings) -> None:
        self.settings, self.topic = settings, topics.name(f"state.{stage}", settings)
        self._lock = threading.Lock()
        self._wanted: frozenset[int] = frozenset()
        self._version = 0
        self._kept: dict[int, tuple[Blocks, int]] = {}
        self._thread: threading.Thread | None = None

    def own(self, partitions: AbstractSet[int]) -> None:
        """Follow all partitions except these, which this worker owns from now on."""
        with self._lock:
            self._wanted = frozenset(range(self.settings.partitions)) - frozenset(partitions)
            self._version += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
            self._thread.start()

    def take(self, partition: int) -> tuple[Blocks, int]:
        """Remove and return the blocks read of a partition, and the offset from which to read on."""
        with self._lock:
            self._wanted -= {partition}
            self._version += 1
            return self._kept.pop(partition, ({}, 0))

    def reached(self, partition: int) -> int:
        """The offset up to which a partition has been read."""
        with self._lock:
            return self._kept.get(partition, ({}, 0))[1]

    def _run(self) -> None:
        consumer, version = reader.reader(self.settings), -1
        while True:
            with self._lock:
                if version != self._version:
                    version = self._version
                    begin = {number: self._kept.get(number, ({}, 0))[1] for number in self._wanted}
                    consumer.assign([TopicPartition(self.topic, n, offset) for n, offset in begin.items()])
            messages = consumer.consume(BATCH, timeout=POLL_S)
            with self._lock:
                # else they are of partitions that may have been taken meanwhile: read again where they are not
                for message in messages if version == self._version else []:
                    if message.error() is None:
                        _, number, offset = position_of(message)
                        blocks, _ = self._kept.get(number, ({}, 0))
                        blocks[message.key() or b""] = message.value() or b""
                        self._kept[number] = blocks, offset + 1
