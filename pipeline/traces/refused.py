"""Takes what ingest would refuse out of a trace, by the rules of ingest (`models.telemetry_rules`).

A row of a trace stands for the records that a replay makes of it: a metric sample, where it has a metric, and an event
record for each kind whose rate is not zero. They are refused one by one, as ingest refuses them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from models import telemetry_rules
from models.metrics import METRICS
from pipeline.names import identity_faults

EVENTS = "events."
LIMIT = "limit."


@dataclass(frozen=True)
class Refusal:
    """A trace's rows by whether ingest takes them.

    Attributes:
        good: rows as given, without what is refused; rows of which nothing is left are left out.
        bad: a row for each refused record, with the other records' columns null, and its `reason`.
        counts: refused records by reason.
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    counts: dict[str, int]


def split(frame: pl.DataFrame, tick_s: float) -> Refusal:
    """Take refused records out.

    Args:
        frame: app, user, and some of metrics, limits and events; NaN is a value, null is none.
        tick_s: seconds that a row stands for.
    """
    metrics = [name for name in METRICS if name in frame.columns]
    limits = [name for name in frame.columns if name.startswith(LIMIT)]
    events = [name for name in frame.columns if name.startswith(EVENTS)]
    if _is_clean(frame, metrics, events, tick_s):
        return Refusal(frame, frame.clear().with_columns(reason=pl.lit("")), {})
    rows = frame.height
    names = identity_faults(frame, True)
    nameless = telemetry_rules.first_reasons(names, rows)
    values = np.full((rows, len(METRICS)), np.nan)
    absent = np.ones((rows, len(METRICS)), bool)
    for name in metrics:
        at = METRICS.index(name)
        values[:, at] = frame[name].fill_null(float("nan")).to_numpy()
        absent[:, at] = frame[name].is_null().to_numpy()
    usage = telemetry_rules.usage_faults(values, absent, np.full(rows, float(tick_s)))
    reasons = {"": telemetry_rules.first_reasons([*names, *usage], rows)}
    reasons[""][absent.all(axis=1)] = ""
    for name in events:
        rate = frame[name].fill_null(0.0).to_numpy()
        faults = [*names, *telemetry_rules.count_faults(rate * tick_s)]
        reasons[name] = np.where(rate != 0, telemetry_rules.first_reasons(faults, rows), "")
    counts: Counter[str] = Counter()
    good = frame
    bad: list[pl.DataFrame] = []
    for name, reason in reasons.items():
        wrong = pl.Series(reason != "")
        of_record = [name] if name else [*metrics, *limits]
        others = [column for column in (*metrics, *limits, *events) if column not in of_record]
        counts.update(reason[reason != ""].tolist())
        bad.append(
            frame.with_columns(pl.lit(None, pl.Float64).alias(column) for column in others)
            .with_columns(reason=pl.Series(reason.astype(str)))
            .filter(wrong)
        )
        good = good.with_columns(pl.when(~wrong).then(pl.col(column)).alias(column) for column in of_record)
    left = pl.any_horizontal(pl.col(*metrics, *events).is_not_null()) & pl.Series(nameless == "")
    return Refusal(good.filter(left), pl.concat(bad), dict(counts))


def _is_clean(frame: pl.DataFrame, metrics: list[str], events: list[str], tick_s: float) -> bool:
    """Whether nothing is refused, by the least and the greatest value of each column: the rules bound nothing between.

    A large trace is clean as a rule, and arrays of all its rows take longer to check than the file to read.
    """
    faults = identity_faults(frame.select("app", "user").unique(), True)
    columns = [*metrics, *events]
    ends = frame.select(pl.col(columns).nan_min()).vstack(frame.select(pl.col(columns).nan_max()))
    values, absent = np.zeros((2, len(METRICS))), np.ones((2, len(METRICS)), bool)
    for name in metrics:
        at = METRICS.index(name)
        values[:, at] = ends[name].fill_null(0.0).to_numpy()
        absent[:, at] = ends[name].is_null().to_numpy()
    if metrics:
        faults += telemetry_rules.usage_faults(values, absent, np.full(2, float(tick_s)))
    for name in events:
        faults += telemetry_rules.count_faults(ends[name].fill_null(0.0).to_numpy() * tick_s)
    return not any(wrong.any() for _, wrong in faults)
