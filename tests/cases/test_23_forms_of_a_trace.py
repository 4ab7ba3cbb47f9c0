"""Traces come in all usual forms of text tables and times; what was assumed is said, what is far off is named."""

import re
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import counters, time_span
from pipeline.errors import UsageError
from pipeline.traces import default_trace
from pipeline.traces.trace_file import Trace, of_frame, read, to_panel
from pipeline.traces.window import TickWindow

NINE = datetime(2024, 5, 6, 9, tzinfo=UTC)
NINE_S = int(NINE.timestamp())


def trace_of(tmp_path: Path, content: str | bytes) -> Trace:
    path = tmp_path / "trace.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read(path)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("2024-05-06 09:00", "times without a zone are taken as UTC"),
        ("2024-05-06T11:00:00+02", ""),
        ("20240506T090000Z", ""),
        ('"2024-05-06T09:00:00,000"', "times without a zone are taken as UTC"),
        ("2024-05-06T09Z", ""),
        ("2024-W19-1T09:00:00Z", ""),
        ("2024-05-06 09:00:00 UTC", ""),
        ("2024/05/06 09:00:00 +0000", ""),
        (f"{NINE_S}", "ts is read as seconds since 1970, by its magnitude"),
        (f"{NINE_S}.000", "ts is read as seconds since 1970, by its magnitude"),
        (f"{NINE_S}000", "ts is read as milliseconds since 1970, by its magnitude"),
        (f"{NINE_S}000000", "ts is read as microseconds since 1970, by its magnitude"),
        (f"{NINE_S}000000000", "ts is read as nanoseconds since 1970, by its magnitude"),
        ("20240506090000", "ts is read as YYYYMMDDhhmmss in UTC, by its digits"),
    ],
)
def test_times_in_usual_forms(text: str, note: str, tmp_path: Path) -> None:
    trace = trace_of(tmp_path, f"ts,app,user,cpu\n{text},a,u,1\n")
    assert trace.frame["ts"].to_list() == [NINE]
    assert trace.notes == ((note,) if note else ())


def test_dates_alone_are_midnights_in_utc(tmp_path: Path) -> None:
    for text in ("2024-05-06", "20240506"):
        trace = trace_of(tmp_path, f"ts,app,user,cpu\n{text},a,u,1\n")
        assert trace.frame["ts"].to_list() == [NINE - timedelta(hours=9)]


@pytest.mark.parametrize("text", ["06.05.2024 09:00", "5/6/2024", "17", "Mon", "9:00", "2024"])
def test_what_is_no_time_is_named_with_its_line_and_what_is_wanted(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 2: .* is no time.*: give ISO 8601, as 2026-01-31T14:05:00Z"):
        trace_of(tmp_path, f"ts,app,user,cpu\n{text},a,u,1\n")


@given(st.integers(700_000_000, 4_000_000_000), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_numbers_are_times_by_their_magnitude(seconds: int, per_second: int) -> None:
    rows = {"ts": [seconds * per_second], "app": ["a"], "user": ["u"], "cpu": [1.0]}
    assert of_frame(pl.DataFrame(rows)).frame["ts"].to_list() == [datetime.fromtimestamp(seconds, UTC)]


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (
            "ts;app;user;cpu\n2024-05-06T09:00:00Z;a;u;0,5\n2024-05-06T09:01:00Z;a;u;2\n",
            ("fields are separated by ';'", "numbers have decimal commas"),
        ),
        (
            "ts\tapp\tuser\tcpu\n2024-05-06T09:00:00Z\ta\tu\t0.5\n2024-05-06T09:01:00Z\ta\tu\t2\n",
            ("fields are separated by tab",),
        ),
        (
            "# by hand\n\nts,app,user,cpu\n#2024,a,u,9\n2024-05-06T09:00:00Z,a,u,0.5\n2024-05-06T09:01:00Z,a,u,2\n",
            (),
        ),
        (
            "\ufeffsep=;\r\nts;app;user;cpu\r\n2024-05-06T09:00:00Z;a;u;0.5\r\n2024-05-06T09:01:00Z;a;u;2\r\n",
            ("fields are separated by ';'",),
        ),
        (
            'ts, app, user, cpu\n2024-05-06T09:00:00Z,a,u,"0,5"\n2024-05-06T09:01:00Z,a,u,2\n',
            ("numbers have decimal commas",),
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_separators_commas_comments_and_marks(
    content: str, notes: tuple[str, ...], encoding: str, tmp_path: Path
) -> None:
    trace = trace_of(tmp_path, content.encode(encoding))
    assert (trace.frame["cpu"].to_list(), trace.notes) == ([0.5, 2.0], notes)
    assert trace.frame["user"].to_list() == ["u", "u"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            "ts,app,user,cpu\n2024-05-06T09:00:00Z,a,u,1\n2024-05-06T09:01:00Z,a,u,0,5\n",
            "line 3 has 5 fields, .* ';'",
        ),
        ("ts;app;user;cpu\n2024-05-06T09:00:00Z;a;u;1.234,5\n", r"'cpu', line 2: '1\.234,5' is no number"),
        (
            'ts,app,user,cpu\n2024-05-06T09:00:00Z,a,u,"1,234"\n',
            "may be a number of thousands or a decimal comma",
        ),
        (
            "ts;app;user;cpu;memory\n2024-05-06T09:00:00Z;a;u;0,5;1.234\n",
            "'memory', line 2: '1.234' has a decimal point, and column 'cpu' decimal commas",
        ),
        (
            "ts\tapp\tuser\trequests\n2024-05-06T09:00:00Z\ta\tu\t1,234\n2024-05-06T09:01:00Z\ta\tu\t987\n",
            "'requests', line 2: '1,234' may be a number of thousands or a decimal comma",
        ),
        ("ts,app,user,user,cpu\n2024-05-06T09:00:00Z,a,u,v,1\n", "column 'user' is there 2 times"),
        ("ts,app,user,cpu, cpu\n2024-05-06T09:00:00Z,a,u,1,2\n", "column 'cpu' is there 2 times"),
        (b"ts,app,user,cpu\n2024-05-06T09:00:00Z,a,\xfc,1\n", "line 2 is not in UTF-8 .byte 0xfc.: save"),
    ],
)
def test_a_table_that_cannot_be_read_says_where_and_why(
    content: str | bytes, why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why):
        trace_of(tmp_path, content)


@pytest.mark.parametrize(
    ("column", "note"),
    [
        ("Memory", "column 'Memory' is not used: if it holds bytes, give it the name 'memory'"),
        ("memory (GB)", "column 'memory (GB)' is not used: if it holds bytes, give it the name 'memory'"),
        ("limit.CPU", "column 'limit.CPU' is not used: if it holds cores, give it the name 'limit.cpu'"),
        (
            "events.api_call",
            "column 'events.api_call' counts as OTHER: if it holds 1/s, give it the name 'events.API_CALL'",
        ),
    ],
)
def test_a_column_whose_name_is_nearly_known_is_questioned(column: str, note: str) -> None:
    trace = of_frame(minutes(4).with_columns(pl.lit(2.0).alias(column)))
    assert trace.notes == (note,)


def test_points_that_may_separate_thousands_are_said(tmp_path: Path) -> None:
    table = "ts;app;user;network;cpu\n2024-05-06T09:00:00Z;a;u;1.234;0.5\n2024-05-06T09:01:00Z;a;u;17.500;1\n"
    trace = trace_of(tmp_path, table)
    assert trace.frame["network"].to_list() == [1.234, 17.5]
    assert trace.notes == (
        "fields are separated by ';'",
        "points of column 'network' are taken for decimal points",
    )


def test_lines_that_end_in_carriage_returns_are_lines(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, "ts,app,user,cpu\r2024-05-06T09:00:00Z,a,u,1\r2024-05-06T09:01:00Z,a,u,2\r")
    assert trace.frame["cpu"].to_list() == [1.0, 2.0]


def test_short_floats_hold_neither_times_nor_large_names() -> None:
    """A float of 32 bits is 128 s wide at a time of today, and 16777217 and 16777216 are the same one."""
    with pytest.raises(UsageError, match="'ts' holds Float32, which rounds seconds since 1970 to minutes"):
        of_frame(minutes(3).with_columns(pl.Series("ts", [NINE_S, NINE_S + 60, NINE_S + 120], pl.Float32)))
    with pytest.raises(UsageError, match=r"'user' holds Float32.* of 16,777,216 or more, are no names"):
        of_frame(minutes(2).with_columns(pl.Series("user", [16777217, 16777216], pl.Float32)))
    small = of_frame(minutes(2).with_columns(pl.Series("user", [7, 16777215], pl.Float32)))
    assert small.frame["user"].to_list() == ["7", "16777215"]


def test_typed_times_without_a_zone_are_taken_as_utc_and_said() -> None:
    trace = of_frame(minutes(3).with_columns(pl.col("ts").dt.replace_time_zone(None)))
    assert (trace.frame["ts"][0], trace.notes) == (NINE, ("times without a zone are taken as UTC",))
    berlin = of_frame(minutes(3).with_columns(pl.col("ts").dt.convert_time_zone("Europe/Berlin")))
    assert (berlin.frame["ts"][0], berlin.notes) == (NINE, ())


def test_typed_times_in_a_zone_without_a_name_are_read(tmp_path: Path) -> None:
    """Pandas writes `+05:30` into the schema of a Parquet file; Polars writes no such zone, so its bytes are edited."""
    path = tmp_path / "t.parquet"
    minutes(3).with_columns(pl.col("ts").dt.convert_time_zone("Poland")).write_parquet(path)
    whole = path.read_bytes()
    (schema,) = re.findall(rb"ARROW:schema[^/]*([A-Za-z0-9+/]{100,}=*)", whole)
    edited = b64encode(b64decode(schema).replace(b"Poland", b"+05:30"))
    assert edited != schema
    path.write_bytes(whole.replace(schema, edited))
    assert read(path).frame["ts"].to_list() == minutes(3)["ts"].to_list()


def minutes(count: int, *more: datetime) -> pl.DataFrame:
    times = [*(NINE + timedelta(minutes=n) for n in range(count)), *more]
    return pl.DataFrame({"ts": times, "app": "shop", "user": "ann", "cpu": 1.0})


@pytest.mark.parametrize("far", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)])
def test_a_row_far_from_all_others_is_named_and_left_out(far: datetime) -> None:
    trace = of_frame(minutes(60, far))
    assert trace.skipped["time-outlier"] == 1
    (note,) = trace.notes
    assert "1 of 61 rows left out" in note
    assert f"shop/ann at {far:%Y-%m-%d}" in note
    assert len(to_panel(trace).ticks) == TickWindow.of(trace, 60).ticks == 60


def test_times_too_far_apart_for_arrays_are_refused_before_any_is_made() -> None:
    trace = of_frame(minutes(30, *(NINE + timedelta(days=9_000, minutes=n) for n in range(30))))
    for make in (lambda: to_panel(trace), lambda: TickWindow.of(trace, 60)):
        with pytest.raises(UsageError, match=r"12,960,030 ticks .* of which 60 have a row: none is between"):
            make()


@given(st.lists(st.integers(0, 86_400_000_000), min_size=5, max_size=50), st.integers(-(2**60), 2**60))
def test_the_bulk_of_a_day_stays_and_what_is_years_away_goes(times: list[int], far: int) -> None:
    within = np.sort(np.array(times, np.int64))
    assert time_span.bulk(within) == (0, len(within))
    if abs(far) > 400 * 86_400_000_000:
        begin, end = time_span.bulk(np.sort(np.append(within, far)))
        assert (begin, end) == ((1, len(within) + 1) if far < 0 else (0, len(within)))


def test_a_column_that_only_rises_is_questioned() -> None:
    rows = minutes(60).with_columns(cpu=pl.int_range(60) * 30.0, requests=pl.int_range(60) % 7 + 1.0)
    (note,) = of_frame(rows).notes
    assert note.startswith(
        "cpu of app shop only rises for 1 of 1 users (ann: 0 to 1,770 in 60 samples): is it"
    )
    restarted = np.concatenate([np.arange(40.0), np.arange(30.0)])
    assert counters.only_rises(restarted)
    assert not counters.only_rises(np.tile([1.0, 2.0, 3.0], 30))
    assert not counters.only_rises(np.ones(100))
    rng = np.random.default_rng(3)
    grows = np.linspace(500, 1100, 4000) + rng.normal(0, 70, 4000)  # a disk whose use doubles in two months
    assert (np.diff([np.median(part) for part in np.array_split(grows, counters.BLOCKS)]) > 0).all()
    assert not counters.only_rises(grows)
    machines = np.cumsum(rng.exponential(1.0, (4000, 50)), axis=0)
    machines[rng.random(machines.shape) < 0.02] = np.nan  # come and go
    assert (np.diff(np.nanmean(machines, axis=1)) < 0).any()
    assert counters.only_rises(np.nanmean(machines, axis=1))


@given(
    st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.0, 5.0, np.nan]) | st.floats(0, 9), min_size=1, max_size=60),
    st.booleans(),
)
def test_a_count_of_rises_and_falls_leaves_no_counter_out(values: list[float], rising: bool) -> None:
    samples = np.cumsum(np.nan_to_num(values)) if rising else np.array(values)
    steps = np.diff(samples[~np.isnan(samples)])
    ups, downs = np.array([(steps > 0).sum()]), np.array([(steps < 0).sum()])
    assert counters.mostly_rises(ups, downs)[0] or not counters.only_rises(samples)
    never_falls = len(steps) + 1 >= counters.LEAST and downs[0] == 0 and 2 * ups[0] > len(steps)
    assert counters.only_rises(samples) or not never_falls


def test_the_demo_shows_no_counter_as_a_rate() -> None:
    trace = default_trace.build()
    assert of_frame(trace.frame).notes == ()
    assert trace.frame.filter(pl.col("app") == "alibaba-2018")["network"].null_count() == default_trace.TICKS


def test_ticks_shorter_than_samples_are_said() -> None:
    days = minutes(0, *(NINE + timedelta(days=n) for n in range(20)))
    trace = of_frame(days)
    window = TickWindow.of(trace, 3600)
    assert window.pauses(trace) == (
        "samples come every 24 h and a tick is 60 min: 437 of 457 ticks have no sample, and plans hold in them"
    )
    assert TickWindow.of(trace, 86_400).pauses(trace) == ""
