"""A stage as `pipeline.stages` runs it, quick to start: a stand-in for the behaviour model, of NumPy.

    python -m tests.faults.stage worker --supervised

The network takes half a minute of a loaded core to load and compile; what a kill can break is everything else. The
stand-in forecasts a running mean and spread that depend on every value before, so that a tick that is lost or
folded twice shows in every forecast after it. `test_worker_killed` has the network.

A worker dies where DIE_AT says, as by SIGKILL: "agent step count", at the count-th time that it gets there. Its steps
are those of `pipeline.runtime.fenced_state`'s protocol.
"""

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer

from models.behaviour.error_dependence import Dependence
from models.behaviour.features import TRACKED
from models.behaviour.lstm import CARD, DEFAULT_MODEL, BehaviourModel, State, initial_state
from models.learning import app_learner
from models.metrics import METRICS, STEPS
from models.quantile_function import QuantileFunction, Z
from pipeline.runtime import fenced_state
from pipeline.stages import __main__ as stages

STEPS_OF_DEATH = (
    "fence", "fenced", "restored", "folding", "folded", "flush", "flushed", "block", "blocks", "committed",
    "acknowledged", "all-acknowledged",
)  # fmt: skip
FADE = np.float32(0.8)


class StandIn(BehaviourModel):
    """Has `BehaviourModel`'s interface, and nothing to learn."""

    def __init__(self) -> None:
        self.facts = json.loads((DEFAULT_MODEL / CARD).read_text())
        self.model_id = "stand-in"

    @property
    def dependence(self) -> Dependence:
        facts = self.facts["dependence"]
        return Dependence(
            np.array(facts["shared"]), np.array(facts["metric_correlation"]), float(facts["step_correlation"])
        )

    def initial_state(self, n: int) -> State:
        return initial_state(n)

    def step(
        self, state: State, values: Any, events: Any, saturated: Any, *, tick: int, tick_s: int
    ) -> tuple[State, QuantileFunction, dict[str, Any]]:
        new = {name: array.copy() for name, array in state.items()}
        wide = len(METRICS)
        mean, spread, count = (state["h"][:, i * wide : (i + 1) * wide] for i in range(3))
        heard = ~np.isnan(values)
        value = np.where(heard, values, 0).astype(np.float32)
        first = heard & (count == 0)
        fade = np.where(heard, np.where(first, np.float32(0), FADE), np.float32(1))
        after = fade * mean + (1 - fade) * value
        error = np.where(heard & ~first, value - mean, np.float32(np.nan))
        width = fade * spread + (1 - fade) * np.abs(np.where(first, value / 4, value - after))
        events = np.nan_to_num(events).sum(axis=1, keepdims=True).astype(np.float32)
        new["h"][:, : 3 * wide] = np.concatenate(
            [after, width + events * np.float32(1e-6), count + heard], axis=1
        )
        scale = np.maximum(width, 1e-3 * np.abs(after) + 1e-6).astype(np.float32)
        location = np.where(new["h"][:, 2 * wide : 3 * wide] > 0, after, np.float32(np.nan))
        shape = (len(values), wide, STEPS)
        offsets = np.broadcast_to(Z.astype(np.float16), (*shape, len(Z)))
        scores = np.clip(error / np.maximum(spread, np.float32(1e-6)), -3, 3).astype(np.float16)
        return (
            new,
            QuantileFunction(
                np.repeat(location[..., None], STEPS, axis=2),
                np.repeat(scale[..., None], STEPS, axis=2),
                offsets.copy(),
            ),
            {
                "cold_start": count[:, 0] < 2,
                "censored": saturated & heard,
                "scores": np.repeat(scores[..., None], len(TRACKED), axis=2),
            },
        )


def die_at(place: str) -> None:
    """Let this process end by SIGKILL at "agent step count"."""
    agent, step, count = place.split()
    left = int(count)

    def reached(name: str, where: str) -> None:
        nonlocal left
        if (name, where) == (agent, step):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(kind: type, method: str, before: str, after: str, name_of: Callable[[Any], str]) -> None:
        original = getattr(kind, method)

        def wrapped(self: Any, *args: Any, **more: Any) -> Any:
            reached(name_of(self), before)
            result = original(self, *args, **more)
            reached(name_of(self), after)
            return result

        setattr(kind, method, wrapped)

    class Fence(fenced_state.Producer):
        """The transactional producer, watched; whose it is, its transactional id says."""

        def __init__(self, options: dict[str, Any]) -> None:
            super().__init__(options)
            self.agent = options["transactional.id"].split("-")[-2]

        def init_transactions(self, *args: Any, **more: Any) -> None:
            reached(self.agent, "fence")
            super().init_transactions(*args, **more)
            reached(self.agent, "fenced")

        def begin_transaction(self) -> None:
            reached(self.agent, "flushed")
            super().begin_transaction()

        def produce(self, *args: Any, **more: Any) -> None:
            super().produce(*args, **more)
            self.flush()  # the broker has it, in an open transaction
            reached(self.agent, "block")

        def commit_transaction(self, *args: Any, **more: Any) -> None:
            reached(self.agent, "blocks")
            super().commit_transaction(*args, **more)
            reached(self.agent, "committed")

    class Event:
        """A held event, watched."""

        def __init__(self, event: Any, name: str) -> None:
            self.event, self.name = event, name

        def ack(self) -> None:
            self.event.ack()
            reached(self.name, "acknowledged")

    fenced_state.Producer = Fence  # pyright: ignore
    around(fenced_state.Owned, "open", "", "restored", lambda owned: owned.name)
    around(fenced_state.Owned, "snapshot", "flush", "", lambda owned: owned.name)
    snapshot = fenced_state.Owned.snapshot
    fenced_state.Owned.snapshot = lambda self: [Event(event, self.name) for event in snapshot(self)]  # pyright: ignore
    make = fenced_state.Agent.__init__

    def watched(
        self: Any, name: str, source: str, settings: Any, outputs: Any, of: Callable[[int], Any]
    ) -> None:
        def stage(shard: int) -> Any:
            made = of(shard)
            fold = made.fold

            def folding(value: bytes) -> Any:
                reached(name, "folding")
                place = fold(value)
                reached(name, "folded")
                return place

            made.fold = folding
            return made

        make(self, name, source, settings, outputs, stage)

    fenced_state.Agent.__init__ = watched  # pyright: ignore
    taken = fenced_state.Agent._snapshot

    async def settled(self: Any, owned: Any) -> None:
        await taken(self, owned)
        reached(self.name, "all-acknowledged")

    fenced_state.Agent._snapshot = settled


def fail_when_full(flag: Path) -> None:
    """While a file is there, nothing can be forced to disk."""
    fsync = os.fsync

    def full(number: int) -> None:
        if flag.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    os.fsync = full


if __name__ == "__main__":
    if flag := os.environ.get("FULL"):
        fail_when_full(Path(flag))
    if flag := os.environ.get("JUMPED"):
        wall = time.time
        jumped = Path(flag)
        time.time = lambda: wall() + 86_400.0 * jumped.exists()
    BehaviourModel.load = classmethod(lambda *_: StandIn())  # pyright: ignore
    if seconds := os.environ.get("LEAST_S"):
        app_learner.LEAST_S = float(seconds)  # pyright: ignore
    if place := os.environ.get("DIE_AT"):
        die_at(place)
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    for stage in (stages.ingest, stages.worker, stages.actuator):
        app.command()(stage)
    stages.run(app, stages.AGAIN_EXIT)
