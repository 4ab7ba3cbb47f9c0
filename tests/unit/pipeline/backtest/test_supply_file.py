from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.evaluation.supplied_cloud import UNLIMITED
from pipeline.backtest import clouds, supply_file
from pipeline.backtest.supply_file import Outage
from pipeline.errors import UsageError

BEGIN = datetime(2023, 2, 15, tzinfo=UTC)


def rows() -> pl.DataFrame:
    """Two pools every 150 s: one is gone from 300 to 450 s, the other gives three of four from 600 s on."""
    return pl.DataFrame(
        [
            {
                "ts": BEGIN + timedelta(seconds=150 * i),
                "provider": provider,
                "region": "r",
                "zone": zone,
                "type": "m",
                "wanted": 4,
                "available": (0 if i == 2 else 4) if zone == "ra" else (3 if i >= 4 else 4),
                "spot_price": 0.3 + i / 100,
                "on_demand_price": 1.0,
            }
            for i in range(9)
            for provider, zone in (("x", "ra"), ("y", "rb"))
        ]
    )


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_gives_room_and_prices_by_tick(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"supply.{suffix}"
    rows().write_parquet(path) if suffix == "parquet" else rows().write_csv(path)
    source = supply_file.read(path)
    supply = source.supply(100, 4, 300, [Outage.parse("x@1970-01-01T08:25Z/5m")])
    assert supply.room["x.ra.m.spot"].tolist()[:4] == [0, 0, UNLIMITED, UNLIMITED], (
        "the least within the tick"
    )
    assert supply.room["y.rb.m.spot"].tolist()[:4] == [UNLIMITED, 3, 3, 3]
    assert supply.price["x.ra.m.spot"][:3] == pytest.approx([0.3, 0.32, 0.34])
    assert supply.out["x"].tolist() == [False, True, False, False]
    names = {record["offer_id"]: record for record in source.prices([{"metric": "cpu", "value": 1.0}], "app")}
    assert names.keys() == {"x.ra.m.spot", "x.r.m.on-demand", "y.rb.m.spot", "y.r.m.on-demand"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (pl.col("available").cast(pl.Int64) - 5, "available must be at least 0"),
        (pl.lit(None, pl.Float64).alias("spot_price"), "spot_price is missing"),
        (pl.lit(float("nan")).alias("spot_price"), "spot_price must be"),
        (pl.lit("r").alias("zone"), "same pool|rows"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, change: pl.Expr, why: str) -> None:
    path = tmp_path / "supply.parquet"
    frame = rows().with_columns(change)
    (frame.with_columns(pl.lit("x").alias("provider")) if "same" in why else frame).write_parquet(path)
    with pytest.raises(UsageError, match=why):
        supply_file.read(path)


def test_a_file_without_a_column_and_an_outage_without_a_provider_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "supply.csv"
    rows().drop("zone").write_csv(path)
    with pytest.raises(UsageError, match="no column zone"):
        supply_file.read(path)
    with pytest.raises(UsageError, match="cannot be read"):
        supply_file.read(tmp_path / "none.csv")
    rows().write_csv(path)
    with pytest.raises(UsageError, match="no provider 'z'"):
        supply_file.read(path).supply(100, 4, 300, [Outage.parse("z@1970-01-01T08:25Z/5m")])
    with pytest.raises(UsageError, match="not within"):
        supply_file.read(path).supply(100, 4, 300, [Outage.parse("x@2030-01-01T00:00Z/5m")])
    for text in ("x", "x@soon/1h", "x@2023-02-15T00:00Z"):
        with pytest.raises(UsageError, match="--outage"):
            Outage.parse(text)


def test_costs_are_compared_at_the_same_share() -> None:
    points = [(0.9, 10.0), (0.98, 20.0), (0.97, 25.0), (1.0, 30.0)]
    assert clouds.at_share(points, 0.99) == pytest.approx(25.0)
    assert clouds.at_share(points[:2], 0.99) is None
    assert clouds.at_share([(1.0, 30.0)], 0.99) is None
    assert clouds.at_share([(0.99, np.float64(3.0))], 0.99) == 3.0
