"""Stage 1: turns raw records into tick frames; several processes share the partitions.

For each batch of a partition of a raw topic, in this order, so that a crash in between repeats and loses nothing:
1. decode and check the records, and add the valid ones to the stream;
2. publish a dead letter for each invalid or late record, and flush, before a frame's resume position is behind it;
3. publish the frames of closed ticks, whose resume positions are the only ones that count.
On assignment of a partition, ingest resumes where its newest complete frame says. A second ingest of the same partition
publishes the same frames with the same numbers, which consumers drop.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import numpy as np
import polars as pl
from confluent_kafka import TIMESTAMP_CREATE_TIME, Consumer, KafkaError, Message, TopicPartition

from models import aggregation
from models.aggregation import Columns
from models.metrics import EVENT_KINDS, METRICS
from models.telemetry_rules import MAX_ID_BYTES
from pipeline.errors import Unreachable
from pipeline.kafka import reader, topics
from pipeline.kafka.producer import Outputs
from pipeline.kafka.topics import RAW
from pipeline.logs import Episodes, get_logger
from pipeline.runtime import metrics as telemetry
from pipeline.runtime.metrics import Vitals
from pipeline.runtime.steady_clock import Steady
from pipeline.security.pseudonyms import PSEUDONYM_BYTES, Directory, Key, KeyRing
from pipeline.settings import Settings
from pipeline.stages.ingest import validation
from pipeline.stages.ingest.tick_windows import LATE, NEVER, Frame, PartitionWindows, Refusal, TopicStream
from pipeline.wire.batch_decoder import decode_batch
from pipeline.wire.codec import Codec, Record
from pipeline.wire.messages import (
    MESSAGE_BYTES,
    Received,
    dead_letter,
    letter_key,
    position_of,
    produced_at,
    shift_of,
)
from pipeline.wire.stopped import stopped_columns

LABELS = 500
"""Apps and reasons that refused records are counted and logged under, at most: names come from producers."""
AHEAD = "timestamp-ahead"
_LOG = get_logger()
RECORD = {"telemetry.metrics": "metric", "telemetry.events": "event"}
BATCH = 20_000
ATTRIBUTES = 256
"""Attribute values of a frame at most: 256 of the longest are 40 KB, a tenth of a message."""
REFUSED_BYTES = 32 * 1024
"""Of a frame's refusals, some thousand apps' and reasons' of usual names: each goes into every partition's marker."""


class Partition:
    """Ingest of one partition number of both raw topics: decode, check, group by tick; without Kafka calls."""

    def __init__(self, number: int, settings: Settings, codec: Codec, keys: KeyRing) -> None:
        self.settings, self.codec, self.keys = settings, codec, keys
        metrics, events = (TopicStream(topic, {}) for topic in RAW)
        self.windows = PartitionWindows(number, settings.tick_s, settings.allowed_lateness_s, metrics, events)
        self.directory = Directory(settings.partitions)
        self.touched = dict.fromkeys(RAW, 0.0)
        self.shift_us = 0

    @property
    def reached_s(self) -> float:
        """Event time that both streams have reached, unix seconds; a replay's is shifted to the wall clock."""
        return (min(stream.running_max for stream in self.windows.streams) + self.shift_us) / 1e6

    def stream(self, topic: str) -> TopicStream:
        """The stream of a raw topic, by the topic's logical name."""
        return self.windows.streams[RAW.index(topic)]

    def take(self, topic: str, messages: Sequence[Received]) -> list[Record]:
        """Add a batch of one topic's messages to its stream; return dead letters for invalid and late records."""
        stream = self.stream(topic)
        offset = np.array([message.offset() for message in messages], np.int64)
        new = offset >= stream.next_offset
        telemetry.TAKEN.labels("ingest").inc(len(messages))
        telemetry.DROPPED.labels("ingest", "repeated").inc(int((~new).sum()))
        if not new.any():
            return []
        messages, offset = list(compress(messages, new)), offset[new]
        stream.next_offset = int(offset[-1]) + 1
        values = [message.value() for message in messages]
        decoded, poisons = decode_batch(self.codec, values, (RECORD[topic], "watermark"))
        produced = np.array([produced_at(message) for message in messages])
        shift = np.array([shift_of(message) for message in messages])
        self.shift_us = int(shift[-1])
        bad = {index: (poison.reason, poison.detail) for index, poison in poisons.items()}
        whose = {index: (self.directory.app_of(messages[index].key()), NEVER) for index in bad}

        index: list[np.ndarray] = []
        ts: list[np.ndarray] = []
        rows: Columns = {}
        records = np.zeros(0, np.int64)
        for name, (at, frame) in decoded.items():
            reason = validation.refusals(
                name, frame, produced[at], shift[at], self.settings.max_age_s, self.settings.max_ahead_s
            )
            good = reason == ""
            times = frame["ts"].to_physical()
            if name != "watermark":
                code = np.full(frame.height, -1)
                code[good] = self.directory.code(frame.filter(good))
                belongs = np.array([*self.directory.partition, -1])[code] == self.windows.number
                reason[good & ~belongs] = "wrong-partition"
                good &= belongs
                kept, code = frame.filter(good), code[good]
                rows = self._columns(name, kept)
                rows["code"] = self.directory.series(kept, code) if name == "metric" else code
                records = at[good]
                of = zip(frame["app"].filter(~good), times.filter(~good), strict=True)
                whose |= dict(zip(at[~good].tolist(), of, strict=True))
            details = validation.refusal_details(frame.filter(~good), reason[~good])
            bad |= dict(zip(at[~good].tolist(), zip(reason[~good], details, strict=True), strict=True))
            index.append(at[good])
            ts.append(times.to_numpy()[good])
        if index:
            place = np.concatenate(index)
            by_offset = np.argsort(place, kind="stable")
            place, when = place[by_offset], np.concatenate(ts)[by_offset]
            is_row = np.isin(place, records)
            late = stream.add(offset[place], when, (produced - shift)[place], rows, is_row, self.windows)
            for i, of_row in zip(place[is_row][late].tolist(), np.flatnonzero(late).tolist(), strict=True):
                bad[i], whose[i] = (LATE, ""), (self.directory.apps[rows["code"][of_row]], NEVER)
        self._note_refused(stream, offset, whose, bad)
        return [dead_letter(topic, messages[i], *bad[i]) for i in sorted(bad)]

    def _note_refused(
        self,
        stream: TopicStream,
        offset: np.ndarray,
        whose: Mapping[int, tuple[str, int]],
        bad: Mapping[int, tuple[str, str]],
    ) -> None:
        """Note a batch's refused records whose app is known; a watermark is of none.

        Args:
            stream: of the topic.
            offset: (message,).
            whose: app and event time of refused records, by index; NEVER where the time is not known.
            bad: reasons and details, by index.
        """
        rows = sorted(i for i, (app, _) in whose.items() if 0 < len(app.encode()) <= MAX_ID_BYTES)
        if rows:
            of = [(whose[i][0], str(bad[i][0])) for i in rows]
            believed = [NEVER if bad[i][0] == AHEAD else whose[i][1] for i in rows]
            stream.refuse(offset[rows], np.array(believed), of, self.windows)

    def close(self) -> list[list[Record]]:
        """Close all ticks that both streams have passed; return each frame as the list of its parts' records."""
        out: list[list[Record]] = []
        tick_s = self.windows.tick_s
        while due := self.windows.due():
            start_s = due[0] * tick_s
            key = self.keys.at(start_s)
            last = min(due[1], -(-self.keys.until(start_s) // tick_s) - 1)
            self.directory.keep([key, *self.keys.earlier(start_s)])
            order, names = self.directory.order(key), self.directory.pseudonyms(key)
            frames = self.windows.close(last, order, names, key.key_id)
            out += [self._record(frame, key) for frame in frames]
        if all(stream.empty for stream in self.windows.streams):
            self.directory.forget()
        return out

    def _columns(self, name: str, rows: pl.DataFrame) -> Columns:
        if name == "metric":
            return aggregation.samples(
                rows["interval_s"].to_numpy(), validation.metric_values(rows), validation.saturated(rows)
            )
        attributes = validation.attributes(rows, self.settings.event_attributes)
        kind, amount = validation.kind_index(rows), rows["count"].to_numpy()
        return aggregation.events(kind, amount, len(EVENT_KINDS)) | {
            "kind": kind,
            "amount": amount,
            "attributes": attributes,
            "tagged": np.fromiter(map(len, attributes), bool, len(attributes)),
        }

    def _attributes(self, frame: Frame) -> list[Record]:
        """Event rates (1/s) by app, kind and attribute: the ATTRIBUTES most frequent, in descending order."""
        by_app: Counter[tuple[str, str, str, str]] = Counter()
        for (code, kind, key, value), count in frame.attributes.items():
            by_app[self.directory.apps[code], EVENT_KINDS[kind], key, value] += count
        most = sorted(by_app.items(), key=lambda item: (-item[1], item[0]))[:ATTRIBUTES]
        names = ("app", "kind", "key", "value")
        return [
            {**dict(zip(names, at, strict=True)), "rate": count / self.windows.tick_s} for at, count in most
        ]

    def _users(self, frame: Frame, key: Key) -> bytes:
        """Pseudonyms of a frame's users under a key."""
        names = self.directory.pseudonyms(key)
        return b"".join(names[code] for code in frame.codes.tolist())

    def _record(self, frame: Frame, key: Key) -> list[Record]:
        users = self._users(frame, key)
        earlier = self.keys.earlier(frame.tick * self.windows.tick_s)
        previous = [(of.key_id, self._users(frame, of)) for of in earlier]
        of_app = [self.directory.apps[code] for code in frame.codes.tolist()]
        apps = sorted(set(of_app))
        where = {app: number for number, app in enumerate(apps)}
        index = np.fromiter((where[app] for app in of_app), "<u4", len(of_app))
        groups = frame.groups
        size = PSEUDONYM_BYTES * (1 + len(previous)) + 4 + 4 + 4 + 5 * len(METRICS) + 4 * len(EVENT_KINDS)
        per_part = MESSAGE_BYTES // 2 // size
        of_stopped = MESSAGE_BYTES // 4 // (PSEUDONYM_BYTES + 8 + 4 + 8 * len(METRICS))
        of = max(1, -(-len(of_app) // per_part), -(-len(frame.stopped) // of_stopped))
        common = {
            "shard": self.windows.number,
            "seq": frame.seq,
            "of": of,
            "tick": frame.tick,
            "tick_start": frame.tick * self.windows.tick_us,
            "tick_s": self.windows.tick_s,
            "resume": [vars(resume) for resume in frame.resume],
            "watermark": frame.watermark_us,
            "key_id": key.key_id,
            "apps": apps,
            "metrics": list(METRICS),
            "kinds": list(EVENT_KINDS),
            "late": sum(n for of in frame.refused for (_, reason), n in of.items() if reason == LATE),
        }
        parts: list[Record] = []
        for part in range(of):
            rows = slice(part * per_part, (part + 1) * per_part)
            of_rows = slice(rows.start * PSEUDONYM_BYTES, rows.stop * PSEUDONYM_BYTES)
            parts.append(
                common
                | {
                    "part": part,
                    "attributes": self._attributes(frame) if part == 0 else [],
                    "refused": refusals(*frame.refused) if part == 0 else [],
                    "users": users[of_rows],
                    "app_index": index[rows].tobytes(),
                    "values": groups.values[rows].T.astype("<f4").tobytes(),
                    "rates": groups.rates[rows].T.astype("<f4").tobytes(),
                    "samples": groups.samples[rows].astype("<u4").tobytes(),
                    "events": groups.events[rows].astype("<u4").tobytes(),
                    "saturated": groups.saturated[rows].T.astype(np.uint8).tobytes(),
                    "previous": [{"key_id": of, "users": names[of_rows]} for of, names in previous],
                    "stopped": stopped_columns(
                        frame.stopped.at(slice(part * of_stopped, (part + 1) * of_stopped))
                    ),
                }
            )
        return parts


def refusals(samples: Counter[Refusal], events: Counter[Refusal]) -> list[Record]:
    """Refused metric samples and event records by app and reason, in descending order.

    REFUSED_BYTES at most: what is beyond counts under its reason and no app's name, as what is of no known app does.
    """
    both, size = samples + events, 0
    counts: dict[Refusal, Record] = {}
    for app, reason in sorted(both, key=lambda of: (-both[of], of)):
        size += len(app.encode()) + len(reason) + 16
        listed = app if size <= REFUSED_BYTES else ""
        none = {"app": listed, "reason": reason, "samples": 0, "events": 0}
        total = counts.setdefault((listed, reason), none)
        total["samples"] += samples[app, reason]
        total["events"] += events[app, reason]
    return list(counts.values())


class Ingest:
    """The ingest process: a member of the consumer group of both raw topics, with a `Partition` per assigned number.

    Args:
        settings: of the installation.
        check: called before each message that is published (`pipeline.runtime.session_guard`).
    """

    def __init__(self, settings: Settings, check: Callable[[], None] = lambda: None) -> None:
        self.settings, self.codec, self.keys = settings, Codec(settings.registry_url), KeyRing.of(settings)
        self.partitions: dict[int, Partition] = {}
        self.names = {topics.name(topic, settings): topic for topic in RAW}
        self.live = not settings.event_time
        self.clock = Steady()  # a watermark that comes an hour early makes an hour's records late
        self.vitals = Vitals()
        self.own_stamps: set[str] = set()  # raw topics that were warned of
        self.refused = Episodes[Refusal]()
        # As large as what the topic dead-letters takes.
        self.outputs = Outputs(
            settings,
            {"compression.type": "lz4", "message.max.bytes": 2 * 1024 * 1024},
            check,
        )
        self.consumer = reader.reader(
            settings,
            "ingest",
            {
                # Both topics' partition n go to one process: `range` deals them out alike.
                "partition.assignment.strategy": "range",
                "session.timeout.ms": round(1000 * settings.session_timeout_s),
            },
        )

    def run(self, stop: threading.Event) -> None:
        """Consume and publish until `stop` is set.

        Raises:
            Unreachable: a message could not be delivered, or Kafka reports what it cannot recover from.
        """
        telemetry.serve("ingest", self.vitals, self.settings)
        telemetry.watch_lag("ingest", self.positions, self.settings)
        self.consumer.subscribe(list(self.names), on_assign=self._assigned, on_revoke=self._revoked)
        try:
            while not stop.is_set():
                self.step(reader.batch(self.consumer, BATCH, 0.05))
                self.vitals.beat()
        finally:
            self.consumer.close()

    def positions(self) -> dict[tuple[str, int], int]:
        """Next offset by (topic on the cluster, partition), for the assigned partitions."""
        return {
            (name, number): partition.stream(topic).next_offset
            for number, partition in list(self.partitions.items())
            for name, topic in self.names.items()
        }

    def step(self, messages: Sequence[Message]) -> None:
        """Process one batch of messages: publish dead letters, flush, then publish frames, in the module's order.

        Raises:
            Unreachable: a message could not be delivered, or Kafka reports what it cannot recover from.
        """
        batches: dict[tuple[int, str], list[Message]] = {}
        for message in messages:
            if (error := message.error()) is not None:
                if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise Unreachable(error.str())
                continue
            name, number, _ = position_of(message)
            batches.setdefault((number, self.names[name]), []).append(message)
        for (number, topic), batch in sorted(batches.items()):
            partition = self.partitions[number]
            partition.touched[topic] = time.monotonic()
            self.live &= shift_of(batch[-1]) == 0
            self._warn_of_stamps(topic, batch[-1])
            for letter in partition.take(topic, batch):
                key = letter_key(letter)
                self.outputs.publish("dead-letters", "dead_letter", letter, key=key, partition=number)
                telemetry.DROPPED.labels("ingest", letter["reason"]).inc()
        self.outputs.flush()
        for number in sorted({number for number, _ in batches}):
            for parts in self.partitions[number].close():
                self._show_refused(parts[0])
                for part in parts:
                    self.outputs.publish("behaviour.frames", "frame", part, key=str(number), partition=number)
            delay_s = time.time() - self.partitions[number].reached_s
            telemetry.WATERMARK_DELAY.labels("ingest", number).set(delay_s)
        self.outputs.flush()
        if self.live:
            self._idle()

    def _warn_of_stamps(self, topic: str, message: Message) -> None:
        """Log a warning, once per topic, where a live topic has its producers' timestamps."""
        if self.live and message.timestamp()[0] == TIMESTAMP_CREATE_TIME and topic not in self.own_stamps:
            self.own_stamps.add(topic)
            _LOG.warning(
                "producers stamp the topic: one whose clock is ahead makes the records of others late; set the topic's "
                "message.timestamp.type to LogAppendTime",
                topic=topics.name(topic, self.settings),
            )

    def _show_refused(self, frame: Record) -> None:
        """Count what a frame says was refused; log each app and reason that had none for QUIET_S, at most LABELS."""
        tick, tick_s = frame["tick"], frame["tick_s"]
        for entry in frame["refused"]:
            records, at = entry["samples"] + entry["events"], (entry["app"], entry["reason"])
            if at not in self.refused.newest and len(self.refused.newest) >= LABELS:
                at = ("", entry["reason"])
            telemetry.REFUSED.labels(*at).inc(records)
            if self.refused.begins(at, tick, tick_s):
                _LOG.warning(
                    "records are refused",
                    app=at[0],
                    reason=at[1],
                    records=records,
                    partition=frame["shard"],
                    tick=tick,
                )

    def _idle(self) -> None:
        """Publish a watermark to each raw partition without messages for `idle_s`, so that its ticks can close.

        It is of now: what may still come late has the settings' lateness, as beside records. The wall clock thus enters
        through the raw topic alone, and frames stay a function of the topics.
        """
        now = time.monotonic()
        for partition in self.partitions.values():
            for topic, touched in partition.touched.items():
                if now - touched >= self.settings.idle_s:
                    partition.touched[topic] = now
                    mark = {"ts": int(self.clock() * 1e6)}
                    self.outputs.publish(
                        topic, "watermark", mark, key=None, partition=partition.windows.number
                    )

    def _assigned(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        for number in sorted({tp.partition for tp in assigned}):
            partition = Partition(number, self.settings, self.codec, self.keys)
            partition.touched = dict.fromkeys(RAW, time.monotonic())
            begun = time.monotonic()
            newest = reader.newest(self.settings, "behaviour.frames", number, self._complete)
            if newest is not None:
                partition.windows.restore(*newest)
            telemetry.RECOVERY_SECONDS.labels("ingest", number).set(time.monotonic() - begun)
            self.partitions[number] = partition
        for tp in assigned:
            stream = self.partitions[tp.partition].stream(self.names[tp.topic])
            tp.offset = stream.next_offset
        consumer.assign(assigned)
        self.vitals.ready = True

    def _revoked(self, _: Consumer, revoked: list[TopicPartition]) -> None:
        self.vitals.ready = False
        for tp in revoked:
            self.partitions.pop(tp.partition, None)

    def _complete(self, messages: list[Message], _: object) -> list[Record] | None:
        """The parts of the frame with the greatest `seq` that are all among the messages; None without such a frame."""
        parts: dict[int, dict[int, Record]] = {}
        newest: list[Record] | None = None
        for message in messages:
            _, frame = self.codec.decode(message.value() or b"")
            known = parts.setdefault(frame["seq"], {})
            known[frame["part"]] = frame
            if len(known) == frame["of"] and (newest is None or frame["seq"] > newest[0]["seq"]):
                newest = list(known.values())
        return newest
