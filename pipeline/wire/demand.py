"""Adds up an app's scenario records over the shards of one tick, and what of its telemetry was used and refused."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from models.aggregation import used_share
from models.demand.scenarios import unpack
from models.demand.turnover import Turnover
from models.metrics import EVENT_KINDS, METRICS
from models.planning.guardrails import REPORTING_SHARE
from models.totals import total
from pipeline.wire.codec import Record


def telemetry_of(frame: list[Record]) -> list[Record]:
    """Records of each app in a frame (its parts): used, under no reason, then refused by reason."""
    apps = frame[0]["apps"]
    app = np.concatenate([np.frombuffer(part["app_index"], "<u4") for part in frame])
    used = [
        np.bincount(app, np.concatenate([np.frombuffer(part[name], "<u4") for part in frame]), len(apps))
        for name in ("samples", "events")
    ]
    return [
        {"app": name, "reason": "", "samples": int(samples), "events": int(events)}
        for name, samples, events in zip(apps, *used, strict=True)
    ] + frame[0]["refused"]


@dataclass(frozen=True)
class TelemetryShare:
    """What became of an app's records in a tick, over all shards.

    Attributes:
        used: share that was not refused, 0 to 1, the least of metric samples and of events.
        refused: records by reason, the most frequent first.
    """

    used: float = 1.0
    refused: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, app: str, telemetry: Iterable[Record]) -> "TelemetryShare":
        """From the entries that the shards' markers have.

        Entries without an app are refused records of apps that have no entry of their own: of any of them.
        """
        used, refused, reasons = np.zeros(2), np.zeros(2), Counter[str]()
        listed, of_others = False, list[Record]()
        for entry in telemetry:
            if entry["app"] == app and not entry["reason"]:
                used += entry["samples"], entry["events"]
            elif entry["app"] == app:
                listed = True
                refused += entry["samples"], entry["events"]
                reasons[entry["reason"]] += entry["samples"] + entry["events"]
            elif not entry["app"]:
                of_others.append(entry)
        if not listed:
            for entry in of_others:
                refused += entry["samples"], entry["events"]
                reasons[entry["reason"]] += entry["samples"] + entry["events"]
        ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        return cls(used_share(used, refused), tuple(ranked))


@dataclass(frozen=True)
class Demand:
    """An app's demand over all shards of a tick.

    Attributes:
        scenarios: (scenario, step, metric) float32, metrics by `metrics`.
        metrics: names of those that some shard forecasts, in the order of METRICS.
        usage, saturated: (METRICS) float64, NaN = not measured in this tick.
        rates: (EVENT_KINDS) float64, 1/s, NaN = no event.
        users, reporting: users forecast, and of them those that reported in this tick.
        user_quantiles: (step, metric) float64, sum of every user's own 99 % quantile; None = a shard did not say.
        turnover: what users that are silent, went and came last used.
        share: (METRICS) of the users' demand that counts; less than 1 where silent users were replaced.
        hidden: (METRICS) what silent users last had, of that which nobody took over; NaN = not known.
        records: of the app's telemetry that was used.
    """

    scenarios: np.ndarray
    metrics: tuple[str, ...]
    usage: np.ndarray
    saturated: np.ndarray
    rates: np.ndarray
    users: int
    reporting: int
    user_quantiles: np.ndarray | None = None
    turnover: Turnover = field(default_factory=Turnover.none)
    share: np.ndarray = field(default_factory=lambda: np.ones(len(METRICS)))
    hidden: np.ndarray = field(default_factory=lambda: np.full(len(METRICS), np.nan))
    records: TelemetryShare = TelemetryShare()

    @property
    def representative(self) -> bool:
        """Whether enough users and records were there for the usage to be the app's: else its total is missing."""
        enough = self.reporting >= REPORTING_SHARE * self.users and self.records.used >= REPORTING_SHARE
        return self.reporting > 0 and enough

    @property
    def idle(self) -> bool:
        """An explicit zero: each metric that is forecast was measured, and nothing of it was used."""
        return bool(self.metrics) and all(self.usage[METRICS.index(metric)] == 0 for metric in self.metrics)

    @classmethod
    def silent(cls, metrics: tuple[str, ...], steps: int) -> "Demand":
        """Of an app of which no user reported: usage and rates are NaN, its scenarios zero."""
        nothing = np.full(len(METRICS), np.nan)
        return cls(
            np.zeros((64, steps, len(metrics)), np.float32),
            metrics,
            nothing,
            nothing,
            np.full(len(EVENT_KINDS), np.nan),
            0,
            0,
        )

    @classmethod
    def of(cls, parts: list[Record]) -> "Demand":
        """Add up the shards of one app, in their order."""
        shards: dict[int, list[Record]] = {}
        for part in parts:
            shards.setdefault(part["shard"], []).append(part)
        heads = [group[0] for group in shards.values()]
        metrics = tuple(m for m in METRICS if any(m in head["metrics"] for head in heads))
        count, steps = heads[0]["scenarios"], len(heads[0]["steps"])
        demand = np.zeros((count, steps, len(metrics)), np.float32)
        quantiles = np.zeros((steps, len(metrics)))
        for group in shards.values():
            names = group[0]["metrics"]
            shape = (-1 if names else 0, steps, len(names))
            packed = np.concatenate([np.frombuffer(p["demand"], "<f2") for p in group]).reshape(shape)
            where = [metrics.index(name) for name in names]
            own = group[0]["user_quantiles"]
            quantiles[:, where] += np.nan if own is None else np.frombuffer(own, "<f8").reshape(shape[1:])
            if names:
                demand[:, :, where] += unpack(
                    packed, np.frombuffer(group[0]["scale"], "<f4").reshape(shape[1:])
                )
        return cls(
            scenarios=demand,
            metrics=metrics,
            usage=_add(heads, "observed", "metrics", METRICS),
            saturated=_add(heads, "saturated", "metrics", METRICS),
            rates=_add(heads, "rates", "kinds", EVENT_KINDS),
            users=sum(head["users"] for head in heads),
            reporting=sum(head["reporting"] for head in heads),
            user_quantiles=None if np.isnan(quantiles).any() else quantiles,
            turnover=Turnover(
                *(np.nan_to_num(_add(heads, part, "metrics", METRICS)) for part in Turnover._fields)
            ),
        )


def _add(heads: list[Record], column: str, axis: str, names: tuple[str, ...]) -> np.ndarray:
    """Sum a column by name over the shards, without NaN; NaN for names of which no shard has a value."""
    values = np.full((len(heads), len(names)), np.nan)
    for row, head in enumerate(heads):
        if head[column] is not None:  # else of an older simulator
            values[row, [names.index(name) for name in head[axis]]] = np.frombuffer(head[column], "<f8")
    return total(values)
