"""Which messages an actuator has finished, and its group's offsets."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from pipeline.errors import Unreachable
from pipeline.wire.messages import Position

T = TypeVar("T")
TIMEOUT_S = 30.0
"""A broker that restarts is back within 10 s."""


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
