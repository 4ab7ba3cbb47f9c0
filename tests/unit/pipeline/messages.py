"""Messages as confluent-kafka gives them, and records to put in them, made by hand."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.security.signing_keys import demo_key
from pipeline.wire import codec
from pipeline.wire.codec import Record
from pipeline.wire.commands import CommandSpec, Target, build

NOW_US = 1_700_000_040_000_000  # a whole minute
NOW_S = NOW_US // 10**6
TICK_S = 60
PRODUCED_US = NOW_US + 3_600_000_000
"""Of messages: event time cannot pass it, so tests that go some ticks on have room."""


@dataclass
class FakeMessage:
    body: bytes | None
    at: int = 0
    number: int = 0
    produced_us: int = PRODUCED_US
    name: str = "telemetry.metrics"
    given: list[tuple[str, bytes]] = field(default_factory=list)
    of_key: bytes | None = b"key"

    def value(self) -> bytes | None:
        return self.body

    def key(self) -> bytes | None:
        return self.of_key

    def offset(self) -> int:
        return self.at

    def partition(self) -> int:
        return self.number

    def topic(self) -> str:
        return self.name

    def timestamp(self) -> tuple[int, int]:
        return 1, self.produced_us // 1000

    def headers(self) -> list[tuple[str, bytes]]:
        return self.given

    def error(self) -> None:
        return None


def metric(ts: int = NOW_US, user: str | None = "ann", app: str = "shop", **fields: object) -> bytes:
    return codec.encode(
        "metric", {"ts": ts, "interval_s": 60.0, "app": app, "user": user, "cpu": 1.0} | fields
    )


def event(ts: int = NOW_US, user: str = "ann", app: str = "shop", **fields: object) -> bytes:
    record = {"ts": ts, "event_id": "", "app": app, "user": user, "kind": "API_CALL"} | fields
    return codec.encode("event", record)


def watermark(ts: int) -> bytes:
    return codec.encode("watermark", {"ts": ts})


def command(epoch: int = 10, desired: int = 3, ref: str = "shop/od-4", **more: Any) -> Record:
    """A signed command, issued at the end of tick `epoch` of 60 s, good for 300 s."""
    values: dict[str, Any] = {
        "plan_id": f"{ref}-{epoch}",
        "order": 0,
        "target": Target("local", ref, region="eu"),
        "desired": desired,
        "bounds": (0, 8),
        "epoch": epoch,
        "issued_tick": epoch,
        "issued_s": (epoch + 1) * 60.0,
        "lifetime_s": 300.0,
    }
    key = more.pop("key", demo_key())
    return build(CommandSpec(**values | more), key)
