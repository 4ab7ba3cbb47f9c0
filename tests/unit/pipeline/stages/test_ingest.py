"""Frames are a function of the topics alone: batches, restarts and interleaving do not matter."""

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.metrics import EVENT_KINDS, METRICS
from pipeline.security.pseudonyms import Key, KeyRing, murmur2, partition_of
from pipeline.settings import Settings
from pipeline.stages.ingest.service import Partition
from pipeline.wire.codec import DEFAULT
from tests.unit.pipeline.messages import NOW_US, PRODUCED_US, TICK_S, FakeMessage, event, metric, watermark

METRIC, EVENT = "telemetry.metrics", "telemetry.events"
RING = KeyRing([Key("k1", b"one", 0)])
ROTATED = KeyRing([*RING.keys, Key("k2", b"two", NOW_US // 10**6 + 4 * TICK_S, carry_over=True)])


def partition(ring: KeyRing = RING, **options: Any) -> Partition:
    given: dict[str, Any] = {"tick_s": TICK_S, "partitions": 1, "max_age_s": 86_400.0, "lateness_s": 0}
    return Partition(0, Settings(**given | options), DEFAULT, ring)


def messages(topic: str, bodies: Iterable[bytes | None], first: int = 0) -> list[FakeMessage]:
    return [FakeMessage(body, first + i, name=topic) for i, body in enumerate(bodies)]


def values(frame: dict, column: str, row: int) -> np.ndarray:
    width = len(frame["users"]) // 16
    names = frame["metrics"] if column in ("values", "saturated") else frame["kinds"]
    kind = np.uint8 if column == "saturated" else np.float32
    return np.frombuffer(frame[column], kind).reshape(len(names), width)[:, row]


def minute(n: float) -> int:
    return NOW_US + round(n * TICK_S * 1e6)


def flush(part: Partition, until: int, offset: int) -> list[dict]:
    part.take(METRIC, messages(METRIC, [watermark(until)], offset))
    part.take(EVENT, messages(EVENT, [watermark(until)], offset))
    return [record for parts in part.close() for record in parts]


def flush_of(part: Partition, events: list[bytes]) -> list[dict[str, Any]]:
    part.take(EVENT, messages(EVENT, events))
    return flush(part, minute(2), 9)


def test_a_tick_is_the_time_weighted_mean_of_samples_and_the_rate_of_events() -> None:
    part = partition()
    bodies = [
        metric(minute(0), cpu=1.0, interval_s=10.0, memory=None),
        metric(minute(0.5), cpu=4.0, interval_s=20.0, memory=8.0),
        metric(minute(1), cpu=100.0),
    ]
    assert part.take(METRIC, messages(METRIC, bodies)) == []
    events = [
        event(minute(0.1), count=2.0),
        event(minute(0.2), kind="DB_QUERY", count=30.0),
        event(minute(0.3)),
    ]
    assert part.take(EVENT, messages(EVENT, events)) == []
    first, second = flush(part, minute(2), 10)
    cpu, memory = (values(first, "values", 0)[METRICS.index(name)] for name in ("cpu", "memory"))
    assert cpu == pytest.approx((1.0 * 10 + 4.0 * 20) / 30)
    assert memory == 8.0
    rates = dict(zip(EVENT_KINDS, values(first, "rates", 0), strict=True))
    assert rates["API_CALL"] == pytest.approx(3 / TICK_S)
    assert rates["DB_QUERY"] == pytest.approx(30 / TICK_S)
    assert np.isnan(rates["INTERACTION"])
    assert np.frombuffer(first["samples"], "<u4").tolist() == [2]
    assert np.frombuffer(first["events"], "<u4").tolist() == [3]
    assert values(second, "values", 0)[METRICS.index("cpu")] == 100.0
    assert (first["seq"], second["seq"]) == (0, 1)
    assert first["users"] == RING.keys[0].pseudonym("shop/ann")
    assert b"ann" not in DEFAULT.encode("frame", first)


def test_saturation_is_a_lower_bound_of_the_metric_that_hit_its_limit() -> None:
    part = partition()
    bodies = [
        metric(minute(0), "a", cpu=0.98, memory=5.0, limits=[{"metric": "cpu", "value": 1.0}]),
        metric(minute(0), "b", cpu=0.97, memory=5.0, limits=[{"metric": "cpu", "value": 1.0}]),
        metric(minute(0), "c", cpu=0.1, memory=5.0, saturated=True),
        metric(minute(0), "d", cpu=0.1, memory=5.0, throttled=0.2),
    ]
    part.take(METRIC, messages(METRIC, bodies))
    (frame,) = flush(part, minute(1), 4)
    got = {
        user: tuple(values(frame, "saturated", row)[:2])
        for user in "abcd"
        for row in [frame["users"].index(RING.keys[0].pseudonym(f"shop/{user}")) // 16]
    }
    assert got == {"a": (1, 0), "b": (0, 0), "c": (1, 1), "d": (1, 0)}


def test_late_is_what_the_running_maximum_before_it_says() -> None:
    part = partition(lateness_s=30)
    bodies = [
        metric(minute(0)),
        metric(minute(1.4)),  # running maximum 0:84, tick 0 ends at 0:60 and may be late until 0:90
        metric(minute(0.9)),  # in time
        metric(minute(1.5)),  # running maximum 0:90: from here on tick 0 is over
        metric(minute(0.95)),  # late
    ]
    letters = part.take(METRIC, messages(METRIC, bodies))
    assert [(letter["offset"], letter["reason"]) for letter in letters] == [(4, "late")]
    frames = flush(part, minute(3), 10)
    # The first frame lies one tick early: with a lateness of 30 s a record of that tick would have been in time.
    assert [frame["tick"] - NOW_US // (TICK_S * 10**6) for frame in frames] == [-1, 0, 1]
    assert [frame["late"] for frame in frames] == [0, 0, 1]
    samples = [np.frombuffer(frame["samples"], "<u4").sum() for frame in frames]
    assert samples == [0, 2, 2]


def test_each_bad_record_becomes_one_dead_letter_and_its_neighbours_are_untouched() -> None:
    part = partition(partitions=4)
    here = next(f"user{i}" for i in range(99) if partition_of(f"shop/user{i}", 4) == 0)
    elsewhere = next(f"user{i}" for i in range(99) if partition_of(f"shop/user{i}", 4) == 1)
    bad = {
        "nan": metric(user=here, cpu=float("nan")),
        "infinite": metric(user=here, memory=float("inf")),
        "negative": metric(user=here, disk=-1.0),
        "absurd": metric(user=here, network=1e14),
        "bad-interval": metric(user=here, interval_s=0.0),
        "timestamp-old": metric(NOW_US - 2 * 86_400_000_000, user=here),
        "timestamp-ahead": metric(PRODUCED_US + 301_000_000, user=here),
        "empty-user": metric(user=""),
        "empty-app": metric(user=here, app=""),
        "long-id": metric(user="x" * 1_000_000),
        "wrong-partition": metric(user=elsewhere),
        "truncated": metric(user=here)[:-1],
        "overlong": metric(user=here) + b"\x00",
        "not-utf8": metric(user=here).replace(here.encode(), b"\xff" * len(here)),
        "unknown-schema": b"\xc3\x01" + bytes(20),
        "empty": b"",
    }
    bodies = [body for wrong in bad.values() for body in (metric(user=here), wrong)]
    letters = part.take(METRIC, messages(METRIC, bodies))
    assert [letter["reason"] for letter in letters] == list(bad)
    assert [letter["offset"] for letter in letters] == list(range(1, 2 * len(bad), 2))
    cut = next(letter for letter in letters if letter["reason"] == "long-id")
    assert len(cut["value"]) == 256 * 1024
    assert "cut from" in cut["detail"]
    text = next(letter for letter in letters if letter["reason"] == "not-utf8")
    assert text["detail"] == "user is not in UTF-8: invalid start byte at its byte 0"
    (frame,) = flush(part, minute(1), len(bodies))
    assert np.frombuffer(frame["samples"], "<u4").tolist() == [len(bad)]


def test_a_key_that_rotates_gives_new_pseudonyms_from_its_tick_on() -> None:
    old, new = Key("k1", b"one", 0), Key("k2", b"two", minute(2) // 10**6)
    part = partition(KeyRing([new, old]))
    part.take(METRIC, messages(METRIC, [metric(minute(i)) for i in range(4)]))
    frames = flush(part, minute(4), 4)
    assert [frame["key_id"] for frame in frames] == ["k1", "k1", "k2", "k2"]
    assert [frame["users"] for frame in frames] == [key.pseudonym("shop/ann") for key in (old, old, new, new)]


def test_usage_of_no_single_user_is_one_more_entity_and_a_gap_gives_empty_frames() -> None:
    part = partition()
    part.take(METRIC, messages(METRIC, [metric(user=None, scope="SHARED"), metric(), metric(user=None)]))
    frames = flush(part, minute(3), 3)
    assert [len(frame["users"]) // 16 for frame in frames] == [2, 0, 0]


def test_only_allow_listed_attributes_leave_ingest_and_of_the_app_alone() -> None:
    part = partition(event_attributes=frozenset({"device"}))
    device, secret = {"key": "device", "value": "phone"}, {"key": "email", "value": "ann@example.org"}
    events = [
        event(minute(0), "ann", attributes=[device, secret], count=2.0),
        event(minute(0), "bob", attributes=[device], count=4.0),
        event(minute(0), "bob", attributes=[secret]),
        event(minute(1), "bob", kind="DB_QUERY", attributes=[{"key": "device", "value": "x" * 100}]),
    ]
    part.take(EVENT, messages(EVENT, events))
    first, second = flush(part, minute(2), 9)
    assert first["attributes"] == [
        {"app": "shop", "kind": "API_CALL", "key": "device", "value": "phone", "rate": 6 / TICK_S}
    ]
    assert [(a["kind"], a["value"]) for a in second["attributes"]] == [("DB_QUERY", "x" * 64)]
    assert b"example.org" not in DEFAULT.encode("frame", first)
    assert flush_of(partition(), events)[0]["attributes"] == []


def test_murmur2_is_javas() -> None:
    # From Kafka's own UtilsTest.testMurmur2.
    expected = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    assert {text: murmur2(text.encode()) for text in expected} == {
        k: v & 0xFFFFFFFF for k, v in expected.items()
    }


Body = Callable[[], bytes]

users = st.sampled_from(["ann", "bob", "eve"])
times = st.integers(0, 6 * TICK_S).map(lambda s: NOW_US + s * 1_000_000)
amounts = st.integers(0, 40).map(lambda n: n / 7)
metric_body = st.one_of(
    st.builds(lambda ts, user, cpu: partial(metric, ts, user, cpu=cpu), times, users, amounts),
    st.builds(
        lambda ts, user, cpu, producer, instance, interval_s: partial(
            metric, ts, user, cpu=cpu, producer=producer, instance=instance, interval_s=interval_s
        ),
        times,
        users,
        amounts,
        st.sampled_from(["", "a", "b"]),
        st.sampled_from([None, "i-1", "i-2"]),
        st.sampled_from([10.0, 60.0, 90.0, 200.0, 5000.0]),
    ),
    st.builds(
        lambda ts, user, memory: partial(metric, ts, user, cpu=None, memory=memory, interval_s=150.0),
        times,
        users,
        amounts,
    ),
    st.builds(lambda ts, user: partial(metric, ts, user, cpu=-1.0), times, users),
    st.builds(lambda ts: partial(watermark, ts), times),
    st.just(lambda: b"junk"),
)
event_body = st.one_of(
    st.builds(lambda ts, user, count: partial(event, ts, user, count=count), times, users, amounts),
    st.builds(lambda ts: partial(watermark, ts), times),
)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(metric_body, max_size=25),
    st.lists(event_body, max_size=10),
    st.integers(0, 2**32).map(random.Random),
    st.sampled_from([0, 30, 90]),
)
def test_frames_do_not_depend_on_batches_interleaving_or_restarts(
    metric_bodies: list[Body], event_bodies: list[Body], chance: random.Random, lateness_s: int
) -> None:
    metric_part, event_part = ([body() for body in part] for part in (metric_bodies, event_bodies))
    end = [watermark(minute(12))]
    lanes = {METRIC: messages(METRIC, metric_part + end), EVENT: messages(EVENT, event_part + end)}
    for stream in lanes.values():
        for message in stream[:-1]:
            message.produced_us = NOW_US + chance.randrange(8 * TICK_S) * 1_000_000
        stream[-1].produced_us = NOW_US + 10**9

    def run(batched: bool) -> tuple[list[bytes], dict[tuple[str, int], dict]]:
        part = partition(ROTATED, lateness_s=lateness_s, max_ahead_s=10_000.0)
        frames: list[dict] = []
        letters: dict[tuple[str, int], dict] = {}
        position = dict.fromkeys(lanes, 0)
        while any(position[topic] < len(stream) for topic, stream in lanes.items()):
            topic = (
                chance.choice(list(lanes))
                if batched
                else max(lanes, key=lambda t: len(lanes[t]) - position[t])
            )
            size = chance.randint(1, 7) if batched else 10**6
            for letter in part.take(topic, lanes[topic][position[topic] : position[topic] + size]):
                letters.setdefault((letter["topic"], letter["offset"]), letter)
            position[topic] += size
            if batched and chance.random() < 0.3:  # as when many rows wait
                part.stream(topic).gather()
            for parts in part.close():
                frames += parts
            if (
                batched and frames and chance.random() < 0.3
            ):  # killed, and started again behind its last frame
                part = partition(ROTATED, lateness_s=lateness_s, max_ahead_s=10_000.0)
                part.windows.restore(frames[-1])
                position = {topic: part.stream(topic).next_offset for topic in lanes}
        return [DEFAULT.encode("frame", frame) for frame in frames], letters

    whole, whole_letters = run(batched=False)
    pieces, pieces_letters = run(batched=True)
    assert pieces == whole
    assert pieces_letters == whole_letters
    framed = sum(np.frombuffer(DEFAULT.decode(f)[1]["samples"], "<u4").sum() for f in whole)
    refused = sum(topic == METRIC for topic, _ in whole_letters)
    marks = sum(DEFAULT.split(body)[0].name == "watermark" for body in metric_part if body != b"junk")
    assert framed + refused + marks == len(metric_part)


def stopping(ring: KeyRing, users: int, ticks: int, killed: bool) -> list[list[dict[str, Any]]]:
    """Parts of frames of users of three agents, one of which stops after two ticks; killed after each frame, or not."""
    bodies = [
        metric(minute(tick), f"u{user}", producer=f"{agent}", cpu=2.0)
        for tick in range(ticks)
        for user in range(users)
        for agent in range(3)
        if agent or tick < 2
    ]
    lane = messages(METRIC, [*bodies, watermark(minute(ticks))])
    part, out, at = partition(ring), list[list[dict[str, Any]]](), 0
    mark = messages(EVENT, [watermark(minute(ticks))])
    part.take(EVENT, mark)
    while at < len(lane):
        part.take(METRIC, lane[at : at + users])
        closed, at = part.close(), at + users
        out += closed
        if killed and closed:
            part = partition(ring)
            part.windows.restore(*(DEFAULT.decode(DEFAULT.encode("frame", p))[1] for p in reversed(out[-1])))
            part.take(EVENT, mark)
            at = part.windows.metrics.next_offset
    return out


def test_what_stopped_fills_several_parts_and_is_known_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.stages.ingest.service.MESSAGE_BYTES", 1000)
    whole, killed = (stopping(RING, 7, 6, killed) for killed in (False, True))
    assert [len(parts) for parts in whole] == [1, 1, 3, 3, 3, 3]
    assert whole == killed
    series = [sum(len(part["stopped"]["series"]) // 4 for part in parts) for parts in whole]
    assert series == [0, 0, 7, 7, 7, 7]


def test_a_new_key_forgets_what_stopped() -> None:
    whole, killed = (stopping(ROTATED, 2, 6, killed) for killed in (False, True))
    assert whole == killed
    assert [len(parts[0]["stopped"]["series"]) // 4 for parts in whole] == [0, 0, 2, 2, 0, 0]


def test_a_user_of_one_series_costs_no_second_reading() -> None:
    """Frames of users of one producer resume where the next tick begins."""
    bodies = [metric(minute(tick), user, cpu=2.0) for tick in range(3) for user in ("ann", "bob")]
    part = partition()
    part.take(METRIC, messages(METRIC, bodies))
    assert [frame["resume"][0]["offset"] for frame in flush(part, minute(3), 6)] == [2, 4, 6]
