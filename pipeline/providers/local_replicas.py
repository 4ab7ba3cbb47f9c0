"""Data of replicas on the local provider's shared nodes: what is wanted of an app over time, and its file."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from pipeline.providers.local_instances import replaced


@dataclass(frozen=True)
class ReplicaSet:
    """Replicas of an app: how many, on whose nodes, and what one asks for by metric; the higher priority first.

    zone_share: most of them in one zone; None: no limit.
    """

    desired: int
    group: str
    size: Mapping[str, float]
    priority: int = 0
    zone_share: float | None = None

    def fault(self) -> str | None:
        """What is wrong with it, or None."""
        if not self.group:
            return "replicas must name the allocation group on whose nodes they are"
        if self.zone_share is not None and not 0 < self.zone_share <= 1:
            return f"zone_share must be above 0 and at most 1, got {self.zone_share}"
        sizes = self.size.values()
        if not all(isfinite(value) and value >= 0 for value in sizes) or not any(sizes):
            return f"a replica must ask for a finite amount above 0 of a metric, got {dict(self.size)}"
        return None


@dataclass(frozen=True)
class Change:
    """What is wanted of an app from a time on; `running`: those that find room at that time serve at once."""

    at_s: float
    generation: int
    command_id: str
    wanted: ReplicaSet
    running: bool = False


@dataclass
class AppReplicas:
    """State of one target `app/replicas`: its changes, oldest first, and its results by command id."""

    ref: str
    epoch: int = -1
    changes: list[Change] = field(default_factory=list[Change])
    results: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @property
    def app(self) -> str:
        """Name of the app."""
        return self.ref.rpartition("/")[0]

    def at(self, at_s: float) -> Change | None:
        """The change that is in force."""
        place = bisect_right(self.changes, at_s, key=lambda change: change.at_s)
        return self.changes[place - 1] if place else None

    @classmethod
    def read(cls, path: Path) -> AppReplicas:
        """Read the file that `write` wrote."""
        values: dict[str, Any] = json.loads(path.read_text())
        changes: list[dict[str, Any]] = values.pop("changes")
        read = [Change(wanted=ReplicaSet(**change.pop("wanted")), **change) for change in changes]
        return cls(**values, changes=read)

    def write(self, path: Path) -> None:
        """Replace the file."""
        changes = [{**vars(change), "wanted": vars(change.wanted)} for change in self.changes]
        replaced(path, {**vars(self), "changes": changes})
