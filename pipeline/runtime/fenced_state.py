"""Keeps a partition's state in Kafka with exactly-once effect: fence the predecessor, restore, fold, snapshot.

This order makes sure that a killed, replaced or resumed worker neither loses nor repeats an effect:

1. on the first message of a (partition, generation): `init_transactions()` with a transactional.id that names the
   stage and the partition fences the predecessor; then the state partition is read to its end (read_committed);
2. fold a message: outputs go out by an idempotent, *not* transactional producer (another Faust agent reads them);
3. at a snapshot, flush those outputs, then write all changed blocks in one transaction: what is restored is one
   cut, so that folding again publishes identical bytes;
4. acknowledge the messages that the snapshot covers, in their order: the group's offset never passes a snapshot, so a
   successor is given everything since, and drops what its state has.

A gap, a fenced producer or any other exception ends the process; its supervisor starts another.
"""

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.errors import Fenced
from pipeline.kafka import reader, topics
from pipeline.kafka.connection import connection
from pipeline.kafka.producer import Outputs
from pipeline.logs import get_logger
from pipeline.runtime import metrics
from pipeline.runtime.session_guard import EXIT
from pipeline.runtime.standby import Standby
from pipeline.settings import Settings
from pipeline.wire.codec import Codec, Record

TIMEOUT_S = 30
TRANSACTION_S = 300
"""Longest time of a snapshot: 500,000 users of a partition are 1.3 GB, 13 s at 100 MB/s, and a broker may be slow."""
WRITING_KB = 64 * 1024
"""Of a snapshot, on their way to the broker: more would be a second copy of the state."""
IDLE_S = 1.0
"""A partition without a message for this time is idle: a tick's parts arrive within milliseconds of each other."""
REPEATED = -1
"""Place of a message that the state already contains."""
QUEUED = 4
"""Messages of a partition that wait while an earlier one is folded: those of all partitions come in turn."""
_LOG = get_logger()

Publish = Callable[..., None]
"""publish(topic, name, record, *, key, partition): see `Outputs.publish`."""


class Stage(Protocol):
    """Protocol of an agent's calculation for one partition; `Agent` calls it."""

    def restore(self, blocks: dict[bytes, bytes]) -> None:
        """Continue from a snapshot; no blocks: begin. Blocks may be taken out as they are read: they are large."""
        ...

    def fold(self, value: bytes) -> int | None:
        """Add a message to the state and publish the outputs that follow from it.

        Returns:
            The message's place in the order of `done`; None when the state has it already.
        """
        ...

    @property
    def done(self) -> int:
        """Place (tick or sequence number) up to which all messages are in the state."""
        ...

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """Key and bytes of the blocks that changed since the last call."""
        ...


class Numbered(ABC):
    """Base class of a stage whose input records have gapless numbers (`seq`) per shard and may be split into parts.

    Args:
        shard: the partition.
        codec: decodes the parts.
    """

    def __init__(self, shard: int, codec: Codec) -> None:
        self.shard, self.codec = shard, codec
        self.seq = self.coming = -1
        self.parts: dict[int, Record] = {}

    def keep(self, part: Record) -> Record:
        """Take a part; return what to hold of it until all parts have arrived."""
        return part

    @abstractmethod
    def whole(self, parts: list[Record]) -> None:
        """Process the next record, given all its parts in order, and publish the outputs."""

    @property
    def done(self) -> int:
        """`seq` of the last complete record."""
        return self.seq

    def fold(self, value: bytes) -> int | None:
        """Add one part of a record; call `whole` once all parts have arrived.

        Returns:
            The record's `seq`; None for a repeat.

        Raises:
            RuntimeError: a `seq` was skipped.
        """
        name, part = self.codec.decode(value)
        seq = part["seq"]
        if seq <= self.seq or (seq == self.coming and part["part"] in self.parts):
            return None
        if self.seq >= 0 and seq != self.seq + 1:
            raise RuntimeError(f"gap in shard {self.shard}: {name} {self.seq} is followed by {seq}")
        if seq != self.coming:
            self.coming, self.parts = seq, {}
        self.parts[part["part"]] = self.keep(part)
        if len(self.parts) == part["of"]:
            parts = [self.parts.pop(number) for number in range(part["of"])]
            self.whole(parts)
            self.seq = seq
        return seq


@runtime_checkable
class Waiting(Protocol):
    """Protocol of a stage that waits for others, and goes on without them or publishes a notice if that takes long."""

    def hold(self, now_s: float, wall_s: float) -> None:
        """Go on where what was waited for has come, or publish a notice if due; called about once a second.

        Args:
            now_s: monotonic seconds, to measure the wait.
            wall_s: unix seconds, for the notice.
        """
        ...


class Owned:
    """One partition that this process owns: its stage, its fence, and the events not yet acknowledged."""

    def __init__(
        self,
        name: str,
        number: int,
        stage: Stage,
        outputs: Outputs,
        settings: Settings,
        standby: Standby | None = None,
    ) -> None:
        self.name, self.number, self.stage = name, number, stage
        self.outputs, self.settings, self.standby = outputs, settings, standby
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
                "queue.buffering.max.kbytes": WRITING_KB,
                "transaction.timeout.ms": TRANSACTION_S * 1000,
            }
        )

    def quiet(self) -> bool:
        """Whether no message is being folded, or was folded a moment ago."""
        return not self.lock.locked() and time.monotonic() - self.folded_s >= IDLE_S

    def open(self) -> None:
        """Fence the predecessor, then restore the state that it wrote."""
        begun = time.monotonic()
        self.fence.init_transactions(TIMEOUT_S)
        blocks, since = self.standby.take(self.number) if self.standby is not None else ({}, 0)
        messages = reader.read(self.settings, f"state.{self.name}", {self.number: since})
        blocks |= {m.key() or b"": m.value() or b"" for m in messages}
        self.stage.restore(blocks)
        self.saved = self.stage.done
        metrics.RECOVERY_SECONDS.labels(self.name, self.number).set(time.monotonic() - begun)

    def snapshot(self) -> list[Any]:
        """Write one cut of the state; return the events that it covers.

        Raises:
            Fenced: a successor has this partition.
        """
        done, begun, size = self.stage.done, time.monotonic(), 0
        self.outputs.flush()
        try:
            self.fence.begin_transaction()
            for key, value in self.stage.blocks():
                self._write(key, value)
                size += len(value)
            self.fence.commit_transaction(TRANSACTION_S)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
                raise Fenced(f"{self.name} {self.number}: a successor owns the partition") from None
            raise
        covered = self.covered(done)
        self.saved = done
        metrics.STATE_BYTES.labels(self.name, self.number).set(size)
        metrics.SNAPSHOT_SECONDS.labels(self.name).observe(time.monotonic() - begun)
        return covered

    def covered(self, done: int) -> list[Any]:
        """Take out the held events up to the first that is not in the state, in the order in which they came.

        Of two shards' ticks, the later one's may come first. Faust commits past a message that is not acknowledged
        where it is the first, or none was committed yet (`Consumer._new_offset`): later ones wait for it.
        """
        count = next((at for at, (place, _) in enumerate(self.held) if place > done), len(self.held))
        covered, self.held = self.held[:count], self.held[count:]
        return [event for _, event in covered]

    def _write(self, key: bytes, value: bytes) -> None:
        while True:
            try:
                self.fence.produce(self.topic, value, key, self.number)
                return
            except BufferError:  # a large state is written as fast as the broker takes it
                self.fence.poll(0.1)


class Agent:
    """Runs a stage per partition of a Faust stream by the module's protocol; all agents share it.

    Args:
        name: of the stage.
        source: topic that it consumes, by its name on the cluster.
        settings, outputs: of the worker.
        make: a stage for a partition.
    """

    def __init__(
        self,
        name: str,
        source: str,
        settings: Settings,
        outputs: Outputs,
        make: Callable[[int], Stage],
    ) -> None:
        self.name, self.source = name, source
        self.settings, self.outputs, self.make = settings, outputs, make
        self.owned: dict[tuple[int, int], Owned] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self.opening = 0
        self.epoch = 0
        self.standby = Standby(name, settings) if settings.standby else None

    def assigned(self, partitions: set[int]) -> None:
        """Set the partitions that this worker owns from now on."""
        if self.standby is not None:
            self.standby.own(partitions)

    async def serve(self, stream: Any) -> None:
        """Fold the stream until it ends, its partitions concurrently; any exception ends the process."""
        lanes: dict[int, asyncio.Queue[Any]] = {}
        tasks: list[asyncio.Task[None]] = []
        try:
            async for event in stream.noack().events():
                number = event.message.partition
                if number not in lanes:
                    lanes[number] = asyncio.Queue(QUEUED)
                    tasks.append(asyncio.create_task(self._fold_all(lanes[number])))
                await lanes[number].put((self.epoch, event))
        finally:
            for task in tasks:
                task.cancel()

    async def _fold_all(self, events: asyncio.Queue[Any]) -> None:
        while True:
            await self._guarded(self._take(*await events.get()))

    def quiet(self) -> bool:
        """Whether no partition is folding a message, or folded a message a moment ago."""
        return all(owned.quiet() for owned in self.owned.values())

    async def snapshot_all(self) -> None:
        """Snapshot the owned partitions that have folded messages since their last snapshot."""
        changed = [owned for owned in self.owned.values() if owned.stage.done > owned.saved]
        await asyncio.gather(*(self._guarded(self._snapshot(owned)) for owned in changed))

    async def end(self) -> None:
        """Fold no further waiting message, and snapshot all: the partitions are revoked, or the process ends.

        Messages not folded are not acknowledged, so that the partition's next owner receives them again.
        """
        self.epoch += 1
        await self.snapshot_all()

    async def watch(self) -> None:
        """Call `hold` of the stages that are `Waiting`, about once a second."""
        for owned in list(self.owned.values()):
            if isinstance(owned.stage, Waiting):
                await self._guarded(self._hold(owned, owned.stage))

    async def _hold(self, owned: Owned, stage: Waiting) -> None:
        async with owned.lock:  # in a thread, as a fold: it may plan
            await asyncio.to_thread(stage.hold, time.monotonic(), time.time())

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

    async def _take(self, epoch: int, event: Any) -> None:
        message = event.message
        key = (message.partition, message.generation_id)
        if epoch != self.epoch:
            return
        owned = self.owned.get(key)
        if owned is None:
            for other in [o for o in self.owned if o[0] == key[0] or o[1] != key[1]]:
                del self.owned[other]
            self.positions = {
                at: p for at, p in self.positions.items() if at[1] in {o[0] for o in self.owned}
            }
            owned = Owned(
                self.name,
                message.partition,
                self.make(message.partition),
                self.outputs,
                self.settings,
                self.standby,
            )
            self.opening += 1
            await asyncio.to_thread(owned.open)
            self.opening -= 1
            self.owned[key] = owned
        async with owned.lock:
            if epoch != self.epoch:
                return
            place = await asyncio.to_thread(owned.stage.fold, event.value)
        owned.folded_s = time.monotonic()
        self.positions[message.topic, message.partition] = message.offset + 1
        metrics.TAKEN.labels(self.name).inc()
        if place is None:
            metrics.DROPPED.labels(self.name, "repeated").inc()
            if not owned.held:
                event.ack()
                return
            place = REPEATED
        event.value = message.value = None  # held until the snapshot: a scenario is 0.2 MB
        owned.held.append((place, event))
        if owned.stage.done - owned.saved >= self.settings.snapshot_frames:
            await self._snapshot(owned)

    async def _snapshot(self, owned: Owned) -> None:
        async with owned.lock:
            covered = await asyncio.to_thread(owned.snapshot)
        for event in covered:
            event.ack()
