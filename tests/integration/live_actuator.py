"""`leadtime actuator` of a provider that a targets file names, as a process on a real Kafka."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from pipeline.wire.codec import Record
from pipeline.wire.commands import Target
from tests.integration.actuating import command, observations, plan, publish, results
from tests.unit.pipeline.providers.faults import Fault

LEADTIME = Path(sys.executable).parent / "leadtime"
PRICE: Record = {
    "schema_version": 1,
    "offer_id": "pod",
    "version": 1,
    "valid_from_tick": 0,
    "region": "eu",
    "tier": "ON_DEMAND",
    "instance_type": "pod",
    "capacity": [{"metric": "cpu", "value": 1.0}],
    "price": Decimal("0.05"),
    "startup_p50_s": 10.0,
    "startup_p90_s": 20.0,
    "startup_p99_s": 30.0,
}


def installed(settings: Settings, provider: str) -> Settings:
    """Topics, and the price of an offer of a provider."""
    settings = settings.model_copy(update={"partitions": 2, "tick_s": 60})
    topics.create(settings)
    outputs = Outputs(settings)
    outputs.publish("prices", "price", PRICE | {"provider": provider}, key="pod@1")
    outputs.flush()
    return settings


def order(settings: Settings, provider: str, epoch: int, desired: int) -> Record:
    """A command for the target shop/pod of a provider."""
    target = Target(provider, "shop/pod")
    return command(settings, epoch, desired, offer_id="pod", target=target, bounds=(0, 99))


@contextmanager
def actuator(
    settings: Settings, provider: str, targets: Path, **environment: str
) -> Generator[subprocess.Popen[bytes]]:
    """A process, killed at the end."""
    words = ["actuator", "--provider", provider, "--targets", str(targets)]
    of = {**os.environ, **settings.environment(), **environment}
    process = subprocess.Popen([LEADTIME, *words], env=of)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], Any], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def newest(settings: Settings) -> Record:
    """The last observation."""
    seen = observations(settings)
    return seen[max(seen)][-1] if seen else {}


def assert_settled_once(settings: Settings, first: Record, older: Record) -> None:
    """Check that an actuator that was killed tells of the first command once, of 2 to 7, and of no other."""
    until(lambda: [r["status"] for r in results(settings)][-1:] == ["APPLIED"])
    (applied,) = (r for r in results(settings) if r["status"] == "APPLIED")
    assert (applied["before"], applied["after"]) == (2, 7)
    until(lambda: newest(settings).get("command_id") == first["id"])
    publish(settings, first, older)
    until(lambda: sum(r["status"] == "REFUSED" for r in results(settings)) == 2)
    assert {r["reason"] for r in results(settings)} >= {"replayed", "older-epoch"}


@dataclass(frozen=True)
class LiveCloud:
    """A contract server with a group of two, as an actuator in its own process reaches it.

    Attributes:
        provider: its name.
        targets: targets file, whose shop/pod is the group.
        environment: of the actuator.
        faults: of the server.
        count: of the group now.
        written: counts that requests set.
    """

    provider: str
    targets: str
    environment: Mapping[str, str]
    faults: list[Fault]
    count: Callable[[], int]
    written: Callable[[], list[int]]


def assert_set_once_though_killed(settings: Settings, cloud: LiveCloud, fault: Fault, folder: Path) -> None:
    """Check that counts are set once each by an actuator that dies before a write is answered, and the next one."""
    live, provider, targets = installed(settings, cloud.provider), cloud.provider, folder / "targets.toml"
    targets.write_text(cloud.targets)
    epoch = int(time.time() // 60) - 2
    first = order(live, provider, epoch, 7)
    cloud.faults.append(fault)
    with actuator(live, provider, targets, **cloud.environment):
        publish(live, plan(epoch, issued=1), first)
        until(lambda: not fault.times)
    with actuator(live, provider, targets, **cloud.environment) as process:
        assert_settled_once(live, first, older=order(live, provider, epoch - 1, 3))
        publish(live, order(live, provider, epoch + 1, 4))
        until(lambda: cloud.count() == 4)
        until(lambda: newest(live).get("ready") == 4)
        process.terminate()
        assert process.wait(10) == 0
    assert cloud.written() == [7, 4]
