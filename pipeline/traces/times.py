"""The column `ts` in all usual forms, as UTC: ISO 8601, numbers that count from 1970, dates written as digits."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import numpy as np
import polars as pl

from models import epoch
from models.metrics import DAY_S
from pipeline.traces.columns import ColumnError, Place

TS: Final = pl.Datetime("us", "UTC")
_UNITS: Final = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_YEAR_S: Final = 365.2425 * DAY_S
WANTED: Final = "give ISO 8601, as 2026-01-31T14:05:00Z, or seconds since 1970"
_NUMBER = r"^[+-]?\d+([.,]\d+)?$"
_DIGITS: Final = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Forms of dates of so many digits. As numbers they are before 1990 in every unit, but for those of ten digits: these
are seconds of 2033 to 2036 as well, and hardly any series of such is one of dates."""
_WITHOUT_ZONE = "times without a zone are taken as UTC"
_ISO = "%Y-%m-%dT%H:%M:%S%.f%#z"
_LEAP = r":60([^\d:]|$)"
_LEAP_READ = "leap seconds (23:59:60) are read as the second after them"


def parse(column: pl.Series, place: Place) -> tuple[pl.Series, list[str]]:
    """The column in UTC microseconds, and what was assumed of it, a line each.

    Other zones are converted, a time without one is taken as UTC. A number's unit is told by its magnitude.

    Raises:
        ColumnError: a text that is no time, numbers that are times from 1990 to 2100 in no unit, a time that is not
            of the years 1 to 9999, or another type.
    """
    kind = column.dtype
    if isinstance(kind, (pl.Categorical, pl.Enum)):
        column, kind = column.cast(pl.String), pl.String()
    if isinstance(kind, pl.Datetime):
        _in_years(column, epoch.PER_SECOND[_UNITS[kind.time_unit]], place)
        zoned = column.dt.convert_time_zone("UTC") if kind.time_zone else column.dt.replace_time_zone("UTC")
        return zoned.cast(TS).alias("ts"), [] if kind.time_zone else [_WITHOUT_ZONE]
    if kind == pl.Date:
        _in_years(column, 1 / DAY_S, place)
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("ts"), []
    if isinstance(kind, (pl.Float32, pl.Float16)):
        raise ColumnError(
            f"column 'ts' holds {kind}, which rounds seconds since 1970 to minutes: give Float64 or Int64"
        )
    if kind.is_numeric():
        return _numbers(column, place)
    if kind == pl.String:
        return _texts(column, place)
    raise ColumnError(f"column 'ts' holds {kind}, not times: {WANTED}")


def _in_years(column: pl.Series, per_second: float, place: Place) -> None:
    """Refuse times beyond the years 1 to 9999, of which there are no dates.

    Args:
        column: of times.
        per_second: how many of its numbers are a second.
        place: of a row.

    Raises:
        ColumnError: there are such times.
    """
    since_1970 = column.to_physical()
    least, most = (max(-(2**63), min(int(bound * per_second), 2**63 - 1)) for bound in epoch.YEARS_S)
    beyond = ~since_1970.is_between(least, most).fill_null(True)
    if beyond.any():
        row = int(beyond.arg_max() or 0)
        raise ColumnError(
            f"column 'ts', {place(row)}: the time is {abs(since_1970[row] / per_second) / _YEAR_S:,.0f} years from"
            " 1970: was its unit mistaken?"
        )


def _texts(column: pl.Series, place: Place) -> tuple[pl.Series, list[str]]:
    text = column.str.strip_chars()
    text = pl.select(pl.when(text != "").then(text).alias("ts")).to_series()
    numeric = text.str.contains(_NUMBER).fill_null(False)
    notes: list[str] = []
    at = np.full(len(text), np.iinfo(np.int64).min, np.int64)
    if numeric.any():
        rows = numeric.arg_true().to_numpy()
        digits = text.filter(numeric).str.replace(",", ".", literal=True)
        whole = digits.cast(pl.Int64, strict=False)
        values = whole if whole.null_count() == 0 else digits.cast(pl.Float64)
        parsed, notes = _numbers(values, lambda row: place(int(rows[row])))
        at[rows] = parsed.to_physical().to_numpy()
    if not numeric.all():
        times = text.filter(~numeric)
        rows = (~numeric).arg_true().to_numpy()
        parsed, assumed = _iso(times, lambda row: place(int(rows[row])))
        at[rows] = parsed.to_physical().fill_null(np.iinfo(np.int64).min).to_numpy()
        notes += assumed
    out = pl.Series("ts", at).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.select(pl.when(text.is_not_null()).then(out).alias("ts")).to_series(), notes


def _iso(text: pl.Series, place: Place) -> tuple[pl.Series, list[str]]:
    """Texts in ISO 8601, and what was assumed. The usual form is read by polars, others one by one.

    Raises:
        ColumnError: a text is no time.
    """
    zoned = text.str.replace("Z$", "+00:00")
    named = zoned.str.contains(r"[+-]\d{2}:?\d{2}$")
    usual = zoned.str.replace(" ", "T", literal=True)
    usual = pl.select(pl.when(named).then(usual).otherwise(usual + "+00:00")).to_series()
    usual = usual.str.to_datetime(_ISO, time_unit="us", strict=False)
    leap = text.str.contains(_LEAP) & usual.is_not_null()
    past_midnight = usual.to_physical() % (DAY_S * 1_000_000) < 1_000_000
    real = (
        past_midnight & (usual.dt.day() == 1) & usual.dt.month().is_in([1, 7])
    )  # where they have been so far
    in_years = usual.to_physical().is_between(*epoch.YEARS_US)
    usual = pl.select(pl.when(in_years & (~leap | real)).then(usual)).to_series()
    assumed = [_LEAP_READ] if (leap & real).any() else []
    left = usual.is_null() & text.is_not_null()
    zoneless = not named.filter(~left & text.is_not_null()).all()
    if not left.any():
        return usual, [*assumed, *([_WITHOUT_ZONE] if zoneless else [])]
    other: dict[str, datetime | None] = {}
    for written in text.filter(left).unique(maintain_order=True):
        time = _one(written)
        if time is None:
            row = int((text == written).arg_max() or 0)
            raise ColumnError(f"column 'ts', {place(row)}: {written!r} is no time: {WANTED}")
        zoneless |= time.tzinfo is None
        other[written] = time if time.tzinfo else time.replace(tzinfo=UTC)
    rarer = text.replace_strict(list(other), list(other.values()), default=None, return_dtype=TS)
    assumed += [_WITHOUT_ZONE] if zoneless else []
    return pl.select(pl.coalesce(usual.cast(TS), rarer)).to_series(), assumed


def _one(text: str) -> datetime | None:
    """A time in a rarer form: date alone, no seconds, basic format, short offset, comma, week date, "UTC" behind it."""
    text = re.sub(r"\s*(UTC|GMT|Z)$", "+00:00", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+([+-]\d{2}:?(\d{2})?)$", r"\1", text)
    text = re.sub(r"^(\d{4})/(\d{2})/(\d{2})", r"\1-\2-\3", text)
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _numbers(column: pl.Series, place: Place) -> tuple[pl.Series, list[str]]:
    whole = column.dtype.is_integer() or column.dtype == pl.Null
    given = column if whole else column.cast(pl.Float64)
    if not whole:
        given = pl.select(pl.when(given.is_finite()).then(given)).to_series()
    known = given.drop_nulls()
    if known.is_empty():
        return pl.Series("ts", [None] * len(column), TS), []
    values = (known.cast(pl.Int64, strict=False).fill_null(0) if whole else known).to_numpy()
    units = epoch.units_of(values)
    if (dates := _digits(given)) is not None:
        return dates
    if 2 * (units < 0).sum() >= len(units):
        row = int(given.is_not_null().arg_max() or 0)
        raise ColumnError(
            f"column 'ts', {place(row)}: {given[row]!r} is no time from 1990 to 2100 in seconds, milliseconds,"
            f" microseconds or nanoseconds since 1970: {WANTED}; times that count from a trace's own start need a date"
        )
    kinds = tuple(epoch.PER_SECOND)
    usual = int(np.bincount(units[units >= 0]).argmax())
    us = epoch.microseconds(values, np.where(units < 0, usual, units))
    out = pl.Series("ts", us).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    at = pl.Series(np.cumsum(given.is_not_null().to_numpy()) - 1)
    times = pl.select(pl.when(given.is_not_null()).then(out.gather(at.clip(0))).alias("ts")).to_series()
    counted = [f"{kinds[unit]} ({int((units == unit).sum()):,})" for unit in np.unique(units[units >= 0])]
    units_read = kinds[usual] if len(counted) == 1 else " and ".join(counted)
    return times, [f"ts is read as {units_read} since 1970, by its magnitude"]


def _digits(given: pl.Series) -> tuple[pl.Series, list[str]] | None:
    """Dates written as digits, as 20260131, and what was assumed; None: they are not."""
    text = given.cast(pl.Int64, strict=False).cast(pl.String)
    lengths = text.str.len_chars().drop_nulls().unique().to_list()
    if len(lengths) != 1 or lengths[0] not in _DIGITS or text.null_count() != given.null_count():
        return None
    form = _DIGITS[lengths[0]]
    minutes = text + "00" if lengths[0] == 10 else text
    times = pl.select(
        text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
        if lengths[0] == 8
        else minutes.str.to_datetime(form + "%M" * (lengths[0] == 10), time_unit="us", strict=False)
    ).to_series()
    if times.null_count() != given.null_count() or not times.dt.year().is_between(1990, 2099).all():
        return None
    shown = form.replace("%Y", "YYYY").replace("%m", "MM").replace("%d", "DD").replace("%H", "hh")
    shown = shown.replace("%M", "mm").replace("%S", "ss")
    return times.dt.replace_time_zone("UTC").alias("ts"), [f"ts is read as {shown} in UTC, by its digits"]
