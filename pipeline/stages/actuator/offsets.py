"""Tracks which messages an actuator has read and finished, and reads and commits its group's offsets."""

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
    """Messages that were read but are not finished, by topic and partition."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._next: dict[tuple[str, int], int] = {}
        self._committed: dict[tuple[str, int], int] = {}

    def read(self, position: Position) -> None:
        """Note that a message was read."""
        topic, partition, offset = position
        self._open[topic, partition].add(offset)
        self._next[topic, partition] = offset + 1

    def finish(self, position: Position) -> None:
        """Note that everything which follows from a message has been published."""
        self._open[position[0], position[1]].discard(position[2])

    def to_commit(self) -> list[TopicPartition]:
        """Offsets to commit: where a successor must begin, per partition in which that changed since the last call."""
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
"""Errors while the group's coordinator is unknown: after a start, or after it moved to another broker."""


def offsets_call(call: Callable[[], T]) -> T:
    """Read or commit a group's offsets; repeat the call while the group's coordinator is unknown.

    Raises:
        Unreachable: the call failed for another reason, or for longer than TIMEOUT_S.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if error.args[0].code() not in COORDINATOR_MOVES or time.monotonic() > deadline:
                raise Unreachable(f"offsets of the actuator: {error.args[0].str()}") from None
        time.sleep(0.05)
