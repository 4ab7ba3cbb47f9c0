"""A real kube-apiserver on a real etcd, and on it the fixtures of the tests that also run on the contract server."""

from collections.abc import Generator
from typing import Any

import pytest

from pipeline.providers.kubernetes.api import Call
from tests.peers import cluster as peers
from tests.peers.api_server import ApiServer
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.test_kubernetes import Cluster


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "peers: of `make test-peers`, on what `make peers` has built")


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Generator[ApiServer]:
    """An API server without controllers, and its kinds of KEDA and Karpenter."""
    with peers.api_server(tmp_path_factory.mktemp("peer")) as server:
        server.prepare()
        yield server


@pytest.fixture
def cluster(peer: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Generator[Cluster]:
    """The peer without objects, with what the provider patches noted."""
    peer.clean()
    patch = Call.patch

    def noted(call: Call, place: Any, body: Any, **more: Any) -> Any:
        if call.api.client is not peer.admin.client and peer.before_patch:
            peer.before_patch.pop()()
        written = patch(call, place, body, **more)
        if not more.get("dry_run") and call.api.client is not peer.admin.client:
            peer.patches.append(((place.kind.plural, place.namespace, place.name), more["manager"], written))
        return written

    monkeypatch.setattr(Call, "patch", noted)
    made = Cluster(peer)  # type: ignore[arg-type]
    yield made
    made.close()


@pytest.fixture
def floor(cluster: Cluster) -> Cluster:
    cluster.state.put("horizontalpodautoscalers", kube.hpa())
    cluster.state.put("deployments", kube.deployment())
    return cluster


@pytest.fixture
def controllers(floor: Cluster, peer: ApiServer) -> Generator[Cluster]:
    """The cluster with the controllers of Deployments, ReplicaSets and autoscalers, and no metrics."""
    with peers.controllers(peer, horizontal_pod_autoscaler_sync_period="1s"):
        yield floor
