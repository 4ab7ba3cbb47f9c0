"""A provider: desired counts in files that another tool applies, as in a repository that a cluster follows.

    python examples/provider.py deployments/

For the target `shop/eu1-m4-spot` it writes `deployments/shop/eu1-m4-spot.json` with the count that is wanted. Whatever
applies the file reports in `eu1-m4-spot.ready` how many instances serve; until then they are pending.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leadtime import Observation, Provider, Rejected, Result, Retryable, Target, load_settings, run

EMPTY: dict[str, Any] = {"desired": 0, "generation": 0, "epoch": -1, "command_id": "", "results": {}}
KEPT_RESULTS = 100
"""Results kept of a target: a command that comes again after a crash is among the last few."""


class Files(Provider):
    """One JSON file a target.

    Args:
        folder: where the files are.
        allocatable: what one instance has for replicas, by metric.
    """

    def __init__(self, folder: Path, allocatable: Mapping[str, float]) -> None:
        self.folder, self.allocatable = folder, dict(allocatable)

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """What the files say of a target."""
        state = self._read(target.ref)
        ready = self._ready(target.ref)
        return Observation(
            ready=min(ready, state["desired"]),
            pending=max(0, state["desired"] - ready),
            draining=max(0, ready - state["desired"]),
            allocatable=self.allocatable,
            generation=state["generation"],
            command_id=state["command_id"],
        )

    def apply(self, command: Mapping[str, Any], now_s: float) -> Result:
        """Write the desired count; once for each command id, and never an older epoch over a newer one."""
        ref, desired = command["target"]["ref"], command["desired"]
        state = self._read(ref)
        if (first := state["results"].get(command["id"])) is not None:
            return Result(**first)
        if command["epoch"] < state["epoch"]:
            raise Rejected(f"epoch {command['epoch']} is older than {state['epoch']}")
        result: dict[str, Any] = {
            "before": state["desired"],
            "after": desired,
            "accepted_s": now_s,
            "generation": state["generation"] + 1,
        }
        kept = dict(list(state["results"].items())[-KEPT_RESULTS:])
        self._write(
            ref,
            {
                "desired": desired,
                "generation": result["generation"],
                "epoch": command["epoch"],
                "command_id": command["id"],
                "results": kept | {command["id"]: result},
            },
        )
        return Result(**result)

    def _path(self, ref: str) -> Path:
        path = (self.folder / f"{ref}.json").resolve()
        if self.folder.resolve() not in path.parents:
            raise Rejected(f"target {ref!r} lies outside {self.folder}")
        return path

    def _read(self, ref: str) -> dict[str, Any]:
        try:
            return json.loads(self._path(ref).read_text())
        except FileNotFoundError:
            return EMPTY | {"results": {}}
        except OSError as error:
            raise Retryable(str(error), retry_after=5.0) from None

    def _ready(self, ref: str) -> int:
        try:
            return int(self._path(ref).with_suffix(".ready").read_text())
        except FileNotFoundError:
            return 0

    def _write(self, ref: str, state: Mapping[str, Any]) -> None:
        """Whole or not at all: a kill in between leaves the file as it was."""
        path = self._path(ref)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(json.dumps(state))
            os.replace(new, path)
        except OSError as error:
            raise Retryable(str(error), retry_after=5.0) from None


if __name__ == "__main__":
    # Follows the signed commands whose offers name the provider "files" (`provider` in prices).
    run(load_settings(), {"files": Files(Path(sys.argv[1]), {"cpu": 3.5, "memory": 14 * 2.0**30})})
