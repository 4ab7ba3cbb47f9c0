"""An installation with something to actuate."""

from collections.abc import Generator
from decimal import Decimal

import pytest

from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from pipeline.stages.actuator.service import starting_capacity
from pipeline.wire.codec import Record
from tests.integration.actuating import OFFERS, Run


@pytest.fixture
def replay(settings: Settings) -> Settings:
    """Event time, ticks of 60 s, all topics there, two offers for sale, two apps with two instances."""
    settings = settings.model_copy(update={"event_time": True, "partitions": 2})
    topics.create(settings)
    outputs = Outputs(settings)
    for offer_id, tier in OFFERS.items():
        price: Record = {
            "schema_version": 1,
            "offer_id": offer_id,
            "version": 1,
            "valid_from_tick": 0,
            "provider": "local",
            "region": "eu",
            "tier": tier,
            "instance_type": "four",
            "capacity": [{"metric": "cpu", "value": 4.0}],
            "price": Decimal("0.2"),
            "owned_count": 4 if tier == "RESERVED" else None,
            "startup_p50_s": 40.0,
            "startup_p90_s": 50.0,
            "startup_p99_s": 55.0,
        }
        outputs.publish("prices", "price", price, key=f"{offer_id}@1")
    outputs.flush()
    starting_capacity(settings, {app: {"od-4": 2, "re-4": 0} for app in ("shop", "bank")}, tick=10)
    return settings


@pytest.fixture
def run(replay: Settings) -> Generator[Run]:
    runner = Run(replay)
    yield runner
    runner.kill()
