"""Commands, plans, and an actuator that can be stopped anywhere: what the actuator's tests have in common."""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pipeline.kafka.producer import Outputs
from pipeline.kafka.reader import records
from pipeline.providers.local import Faults, LocalProvider, local_provider
from pipeline.security.signing_keys import keyring, signing_key
from pipeline.settings import Settings
from pipeline.stages.actuator.service import Actuator
from pipeline.wire.codec import Record
from tests.unit.pipeline import messages

OFFERS = {"od-4": "ON_DEMAND", "re-4": "RESERVED"}


def command(settings: Settings, tick: int, desired: int, app: str = "shop", **more: Any) -> Record:
    offer_id = more.pop("offer_id", "od-4")
    values: Record = {"plan_id": f"{app}-{tick}", "key": signing_key(settings)}
    return messages.command(tick, desired, f"{app}/{offer_id}", **values | more)


def plan(tick: int, issued: int, app: str = "shop") -> Record:
    return {
        "schema_version": 1,
        "plan_id": f"{app}-{tick}",
        "allocation_group": app,
        "app": app,
        "shard": 0,
        "seq": tick,
        "mode": "auto",
        "tick": tick,
        "tick_s": 60,
        "confidence_asked": 0.99,
        "confidence_planned": 0.99,
        "steps": [60],
        "metrics": ["cpu"],
        "required": [[1.0]],
        "alpha": 0.99,
        "window": [60, 60],
        "replicas": [1],
        "counts": [{"offer_id": offer_id, "desired": [1]} for offer_id in OFFERS],
        "cost": Decimal("1"),
        "cost_at": [],
        "binding": None,
        "reactive_floor": 1,
        "observed_generation": 1,
        "observed_tick": tick - 1,
        "alternatives": [],
        "guardrails": [],
        "feasible": True,
        "reason": "",
        "commands_issued": issued,
        "versions": {"policy": "1", "prices": [], "model": "m"},
        "seed": 0,
    }


def publish(settings: Settings, *given: Record) -> None:
    outputs = Outputs(settings)
    for record in given:
        if "desired" in record:
            outputs.publish("commands", "command", record, key=record["target"]["ref"])
        else:
            outputs.publish("plans", "plan", record, key=record["app"])
    outputs.flush()


def results(settings: Settings) -> list[Record]:
    return [record for _, record in records(settings, "commands.results")]


def observations(settings: Settings) -> dict[tuple[str, int], list[Record]]:
    """By target and tick, all that was said."""
    seen: dict[tuple[str, int], list[Record]] = {}
    for _, record in records(settings, "capacity.observed"):
        seen.setdefault((record["target"], record["tick"]), []).append(record)
    return seen


class Run:
    """Actuators on one folder, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.provider: LocalProvider | None = None
        self.actuator: Actuator | None = None

    def start(self, faults: Faults | None = None, **more: Any) -> Actuator:
        self.kill()
        self.provider = local_provider(self.settings)
        self.provider.faults = faults or Faults()
        self.actuator = Actuator(self.settings, {"local": self.provider}, keyring(self.settings), **more)
        self.actuator.restore()
        return self.actuator

    def until(self, condition: Callable[[], bool], limit_s: float = 20.0) -> None:
        assert self.actuator is not None
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline
            self.actuator.step(0.05)

    def kill(self) -> None:
        """No last words: as SIGKILL, but the folder's lock goes with the file."""
        if self.actuator is not None and self.provider is not None:
            self.actuator.close()
            self.provider.close()
            self.actuator = self.provider = None


def reached(settings: Settings, tick: int, app: str = "shop") -> Callable[[], bool]:
    return lambda: (f"{app}/re-4", tick) in observations(settings)
