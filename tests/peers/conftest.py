"""A real kube-apiserver on a real etcd, and on it the fixtures of the tests that also run on the contract server."""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.providers.kubernetes.api import Call
from tests.certificates import self_signed
from tests.peers.api_server import ApiServer, free_ports
from tests.unit.pipeline.providers import kubernetes_server as kube
from tests.unit.pipeline.providers.test_kubernetes import Cluster

PEERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leadtime" / "peers"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "peers: of `make test-peers`, on what `make peers` has built")


@contextmanager
def running(*command: str | Path, log: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process, until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Generator[ApiServer]:
    """An API server without controllers, and its kinds of KEDA and Karpenter."""
    binary, etcd = PEERS / "kube-apiserver", shutil.which("etcd")
    assert binary.exists(), f"{binary} is not there: make peers"
    assert etcd is not None, "etcd is not there: Debian has it in etcd-server"
    folder = tmp_path_factory.mktemp("peer")
    store, store_peer, port = free_ports(3)
    certificate = self_signed(folder)
    server = ApiServer(f"https://127.0.0.1:{port}", folder)
    urls = f"http://127.0.0.1:{store}", f"http://127.0.0.1:{store_peer}"
    with ExitStack() as stack:
        of_etcd = [
            "--data-dir",
            folder / "etcd",
            "--listen-client-urls",
            urls[0],
            "--advertise-client-urls",
            urls[0],
        ]
        of_etcd += ["--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1]]
        of_etcd += ["--initial-cluster", f"default={urls[1]}", "--unsafe-no-fsync"]
        stack.enter_context(running(etcd, *of_etcd, log=folder / "etcd.log"))
        flags = {
            "etcd-servers": urls[0],
            "secure-port": port,
            "bind-address": "127.0.0.1",
            "tls-cert-file": certificate,
            "tls-private-key-file": certificate,
            "service-cluster-ip-range": "10.0.0.0/24",
            "token-auth-file": server.tokens(),
            "authorization-mode": "RBAC",
            "disable-admission-plugins": "ServiceAccount",
            "service-account-issuer": "https://leadtime.test",
            "service-account-key-file": certificate,
            "service-account-signing-key-file": certificate,
        }
        words = [f"--{name}={value}" for name, value in flags.items()]
        server.command = [str(binary), *words]
        stack.callback(server.stop)
        server.start()
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
def controllers(floor: Cluster, peer: ApiServer, tmp_path: Path) -> Generator[Cluster]:
    """The cluster with the controllers of Deployments, ReplicaSets and autoscalers, and no metrics."""
    binary = PEERS / "kube-controller-manager"
    assert binary.exists(), f"{binary} is not there: make peers"
    flags = {
        "kubeconfig": peer.kubeconfig(),
        "leader-elect": "false",
        "secure-port": 0,
        "controllers": "deployment-controller,replicaset-controller,horizontal-pod-autoscaler-controller",
        "horizontal-pod-autoscaler-sync-period": "1s",
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    with running(binary, *words, log=tmp_path / "kube-controller-manager.log"):
        yield floor
