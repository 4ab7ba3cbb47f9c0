"""The public interface on real Kafka: telemetry up to a frame, plans and decisions back."""

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import leadtime
from pipeline.kafka import reader, topics
from pipeline.kafka.installation import declare
from pipeline.kafka.producer import Outputs
from pipeline.security.pseudonyms import KeyRing, entity, partition_of
from pipeline.settings import Settings
from pipeline.stages.ingest.service import Ingest
from pipeline.wire.codec import decode
from tests.unit.pipeline.reports.test_decision_text import plan

USERS = [f"user{number}" for number in range(40)]
GIB = 2.0**30


@pytest.fixture
def there(settings: Settings) -> Settings:
    topics.create(settings)
    return declare(settings)


def records_of(settings: Settings, topic: str) -> list[tuple[str, dict[str, Any]]]:
    return [decode(message.value() or b"") for message in reader.read(settings, topic)]


def framed(settings: Settings, samples: int) -> list[dict[str, Any]]:
    """Frames, once they hold so many samples."""
    stop, deadline = threading.Event(), time.monotonic() + 60
    thread = threading.Thread(target=Ingest(settings).run, args=(stop,))
    thread.start()
    try:
        while True:
            frames = [record for _, record in records_of(settings, "behaviour.frames")]
            if sum(np.frombuffer(frame["samples"], "<u4").sum() for frame in frames) >= samples:
                return frames
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join(30)


def test_what_telemetry_sends_is_in_frames_and_nothing_is_a_dead_letter(there: Settings) -> None:
    tick_start = time.time() // 60 * 60 - 60
    with leadtime.Telemetry(settings=there, producer="test") as telemetry:
        for user in USERS:
            telemetry.metric(
                app="shop", user=user, cpu=0.5, memory=3 * GIB, limits={"cpu": 2.0}, ts=tick_start + 1
            )
            telemetry.event(
                app="shop", user=user, kind="API_CALL", count=3, name="GET /", attributes={"plan": "pro"},
                ts=datetime.fromtimestamp(tick_start + 2, UTC),
            )  # fmt: skip
        telemetry.metric("shop", scope="SHARED", network=1e6, ts=tick_start + 3)
        telemetry.metric("shop", scope="INSTANCE", instance="i-7", cpu=1.5, throttled=0.25, ts=tick_start + 3)
        telemetry.watermark(tick_start + 60)
        with pytest.raises(leadtime.UsageError, match="before the watermark that was sent"):
            telemetry.metric("shop", "ann", cpu=1.0, ts=tick_start + 59)
    raw = records_of(there, "telemetry.metrics")
    sent = [record for name, record in raw if name == "metric"]
    assert {record["producer"] for record in sent} == {"test"}
    assert sorted(record["producer_seq"] for record in sent) == list(range(len(USERS) + 2))
    assert [name for name, _ in raw].count("watermark") == there.partitions
    events = [record for name, record in records_of(there, "telemetry.events") if name == "event"]
    assert len({record["event_id"] for record in events}) == len(USERS)

    frames = framed(there, len(USERS) + 2)
    assert records_of(there, "dead-letters") == []
    assert {frame["tick"] for frame in frames} == {int(tick_start) // 60}
    key = KeyRing.of(there).at(int(tick_start))
    for user in USERS:
        name = entity("shop", user)
        (row,) = [
            (frame, index)
            for frame in frames
            for index in range(len(frame["users"]) // 16)
            if frame["users"][16 * index : 16 * index + 16] == key.pseudonym(name)
        ]
        frame, index = row
        assert frame["shard"] == partition_of(name, there.partitions)
        usage = np.frombuffer(frame["values"], "<f4").reshape(len(frame["metrics"]), -1)[:, index]
        assert dict(zip(frame["metrics"], usage.tolist(), strict=True))["cpu"] == 0.5
        rates = np.frombuffer(frame["rates"], "<f4").reshape(len(frame["kinds"]), -1)[:, index]
        assert np.nansum(rates) * 60 == pytest.approx(3, rel=1e-6)


def test_a_watermark_at_the_end_reaches_every_partition_of_both_topics(there: Settings) -> None:
    now_s = time.time()
    leadtime.Telemetry(settings=there, clock=lambda: now_s, watermark_at_close=True).close()
    for topic in topics.RAW:
        read = records_of(there, topic)
        assert [name for name, _ in read] == ["watermark"] * there.partitions
        assert all(abs(record["ts"].timestamp() - now_s) < 1e-5 for _, record in read)


def test_a_topic_that_is_not_there_is_said_by_a_watermark(settings: Settings) -> None:
    with pytest.raises(leadtime.Unreachable, match=r"telemetry\.metrics.*leadtime topics create"):
        leadtime.Telemetry(settings=settings).watermark()


def publish(settings: Settings, *plans: dict[str, Any]) -> None:
    outputs = Outputs(settings)
    for record in plans:
        outputs.publish("plans", "plan", record, key=record["app"])
    outputs.flush()


def of(app: str, tick: int) -> dict[str, Any]:
    return plan(app=app, tick=tick, plan_id=f"{app}@{tick}", commands_issued=0)


def ids(plans: Iterator[leadtime.PublishedPlan]) -> list[str]:
    return [published.plan_id for published in plans]


def test_plans_are_read_from_the_start_and_followed_from_the_end(there: Settings) -> None:
    publish(there, of("shop", 1), of("shop", 2), of("shop", 1), of("bank", 1))
    stored = leadtime.plans(settings=there, from_="start", follow=False)
    assert sorted(ids(stored)) == ["bank@1", "shop@1", "shop@2"]
    assert ids(leadtime.plans(settings=there, app="bank", from_="start", follow=False)) == ["bank@1"]
    later = leadtime.plans(settings=there, app="shop")  # from here on, whenever it is first asked
    all_of_them = leadtime.plans(settings=there, app="shop", from_="start")
    publish(there, of("bank", 2), of("shop", 3), of("shop", 4))
    assert ids(itertools.islice(later, 2)) == ["shop@3", "shop@4"]
    assert ids(itertools.islice(all_of_them, 4)) == ["shop@1", "shop@2", "shop@3", "shop@4"]


def test_a_decision_has_the_text_of_explain(there: Settings) -> None:
    publish(there, of("shop", 1), of("shop", 2))
    newest = leadtime.decision("shop", settings=there)
    assert newest.plan.plan_id == "shop@2"
    assert newest.text.startswith("shop: 7 instances, USD 0.9120 an hour\nplan shop@2, ")
    assert leadtime.decision("shop", 1, settings=there).plan.tick == 1
    assert leadtime.decision("shop", at=700.0, settings=there).plan.tick == 1
    with pytest.raises(leadtime.UsageError, match="no plan of app 'bank'; there are plans of: shop"):
        leadtime.decision("bank", settings=there)
    with pytest.raises(leadtime.UsageError, match="no plan of shop for tick 9"):
        leadtime.decision("shop", 9, settings=there)


def test_plans_of_a_cluster_without_the_topic(settings: Settings) -> None:
    with pytest.raises(leadtime.Unreachable, match="leadtime topics create"):
        leadtime.plans(settings=settings)
