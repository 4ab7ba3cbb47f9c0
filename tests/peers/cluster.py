"""A Kubernetes of this machine: API server, controllers, scheduler and kwok's nodes, of what `make peers` has built.

`make cluster SPEED=100` runs it until Ctrl-C and says where its kubeconfig is. All times of the controllers, and the
start of a pod, are SPEED times as short as a cluster's: a replay at the same speed sees them as they are.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

from pipeline.errors import Rejected
from pipeline.providers.kubernetes.resources import NODE, Object, Place
from pipeline.security.certificates import self_signed
from tests.peers.api_server import ApiServer, free_ports

PEERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leadtime" / "peers"
CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "horizontal-pod-autoscaler-controller",
    "garbage-collector-controller",
    "namespace-controller",
)
HPA_TIMES_S = {
    "sync-period": 15.0,
    "cpu-initialization-period": 300.0,
    "initial-readiness-delay": 30.0,
    "downscale-stabilization": 300.0,
}
"""Defaults of kube-controller-manager for autoscalers."""
POD_START_S = 60.0, 90.0
"""Shortest and longest time from a pod's placement until it is ready."""
NODES = 4


def binary(name: str) -> Path:
    """A program that `make peers` has built."""
    path = PEERS / name
    if not path.exists():
        raise SystemExit(f"{path} is not there: make peers")
    return path


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


def words(flags: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


@contextmanager
def api_server(folder: Path) -> Generator[ApiServer]:
    """An API server on a real etcd, without controllers, until the end of the block."""
    etcd = shutil.which("etcd")
    if etcd is None:
        raise SystemExit("etcd is not there: Debian has it in etcd-server")
    store, store_peer, port = free_ports(3)
    certificate = self_signed(folder)
    server = ApiServer(f"https://127.0.0.1:{port}", folder)
    urls = f"http://127.0.0.1:{store}", f"http://127.0.0.1:{store_peer}"
    of_etcd = {
        "data-dir": folder / "etcd",
        "listen-client-urls": urls[0],
        "advertise-client-urls": urls[0],
        "listen-peer-urls": urls[1],
        "initial-advertise-peer-urls": urls[1],
        "initial-cluster": f"default={urls[1]}",
    }
    flags = {
        "etcd-servers": urls[0],
        "secure-port": port,
        "bind-address": "127.0.0.1",
        "tls-cert-file": certificate,
        "tls-private-key-file": certificate,
        "service-cluster-ip-range": "10.0.0.0/24",
        "token-auth-file": server.tokens(),
        "authorization-mode": "RBAC",
        "disable-admission-plugins": "ServiceAccount,TaintNodesByCondition",
        "service-account-issuer": "https://leadtime.test",
        "service-account-key-file": certificate,
        "service-account-signing-key-file": certificate,
    }
    server.command = [str(binary("kube-apiserver")), *words(flags)]
    with running(etcd, *words(of_etcd), "--unsafe-no-fsync", log=folder / "etcd.log"):
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def controllers(server: ApiServer, speed: float = 1.0, **flags: object) -> Generator[None]:
    """Controllers of Deployments, ReplicaSets and autoscalers, with their times divided by `speed`."""
    given = {
        "kubeconfig": server.kubeconfig(),
        "leader-elect": "false",
        "secure-port": 0,
        "controllers": ",".join(CONTROLLERS),
        "kube-api-qps": 500,
        "kube-api-burst": 1000,
    }
    times = {f"horizontal-pod-autoscaler-{name}": f"{s / speed:g}s" for name, s in HPA_TIMES_S.items()}
    given |= times | {name.replace("_", "-"): value for name, value in flags.items()}
    command = [binary("kube-controller-manager"), *words(given)]
    with running(*command, log=server.folder / "kube-controller-manager.log"):
        yield


@contextmanager
def nodes(server: ApiServer, speed: float = 1.0) -> Generator[None]:
    """A scheduler, and nodes of kwok: a pod on one is ready after POD_START_S, divided by `speed`."""
    for number in range(NODES):
        with suppress(Rejected):
            node: Object = {
                "metadata": {"name": f"node-{number}", "annotations": {"kwok.x-k8s.io/node": "fake"}}
            }
            server.admin.call().create(Place(NODE), node)
    stages = server.folder / "kwok.yaml"
    stages.write_text(yaml.safe_dump_all(list(_stages(speed))))
    scheduler = {
        "kubeconfig": server.kubeconfig(),
        "leader-elect": "false",
        "secure-port": 0,
        "kube-api-qps": 500,
        "kube-api-burst": 1000,
    }
    kwok = {
        "kubeconfig": server.kubeconfig(),
        "config": stages,
        "manage-all-nodes": "true",
        "server-address": f"127.0.0.1:{free_ports(1)[0]}",
    }
    with (
        running(binary("kube-scheduler"), *words(scheduler), log=server.folder / "kube-scheduler.log"),
        running(binary("kwok"), *words(kwok), log=server.folder / "kwok.log"),
    ):
        yield


def _stages(speed: float) -> Generator[Object]:
    """Kwok's own: nodes are ready, pods on them too after a while, and end at once when they are to go."""
    for path in sorted(PEERS.glob("stages/*.yaml")):
        stage = yaml.safe_load(path.read_text())
        if stage["metadata"]["name"] == "pod-ready":
            first, last = (int(1000 * s / speed) for s in POD_START_S)
            stage["spec"]["delay"] = {"durationMilliseconds": first, "jitterDurationMilliseconds": last}
        yield stage


def main() -> None:
    """Run a cluster until Ctrl-C; the first argument is its speed."""
    speed = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="leadtime-cluster-") as name, ExitStack() as stack:
        server = stack.enter_context(api_server(Path(name)))
        stack.enter_context(controllers(server, speed))
        stack.enter_context(nodes(server, speed))
        print(f"a cluster at {server.url}, {speed:g} times as fast; Ctrl-C ends it")
        print(f"export KUBECONFIG={server.kubeconfig()} PATH=$PATH:{PEERS}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
