"""Policies, prices and starting capacity for the apps of a trace, from `demo.toml`."""

import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from models.metrics import METRICS
from pipeline.names import offer_fault
from pipeline.traces.trace_file import Trace
from pipeline.traces.window import TickWindow
from pipeline.wire.codec import Record

FILE = Path(__file__).parent / "demo.toml"


@dataclass(frozen=True)
class Example:
    """What is published before a replay.

    Attributes:
        policies, prices: records.
        starting: instances by app and offer, ready at the first tick.
    """

    policies: list[Record]
    prices: list[Record]
    starting: dict[str, dict[str, int]]

    @classmethod
    def median_replicas(cls, file: Path = FILE) -> int:
        """Replicas that an app's median demand fills."""
        return int(tomllib.loads(file.read_text())["sizing"]["median_replicas"])

    @classmethod
    def of(
        cls, trace: Trace, window: TickWindow, file: Path = FILE, learnt: Collection[str] = ()
    ) -> "Example":
        """Size the example for a window of a trace; learnt: apps whose plans the learner steers."""
        return cls.of_medians(_medians(trace, window), file, learnt)

    @classmethod
    def of_medians(
        cls,
        medians_of: Mapping[str, Mapping[str, float]],
        file: Path = FILE,
        learnt: Collection[str] = (),
    ) -> "Example":
        """Size the example for apps of these medians by metric."""
        example = tomllib.loads(file.read_text())
        sizing = example["sizing"]
        policies: list[Record] = []
        prices: list[Record] = []
        starting: dict[str, dict[str, int]] = {}
        for app, medians in medians_of.items():
            governed = [m for m in sizing["governed"] if m in medians] or [
                m for m in ["requests"] if m in medians
            ]
            unit = {m: medians[m] / sizing["median_replicas"] for m in governed or sorted(medians)}
            amounts = [{"metric": m, "value": value} for m, value in unit.items()]
            policies.append(
                {
                    "app": app,
                    "version": 1,
                    "valid_from_tick": 0,
                    "author": "demo",
                    "allocation_group": app,
                    "governed": list(unit),
                    "unit": amounts,
                    **example["policy"],
                    **(example["learnt"] if app in learnt else {}),
                }
            )
            offers = [_price(app, unit, offer, sizing["median_replicas"]) for offer in example["offer"]]
            prices += offers
            starting[app] = _starting(offers, example["offer"], sizing)
        return cls(policies, prices, starting)


def _medians(trace: Trace, window: TickWindow) -> dict[str, dict[str, float]]:
    """Per app and metric the median over ticks of the sum over users; metrics whose median is 0 are left out.

    An app without any has 1 of the first metric that it reports, or of the first of all where it reports events alone.
    """
    rows = window.select(trace)
    metrics = [m for m in METRICS if m in rows.columns]
    tick = (pl.col("ts").dt.epoch("us") // (window.tick_s * 1_000_000)).alias("tick")
    users = rows.group_by("app", "user", tick).agg(pl.col(metrics).mean())
    sums = pl.when(pl.col(metrics).is_not_null().any()).then(pl.col(metrics).sum())
    apps = users.group_by("app", "tick").agg(sums).group_by("app").agg(pl.col(metrics).median())
    return {
        row["app"]: {m: row[m] for m in metrics if row[m]}
        or {next((m for m in metrics if row[m] is not None), METRICS[0]): 1.0}
        for row in apps.sort("app").iter_rows(named=True)
    }


def _price(app: str, unit: dict[str, float], offer: dict[str, Any], median: float) -> Record:
    tier, per = offer["tier"], offer["replicas"]
    p50, p90, p99 = offer["startup_s"]
    record = {
        "offer_id": _offer_id(app, tier),
        "version": 1,
        "valid_from_tick": 0,
        "provider": "local",
        "region": "here",
        "zone": "here-1",
        "tier": tier,
        "instance_type": f"{per}-replicas",
        "capacity": [{"metric": m, "value": value * per} for m, value in unit.items()],
        "price": Decimal(offer["price"]),
        "commitment_id": app,
        "owned_count": round(offer["owned_share"] * median / per) if "owned_share" in offer else None,
        "startup_p50_s": p50,
        "startup_p90_s": p90,
        "startup_p99_s": p99,
        "pool": f"{app}.{tier.lower()}",
    }
    return record | {
        key: offer[key] for key in ("launch_failure", "interruption", "notice_s") if key in offer
    }


def _offer_id(app: str, tier: str) -> str:
    """`app.tier`, an app's percent signs and slashes escaped as in URLs; of a name that is too long its hash."""
    kind = tier.lower().replace("_", "-")
    plain = f"{app.replace('%', '%25').replace('/', '%2F')}.{kind}"
    if offer_fault(plain) is None:
        return plain
    return f"{blake2b(app.encode(), digest_size=16).hexdigest()}.{kind}"


def _starting(
    offers: list[Record], templates: list[dict[str, Any]], sizing: dict[str, Any]
) -> dict[str, int]:
    """All that is reserved, the rest on demand."""
    replicas = sizing["starting_share"] * sizing["median_replicas"]
    counts: dict[str, int] = {}
    for record, offer in zip(offers, templates, strict=True):
        wanted = math.ceil(replicas / offer["replicas"])
        most = {"RESERVED": record["owned_count"] or 0, "SPOT": 0}.get(offer["tier"], wanted)
        counts[record["offer_id"]] = min(wanted, most)
        replicas -= counts[record["offer_id"]] * offer["replicas"]
    return counts
