"""Replays a trace, or a window of topics, into the raw topics: at real speed, N times it, or as fast as possible.

Replay knows its next records, so after each tick it publishes a watermark to every partition of both raw topics, also
to those without a record. A header has the lag of event time behind the wall clock (so that ingest takes a trace of
2013); the message's own timestamp stays the produce time, or retention would delete the replay.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import polars as pl
from confluent_kafka import TopicPartition

from models.metrics import EVENT_KINDS, METRICS
from pipeline.errors import Poison
from pipeline.kafka import reader, topics
from pipeline.kafka.producer import Outputs
from pipeline.kafka.topics import RAW
from pipeline.logs import get_logger
from pipeline.security.pseudonyms import entity, partition_of
from pipeline.settings import Settings
from pipeline.traces.trace_file import EVENTS, LIMIT
from pipeline.wire.codec import DEFAULT, Codec
from pipeline.wire.messages import CLOCK_HEADER, END_HEADER, SHIFT_HEADER, produced_at, shift_of

_LOG = get_logger()


class Item(NamedTuple):
    """A message to publish: event time in microseconds, logical topic, partition and value."""

    ts_us: int
    topic: str
    key: str
    value: bytes


def records(rows: pl.DataFrame, interval_s: int, codec: Codec = DEFAULT) -> Iterator[Item]:
    """A trace's rows as raw records: one metric sample each, and one event record per kind that is not zero.

    Args:
        rows: as `Trace.replayed` gives them.
        interval_s: that a sample stands for; event rates times it are counts.
        codec: encodes.
    """
    metrics = [name for name in METRICS if name in rows.columns]
    limits = {name: name.removeprefix(LIMIT) for name in rows.columns if name.startswith(LIMIT)}
    events = {name: name.removeprefix(EVENTS) for name in rows.columns if name.startswith(EVENTS)}
    for number, row in enumerate(rows.with_columns(pl.col("ts").dt.epoch("us")).iter_rows(named=True)):
        ts, app, user = row["ts"], row["app"] or "", row["user"] or ""
        key = entity(app, user)
        if any(row[name] is not None for name in metrics):
            record = {
                "ts": ts,
                "interval_s": float(interval_s),
                "app": app,
                "user": user,
                "limits": [
                    {"metric": m, "value": row[name]} for name, m in limits.items() if row[name] is not None
                ],
                "producer": "replay",
                "producer_seq": number,
                **{name: row[name] for name in metrics},
            }
            yield Item(ts, RAW[0], key, codec.encode("metric", record))
        for name, kind in events.items():
            if row[name]:
                event = {
                    "ts": ts,
                    "event_id": f"{number}.{kind}",
                    "app": app,
                    "user": user,
                    "kind": kind if kind in EVENT_KINDS else "OTHER",
                    "name": kind,
                    "count": row[name] * interval_s,
                }
                yield Item(ts, RAW[1], key, codec.encode("event", event))


def window_of_topics(
    settings: Settings,
    since_s: float | None = None,
    until_s: float | None = None,
    offsets: tuple[int, int] | None = None,
) -> Iterator[Item]:
    """Raw records of a cluster's topics, by produce time or by offset, merged by event time; only read.

    What cannot be decoded has no event time and goes with its predecessor: the replay refuses it again.

    Raises:
        Unreachable: the cluster does not answer.
    """
    lanes = [
        _lane(settings, topic, number, since_s, until_s, offsets)
        for topic in RAW
        for number in range(settings.partitions)
    ]
    return heapq.merge(*lanes, key=lambda item: item.ts_us)


def _lane(
    settings: Settings,
    topic: str,
    number: int,
    since_s: float | None,
    until_s: float | None,
    offsets: tuple[int, int] | None,
) -> Iterator[Item]:
    low, high = reader.bounds(settings, topic, number)
    if offsets is not None:
        low, high = max(low, offsets[0]), min(high, offsets[1])
    consumer = reader.reader(settings)
    try:
        for moment_s, is_end in ((since_s, False), (until_s, True)):
            if moment_s is not None:
                at = TopicPartition(topics.name(topic, settings), number, int(moment_s * 1000))
                offset = consumer.offsets_for_times([at], timeout=reader.POLL_S)[0].offset
                offset = high if offset < 0 else offset
                low, high = (low, min(high, offset)) if is_end else (max(low, offset), high)
    finally:
        consumer.close()
    if low >= high:
        return
    codec, ts_us = Codec(settings.registry_url), -(2**63)
    for message in reader.read(settings, topic, {number: low}, {number: high}):
        value, key = message.value() or b"", (message.key() or b"").decode(errors="replace")
        try:
            name, record = codec.decode(value)
            reached_us = produced_at(message) - shift_of(message)
            ts_us = max(ts_us, min(int(record["ts"].timestamp() * 1e6), reached_us))
            if name == "watermark":
                continue
            key = entity(record["app"], record["user"], record.get("scope", "USER"), record.get("instance"))
        except Poison:
            _LOG.debug("replayed as it is", topic=topic, partition=number, offset=message.offset())
        yield Item(ts_us, topic, key, value)


Pace = Callable[[float], None]
"""Returns when a moment of event time (unix seconds) has come; called with each tick's beginning, in their order."""


def unpaced(_: float) -> None:
    """The pace of what goes as fast as possible."""


def at_speed(
    speed: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Pace:
    """A pace of `speed` event seconds per second from its first call on; None: as fast as possible.

    Args:
        speed: positive.
        clock, sleep: seconds, and how to wait for them.
    """
    begun: tuple[float, float] | None = None

    def wait(at_s: float) -> None:
        nonlocal begun
        begun = begun or (at_s, clock())
        if speed is not None:
            sleep(max(0.0, begun[1] + (at_s - begun[0]) / speed - clock()))

    return wait


class Replayer:
    """Publishes items tick by tick.

    Args:
        settings: of the installation: address, topics and the length of a tick.
        clock: wall clock in unix seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings, self.clock = settings, clock
        self.codec = Codec(settings.registry_url)
        self.tick_us = settings.tick_s * 1_000_000
        # As large as what the raw topics take: a window of topics holds what came.
        more = {"linger.ms": 5, "compression.type": "lz4", "message.max.bytes": 4 * 1024 * 1024}
        self.outputs = Outputs(settings, more)
        self.sent = 0

    def run(
        self,
        items: Iterator[Item],
        pace: Pace = unpaced,
        progress: Callable[[int], None] = lambda _: None,
        last: int | None = None,
    ) -> int:
        """Publish everything; return the number of records.

        Args:
            items: in the order of time.
            pace: waits for each tick's beginning.
            progress: called after each tick with the number of records so far.
            last: tick up to which watermarks go on after the last item; None: its own.

        Raises:
            Unreachable: a message was not delivered.
        """
        first = next(items, None)
        if first is None:
            return 0
        tick = first.ts_us // self.tick_us
        pace(tick * self.tick_us / 1e6)
        headers, now_ms = self._headers((tick + 1) * self.tick_us)
        self._watermarks(tick * self.tick_us, headers, now_ms)

        def advance() -> None:
            nonlocal tick, headers, now_ms
            tick += 1
            self._watermarks(tick * self.tick_us, headers, now_ms)
            progress(self.sent)
            pace(tick * self.tick_us / 1e6)
            headers, now_ms = self._headers((tick + 1) * self.tick_us)

        for item in self._chain(first, items):
            while item.ts_us >= (tick + 1) * self.tick_us:
                advance()
            number = partition_of(item.key, self.settings.partitions)
            self.outputs.send(
                item.topic, item.value, key=item.key, partition=number, headers=headers, timestamp_ms=now_ms
            )
            self.sent += 1
        while last is not None and tick < last:
            advance()
        end_us = (tick + 1) * self.tick_us + self.settings.allowed_lateness_s * 1_000_000
        headers, now_ms = self._headers(end_us)
        self._watermarks(end_us, headers | {END_HEADER: "1"}, now_ms)
        self.outputs.flush()
        progress(self.sent)
        return self.sent

    @staticmethod
    def _chain(first: Item, rest: Iterator[Item]) -> Iterator[Item]:
        yield first
        yield from rest

    def _headers(self, end_us: int) -> tuple[dict[str, str], int]:
        """How far an event time lies behind the wall clock, by which clock, and this clock's milliseconds.

        One reading for all: a clock that jumps within a tick makes no record old or early.
        """
        now_us = int(self.clock() * 1e6)
        return {SHIFT_HEADER: str(now_us - end_us), CLOCK_HEADER: str(now_us)}, now_us // 1000

    def _watermarks(self, ts_us: int, headers: dict[str, str], now_ms: int) -> None:
        value = self.codec.encode("watermark", {"ts": ts_us})
        for topic in RAW:
            for number in range(self.settings.partitions):
                self.outputs.send(
                    topic, value, key=None, partition=number, headers=headers, timestamp_ms=now_ms
                )
