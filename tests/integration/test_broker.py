"""The embedded Kafka itself: it keeps what it was given, says why it fails, and ends when we do."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from pipeline.errors import Unreachable, UsageError
from pipeline.kafka.connection import connection, faust_credentials, reachable
from pipeline.kafka.embedded import EmbeddedKafka
from pipeline.runtime.cluster import cluster
from pipeline.security.certificates import self_signed
from pipeline.settings import Settings

PASSWORD = 'p"a\\s,s;w=o${r}d é'


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedKafka]:
    """A broker of this module's own: its tests stop and kill it."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


def create_topic(settings: Settings, topic: str) -> None:
    admin = AdminClient(connection(settings))
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)


def publish(settings: Settings, topic: str, value: bytes) -> None:
    failed: list[KafkaError] = []
    producer = Producer(connection(settings))
    producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(10) == 0
    assert failed == []


def published(settings: Settings, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(connection(settings) | {"group.id": "none is joined"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = consumer.consume(count, timeout=20)
    consumer.close()
    return [message.value() for message in messages]


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} is still there"
            time.sleep(0.05)


def java_of(data: Path | None) -> int:
    """Process id of the Java that serves the folder `data`."""
    for process in psutil.process_iter(["name", "cmdline"]):
        # of a Java that has ended meanwhile the command line is None
        if process.info["name"] == "java" and f"{data}/server.properties" in (process.info["cmdline"] or ()):
            return process.pid
    raise AssertionError(f"no Java serves {data}")


def test_the_session_has_a_kafka(settings: Settings) -> None:
    reachable(settings)
    topic = f"{settings.prefix}topic"
    create_topic(settings, topic)
    publish(settings, topic, b"x")
    assert published(settings, topic, 1) == [b"x"]


def test_topics_are_made_only_when_asked(settings: Settings) -> None:
    topic = f"{settings.prefix}nobody-made-it"
    error = AdminClient(connection(settings)).list_topics(topic, timeout=10).topics[topic].error
    assert error is not None
    assert error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_transactions_work_on_one_node(settings: Settings) -> None:
    topic = f"{settings.prefix}topic"
    create_topic(settings, topic)
    producer = Producer(connection(settings) | {"transactional.id": settings.group})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"aborted")
    producer.abort_transaction(20)
    producer.begin_transaction()
    producer.produce(topic, b"committed")
    producer.commit_transaction(20)
    assert published(settings, topic, 1) == [b"committed"]


@pytest.mark.parametrize("end", [EmbeddedKafka.stop, EmbeddedKafka.kill])
def test_it_comes_back_with_its_topics_at_its_address(
    own: EmbeddedKafka, end: Callable[[EmbeddedKafka], None], prefix: str
) -> None:
    settings = Settings(bootstrap=own.bootstrap, prefix=prefix)
    create_topic(settings, f"{prefix}topic")
    publish(settings, f"{prefix}topic", b"before")
    end(own)
    with pytest.raises(Unreachable, match="does not answer"):
        reachable(settings, timeout_s=0.5)
    own.restart()
    assert own.bootstrap == settings.bootstrap
    publish(settings, f"{prefix}topic", b"after")
    assert published(settings, f"{prefix}topic", 2) == [b"before", b"after"]


def test_a_data_folder_is_for_one_broker(own: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.kafka.embedded.LOCK_WAIT_S", 0.2)
    with pytest.raises(UsageError, match="is in use by another broker"), EmbeddedKafka(own.data):
        pass
    reachable(Settings(bootstrap=own.bootstrap))


def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "topics").mkdir()
    # Our broker is node 1: Kafka refuses a folder of another node.
    (tmp_path / "topics" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=x\n")
    with pytest.raises(Unreachable, match=r"(?s)ended while it started.*broker\.log:\n.*node"):
        EmbeddedKafka(tmp_path).start()


def test_temporary_data_is_removed_and_the_process_is_gone() -> None:
    with EmbeddedKafka() as kafka:
        data = kafka.data
        assert data is not None
        java = java_of(data)
        assert data.exists()
    wait_until_gone(java)
    assert not data.exists()


async def send_as_faust_does(settings: Settings, topic: str, value: bytes) -> None:
    assert settings.bootstrap is not None
    options = credentials_to_aiokafka_auth(faust_credentials(settings))
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap, **options) as producer:
        await producer.send_and_wait(topic, value)


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_both_clients_authenticate_alike(protocol: str, tmp_path: Path) -> None:
    tls = self_signed(tmp_path) if protocol == "SASL_SSL" else None
    with EmbeddedKafka(sasl={"ann": PASSWORD, "bob": "other"}, tls=tls) as kafka:
        assert kafka.options["security.protocol"] == protocol
        settings = Settings(bootstrap=kafka.bootstrap, kafka=kafka.options)
        create_topic(settings, "topic")
        publish(settings, "topic", b"librdkafka")
        asyncio.run(send_as_faust_does(settings, "topic", b"faust"))
        assert published(settings, "topic", 2) == [b"librdkafka", b"faust"]

        wrong = settings.model_copy(update={"kafka": kafka.options | {"sasl.username": "bob"}})
        with pytest.raises(Unreachable, match=r"refuses the connection: .*[Aa]uthentication failed"):
            reachable(wrong)
        unprotected = settings.model_copy(update={"kafka": {}})
        with pytest.raises(Unreachable, match="does not answer within 1 s"):
            reachable(unprotected, timeout_s=1)


COMMAND = "import typer; from pipeline.cli.broker import broker; typer.run(broker)"


def test_the_command_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--json", "--data", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert Path(said["log"]).parent == tmp_path
        java = java_of(tmp_path)
        reachable(Settings(bootstrap=said["bootstrap"]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == ""
    wait_until_gone(java)
    assert (tmp_path / "topics").exists()


def test_the_broker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--data", str(tmp_path / "kafka")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        java = java_of(tmp_path / "kafka")
        process.kill()
    # A successor waits for the one that is on its way out, and finds its folder in order.
    with cluster(settings) as found:
        assert not psutil.pid_exists(java)
        reachable(found)


def test_an_embedded_broker_that_dies_is_back_on_its_address_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster(Settings(data_dir=tmp_path)) as found:
        admin = AdminClient({**connection(found), "log_level": 0})
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(10)
        java = java_of(tmp_path / "kafka")
        psutil.Process(java).kill()
        wait_until_gone(java)
        reachable(found, timeout_s=60)
        assert java_of(tmp_path / "kafka") != java
        assert "kept" in AdminClient({**connection(found), "log_level": 0}).list_topics(timeout=10).topics
    assert "kafka ended; again in 0.5 s" in capsys.readouterr().err
