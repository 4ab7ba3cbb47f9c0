"""A supply file for `leadtime backtest --supply` from spot availability traces and price lists.

    python -m tests.benchmarks.supply PRICES_FOLDER --out supply.parquet [--market v100|cpu]

The folder has `spot_availability_skypilot.parquet` (34 series of "Can't Be Late", NSDI 2024), `aws_on_demand.csv`,
`aws_spot_advisor.parquet` and `gce_prices.csv` in the forms of their README. Markets:

- `v100`: nine zones of AWS from 15 February 2023 on, 45 days at 195 s, one p3.2xlarge. Its three regions, each with a
  control plane of its own, stand for three providers: no public trace has the same machine at three clouds.
- `cpu`: three zones of AWS (64 cores, from 19 April 2023) and four of GCP (c3-88, from 30 April), 46 hours at 30 s,
  moved to the same beginning, per 64 cores.

Where the list has a price for us-east-1 alone, the other regions have it too. Spot is the advisor's savings of
10 February 2021 off the on-demand price, without a history: AWS's feed is not in the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

MARKETS = {
    "v100": [
        *(("aws-east-1", f"us-east-1{z}", "v100_1", "availability", "p3.2xlarge", 1.0) for z in "acdf"),
        *(("aws-east-2", f"us-east-2{z}", "v100_1", "availability", "p3.2xlarge", 1.0) for z in "ab"),
        *(("aws-west-2", f"us-west-2{z}", "v100_1", "availability", "p3.2xlarge", 1.0) for z in "abc"),
    ],
    "cpu": [
        *(("aws", f"us-east-1{z}", "intel_64", "preemption", "m5.16xlarge", 1.0) for z in "bcd"),
        *(("gcp", f"us-central1-{z}", "c3-88", "preemption", "c3-standard-88", 64 / 88) for z in "abc"),
        ("gcp", "us-east1-b", "c3-88", "preemption", "c3-standard-88", 64 / 88),
    ],
}
"""By market: provider, zone, instance and kind of the trace, machine of the price lists, share of it that is a node."""
FIRST = {"v100": "2023-02-15", "cpu": "2023-04-19"}
HOURS = {"v100": 45 * 24, "cpu": 45}


def region_of(zone: str) -> str:
    """Region of a zone: us-east-1 of us-east-1a, us-central1 of us-central1-a."""
    return zone.rsplit("-", 1)[0] if zone[-2] == "-" else zone[:-1]


def prices(folder: Path, zone: str, machine: str) -> tuple[float, float]:
    """On-demand and spot price per hour of a machine in a zone."""
    region = region_of(zone)
    google = pl.read_csv(folder / "gce_prices.csv").filter(pl.col("machine_type") == machine)
    if google.height:
        return google["on_demand_per_hour"][0], google["preemptible_per_hour"][0]
    listed = pl.read_csv(folder / "aws_on_demand.csv").filter(pl.col("instance") == machine)
    here = listed.filter(pl.col("region") == region)
    here = here if here.height else listed.filter(pl.col("region") == "us-east-1")
    advised = pl.read_parquet(folder / "aws_spot_advisor.parquet").filter(
        (pl.col("instance").cast(pl.String) == machine)
        & (pl.col("region").cast(pl.String) == region)
        & (pl.col("commit_day").cast(pl.String) == "2021-02-10")
        & (pl.col("os").cast(pl.String) == "Linux")
    )
    price = float(here["on_demand_per_hour"][0])
    return price, price * (1 - float(advised["savings_percent"][0]) / 100)


def supply(folder: Path, market: str) -> pl.DataFrame:
    """The rows of a market's supply file."""
    traces = pl.read_parquet(folder / "spot_availability_skypilot.parquet")
    names = ("kind", "cloud", "zone", "instance")
    traces = traces.with_columns(pl.col(name).cast(pl.String) for name in names)
    begin = pl.lit(FIRST[market]).str.to_datetime(time_zone="UTC", time_unit="us")
    pools: list[pl.DataFrame] = []
    for provider, zone, instance, kind, machine, share in MARKETS[market]:
        on_demand, spot = prices(folder, zone, machine)
        rows = traces.filter(
            (pl.col("zone") == zone) & (pl.col("instance") == instance) & (pl.col("kind") == kind)
        ).sort("ts")
        rows = rows.filter(pl.col("ts") >= begin).filter(
            pl.col("ts") < pl.col("ts").min() + pl.duration(hours=HOURS[market])
        )
        rows = rows.with_columns(pl.col("ts") - pl.col("ts").min() + begin)
        pools.append(
            rows.select(
                "ts",
                provider=pl.lit(provider),
                region=pl.lit(region_of(zone)),
                zone=pl.lit(zone),
                type=pl.lit(machine),
                wanted="wanted",
                available="available",
                spot_price=pl.lit(round(spot * share, 6)),
                on_demand_price=pl.lit(round(on_demand * share, 6)),
            )
        )
    return pl.concat(pools).sort("ts", "provider", "zone")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--market", choices=sorted(MARKETS), default="v100")
    given = parser.parse_args()
    made = supply(given.folder, given.market)
    made.write_parquet(given.out)
    print(f"{made.height:,} rows of {made.select('provider', 'zone').unique().height} pools")
