"""Trace files (docs/telemetry.md): one row per user and sample, Parquet or CSV; and the arrays made of them.

All commands read traces here, and what ingest refuses is refused here by the same rules (`pipeline.traces.refused`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models import epoch, time_span
from models.metrics import EVENT_KINDS, METRICS, is_saturated
from models.telemetry_rules import MAX_INTERVAL_S
from pipeline.errors import UsageError
from pipeline.format import duration, utc
from pipeline.traces import columns, doubts, refused, text_table, times
from pipeline.traces.columns import ColumnError, Place
from pipeline.traces.refused import EVENTS, LIMIT

CELLS: Final = 2**26
"""Ticks times users of arrays that may be empty for the most part: 4 GB."""
CELLS_RATIO: Final = 100
"""Larger arrays must have a row for one in so many ticks of users."""
OUTLIER: Final = "time-outlier"
FIRST_S: Final = -2_208_988_800
"""1900 in Unix seconds; with `models.epoch.END_S` the bounds of a trace's times."""


@dataclass(frozen=True)
class Trace:
    """A trace file, read and checked.

    frame: ts (UTC microseconds), app, user (strings), then the metrics, events and limits that the file has
        (float64, null = absent); sorted by ts, app, user, equal keys in the file's order
    tick_s: median over users of their median interval (the lower of two), in whole seconds, at least 1
    skipped: counts of what was left out: "null_rows", records by the reason for which ingest refuses them,
        "time-outlier", and "column <name>" with its values per unknown column
    notes: what was assumed of the file, and what of it is doubtful, a line each
    refused: rows of `frame`'s columns that ingest refuses, one per record, and `reason`; sorted as `frame`
    null_times: of the "null_rows" that have a time, as `ts`
    """

    frame: pl.DataFrame
    tick_s: int
    skipped: dict[str, int]
    notes: tuple[str, ...] = ()
    refused: pl.DataFrame = field(default_factory=pl.DataFrame)
    null_times: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.Datetime("us")))

    def replayed(self, low_us: int, high_us: int) -> pl.DataFrame:
        """All rows with times in [low_us, high_us), also those that ingest is going to refuse, sorted by time."""
        rows = self.frame
        if self.refused.height:
            rows = pl.concat([rows, self.refused.drop("reason")]).sort(
                "ts", "app", "user", maintain_order=True
            )
        return rows.filter(pl.col("ts").dt.epoch("us").is_between(low_us, high_us, closed="left"))


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
    if not path.is_file():
        raise UsageError(f"{path}: {'is a folder: give a file of it' if path.is_dir() else 'no such file'}")
    suffix = path.suffix.lower()
    if suffix in text_table.SUFFIXES:
        table = text_table.read(path)
        return _checked(
            table.frame,
            str(path),
            lambda row: f"line {table.line_of(row)}",
            table.notes,
            commas=table.separator == ";",
        )
    if suffix != ".parquet":
        raise UsageError(f"{path}: a trace is .parquet or .csv")
    # A zone as +05:30, which pandas writes, is no name that Polars knows: it panics. The times are in UTC all the same.
    os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    return of_frame(frame, str(path))


def of_frame(frame: pl.DataFrame, name: str = "trace") -> Trace:
    """Check a frame with the columns of a trace file and make a trace of it.

    Args:
        frame: a row per user and sample; see docs/telemetry.md.
        name: what errors call it.

    Raises:
        UsageError: no column ts, app or user, a time or a number that cannot be read, or no row with a value.
    """
    return _checked(frame, name, lambda row: f"row {row + 1}")


def _checked(
    frame: pl.DataFrame, name: str, place: Place, notes: Sequence[str] = (), *, commas: bool = False
) -> Trace:
    for column in ("ts", "app", "user"):
        if column not in frame.columns:
            raise UsageError(f"{name}: no column {column!r}; it has {', '.join(frame.columns) or 'none'}")
    if frame.is_empty():
        raise UsageError(f"{name}: no rows")
    known = [column for column in frame.columns if _is_quantity(column)]
    unknown = [column for column in frame.columns if column not in ("ts", "app", "user", *known)]
    skipped = {f"column {column}": frame.height - frame[column].null_count() for column in unknown}
    measured = [column for column in known if not column.startswith(LIMIT)]
    if not measured:
        raise UsageError(
            f"{name}: no metric or events column; known are {', '.join(METRICS)}, {EVENTS}<kind>"
        )
    try:
        ts, time_notes = times.parse(frame["ts"], place)
        amounts, comma_notes = columns.numbers(frame, known, place, commas)
        identity = [columns.names(frame[column]) for column in ("app", "user")]
    except ColumnError as error:
        raise UsageError(f"{name}: {error}") from error
    remarks = [*notes, *_doubts(frame, known, points=commas and not comma_notes), *comma_notes, *time_notes]
    limits = [column for column in known if column.startswith(LIMIT)]
    frame = pl.DataFrame([ts, *identity, *amounts.get_columns()]).with_columns(
        pl.col(limits).fill_nan(None) if limits else []
    )
    rows = frame.height
    is_null = ~pl.any_horizontal(pl.col(measured).is_not_null())
    null_times = frame.filter(is_null)["ts"].drop_nulls()
    frame = frame.filter(~is_null & pl.col("ts").is_not_null())
    skipped["null_rows"] = rows - frame.height
    if frame.is_empty():
        raise UsageError(f"{name}: no rows with a value")
    frame = frame.sort("ts", "app", "user", maintain_order=True)
    frame, outliers = _without_outliers(frame)
    split, tick_s = _refused(frame)
    skipped |= split.counts | ({OUTLIER: rows - skipped["null_rows"] - frame.height} if outliers else {})
    if split.good.is_empty():
        raise UsageError(f"{name}: ingest refuses all rows: {_reasons(split, tick_s)}")
    if far := _far_times(split.good):
        raise UsageError(f"{name}: column 'ts': {far}")
    return Trace(
        split.good,
        tick_s,
        skipped,
        (*remarks, *outliers, *doubts.of_rows(split.good, measured, tick_s)),
        split.bad.sort("ts", "app", "user", maintain_order=True),
        null_times,
    )


def _doubts(frame: pl.DataFrame, known: Sequence[str], *, points: bool) -> list[str]:
    """Lines on columns that may be named wrongly, and with `points` on decimal points that may separate thousands."""
    doubts: list[str] = []
    for column in frame.columns:
        meant = columns.meant(column)
        if meant is not None:
            use = "counts as OTHER" if column in known else "is not used"
            doubts.append(
                f"column {column!r} {use}: if it holds {columns.unit(meant)}, give it the name {meant!r}"
            )
    thousands = [column for column in known if points and columns.points_of_thousands(frame[column])]
    return doubts + [f"points of column {column!r} are taken for decimal points" for column in thousands]


def _without_outliers(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Rows, sorted by time, without the few that are far from all others; and for each side a line that names them."""
    at = frame["ts"].to_physical().to_numpy()
    begin, end = time_span.bulk(at)
    lines: list[str] = []
    for rows, first, side in ((begin, 0, "before"), (len(at) - end, end, "after")):
        if rows:
            row = frame.row(first, named=True)
            lines.append(
                f"{rows:,} of {len(at):,} rows left out, far {side} all others, as that of {row['app']}/{row['user']}"
                f" at {utc(at[first] / 1e6)}: the others are from {utc(at[begin] / 1e6)} to {utc(at[end - 1] / 1e6)}"
            )
    return frame[begin:end], lines


def _far_times(frame: pl.DataFrame) -> str:
    """What is wrong with sorted times that nobody means; "" where nothing is."""
    first_s, last_s = (at_us / 1e6 for at_us in frame["ts"].to_physical()[[0, -1]])
    if first_s >= FIRST_S and last_s < epoch.END_S:
        return ""
    return f"times are from {utc(first_s)} to {utc(last_s)}, and 1900 to 2100 are wanted: was their unit mistaken?"


def _refused(frame: pl.DataFrame) -> tuple[refused.Refusal, int]:
    """The rows by whether ingest takes them, and the interval in seconds of those that it takes, if there are any."""
    interval_s = _interval(frame)
    split = refused.split(frame, min(interval_s, MAX_INTERVAL_S))
    if split.counts and not split.good.is_empty():
        interval_s = _interval(split.good)
    return (split if interval_s <= MAX_INTERVAL_S else refused.split(frame, interval_s)), interval_s


def _reasons(split: refused.Refusal, tick_s: int) -> str:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(split.counts.items()))
    if "bad-interval" not in split.counts:
        return counts
    return f"{counts}: samples come every {duration(tick_s)}, and one stands for a day at most"


def to_panel(trace: Trace, tick_s: int | None = None) -> Panel:
    """Arrays of a trace on ticks of `tick_s` seconds, by default its own interval.

    Raises:
        UsageError: `tick_s` is not from a second to a day, or as `check_span`.
    """
    tick_s = trace.tick_s if tick_s is None else tick_s
    if not 0 < tick_s <= MAX_INTERVAL_S:
        raise UsageError(f"a tick must be 1 s to 1 day ({MAX_INTERVAL_S:.0f} s), got {tick_s}")
    grouped = (
        trace.frame.with_columns(tick=pl.col("ts").dt.epoch("us") // (tick_s * 1_000_000))
        .group_by("tick", "app", "user")
        .agg(pl.exclude("ts").mean())
    )
    names = grouped.select("app", "user").unique().sort("app", "user").with_row_index("row")
    grouped = grouped.join(names, on=("app", "user"))
    ticks = grouped["tick"].unique().sort().to_numpy()
    low, high = int(ticks[0]), int(ticks[-1])
    check_span(ticks, tick_s, names.height, grouped.height)
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


def check_span(ticks: NDArray[np.int64], tick_s: int, users: int = 1, filled: int | None = None) -> None:
    """Refuse times that lie so far apart that nearly all ticks between them, or of users in arrays, are empty.

    Args:
        ticks: numbers of the ticks that have a row, sorted, each one time.
        tick_s: seconds of a tick.
        users: of the arrays.
        filled: ticks of users that have a row; None: as many as there are.

    Raises:
        UsageError: names the widest gap, and what to do.
    """
    span = int(ticks[-1] - ticks[0]) + 1
    cells = span * users
    filled = len(ticks) * users if filled is None else filled
    if time_span.is_sparse(span, len(ticks)):
        gap = time_span.widest_gap(ticks)
        raise UsageError(
            f"{span:,} ticks of {duration(tick_s)} from {utc(ticks[0] * tick_s)} to {utc(ticks[-1] * tick_s)}, of which"
            f" {len(ticks):,} have a row: none is between {utc(ticks[gap] * tick_s)} and"
            f" {utc(ticks[gap + 1] * tick_s)}: leave out one side, or take longer ticks"
        )
    if cells > max(CELLS, CELLS_RATIO * filled):
        raise UsageError(
            f"{span:,} ticks of {duration(tick_s)} of {users:,} users, of which {filled:,} have a row: too many empty"
            " ticks for arrays: take longer ticks, fewer users or a shorter time"
        )


def of_apps(trace: Trace, apps: Sequence[str]) -> Trace:
    """The trace of some apps alone, at their own interval.

    Raises:
        UsageError: the trace has no such app.
    """
    known = trace.frame["app"].unique().sort().to_list()
    for app in apps:
        if app not in known:
            counts = refused_by_app(trace.refused).get(app)
            why = f" but for {counted(counts)}, which ingest refuses" if counts else ""
            raise UsageError(f"no app {app!r} in the trace{why}; it has {', '.join(known)}")
    chosen = pl.col("app").is_in(list(apps))
    frame = trace.frame.filter(chosen)
    bad = trace.refused.filter(chosen) if trace.refused.height else trace.refused
    return Trace(frame, _interval(frame), trace.skipped, trace.notes, bad)


def refused_by_app(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Counts of refused records by reason, by app; rows: of `Trace.refused`."""
    counts: dict[str, dict[str, int]] = {}
    if rows.height:
        for app, reason, number in rows.group_by("app", "reason").len().sort("app", "reason").iter_rows():
            counts.setdefault(app or "", {})[reason] = number
    return counts


def slower_apps(trace: Trace, tick_s: int) -> list[str]:
    """A line on apps whose samples come less often than ticks, if there are any: between them nothing is measured."""
    intervals = _intervals(trace.frame).group_by("app").agg(pl.col("gap").quantile(0.5, "lower"))
    slower = intervals.filter(pl.col("gap") >= 1.5 * tick_s).sort("app")
    if slower.is_empty():
        return []
    others = f", as have {slower.height - 1:,} other apps" if slower.height > 1 else ""
    app, gap = slower.row(0)
    return [
        f"samples of app {app} come every {duration(round(gap))} and a tick is {duration(tick_s)}: ticks in between"
        f" have none of it{others}"
    ]


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name for people, without zeros: `12 negative, 3 nan`."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def by_interval(trace: Trace) -> list[Trace]:
    """The trace in parts, one per interval of its users (in whole seconds), shortest first.

    Users whose interval is beyond a day are left out, and counted in `skipped` of all parts as `bad-interval`.
    """
    users = _intervals(trace.frame).with_columns(pl.col("gap").round().cast(pl.Int64).clip(1))
    slow = users.filter(pl.col("gap") > MAX_INTERVAL_S)
    skipped = dict(trace.skipped)
    if slow.height:
        rows = trace.frame.join(slow, on=("app", "user"), how="semi").height
        skipped["bad-interval"] = skipped.get("bad-interval", 0) + rows
        users = users.join(slow, on=("app", "user"), how="anti", maintain_order="left")
    return [
        Trace(
            trace.frame.join(part, on=("app", "user"), how="semi", maintain_order="left"),
            int(tick_s),
            skipped,
            trace.notes,
        )
        for (tick_s,), part in sorted(users.group_by("gap"), key=lambda item: int(item[0][0]))  # pyright: ignore[reportArgumentType]
    ]


def _is_quantity(name: str) -> bool:
    return (
        name in METRICS
        or (name.startswith(LIMIT) and name.removeprefix(LIMIT) in METRICS)
        or (name.startswith(EVENTS) and name != EVENTS)
    )


def _intervals(frame: pl.DataFrame) -> pl.DataFrame:
    """app, user, gap: the median seconds (lower of two) between a user's samples; 60 for a user with one sample."""
    gap = pl.col("ts").diff()
    median = gap.filter(gap > pl.duration()).quantile(0.5, "lower")
    return frame.group_by("app", "user", maintain_order=True).agg(
        gap=median.dt.total_microseconds().fill_null(60_000_000) / 1e6
    )


def _interval(frame: pl.DataFrame) -> int:
    median = _intervals(frame)["gap"].quantile(0.5, "lower")  # one that exists: not 480 s of 60 and 900
    return max(1, round(median or 0))
