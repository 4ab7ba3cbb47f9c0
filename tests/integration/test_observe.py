"""This machine's telemetry on real Kafka, up to a frame."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.metrics import METRICS
from pipeline.kafka import reader, topics
from pipeline.security.pseudonyms import KeyRing, entity, partition_of
from pipeline.settings import Settings
from pipeline.sources.host import Machine, Process, look, publish
from pipeline.stages.ingest.service import Ingest, Partition
from pipeline.wire import codec
from pipeline.wire.codec import DEFAULT, Record
from tests.unit.pipeline.messages import FakeMessage, watermark

GIB = 1024**3


@pytest.fixture
def there(settings: Settings) -> Settings:
    settings = settings.model_copy(update={"tick_s": 1})
    topics.create(settings)
    return settings


def times(count: int) -> Iterator[bool]:
    yield from [False] * count
    yield True


def test_two_samples_of_a_known_machine_are_in_its_users_frame(there: Settings) -> None:
    began = float(int(time.time()))
    machine = Machine(
        began, 4, 16 * GIB, 10.0, 100.0, 3 * GIB, 1000, 0, {(1, 1.0): Process("sh", 5.0, GIB, 0)}
    )
    looks = iter(
        replace(
            machine,
            at_s=began + i / 4,
            busy_s=10.0 + i / 4,
            idle_s=100.0 + 3 * i / 4,
            network_bytes=1000 + 500 * i,
            processes={(1, 1.0): Process("sh", 5.0 + i / 8, GIB, 0)},
        )
        for i in range(3)
    )  # fmt: skip
    clock = iter([0.0, 0.0, 0.25, 0.25, 0.5, 0.5])
    ends = times(2)
    done = publish(there, "host", 0.25, 5, lambda _: next(ends), lambda: next(looks), lambda: next(clock))
    assert (done.records, done.users, done.seconds) == (4, {"sh"}, 0.5)

    keys = KeyRing.of(there)
    found: dict[bytes, np.ndarray] = {}
    for number in range(there.partitions):
        part = Partition(number, there, DEFAULT, keys)
        messages: list[Any] = list(reader.read(there, "telemetry.metrics", {number: 0}))
        assert part.take("telemetry.metrics", messages) == []
        end = int((began + 1) * 1e6)
        part.take("telemetry.metrics", [end_of(messages[-1].offset() + 1 if messages else 0, end)])
        part.take("telemetry.events", [end_of(0, end, "telemetry.events")])
        for frame in (part for parts in part.close() for part in parts):
            width = len(frame["users"]) // 16
            values = np.frombuffer(frame["values"], np.float32).reshape(len(METRICS), width)
            for user in range(width):
                found[frame["users"][16 * user : 16 * user + 16]] = values[:, user]
    pseudonym = keys.at(int(began)).pseudonym
    own, shared = found[pseudonym("host/sh")], found[pseudonym("host/#SHARED")]
    # Half a core, 1 GiB, no disk; the machine's one core and 3 GiB less those; 500 bytes each 0.25 s.
    np.testing.assert_allclose(own, [0.5, GIB, np.nan, 0.0, np.nan])
    np.testing.assert_allclose(shared, [0.5, 2 * GIB, 2000.0, 0.0, np.nan])


def end_of(offset: int, ts: int, name: str = "telemetry.metrics") -> Any:
    return FakeMessage(watermark(ts), offset, produced_us=ts, name=name)


def test_this_machine_as_it_is_passes_ingest(there: Settings) -> None:
    ends = times(4)

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return next(ends)

    # One command and SHARED: how many more a machine runs is not given, this test's own is.
    done = publish(there, "host", 0.4, 1, wait)
    assert done.records == 4 * 2
    records = [codec.decode(message.value() or b"")[1] for message in reader.read(there, "telemetry.metrics")]
    for message in reader.read(there, "telemetry.metrics"):
        _, record = codec.decode(message.value() or b"")
        key = entity("host", record["user"], record["scope"])
        assert (message.key(), message.partition()) == (key.encode(), partition_of(key, there.partitions))
    names = {process.name for process in look().processes.values()}
    assert "python" in " ".join(names)
    assert sorted(record["producer_seq"] for record in records) == list(range(done.records))

    stop = threading.Event()
    thread = threading.Thread(target=Ingest(there.model_copy(update={"idle_s": 0.5})).run, args=(stop,))
    thread.start()
    try:
        samples, deadline = 0, time.monotonic() + 60
        while samples < done.records:
            assert time.monotonic() < deadline, f"{samples} of {done.records} records in frames"
            samples = sum(count(frame) for frame in frames(there))
    finally:
        stop.set()
        thread.join()
    assert samples == done.records
    assert list(reader.read(there, "dead-letters")) == []


def frames(settings: Settings) -> Iterator[Record]:
    for message in reader.read(settings, "behaviour.frames"):
        yield codec.decode(message.value() or b"")[1]


def count(frame: Record) -> int:
    return int(np.frombuffer(frame["samples"], "<u4").sum())


def command(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    where = ["--bootstrap", str(settings.bootstrap), "--prefix", settings.prefix, "--app", "host", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "observe", *where, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_in_order_when_told_to(settings: Settings, number: signal.Signals) -> None:
    with command(settings, "--interval", "3600") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("observing this machine as app host")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out) == {"app": "host", "records": 0, "users": 0, "seconds": 0.0}


def test_the_command_ends_after_its_duration(settings: Settings) -> None:
    with command(settings, "--interval", "0.5", "--duration", "1.5", "--top", "3") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    said = json.loads(out)
    sent = [codec.decode(message.value() or b"")[1] for message in reader.read(settings, "telemetry.metrics")]
    assert said["records"] == len(sent) >= 4
    assert {record["user"] for record in sent if record["scope"] == "USER"} != set()
    assert 0.4 < said["seconds"] < 3
