"""The formatter and the parser: each case beside its text."""

import math
from decimal import Decimal

import pytest

from pipeline import format as fmt
from pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"),
        (0.99999, "99.99 %"),
        (0.99417, "99.42 %"),
        (0.0, "0.00 %"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_a_share_that_is_not_whole_is_not_rounded_to_100(share: float | None, text: str) -> None:
    assert fmt.percent(share) == text


def test_levels_have_no_trailing_zeros() -> None:
    levels = [0.0, 1e-9, 0.95, 0.999, 0.9999999, 1.0]
    assert [fmt.level(x) for x in levels] == ["0 %", "0.01 %", "95 %", "99.9 %", "99.99 %", "100 %"]


def test_money_and_prices() -> None:
    assert [fmt.money(x, "USD") for x in (0.0, 0.01234, 1234.5)] == ["$0.00", "$0.0123", "$1,234.50"]
    assert [fmt.money(x, "EUR") for x in (2.0, None, math.nan)] == ["2.00 EUR", "–", "–"]
    assert fmt.price(Decimal("1234.04161"), "USD") == "USD 1,234.0416"


def test_numbers() -> None:
    assert [fmt.number(x) for x in (12345.6, 12.345, 3.0, math.inf)] == ["12,346", "12.3", "3", "–"]


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.0, "memory", "0 B"),
        (1536.0, "disk", "1.5 KiB/s"),
        (2.0**60, "memory", "1,048,576 TiB"),
        (12345.6, "requests", "12,346 1/s"),
        (3.14159, "cpu", "3.142 cores"),
        (2.0, "tokens", "2"),
        (math.inf, "cpu", "?"),
    ],
)
def test_amounts_have_units(value: float, metric: str, text: str) -> None:
    assert fmt.amount(value, metric) == text


def test_durations() -> None:
    texts = ["50 s", "119 s", "2 min", "2.2 min", "15 min", "2 h", "2.5 h"]
    assert [fmt.duration(s) for s in (50, 119, 120, 130, 900, 7200, 9000)] == texts


def test_times_of_1_700_000_000_seconds() -> None:
    assert fmt.utc(1_700_000_000.5) == "2023-11-14 22:13:20 UTC"
    assert fmt.date_time(1_700_000_000) == "14 Nov 2023 22:13"
    assert fmt.iso(1_700_000_000) == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize(
    "text", ["1700000000", "2023-11-14T22:13:20", "2023-11-14T22:13:20Z", "2023-11-15T00:13:20+02:00"]
)
def test_a_time_is_read_from_iso_or_unix_seconds(text: str) -> None:
    assert fmt.parse_time(text) == 1_700_000_000


@pytest.mark.parametrize("text", ["yesterday", "nan", "inf", "", "2023-13-01", "1_700_000_000", "١٧"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"^'{text}' is not a time: "):
        fmt.parse_time(text)


def test_durations_are_read() -> None:
    assert [fmt.parse_duration(text) for text in ("90s", "30m", "12h", " 8d", "1w")] == [
        90, 30 * 60, 12 * 3600, 8 * 86_400, 7 * 86_400,
    ]  # fmt: skip
    for wrong in ("long", "5", "-1s", "1.5h", ""):
        with pytest.raises(UsageError, match="is not a duration"):
            fmt.parse_duration(wrong)
