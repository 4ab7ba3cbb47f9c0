"""Questions about what a trace's rows mean that people should answer before they believe what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from models import counters, epoch, time_span
from models.metrics import DAY_S
from models.telemetry_rules import DOUBTFUL
from pipeline.format import duration, number, utc
from pipeline.traces import columns

PAUSE_TICKS: Final = 20
"""A pause of so many ticks, and of two days, is said: what lies in it is no demand of zero."""
UNEVEN: Final = 5
"""Times the tick, from which on a tenth of the intervals tells that the tick is not what samples come by."""
_KEY: Final = ("ts", "app", "user")


def of_rows(frame: pl.DataFrame, measured: Sequence[str], tick_s: int) -> list[str]:
    """A line on each doubt.

    Args:
        frame: of a trace, sorted by time.
        measured: its columns of metrics and events.
        tick_s: seconds of its tick.
    """
    return [
        *_spaced_names(frame),
        *_times(frame, tick_s),
        *_uneven(frame, tick_s),
        *_repeats(frame),
        *_magnitudes(frame, measured),
        *_counters(frame, measured),
    ]


def repeated(frame: pl.DataFrame) -> int:
    """How many rows are of a user and a time that an earlier row is of; arrays have the mean of them."""
    return frame.height - frame.select(_KEY).unique().height


def _spaced_names(frame: pl.DataFrame) -> list[str]:
    """A line on names of apps, and one on those of users, that white space makes others than they look."""
    notes: list[str] = []
    for column in ("app", "user"):
        names = frame[column].unique()
        spaced = names.filter(names != names.str.strip_chars()).sort()
        if len(spaced):
            notes.append(
                f"column {column!r}: {len(spaced):,} of {len(names):,} names begin or end with white space, as"
                f" {spaced[0]!r}: it is part of the name"
            )
    return notes


def _times(frame: pl.DataFrame, tick_s: int) -> list[str]:
    """Lines on times, sorted, of before there was telemetry or far in the future, and on the widest gap between two."""
    at_s = frame["ts"].to_physical().to_numpy() / 1e6
    notes: list[str] = []
    if at_s[0] < epoch.BEGIN_S or at_s[-1] >= epoch.LATE_S:
        notes.append(f"times are from {utc(at_s[0])} to {utc(at_s[-1])}: was their unit mistaken?")
    gaps = np.diff(at_s)
    wide = int((gaps > max(time_span.GAP_US / time_span.US, PAUSE_TICKS * tick_s)).sum())
    if wide:
        at = int(np.argmax(gaps))
        more = f", the widest of {wide:,} gaps" if wide > 1 else ""
        notes.append(
            f"no row is between {utc(at_s[at])} and {utc(at_s[at + 1])} ({gaps[at] / DAY_S:.3g} days{more})"
        )
    return notes


def _uneven(frame: pl.DataFrame, tick_s: int) -> list[str]:
    """A line where most samples come far less often than the tick, as where a user's come in pairs."""
    gap = pl.col("ts").diff()
    often = pl.duration(seconds=UNEVEN * tick_s)
    users = frame.group_by("app", "user", maintain_order=True).agg(
        gap=gap.filter(gap > pl.duration()).quantile(0.9, "lower")
    )
    uneven = users.filter(pl.col("gap") >= often)
    if 2 * uneven.height <= users["gap"].count():
        return []
    app, user, seconds = uneven.select("app", "user", pl.col("gap").dt.total_seconds()).row(0)
    return [
        f"the tick, the median interval of samples, is {duration(tick_s)}, and a tenth of the intervals of"
        f" {uneven.height:,} users are {UNEVEN} times as long or longer ({app}/{user}: {duration(seconds)}): most ticks"
        " have no sample; give a longer --tick"
    ]


def _repeats(frame: pl.DataFrame) -> list[str]:
    """A line on rows of one time, app and user of which a column has several values; each may give other columns."""
    if not repeated(frame):
        return []
    values = pl.exclude(_KEY).drop_nulls().n_unique()
    several = frame.unique().group_by(_KEY).agg(values.name.prefix("values "), rows=pl.len())
    several = several.filter(pl.any_horizontal(pl.col("^values .*$") > 1)).sort(_KEY)
    if several.is_empty():
        return []
    app, user, at_s = several.select("app", "user", pl.col("ts").dt.epoch("us") / 1e6).row(0)
    return [
        f"{several['rows'].sum() - several.height:,} rows differ from another of the same time, app and user, as those"
        f" of {app}/{user} at {utc(at_s)}:"
        " their mean is used; where they are parts of one user, as containers of a pod, give their sum"
    ]


def _magnitudes(frame: pl.DataFrame, measured: Sequence[str]) -> list[str]:
    """A line on each metric of which an app's largest sample is doubtful."""
    known = [metric for metric in DOUBTFUL if metric in measured]
    largest = frame.group_by("app").agg(pl.col(known).max()).sort("app")
    notes: list[str] = []
    for metric in known:
        (least, most), unit = DOUBTFUL[metric]
        odd = largest.filter(pl.col(metric).is_between(least, most, closed="right"))
        if odd.height:
            app, value = odd.select("app", metric).row(0)
            more = odd.height - 1
            others = f", and about as much of {more:,} other app{'s' * (more > 1)}" if more else ""
            notes.append(
                f"{metric} of app {app} is {number(value)} for a user at most{others}: is it in {unit}?"
                f" {columns.unit(metric)} are wanted"
            )
    return notes


def _counters(frame: pl.DataFrame, measured: Sequence[str]) -> list[str]:
    """A question for each app and column whose samples only rise; memory may."""
    rates = [column for column in measured if column != "memory"]
    moves = [pl.col(column).drop_nulls().diff().sign() for column in rates]
    users = frame.group_by("app", "user", maintain_order=True).agg(
        *(move.gt(0).sum().name.prefix("up ") for move in moves),
        *(move.lt(0).sum().name.prefix("down ") for move in moves),
    )
    rising: dict[tuple[str, str], list[str]] = {}
    for column in rates:
        likely = counters.mostly_rises(users[f"up {column}"].to_numpy(), users[f"down {column}"].to_numpy())
        for app, user in users.filter(pl.Series(likely)).select("app", "user").iter_rows():
            rows = frame.filter(pl.col("app") == app, pl.col("user") == user)
            samples = rows[column].drop_nulls().to_numpy()
            if counters.only_rises(samples):
                shown = f"{user}: {number(samples[0])} to {number(samples[-1])} in {len(samples):,} samples"
                rising.setdefault((app, column), []).append(shown)
    of_app = dict(users.group_by("app").len().iter_rows())
    return [
        f"{column} of app {app} only rises for {len(users)} of {of_app[app]} users ({users[0]}): is it a cumulative"
        f" counter? {columns.unit(column)} are wanted: give differences over seconds, or leave the column out"
        for (app, column), users in sorted(rising.items())
    ]
