"""Supply files: what pools gave and what they cost, by time (docs/backtesting.md, "Supply").

A Parquet or CSV file with a row a sample and pool; the columns are SCHEMA. Where all that were wanted were available no
limit is known, else the pool gives as many as were. A value stands until the pool's next row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from models.evaluation.supplied_cloud import UNLIMITED, Supply
from pipeline.errors import UsageError
from pipeline.format import parse_duration, parse_time
from pipeline.wire.codec import Record

SCHEMA: Final[Mapping[str, Any]] = {
    "ts": pl.Datetime("us", "UTC"),
    "provider": pl.String,
    "region": pl.String,
    "zone": pl.String,
    "type": pl.String,
    "wanted": pl.Int64,
    "available": pl.Int64,
    "spot_price": pl.Float64,
    "on_demand_price": pl.Float64,
}
STARTUP_S: Final = (
    120.0,
    180.0,
    240.0,
)  # p50, p90, p99 as offers state: some three minutes, as SkyServe measured
INTERRUPTION: Final = 0.01  # an hour, as offers state: far above AWS's "more than 20 % a month" (0.0003)
LAUNCH_FAILURE: Final = 0.01
ON_DEMAND_SUFFIX, SPOT_SUFFIX = "on-demand", "spot"


@dataclass(frozen=True)
class Outage:
    """A provider that is out, in unix seconds."""

    provider: str
    begin_s: float
    end_s: float

    @classmethod
    def parse(cls, text: str) -> Outage:
        """An outage of `PROVIDER@TIME/DURATION`.

        Raises:
            UsageError: it is none.
        """
        provider, _, span = text.partition("@")
        time, _, length = span.rpartition("/")
        try:
            begin_s = parse_time(time)
            return cls(provider, begin_s, begin_s + parse_duration(length))
        except (ValueError, UsageError) as error:
            raise UsageError(
                f"--outage is PROVIDER@TIME/DURATION, as aws@2023-02-20T10:00Z/1h, got {text!r}"
            ) from error


@dataclass(frozen=True)
class SupplyFile:
    """A supply file, read.

    Attributes:
        path: of the file.
        rows: of SCHEMA, in the order of time.
    """

    path: Path
    rows: pl.DataFrame

    @property
    def digest(self) -> str:
        """Of its rows."""
        return hashlib.blake2b(self.rows.write_csv().encode(), digest_size=8).hexdigest()

    @property
    def providers(self) -> list[str]:
        """By name."""
        return sorted(self.rows["provider"].unique().to_list())

    def prices(self, capacity: Sequence[Mapping[str, Any]], app: str) -> list[Record]:
        """Records `price` of a spot offer a pool, and an on-demand offer a region and type; nodes of one size.

        Args:
            capacity: of a node, as in the record.
            app: to which the offers belong.
        """
        first = self.rows.group_by("provider", "region", "zone", "type", maintain_order=True).first()
        records: dict[str, Record] = {}
        for row in first.sort("provider", "region", "zone", "type").iter_rows(named=True):
            for tier, suffix, price in (
                ("SPOT", SPOT_SUFFIX, row["spot_price"]),
                ("ON_DEMAND", ON_DEMAND_SUFFIX, row["on_demand_price"]),
            ):
                name = offer_id(row, tier)
                spot = tier == "SPOT"
                records.setdefault(
                    name,
                    {
                        "offer_id": name,
                        "version": 1,
                        "valid_from_tick": 0,
                        "provider": row["provider"],
                        "region": row["region"],
                        "zone": row["zone"] if spot else "",
                        "tier": tier,
                        "instance_type": row["type"],
                        "capacity": list(capacity),
                        "price": Decimal(price).quantize(Decimal("0.000001")),
                        "commitment_id": app,
                        "startup_p50_s": STARTUP_S[0],
                        "startup_p90_s": STARTUP_S[1],
                        "startup_p99_s": STARTUP_S[2],
                        "launch_failure": LAUNCH_FAILURE,
                        "interruption": INTERRUPTION if spot else 0.0,
                        "pool": f"{row['zone']}.{row['type']}.{suffix}" if spot else name,
                    },
                )
        return list(records.values())

    def supply(self, first_tick: int, ticks: int, tick_s: int, outages: Sequence[Outage]) -> Supply:
        """The supply by tick: its first row is at the beginning of the first tick.

        Args:
            first_tick: of what is simulated.
            ticks: number of them, for the outages.
            tick_s: tick length.
            outages: in the time of what is simulated.

        Raises:
            UsageError: an outage of a provider that the file does not have, or beyond what is simulated.
        """
        begin_us = self.rows["ts"].dt.timestamp("us").min()
        begin_s = float(begin_us) / 1e6  # pyright: ignore[reportArgumentType]
        end_s = float(self.rows["ts"].dt.timestamp("us").max()) / 1e6  # pyright: ignore[reportArgumentType]
        edges = np.arange(int((end_s - begin_s) // tick_s) + 1) * tick_s + begin_s
        room: dict[str, np.ndarray] = {}
        price: dict[str, np.ndarray] = {}
        for _, of in self.rows.group_by("provider", "region", "zone", "type", maintain_order=True):
            row = of.row(0, named=True)
            times = of["ts"].dt.timestamp("us").to_numpy() / 1e6
            at = np.maximum(np.searchsorted(times, edges, side="right") - 1, 0)
            price[offer_id(row, "SPOT")] = of["spot_price"].to_numpy()[at]
            price[offer_id(row, "ON_DEMAND")] = of["on_demand_price"].to_numpy()[at]
            given = np.where(of["available"] >= of["wanted"], UNLIMITED, of["available"].to_numpy())
            last = np.append(at[1:], len(given) - 1)
            room[offer_id(row, "SPOT")] = np.array(
                [given[a : b + 1].min() for a, b in zip(at, last, strict=True)], np.int64
            )
        return Supply(first_tick, room, price, self._out(first_tick, ticks, tick_s, outages))

    def _out(
        self, first_tick: int, ticks: int, tick_s: int, outages: Sequence[Outage]
    ) -> dict[str, np.ndarray]:
        starts = (first_tick + np.arange(ticks)) * float(tick_s)
        out = {outage.provider: np.zeros(ticks, bool) for outage in outages}
        for outage in outages:
            if outage.provider not in self.providers:
                raise UsageError(
                    f"no provider {outage.provider!r} in {self.path}: there are {', '.join(self.providers)}"
                )
            during = (starts + tick_s > outage.begin_s) & (starts < outage.end_s)
            if not during.any():
                raise UsageError(f"the outage of {outage.provider} is not within what is simulated")
            out[outage.provider] |= during
        return out


def offer_id(row: Mapping[str, Any], tier: str) -> str:
    """Id of a pool's spot offer, or of its region's on-demand offer."""
    place = row["zone"] if tier == "SPOT" else row["region"]
    return f"{row['provider']}.{place}.{row['type']}.{SPOT_SUFFIX if tier == 'SPOT' else ON_DEMAND_SUFFIX}"


def read(path: Path) -> SupplyFile:
    """Read a supply file.

    Raises:
        UsageError: it cannot be read, lacks a column or a value, or has one that is none.
    """
    try:
        frame = (
            pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, try_parse_dates=True)
        )
        missing = [name for name in SCHEMA if name not in frame.columns]
        if missing:
            raise UsageError(f"{path}: no column {missing[0]}; a supply file has {', '.join(SCHEMA)}")
        rows = frame.select(pl.col(name).cast(of) for name, of in SCHEMA.items()).sort(
            "ts", "provider", "zone", "type"
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    return SupplyFile(path, _checked(path, rows))


def _checked(path: Path, rows: pl.DataFrame) -> pl.DataFrame:
    if not rows.height:
        raise UsageError(f"{path}: no rows")
    nulls = [name for name in SCHEMA if rows[name].null_count()]
    if nulls:
        raise UsageError(f"{path}: {nulls[0]} is missing in {rows[nulls[0]].null_count()} rows")
    for name, least in (("wanted", 1), ("available", 0), ("spot_price", 0.0), ("on_demand_price", 0.0)):
        column = rows[name]
        if not bool((column >= least).all() and column.is_finite().all()):
            raise UsageError(f"{path}: {name} must be at least {least} everywhere")
    twice = rows.select("ts", "provider", "region", "zone", "type").is_duplicated().sum()
    if twice:
        raise UsageError(f"{path}: {twice} rows are of the same pool and time")
    return rows
