"""A window of real traces through all stages while something goes wrong, and what must be the same bytes after it.

The window is from the demo's trace: mean machine usage of a data centre (Google 2019), and twenty simulated users.
Among its records are some that become dead letters: malformed, late, negative.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from pipeline.demo.run import Replayed, Run
from pipeline.kafka import reader
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.sources import replay
from pipeline.sources.replay import Item
from pipeline.traces import default_trace
from pipeline.traces.trace_file import Trace
from pipeline.traces.window import TickWindow
from pipeline.wire.codec import decode
from tests.faults.harm import Fault

TICKS = 24
APPS = ("google-2019", "simulated-app-1")
HELD_BACK = 3
HELD_BACK_S = 30.0
"""A tick at most: its next one comes then."""
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
IDENTITY = ("shard", "tick", "part", "app", "offer_id", "id", "topic", "offset", "version")
TIMES = ("wall_s", "first_forecast_s", "records_per_s", "restarts", "hold_notices")
"""Figures that say how a run went, not what came of it."""

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
    chosen = made.frame.filter(pl.col("app").is_in(APPS))
    frame = chosen.with_columns(cpu=pl.when(bad).then(-1.0).otherwise(pl.col("cpu")))
    return Trace(frame, made.tick_s, made.skipped)


def spoilt(rows: pl.DataFrame, interval_s: int, over: Callable[[], bool]) -> Iterator[Item]:
    """A trace's records, and after some of them one that is cut short and one that comes an hour late.

    The last ticks are held back until the faults are over, or for a while: all of them hit a run that has work left,
    and a fault that waits for the next tick gets one.
    """
    held_us = int(rows["ts"].dt.epoch("us")[-1]) - HELD_BACK * interval_s * 1_000_000
    for number, item in enumerate(replay.records(rows, interval_s)):
        until_s = time.monotonic() + HELD_BACK_S
        while item.ts_us > held_us and not over() and time.monotonic() < until_s:
            time.sleep(0.05)
        held_us = max(held_us, item.ts_us)
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
    fault: Fault | None = None,
    *,
    ticks: int = TICKS,
    ticks_per_s: float | None = None,
    clock: Callable[[], float] = time.time,
    shared: bool = False,
    **more: Any,
) -> Outcome:
    """Replay the window in an installation of its own.

    Args:
        settings: whose broker is used.
        folder: of this run; its name is the installation's prefix.
        fault: what goes wrong.
        ticks_per_s: pace of the replay; None: as fast as it goes.
        clock: the replay's.
        shared: whether the apps share nodes.
        more: of the settings.
    """
    made, fault = trace(ticks), fault or Fault()
    here = settings.model_copy(
        update={
            "prefix": prefix(settings, folder), "data_dir": folder, "tick_s": made.tick_s, "partitions": 2,
            "event_time": True, "scenarios": 256, "snapshot_frames": 4, **more,
        }
    )  # fmt: skip
    speed = None if ticks_per_s is None else ticks_per_s * made.tick_s
    console = Console(file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fault.environment.items():
            patch.setenv(name, value)
        patch.setattr("pipeline.demo.run.records", partial(spoilt, over=lambda: fault.over))
        patch.setattr("pipeline.demo.run.Replayer", partial(replay.Replayer, clock=clock))
        patch.setattr("pipeline.demo.run.Supervisor", partial(Supervisor, module="tests.faults.stage"))
        replayed = Replayed(TickWindow.of(made, made.tick_s), shared=shared)
        figures = Run(here, made, replayed, console, replay.at_speed(speed), each=fault).go(
            folder / "page.html", folder / "out"
        )
    assert fault.over
    files = [*(folder / "out").glob("*.jsonl"), *(folder / "local").rglob("*.json")]
    return Outcome(figures, published(here), {path.name: path.read_bytes() for path in sorted(files)})


def jumping(flag: Path) -> Callable[[], float]:
    """Unix seconds; a day later while a file is there."""
    return lambda: time.time() + 86_400.0 * flag.exists()


def prefix(settings: Settings, folder: Path) -> str:
    """Of the installation that `run` makes for a folder."""
    return f"{settings.prefix}{folder.name}."


def published(settings: Settings, compared: Sequence[str] = COMPARED) -> Records:
    """First occurrences of the records of some topics; a repeat must be the same bytes."""
    found: Records = {}
    for topic in compared:
        seen = found[topic] = {}
        for message in reader.read(settings, topic):
            value = message.value() or b""
            name, record = decode(value)
            key = (message.partition(), name, *(str(record.get(part, "")) for part in IDENTITY))
            assert seen.setdefault(key, value) == value, f"{topic} {key} came again with other bytes"
    return found


def assert_same(broken: Outcome, whole: Outcome) -> None:
    """Nothing lost, nothing twice."""
    for topic in COMPARED:
        here, there = broken.records[topic].keys(), whole.records[topic].keys()
        assert sorted(map(str, there - here)) == [], f"{topic}: lost"
        assert sorted(map(str, here - there)) == [], f"{topic}: new"
        other = [key for key, value in whole.records[topic].items() if broken.records[topic][key] != value]
        assert not other, f"{topic}: other bytes in {len(other)}, {other[:3]}"
    assert broken.files.keys() == whole.files.keys()
    assert [name for name, data in whole.files.items() if broken.files[name] != data] == []
    assert {**broken.figures, **dict.fromkeys(TIMES, 0)} == {**whole.figures, **dict.fromkeys(TIMES, 0)}
