"""A partition's state: fence the predecessor, restore, fold, snapshot. The prototype survived every kill.

The order that makes a killed, replaced or woken worker harmless:

1. on the first message of a (partition, generation): `init_transactions()` with a transactional.id that names the
   stage and the partition fences the predecessor; then the state partition is read to its end (read_committed);
2. fold a message: outputs go out by an idempotent, *not* transactional producer (another Faust agent reads them);
3. at a snapshot, flush those outputs, then write all changed blocks in one transaction: what is restored is one
   cut, so that folding again publishes identical bytes;
4. acknowledge the messages that the snapshot covers: the group's offset never passes a snapshot, so a successor is
   given everything since, and drops what its state has.

A gap, a fenced producer or any other exception ends the process; its supervisor starts another.
"""

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline import reading, topics
from pipeline.client import connection
from pipeline.codec import Codec, Record
from pipeline.errors import Fenced
from pipeline.outputs import Outputs
from pipeline.pulse import EXIT
from pipeline.settings import Settings

TIMEOUT_S = 30
IDLE_S = 1.0
"""Without a message for so long a partition is idle: a tick's parts come within milliseconds of each other."""
_LOG = structlog.get_logger()

Publish = Callable[..., None]
"""publish(topic, name, record, *, key, partition): see `Outputs.publish`."""


class Stage(Protocol):
    """What one partition of one agent does with its messages."""

    def restore(self, blocks: Mapping[bytes, bytes]) -> None:
        """Continue from a snapshot; no blocks: begin."""
        ...

    def fold(self, value: bytes) -> int | None:
        """Take a message and publish what follows from it.

        Returns:
            The message's place in the order of `done`; None when the state has it already.
        """
        ...

    @property
    def done(self) -> int:
        """All messages up to this place are in the state."""
        ...

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """What has changed since the last call."""
        ...


class Numbered(ABC):
    """A stage of one shard's records, which are numbered without gaps and may come in parts.

    Args:
        shard: the partition.
        codec: decodes the parts.
    """

    def __init__(self, shard: int, codec: Codec) -> None:
        self.shard, self.codec = shard, codec
        self.seq = -1
        self.parts: list[Record] = []

    @abstractmethod
    def whole(self, parts: list[Record]) -> None:
        """All parts of the next record are there, in order: take it, and publish what follows."""

    @property
    def done(self) -> int:
        """Number of the last record taken."""
        return self.seq

    def fold(self, value: bytes) -> int | None:
        """One part of a record; the last one makes it `whole`.

        Raises:
            RuntimeError: a record is missing.
        """
        name, part = self.codec.decode(value)
        seq = part["seq"]
        if seq <= self.seq or any(p["seq"] == seq and p["part"] == part["part"] for p in self.parts):
            return None
        if self.seq >= 0 and seq != self.seq + 1:
            raise RuntimeError(f"gap in shard {self.shard}: {name} {self.seq} is followed by {seq}")
        self.parts = [p for p in self.parts if p["seq"] == seq] + [part]
        if len(self.parts) == part["of"]:
            self.whole(sorted(self.parts, key=lambda p: p["part"]))
            self.seq, self.parts = seq, []
        return seq


@runtime_checkable
class Waiting(Protocol):
    """A stage that waits for others, and says so when it takes long."""

    def hold(self, now_s: float, wall_s: float) -> None:
        """Called about once a second; monotonic seconds to wait by, and the wall clock's to tell people."""
        ...


class Owned:
    """One partition that this process owns: its stage, its fence, and the events not yet acknowledged."""

    def __init__(self, name: str, number: int, stage: Stage, outputs: Outputs, settings: Settings) -> None:
        self.name, self.number, self.stage, self.outputs, self.settings = (
            name,
            number,
            stage,
            outputs,
            settings,
        )
        self.topic = topics.name(f"state.{name}", settings)
        self.held: list[tuple[int, Any]] = []
        self.saved = -1
        self.folded_s = time.monotonic()
        self.lock = asyncio.Lock()
        self.fence = Producer(
            {
                **connection(settings),
                "transactional.id": f"{settings.group}-{name}-{number}",
                "linger.ms": 0,
                "compression.type": "lz4",
            }
        )

    def quiet(self) -> bool:
        """Whether nothing is being folded, nor was a moment ago."""
        return not self.lock.locked() and time.monotonic() - self.folded_s >= IDLE_S

    def open(self) -> None:
        """Fence the predecessor, then read what it left."""
        self.fence.init_transactions(TIMEOUT_S)
        found = reading.read(self.settings, f"state.{self.name}", {self.number: 0})
        self.stage.restore({m.key() or b"": m.value() or b"" for m in found})
        self.saved = self.stage.done

    def snapshot(self) -> list[Any]:
        """Write one cut of the state; return the events that it covers.

        Raises:
            Fenced: a successor has this partition.
        """
        done = self.stage.done
        self.outputs.flush()
        try:
            self.fence.begin_transaction()
            for key, value in self.stage.blocks():
                self.fence.produce(self.topic, value, key, self.number)
            self.fence.commit_transaction(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
                raise Fenced(f"{self.name} {self.number}: a successor owns the partition") from None
            raise
        covered = [event for place, event in self.held if place <= done]
        self.held = [(place, event) for place, event in self.held if place > done]
        self.saved = done
        return covered


class Agent:
    """The part that all agents share: a Faust stream's events through the protocol above."""

    def __init__(self, name: str, settings: Settings, outputs: Outputs, make: Callable[[int], Stage]) -> None:
        self.name, self.settings, self.outputs, self.make = name, settings, outputs, make
        self.owned: dict[tuple[int, int], Owned] = {}

    async def serve(self, stream: Any) -> None:
        """Until the stream ends; any exception ends the process."""
        async for event in stream.noack().events():
            await self._guarded(self._take(event))

    async def snapshot_all(self, idle: bool = False) -> None:
        """Snapshot owned partitions that have folded something: on revocation and before the end all, else the idle.

        Under load a snapshot a second would write the whole state a second, for nothing: a busy partition is snapshot
        every `snapshot_frames`.
        """
        for owned in list(self.owned.values()):
            if owned.stage.done > owned.saved and (not idle or owned.quiet()):
                await self._guarded(self._snapshot(owned))

    async def watch(self) -> None:
        """Let stages that can say what they wait for (`hold`) do so."""
        for owned in list(self.owned.values()):
            if isinstance(owned.stage, Waiting):
                async with owned.lock:
                    owned.stage.hold(time.monotonic(), time.time())

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _LOG.error(
                "worker ends itself",
                agent=self.name,
                error=repr(error),
                exc_info=not isinstance(error, Fenced),
            )
            os._exit(EXIT)

    async def _take(self, event: Any) -> None:
        message = event.message
        key = (message.partition, message.generation_id)
        owned = self.owned.get(key)
        if owned is None:
            for other in [o for o in self.owned if o[0] == key[0] or o[1] != key[1]]:
                del self.owned[other]
            owned = Owned(
                self.name, message.partition, self.make(message.partition), self.outputs, self.settings
            )
            await asyncio.to_thread(owned.open)
            self.owned[key] = owned
        async with owned.lock:
            place = await asyncio.to_thread(owned.stage.fold, event.value)
        owned.folded_s = time.monotonic()
        if place is None:
            event.ack()
            return
        event.value = message.value = None  # held until the snapshot: a scenario is 0.2 MB
        owned.held.append((place, event))
        if owned.stage.done - owned.saved >= self.settings.snapshot_frames:
            await self._snapshot(owned)

    async def _snapshot(self, owned: Owned) -> None:
        async with owned.lock:
            covered = await asyncio.to_thread(owned.snapshot)
        for event in covered:
            event.ack()
