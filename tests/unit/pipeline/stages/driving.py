"""Drives profiler, simulator and allocator without Kafka."""

import random
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import numpy as np
import pytest

from models.behaviour.error_dependence import Dependence
from models.behaviour.lstm import BehaviourModel
from models.metrics import METRICS
from pipeline.inputs.store import SideInputs
from pipeline.runtime.fenced_state import Publish, Stage
from pipeline.security import signing_keys
from pipeline.security.pseudonyms import Key, KeyRing
from pipeline.settings import Settings
from pipeline.stages.allocator.agent import Allocator
from pipeline.stages.ingest.service import Partition
from pipeline.stages.profiler.agent import Profiler
from pipeline.stages.simulator.agent import Simulator
from pipeline.wire.codec import DEFAULT, Record
from tests.unit.pipeline.messages import NOW_US, TICK_S, FakeMessage, event, metric, watermark

TICKS = 6
Published = list[tuple[str, str, Record, int]]


def frames(settings: Settings, shard: int, users: dict[str, list[str]]) -> list[bytes]:
    """Frames of one shard: users by app, each with usage that rises by the tick and depends on its name."""
    part = Partition(
        shard,
        settings.model_copy(update={"partitions": 1, "max_ahead_s": 1e4}),
        DEFAULT,
        KeyRing.of(settings),
    )
    part.directory.partition = _Any(shard)
    bodies: list[bytes] = []
    events: list[bytes] = []
    for tick in range(TICKS):
        ts = NOW_US + tick * TICK_S * 1_000_000
        for app, names in users.items():
            for name in names:
                if (name.startswith("quiet") and tick in (2, 3)) or (name.startswith("late") and tick < 3):
                    continue
                size = 1.0 + len(name) + 0.3 * tick
                bodies.append(metric(ts, name, app, cpu=size, memory=size * 2e9))
                events.append(event(ts, name, app, count=3.0))
    end = NOW_US + TICKS * TICK_S * 1_000_000
    for topic, values in (("telemetry.metrics", bodies), ("telemetry.events", events)):
        part.take(
            topic,
            [
                FakeMessage(v, i, name=topic)
                for i, v in enumerate([watermark(NOW_US), *values, watermark(end)])
            ],
        )
    return [DEFAULT.encode("frame", record) for parts in part.close() for record in parts]


def keys(*begins_s: int, carry_over: bool = True) -> KeyRing:
    more = [Key(f"k{n}", b"key %d" % n, begin, carry_over) for n, begin in enumerate(begins_s, 1)]
    return KeyRing([Key("k0", b"key 0", 0), *more])


def framed(ring: KeyRing, usage: Sequence[tuple[float, str]], tick_s: int = TICK_S) -> list[list[Record]]:
    """The parts of each frame, of samples as (tick, user)."""
    settings = Settings(tick_s=tick_s, partitions=1, max_age_s=1e9, max_ahead_s=1e9, lateness_s=0)
    part = Partition(0, settings, DEFAULT, ring)
    sent = [metric(NOW_US + round(tick * tick_s * 1e6), user, cpu=len(user) + tick) for tick, user in usage]
    end_us = NOW_US + round((usage[-1][0] + 1) * tick_s * 1e6)
    end = watermark(end_us)
    for topic, bodies in (
        ("telemetry.metrics", [*sent, end]),
        ("telemetry.events", [watermark(NOW_US), end]),
    ):
        messages = [FakeMessage(body, at, produced_us=end_us, name=topic) for at, body in enumerate(bodies)]
        assert part.take(topic, messages) == []
    return [[DEFAULT.decode(DEFAULT.encode("frame", r))[1] for r in parts] for parts in part.close()]


class _Any(list[int]):
    """Every user belongs here."""

    def __init__(self, shard: int) -> None:
        super().__init__()
        self.shard = shard

    def append(self, _: int) -> None:
        super().append(self.shard)


class FakeInputs(SideInputs):
    """Side inputs without Kafka."""

    def __init__(
        self, settings: Settings, policies: Iterable[Record] = (), prices: Iterable[Record] = ()
    ) -> None:
        super().__init__(settings)
        for topic, name, records in (("policies", "policy", policies), ("prices", "price", prices)):
            for record in records:
                self._take(topic, DEFAULT.encode(name, record))


def policy(app: str, **fields: object) -> Record:
    amounts = [{"metric": "cpu", "value": 4.0}, {"metric": "memory", "value": 8e9}]
    return {
        "app": app, "version": 1, "valid_from_tick": 0, "mode": "auto", "allocation_group": app,
        "governed": ["cpu", "memory"], "unit": amounts, "max": 200,
    } | fields  # fmt: skip


def price(offer: str, tier: str, amount: str, **fields: object) -> Record:
    return {
        "offer_id": offer, "version": 1, "valid_from_tick": 0, "provider": "local", "tier": tier,
        "instance_type": "two", "price": Decimal(amount), "pool": offer,
        "capacity": [{"metric": "cpu", "value": 8.0}, {"metric": "memory", "value": 16e9}],
        "startup_p50_s": 20.0, "startup_p90_s": 30.0, "startup_p99_s": 50.0,
    } | fields  # fmt: skip


PRICES = [
    price("kept", "RESERVED", "0.05", owned_count=2),
    price("plain", "ON_DEMAND", "0.10"),
    price("spare", "SPOT", "0.03", interruption=0.05),
]


def drive(make: Callable[[Publish], Stage], inputs: list[bytes], restart_at: int | None) -> Published:
    """Fold everything; where asked, throw the stage away after a snapshot some messages before, as a kill does."""
    published: Published = []

    def publish(topic: str, name: str, record: Record, *, partition: int, key: str) -> None:
        del key
        published.append((topic, name, DEFAULT.decode(DEFAULT.encode(name, record))[1], partition))

    stage = make(publish)
    snapshot: dict[bytes, bytes] = {}
    covered = 0
    for number, value in enumerate(inputs):
        stage.fold(value)
        if restart_at is not None and number == restart_at - 3:
            snapshot, covered = dict(stage.blocks()), stage.done
        if number == restart_at:
            stage = make(publish)
            stage.restore(snapshot)
            assert stage.done == covered
            for again in inputs[: number + 1]:
                stage.fold(again)
    return published


def distinct(published: Published) -> list[bytes]:
    """First occurrences, as bytes; a repeat must be the same bytes."""
    seen: dict[tuple[object, ...], bytes] = {}
    for topic, name, record, partition in published:
        data = DEFAULT.encode(name, record)
        app, part = record.get("app", ""), record.get("part", 0)
        key = (topic, name, partition, app, record.get("id", ""), record.get("tick", 0), part)
        assert seen.setdefault(key, data) == data
    return list(seen.values())


GROUPS = ["shop", "blog"]  # allocation groups of the two apps
USERS = {"shop": ["ann", "bobby", "quiet-charles"], "blog": ["dora"]}


def forecasts(
    model: BehaviourModel, settings: Settings, shard: int, users: dict[str, list[str]]
) -> list[bytes]:
    published = drive(
        lambda publish: Profiler(shard, model, DEFAULT, publish, 100), frames(settings, shard, users), None
    )
    return [DEFAULT.encode(name, record) for _, name, record, _ in published]


def simulator(settings: Settings, shard: int) -> Callable[[Publish], Simulator]:
    def make(publish: Publish) -> Simulator:
        policies = [
            policy(app, allocation_group=of) for app, of in zip(("shop", "blog"), GROUPS, strict=True)
        ]
        return Simulator(
            shard, np, Dependence.independent(len(METRICS)), FakeInputs(settings, policies),
            DEFAULT, publish, settings,
        )  # fmt: skip

    return make


SECOND = {"shop": ["eve", "frank"]}


def scenarios(
    model: BehaviourModel, settings: Settings, second: dict[str, list[str]] = SECOND
) -> list[bytes]:
    """Messages of the scenarios partition on which both apps' groups are put, of two shards, interleaved."""
    shards = [
        drive(simulator(settings, 0), forecasts(model, settings, 0, USERS), None),
        drive(simulator(settings, 1), forecasts(model, settings, 1, second), None),
    ]
    streams = [
        [DEFAULT.encode(name, r) for _, name, r, partition in shard if name == "scenario" or partition == 0]
        for shard in shards
    ]
    order = [0] * len(streams[0]) + [1] * len(streams[1])
    random.Random(7).shuffle(order)
    positions = [iter(stream) for stream in streams]
    return [next(positions[shard]) for shard in order]


def allocator(
    model: BehaviourModel,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    policies: list[Record],
    prices: list[Record] = PRICES,
) -> Callable[[Publish], Allocator]:
    monkeypatch.setattr("pipeline.kafka.reader.newest", lambda *_: None)
    monkeypatch.setattr(SideInputs, "wait_observed", lambda *_: True)

    def make(publish: Publish) -> Allocator:
        inputs = FakeInputs(settings, policies, prices)
        return Allocator(0, model, inputs, DEFAULT, publish, signing_keys.signing_key(settings), settings)

    return make
