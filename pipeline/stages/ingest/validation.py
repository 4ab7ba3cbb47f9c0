"""Validates decoded raw records: a reason per row, of which the first that applies goes into the dead letter."""

from collections.abc import Collection, Mapping

import numpy as np
import polars as pl

from models.metrics import EVENT_KINDS, METRICS, SATURATED_SHARE
from pipeline.wire.limits import MAX_COUNT, MAX_ID_BYTES, MAX_INTERVAL_S, MOST

ATTRIBUTE_CHARS = 64

Refusals = list[tuple[str, np.ndarray]]


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
        rows: as `decode_batch` gives them.
        produced_us, shift_us: (row,) the message's own timestamp, and how far a replay shifts event time.
        max_age_s, max_ahead_s: bounds of event time against the produce time.
    """
    lag_us = produced_us - (rows["ts"].to_physical().to_numpy() + shift_us)
    checks: Refusals = [
        ("timestamp-old", lag_us > max_age_s * 1e6),
        ("timestamp-ahead", lag_us < -max_ahead_s * 1e6),
    ]
    if name != "watermark":
        checks += _identity(rows, required=name == "event")
    if name == "metric":
        checks += _usage(rows)
    if name == "event":
        checks.append(("bad-count", _outside(rows["count"], MAX_COUNT)))
    reason = np.full(
        rows.height, "", object
    )  # pointers: fixed-width text took 96 bytes a record to fill and compare
    for code, wrong in reversed(checks):
        reason[wrong] = code
    return reason


def _identity(rows: pl.DataFrame, required: bool) -> Refusals:
    user = rows["user"]
    missing = user.is_null() | (user == "").fill_null(False)
    if not required:
        of_user = rows["scope"].cast(pl.String) == "USER"
        missing = (missing & of_user) | (user == "").fill_null(False)
    long = (user.str.len_bytes() > MAX_ID_BYTES).fill_null(False) | (
        rows["app"].str.len_bytes() > MAX_ID_BYTES
    )
    return [
        ("empty-app", (rows["app"] == "").to_numpy()),
        ("empty-user", missing.to_numpy()),
        ("long-id", long.to_numpy()),
    ]


def _usage(rows: pl.DataFrame) -> Refusals:
    values = metric_values(rows)
    bound = np.array([MOST[metric] for metric in METRICS])
    return [
        (
            "nan",
            rows.select(pl.any_horizontal(pl.col(METRICS).is_nan().fill_null(False))).to_series().to_numpy(),
        ),
        ("infinite", np.any(np.isinf(values), axis=1)),
        ("negative", np.any(values < 0, axis=1)),
        ("absurd", np.any(values > bound, axis=1)),
        ("bad-interval", _outside(rows["interval_s"], MAX_INTERVAL_S) | (rows["interval_s"] == 0).to_numpy()),
    ]


def _outside(column: pl.Series, most: float) -> np.ndarray:
    values = column.to_numpy()
    return ~((values >= 0) & (values <= most))  # NaN is neither


def metric_values(rows: pl.DataFrame) -> np.ndarray:
    """(row, metric) float64, NaN = absent."""
    return np.column_stack([rows[metric].cast(pl.Float64).fill_null(np.nan).to_numpy() for metric in METRICS])


def saturated(rows: pl.DataFrame) -> np.ndarray:
    """(row, metric) bool: the sample is a lower bound on demand (docs/records.md, "Censoring").

    A flag or a queue says that the user was held back, not by what: every metric counts. Throttling is the CPU's.
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
            hit[at, METRICS.index(metric)] |= (
                values[at, METRICS.index(metric)] >= SATURATED_SHARE * chosen["value"].to_numpy()
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
