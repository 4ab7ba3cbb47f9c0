"""The whole pipeline on real Kafka; a run whose worker is killed publishes the same as an unbroken one."""

import io
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from models.features import EVENT_KINDS, METRICS
from models.synthetic import population
from pipeline import reading
from pipeline.codec import decode
from pipeline.demo import Run
from pipeline.forecasts import scores
from pipeline.replay import Window
from pipeline.settings import Settings
from pipeline.supervise import Supervisor
from pipeline.trace import Trace
from pipeline.watch import Watch

TICKS = 50
COMPARED = (
    "behaviour.frames",
    "forecasts",
    "forecasts.apps",
    "scenarios",
    "plans",
    "commands",
    "dead-letters",
)


def trace() -> Trace:
    people = population(seed=3, apps=2, users_per_app=8, ticks=TICKS, tick_s=60, start_tick=28_000_000)
    rows = [
        {"ts": int(tick) * 60_000_000, "app": people.apps[u], "user": people.users[u]}
        | {m: float(people.values[t, u, i]) for i, m in enumerate(METRICS[:4])}
        | {f"events.{kind}": float(people.events[t, u, i]) for i, kind in enumerate(EVENT_KINDS)}
        for t, tick in enumerate(people.ticks)
        for u in range(len(people.users))
    ]
    frame = pl.DataFrame(rows).with_columns(pl.from_epoch("ts", "us").dt.replace_time_zone("UTC"))
    return Trace(frame.sort("ts", "app", "user"), 60, {})


def scored(forecasts: dict[tuple[object, ...], bytes]) -> int:
    """Normal scores in forecasts: what the simulator learns each app's dependence from."""
    return sum(int(np.isfinite(scores([decode(value)[1]])).sum()) for value in forecasts.values())


def run(
    settings: Settings, name: str, folder: Path, each: Callable[[Watch, Supervisor], None] = lambda *_: None
) -> tuple[dict[str, Any], dict[str, dict[tuple[object, ...], bytes]]]:
    """A run's figures, and the first occurrence of each compared record; a repeat must be the same bytes."""
    here = settings.model_copy(
        update={
            "prefix": f"{settings.prefix}{name}.", "data_dir": folder / name, "tick_s": 60, "partitions": 2,
            "event_time": True, "scenarios": 512, "snapshot_frames": 4,
        }
    )  # fmt: skip
    made = trace()
    window = Window.of(made, 60)
    figures = Run(here, made, window, Console(file=io.StringIO()), each=each).go(
        folder / f"{name}.html", folder / f"{name}-out"
    )
    records: dict[str, dict[tuple[object, ...], bytes]] = {}
    for topic in COMPARED:
        seen = records[topic] = {}
        for message in reading.read(here, topic):
            value = message.value() or b""
            _, record = decode(value)
            identity = ("shard", "tick", "part", "app", "id", "offset")
            key = (message.partition(), *(str(record.get(field, "")) for field in identity))
            assert seen.setdefault(key, value) == value, f"{topic} {key} came again with other bytes"
    return figures, records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.timeout(400)
def test_a_killed_worker_changes_nothing(settings: Settings, folder: Path) -> None:
    figures, whole = run(settings, "whole", folder)
    events = sum(int((trace().frame[f"events.{kind}"] > 0).sum()) for kind in EVENT_KINDS)
    assert figures["records"] == TICKS * 16 + events
    assert figures["framed"] == figures["records"]
    assert figures["plans"] == 2 * TICKS
    assert figures["commands"] == figures["applied"]
    assert figures["commands"] > 0
    assert figures["dead_letters"] == figures["held"] == figures["late"] == 0

    moments = sorted(random.Random(11).sample(range(3, TICKS // 2), 2))

    def kill(watch: Watch, supervisor: Supervisor) -> None:
        planned = watch.planned_until(["app-0", "app-1"])
        process = supervisor.stages["worker"].process
        if moments and planned is not None and process is not None and planned - 28_000_000 >= moments[0]:
            moments.pop(0)
            os.kill(process.pid, signal.SIGKILL)

    killed, broken = run(settings, "broken", folder, kill)
    assert killed["restarts"] == {"ingest": 0, "worker": 2, "actuator": 0}
    # cpu, memory, network and disk of 16 users, in every tick but the first: a simulator whose sums did not survive
    # would simulate another dependence, and other scenarios
    assert scored(whole["forecasts"]) > 0.9 * 4 * 16 * (TICKS - 1)
    for topic in COMPARED:
        assert broken[topic] == whole[topic], topic
    for name in ("plans", "commands", "results", "dead_letters"):
        lines = [(folder / f"{which}-out" / f"{name}.jsonl").read_bytes() for which in ("whole", "broken")]
        assert lines[0] == lines[1], name
    assert {**killed, **dict.fromkeys(TIMES, 0)} == {**figures, **dict.fromkeys(TIMES, 0)}


TIMES = ("wall_s", "first_forecast_s", "records_per_s", "restarts")
