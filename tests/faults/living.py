"""A run of the whole pipeline on a small simulated population, and what it published."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from models.metrics import EVENT_KINDS, METRICS
from models.synthetic.population import population
from pipeline.demo.recorder import Watch
from pipeline.demo.run import Replayed, Run
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.traces.trace_file import Trace
from pipeline.traces.window import TickWindow
from tests.faults import replaying
from tests.faults.replaying import Records

TICKS = 50
START = 28_000_000
COMPARED = tuple(topic for topic in replaying.COMPARED if topic != "capacity.observed")


def trace() -> Trace:
    people = population(seed=3, apps=2, users_per_app=8, ticks=TICKS, tick_s=60, start_tick=START)
    rows = [
        {"ts": int(tick) * 60_000_000, "app": people.apps[u], "user": people.users[u]}
        | {m: float(people.values[t, u, i]) for i, m in enumerate(METRICS[:4])}
        | {f"events.{kind}": float(people.events[t, u, i]) for i, kind in enumerate(EVENT_KINDS)}
        for t, tick in enumerate(people.ticks)
        for u in range(len(people.users))
    ]
    frame = pl.DataFrame(rows).with_columns(pl.from_epoch("ts", "us").dt.replace_time_zone("UTC"))
    return Trace(frame.sort("ts", "app", "user"), 60, {})


def named(settings: Settings, name: str, folder: Path) -> Settings:
    return settings.model_copy(
        update={
            "prefix": f"{settings.prefix}{name}.", "data_dir": folder / name, "tick_s": 60, "partitions": 2,
            "event_time": True, "scenarios": 512, "snapshot_frames": 4, "demo_keys": True,
        }
    )  # fmt: skip


def run(
    settings: Settings, name: str, folder: Path, each: Callable[[Watch, Supervisor], None] = lambda *_: None
) -> tuple[dict[str, Any], Records]:
    """A run's figures, and the first occurrence of each compared record."""
    here = named(settings, name, folder)
    made = trace()
    window = TickWindow.of(made, 60)
    figures = Run(here, made, Replayed(window), Console(file=io.StringIO()), each=each).go(
        folder / f"{name}.html", folder / f"{name}-out"
    )
    return figures, replaying.published(here, COMPARED)
