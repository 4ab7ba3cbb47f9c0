"""What of a trace may be meant in two ways, or was cut off, is refused or said: fields, commas, times, pauses."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.traces.trace_file import Trace, of_frame, read, slower_apps, to_panel
from pipeline.training.evaluation import EvaluationRequest, prepare

NINE = datetime(2024, 5, 6, 9, tzinfo=UTC)


def trace_of(tmp_path: Path, content: str | bytes) -> Trace:
    path = tmp_path / "trace.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read(path)


def samples(ts: Sequence[Any] | pl.Series) -> pl.DataFrame:
    times = pl.Series("ts", ts)
    return pl.DataFrame([times, pl.repeat("a", len(times), eager=True).alias("app")]).with_columns(
        user=pl.lit("u"), cpu=pl.int_range(pl.len()) % 3 + 1.0
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("ts,app,user,cpu\n2024-05-06T09:00:00Z,a,u,1\n2024-05-06T09:01:00Z,a,u\n", "line 3 has 3 .* cpu missing"),
        (
            "ts,app,user,cpu,memory\n2024-05-06T09:00:00Z,a,u,1,2\n\n2024-05-06T09:01:00Z,a,u,1\n",
            "line 4 has 4 fields, and the header 5: memory missing",
        ),
        ('ts,app,user,cpu\n2024-05-06T09:00:00Z,"a,b",u,1\n2024-05-06T09:0', "line 3 has 1 .* app, user, cpu missing"),
        (
            '# by hand\nts,app,user,cpu\n2024-05-06T09:00:00Z,a,u,1\n# more\n2024-05-06T09:01:00Z,"a,u,1\n',
            "line 5 has a quote that is not closed",
        ),
        (
            "ts,app,user,cpu\n2024-05-06T09:00:00Z,a,u,1\r2024-05-06T09:01:00Z,a,u,1\n",
            "line 2 ends in a carriage return",
        ),
        ("ts,app,user,cpu\n".encode("utf-16-le"), "its first line has NUL bytes: save it as UTF-8"),
        ("ts;app;user;cpu\n2024-05-06T09:00:00Z;a;u;1,234\n", "'1,234' may be a number of thousands or a decimal"),
        (
            "ts;app;user;cpu;memory\n2024-05-06T09:00:00Z;a;u;1,500;2,000\n2024-05-06T09:01:00Z;a;u;2;987\n",
            "'cpu', line 2: '1,500' may be a number of thousands or a decimal comma",
        ),
    ],
)  # fmt: skip
def test_what_is_cut_off_or_ambiguous_is_refused_with_its_line(
    content: str | bytes, why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why):
        trace_of(tmp_path, content)


def test_what_is_no_file_that_can_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.csv").symlink_to("/proc/self/mem")
    (tmp_path / "folder.parquet").mkdir()
    for name, why in (
        ("broken.csv", "cannot be read: Input/output error"),
        ("folder.parquet", "is a folder: give a"),
    ):
        with pytest.raises(UsageError, match=f"{name}: {why}"):
            read(tmp_path / name)


@pytest.mark.parametrize("tick_s", [0, -5, 86_401, 10**20])
def test_a_tick_is_a_second_to_a_day(tick_s: int) -> None:
    with pytest.raises(UsageError, match=rf"a tick must be 1 s to 1 day \(86400 s\), got {tick_s}"):
        to_panel(of_frame(samples([NINE])), tick_s)


def test_an_app_with_fewer_samples_than_ticks_is_said() -> None:
    """The trace's tick is the median interval of its users: of apps that are slower most ticks have no sample."""
    fast = samples([NINE + timedelta(minutes=minute) for minute in range(90)])
    slow = fast.with_columns(app=pl.lit("slow")).gather_every(15)
    more = [fast.with_columns(user=pl.lit(user)) for user in ("v", "w")]
    prepared = prepare(EvaluationRequest(pl.concat([fast, *more, slow, fast.head(5)])))
    assert prepared.notes == (
        "samples of app slow come every 15 min and a tick is 60 s: ticks in between have none of it",
    )
    assert prepared.skipped == {"null_rows": 0, "duplicates": 5}
    assert slower_apps(of_frame(fast), 7) == [
        "samples of app a come every 60 s and a tick is 7 s: ticks in between have none of it"
    ]
    assert slower_apps(of_frame(fast), 60) == slower_apps(of_frame(fast), 300) == []


def test_empty_fields_are_there(tmp_path: Path) -> None:
    for last in ("", "\n2024-05-06T09:01:00Z,a,u,2,\n\n   \n"):
        trace = trace_of(tmp_path, f"ts,app,user,cpu,memory\n2024-05-06T09:00:00Z,a,u,1,{last}")
        assert trace.frame["memory"].null_count() == trace.frame.height


def test_commas_are_decimal_where_another_column_shows_it_and_that_is_said(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, "ts;app;user;cpu;memory\n2024-05-06T09:00:00Z;a;u;0,5;1,234\n")
    assert trace.frame.row(0)[3:] == (0.5, 1.234)
    assert "commas of column 'memory' are taken for decimal commas" in trace.notes


def test_a_leap_second_is_the_second_after_it(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path, "ts,app,user,cpu\n2016-12-31T23:59:60Z,a,u,1\n2017-01-01T01:00:05+01:00,a,u,2\n"
    )
    assert trace.frame["ts"].to_list() == [datetime(2017, 1, 1, 0, 0, s, tzinfo=UTC) for s in (0, 5)]
    assert trace.notes == ("leap seconds (23:59:60) are read as the second after them",)


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-06T09:00:60Z",
        "2016-12-31T23:59:60+01:00",
        "2024-02-29T23:59:60Z",
        "0000-01-01T09:00:00Z",
        "0001-01-01T00:00:00+05:00",
        "0001-01-01 00:00+05:00",
        "+10000-01-01T00:00:00Z",
        "-2024-05-06T09:00:00Z",
    ],
)
def test_what_no_calendar_has_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"row 1: .* is no time: give ISO 8601"):
        of_frame(samples([text]))


@pytest.mark.parametrize(
    ("ts", "dtype"),
    [
        (2**62, pl.Datetime("ms")),
        (2**62, pl.Datetime("us")),
        (-(2**62), pl.Datetime("us", "UTC")),
        (2**30, pl.Date()),
    ],
)
def test_typed_times_beyond_all_calendars_are_refused(ts: int, dtype: pl.DataType) -> None:
    column = pl.Series("ts", [ts], pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype)
    with pytest.raises(UsageError, match=r"column 'ts', row 1: the time is [\d,]+ years from 1970"):
        of_frame(samples(column))


def test_times_of_no_telemetry_are_refused_or_said() -> None:
    for year in (1, 1600, 2100, 9999):
        with pytest.raises(UsageError, match="1900 to 2100 are wanted: was their unit mistaken"):
            of_frame(samples([datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)]))
    seconds = pl.Series([int(NINE.timestamp()) * 1000 + n for n in range(3)]).cast(pl.Datetime("us", "UTC"))
    (note,) = of_frame(samples(seconds)).notes  # milliseconds that were written as microseconds
    assert (
        note == "times are from 1970-01-20 20:23:06 UTC to 1970-01-20 20:23:06 UTC: was their unit mistaken?"
    )


def test_times_that_are_not_finite_are_absent() -> None:
    trace = of_frame(samples([float("inf"), NINE.timestamp(), float("-inf"), float("nan")]))
    assert trace.frame["ts"].to_list() == [NINE]
    assert trace.skipped == {"null_rows": 3}


@given(st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 30)), st.integers(1, 9))
def test_ten_digits_of_a_date_are_no_seconds(first: datetime, hours: int) -> None:
    begin = first.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
    times = [begin + timedelta(hours=hour) for hour in range(hours)]
    trace = of_frame(samples([int(f"{time:%Y%m%d%H}") for time in times]))
    assert trace.frame["ts"].to_list() == times
    assert "ts is read as YYYYMMDDhh in UTC, by its digits" in trace.notes


def test_seconds_of_ten_digits_stay_seconds() -> None:
    trace = of_frame(samples([2024050609, 2024050661]))
    assert trace.frame["ts"][0] == datetime.fromtimestamp(2024050609, UTC)
    assert trace.notes == ("ts is read as seconds since 1970, by its magnitude",)


def test_a_pause_of_the_whole_trace_is_said() -> None:
    days = [NINE + timedelta(days=day, minutes=minute) for day in (0, 10, 410) for minute in range(9)]
    (note,) = of_frame(samples(days)).notes
    assert note == (
        "no row is between 2024-05-16 09:08:00 UTC and 2025-06-20 09:00:00 UTC (400 days, the widest of 2 gaps)"
    )
    nights = [NINE + timedelta(days=day, minutes=minute) for day in range(3) for minute in range(9)]
    assert of_frame(samples(nights)).notes == ()
    assert of_frame(samples([NINE + timedelta(days=day) for day in (0, 1, 2, 5, 6)])).notes == ()


@given(st.lists(st.integers(-(10**30), 10**30), min_size=1, max_size=5), st.integers(0, 3))
def test_whole_decimals_are_names_and_others_are_not(numbers: list[int], scale: int) -> None:
    given = samples([NINE + timedelta(minutes=n) for n in range(len(numbers))])
    exact = pl.Series("user", [Decimal(number) for number in numbers], pl.Decimal(38, scale))
    assert of_frame(given.with_columns(exact)).frame["user"].to_list() == [str(number) for number in numbers]
    if scale:
        with pytest.raises(UsageError, match=r"'user' holds Decimal.* numbers with a fraction are no names"):
            of_frame(given.with_columns(user=pl.lit(Decimal("7.5")).cast(pl.Decimal(38, scale))))


def test_rows_of_one_time_and_user_that_differ_are_questioned() -> None:
    at = [NINE, NINE + timedelta(minutes=1)]
    same, differ = samples([*at, *at]).with_columns(cpu=1.0), samples([*at, *at])
    assert of_frame(same).notes == ()
    note = (
        "2 rows differ from another of the same time, app and user, as those of a/u at 2024-05-06 09:00:00 UTC:"
        " their mean is used; where they are parts of one user, as containers of a pod, give their sum"
    )
    assert of_frame(pl.concat([differ, differ])).notes == (note,)
    assert to_panel(of_frame(differ)).values[:, 0, 0].tolist() == [2.0, 1.5]


def test_names_with_spaces_around_them_are_said(tmp_path: Path) -> None:
    """The header's spaces are none of its names, an app's are: of a policy of `shop` such an app has nothing."""
    spaced = trace_of(
        tmp_path, "ts, app, user, cpu\n2024-05-06T09:00:00Z, shop, ann, 1\n2024-05-06T09:01:00Z,shop,bob, 1\n"
    )
    assert spaced.frame["app"].to_list() == [" shop", "shop"]
    assert spaced.notes == (
        "column 'app': 1 of 2 names begin or end with white space, as ' shop': it is part of the name",
        "column 'user': 1 of 2 names begin or end with white space, as ' ann': it is part of the name",
    )
    assert of_frame(samples([NINE]).with_columns(user=pl.lit("a b"))).notes == ()


def test_rows_that_give_a_metric_each_do_not_differ() -> None:
    whole = samples([NINE, NINE + timedelta(minutes=1)]).with_columns(memory=pl.lit(4e9))
    nothing = pl.lit(None, pl.Float64)
    parts = of_frame(pl.concat([whole.with_columns(memory=nothing), whole.with_columns(cpu=nothing)]))
    assert parts.notes == ()
    assert to_panel(parts).values[:, 0, :2].tolist() == [[1.0, 4e9], [2.0, 4e9]]


@pytest.mark.parametrize(
    ("metric", "value", "note"),
    [
        (
            "memory",
            4.0,
            "memory of app a is 4 for a user at most: is it in MiB, GiB or per cent? bytes are wanted",
        ),
        ("memory", 2.0**32, ""),
        ("memory", 0.0, ""),
        ("cpu", 97.5, "cpu of app a is 97.5 for a user at most: is it in per cent? cores are wanted"),
        ("cpu", 31.0, ""),
        ("cpu", 768.0, ""),
        ("network", 3.0, ""),
    ],
)
def test_unusual_magnitudes_are_questioned(metric: str, value: float, note: str) -> None:
    rows = samples([NINE + timedelta(minutes=n) for n in range(3)]).drop("cpu")
    assert of_frame(rows.with_columns(pl.lit(value).alias(metric))).notes == ((note,) if note else ())


def test_magnitudes_are_questioned_by_app() -> None:
    rows = samples([NINE + timedelta(minutes=n) for n in range(3)]).with_columns(memory=pl.lit(4.0))
    others = [rows.with_columns(app=pl.lit(app), memory=pl.lit(of)) for app, of in (("b", 6.0), ("c", 2e9))]
    (note,) = of_frame(pl.concat([rows, *others])).notes
    assert note.startswith("memory of app a is 4 for a user at most, and about as much of 1 other app: ")


def test_times_counted_from_1900_are_questioned() -> None:
    ntp = 2_208_988_800 + 1_715_000_000
    (magnitude, note) = of_frame(samples([ntp, ntp + 60])).notes
    assert magnitude == "ts is read as seconds since 1970, by its magnitude"
    assert note.endswith("was their unit mistaken?")
    assert "2094" in note


@pytest.mark.parametrize("together", [2, 4, 9])
def test_samples_that_come_together_are_no_tick_of_a_second(together: int) -> None:
    """A user's containers report a second after each other, once a minute."""
    at = [NINE + timedelta(minutes=n, seconds=second) for n in range(30) for second in range(together)]
    (note,) = of_frame(samples(at)).notes
    assert note.startswith(
        "the tick, the median interval of samples, is 1 s, and a tenth of the intervals of 1 users"
    )
    assert note.endswith(f"(a/u: {61 - together} s): most ticks have no sample; give a longer --tick")
    even = [NINE + timedelta(minutes=minute + 20 * (minute > 15)) for minute in range(30)]
    assert of_frame(samples(even)).notes == ()


def test_a_quote_inside_a_field_is_named_with_its_line(tmp_path: Path) -> None:
    rows = "".join(f'2024-05-06T09:{minute:02d}:00Z,a"b,u,1\n' for minute in range(20))
    with pytest.raises(
        UsageError, match="line 2 has a quote inside a field: quote the whole field, and write two"
    ):
        trace_of(tmp_path, f"ts,app,user,cpu\n{rows}")
