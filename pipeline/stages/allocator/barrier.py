"""The barrier: a tick of the allocation groups of one partition is complete when all shards have sent it.

Per partition of `scenarios`, each shard's messages come in the order of its ticks: the scenarios of a tick, then
its marker. So shard s is complete for tick t as soon as a marker of s for t or a later tick has been seen: also
where s began later than t, and whether or not it sent any scenarios here. What comes twice (a successor sends its
last ticks again, the same bytes) is dropped.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from models.demand.scenarios import unpack
from models.metrics import EVENT_KINDS, METRICS
from models.planning.guardrails import REPORTING_SHARE
from pipeline.wire.codec import Record


@dataclass
class Barrier:
    """Scenarios of ticks that are not planned yet.

    Attributes:
        partitions: shards to wait for.
        planned: the last tick that was planned; None before the first.
        latest: the newest marker's tick, by shard.
        pending: by tick and app, the parts by (shard, part).
        sent: by tick, what markers say was sent here: (shard, app).
    """

    partitions: int
    planned: int | None = None
    latest: dict[int, int] = field(default_factory=dict[int, int])
    pending: dict[int, dict[str, dict[tuple[int, int], Record]]] = field(
        default_factory=dict[int, dict[str, dict[tuple[int, int], Record]]]
    )

    sent: dict[int, set[tuple[int, str]]] = field(default_factory=dict[int, set[tuple[int, str]]])

    def add(self, name: str, record: Record) -> bool:
        """Take a scenario or a marker; False where it is known already."""
        tick, shard = record["tick"], record["shard"]
        if self.planned is not None and tick <= self.planned:
            return False
        apps = self.pending.setdefault(tick, {})
        if name == "marker":
            if self.latest.get(shard, tick - 1) >= tick:
                return False
            self.latest[shard] = tick
            self.sent.setdefault(tick, set()).update((shard, app) for app in record["apps"])
            return True
        parts = apps.setdefault(record["app"], {})
        if (shard, record["part"]) in parts:
            return False
        parts[shard, record["part"]] = record
        return True

    def next_tick(self) -> int | None:
        """The tick that is to be planned next, complete or not."""
        return min(self.pending, default=None)

    def missing(self, tick: int) -> list[int]:
        """Shards that a tick still waits for."""
        return [shard for shard in range(self.partitions) if self.latest.get(shard, tick - 1) < tick]

    def groups(self, tick: int) -> set[str]:
        """Allocation groups of which some shard has sent scenarios of a tick."""
        apps = self.pending.get(tick, {}).values()
        return {part["allocation_group"] for parts in apps for part in parts.values()}

    def pop(self, tick: int) -> dict[str, list[Record]]:
        """A complete tick's scenarios by app, in the order of shards and parts; it counts as planned.

        An app of which something that was sent is not there any more (deleted by retention while no allocator ran)
        is left out: half of its demand is not its demand.
        """
        self.planned = tick
        apps, sent = self.pending.pop(tick), self.sent.pop(tick, set())
        torn = {app for shard, app in sent if not any(place[0] == shard for place in apps.get(app, {}))}
        for app, parts in apps.items():
            counts = Counter(shard for shard, _ in parts)
            if any(counts[shard] != part["of"] for (shard, _), part in parts.items()):
                torn.add(app)
        return {app: [apps[app][place] for place in sorted(apps[app])] for app in sorted(apps.keys() - torn)}


@dataclass(frozen=True)
class Demand:
    """An app's demand over all shards of a tick.

    Attributes:
        scenarios: (scenario, step, metric) float32, metrics by `metrics`.
        metrics: names of those that some shard forecasts, in the order of METRICS.
        usage, saturated: (METRICS) float64, NaN = not measured in this tick.
        rates: (EVENT_KINDS) float64, 1/s, NaN = no event.
        users, reporting: users forecast, and of them those heard of in this tick.
        user_quantiles: (step, metric) float64, sum of every user's own 99 % quantile; None = a shard did not say.
    """

    scenarios: np.ndarray
    metrics: tuple[str, ...]
    usage: np.ndarray
    saturated: np.ndarray
    rates: np.ndarray
    users: int
    reporting: int
    user_quantiles: np.ndarray | None = None

    @property
    def heard(self) -> bool:
        """Whether enough users reported for the usage to be the app's: else its total counts as missing."""
        return self.reporting > 0 and self.reporting >= REPORTING_SHARE * self.users

    @property
    def idle(self) -> bool:
        """An explicit zero: each metric that is forecast was measured, and nothing of it was used."""
        return bool(self.metrics) and all(self.usage[METRICS.index(metric)] == 0 for metric in self.metrics)

    @classmethod
    def silent(cls, metrics: tuple[str, ...], steps: int) -> "Demand":
        """Of an app of which nobody was heard."""
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
        )


def _add(heads: list[Record], column: str, axis: str, names: tuple[str, ...]) -> np.ndarray:
    """Sum over the shards that have it, NaN where none has."""
    total = np.full(len(names), np.nan)
    for head in heads:
        for name, value in zip(head[axis], np.frombuffer(head[column], "<f8"), strict=True):
            at = names.index(name)
            if not np.isnan(value):
                total[at] = value if np.isnan(total[at]) else total[at] + value
    return total
