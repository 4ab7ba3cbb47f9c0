"""Adds up an app's scenario records over the shards of one tick, and what of its telemetry was used and refused."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from models.aggregation import missing_share, used_share
from models.demand.scenarios import unpack
from models.demand.stopped_series import NAMES, Carried, carried
from models.demand.turnover import Turnover
from models.metrics import EVENT_KINDS, METRICS
from models.planning.guardrails import REPORTING_SHARE
from models.totals import total
from pipeline.wire.codec import Record
from pipeline.wire.stopped import stopped_of

STOPPED: Final = "producer-stopped"
"""Reason of telemetry that is missing because one of several series of a user stopped."""
SLIPS: Final = "producer-slips"
"""The same in the first tick without the series: a sample may have slipped over the tick's edge."""


def telemetry_of(frame: list[Record]) -> list[Record]:
    """Records of each app in a frame (its parts): used, under no reason, then refused and missing ones by reason."""
    apps = frame[0]["apps"]
    app = np.concatenate([np.frombuffer(part["app_index"], "<u4") for part in frame])
    used = [
        np.bincount(app, np.concatenate([np.frombuffer(part[name], "<u4") for part in frame]), len(apps))
        for name in ("samples", "events")
    ]
    return [
        {"app": name, "reason": "", "samples": int(samples), "events": int(events)}
        for name, samples, events in zip(apps, *used, strict=True)
    ] + [*frame[0]["refused"], *_missing(frame, app)]


def carried_of(frame: list[Record]) -> Carried | None:
    """What stopped series add to the users of a frame, in their order; None where no series stopped."""
    entries = stopped_of(frame)
    if not (entries.series > 0).any():
        return None
    users = np.concatenate([np.frombuffer(part["users"], NAMES) for part in frame])
    known = [
        np.isfinite(np.frombuffer(part["values"], "<f4").reshape(len(part["metrics"]), -1)).any(axis=0)
        for part in frame
    ]
    return carried(entries, users, np.concatenate(known), frame[0]["tick"])


def _missing(frame: list[Record], app: np.ndarray) -> Iterator[Record]:
    """Entries of an app's series that stopped or slip; app: (user,) index in the frame's apps."""
    missing = carried_of(frame)
    if missing is None:
        return
    apps = frame[0]["apps"]
    for reason, series, used in (
        (STOPPED, missing.stopped, missing.of_stopped),
        (SLIPS, missing.slips, missing.of_slips),
    ):
        counts = np.bincount(app, series, len(apps))
        amounts = np.stack([np.bincount(app, column, len(apps)) for column in used.T], axis=-1)
        for of in np.flatnonzero(counts).tolist():
            yield {
                "app": apps[of],
                "reason": reason,
                "samples": int(counts[of]),
                "events": 0,
                "carried": [
                    {"metric": metric, "value": amount}
                    for metric, amount in zip(METRICS, amounts[of].tolist(), strict=True)
                    if amount > 0
                ],
            }


@dataclass(frozen=True)
class TelemetryShare:
    """What became of an app's records in a tick, over all shards.

    Attributes:
        used: share that was not refused, 0 to 1, the least of metric samples and of events.
        refused: records by reason, the most frequent first.
        stopped: series that stopped while others of their user report.
        of_stopped, of_slips: (metric, amount) that these last used, and series that may only slip over a tick's edge.
    """

    used: float = 1.0
    refused: tuple[tuple[str, int], ...] = ()
    stopped: int = 0
    of_stopped: tuple[tuple[str, float], ...] = ()
    of_slips: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, app: str, telemetry: Iterable[Record]) -> "TelemetryShare":
        """From the entries that the shards' markers have.

        Entries without an app are refused records of apps that have no entry of their own: of any of them.
        """
        used, refused, reasons = np.zeros(2), np.zeros(2), Counter[str]()
        listed, of_others = False, list[Record]()
        stopped, missing = 0, {reason: defaultdict[str, float](float) for reason in (STOPPED, SLIPS)}
        for entry in telemetry:
            if entry["app"] == app and not entry["reason"]:
                used += entry["samples"], entry["events"]
            elif entry["app"] == app and entry["reason"] in missing:
                for amount in entry["carried"]:
                    missing[entry["reason"]][amount["metric"]] += amount["value"]
                stopped += entry["samples"] if entry["reason"] == STOPPED else 0
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
        amounts = (tuple(sorted(missing[reason].items())) for reason in (STOPPED, SLIPS))
        return cls(used_share(used, refused), tuple(ranked), stopped, *amounts)


@dataclass(frozen=True)
class Demand:
    """An app's demand over all shards of a tick.

    Attributes:
        scenarios: (scenario, step, metric) float32, metrics by `metrics`.
        metrics: names of those that some shard forecasts, in the order of METRICS.
        usage, saturated: (METRICS) float64, NaN = not measured in this tick; usage with what stopped series last used.
        rates: (EVENT_KINDS) float64, 1/s, NaN = no event.
        users, reporting: users forecast, and of them those that reported in this tick.
        user_quantiles: (step, metric) float64, sum of every user's own 99 % quantile; None = a shard did not say.
        turnover: what users that are silent, went and came last used.
        share: (METRICS) of the users' demand that counts; less than 1 where silent users were replaced.
        hidden: (METRICS) what silent users last had, of that which nobody took over; NaN = not known.
        records: of the app's telemetry that was used.
        stopped: share of the usage that is what stopped series last used, 0 to 1, the largest of any metric.
        carried: the same with series that may only slip over a tick's edge.
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
    stopped: float = 0.0
    carried: float = 0.0

    @property
    def seen(self) -> np.ndarray:
        """(METRICS) share of the demand that was measured; the rest is of silent users whom nobody replaced."""
        hidden, used = np.nan_to_num(self.hidden), np.nan_to_num(self.usage)
        return np.divide(used, used + hidden, out=np.ones(len(METRICS)), where=hidden > 0)

    @property
    def measured(self) -> np.ndarray:
        """(METRICS) whether enough users, series and records were there for usage to be the app's, else its total is
        missing: enough users by number and by what they last used."""
        enough = self.reporting >= REPORTING_SHARE * self.users and self.records.used >= REPORTING_SHARE
        enough = self.reporting > 0 and enough and 1 - self.carried >= REPORTING_SHARE
        return enough & (self.seen >= REPORTING_SHARE)

    @property
    def representative(self) -> bool:
        """Whether that holds of all metrics."""
        return bool(self.measured.all())

    def with_telemetry(self, records: TelemetryShare) -> "Demand":
        """With what became of the app's records.

        What stopped series last used is added to the usage of metrics that others of the app report.
        """
        stopped, slips = (
            np.array([dict(amounts).get(metric, 0.0) for metric in METRICS])
            for amounts in (records.of_stopped, records.of_slips)
        )
        usage = self.usage + stopped + slips
        return replace(
            self,
            records=records,
            usage=usage,
            stopped=missing_share(stopped, usage),
            carried=missing_share(stopped + slips, usage),
        )

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
