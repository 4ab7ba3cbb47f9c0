"""Simulated telemetry at the producers' full speed: what `leadtime bench` fills the raw topics with.

Every user sends some samples a tick, all users' first ones, then their second ones. A record is one codec-made
template whose bytes for user, time and values are overwritten as columns: a million records take a second.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import numpy as np

from pipeline.inputs import publish
from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.kafka.topics import RAW
from pipeline.security.pseudonyms import entity, partition_of
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT, Record

MEASURED: Final = ("cpu", "memory", "network", "disk")
MEDIANS: Final = (0.2, 2e8, 5e4, 2e4)
"""Of users: cores, bytes, bytes/s, bytes/s."""
DIGITS: Final = 8
CHUNK: Final = 10_000
"""Messages handed over at once: a tenth of the producer's queue."""
REPLICA_USERS: Final = 20
"""A replica is sized for so many median users."""


@dataclass
class Load:
    """A population that reports.

    Args:
        users, apps: how many; users are dealt out evenly.
        samples: of a user and tick.
        settings: of the installation: tick, partitions.
        seed: of the values.
    """

    users: int
    apps: int
    samples: int
    settings: Settings
    seed: int = 0
    partition: np.ndarray = field(init=False)
    keys: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"app-{number:03d}" for number in range(self.apps)]
        keys = [entity(self.names[n % self.apps], f"u{n:0{DIGITS}d}") for n in range(self.users)]
        self.partition = np.array([partition_of(key, self.settings.partitions) for key in keys])
        self.keys = [key.encode() for key in keys]
        rng = np.random.default_rng(self.seed)
        self.level = np.array(MEDIANS) * rng.lognormal(0, 1, (self.users, len(MEASURED)))
        self.rows, self.places = _template()
        # The users' names do not change: written once.
        self.rows = np.tile(self.rows, (self.users, 1))
        for name, shown in (("app", self.names), ("user", [f"u{n:0{DIGITS}d}" for n in range(self.users)])):
            letters = np.array(shown, "S").view(np.uint8).reshape(len(shown), -1)
            self.rows[:, self.places[name]] = letters[np.arange(self.users) % len(shown)]

    def bodies(self, tick: int, sample: int) -> list[bytes]:
        """All users' records of one sample of a tick."""
        rng = np.random.default_rng([self.seed, tick, sample])
        interval_us = self.settings.tick_s * 1_000_000 // self.samples
        ts = (
            tick * self.settings.tick_s * 1_000_000
            + sample * interval_us
            + np.arange(self.users) * interval_us // self.users
        )
        values = self.level * rng.lognormal(0, 0.2, self.level.shape)
        self.rows[:, self.places["ts"]] = _varints(ts)
        for column, metric in enumerate(MEASURED):
            self.rows[:, self.places[metric]] = values[:, column].astype("<f8").view(np.uint8).reshape(-1, 8)
        data, width = self.rows.tobytes(), self.rows.shape[1]
        return [data[at : at + width] for at in range(0, len(data), width)]

    def sample(self, outputs: "Filler", tick: int, sample: int) -> None:
        """Send one sample of all users."""
        bodies = self.bodies(tick, sample)
        for number in range(self.settings.partitions):
            chosen = np.flatnonzero(self.partition == number).tolist()
            for first in range(0, len(chosen), CHUNK):
                rows = chosen[first : first + CHUNK]
                outputs.send_all(RAW[0], [(self.keys[row], bodies[row]) for row in rows], number)

    def fill(self, first: int, ticks: int) -> Iterator[int]:
        """Send the ticks, each between watermarks in all partitions of both topics; yields records so far."""
        outputs = Filler(self.settings)
        self.watermark(outputs, first)
        for tick in range(first, first + ticks):
            for number in range(self.samples):
                self.sample(outputs, tick, number)
            self.watermark(outputs, tick + 1)
            outputs.flush()
            yield (tick + 1 - first) * self.samples * self.users

    def watermark(self, outputs: Outputs, tick: int) -> None:
        """Promise that nothing before a tick's start will follow."""
        mark: Record = {"ts": tick * self.settings.tick_s * 1_000_000}
        for topic in RAW:
            for number in range(self.settings.partitions):
                outputs.publish(topic, "watermark", mark, key=None, partition=number)

    def publish_inputs(self, settings: Settings) -> None:
        """Policies that command, and an on-demand and a spot offer for each app."""
        amounts = [
            {"metric": m, "value": REPLICA_USERS * median}
            for m, median in zip(MEASURED, MEDIANS, strict=True)
        ]
        policies: list[Record] = [
            {"app": app, "version": 1, "valid_from_tick": 0, "mode": "auto", "allocation_group": app}
            | {"governed": list(MEASURED), "unit": amounts, "max": self.users + 1}
            for app in self.names
        ]
        prices: list[Record] = [
            {
                "offer_id": f"{app}.{tier.lower()}",
                "version": 1,
                "valid_from_tick": 0,
                "provider": "local",
                "region": "here",
                "zone": "here-1",
                "tier": tier,
                "instance_type": "four",
                "capacity": [a | {"value": 4 * a["value"]} for a in amounts],
                "price": Decimal(price),
                "commitment_id": app,
                "startup_p50_s": 40.0,
                "startup_p90_s": 50.0,
                "startup_p99_s": 55.0,
                "pool": f"{app}.{tier.lower()}",
            }
            for app in self.names
            for tier, price in (("ON_DEMAND", "0.2"), ("SPOT", "0.08"))
        ]
        publish.publish(settings, "policies", "policy", policies)
        publish.publish(settings, "prices", "price", prices)


class Filler(Outputs):
    """Outputs that take many messages in one call."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings,
            {"compression.type": "lz4", "linger.ms": 50, "batch.size": 1_000_000,
             "queue.buffering.max.messages": 10 * CHUNK},
        )  # fmt: skip

    def send_all(self, topic: str, messages: list[tuple[bytes, bytes]], partition: int) -> None:
        """Keys and values into one partition, waiting where the queue is full."""
        left = [{"key": key, "value": value} for key, value in messages]
        name = topics.name(topic, self._settings)
        while left:
            taken = self._producer.produce_batch(name, left, partition, self._delivered)
            left = left[taken:] if taken < len(left) else []
            self._producer.poll(0.01 if left else 0)


def _template() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A record's bytes, and where in them each varying field lies: where two records that differ in it differ."""

    def encoded(name: str = "", letter: str = "a", number: float = 1.2345678e-77) -> np.ndarray:
        record: Record = {
            "ts": 1_700_000_000_000_000, "interval_s": 6.0, "app": "app-000", "user": f"u{'0' * DIGITS}",
            **dict.fromkeys(MEASURED, 1.2345678e-77), "producer": "bench",
        }  # fmt: skip
        if name == "ts":
            record["ts"] = 1_700_000_000_000_000 ^ 0x3F_FFFF_FFFF_FFFF
        elif name in ("app", "user"):
            record[name] = letter * len(record[name])
        elif name:
            record[name] = number
        return np.frombuffer(DEFAULT.encode("metric", record), np.uint8)

    plain = encoded()
    places: dict[str, np.ndarray] = {}
    for name in ("ts", "app", "user", *MEASURED):
        # a double of which every byte differs: all its bits turned around
        other = float((~np.array([1.2345678e-77]).view(np.uint64)).view(np.float64)[0])
        places[name] = np.flatnonzero(encoded(name, "z", other) != plain)
    return plain, places


def _varints(ts: np.ndarray) -> np.ndarray:
    """(row, 8) Avro longs of times that take eight bytes: 2^48 to 2^55 microseconds, 1978 to 3111."""
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(7)
    groups = (ts.astype(np.uint64)[:, None] << np.uint64(1)) >> shifts & np.uint64(0x7F)
    groups[:, :-1] |= np.uint64(0x80)
    return groups.astype(np.uint8)
