"""Windows of time: the ticks of a trace that are replayed, and the rows of a panel that are run and scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.metrics import DAY_S
from pipeline.errors import UsageError
from pipeline.format import duration, iso, parse_duration, parse_time, utc
from pipeline.traces import trace_file
from pipeline.traces.trace_file import Trace

WARM_UP_S: Final = (
    8 * DAY_S
)  # before a window that is chosen: a day, and the week of residuals that rivals keep


@dataclass(frozen=True)
class ScoringWindow:
    """Rows of a panel: the pass goes from `begin` to `stop`, forecasts made at `score` or later are scored."""

    begin: int
    score: int
    stop: int


def window_of(
    panel: trace_file.Panel, warm_up: str | None, begin: str | None, until: str | None
) -> ScoringWindow:
    """The rows to run and to score.

    Raises:
        UsageError: a duration or time that cannot be read, or nothing to score, or no room for the warm-up.
    """
    ticks, tick_s = panel.ticks, panel.tick_s
    stop = len(ticks) if until is None else int(np.searchsorted(ticks * tick_s, parse_time(until)))
    warm = None if warm_up is None else ticks_of(warm_up, tick_s)
    if begin is None:
        score = min(DAY_S // tick_s, len(ticks) // 4) if warm is None else warm
        start = 0
    else:
        score = int(np.searchsorted(ticks * tick_s, parse_time(begin)))
        start = max(0, score - WARM_UP_S // tick_s) if warm is None else score - warm
    ends = (panel.start_s(0), panel.start_s(len(ticks)))
    span = f"the trace lasts from {iso(ends[0])} to {iso(ends[1])}"
    if start < 0 or (begin is None and warm is not None and score >= len(ticks)):
        raise UsageError(f"no room for a warm-up of {warm_up}: {span}")
    if score >= stop:
        raise UsageError(f"nothing to score in the window: {span}")
    return ScoringWindow(start, score, stop)


def ticks_of(duration: str, tick_s: int) -> int:
    """Ticks of a duration such as 90s, 30m, 12h, 8d or 1w, rounded up."""
    return -(-parse_duration(duration) // tick_s)


@dataclass(frozen=True)
class TickWindow:
    """Ticks [first, last] of a trace."""

    first: int
    last: int
    tick_s: int

    @property
    def ticks(self) -> int:
        """How many."""
        return self.last - self.first + 1

    @classmethod
    def of(
        cls, trace: Trace, tick_s: int, ticks: int | None = None, start_s: float | None = None
    ) -> TickWindow:
        """The trace's ticks from `start_s` (Unix seconds) on, at most `ticks` of them.

        Raises:
            UsageError: nothing of the trace lies in it, or as `pipeline.traces.trace_file.check_span`.
        """
        times = trace.frame["ts"].dt.epoch("us")
        least, most = int(times[0]), int(times[-1])
        first = max(least, least if start_s is None else int(start_s * 1e6)) // 1_000_000 // tick_s
        last = most // 1_000_000 // tick_s
        if ticks is not None:
            last = min(last, first + ticks - 1)
        if first > last:
            bound = "" if start_s is None else f", before {utc(start_s)}"
            raise UsageError(f"the trace ends at {utc(most / 1e6)}{bound}")
        window = cls(first, last, tick_s)
        occupied = window.occupied(trace)
        if not len(occupied):
            raise UsageError(
                f"no row of the trace is from {utc(first * tick_s)} to {utc((last + 1) * tick_s)}"
            )
        trace_file.check_span(occupied, tick_s)
        return window

    def occupied(self, trace: Trace) -> NDArray[np.int64]:
        """Numbers of the ticks in it that have a row, sorted."""
        ticks = self.select(trace)["ts"].dt.epoch("us") // (self.tick_s * 1_000_000)
        return ticks.unique().sort().to_numpy()

    def pauses(self, trace: Trace) -> str:
        """A line on ticks without samples, where the trace's samples come less often than ticks; else ""."""
        if trace.tick_s <= self.tick_s:
            return ""
        empty = self.ticks - len(self.occupied(trace))
        return (
            f"samples come every {duration(trace.tick_s)} and a tick is {duration(self.tick_s)}: {empty:,} of"
            f" {self.ticks:,} ticks have no sample, and plans hold in them"
        )

    def replayed(self, trace: Trace) -> pl.DataFrame:
        """The trace's rows in it, in order, also those that ingest refuses: it sets them aside as dead letters."""
        tick_us = self.tick_s * 1_000_000
        return trace.replayed(self.first * tick_us, (self.last + 1) * tick_us)

    def select(self, trace: Trace) -> pl.DataFrame:
        """The trace's rows in it, in order."""
        return self._within(trace.frame)

    def refused(self, trace: Trace) -> pl.DataFrame:
        """The trace's rows in it that ingest refuses, in order."""
        return self._within(trace.refused) if trace.refused.height else trace.refused

    def skipped(self, trace: Trace) -> dict[str, int]:
        """`trace.skipped`, but what ingest refuses and rows without a value counted in the window alone."""
        counts = dict(trace.skipped)
        if trace.refused.height:
            of_all, here = trace.refused["reason"], self.refused(trace)["reason"]
            counts |= {reason: int((here == reason).sum()) for reason in of_all.unique()}
        nulls = self._within(trace.null_times.to_frame("ts"))
        return counts | ({"null_rows": nulls.height} if "null_rows" in counts else {})

    def _within(self, rows: pl.DataFrame) -> pl.DataFrame:
        tick = pl.col("ts").dt.epoch("us") // (self.tick_s * 1_000_000)
        return rows.filter(tick.is_between(self.first, self.last))
