"""Apps and users of a trace are texts, as producers send them; known columns are numbers, or refused by name."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.traces import trace_file
from pipeline.traces.trace_file import of_frame, read, to_panel

START = datetime(2024, 5, 6, 9, tzinfo=UTC)
NUMERIC_NAMES = st.text("0123456789.+-eE_ ", min_size=1, max_size=8).filter(str.strip)


def table(names: Sequence[str], ticks: int = 3) -> str:
    lines = [
        f'{START + timedelta(minutes=tick):%Y-%m-%dT%H:%M:%SZ},shop,"{name}",{number + 1}.0'
        for tick in range(ticks)
        for number, name in enumerate(names)
    ]
    return "\n".join(["ts,app,user,cpu", *lines]) + "\n"


def test_leading_zeros_and_exponents_stay(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(table(["007", "7", "1e5", "100000", "7.0", "NaN"]))
    panel = to_panel(read(path))
    assert dict(zip(panel.users, panel.values[0, :, 0].tolist(), strict=True)) == {
        "007": 1.0,
        "7": 2.0,
        "1e5": 3.0,
        "100000": 4.0,
        "7.0": 5.0,
        "NaN": 6.0,
    }


@given(st.lists(NUMERIC_NAMES, min_size=1, max_size=6, unique=True))
def test_names_that_look_like_numbers_stay_apart(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ids.csv"
        path.write_text(table(names))
        assert sorted(to_panel(read(path)).users) == sorted(names)


def of_column(column: str, values: Any, dtype: Any = None) -> trace_file.Trace:
    series = pl.Series(column, values, dtype)
    rows: dict[str, Any] = {
        "ts": [START + timedelta(minutes=n) for n in range(len(series))],
        "app": "shop",
        "user": "ann",
        "cpu": 1.0,
    }
    return of_frame(pl.DataFrame(rows).with_columns(series))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([7, 8], pl.Int64),
        ([7, 8], pl.UInt8),
        ([7.0, 8.0], pl.Float64),  # as pandas writes whole numbers of which some are missing
        ([b"7", b"8"], pl.Binary),
        (["7", "8"], pl.Categorical),
    ],
)
def test_whole_numbers_are_the_texts_that_producers_send(values: list[Any], dtype: Any) -> None:
    assert of_column("user", values, dtype).frame["user"].to_list() == ["7", "8"]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([7.5, 8.0], pl.Float64),
        ([2.0**60, 8.0], pl.Float64),
        ([True, False], pl.Boolean),
        ([b"\xff\xfe", b"8"], pl.Binary),
        ([START, START], pl.Datetime("us", "UTC")),
    ],
)
def test_what_is_no_name_is_refused_by_name(values: list[Any], dtype: Any) -> None:
    with pytest.raises(UsageError, match=r"column 'user' holds .*, not names: give texts"):
        of_column("user", values, dtype)


@pytest.mark.parametrize(
    ("values", "dtype", "holds"),
    [
        ([timedelta(seconds=1)] * 2, pl.Duration("us"), "Duration"),
        ([True, False], pl.Boolean, "Boolean"),
        ([START, START], pl.Datetime("us", "UTC"), "Datetime"),
        ([[1.0], [2.0]], pl.List(pl.Float64), "List"),
    ],
)
@pytest.mark.parametrize("column", ["cpu", "limit.cpu"])
def test_what_is_no_number_is_refused_by_name(column: str, values: list[Any], dtype: Any, holds: str) -> None:
    with pytest.raises(UsageError, match=rf"column '{column}' holds {holds}.*, not numbers: give cores"):
        of_column(column, values, dtype)


def test_numeric_texts_are_read_or_refused_with_their_row() -> None:
    assert of_column("cpu", ["1.5", " 2e-1 ", "", "NA"]).frame["cpu"].to_list() == [1.5, 0.2]
    with pytest.raises(UsageError, match="column 'cpu', row 2: '250m' is no number: give cores"):
        of_column("cpu", ["1.5", "250m"])
