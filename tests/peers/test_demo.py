"""`leadtime demo --provider kubernetes` on a real API server, controllers, scheduler and kwok's nodes."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from pipeline.demo.cluster_run import METRICS_API, NAMESPACE
from pipeline.providers.kubernetes.resources import Kind, Place
from tests.peers import cluster as peers
from tests.peers.api_server import ApiServer
from tests.unit.pipeline.providers.commanding import eventually

pytestmark = [pytest.mark.slow, pytest.mark.peers]
SPEED = 100.0


@pytest.fixture
def full(tmp_path: Path) -> Generator[ApiServer]:
    """A cluster with controllers and nodes."""
    with peers.api_server(tmp_path) as server, peers.controllers(server, SPEED), peers.nodes(server, SPEED):
        yield server


def run(server: ApiServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "demo", "--provider", "kubernetes", "--headless", *arguments]
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig())}  # read when the library is imported
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


def names(server: ApiServer, kind: Kind) -> set[str]:
    return {of["metadata"]["name"] for of in server.admin.call().list(Place(kind))[0]}


def test_a_demo_moves_floors_and_leaves_nothing(full: ApiServer) -> None:
    done = run(full, "--ticks", "16", "--speed", str(SPEED), "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    of = figures["kubernetes"]
    assert figures["commands_by_status"].keys() == {"APPLIED"}
    assert (of["foreign_samples"], of["replicas_set_by"]) == (0, ["kube-controller-manager"])
    assert of["floors_raised"] >= 5
    assert 0 <= of["floor_to_scaled_s"]["p50"] < of["floor_to_ready_s"]["p50"]
    assert figures["hit_rate"] is not None
    assert METRICS_API.name not in names(full, METRICS_API.kind)
    eventually(lambda: not any(name.startswith("leadtime-demo") for name in names(full, NAMESPACE)), 60.0)


def test_a_cluster_with_metrics_of_its_own_is_left_alone(full: ApiServer) -> None:
    service = {"namespace": "kube-system", "name": "metrics-server", "port": 443}
    spec = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    own = {"metadata": {"name": METRICS_API.name}, "spec": spec | {"service": service}}
    full.admin.call().create(Place(METRICS_API.kind), own)
    done = run(full, "--ticks", "16")
    assert done.returncode == 2
    assert "metrics of its own" in done.stderr
    assert full.admin.call().get(METRICS_API)["spec"]["service"]["name"] == "metrics-server"
