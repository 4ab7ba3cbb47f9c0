"""Throughput: records a second from raw topics to plans, beside a limit and a rival in the same run.

    limit   confluent-kafka consumes the raw topic and polars decodes it, nothing else, one process
    rival   plain per-record Faust agents (`bench_rival`), one a core, for a fixed time

The topics are filled before anything is timed, and both processes are warm: their consumer groups stand. Timed is
from the first record that ingest can take to the last app's plan of the last tick, read back from its topic.
"""

import io
import json as jsonlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np
import polars as pl
import psutil
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from pipeline.bench.load import Load
from pipeline.errors import Unreachable
from pipeline.kafka import reader, topics
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.kafka.topics import RAW
from pipeline.runtime.cluster import cluster
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings, load_settings
from pipeline.wire.batch_decoder import bare
from pipeline.wire.codec import Codec, decode, published

SAMPLES: Final = 10
TICK_S: Final = 60
PARTITIONS: Final = 2
"""One a core of a small machine, as the demo has."""
BATCH: Final = 50_000
"""Messages of one `consume` of the limit, as in the design's measurement."""
SAMPLED_S: Final = 0.05
SAY_S: Final = 5.0
GIVE_UP_S: Final = 900.0
"""Without a plan for so long the run has failed: a tick of a million users takes two minutes on two slow cores."""
READY_S: Final = 180.0


@contextmanager
def installation(keep: Path | None, **given: Any) -> Generator[Settings]:
    """Settings of an installation of its own, with all topics, on the Kafka that is set or an embedded one."""
    with tempfile.TemporaryDirectory(prefix="leadtime-bench-") as folder:
        chosen = load_settings(
            data_dir=keep or Path(folder),
            demo_keys=True,
            prefix=f"bench-{int(time.time())}.",
            **{"tick_s": TICK_S, **given},
        )
        with cluster(chosen) as settings:
            topics.create(settings)
            yield settings


def measured(population: Load, ticks: int, rival_s: float, settings: Settings) -> dict[str, Any]:
    """The figures of one run."""
    load_before = os.getloadavg()[0]
    last = int(time.time()) // settings.tick_s - 1
    population.publish_inputs(settings)
    begun = reported_s = time.monotonic()
    for done in population.fill(last - ticks + 1, ticks):
        if time.monotonic() > reported_s + SAY_S:
            reported_s = time.monotonic()
            say(f"{done:,} records in the raw topics after {reported_s - begun:.1f} s")
    fill_s, records = time.monotonic() - begun, SAMPLES * population.users * ticks
    whole = pipeline(population.names, last, settings)
    say(f"{records:,} records in {whole['wall_s']:.1f} s")
    limit = records / consumed(settings, records)
    facts: dict[str, Any] = {
        "users": population.users,
        "apps": population.apps,
        "partitions": settings.partitions,
        "ticks": ticks,
        "records": records,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "fill_s": round(fill_s, 2),
        **summary(whole, records, population.users),
        "limit_records_per_s": round(limit),
        "ratio_to_limit": round(records / whole["wall_s"] / limit, 3),
    }
    if rival_s:
        rival = rivals(settings, rival_s)
        facts |= rival
        facts["ratio_to_rival"] = round(records / whole["wall_s"] / rival["rival_records_per_s"], 1)
    return facts


def summary(whole: Mapping[str, Any], records: int, users: int) -> dict[str, Any]:
    """Rates and costs from what `pipeline` measured."""
    ours = [seconds for name, seconds in whole["cpu_s"].items() if name != "broker"]
    return {
        "wall_s": round(whole["wall_s"], 3),
        "records_per_s": round(records / whole["wall_s"]),
        "stages": {
            name: {
                "from_s": round(begun, 2),
                "to_s": round(ended, 2),
                "records_per_s": round(records / max(ended - begun, 1e-9)),
            }
            for name, (begun, ended) in whole["stages"].items()
        },
        "cpu_s": {name: round(seconds, 2) for name, seconds in whole["cpu_s"].items()},
        "core_us_per_record": round(sum(whole["cpu_s"].values()) / records * 1e6, 3),
        "core_us_per_record_without_broker": round(sum(ours) / records * 1e6, 3),
        "peak_mb": {name: round(size / 2**20) for name, size in whole["peak_bytes"].items()},
        "peak_mb_ours": round(sum(s for name, s in whole["peak_bytes"].items() if name != "broker") / 2**20),
        "state_bytes_per_user": round(whole["state_bytes"] / users, 1),
        "framed": whole["framed"],
        "dead_letters": whole["dead_letters"],
    }


def pipeline(apps: list[str], last: int, settings: Settings) -> dict[str, Any]:
    """Run ingest and a worker over what the raw topics hold, until every app's plan of the last tick is there."""
    admin = quiet_admin(connection(settings))
    supervisor = Supervisor(settings.environment(), settings.data_dir / "stages", note=say)
    plans = reader.reader(settings)
    plans.assign(reader.whole(plans, topics.name("plans", settings)))
    try:
        supervisor.start(["worker"])
        stands(admin, f"{settings.group}-worker", supervisor)
        supervisor.start(["ingest"])
        stands(admin, f"{settings.group}-ingest", supervisor, poll_s=0.002)
        begun, begun_s = time.monotonic(), time.time()
        with Meter(processes(supervisor) | brokers()) as meter:
            _planned(plans, set(apps), last, supervisor)
            wall_s = time.monotonic() - begun
        time.sleep(2)  # the snapshot that an idle partition gets
    finally:
        supervisor.stop()
        plans.close()
    framed = sum(
        int(np.frombuffer(frame["samples"], "<u4").sum())
        for _, frame in reader.records(settings, "behaviour.frames")
    )
    letters = sum(1 for _ in reader.read(settings, "dead-letters"))
    return {
        "wall_s": wall_s,
        "stages": spans(settings, begun_s, wall_s),
        "cpu_s": meter.cpu_s,
        "peak_bytes": meter.peak_bytes,
        "state_bytes": sum(sum(state_sizes(settings, stage).values()) for stage in ("profiler", "simulator")),
        "framed": framed,
        "dead_letters": letters,
    }


def _planned(plans: Consumer, waiting: set[str], last: int, supervisor: Supervisor) -> None:
    """Return when each app has its plan of the last tick."""
    newest_s = time.monotonic()
    while waiting:
        for message in reader.batch(plans, 1000, 0.01):
            if message.error() is None:
                _, plan = decode(message.value() or b"")
                newest_s = time.monotonic()
                if plan["tick"] >= last:
                    waiting.discard(plan["app"])
        supervisor.poll()
        if time.monotonic() - newest_s > GIVE_UP_S:
            raise Unreachable(f"no plan for {GIVE_UP_S:g} s; logs in {supervisor.folder}")


def stands(admin: AdminClient, group: str, supervisor: Supervisor, poll_s: float = 0.1) -> None:
    """Return when a consumer group has shared its partitions out.

    Raises:
        Unreachable: it has not for long.
    """
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        group_state = admin.describe_consumer_groups([group])[group].result()
        if group_state.state.name == "STABLE" and any(
            m.assignment.topic_partitions for m in group_state.members
        ):
            return
        supervisor.poll()
        time.sleep(poll_s)
    raise Unreachable(f"the group {group} does not stand after {READY_S:g} s; logs in {supervisor.folder}")


def processes(supervisor: Supervisor) -> dict[str, psutil.Process]:
    """The stages' processes by name."""
    running = {name: stage.process for name, stage in supervisor.stages.items()}
    return {name: psutil.Process(process.pid) for name, process in running.items() if process is not None}


def brokers() -> dict[str, psutil.Process]:
    """The embedded Kafka's Java, where this process has started one."""
    children = psutil.Process().children(recursive=True)
    return dict([("broker", child) for child in children if child.name().startswith("java")][:1])


@dataclass
class Meter:
    """Processor seconds of processes while the context lasts, and the most memory that each has held.

    Args:
        processes: by name.
    """

    processes: Mapping[str, psutil.Process]
    cpu_s: dict[str, float] = field(default_factory=dict[str, float])
    peak_bytes: dict[str, int] = field(default_factory=dict[str, int])

    def __enter__(self) -> "Meter":
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="meter", daemon=True)
        self._used = dict.fromkeys(self.processes, 0.0)
        self._look()
        self._before = dict(self._used)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self.cpu_s = {name: self._used[name] - before for name, before in self._before.items()}

    def _look(self) -> None:
        """Note what each process has used so far; of one that has ended the last that was seen stands."""
        for name, process in self.processes.items():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._used[name] = times.user + times.system
                self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), process.memory_info().rss)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLED_S):
            self._look()


def spans(settings: Settings, begun_s: float, wall_s: float) -> dict[str, tuple[float, float]]:
    """When each stage's work began and ended, in seconds after `begun_s`, by the times its messages carry."""
    at = {topic: _times(settings, topic) for topic in ("behaviour.frames", "forecasts", "scenarios")}
    at = {topic: (first - begun_s, last - begun_s) for topic, (first, last) in at.items()}
    frames, forecasts, scenarios = at.values()
    return {
        "ingest": (0.0, frames[1]),
        "profiler": (frames[0], forecasts[1]),
        "simulator": (forecasts[0], scenarios[1]),
        "allocator": (scenarios[0], wall_s),
    }


def _times(settings: Settings, topic: str) -> tuple[float, float]:
    """Unix seconds of a topic's first and last message."""
    times_s: list[float] = []
    for number in range(settings.partitions):
        low, high = reader.bounds(settings, topic, number)
        for offset in {low, high - 1} if high > low else set[int]():
            times_s += [
                message.timestamp()[1] / 1000
                for message in reader.read(settings, topic, {number: offset}, {number: offset + 1})
            ]
    return min(times_s), max(times_s)


def state_sizes(settings: Settings, stage: str) -> dict[tuple[int | None, bytes], int]:
    """Bytes of the newest value of each key of a stage's state, by partition and key."""
    messages = reader.read(settings, f"state.{stage}")
    return {(m.partition(), m.key() or b""): len(m.value() or b"") for m in messages}


def consumed(settings: Settings, records: int) -> float:
    """Seconds in which confluent-kafka consumes the metrics and polars decodes them.

    Raises:
        Unreachable: fewer are there.
    """
    head = io.BytesIO()
    schema = bare(published("metric").schema)
    fastavro.writer(head, schema, [])
    prefix = Codec(settings.registry_url).prefix("metric")
    consumer = reader.reader(settings)
    consumer.assign(reader.whole(consumer, topics.name(RAW[0], settings)))
    begun, decoded = 0.0, 0
    while decoded < records:
        messages = consumer.consume(BATCH, timeout=1.0)
        begun = begun or time.monotonic()
        if not messages:
            raise Unreachable(f"{decoded:,} of {records:,} records in the raw topic")
        bodies = [v[len(prefix) :] for m in messages if (v := m.value() or b"").startswith(prefix)]
        decoded += pl.read_avro(container(head.getvalue(), bodies)).height
    seconds = time.monotonic() - begun
    consumer.close()
    return seconds


def container(head: bytes, bodies: list[bytes]) -> io.BytesIO:
    """An Avro container file of one block; `head` ends with its sync marker (Avro specification, "Object files")."""
    block = b"".join(bodies)
    out = io.BytesIO()
    out.write(head)
    for number in (len(bodies), len(block)):
        fastavro.schemaless_writer(out, "long", number)
    out.write(block)
    out.write(head[-16:])
    out.seek(0)
    return out


def rivals(settings: Settings, seconds: float) -> dict[str, Any]:
    """Rate of the rival's workers, one a core, each over the time from its first record to its last."""
    workers = min(os.cpu_count() or 1, settings.partitions)
    environment = {**os.environ, **settings.environment()}
    command = [sys.executable, "-m", "pipeline.bench.faust_baseline", str(seconds)]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(workers)
    ]
    try:
        rows = [
            jsonlib.loads(process.communicate(timeout=READY_S + seconds)[0] or b"{}") for process in running
        ]
    finally:
        for process in running:
            process.kill()
    done = [one for one in rows if one]
    if not done:
        raise Unreachable("the rival handled nothing")
    return {
        "rival_workers": len(done),
        "rival_s": seconds,
        "rival_records": sum(one["records"] for one in done),
        "rival_records_per_s": round(sum(one["records"] / one["seconds"] for one in done)),
    }


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
