"""A window of real traces through all stages while something goes wrong, and what must be the same bytes after it.

The window is from the demo's trace: mean machine usage of a data centre (Google 2019), and twenty simulated users.
Among its records are some that become dead letters: malformed, late, negative.
"""

import io
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from pipeline import reading, replay
from pipeline.codec import decode
from pipeline.demo import Run
from pipeline.example import default_trace
from pipeline.replay import Item, Window
from pipeline.settings import Settings
from pipeline.supervise import FIRST_BACKOFF_S, Supervisor
from pipeline.trace import Trace
from pipeline.watch import Watch

TICKS = 24
APPS = ("google-2019", "simulated-app-1")
SPOILT = 97
"""One record of so many is followed by one that nobody can use."""
COMPARED = (
    "behaviour.frames",
    "forecasts",
    "forecasts.apps",
    "scenarios",
    "plans",
    "commands",
    "dead-letters",
    "capacity.observed",
)
IDENTITY = ("shard", "tick", "part", "app", "offer_id", "id", "topic", "offset")
TIMES = ("wall_s", "first_forecast_s", "records_per_s", "restarts", "hold_notices")
"""Figures that say how a run went, not what came of it."""

Disturb = Callable[[Watch, Supervisor], None]
Records = dict[str, dict[tuple[object, ...], bytes]]


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        figures: its summary.
        records: by compared topic, the first occurrence of each record by its identity.
        files: the summary's files, and the simulated cloud's state: what was really done, and how often.
    """

    figures: dict[str, Any]
    records: Records
    files: dict[str, bytes]


def trace(ticks: int = TICKS) -> Trace:
    """The window, with a negative value in some rows."""
    made = default_trace.build(ticks)
    bad = pl.int_range(pl.len()) % SPOILT == SPOILT // 2
    frame = made.frame.filter(pl.col("app").is_in(APPS)).with_columns(pl.when(bad).then(-1.0).otherwise(pl.col("cpu")).alias("cpu"))
    return Trace(frame, made.tick_s, made.skipped)


def spoilt(rows: pl.DataFrame, interval_s: int) -> Iterator[Item]:
    """A trace's records, and after some of them one that is cut short and one that comes an hour late."""
    for number, item in enumerate(replay.records(rows, interval_s)):
        yield item
        if number % SPOILT == SPOILT - 1:
            yield item._replace(value=item.value[:-3])
            if item.topic == "telemetry.events":
                name, record = decode(item.value)
                late = record | {"ts": int(record["ts"].timestamp() * 1e6) - 3_600_000_000}
                yield item._replace(value=replay.DEFAULT.encode(name, late))


def run(
    settings: Settings,
    folder: Path,
    disturb: Disturb = lambda *_: None,
    *,
    ticks: int = TICKS,
    ticks_per_s: float | None = None,
    **more: Any,
) -> Outcome:
    """Replay the window in an installation of its own.

    Args:
        settings: whose broker is used.
        folder: of this run; its name is the installation's prefix.
        disturb: called after each look at what was published.
        ticks_per_s: pace of the replay; None: as fast as it goes.
        more: of the settings.
    """
    made = trace(ticks)
    here = settings.model_copy(
        update={
            "prefix": f"{settings.prefix}{folder.name}.", "data_dir": folder, "tick_s": made.tick_s, "partitions": 2,
            "event_time": True, "scenarios": 256, "snapshot_frames": 4, **more,
        }
    )  # fmt: skip
    speed = None if ticks_per_s is None else ticks_per_s * made.tick_s
    console = Console(file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.demo.records", spoilt)
        patch.setattr("pipeline.demo.Supervisor", partial(Supervisor, module="tests.faults.stage"))
        figures = Run(here, made, Window.of(made, made.tick_s), console, speed, each=disturb).go(
            folder / "page.html", folder / "out"
        )
    files = [*(folder / "out").glob("*.jsonl"), *(folder / "local").glob("*.json")]
    return Outcome(figures, published(here), {path.name: path.read_bytes() for path in sorted(files)})


def published(settings: Settings) -> Records:
    """First occurrences of the compared records; a repeat must be the same bytes."""
    found: Records = {}
    for topic in COMPARED:
        seen = found[topic] = {}
        for message in reading.read(settings, topic):
            value = message.value() or b""
            name, record = decode(value)
            key = (message.partition(), name, *(str(record.get(part, "")) for part in IDENTITY))
            assert seen.setdefault(key, value) == value, f"{topic} {key} came again with other bytes"
    return found


def assert_same(broken: Outcome, whole: Outcome) -> None:
    """Nothing lost, nothing twice."""
    for topic in COMPARED:
        lost = whole.records[topic].keys() - broken.records[topic].keys()
        new = broken.records[topic].keys() - whole.records[topic].keys()
        assert not (lost or new), f"{topic}: {len(lost)} lost {sorted(map(str, lost))[:3]}, {len(new)} new {sorted(map(str, new))[:3]}"
        other = [key for key, value in whole.records[topic].items() if broken.records[topic][key] != value]
        assert not other, f"{topic}: other bytes in {len(other)}, {other[:3]}"
    assert broken.files.keys() == whole.files.keys()
    assert [name for name, data in whole.files.items() if broken.files[name] != data] == []
    assert {**broken.figures, **dict.fromkeys(TIMES, 0)} == {**whole.figures, **dict.fromkeys(TIMES, 0)}


@dataclass
class Killer:
    """Kills stages with SIGKILL, each a seeded random time after it was started, in threads of its own.

    Args:
        seed: of the moments.
        kills: how many of each stage.
        within_s: of a stage: the longest time that it lives.
    """

    seed: int
    kills: Mapping[str, int]
    within_s: Mapping[str, float]
    done: list[str] = field(default_factory=list[str])
    begun: bool = False

    def __call__(self, _: Watch, supervisor: Supervisor) -> None:
        """Begin, when it is called first."""
        if not self.begun:
            self.begun = True
            for name, count in self.kills.items():
                threading.Thread(target=self._kill, args=(name, count, supervisor), daemon=True).start()

    def _kill(self, name: str, count: int, supervisor: Supervisor) -> None:
        chance, stage = random.Random(f"{self.seed} {name}"), supervisor.stages[name]
        last = None
        for _ in range(count):
            while (process := stage.process) is None or process is last:
                time.sleep(0.01)
            last = process
            time.sleep(chance.uniform(0, self.within_s[name]))
            if process.poll() is not None:
                return  # the run is over
            stage.backoff_s = FIRST_BACKOFF_S
            os.kill(process.pid, signal.SIGKILL)
            self.done.append(name)
