"""Trace files (docs/telemetry.md): one row per user and sample, Parquet or CSV; and the arrays made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.metrics import EVENT_KINDS, METRICS, is_saturated
from pipeline.errors import UsageError

TS: Final = pl.Datetime("us", "UTC")
EVENTS: Final = "events."
LIMIT: Final = "limit."


@dataclass(frozen=True)
class Trace:
    """A trace file, read and checked.

    frame: ts (UTC microseconds), app, user (strings), then the metrics, events and limits that the file has
        (float64, null = absent); sorted by ts, app, user, equal keys in the file's order
    tick_s: median over users of their median interval (the lower of two), in whole seconds, at least 1
    skipped: counts of what was left out: "null_rows", and "column <name>" with its values per unknown column
    """

    frame: pl.DataFrame
    tick_s: int
    skipped: dict[str, int]


@dataclass(frozen=True)
class Panel:
    """Users over consecutive ticks, as arrays.

    ticks: (tick) numbers, consecutive; tick_s their length
    apps, users: (user), sorted by app, user
    values: (tick, user, 5) by METRICS, NaN = absent; mean of the samples of a tick
    events: (tick, user, 4) by EVENT_KINDS in 1/s, NaN = absent; kinds that we do not name add up to OTHER
    saturated: (tick, user, 5): usage at 98 % of its limit or more
    """

    ticks: NDArray[np.int64]
    tick_s: int
    apps: list[str]
    users: list[str]
    values: NDArray[np.float32]
    events: NDArray[np.float32]
    saturated: NDArray[np.bool_]

    def start_s(self, row: int) -> int:
        """Unix seconds at which a row's tick starts; the row may be the one after the last."""
        return int(self.ticks[0] + row) * self.tick_s


def read(path: Path) -> Trace:
    """Read a trace file.

    Raises:
        UsageError: no such file, neither Parquet nor CSV, or as `of_frame`; one line.
    """
    return of_frame(_load(path), str(path))


def of_frame(frame: pl.DataFrame, name: str = "trace") -> Trace:
    """Check a frame with the columns of a trace file and make a trace of it.

    Args:
        frame: a row per user and sample; see docs/telemetry.md.
        name: what errors call it.

    Raises:
        UsageError: no column ts, app or user, a time or a number that cannot be read, or no row with a value.
    """
    for column in ("ts", "app", "user"):
        if column not in frame.columns:
            raise UsageError(f"{name}: no column {column!r}; it has {', '.join(frame.columns) or 'none'}")
    known = [column for column in frame.columns if _is_quantity(column)]
    unknown = [column for column in frame.columns if column not in ("ts", "app", "user", *known)]
    skipped = {f"column {column}": frame.height - frame[column].null_count() for column in unknown}
    measured = [column for column in known if not column.startswith(LIMIT)]
    if not measured:
        raise UsageError(
            f"{name}: no metric or events column; known are {', '.join(METRICS)}, {EVENTS}<kind>"
        )
    try:
        frame = frame.select(
            _time(frame["ts"]),
            pl.col("app", "user").cast(pl.String),
            pl.col(known).cast(pl.Float64).fill_nan(None),
        )
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"{name}: {str(error).splitlines()[0]}") from error
    rows = frame.height
    frame = frame.filter(
        pl.any_horizontal(pl.col(measured).is_not_null())
        & pl.all_horizontal(pl.col("ts", "app", "user").is_not_null())
    )
    if frame.is_empty():
        raise UsageError(f"{name}: no rows with a value")
    skipped["null_rows"] = rows - frame.height
    frame = frame.sort("ts", "app", "user", maintain_order=True)
    return Trace(frame, _interval(frame), skipped)


def to_panel(trace: Trace, tick_s: int | None = None) -> Panel:
    """Arrays of a trace on ticks of `tick_s` seconds, by default its own interval.

    Raises:
        UsageError: `tick_s` is not positive.
    """
    tick_s = trace.tick_s if tick_s is None else tick_s
    if tick_s <= 0:
        raise UsageError(f"a tick must be at least 1 s, got {tick_s}")
    grouped = (
        trace.frame.with_columns(tick=pl.col("ts").dt.epoch("us") // (tick_s * 1_000_000))
        .group_by("tick", "app", "user")
        .agg(pl.exclude("ts").mean())
    )
    names = grouped.select("app", "user").unique().sort("app", "user").with_row_index("row")
    grouped = grouped.join(names, on=("app", "user"))
    low, high = int(grouped["tick"].min()), int(grouped["tick"].max())  # pyright: ignore[reportArgumentType]
    t, row = grouped["tick"].to_numpy() - low, grouped["row"].to_numpy()
    shape = (high - low + 1, names.height)

    def spread(column: pl.Series) -> NDArray[np.float32]:
        out = np.full(shape, np.nan, np.float32)
        out[t, row] = column.cast(pl.Float32).fill_null(float("nan")).to_numpy()
        return out

    def metric(name: str) -> NDArray[np.float32]:
        return spread(grouped[name]) if name in grouped.columns else np.full(shape, np.nan, np.float32)

    values = np.stack([metric(name) for name in METRICS], axis=-1)
    limits = np.stack([metric(LIMIT + name) for name in METRICS], axis=-1)
    kinds = [name for name in grouped.columns if name.startswith(EVENTS)]
    events = np.full((*shape, len(EVENT_KINDS)), np.nan, np.float32)
    for name in kinds:
        kind = name.removeprefix(EVENTS)
        index = EVENT_KINDS.index(kind) if kind in EVENT_KINDS else EVENT_KINDS.index("OTHER")
        old, rate = events[..., index], spread(grouped[name])
        events[..., index] = np.where(np.isnan(old), rate, old + np.nan_to_num(rate))
    return Panel(
        ticks=np.arange(low, high + 1, dtype=np.int64),
        tick_s=tick_s,
        apps=names["app"].to_list(),
        users=names["user"].to_list(),
        values=values,
        events=events,
        saturated=is_saturated(values, limits),
    )


def of_apps(trace: Trace, apps: Sequence[str]) -> Trace:
    """The trace of some apps alone, at their own interval.

    Raises:
        UsageError: the trace has no such app.
    """
    there = trace.frame["app"].cast(pl.String).unique().sort().to_list()
    for app in apps:
        if app not in there:
            raise UsageError(f"no app {app!r} in the trace; it has {', '.join(there)}")
    frame = trace.frame.filter(pl.col("app").cast(pl.String).is_in(list(apps)))
    return Trace(frame, _interval(frame), trace.skipped)


def by_interval(trace: Trace) -> list[Trace]:
    """The trace in parts, one per interval of its users (in whole seconds), shortest first."""
    users = _intervals(trace.frame).with_columns(pl.col("gap").round().cast(pl.Int64).clip(1))
    return [
        Trace(
            trace.frame.join(part, on=("app", "user"), how="semi", maintain_order="left"),
            int(tick_s),
            trace.skipped,
        )
        for (tick_s,), part in sorted(users.group_by("gap"), key=lambda item: int(item[0][0]))  # pyright: ignore[reportArgumentType]
    ]


def _is_quantity(name: str) -> bool:
    return (
        name in METRICS
        or (name.startswith(LIMIT) and name.removeprefix(LIMIT) in METRICS)
        or (name.startswith(EVENTS) and name != EVENTS)
    )


def _load(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    readers = {".parquet": pl.read_parquet, ".csv": lambda p: pl.read_csv(p, infer_schema_length=10_000)}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path}: a trace is .parquet or .csv")
    try:
        frame = readers[path.suffix.lower()](path)
    except pl.exceptions.NoDataError as error:
        raise UsageError(f"{path}: no rows") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if frame.is_empty():
        raise UsageError(f"{path}: no rows")
    return frame


def _time(ts: pl.Series) -> pl.Series:
    """The column in UTC: other zones are converted, a time without zone is taken as UTC.

    Raises:
        PolarsError: a text that is no time, or a type that cannot be one.
    """
    if ts.dtype == pl.String:
        ts = _parsed(ts)
    elif isinstance(ts.dtype, pl.Datetime):
        ts = ts.dt.convert_time_zone("UTC") if ts.dtype.time_zone else ts.dt.replace_time_zone("UTC")
    else:
        raise pl.exceptions.InvalidOperationError(f"column 'ts' holds {ts.dtype}, not times")
    return ts.cast(TS).alias("ts")


def _parsed(ts: pl.Series) -> pl.Series:
    """ISO 8601 texts as UTC; each may name its zone (Z, +02:00, -0500) or not, which is UTC."""
    text = ts.str.strip_chars().str.replace("Z$", "+00:00")
    zoned = pl.when(text.str.contains(r"[+-]\d{2}:?\d{2}$")).then(text).otherwise(text + "+00:00")
    iso = zoned.str.replace(" ", "T").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False)
    parsed = pl.select(iso.alias("ts")).to_series()
    wrong = ts.filter(parsed.is_null() & ts.is_not_null())
    if len(wrong):
        raise pl.exceptions.InvalidOperationError(
            f"column 'ts' holds {wrong[0]!r}, which is no ISO 8601 time"
        )
    return parsed


def _intervals(frame: pl.DataFrame) -> pl.DataFrame:
    """app, user, gap: the median seconds (lower of two) between a user's samples; 60 for a user with one sample."""
    gap = pl.col("ts").diff().over("app", "user")
    return (
        frame.select("app", "user", gap=pl.when(gap > pl.duration()).then(gap))
        .group_by("app", "user", maintain_order=True)
        .agg(pl.col("gap").quantile(0.5, "lower").dt.total_microseconds().fill_null(60_000_000) / 1e6)
    )


def _interval(frame: pl.DataFrame) -> int:
    median = _intervals(frame)["gap"].quantile(0.5, "lower")  # one that exists: not 480 s of 60 and 900
    return max(1, round(median or 0))
