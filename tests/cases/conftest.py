"""The released model, an installation of two partitions, and the plans of an app of one partition from its samples."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from models.behaviour.lstm import BehaviourModel
from pipeline.security.pseudonyms import KeyRing
from pipeline.settings import Settings
from pipeline.stages.ingest.service import Partition
from pipeline.stages.profiler.agent import Profiler
from pipeline.wire.codec import DEFAULT, Record
from tests.unit.pipeline.conftest import installation, model
from tests.unit.pipeline.messages import NOW_US, FakeMessage, metric, watermark
from tests.unit.pipeline.stages.driving import allocator, drive, policy, simulator

__all__ = ["installation", "model", "shop"]

METRIC, EVENT = "telemetry.metrics", "telemetry.events"


@pytest.fixture
def shop(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Record]]:
    """Plans of ticks of 60 s of an installation of one shard, from samples (tick, user, fields)."""
    settings = installation.model_copy(update={"partitions": 1, "lateness_s": 0})

    def plans(samples: Sequence[tuple[int, str, dict[str, Any]]], **given: Any) -> list[Record]:
        part = Partition(0, settings, DEFAULT, KeyRing.of(settings))
        last = max(8, *(tick + 1 for tick, _, _ in samples))
        ends = [watermark(NOW_US + tick * 60_000_000) for tick in (0, last)]
        bodies = [
            metric(NOW_US + tick * 60_000_000, user, **{"app": "shop"} | more) for tick, user, more in samples
        ]
        for topic, values in ((METRIC, [ends[0], *bodies, ends[1]]), (EVENT, ends)):
            part.take(topic, [FakeMessage(value, n, name=topic) for n, value in enumerate(values)])
        stream = [DEFAULT.encode("frame", record) for parts in part.close() for record in parts]
        for make in (lambda publish: Profiler(0, model, DEFAULT, publish, 100), simulator(settings, 0)):
            stream = [DEFAULT.encode(name, record) for _, name, record, _ in drive(make, stream, None)]
        app = policy(
            "shop", **{"hold_s": 0.0, "unit": [{"metric": "cpu", "value": 1.0}], "governed": ["cpu"]} | given
        )
        published = drive(allocator(model, settings, monkeypatch, [app]), stream, None)
        return [record for topic, _, record, _ in published if topic == "plans" and record["app"] == "shop"]

    return plans
