from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.errors import UsageError
from pipeline.traces.trace_file import by_interval, read, to_panel

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_S = 1_767_268_800


def rows(**columns: Any) -> dict[str, Any]:
    n = len(next(iter(columns.values())))
    return {
        "ts": [NOON + timedelta(minutes=i) for i in range(n)],
        "app": ["shop"] * n,
        "user": ["ann"] * n,
        **columns,
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to(columns: dict[str, Any], name: str = "trace.parquet") -> Path:
        path = tmp_path / name
        frame = pl.DataFrame(columns)
        if path.suffix == ".csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path)
        return path

    return to


def text(tmp_path: Path, content: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(content)
    return path


@pytest.mark.parametrize("name", ["trace.parquet", "trace.csv"])
def test_reads_both_forms_sorted_with_counts_of_what_it_left_out(write: Any, name: str) -> None:
    columns = rows(cpu=[1.0, None, 3.0, 4.0], colour=["red", None, "blue", None])
    columns["ts"] = columns["ts"][::-1]
    trace = read(write(columns, name))
    assert trace.frame["cpu"].to_list() == [4.0, 3.0, 1.0]
    assert trace.frame["ts"].to_list()[0] == NOON
    assert trace.frame.schema["ts"] == pl.Datetime("us", "UTC")
    assert trace.skipped == {"column colour": 2, "null_rows": 1}
    assert trace.tick_s == 60  # gaps of 1 and 2 minutes: the lower


def test_equal_keys_keep_the_files_order(write: Any) -> None:
    columns = rows(cpu=[3.0, 1.0, 2.0])
    columns["ts"] = [NOON] * 3
    assert read(write(columns)).frame["cpu"].to_list() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "ts",
    [
        "2026-01-01T12:00:00Z",
        "2026-01-01T14:00:00+02:00",
        "2026-01-01T12:00:00",
        "2026-01-01 07:00:00.000-0500",
    ],
)
def test_times_of_any_zone_become_utc_and_naive_ones_are_utc(tmp_path: Path, ts: str) -> None:
    trace = read(text(tmp_path, f"ts,app,user,cpu\n{ts},a,u,1\n2026-01-01T13:00:00Z,a,u,2\n"))
    assert trace.frame["ts"].to_list() == [NOON, NOON + timedelta(hours=1)]


def test_zoned_parquet_is_converted(write: Any) -> None:
    columns = rows(cpu=[1.0])
    columns["ts"] = pl.Series([NOON]).dt.convert_time_zone("America/New_York")
    assert read(write(columns)).frame["ts"].to_list() == [NOON]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("app,user,cpu\na,u,1\n", "no column 'ts'"),
        ("ts,user,cpu\n2026-01-01T12:00:00Z,u,1\n", "no column 'app'"),
        ("ts,app,user,cpu\n", "no rows"),
        ("", "no rows"),
        ("ts,app,user,cpu\nyesterday,a,u,1\n", "column 'ts', line 2: 'yesterday' is no time: give ISO"),
        ("ts,app,user,cpu\n2026-01-01T12:00:00Z,a,u,lots\n", "column 'cpu', line 2: 'lots' is no number"),
        ("ts,app,user,cpu\n17,a,u,1\n", "line 2: 17 is no time from 1990 to 2100"),
        ("ts,app,user,colour\n2026-01-01T12:00:00Z,a,u,red\n", "no metric or events column"),
        ("ts,app,user,cpu,memory\n2026-01-01T12:00:00Z,a,u,,\n", "no rows with a value"),
    ],
)
def test_says_in_one_line_why_a_file_is_no_trace(tmp_path: Path, content: str, says: str) -> None:
    path = text(tmp_path, content)
    with pytest.raises(UsageError, match=says) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "none.parquet")
    with pytest.raises(UsageError, match=r"\.parquet or \.csv"):
        read(text(tmp_path, "x", "trace.json"))
    with pytest.raises(UsageError, match="cannot be read"):
        read(text(tmp_path, "not parquet", "trace.parquet"))


def test_panel_of_ticks_users_and_metrics(write: Any) -> None:
    columns = rows(
        cpu=[1.0, 3.0, 0.98, None],
        disk=[None, 5.0, 6.0, None],
        **{
            "limit.cpu": [4.0, 4.0, 1.0, 1.0],
            "events.API_CALL": [0.5, None, 0.1, None],
            "events.CLICK": [1.0, 1.0, 1.0, 1.0],
            "events.SWIPE": [2.0, None, 2.0, None],
        },
    )
    minutes = (0, 1, 2, 9)  # ticks of two minutes: 0, 0, 1, 4
    columns["ts"] = [NOON + timedelta(minutes=m) for m in minutes]
    panel = to_panel(read(write(columns)), tick_s=120)
    assert (panel.ticks * 120).tolist() == [NOON_S + 120 * i for i in range(5)]
    assert (panel.apps, panel.users) == (["shop"], ["ann"])
    nan = np.nan
    np.testing.assert_allclose(panel.values[:, 0, 0], [2, 0.98, nan, nan, nan])  # cpu: mean of 1 and 3
    np.testing.assert_allclose(panel.values[:, 0, 3], [5, 6, nan, nan, nan])  # disk
    assert np.isnan(panel.values[:, 0, [1, 2, 4]]).all()
    np.testing.assert_allclose(panel.events[:, 0, 0], [0.5, 0.1, nan, nan, nan])
    np.testing.assert_allclose(panel.events[:, 0, 3], [3, 3, nan, nan, 1])  # CLICK + SWIPE are OTHER
    assert np.argwhere(panel.saturated).tolist() == [[1, 0, 0]]  # 0.98 of 1 core


def test_a_tick_is_half_open(write: Any) -> None:
    columns = rows(cpu=[1.0, 2.0, 3.0])
    columns["ts"] = [NOON, NOON + timedelta(seconds=59, microseconds=999_999), NOON + timedelta(seconds=60)]
    assert to_panel(read(write(columns)), tick_s=60).values[:, 0, 0].tolist() == [1.5, 3.0]
    with pytest.raises(UsageError, match="must be 1 s to 1 day"):
        to_panel(read(write(columns)), tick_s=0)


def test_users_of_different_intervals_are_parted(write: Any) -> None:
    ts = [NOON + timedelta(minutes=m) for m in (0, 1, 2, 0, 60, 120, 0)]
    columns = {"ts": ts, "app": ["a"] * 7, "user": list("uuuvvvw"), "requests": [1.0] * 7}
    trace = read(write(columns))
    parts = by_interval(trace)
    assert trace.tick_s == 60
    assert [(part.tick_s, part.frame["user"].unique().sort().to_list()) for part in parts] == [
        (60, ["u", "w"]),
        (3600, ["v"]),
    ]
