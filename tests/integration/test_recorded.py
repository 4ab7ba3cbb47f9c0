"""A window of topics on a real Kafka: what is read, what is named as missing, and that nothing is left behind."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from confluent_kafka import TopicPartition

from pipeline.backtest import setup, topic_window
from pipeline.backtest.topic_window import FRAMES
from pipeline.errors import Unreachable, UsageError
from pipeline.kafka import topics
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT
from tests.unit.pipeline.messages import NOW_US, TICK_S
from tests.unit.pipeline.stages.driving import PRICES, TICKS, USERS, frames, policy

FIRST = NOW_US // 1_000_000 // TICK_S


@pytest.fixture
def installation(settings: Settings) -> Settings:
    """Two partitions with six frames each, a policy and prices."""
    settings = settings.model_copy(update={"tick_s": TICK_S, "partitions": 2})
    topics.create(settings)
    outputs = Outputs(settings)
    for shard, users in enumerate((USERS, {"shop": ["eve", "frank"]})):
        for value in frames(settings, shard, users):
            outputs.send(FRAMES, value, key=str(shard), partition=shard)
    for app in USERS:
        outputs.publish("policies", "policy", policy(app), key=f"{app}@1")
    for price in PRICES:
        outputs.publish("prices", "price", price, key=f"{price['offer_id']}@1")
    outputs.flush()
    return settings


def send(settings: Settings, *values: bytes) -> None:
    outputs = Outputs(settings)
    for value in values:
        outputs.send(FRAMES, value, key="0", partition=0)
    outputs.flush()


def delete(settings: Settings, partition: int, before: int) -> None:
    """As retention does."""
    at = TopicPartition(topics.name(FRAMES, settings), partition, before)
    admin = quiet_admin(connection(settings))  # one that is gone answers no future
    for future in admin.delete_records([at]).values():
        future.result()


def test_all_that_there_is(installation: Settings) -> None:
    admin = quiet_admin(connection(installation))
    admin.list_topics(timeout=30)
    before = {group.group_id for group in admin.list_consumer_groups().result().valid}
    found = topic_window.read(installation)
    assert found.panel.values.shape[:2] == (TICKS, 6)
    assert sorted(set(found.panel.apps)) == ["blog", "shop"]
    assert (found.whole, found.skipped) == (True, {})
    assert found.settings.partitions == 2
    ann = DEFAULT.decode(frames(installation, 0, {"shop": ["ann"]})[0])[1]["users"].hex()
    np.testing.assert_allclose(
        found.panel.values[:, found.panel.users.index(ann), 0], 4.0 + 0.3 * np.arange(TICKS), rtol=1e-6
    )
    records = setup.of_topics(found.inputs, ["blog", "shop"], FIRST)
    assert records is not None
    assert records.policies["shop"]["max"] == 200
    assert [price["offer_id"] for price in records.prices["blog"]] == ["kept", "plain", "spare"]
    again = topic_window.read(installation)
    assert again.digest() == found.digest()
    assert {group.group_id for group in admin.list_consumer_groups().result().valid} <= before


def test_by_time_and_by_offset(installation: Settings) -> None:
    by_time = topic_window.read(installation, (FIRST + 2) * TICK_S, (FIRST + 5) * TICK_S)
    assert by_time.panel.ticks.tolist() == [FIRST + 2, FIRST + 3, FIRST + 4]
    by_offset = topic_window.read(installation, offsets=(2, 5))
    assert by_offset.panel.ticks.tolist() == by_time.panel.ticks.tolist()
    assert by_offset.digest() == by_time.digest() != topic_window.read(installation).digest()
    assert not by_time.whole
    with pytest.raises(
        UsageError, match=r"nothing of the window is in topic .*: it holds 20.*T.* to 20.*T.*"
    ):
        topic_window.read(installation, (FIRST + 100) * TICK_S)


def test_what_retention_took_is_named(installation: Settings) -> None:
    delete(installation, 0, 3)
    delete(installation, 1, 3)
    found = topic_window.read(installation, (FIRST + 1) * TICK_S)
    assert found.panel.ticks.tolist() == [FIRST + 3, FIRST + 4, FIRST + 5]
    assert found.skipped == {"frames deleted by retention": 2 * 2}  # ticks 1 and 2 of both partitions
    assert not found.whole
    assert topic_window.read(installation, offsets=(1, 6)).skipped == {"offsets deleted by retention": 4}
    for partition in (0, 1):
        delete(installation, partition, TICKS)
    with pytest.raises(UsageError, match="it is empty, 12 messages were deleted by retention"):
        topic_window.read(installation)


def test_what_is_doubled_odd_or_old_is_counted(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = frames(installation, 0, USERS)
    send(installation, own[3], own[5], b"\xc3\x01 unknown schema", b"", DEFAULT.encode("policy", policy("a")))
    found = topic_window.read(installation)
    assert found.skipped == {
        "frames that came twice": 2,
        "frames unreadable (unknown-schema)": 1,
        "frames unreadable (empty)": 1,
        "frames unreadable (wrong-schema)": 1,
    }
    assert found.panel.values.shape[:2] == (TICKS, 6)
    monkeypatch.setattr(topic_window, "published", lambda _: SimpleNamespace(version=4))
    old = topic_window.read(installation)
    assert old.skipped["frames of schema version 3, read as 4"] == 2 * TICKS + 2
    np.testing.assert_array_equal(old.panel.values, found.panel.values)


def test_a_frame_that_is_missing_between_others_is_one_line(installation: Settings) -> None:
    first = DEFAULT.decode(frames(installation, 0, USERS)[5])[1]
    send(installation, DEFAULT.encode("frame", first | {"seq": 7, "tick": first["tick"] + 2}))
    with pytest.raises(UsageError, match="partition 0, offset 6: frame 5 is followed by 7"):
        topic_window.read(installation)


def test_no_topics_are_one_line_and_exit_code_2(settings: Settings) -> None:
    with pytest.raises(Unreachable, match="leadtime topics create"):
        topic_window.read(settings)
    command = ["backtest", "--topics", "--json", "--prefix", settings.prefix]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command, "--bootstrap", settings.bootstrap or ""],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("leadtime: topic")
    assert done.stderr.count("\n") == 1
