"""The one formatter of shares, money, amounts, durations and times; the one parser of numbers, times and durations."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from models.metrics import METRIC_UNITS, METRICS
from pipeline.errors import UsageError

MISSING: Final = "–"
"""Stands for a figure that is not known (NaN)."""
NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
"""A decimal number as text: float and Decimal read more, 1_0 as 10 and digits of other scripts."""
DURATION_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def percent(share: float | None) -> str:
    """A measured share to two decimals of a percent: 0.99417 -> `99.42 %`; never rounded up to 100 %.

    None and what is not finite give MISSING.
    """
    if share is None or not math.isfinite(share):
        return MISSING
    return "100 %" if share == 1 else f"{min(share, 0.9999):.2%}".replace("%", " %")


def level(share: float) -> str:
    """A confidence, quantile level or risk, without trailing zeros: 0.999 -> `99.9 %`; never rounded to 0 or 100 %."""
    return f"{100 * share:.4g} %" if share in (0, 1) else f"{min(max(100 * share, 0.01), 99.99):.4g} %"


def money(amount: float | None, currency: str) -> str:
    """A sum of money, to cents, or to four digits below one: `$1,234.50`, `0.0123 EUR`. None and NaN give MISSING."""
    if amount is None or not math.isfinite(amount):
        return MISSING
    figure = f"{amount:,.2f}" if abs(amount) >= 1 or amount == 0 else f"{amount:.4f}"
    return f"${figure}" if currency == "USD" else f"{figure} {currency}"


def price(amount: Decimal, currency: str) -> str:
    """A price per hour to four decimals, which cheap instances need: `USD 0.0416`."""
    return f"{currency} {amount:,.4f}"


def number(value: float) -> str:
    """A number with thousands separated, and to three digits below a hundred. NaN gives MISSING."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def amount(value: float, metric: str, digits: int = 4) -> str:
    """An amount of a metric with its unit: bytes in powers of 1024, others to `digits` digits; `?` if not finite."""
    if not math.isfinite(value):
        return "?"
    unit = METRIC_UNITS[METRICS.index(metric)] if metric in METRICS else ""
    if unit.startswith("bytes"):
        power = min(4, max(0, int(math.log(max(abs(value), 1.0), 1024))))
        value /= 1024**power
        unit = ("B", "KiB", "MiB", "GiB", "TiB")[power] + unit.removeprefix("bytes")
    return f"{f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.{digits}g}'} {unit}".strip()


def duration(seconds: int) -> str:
    """A duration in the largest unit of which it has at least two: `90 s`, `5 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds / 60:g} min" if seconds % 60 == 0 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.3g} h"


def utc(seconds: float) -> str:
    """A time, given in Unix seconds, to the second: `2026-01-31 14:05:00 UTC`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def date_time(seconds: float) -> str:
    """A time, given in Unix seconds, to the minute, for running text: `31 Jan 2026 14:05` (UTC)."""
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %b %Y %H:%M}"


def iso(seconds: float) -> str:
    """A time, given in Unix seconds, in ISO 8601: `2026-01-31T14:05:00+00:00`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def parse_number(text: str) -> float:
    """The number of a text in the form of NUMBER.

    Raises:
        ValueError: the text has another form.
    """
    if NUMBER.fullmatch(text) is None:
        raise ValueError(f"not a number: {text!r}")
    return float(text)


def parse_time(text: str) -> float:
    """Unix seconds of a time in ISO 8601 (UTC where it names no zone), or of a number that already is Unix seconds.

    Raises:
        UsageError: the text is neither.
    """
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        pass
    try:
        seconds = parse_number(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UsageError(f"{text!r} is not a time: give it as 2026-01-31T14:05:00Z or as Unix seconds")
    return seconds


def parse_duration(text: str) -> int:
    """Seconds of a duration such as 90s, 30m, 12h, 8d or 1w.

    Raises:
        UsageError: the text is no such duration.
    """
    match = re.fullmatch(r"(\d+)([smhdw])", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is not a duration: give it as 90s, 30m, 12h, 8d or 1w")
    return int(match[1]) * DURATION_UNITS_S[match[2]]
