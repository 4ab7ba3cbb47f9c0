"""`leadtime actuator --provider kubernetes` on a real Kafka and a contract API server: killed, and started again."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from pipeline.wire.codec import Record
from pipeline.wire.commands import Target
from tests.integration.actuating import command, observations, plan, publish, results
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.kubernetes_server import Served, served

LEADTIME = Path(sys.executable).parent / "leadtime"
TARGETS = """
[[target]]
ref = "shop/pod"
kind = "HorizontalPodAutoscaler"
namespace = "shop"
name = "web"
"""
PRICE: Record = {
    "schema_version": 1,
    "offer_id": "pod",
    "version": 1,
    "valid_from_tick": 0,
    "provider": "kubernetes",
    "region": "eu",
    "tier": "ON_DEMAND",
    "instance_type": "pod",
    "capacity": [{"metric": "cpu", "value": 1.0}],
    "price": Decimal("0.05"),
    "startup_p50_s": 10.0,
    "startup_p90_s": 20.0,
    "startup_p99_s": 30.0,
}


@pytest.fixture
def live(settings: Settings) -> Settings:
    settings = settings.model_copy(update={"partitions": 2, "tick_s": 60})
    topics.create(settings)
    outputs = Outputs(settings)
    outputs.publish("prices", "price", PRICE, key="pod@1")
    outputs.flush()
    return settings


@pytest.fixture
def server() -> Generator[Served]:
    with served() as made:
        made.state.put("horizontalpodautoscalers", kube.hpa())
        made.state.put("deployments", kube.deployment())
        yield made


@contextmanager
def actuator(settings: Settings, server: Served, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    (folder / "targets.toml").write_text(TARGETS)
    kubeconfig = {"KUBECONFIG": str(server.kubeconfig(folder / "kubeconfig"))}
    words = ["actuator", "--provider", "kubernetes", "--targets", str(folder / "targets.toml")]
    process = subprocess.Popen([LEADTIME, *words], env={**os.environ, **settings.environment(), **kubeconfig})
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


def order(settings: Settings, epoch: int, desired: int) -> Record:
    return command(
        settings, epoch, desired, offer_id="pod", target=Target("kubernetes", "shop/pod"), bounds=(0, 99)
    )


def floor(server: Served) -> int:
    return server.state.get("horizontalpodautoscalers", "shop", "web")["spec"]["minReplicas"]


def newest(settings: Settings) -> Record:
    seen = observations(settings)
    return seen[max(seen)][-1] if seen else {}


@pytest.mark.slow
def test_commands_set_the_floor_once_however_often_the_actuator_dies(
    live: Settings, server: Served, tmp_path: Path
) -> None:
    epoch = int(time.time() // 60) - 2
    first = order(live, epoch, 7)
    server.state.faults.append(Fault("PATCH", lost=True))  # the actuator dies before the answer comes
    with actuator(live, server, tmp_path):
        publish(live, plan(epoch, issued=1), first)
        until(lambda: floor(server) == 7)
    with actuator(live, server, tmp_path) as process:
        until(lambda: [r["status"] for r in results(live)][-1:] == ["APPLIED"])
        (applied,) = (r for r in results(live) if r["status"] == "APPLIED")
        assert (applied["before"], applied["after"]) == (2, 7)
        until(lambda: newest(live).get("command_id") == first["id"])
        publish(live, first, order(live, epoch - 1, 3))
        until(lambda: sum(r["status"] == "REFUSED" for r in results(live)) == 2)
        assert {r["reason"] for r in results(live)} >= {"replayed", "older-epoch"}
        server.state.settle()
        publish(live, order(live, epoch + 1, 4))
        until(lambda: floor(server) == 4)
        until(lambda: newest(live).get("ready") == 7)
        process.terminate()
        assert process.wait(10) == 0
    assert [written["spec"]["minReplicas"] for _, _, written in server.state.patches] == [7, 4]
