"""Data of the local provider: faults, versions of offers, life of an instance, and state of a target."""

import json
import os
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import inf
from pathlib import Path
from statistics import NormalDist
from typing import Any
from urllib.parse import quote

from models.evaluation.instance_life import log_startup
from pipeline.errors import UsageError
from pipeline.providers.base import Record

KEPT_S = 86_400.0
"""How far back of the last change a target can be observed: a restarted actuator observes its last ticks
again (a few minutes); a day is ample and bounds the file."""
KEPT_RESULTS = 64
"""Results kept per target; an older repeat is refused by its epoch."""
LONGEST_NAME = 240
"""Bytes of a quoted name that a file is called by as it is: file systems take 255, with the suffix."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong, injected by configuration; the defaults follow the offer's own figures.

    Attributes:
        startup: factor on every start-up time of an instance.
        launch_failure: probability that a launch fails; None: the offer's.
        launch_retry_s: after a failure, until the next attempt.
        permanent: targets (`app/offer`) whose launches always fail, and are not tried again.
        interruption_h: interruptions per hour of every spot instance; None: the offer's.
        rejected: targets whose commands are rejected.
        unavailable: probability that one call of `apply` is answered with `Retryable`.
        retry_after_s: which then asks for so much patience.
        partial: probability that `apply` goes half of the way, and says so.
        hang: probability that one call of `apply` hangs for `hang_s` (wall clock) and then fails as
            `Retryable`.
        replica_startup_s: from a replica's placement on a shared node until it serves.
    """

    startup: float = 1.0
    launch_failure: float | None = None
    launch_retry_s: float = 60.0
    permanent: frozenset[str] = frozenset()
    interruption_h: float | None = None
    rejected: frozenset[str] = frozenset()
    unavailable: float = 0.0
    retry_after_s: float = 30.0
    partial: float = 0.0
    hang: float = 0.0
    hang_s: float = 60.0
    replica_startup_s: float = 10.0

    @classmethod
    def read(cls, path: Path) -> "Faults":
        """From a JSON object of the attributes; the defaults where there is no file.

        Raises:
            UsageError: not such an object.
        """
        if not path.exists():
            return cls()
        try:
            values = json.loads(path.read_text())
            sets = {name: frozenset(values[name]) for name in ("permanent", "rejected") if name in values}
            return cls(**values | sets)
        except (ValueError, TypeError) as error:
            raise UsageError(f"faults in {path}: {error}") from None


@dataclass(frozen=True)
class LocalOffer:
    """One version of an offer: what the simulation needs of a `price` record."""

    valid_from_tick: int
    version: int
    tier: str
    allocatable: dict[str, float]
    startup_p50_s: float
    startup_p99_s: float
    launch_failure: float
    interruption_h: float
    notice_s: float
    billing_min_s: float
    owned_count: int | None
    zone: str = ""

    @classmethod
    def of(cls, price: Record) -> "LocalOffer":
        """From a decoded record `price`."""
        overhead = {item["metric"]: item["value"] for item in price["reserved_overhead"]}
        return cls(
            valid_from_tick=price["valid_from_tick"],
            version=price["version"],
            tier=price["tier"],
            allocatable={c["metric"]: c["value"] - overhead.get(c["metric"], 0.0) for c in price["capacity"]},
            startup_p50_s=price["startup_p50_s"],
            startup_p99_s=price["startup_p99_s"],
            launch_failure=price["launch_failure"],
            interruption_h=price["interruption"] if price["tier"] == "SPOT" else 0.0,
            notice_s=price["notice_s"],
            billing_min_s=price["billing_min_s"],
            owned_count=price["owned_count"],
            zone=f"{price['region']}/{price['zone']}",
        )

    def startup(self) -> NormalDist:
        """Distribution of the logarithm of the start-up time, of the offer's median and 99 %."""
        return log_startup(self.startup_p50_s, self.startup_p99_s)


@dataclass
class Instance:
    """Life of one instance; event times in unix seconds, infinite for what never happens.

    Attributes:
        ready_s: infinite where the launch fails.
        leaves_s: no longer counted on: when its interruption is announced, or a failed launch is given up.
            Then its successor is launched.
        ends_s: not there any more by itself (failed, or taken at the end of its notice), and not billed
            after.
        released_s, drain_s: chosen by a shrink, and for how long it then drains.
        succeeded: the successor is launched.
    """

    serial: int
    requested_s: float
    ready_s: float
    leaves_s: float
    ends_s: float
    released_s: float = inf
    drain_s: float = 0.0
    succeeded: bool = False

    def state(self, at_s: float) -> str:
        """One of Observation's five, or "" while it does not exist."""
        if at_s < self.requested_s or at_s >= max(self.leaves_s, self.ends_s):
            return ""
        if at_s >= self.released_s:
            return "draining" if at_s < self.end_s else ""
        if at_s >= self.ends_s:
            return "failed"
        if at_s >= self.leaves_s:
            return "interrupted"
        return "ready" if at_s >= self.ready_s else "pending"

    @property
    def end_s(self) -> float:
        """Event time at which the instance no longer exists, as far as it is determined."""
        return min(self.ends_s, self.released_s + self.drain_s)


@dataclass
class State:
    """One target. `changes`: (event time, generation, command id), oldest first."""

    started_s: float
    clock_s: float
    desired: int = 0
    epoch: int = -1
    serial: int = 0
    billed_s: float = 0.0
    instances: list[Instance] = field(default_factory=list[Instance])
    changes: list[tuple[float, int, str]] = field(default_factory=list[tuple[float, int, str]])
    results: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def copy(self) -> "State":
        """A copy with instances of its own (`deepcopy` takes ten times as long)."""
        return replace(
            self,
            instances=[copy(instance) for instance in self.instances],
            changes=list(self.changes),
            results=dict(self.results),
        )

    @classmethod
    def read(cls, path: Path) -> "State":
        """Read the file that `write` wrote."""
        values = json.loads(path.read_text())
        values["instances"] = [Instance(**instance) for instance in values["instances"]]
        values["changes"] = [(at_s, generation, command) for at_s, generation, command in values["changes"]]
        return cls(**values)

    def write(self, path: Path) -> None:
        """Replace the file (`replaced`)."""
        replaced(path, {**vars(self), "instances": [vars(instance) for instance in self.instances]})


def replaced(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file whole: written beside it, forced to disk, renamed over it."""
    draft = path.with_name(path.name.removesuffix(".json") + ".draft")
    with draft.open("w") as file:
        file.write(json.dumps(values))  # `json.dump` does not use the encoder in C
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def file_of(folder: Path, name: str) -> Path:
    """The file of a target or group: its name quoted, or a hash of it where that is too long for a file system."""
    quoted = quote(name, safe="")
    if len(quoted) > LONGEST_NAME:
        quoted = f"#{blake2b(name.encode(), digest_size=16).hexdigest()}"  # quoted names have no #
    return folder / f"{quoted}.json"
