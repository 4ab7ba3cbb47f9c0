"""Validates decoded raw records: the first reason for refusal that applies to a row, for its dead letter."""

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
import polars as pl

from models import telemetry_rules
from models.metrics import EVENT_KINDS, METRICS, is_saturated
from models.telemetry_rules import Faults
from pipeline.names import identity_faults
from pipeline.wire.codec import unit_detail

ATTRIBUTE_CHARS = 64


def refusals(
    name: str,
    rows: pl.DataFrame,
    produced_us: np.ndarray,
    shift_us: np.ndarray,
    max_age_s: float,
    max_ahead_s: float,
) -> np.ndarray:
    """Reason for refusal by row, "" for a valid record.

    Args:
        name: "metric", "event" or "watermark".
        rows: of `decode_batch`.
        produced_us, shift_us: (row,) the message's own timestamp, and by how much a replay shifts event time.
        max_age_s, max_ahead_s: most seconds that event time may be behind and ahead of the message's timestamp.
    """
    lag_us = produced_us - (rows["ts"].to_physical().to_numpy() + shift_us)
    faults: Faults = [
        ("timestamp-old", lag_us > max_age_s * 1e6),
        ("timestamp-ahead", lag_us < -max_ahead_s * 1e6),
    ]
    if name != "watermark":
        user_needed = name == "event" or (rows["scope"].cast(pl.String) == "USER").to_numpy()
        faults += identity_faults(rows, user_needed)
        faults += _detail_faults(rows)
    if name == "metric":
        absent = np.column_stack([rows[metric].is_null().to_numpy() for metric in METRICS])
        interval_s = rows["interval_s"].to_numpy()
        faults += telemetry_rules.usage_faults(metric_values(rows), absent, interval_s)
    if name == "event":
        faults += telemetry_rules.count_faults(rows["count"].to_numpy())
    return telemetry_rules.first_reasons(faults, rows.height)


def refusal_details(rows: pl.DataFrame, reasons: np.ndarray) -> list[str]:
    """Detail of each row's dead letter: the unit that a refused time seems to have, or the figures that are refused."""
    return [
        unit_detail("ts", ts) if reason.startswith("timestamp-") else _figure_detail(rows, row, reason)
        for row, (ts, reason) in enumerate(zip(rows["ts"].to_physical().to_list(), reasons, strict=True))
    ]


def _figure_detail(rows: pl.DataFrame, row: int, reason: str) -> str:
    """The fields of a row that a reason about figures concerns, with their values; "" for other reasons."""
    most = telemetry_rules.MOST | telemetry_rules.DETAILS_MOST
    wrong: Mapping[str, Callable[[str, float], bool]] = {
        "nan": lambda _, value: math.isnan(value),
        "infinite": lambda _, value: math.isinf(value),
        "negative": lambda _, value: value < 0,
        "absurd": lambda name, value: value > most[name],
    }
    if reason not in wrong:
        return ""
    given = {name: rows[name][row] for name in most if name in rows.columns}
    fields = {
        name: value for name, value in given.items() if value is not None and wrong[reason](name, value)
    }
    if reason == "nan" and "limits" in rows.columns:
        limits = rows["limits"][row].to_list()
        fields |= {f"limit of {of['metric']}": of["value"] for of in limits if math.isnan(of["value"])}
    return ", ".join(f"{name} is {value:g}" for name, value in fields.items())


def _detail_faults(rows: pl.DataFrame) -> Faults:
    """Faults of the fields beside usage and counts. A limit that is infinite or not above 0 is ignored, not refused."""
    names = [name for name in telemetry_rules.DETAILS_MOST if name in rows.columns]
    absent = np.column_stack([rows[name].is_null().to_numpy() for name in names])
    values = np.column_stack([rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names])
    most = np.array([telemetry_rules.DETAILS_MOST[name] for name in names])
    faults = telemetry_rules.figure_faults(values, absent, most)
    if "limits" in rows.columns and rows["limits"].list.len().sum():
        nan = pl.col("limits").list.eval(pl.element().struct.field("value").is_nan()).list.any()
        faults.append(("nan", rows.select(nan).to_series().to_numpy()))
    return faults


def metric_values(rows: pl.DataFrame) -> np.ndarray:
    """(row, metric) float64, NaN = absent."""
    return np.column_stack([rows[metric].cast(pl.Float64).fill_null(np.nan).to_numpy() for metric in METRICS])


def saturated(rows: pl.DataFrame) -> np.ndarray:
    """(row, metric) bool: the sample is a lower bound on demand (docs/records.md, "Censoring").

    A flag or a queue does not name the saturated resource, so that every metric counts; throttling concerns the CPU.
    """
    held = rows["saturated"].fill_null(False) | (rows["queue"].fill_null(0.0) > 0)
    hit = np.repeat(held.to_numpy()[:, None], len(METRICS), axis=1)
    hit[:, METRICS.index("cpu")] |= (rows["throttled"].fill_null(0.0) > 0).to_numpy()
    if rows["limits"].list.len().sum():
        limits = (
            rows.select("limits").with_row_index().explode("limits", empty_as_null=False).unnest("limits")
        )
        values = metric_values(rows)
        for metric in METRICS:
            chosen = limits.filter(pl.col("metric") == metric)
            at = chosen["index"].to_numpy()
            hit[at, METRICS.index(metric)] |= is_saturated(
                values[at, METRICS.index(metric)], chosen["value"].to_numpy()
            )
    return hit


def kind_index(rows: pl.DataFrame) -> np.ndarray:
    """(row,) position of each event's kind in EVENT_KINDS."""
    positions: Mapping[str, int] = {kind: index for index, kind in enumerate(EVENT_KINDS)}
    return rows["kind"].cast(pl.String).replace_strict(positions, return_dtype=pl.Int64).to_numpy()


def attributes(rows: pl.DataFrame, allowed: Collection[str]) -> np.ndarray:
    """(row,) object: the (key, value) pairs of each event whose key is allowed; values cut at 64 characters."""
    pairs = np.empty(rows.height, object)
    pairs[:] = [()] * rows.height
    if allowed:
        for row, given in enumerate(rows["attributes"].to_list()):
            pairs[row] = tuple((a["key"], a["value"][:ATTRIBUTE_CHARS]) for a in given if a["key"] in allowed)
    return pairs
