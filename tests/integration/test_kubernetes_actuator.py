"""`leadtime actuator --provider kubernetes` on a real Kafka and a contract API server: killed, and started again."""

import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.integration.actuating import plan, publish
from tests.integration.live_actuator import actuator, assert_settled_once, installed, newest, order, until
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.kubernetes_server import Served, served

TARGETS = """
[[target]]
ref = "shop/pod"
kind = "HorizontalPodAutoscaler"
namespace = "shop"
name = "web"
"""


@pytest.fixture
def server() -> Generator[Served]:
    with served() as made:
        made.state.put("horizontalpodautoscalers", kube.hpa())
        made.state.put("deployments", kube.deployment())
        yield made


def floor(server: Served) -> int:
    return server.state.get("horizontalpodautoscalers", "shop", "web")["spec"]["minReplicas"]


@pytest.mark.slow
def test_commands_set_the_floor_once_however_often_the_actuator_dies(
    settings: Settings, server: Served, tmp_path: Path
) -> None:
    live, targets = installed(settings, "kubernetes"), tmp_path / "targets.toml"
    targets.write_text(TARGETS)
    there = {"KUBECONFIG": str(server.kubeconfig(tmp_path / "kubeconfig"))}
    epoch = int(time.time() // 60) - 2
    first = order(live, "kubernetes", epoch, 7)
    server.state.faults.append(Fault("PATCH", lost=True))  # the actuator dies before the answer comes
    with actuator(live, "kubernetes", targets, **there):
        publish(live, plan(epoch, issued=1), first)
        until(lambda: floor(server) == 7)
    with actuator(live, "kubernetes", targets, **there) as process:
        assert_settled_once(live, first, older=order(live, "kubernetes", epoch - 1, 3))
        server.state.settle()
        publish(live, order(live, "kubernetes", epoch + 1, 4))
        until(lambda: floor(server) == 4)
        until(lambda: newest(live).get("ready") == 7)
        process.terminate()
        assert process.wait(10) == 0
    assert [written["spec"]["minReplicas"] for _, _, written in server.state.patches] == [7, 4]
