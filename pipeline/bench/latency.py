"""Latency: from a tick's close to its commands, at real pace.

Users report at their own moments, as producers do; a tick closes when the watermarks that end it are acknowledged,
and its commands are there when the last app's plan of it is read back: a plan follows its commands.
"""

import os
import threading
import time
from typing import Any, Final

import numpy as np

from pipeline.bench.load import Filler, Load
from pipeline.bench.throughput import Meter, brokers, processes, say, stands
from pipeline.errors import Unreachable
from pipeline.kafka import reader, topics
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.wire.codec import decode

LATE_S: Final = 120.0
"""A tick that has no plans for so long after the last one's close has none."""


def measured(population: Load, ticks: int, settings: Settings) -> dict[str, Any]:
    """The figures of one run."""
    load_before = os.getloadavg()[0]
    population.publish_inputs(settings)
    admin = quiet_admin(connection(settings))
    supervisor = Supervisor(settings.environment(), settings.data_dir / "stages", note=say)
    planned: dict[int, dict[str, float]] = {}
    closed: dict[int, float] = {}
    stop = threading.Event()
    watching = threading.Thread(target=_watch, args=(settings, planned, stop), daemon=True)
    try:
        supervisor.start(["worker", "ingest"])
        for group in ("worker", "ingest"):
            stands(admin, f"{settings.group}-{group}", supervisor)
        watching.start()
        first = int(time.time()) // settings.tick_s + 1
        with Meter(processes(supervisor) | brokers()) as meter:
            behind_s = _report(population, settings, range(first, first + ticks + 1), closed)
            deadline = time.monotonic() + LATE_S
            while len(planned.get(first + ticks, {})) < population.apps:
                supervisor.poll()
                if time.monotonic() > deadline:
                    raise Unreachable(f"no plans for {LATE_S:g} s; logs in {supervisor.folder}")
                time.sleep(0.05)
    finally:
        stop.set()
        supervisor.stop()
    delays_s = delays(closed, planned, first + 1)
    return {
        "users": population.users,
        "apps": population.apps,
        "partitions": settings.partitions,
        "tick_s": settings.tick_s,
        "ticks": ticks,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "producer_behind_s": round(behind_s, 3),
        "p50_s": round(float(np.quantile(delays_s, 0.5)), 3),
        "p99_s": round(float(np.quantile(delays_s, 0.99)), 3),
        "max_s": round(max(delays_s), 3),
        "cpu_s": {name: round(seconds, 2) for name, seconds in meter.cpu_s.items()},
        "peak_mb": {name: round(size / 2**20) for name, size in meter.peak_bytes.items()},
    }


def delays(closed: dict[int, float], planned: dict[int, dict[str, float]], first: int) -> list[float]:
    """Seconds from each tick's close to its last app's plan, ticks from `first` on, in order."""
    return [max(planned[tick].values()) - closed[tick] for tick in sorted(closed) if tick >= first]


def _report(population: Load, settings: Settings, ticks: range, closed: dict[int, float]) -> float:
    """Send all ticks as their time comes; the most seconds by which a tick's end was late."""
    outputs, behind_s = Filler(settings), 0.0
    population.watermark(outputs, ticks.start)
    for tick in ticks:
        for sample in range(population.samples):
            _sleep_until((tick + sample / population.samples) * settings.tick_s)
            population.sample(outputs, tick, sample)
        _sleep_until((tick + 1) * settings.tick_s)
        population.watermark(outputs, tick + 1)
        outputs.flush()
        closed[tick] = time.time()
        behind_s = max(behind_s, closed[tick] - (tick + 1) * settings.tick_s)
    return behind_s


def _sleep_until(unix_s: float) -> None:
    time.sleep(max(0.0, unix_s - time.time()))


def _watch(settings: Settings, planned: dict[int, dict[str, float]], stop: threading.Event) -> None:
    """Note when each app's plan of each tick is read."""
    plans = reader.reader(settings, more={"fetch.wait.max.ms": 10})
    plans.assign(reader.whole(plans, topics.name("plans", settings)))
    while not stop.is_set():
        for message in reader.batch(plans, 1000, 0.05):
            if message.error() is None:
                _, plan = decode(message.value() or b"")
                planned.setdefault(plan["tick"], {}).setdefault(plan["app"], time.time())
    plans.close()
