"""Ingest on real Kafka: mixed batches, restarts, live watermarks."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from confluent_kafka import Producer

from pipeline.kafka import reader, topics
from pipeline.kafka.connection import connection
from pipeline.security.pseudonyms import partition_of
from pipeline.settings import Settings
from pipeline.sources.replay import Item, Replayer, window_of_topics
from pipeline.stages.ingest.service import Ingest
from pipeline.wire.codec import decode
from tests.unit.pipeline.messages import event, metric, watermark

GOOD, BAD = 10_000, 1_000


def produce(settings: Settings, records: Iterable[tuple[str, int, bytes]]) -> None:
    producer = Producer(
        connection(settings)
        | {"message.max.bytes": 4 * 1024 * 1024, "linger.ms": 5, "enable.idempotence": True}
    )
    for topic, partition, value in records:
        producer.produce(topics.name(topic, settings), value, b"key", partition)
        producer.poll(0)
    assert producer.flush(60) == 0


def both(settings: Settings, ts: int) -> list[tuple[str, int, bytes]]:
    """A watermark in every partition of both raw topics."""
    return [
        (topic, number, watermark(ts))
        for topic in ("telemetry.metrics", "telemetry.events")
        for number in range(settings.partitions)
    ]


def run_until(settings: Settings, done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=Ingest(settings).run, args=(stop,))
    thread.start()
    try:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join(30)


def end_of(settings: Settings, topic: str) -> int:
    return sum(reader.bounds(settings, topic, number)[1] for number in range(settings.partitions))


def records_of(settings: Settings, topic: str) -> list[dict]:
    return [decode(message.value() or b"")[1] for message in reader.read(settings, topic)]


def bad_record(kind: int, ts: int, user: str, here: int, settings: Settings) -> tuple[int, bytes]:
    elsewhere = (here + 1) % settings.partitions
    good = metric(ts, user)
    return [
        (here, good[:-2]),
        (here, good + b"!"),
        (here, metric(ts, user, cpu=float("nan"))),
        (here, metric(ts, user, memory=float("inf"))),
        (here, metric(ts, user, disk=-1.0)),
        (here, metric(ts, user, network=1e20)),
        (here, metric(ts - 30 * 86_400_000_000, user)),
        (here, metric(ts, "")),
        (here, b"\xc3\x01unknown." + good[10:]),
        (elsewhere, good),
        (here, b"not avro at all"),
    ][kind % 11]  # fmt: skip


def test_ten_thousand_good_and_a_thousand_bad(settings: Settings) -> None:
    topics.create(settings)
    rng, now = random.Random(5), int(time.time() * 1e6) - 600_000_000
    settings = settings.model_copy(update={"event_time": True, "tick_s": 60})
    users = [f"user{i}" for i in range(300)]
    batch: list[tuple[str, int, bytes]] = []
    for _ in range(GOOD):
        user = rng.choice(users)
        here = partition_of(f"shop/{user}", settings.partitions)
        batch.append(
            ("telemetry.metrics", here, metric(now - rng.randrange(50_000_000), user, cpu=rng.random()))
        )
    for number in range(BAD):
        user = rng.choice(users)
        here = partition_of(f"shop/{user}", settings.partitions)
        where, value = bad_record(number, now, user, here, settings)
        batch.insert(rng.randrange(len(batch)), ("telemetry.metrics", where, value))
    huge = metric(now, "x" * 1_000_000)
    batch.append(("telemetry.metrics", 0, huge))
    # Without lateness the random times would be late: the watermark alone moves event time past the tick.
    settings = settings.model_copy(update={"lateness_s": 120})
    produce(settings, batch + both(settings, now + 290_000_000))
    run_until(
        settings,
        lambda: end_of(settings, "dead-letters") >= BAD + 1 and end_of(settings, "behaviour.frames") >= 16,
    )
    letters = records_of(settings, "dead-letters")
    reasons = Counter(letter["reason"] for letter in letters)
    assert sum(reasons.values()) == BAD + 1, reasons
    assert len({(letter["partition"], letter["offset"]) for letter in letters}) == BAD + 1
    reasons = Counter(letter["reason"] for letter in letters)
    assert reasons == {
        "truncated": 91, "overlong": 91, "nan": 91, "infinite": 91, "negative": 91, "absurd": 91, "timestamp-old": 91,
        "empty-user": 91, "unknown-schema": 91, "wrong-partition": 91, "unknown-framing": 90, "long-id": 1,
    }  # fmt: skip
    assert all(letter["topic"] == "telemetry.metrics" and letter["value"] for letter in letters)
    frames = records_of(settings, "behaviour.frames")
    assert sum(np.frombuffer(frame["samples"], "<u4").sum() for frame in frames) == GOOD
    for shard in range(settings.partitions):
        assert [f["seq"] for f in frames if f["shard"] == shard] == list(
            range(sum(f["shard"] == shard for f in frames))
        )


def test_an_ingest_that_starts_again_goes_on_where_the_frames_end(settings: Settings) -> None:
    topics.create(settings)
    settings = settings.model_copy(update={"event_time": True, "tick_s": 10})
    start = int(time.time()) // 10 * 10_000_000 - 200_000_000
    users = {
        number: next(f"u{i}" for i in range(99) if partition_of(f"shop/u{i}", 4) == number)
        for number in range(4)
    }

    def tick(number: int) -> list[tuple[str, int, bytes]]:
        ts = start + number * 10_000_000
        rows = [("telemetry.metrics", n, metric(ts, user, cpu=float(number))) for n, user in users.items()]
        return rows + [("telemetry.events", n, event(ts, user)) for n, user in users.items()]

    for first, last in ((0, 5), (5, 9)):
        for number in range(first, last):
            produce(settings, tick(number))
        produce(settings, both(settings, start + last * 10_000_000))
        run_until(settings, lambda last=last: end_of(settings, "behaviour.frames") >= 4 * last)
    frames = records_of(settings, "behaviour.frames")
    for shard in range(4):
        mine = [frame for frame in frames if frame["shard"] == shard]
        assert [frame["seq"] for frame in mine] == list(range(9))
        assert [np.frombuffer(f["values"], "<f4")[0] for f in mine] == [float(n) for n in range(9)]
        assert [np.frombuffer(f["events"], "<u4").tolist() for f in mine] == [[1]] * 9


def test_a_live_partition_that_is_idle_moves_on_by_watermarks_in_the_topic(settings: Settings) -> None:
    topics.create(settings)
    settings = settings.model_copy(update={"tick_s": 1, "idle_s": 0.5})
    produce(settings, [("telemetry.metrics", partition_of("shop/ann", 4), metric(int(time.time() * 1e6)))])
    run_until(settings, lambda: min(reader.bounds(settings, "behaviour.frames", n)[1] for n in range(4)) >= 2)
    raw = [decode(message.value() or b"")[0] for message in reader.read(settings, "telemetry.events")]
    assert set(raw) == {"watermark"}


def test_a_window_of_topics_replays_to_the_same_frames(settings: Settings) -> None:
    topics.create(settings)
    source = settings.model_copy(update={"event_time": True, "tick_s": 10})
    start = int(time.time()) // 10 * 10_000_000 - 100_000_000
    users = [f"u{i}" for i in range(12)]
    rows = [
        (
            "telemetry.metrics",
            partition_of(f"shop/{user}", 4),
            metric(start + n * 10_000_000, user, cpu=float(n)),
        )
        for n in range(6)
        for user in users
    ]
    produce(source, [*both(source, start), *rows, *both(source, start + 60_000_000)])
    target = source.model_copy(update={"prefix": source.prefix + "again."})
    topics.create(target)
    assert Replayer(target).run(window_of_topics(source)) == len(rows)
    for where in (source, target):
        run_until(where, lambda where=where: end_of(where, "behaviour.frames") >= 24)

    def content(where: Settings) -> list[tuple[object, ...]]:
        frames = records_of(where, "behaviour.frames")
        return sorted((f["shard"], f["tick"], f["users"], f["values"], f["samples"]) for f in frames)

    assert content(target) == content(source)
    part = window_of_topics(source, offsets=(0, 3))
    assert sum(1 for _ in part) <= 8


def test_a_replay_goes_on_to_the_end_of_its_window_where_a_trace_is_sparse(settings: Settings) -> None:
    topics.create(settings)
    settings = settings.model_copy(update={"event_time": True, "tick_s": 10})
    items = iter([Item(50_000_000, "telemetry.metrics", "shop/ann", metric(50_000_000))])
    assert Replayer(settings).run(items, last=9) == 1
    run_until(settings, lambda: end_of(settings, "behaviour.frames") >= 20)
    ticks = sorted((frame["shard"], frame["tick"]) for frame in records_of(settings, "behaviour.frames"))
    assert ticks == [(shard, tick) for shard in range(4) for tick in range(5, 10)]
