"""The stages themselves over a window of topics: the plans that they published, and those of other settings.

`TopicSimulation` holds what all workers of an installation hold: a profiler and a simulator for each partition of
frames, an allocator for each of scenarios. Messages between them are encoded and decoded as on the wire. So where the
window begins with the installation's first frames, plans and commands are those that it published, byte for byte:
versions of side inputs and the observation that a plan began with are those that its record names. Beside them, lanes
plan the same scenarios with simulated instances, as on a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.behaviour.lstm import BehaviourModel
from models.planning import groups
from models.tick import Tick
from pipeline.backtest.job import Arrays, Job
from pipeline.backtest.parallel import days, resume
from pipeline.backtest.simulation import Simulation
from pipeline.backtest.topic_window import TopicWindow, since
from pipeline.errors import Poison, UsageError
from pipeline.inputs.model_folder import load_model
from pipeline.kafka import reader
from pipeline.progress import Progress, silent
from pipeline.security.signing_keys import SigningKey, demo_key, read_private
from pipeline.settings import Settings
from pipeline.stages.allocator.agent import Allocator
from pipeline.stages.allocator.decide import Decide
from pipeline.stages.allocator.requests import PlanRecords, PlanRequest
from pipeline.stages.profiler.agent import Profiler
from pipeline.stages.simulator.agent import Simulator
from pipeline.wire import json_lines
from pipeline.wire.codec import Codec, Record

KEPT: Final = ("plans", "commands")


class _Allocator(Allocator):
    """An allocator that keeps the decisions of its plans."""

    requests: dict[int, dict[str, PlanRequest]]

    def _plan_records(
        self, app: str, request: PlanRequest, decided: groups.Decision, tick: Tick
    ) -> PlanRecords:
        if app in self.apps:
            self.requests.setdefault(tick.number, {})[app] = request
        return super()._plan_records(app, request, decided, tick)


class TopicSimulation(Simulation):
    """An installation's stages over a window.

    Args:
        job: its lanes.
        model: that the installation used.
        recorded: the window.
        pinned: whether plans use the versions that the published ones name; not where an input is changed.
    """

    def __init__(
        self, job: Job, model: BehaviourModel, recorded: TopicWindow, *, pinned: bool = True
    ) -> None:
        super().__init__(job)
        self.recorded, self.pinned = recorded, pinned
        settings = recorded.settings.model_copy(update={"scenarios": job.scenarios, "seed": job.seed})
        self.codec, inputs = Codec(settings.registry_url), recorded.inputs
        key, xp = key_of(settings), _array_module()
        numbers = range(settings.partitions)
        self.profilers = [
            Profiler(n, model, self.codec, self._publish, settings.user_capacity) for n in numbers
        ]
        self.simulators = [
            Simulator(
                n,
                xp,
                model.dependence,
                inputs,
                self.codec,
                self._publish,
                settings,
            )
            for n in numbers
        ]
        self.allocators = [
            _Allocator(n, model, inputs, self.codec, self._publish, key, settings) for n in numbers
        ]
        self.waiting: list[list[tuple[int, bytes]]] = [[] for _ in numbers]
        self.published: list[tuple[int, bytes]] = []
        for allocator in self.allocators:
            allocator.requests = {}
            self._restore(allocator, {})

    def _restore(self, allocator: Allocator, blocks: dict[bytes, bytes]) -> None:
        allocator.restore(blocks)
        if not self.pinned:
            allocator.pinned = {}

    def _publish(self, topic: str, name: str, record: Record, *, partition: int, key: str) -> None:
        """To the stage that consumes it; plans and commands are kept."""
        del key
        if topic == "forecasts":
            self.simulators[partition].fold(self.codec.encode(name, record))
        elif topic == "scenarios":
            value, allocator = self.codec.encode(name, record), self.allocators[partition]
            self.waiting[partition].append((record["tick"], value))
            allocator.fold(value)
            self.waiting[partition] = [w for w in self.waiting[partition] if w[0] > allocator.done]
        elif topic in KEPT:
            self.published.append((KEPT.index(topic), self.codec.encode(name, record)))

    def decided(self, t: int, plans: bool) -> dict[str, tuple[Decide, int]]:
        """Pass the row's frames through the stages; see `Simulation.decided`."""
        tick = self.job.first_tick + t
        for shard, frames in sorted(self.recorded.frames.items()):
            for part in frames.get(tick, ()):
                self.profilers[shard].fold(self.codec.encode("frame", part))
        requests: dict[str, PlanRequest] = {}
        for allocator in self.allocators:
            requests |= allocator.requests.get(tick, {})
            allocator.requests.clear()
        return (
            {name: (requests[name].decide, requests[name].users) for name in sorted(requests)}
            if plans
            else {}
        )

    def run(self, progress: Callable[[int], None] = lambda row: None) -> Iterator[Arrays]:
        """Days as of `Simulation.run`, with the records that were published in them."""
        for day in super().run(progress):
            values = [value for _, value in self.published]
            yield day | {
                "published": np.frombuffer(b"".join(values), np.uint8),
                "published.size": np.array([len(value) for value in values], np.int64),
                "published.topic": np.array([topic for topic, _ in self.published], np.int64),
            }
            self.published = []

    def blocks(self) -> Arrays:
        """A snapshot: lanes, stages, and scenarios that wait for another shard's."""
        blocks = self.lane_blocks()
        for name, stages in self._stages():
            for stage in stages:
                for key, value in stage.blocks():
                    blocks[f"{name}-{stage.shard}\n{key.decode('latin-1')}"] = np.frombuffer(value, np.uint8)
        for number, waiting in enumerate(self.waiting):
            for place, (_, value) in enumerate(waiting):
                blocks[f"waiting-{number}\n{place:06d}"] = np.frombuffer(value, np.uint8)
        return blocks

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""
        self.restore_lanes(blocks)

        def of(start: str) -> dict[bytes, bytes]:
            names = (name for name in sorted(blocks) if name.startswith(f"{start}\n"))
            return {n.partition("\n")[2].encode("latin-1"): blocks[n].tobytes() for n in names}

        for name, stages in self._stages():
            for stage in stages:
                stored = of(f"{name}-{stage.shard}")
                if isinstance(stage, Allocator):
                    self._restore(stage, stored)
                else:
                    stage.restore(stored)
        for number, allocator in enumerate(self.allocators):
            for value in of(f"waiting-{number}").values():
                self.waiting[number].append((self.codec.decode(value)[1]["tick"], value))
                allocator.fold(value)

    def _stages(self) -> list[tuple[str, list[Any]]]:
        return [
            ("profiler", self.profilers),
            ("simulator", self.simulators),
            ("allocator", self.allocators),
        ]


def run(
    job: Job,
    recorded: TopicWindow,
    model: Path,
    folder: Path,
    *,
    pinned: bool = True,
    progress: Progress = silent,
) -> tuple[Arrays, dict[str, list[bytes]]]:
    """The lanes' outcomes, and plans and commands as encoded, in the order of publication.

    Args:
        job: its rows are the window's.
        recorded: the window.
        model: folder of the model.
        folder: of days and snapshots; a run that was killed goes on from the last one.
        pinned: see `TopicSimulation`.
        progress: of the ticks.
    """
    folder = folder / "topics"
    folder.mkdir(parents=True, exist_ok=True)

    def report(row: int) -> None:
        progress("planning", row, len(job.values))

    resume(
        lambda: TopicSimulation(job, load_model(model), recorded, pinned=pinned),
        len(job.values),
        folder,
        report,
    )
    outcomes = days(folder)
    whole = outcomes.pop("published").tobytes()
    sizes, which = outcomes.pop("published.size"), outcomes.pop("published.topic").tolist()
    values = [whole[a:b] for a, b in pairwise([0, *np.cumsum(sizes).tolist()])]
    published: dict[str, list[bytes]] = {name: [] for name in KEPT}
    for topic, value in zip(which, values, strict=True):
        published[KEPT[topic]].append(value)
    return outcomes, published


def compare(recorded: TopicWindow, made: Mapping[str, list[bytes]], first: int, last: int) -> dict[str, Any]:
    """Plans and commands against what the installation published for the same ticks, byte for byte.

    Args:
        recorded: the window.
        made: encoded records, by topic.
        first, last: ticks that are compared.

    Returns:
        by topic how many are the same, differ, were published only, and are here only, with the first that differs;
        commands that differ by their signature alone (the key is not here) are the same, and counted beside.
    """
    settings, codec = recorded.settings, Codec(recorded.settings.registry_url)
    counts: dict[str, Any] = {"from_the_beginning": recorded.whole}
    for topic in KEPT:
        theirs = _published(settings, topic, codec, first, last)
        ours = {
            name: value for value in made[topic] for name, _ in [_name(codec, value, first, last)] if name
        }
        both = sorted(theirs.keys() & ours.keys(), key=lambda name: (theirs[name][1], name))
        differ = [name for name in both if theirs[name][0] != ours[name]]
        unsigned = [
            name
            for name in differ
            if topic == "commands" and _unsigned(codec, theirs[name][0]) == _unsigned(codec, ours[name])
        ]
        wrong = [name for name in differ if name not in set(unsigned)]
        counts[topic] = {
            "same": len(both) - len(wrong),
            "signature_not_compared": len(unsigned),
            "different": len(wrong),
            "published_only": len(theirs.keys() - ours.keys()),
            "here_only": len(ours.keys() - theirs.keys()),
            "first_different": _difference(codec, wrong[0], theirs[wrong[0]][0], ours[wrong[0]])
            if wrong
            else None,
        }
    return counts


def _published(
    settings: Settings, topic: str, codec: Codec, first: int, last: int
) -> dict[str, tuple[bytes, int]]:
    """By name, the first occurrence of each record of those ticks, and its tick."""
    published: dict[str, tuple[bytes, int]] = {}
    for number in range(settings.partitions):
        low, high = reader.bounds(settings, topic, number)
        begin = since(settings, topic, number, first * settings.tick_s - settings.max_ahead_s, high)
        if max(low, begin) >= high:
            continue
        for message in reader.read(settings, topic, {number: max(low, begin)}, {number: high}):
            value = message.value() or b""
            name, tick = _name(codec, value, first, last)
            if name:
                published.setdefault(name, (value, tick))
    return published


def _name(codec: Codec, value: bytes, first: int, last: int) -> tuple[str, int]:
    """What identifies a plan or command of those ticks, and its tick; "" for others."""
    try:
        _, record = codec.decode(value)
    except Poison:
        return "", 0
    tick = record["epoch"] if "epoch" in record else record["tick"]
    return (record["id"] if "epoch" in record else record["plan_id"]) if first <= tick <= last else "", tick


def _unsigned(codec: Codec, value: bytes) -> Record:
    return codec.decode(value)[1] | {"key_id": "", "signature": b""}


def _difference(codec: Codec, name: str, theirs: bytes, ours: bytes) -> str:
    one, two = codec.decode(theirs)[1], codec.decode(ours)[1]
    fields = [field for field in two if one.get(field) != two[field]]
    return f"{name}: {', '.join(fields) or 'written with another version of the schema'}"


def write(folder: Path, recorded: TopicWindow, made: Mapping[str, list[bytes]]) -> None:
    """`plans.jsonl` and `commands.jsonl`, as the demo writes what was published."""
    codec = Codec(recorded.settings.registry_url)
    plans, commands = ([codec.decode(value)[1] for value in made[topic]] for topic in KEPT)
    json_lines.lines(folder / "plans.jsonl", sorted(plans, key=lambda p: (p["app"], p["tick"])))
    json_lines.lines(
        folder / "commands.jsonl", sorted(commands, key=lambda c: (c["epoch"], c["plan_id"], c["order"]))
    )


def key_of(settings: Settings) -> SigningKey:
    """The installation's signing key where it is here, else the demo's: none is made."""
    path = settings.signing_key_file or settings.data_dir / "keys" / "signing.pem"
    if settings.demo_keys or not path.is_file():
        return demo_key()
    try:
        return read_private(path)
    except UsageError:  # a public key alone, as an actuator has it
        return demo_key()


def _array_module() -> Any:
    from pipeline.stages.worker import array_module  # Faust is a second of imports

    return array_module()
