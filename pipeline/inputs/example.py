"""Policies, prices and starting capacity for the apps of a trace, from `demo.toml`."""

import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import polars as pl

from models.metrics import METRICS
from pipeline.names import offer_fault
from pipeline.traces.trace_file import Trace
from pipeline.traces.window import TickWindow
from pipeline.wire.codec import Record

FILE = Path(__file__).parent / "demo.toml"
NODE_SIZES: Final = (1, 2, 4)
"""Nodes that apps may share, in the smallest one's size,"""
NODES: Final = 32
"""and of the smallest so many as carry the apps' medians."""
NODE_PARTS: Final = 8
"""Replicas on shared nodes are small enough for the largest node to carry so many of each app."""
GROUP: Final = "shared-nodes"
"""Name of the group whose apps share nodes, with a ' for each app of that name."""


@dataclass(frozen=True)
class Example:
    """What is published before a replay.

    Attributes:
        policies, prices: records.
        starting: instances by app and offer, ready at the first tick; nodes of the group likewise.
        group: whose apps share nodes; "": none.
        replicas: on shared nodes, or pods, by app, ready at the first tick.
    """

    policies: list[Record]
    prices: list[Record]
    starting: dict[str, dict[str, int]]
    group: str = ""
    replicas: Mapping[str, int] = field(default_factory=dict[str, int])

    def on_shared_nodes(self, apps: Collection[str]) -> "Example":
        """The same with some of the apps on nodes that they share, instead of instances of their own."""
        group = GROUP
        while any(policy["app"] == group for policy in self.policies):
            group += "'"
        example, on = tomllib.loads(FILE.read_text()), [p for p in self.policies if p["app"] in apps]
        units = {policy["app"]: _amounts(policy["unit"]) for policy in on}
        first = min(units)
        offers = [p for p in self.prices if p["commitment_id"] == first]
        nodes: list[Record] = [
            node | {"commitment_id": group} for node in node_offers(units, offers, units[first])
        ]
        metrics = sorted({metric for unit in units.values() for metric in unit})
        together = {m: sum(unit.get(m, 0.0) for unit in units.values()) for m in metrics}
        policy: Record = {
            "app": group,
            "version": 1,
            "valid_from_tick": 0,
            "author": "demo",
            "allocation_group": group,
            "nodes": "SHARED",
            "governed": metrics,
            "unit": [{"metric": metric, "value": value} for metric, value in together.items()],
            **example["policy"],
        }
        sizing = example["sizing"]
        replicas = math.ceil(sizing["starting_share"] * sizing["median_replicas"])
        room = {node["offer_id"]: _amounts(node["capacity"]) for node in nodes}
        # replicas of every app, before they are divided
        carried = {node: min(of[m] / together[m] for m in metrics) for node, of in room.items()}
        largest = room[max(carried, key=lambda node: carried[node])]
        parts = {app: _parts(unit, largest) for app, unit in units.items()}
        return Example(
            [
                _smaller(p, parts[p["app"]]) | {"allocation_group": group} if p in on else p
                for p in self.policies
            ]
            + [policy],
            [p for p in self.prices if p["commitment_id"] not in apps] + nodes,
            {app: of for app, of in self.starting.items() if app not in apps}
            | {group: _starting(nodes, carried, replicas)},
            group,
            {app: replicas * parts[app] for app in sorted(units)},
        )

    def as_pods(self, provider: str) -> "Example":
        """The same with one offer an app, a pod of its replica's size, of which as many are there at first."""
        example = tomllib.loads(FILE.read_text())
        sizing = example["sizing"]
        policies: list[Record] = [policy | {"providers": [provider]} for policy in self.policies]
        prices = [
            _price(policy["app"], _amounts(policy["unit"]), example["pod"], 1.0) | {"provider": provider}
            for policy in policies
        ]
        replicas = math.ceil(sizing["starting_share"] * sizing["median_replicas"])
        return Example(policies, prices, {}, replicas={policy["app"]: replicas for policy in policies})

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
            replicas = sizing["starting_share"] * sizing["median_replicas"]
            carried = {
                price["offer_id"]: of["replicas"] for price, of in zip(offers, example["offer"], strict=True)
            }
            starting[app] = _starting(offers, carried, replicas)
        return cls(policies, prices, starting)


def totals(trace: Trace, window: TickWindow) -> pl.DataFrame:
    """The sum over users by `app` and `tick`, a column a metric that the trace has; null: nobody reported it."""
    rows = window.select(trace)
    metrics = [m for m in METRICS if m in rows.columns]
    tick = (pl.col("ts").dt.epoch("us") // (window.tick_s * 1_000_000)).alias("tick")
    users = rows.group_by("app", "user", tick).agg(pl.col(metrics).mean())
    sums = pl.when(pl.col(metrics).is_not_null().any()).then(pl.col(metrics).sum())
    return users.group_by("app", "tick").agg(sums)


def _medians(trace: Trace, window: TickWindow) -> dict[str, dict[str, float]]:
    """Per app and metric the median over ticks of the sum over users; metrics whose median is 0 are left out.

    An app without any has 1 of the first metric that it reports, or of the first of all where it reports events alone.
    """
    sums = totals(trace, window)
    metrics = [m for m in METRICS if m in sums.columns]
    apps = sums.group_by("app").agg(pl.col(metrics).median())
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


def _starting(offers: Sequence[Record], carried: Mapping[str, float], replicas: float) -> dict[str, int]:
    """All that is reserved, the rest on demand; carried: replicas on an instance, by offer."""
    counts: dict[str, int] = {}
    for offer in sorted(offers, key=lambda offer: (offer["tier"] != "RESERVED", -carried[offer["offer_id"]])):
        name = offer["offer_id"]
        wanted = max(0, math.ceil(replicas / carried[name]))
        most = {"RESERVED": offer["owned_count"] or 0, "SPOT": 0}.get(offer["tier"], wanted)
        counts[name] = min(wanted, most)
        replicas -= counts[name] * carried[name]
    return counts


def _parts(unit: Mapping[str, float], node: Mapping[str, float]) -> int:
    """Into how many a replica of an app is divided, for a node to carry NODE_PARTS of them."""
    return max(1, math.ceil(NODE_PARTS * max(value / node[metric] for metric, value in unit.items())))


def _smaller(policy: Record, parts: int) -> Record:
    """The policy in replicas of a part of the size."""
    unit = [{"metric": of["metric"], "value": of["value"] / parts} for of in policy["unit"]]
    return policy | {"unit": unit, "min": policy["min"] * parts, "max": policy["max"] * parts}


def node_offers(
    units: Mapping[str, Mapping[str, float]], offers: Sequence[Record], unit: Mapping[str, float]
) -> list[Record]:
    """Records `price` of nodes of NODE_SIZES that all apps can buy.

    NODES of the smallest carry the apps' medians together. A node costs what instances cost that carry the same share
    of the medians; where some of these are reserved, nodes of the largest size are for the same share.

    Args:
        units: of the apps' replicas, by app and metric.
        offers: of one app, which these are like.
        unit: of that app.
    """
    median = Example.median_replicas()
    metrics = dict.fromkeys(metric for of in units.values() for metric in of)
    whole = {m: median * sum(of.get(m, 0.0) for of in units.values()) for m in metrics}
    nodes: list[Record] = []
    for size in NODE_SIZES:
        capacity = {m: size * amount / NODES for m, amount in whole.items()}
        for offer in offers:
            if offer["tier"] == "RESERVED" and size < NODE_SIZES[-1]:
                continue
            share = max(of["value"] / unit[of["metric"]] for of in offer["capacity"]) / median
            price = float(offer["price"]) * len(units) / share * size / NODES
            owned = offer["owned_count"]
            name = f"node-{size}.{offer['tier'].lower().replace('_', '-')}"
            nodes.append(
                offer
                | {
                    "offer_id": name,
                    "instance_type": f"node-{size}",
                    "capacity": [{"metric": m, "value": value} for m, value in capacity.items()],
                    "price": Decimal(price).quantize(offer["price"]),
                    "owned_count": None if owned is None else round(owned * share * NODES / size),
                    "commitment_id": None,
                    "pool": name,
                }
            )
    return nodes


def _amounts(pairs: Sequence[Record]) -> dict[str, float]:
    return {pair["metric"]: pair["value"] for pair in pairs}
