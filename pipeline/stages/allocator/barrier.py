"""Collects scenario records of a `scenarios` partition until every shard has sent its part of a tick.

Within a partition the messages of a shard are in the order of its ticks: the scenarios of a tick, then a marker. Shard
s is therefore complete for tick t once a marker of s for t or a later tick was read, also if s started after t or has
no scenarios in this partition. Records that arrive twice are dropped: a restarted simulator publishes its last ticks
again with the same bytes.
"""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.wire.codec import Record


@dataclass
class Barrier:
    """Scenarios of ticks that are not planned yet.

    Attributes:
        partitions: shards to wait for.
        planned: the last tick that was planned; None before the first.
        latest: tick of the newest marker, by shard.
        pending: scenario records by tick, app and (shard, part).
        sent: (shard, app) of the scenarios that markers list as sent, by tick.
        telemetry: counts of apps' used and refused records from the markers, by tick.
    """

    partitions: int
    planned: int | None = None
    latest: dict[int, int] = field(default_factory=dict[int, int])
    pending: dict[int, dict[str, dict[tuple[int, int], Record]]] = field(
        default_factory=dict[int, dict[str, dict[tuple[int, int], Record]]]
    )

    sent: dict[int, set[tuple[int, str]]] = field(default_factory=dict[int, set[tuple[int, str]]])
    telemetry: dict[int, list[Record]] = field(default_factory=dict[int, list[Record]])

    def add(self, name: str, record: Record) -> bool:
        """Add a scenario or marker record; False for a repeat, and for a tick that was planned already."""
        tick, shard = record["tick"], record["shard"]
        if self.planned is not None and tick <= self.planned:
            return False
        apps = self.pending.setdefault(tick, {})
        if name == "marker":
            if self.latest.get(shard, tick - 1) >= tick:
                return False
            self.latest[shard] = tick
            self.sent.setdefault(tick, set()).update((shard, app) for app in record["apps"])
            self.telemetry.setdefault(tick, []).extend(record["telemetry"])
            return True
        parts = apps.setdefault(record["app"], {})
        if (shard, record["part"]) in parts:
            return False
        parts[shard, record["part"]] = record
        return True

    def next_tick(self) -> int | None:
        """The tick that is planned next, complete or not; None where no record is pending."""
        return min(self.pending, default=None)

    def missing(self, tick: int) -> list[int]:
        """Numbers of the shards whose marker for this tick, or a later one, has not arrived."""
        return [shard for shard in range(self.partitions) if self.latest.get(shard, tick - 1) < tick]

    def groups(self, tick: int) -> set[str]:
        """Allocation groups for which a shard has sent scenarios of a tick."""
        apps = self.pending.get(tick, {}).values()
        return {part["allocation_group"] for parts in apps for part in parts.values()}

    def pop(self, tick: int) -> dict[str, list[Record]]:
        """Remove a complete tick, which then counts as planned; returns its scenarios by app, by shard and part.

        An app is left out if any of its records is missing (deleted by retention while no allocator ran): the sum of
        the remaining shards would understate its demand.
        """
        self.planned = tick
        apps, sent = self.pending.pop(tick), self.sent.pop(tick, set())
        torn = {app for shard, app in sent if not any(place[0] == shard for place in apps.get(app, {}))}
        for app, parts in apps.items():
            counts = Counter(shard for shard, _ in parts)
            if any(counts[shard] != part["of"] for (shard, _), part in parts.items()):
                torn.add(app)
        return {app: [apps[app][place] for place in sorted(apps[app])] for app in sorted(apps.keys() - torn)}
