"""A real API server with the interface of the contract server, as far as tests do not inject faults."""

import contextlib
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from pipeline.errors import Rejected, Retryable
from pipeline.providers.kubernetes.api import Api, Conflict, NotFound
from pipeline.providers.kubernetes.resources import (
    COMMANDED,
    EVENT,
    NODE,
    POD,
    Kind,
    Object,
    Place,
)
from tests.unit.pipeline.providers.kubernetes_server import Key

ACTUATOR = "system:serviceaccount:leadtime:leadtime-actuator"
"""User of the roles of infra/kubernetes/rbac.yaml."""
RBAC = "rbac.authorization.k8s.io"
CRD = Kind(
    "CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False
)
REPLICA_SET = Kind("ReplicaSet", "apps", "v1", "replicasets")
KINDS = {
    kind.name: kind
    for kind in (
        *(*COMMANDED.values(), REPLICA_SET, EVENT, NODE, POD, CRD),
        Kind("Namespace", "", "v1", "namespaces", namespaced=False),
        Kind("ServiceAccount", "", "v1", "serviceaccounts"),
        Kind("Role", RBAC, "v1", "roles"),
        Kind("RoleBinding", RBAC, "v1", "rolebindings"),
        Kind("ClusterRole", RBAC, "v1", "clusterroles", namespaced=False),
        Kind("ClusterRoleBinding", RBAC, "v1", "clusterrolebindings", namespaced=False),
    )
}
BY_PLURAL = {kind.plural: kind for kind in KINDS.values()}
READY_S = 120.0
MADE_BY_THE_SERVER = ("uid", "resourceVersion", "generation", "managedFields", "creationTimestamp")


@dataclass
class ApiServer:
    """See the module.

    Attributes:
        url: its address; folder: with its certificate.
        patches: what providers wrote, as the contract server notes it.
        restricted: whether providers are the user ACTUATOR, and not an administrator.
        before_patch: is done, each once, before a provider sends a patch.
    """

    url: str
    folder: Path
    patches: list[tuple[Key, str, Object]] = field(default_factory=list[tuple[Key, str, Object]])
    restricted: bool = False
    before_patch: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    command: list[str] = field(default_factory=list[str])
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.admin = self._api("admin")

    @property
    def state(self) -> "ApiServer":
        return self

    def api(self, **limits: Any) -> Api:
        return self._api("actuator" if self.restricted else "admin", **limits)

    def tokens(self) -> Path:
        path = self.folder / "tokens.csv"
        path.write_text(f'admin,admin,1,"system:masters"\nactuator,{ACTUATOR},2,"system:serviceaccounts"\n')
        return path

    def _api(self, token: str, **limits: Any) -> Api:
        configuration = Configuration(host=self.url, retries=False)  # type: ignore[arg-type]
        configuration.api_key["BearerToken"] = f"Bearer {token}"
        configuration.ssl_ca_cert = str(self.folder / "server.pem")
        return Api(ApiClient(configuration), **limits)

    def kubeconfig(self) -> Path:
        """Of an administrator, for the controllers."""
        path = self.folder / "kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.folder / "server.pem")}
        context = {"cluster": "peer", "user": "admin"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "peer",
            "clusters": [{"name": "peer", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": "admin"}}],
            "contexts": [{"name": "peer", "context": context}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def start_pods(self) -> None:
        """Do what nodes do: every pod runs and is ready."""
        ready = {"type": "Ready", "status": "True"}
        for pod in self._all(Place(POD, "shop")):
            if pod["status"].get("phase") != "Running":
                body = {"status": {"phase": "Running", "conditions": [ready]}}
                self.edit("pods", "shop", pod["metadata"]["name"], body, "kubelet")

    def _is_ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.folder / "server.pem"))
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.url}/readyz", context=context, timeout=2).status == 200
        return False

    def prepare(self) -> None:
        """Make the namespaces and the kinds of KEDA and Karpenter."""
        for name in ("shop", "leadtime"):
            self.admin.call().create(Place(KINDS["Namespace"]), {"metadata": {"name": name}})
        for name in ("ScaledObject", "NodePool"):
            self.admin.call().create(Place(CRD), definition(KINDS[name]))
        for name in ("ScaledObject", "NodePool"):
            place = Place(KINDS[name], "shop" if KINDS[name].namespaced else "")
            _eventually(lambda place=place: self.admin.call().list(place))

    def clean(self) -> None:
        """Take away what a test has left."""
        self.patches.clear()
        self.before_patch.clear()
        self.restricted = False
        for kind in (*COMMANDED.values(), REPLICA_SET, EVENT, NODE, POD):
            for namespace in ("shop", "default") if kind.namespaced else ("",):
                self._delete_all(Place(kind, namespace))
        self.clean_roles()

    def clean_roles(self) -> None:
        """Take away the roles of tests."""
        for name in ("Role", "RoleBinding"):
            for namespace in ("shop", "default"):
                self._delete_all(Place(KINDS[name], namespace), "leadtime")
        for name in ("ClusterRole", "ClusterRoleBinding"):
            self._delete_all(Place(KINDS[name]), "leadtime")

    def start(self) -> None:
        """Start the server's process, and wait until it answers."""
        log = self.folder / "kube-apiserver.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out)
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)

    def stop(self) -> None:
        """Kill the server's process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self, *, thaw: bool = False) -> None:
        """Stop the server's process where it is, or let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT if thaw else signal.SIGSTOP)

    def put(self, plural: str, obj: Object, manager: str = "kubectl-create") -> Object:
        """Make an object, or make it anew, with its status."""
        place = self._place(plural, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        with contextlib.suppress(NotFound):
            self._delete(place)
        metadata = {n: v for n, v in obj["metadata"].items() if n not in MADE_BY_THE_SERVER}
        self.admin.call().create(Place(place.kind, place.namespace), obj | {"metadata": metadata})
        if "status" in obj:
            return self.edit(plural, place.namespace, place.name, {"status": obj["status"]}, manager)
        return self.admin.call().get(place)

    def edit(
        self, plural: str, namespace: str, name: str, body: Object, manager: str = "kubectl-edit"
    ) -> Object:
        subresource = "status" if "status" in body else ""
        return self.admin.call().patch(
            self._place(plural, namespace, name), body, manager=manager, subresource=subresource
        )

    def delete(self, plural: str, namespace: str, name: str) -> None:
        self._delete(self._place(plural, namespace, name))

    def get(self, plural: str, namespace: str, name: str) -> Object:
        return self.admin.call().get(self._place(plural, namespace, name))

    def events(self) -> list[str]:
        return [
            event["message"]
            for namespace in ("shop", "default")
            for event in self.admin.call().list(Place(EVENT, namespace))[0]
        ]

    def allow(self, *rules: Object) -> None:
        """Let providers do what the rules say, and nothing else."""
        self.apply({"kind": "ClusterRole", "metadata": {"name": "leadtime-test"}, "rules": list(rules)})
        role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "leadtime-test"}
        subject = {"kind": "ServiceAccount", "name": "leadtime-actuator", "namespace": "leadtime"}
        binding = {"metadata": {"name": "leadtime-test"}, "roleRef": role, "subjects": [subject]}
        self.apply({"kind": "ClusterRoleBinding"} | binding)
        self.restrict()

    def restrict(self) -> None:
        """From now on providers are the user ACTUATOR; waits until its roles are in force."""
        self.restricted = True
        time.sleep(1.0)  # the authorizer reads them by watch

    def apply(self, obj: Object) -> None:
        """Make an object of a manifest, or leave one that is there."""
        kind = KINDS[obj["kind"]]
        with contextlib.suppress(Conflict):
            self.admin.call().create(Place(kind, obj["metadata"].get("namespace", "")), obj)

    def _place(self, plural: str, namespace: str, name: str) -> Place:
        return Place(BY_PLURAL[plural], namespace, name)

    def _delete(self, place: Place) -> None:
        self.admin.call().delete(place)
        _eventually(lambda: not any(o["metadata"]["name"] == place.name for o in self._all(place)))

    def _all(self, place: Place) -> list[Object]:
        return self.admin.call().list(Place(place.kind, place.namespace))[0]

    def _delete_all(self, place: Place, prefix: str = "") -> None:
        for obj in self._all(place):
            if obj["metadata"]["name"].startswith(prefix):
                self._delete(Place(place.kind, place.namespace, obj["metadata"]["name"]))


def definition(kind: Kind) -> Object:
    """A definition of a kind with a count, which takes any other field."""
    scale = {"specReplicasPath": f".spec.{kind.count}", "statusReplicasPath": ".status.nodes"}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    count: Object = {"type": "object", "properties": {kind.count: {"type": "integer", "minimum": 0}}}
    count["x-kubernetes-preserve-unknown-fields"] = True
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": count, "status": schema}}},
        "subresources": {"status": {}, "scale": scale},
    }
    names = {"plural": kind.plural, "kind": kind.name, "singular": kind.name.lower()}
    spec = {
        "group": kind.group,
        "names": names,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "versions": [version],
    }
    return {"metadata": {"name": kind.resource}, "spec": spec}


def _eventually(check: Any) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(Retryable, Rejected):
            if check():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
