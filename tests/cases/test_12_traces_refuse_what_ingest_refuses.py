"""What ingest refuses of a record, all readers of traces refuse, by the same reason."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.telemetry_rules import MAX_ID_BYTES, MOST
from pipeline.backtest import demand, setup
from pipeline.errors import UsageError
from pipeline.security.pseudonyms import KeyRing
from pipeline.settings import Settings
from pipeline.sources.replay import records
from pipeline.stages.ingest.service import Partition
from pipeline.traces.trace_file import Trace, by_interval, of_frame, refused_by_app, to_panel
from pipeline.traces.window import TickWindow
from pipeline.training.evaluation import EvaluationRequest, prepare
from pipeline.wire.codec import DEFAULT
from tests.unit.pipeline.messages import FakeMessage

START = datetime(2024, 5, 6, 9, tzinfo=UTC)
BAD = {
    "negative": -5000.0,
    "infinite": math.inf,
    "nan": math.nan,
    "absurd": 2 * MOST["cpu"],
}
USAGE = st.sampled_from([0.0, 1.0, -0.0, -1e-9, math.nan, math.inf, -math.inf, 1e5, 1.01e5, 1e300, None])
RATE = st.sampled_from([0.0, None, 1.0, -1.0, math.nan, math.inf, 1e8])
NAME = st.sampled_from(["ann", "bob", "", None, "é" * (MAX_ID_BYTES // 2), "é" * (MAX_ID_BYTES // 2) + "x"])


def demand_of(bad: float | None, ticks: int = 120, users: int = 3) -> pl.DataFrame:
    """Samples of a minute each; of every thirty one is bad."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "ts": START + timedelta(minutes=tick),
            "app": "shop",
            "user": f"u{user}",
            "cpu": 0.8 + 0.2 * np.sin(tick / 5) + 0.05 * rng.standard_normal(),
            "memory": 1e9 * (1 + 0.1 * rng.random()),
        }
        for tick in range(ticks)
        for user in range(users)
    ]
    if bad is not None:
        for row in rows[::30]:
            row["cpu"] = bad
    return pl.DataFrame(rows)


def ingested(trace: Trace) -> list[dict[str, Any]]:
    """Dead letters of a replay of the trace."""
    settings = Settings(partitions=1, demo_keys=True, tick_s=trace.tick_s)
    ingest = Partition(0, settings, DEFAULT, KeyRing.of(settings))
    low_us = int(START.timestamp()) * 1_000_000
    rows = trace.replayed(low_us, low_us + 86_400_000_000)
    letters: list[dict[str, Any]] = []
    items = list(records(rows, trace.tick_s))
    for topic in ("telemetry.metrics", "telemetry.events"):
        sent = [
            FakeMessage(item.value, offset, produced_us=item.ts_us)
            for offset, item in enumerate(item for item in items if item.topic == topic)
        ]
        letters += ingest.take(topic, sent) if sent else []
    return letters


@pytest.mark.parametrize("reason", BAD)
def test_bad_samples_are_counted_and_left_out_everywhere(reason: str) -> None:
    clean, given_bad = demand_of(None), demand_of(BAD[reason])
    trace = of_frame(given_bad)
    assert trace.skipped == {"null_rows": 0, reason: 12}
    assert trace.frame.equals(clean.filter(pl.int_range(pl.len()) % 30 != 0).sort("ts", "app", "user"))
    source = demand.of_trace(given_bad, None, None, None, None, None)
    assert source.skipped[reason] == 12
    prepared = prepare(EvaluationRequest(trace=given_bad, warm_up="30m"))
    assert prepared.facts()["skipped"][reason] == 12
    np.testing.assert_array_equal(prepared.panel.values, source.panel.values)
    bad = np.isnan(source.panel.values[..., 0])
    assert bad.sum() == 12
    np.testing.assert_array_equal(
        source.panel.values[~bad], to_panel(of_frame(clean)).values[~bad], strict=True
    )
    letters = ingested(trace)
    assert [letter["reason"] for letter in letters] == [reason] * 12


def test_of_a_window_what_lies_in_it_is_counted() -> None:
    given_bad = demand_of(BAD["negative"])
    with_nulls = given_bad.with_columns(
        pl.when(pl.int_range(pl.len()) % 20 == 1).then(None).otherwise(pl.col(c)).alias(c)
        for c in given_bad.columns
        if c not in ("ts", "app", "user")
    )
    with_nulls = with_nulls.with_columns(colour=pl.lit("red"))
    trace = of_frame(with_nulls)
    window = TickWindow.of(trace, trace.tick_s, 10)
    rows = with_nulls.filter(pl.col("ts") < START + timedelta(seconds=10 * trace.tick_s))
    alone = of_frame(rows)
    assert 0 < alone.skipped["negative"] < trace.skipped["negative"]
    assert 0 < alone.skipped["null_rows"] < trace.skipped["null_rows"]
    assert window.skipped(trace) == alone.skipped | {"column colour": with_nulls.height}
    assert window.refused(trace).equals(alone.refused)


def test_replicas_are_sized_alike_where_the_first_plans_follow_a_tick_without_a_user() -> None:
    """Of two hours the first minute alone is before the first plan."""

    def replica(bad: float | None) -> float:
        source = demand.of_trace(demand_of(bad), None, None, None, None, None)
        members = setup.members_of(source.panel, 0, 0)
        unit = setup.sized(source.panel, source.window, members).policies["shop"]["unit"]
        return float(unit[0]["value"])

    assert replica(-5000.0) == pytest.approx(replica(None), rel=0.05)


@given(
    st.lists(st.tuples(NAME, NAME, USAGE, USAGE, RATE), min_size=1, max_size=12),
)
def test_a_trace_refuses_what_a_replay_of_it_makes_dead_letters_of(
    rows: list[tuple[str | None, str | None, float | None, float | None, float | None]],
) -> None:
    frame = pl.DataFrame(
        {
            "ts": [START + timedelta(minutes=minute) for minute in range(len(rows) + 2)],
            **{
                name: [*column, *([good] * 2)]
                for name, column, good in zip(
                    ("app", "user", "cpu", "disk", "events.API_CALL"),
                    zip(*rows, strict=True),
                    ("shop", "ann", 1.0, 1.0, 1.0),
                    strict=True,
                )
            },
        },
        schema_overrides={"cpu": pl.Float64, "disk": pl.Float64, "events.API_CALL": pl.Float64},
    )
    trace = of_frame(frame)
    reasons = [letter["reason"] for letter in ingested(trace)]
    refused = {reason: count for reason, count in trace.skipped.items() if reason != "null_rows" and count}
    assert {reason: reasons.count(reason) for reason in set(reasons)} == refused
    good = Trace(trace.frame, trace.tick_s, {})
    assert ingested(good) == []


def test_an_app_that_is_refused_altogether_is_named() -> None:
    rows = demand_of(None, 6).with_columns(app=pl.lit("good"))
    bad = rows.with_columns(app=pl.lit("bad"), cpu=-pl.col("cpu"))
    trace = of_frame(pl.concat([rows, bad]))
    assert trace.frame["app"].unique().to_list() == ["good"]
    assert refused_by_app(trace.refused) == {"bad": {"negative": 18}}
    with pytest.raises(
        UsageError, match="no app 'bad' in the trace but for 18 negative, which ingest refuses"
    ):
        demand.of_trace(pl.concat([rows, bad]), None, None, None, None, None, ["bad"])


def test_samples_of_more_than_a_day_are_refused() -> None:
    weekly = demand_of(None, 10).with_columns(ts=START + pl.duration(weeks=pl.int_range(pl.len()) // 3))
    with pytest.raises(
        UsageError, match=r"ingest refuses all rows: 30 bad-interval: samples come every 168 h, .* a day"
    ):
        of_frame(weekly)
    both = of_frame(pl.concat([demand_of(None).with_columns(app=pl.lit("often")), weekly]))
    (part,) = by_interval(both)
    assert (part.tick_s, part.frame["app"].unique().to_list()) == (60, ["often"])
    assert part.skipped["bad-interval"] == 30
