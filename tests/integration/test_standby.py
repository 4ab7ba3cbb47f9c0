"""A warm standby on real Kafka: what it has read is not read again, and a half-read snapshot is completed."""

import time
from collections.abc import Iterable

import pytest

from pipeline.kafka import reader, topics
from pipeline.kafka.producer import Outputs
from pipeline.runtime.fenced_state import Owned
from pipeline.runtime.standby import Standby
from pipeline.settings import Settings


class Kept:
    """A stage of a few blocks."""

    def __init__(self, done: int = -1) -> None:
        self.done, self.given = done, dict[bytes, bytes]()

    def restore(self, blocks: dict[bytes, bytes]) -> None:
        """As given."""
        self.given = dict(blocks)
        self.done = int(blocks.get(b"position", b"-1"))

    def fold(self, value: bytes) -> int | None:
        """Nothing is folded here."""
        raise AssertionError(value)

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """A position, and nine blocks."""
        yield b"position", str(self.done).encode()
        for number in range(9):
            yield b"rows-%d" % number, b"%d of %d" % (number, self.done)


def snapshot(settings: Settings, outputs: Outputs, partition: int, done: int) -> dict[bytes, bytes]:
    """What a worker that has come so far writes."""
    stage = Kept()
    owned = Owned("profiler", partition, stage, outputs, settings)
    owned.open()
    stage.done = done
    owned.snapshot()
    return dict(stage.blocks())


def reaches(standby: Standby, partition: int, settings: Settings) -> None:
    deadline = time.monotonic() + 60
    # a transaction ends with a marker, which takes an offset of its own
    while standby.reached(partition) < reader.bounds(settings, "state.profiler", partition)[1] - 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(180)
def test_a_takeover_reads_only_what_was_written_since(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(settings)
    outputs = Outputs(settings)
    snapshot(settings, outputs, 0, 3)
    snapshot(settings, outputs, 1, 7)
    standby = Standby("profiler", settings)
    standby.own({1})
    reaches(standby, 0, settings)
    assert standby.reached(1) == 0  # its own
    read_from = standby.reached(0)

    asked: list[object] = []
    plain = reader.read

    def read(settings: Settings, logical: str, partitions: dict[int, int]) -> Iterable[object]:
        asked.append(partitions)
        return plain(settings, logical, partitions)

    monkeypatch.setattr(reader, "read", read)
    taken = Kept()
    last = snapshot(settings, outputs, 0, 4)  # what it may not have read yet
    standby.own({0, 1})
    Owned("profiler", 0, taken, outputs, settings, standby).open()
    assert taken.given == last
    assert taken.done == 4
    assert asked[-1][0] >= read_from > 0  # pyright: ignore[reportIndexIssue]
    # it is another worker's again: all of it is read anew
    standby.own({1})
    reaches(standby, 0, settings)
    assert standby.take(0)[0] == last
    assert standby.take(0) == ({}, 0)
