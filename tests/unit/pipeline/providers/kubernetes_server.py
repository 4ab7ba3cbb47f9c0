"""A contract API server: what the documentation of Kubernetes says of an API server, as far as our provider uses it.

It keeps objects with resourceVersion, generation and managedFields, and serves get, list (in pages), watch (with
bookmarks and 410), merge-patch (with the version as a condition, and dry runs), the subresource `scale`, Events and
access reviews, checks roles where some are set, and does what a fault says instead.
"""

import copy
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from pipeline.providers.kubernetes.api import Api
from tests.unit.pipeline.providers.faults import Fault, take

Object = dict[str, Any]
Key = tuple[str, str, str]
GENERATIONS = {
    "deployments": "spec+annotations",
    "statefulsets": "spec",
    "scaledobjects": "spec",
    "nodepools": "spec",
}
"""What raises `metadata.generation`, by plural; the others have none."""
SCALED = ("deployments", "statefulsets", "nodepools")
KINDS = {
    "horizontalpodautoscalers": ("autoscaling/v2", "HorizontalPodAutoscaler"),
    "scaledobjects": ("keda.sh/v1alpha1", "ScaledObject"),
    "deployments": ("apps/v1", "Deployment"),
    "statefulsets": ("apps/v1", "StatefulSet"),
    "nodepools": ("karpenter.sh/v1", "NodePool"),
    "nodes": ("v1", "Node"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
}


class Refused(Exception):
    """An answer that is no success."""

    def __init__(
        self, code: int, message: str, reason: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.headers = code, reason, headers or {}

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
        }


@dataclass
class ApiServer:
    """See the module."""

    objects: dict[Key, Object] = field(default_factory=dict[Key, Object])
    log: list[tuple[int, str, Object]] = field(default_factory=list[tuple[int, str, Object]])
    faults: list[Fault] = field(default_factory=list[Fault])
    requests: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    patches: list[tuple[Key, str, Object]] = field(default_factory=list[tuple[Key, str, Object]])
    rules: list[Object] | None = None
    version: int = 100
    oldest: int = 0
    clock: float = 1_764_000_000.0
    silent: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)
    seen: set[str] = field(default_factory=set[str])

    # What the tests do.

    def put(self, plural: str, obj: Object, manager: str = "kubectl-create") -> Object:
        """Make an object, or make it anew."""
        with self.changed:
            api_version, kind = KINDS[plural]
            obj = copy.deepcopy(obj)
            metadata = obj["metadata"]
            self.version += 1
            metadata |= {"uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
            if plural in GENERATIONS:
                metadata["generation"] = 1
            metadata["managedFields"] = self._managed({}, obj, manager)
            obj = {"apiVersion": api_version, "kind": kind} | obj
            self.objects[plural, metadata.get("namespace", ""), metadata["name"]] = obj
            self._logged("ADDED", obj)
            return copy.deepcopy(obj)

    def edit(
        self, plural: str, namespace: str, name: str, body: Object, manager: str = "kubectl-edit"
    ) -> Object:
        """Merge into an object, as somebody else."""
        with self.changed:
            return self._patched((plural, namespace, name), body, manager, dry_run=False)

    def delete(self, plural: str, namespace: str, name: str) -> None:
        with self.changed:
            obj = self.objects.pop((plural, namespace, name))
            self.version += 1
            obj["metadata"]["resourceVersion"] = str(self.version)
            self._logged("DELETED", obj)

    def get(self, plural: str, namespace: str, name: str) -> Object:
        with self.changed:
            return copy.deepcopy(self.objects[plural, namespace, name])

    def events(self) -> list[str]:
        with self.changed:
            return [obj["message"] for (plural, _, _), obj in self.objects.items() if plural == "events"]

    def settle(self) -> None:
        """Do what controllers do: autoscalers keep their floor, workloads start pods."""
        with self.changed:
            for (plural, namespace, _), obj in list(self.objects.items()):
                if plural in ("horizontalpodautoscalers", "scaledobjects"):
                    floor = obj["spec"].get("minReplicas", obj["spec"].get("minReplicaCount", 0))
                    key = ("deployments", namespace, obj["spec"]["scaleTargetRef"]["name"])
                    if self.objects[key]["spec"]["replicas"] < floor:
                        self._patched(
                            key, {"spec": {"replicas": floor}}, "kube-controller-manager", dry_run=False
                        )
            for key, obj in list(self.objects.items()):
                if key[0] in ("deployments", "statefulsets"):
                    n = obj["spec"]["replicas"]
                    status = {"status": {"replicas": n, "readyReplicas": n}}
                    self._patched(key, status, "kube-controller-manager", dry_run=False)

    def compact(self) -> None:
        """Forget all versions before the present one, and end all watches."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.changed.notify_all()

    def allow(self, *rules: Object) -> None:
        self.rules = list(rules)

    # What requests do.

    def answer(self, method: str, path: str, query: dict[str, str], body: Object | None) -> Object:
        place = _place(path)
        with self.changed:
            if place.plural == "selfsubjectaccessreviews":
                assert body is not None
                wanted = body["spec"]["resourceAttributes"]
                allowed = self._allows(
                    wanted["verb"], wanted["group"], wanted["resource"], wanted["subresource"], wanted["name"]
                )
                return body | {"metadata": {}, "status": {"allowed": allowed}}
            self._authorize(method, place, query)
            if place.plural not in KINDS:
                raise Refused(404, "the server could not find the requested resource", "NotFound")
            if method == "POST":
                assert body is not None
                return self._created(place, body)
            if not place.name:
                return self._listed(place, query)
            key = place.plural, place.namespace, place.name
            if key not in self.objects:
                raise Refused(404, f'{place.plural} "{place.name}" not found', "NotFound")
            if method == "GET":
                return self._scale(key) if place.subresource else copy.deepcopy(self.objects[key])
            assert body is not None
            manager, dry_run = query.get("fieldManager", "unknown"), query.get("dryRun") == "All"
            if place.subresource:
                metadata = {n: v for n, v in body.get("metadata", {}).items() if n == "resourceVersion"}
                body = {"metadata": metadata, "spec": {"replicas": body["spec"]["replicas"]}}
            changed = self._patched(key, body, manager, dry_run=dry_run)
            if not dry_run:
                self.patches.append((key, manager, changed))
            return self._scale(key) if place.subresource else changed

    def _created(self, place: "Where", body: Object) -> Object:
        if (place.plural, place.namespace, body["metadata"]["name"]) in self.objects:
            raise Refused(409, f'{place.plural} "{body["metadata"]["name"]}" already exists', "AlreadyExists")
        assert body["metadata"]["namespace"] == place.namespace
        return self.put(place.plural, body)

    def _listed(self, place: "Where", query: dict[str, str]) -> Object:
        every = [
            copy.deepcopy(obj)
            for (plural, namespace, _), obj in sorted(self.objects.items())
            if plural == place.plural and namespace == place.namespace and _selected(obj, query)
        ]
        start, limit = int(query.get("continue", 0)), int(query.get("limit", 500))
        metadata: Object = {"resourceVersion": str(self.version)}
        if start + limit < len(every):
            metadata["continue"] = str(start + limit)
        api_version, kind = KINDS[place.plural]
        return {
            "kind": f"{kind}List",
            "apiVersion": api_version,
            "metadata": metadata,
            "items": every[start : start + limit],
        }

    def watch(self, path: str, query: dict[str, str]) -> Iterator[bytes]:
        """Lines of a watch; empty ones while nothing happens."""
        place = _place(path)
        with self.changed:
            self._authorize("GET", place, query)
        at, ends = int(query["resourceVersion"]), time.monotonic() + float(query["timeoutSeconds"])
        while time.monotonic() < ends:
            with self.changed:
                if at < self.oldest:
                    gone = Refused(410, "too old resource version", "Expired").status()
                    yield json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
                    return
                news = [
                    (event, obj)
                    for version, event, obj in self.log
                    if version > at and _is_of(obj, place) and _selected(obj, query)
                ]
                at = max(at, self.version)
                bookmark = {"kind": "Bookmark", "metadata": {"resourceVersion": str(at)}}
                news += [("BOOKMARK", bookmark)] if news else []
                if not news:
                    self.changed.wait(0.05)
            yield b"".join(json.dumps({"type": t, "object": obj}).encode() + b"\n" for t, obj in news)

    def _patched(self, key: Key, body: Object, manager: str, *, dry_run: bool) -> Object:
        old = self.objects[key]
        expected = body.get("metadata", {}).get("resourceVersion")
        if expected is not None and expected != old["metadata"]["resourceVersion"]:
            raise Refused(
                409,
                f'Operation cannot be fulfilled on {key[0]} "{key[2]}": the object has been modified',
                "Conflict",
            )
        new = _merged(old, body)
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        _validate(key, new)
        if new == old:
            return copy.deepcopy(old)
        spec_changed = new.get("spec") != old.get("spec")
        notes_changed = new["metadata"].get("annotations") != old["metadata"].get("annotations")
        rule = GENERATIONS.get(key[0], "")
        if (spec_changed and rule) or (notes_changed and "annotations" in rule):
            new["metadata"]["generation"] += 1
        new["metadata"]["managedFields"] = self._managed(old, new, manager)
        if dry_run:
            return new
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = new
        self._logged("MODIFIED", new)
        return copy.deepcopy(new)

    def _managed(self, old: Object, new: Object, manager: str) -> list[Object]:
        """Owners of the fields of `spec` (its first level): whoever changed one last."""
        before, after = old.get("spec", {}), new.get("spec", {})
        changed = {f"f:{name}": {} for name in after if before.get(name) != after[name]}
        self.clock += 1.0
        entries: list[Object] = []
        for entry in old.get("metadata", {}).get("managedFields", []):
            left = {n: v for n, v in entry["fieldsV1"]["f:spec"].items() if n not in changed}
            if entry["manager"] == manager:
                changed = left | changed
            elif left:
                entries.append(entry | {"fieldsV1": {"f:spec": left}})
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock))
        return [
            *entries,
            {"manager": manager, "operation": "Update", "time": stamp, "fieldsV1": {"f:spec": changed}},
        ]

    def _scale(self, key: Key) -> Object:
        obj = self.objects[key]
        metadata = {n: obj["metadata"][n] for n in ("name", "uid", "resourceVersion")}
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": metadata,
            "spec": {"replicas": obj["spec"].get("replicas", 0)},
        }

    def _logged(self, event: str, obj: Object) -> None:
        self.log.append((self.version, event, copy.deepcopy(obj)))
        self.changed.notify_all()

    def _authorize(self, method: str, place: "Where", query: dict[str, str]) -> None:
        verb = {"GET": "get", "PATCH": "patch", "POST": "create"}[method]
        if verb == "get" and not place.name:
            verb = "watch" if query.get("watch") else "list"
        if not self._allows(verb, place.group, place.plural, place.subresource, place.name):
            resource = f"{place.plural}/{place.subresource}" if place.subresource else place.plural
            message = f'{place.plural} "{place.name}" is forbidden: User "leadtime" cannot {verb} resource "{resource}"'
            raise Refused(403, message, "Forbidden")

    def _allows(self, verb: str, group: str, plural: str, subresource: str, name: str) -> bool:
        resource = f"{plural}/{subresource}" if subresource else plural
        return self.rules is None or any(
            verb in rule["verbs"]
            and group in rule["apiGroups"]
            and resource in rule["resources"]
            and (not rule.get("resourceNames") or name in rule["resourceNames"])
            for rule in self.rules
        )

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.changed:
            self.requests.append((method, path))
            return take(self.faults, method, path)


@dataclass(frozen=True)
class Where:
    group: str
    plural: str
    namespace: str
    name: str
    subresource: str


def _place(path: str) -> Where:
    parts = path.strip("/").split("/")
    group, parts = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = [*parts, "", ""][:3]
    return Where(group, plural, namespace, name, subresource)


def _is_of(obj: Object, place: Where) -> bool:
    return obj["kind"] == KINDS[place.plural][1] and obj["metadata"].get("namespace", "") == place.namespace


def _selected(obj: Object, query: dict[str, str]) -> bool:
    labels = obj["metadata"].get("labels", {})
    selector = query.get("labelSelector", "")
    if " in (" in selector:
        name, _, values = selector.partition(" in (")
        if labels.get(name) not in values.rstrip(")").split(","):
            return False
    elif selector and "=" not in selector:
        if selector not in labels:
            return False
    elif selector and any(labels.get(n) != v for n, v in (pair.split("=") for pair in selector.split(","))):
        return False
    phase = query.get("fieldSelector", "").removeprefix("status.phase=")
    return not phase or obj.get("status", {}).get("phase") == phase


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged: Object = copy.deepcopy(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _validate(key: Key, obj: Object) -> None:
    spec = obj.get("spec", {})
    name = f'{KINDS[key[0]][1]} "{key[2]}" is invalid: '
    if key[0] == "horizontalpodautoscalers":
        if spec.get("minReplicas", 1) < 1:
            raise Refused(422, f"{name}spec.minReplicas: must be greater than or equal to 1", "Invalid")
        if spec["maxReplicas"] < spec.get("minReplicas", 1):
            raise Refused(
                422, f"{name}spec.maxReplicas: must be greater than or equal to minReplicas", "Invalid"
            )
    if spec.get("replicas", 0) < 0:
        raise Refused(422, f"{name}spec.replicas: must be greater than or equal to 0", "Invalid")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # else each answer waits 40 ms for the delayed acknowledgement of its headers
    )
    state: ApiServer

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve("GET")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if method == "PATCH":
            assert self.headers["Content-Type"] == "application/merge-patch+json"
        self.state.seen.add(self.headers.get("Authorization", ""))
        fault = self.state.next_fault(method, url.path + (" watch" if query.get("watch") else ""))
        try:
            self._do(method, url.path, query, body, fault)
        finally:
            if fault is not None:
                fault.finished.set()

    def _do(
        self, method: str, path: str, query: dict[str, str], body: Object | None, fault: Fault | None
    ) -> None:
        if fault is not None and not self._before(fault):
            return
        try:
            if query.get("watch"):
                self._stream(self.state.watch(path, query))
                return
            answer = self.state.answer(method, path, query, body)
        except Refused as refused:
            self._send(refused.code, refused.status(), refused.headers)
            return
        if fault is not None and (fault.lost or fault.held is not None):
            self.close_connection = True
            return
        if fault is not None and fault.late is not None:
            fault.late.wait(30)
        self._send(200, answer)

    def _before(self, fault: Fault) -> bool:
        """Do what a fault does before the request is; False: nothing more."""
        time.sleep(fault.slow_s)
        if fault.held is not None:
            fault.held.wait(30)
        if fault.refused is not None:
            self._send(fault.refused.code, fault.refused.status(), fault.refused.headers)
        elif fault.body is not None:
            self._send(200, fault.body)
        elif fault.unheard:
            self.close_connection = True
        else:
            return True
        return False

    def _send(self, code: int, answer: Object | bytes, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            self.send_response(code)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has given up
            self.close_connection = True

    def _stream(self, lines: Iterator[bytes]) -> None:
        self.close_connection = True
        try:
            first = next(lines, b"")  # what refuses, before the status
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            self._chunk(first)
            for line in lines:
                if self.state.silent:
                    return
                self._chunk(line)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            return

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


@dataclass(frozen=True)
class Served:
    """A contract server at an address."""

    state: ApiServer
    url: str

    def api(self, **limits: Any) -> Api:
        configuration = Configuration(host=self.url, retries=False)  # type: ignore[arg-type]
        configuration.api_key["BearerToken"] = "Bearer token"
        return Api(ApiClient(configuration), **limits)

    def kubeconfig(self, path: Path) -> Path:
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {"server": self.url}}],
                    "users": [{"name": "test", "user": {"token": "token"}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )
        return path


@contextmanager
def served(wrap: Callable[[Any], Any] = lambda socket: socket, scheme: str = "http") -> Generator[Served]:
    """A contract server on a free port of this machine; wrap: of its socket, for TLS."""
    state = ApiServer()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.socket = wrap(server.socket)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield Served(state, f"{scheme}://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# Objects.


def hpa(low: int = 2, high: int = 20, **metadata: Any) -> Object:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": ref, "minReplicas": low, "maxReplicas": high}
    return {"metadata": {"name": "web", "namespace": "shop"} | metadata, "spec": spec}


def scaled_object(low: int = 2, high: int = 20, **metadata: Any) -> Object:
    spec = {"scaleTargetRef": {"name": "web"}, "minReplicaCount": low, "maxReplicaCount": high}
    return {"metadata": {"name": "web", "namespace": "shop"} | metadata, "spec": spec}


def deployment(replicas: int = 2, name: str = "web", **metadata: Any) -> Object:
    labels = {"app": name}
    requests = {"cpu": "500m", "memory": "1Gi"}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": name, "image": "web:1", "resources": {"requests": requests}}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod}
    status = {"replicas": replicas, "readyReplicas": replicas}
    return {"metadata": {"name": name, "namespace": "shop"} | metadata, "spec": spec, "status": status}


def node_pool(replicas: int | None = 2, limit: int | None = 10, **metadata: Any) -> Object:
    spec: Object = {} if replicas is None else {"replicas": replicas}
    spec |= {} if limit is None else {"limits": {"nodes": str(limit)}}
    return {"metadata": {"name": "general"} | metadata, "spec": spec}


def node(name: str, ready: bool = True, **metadata: Any) -> Object:
    labels = {"karpenter.sh/nodepool": "general"}
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    status = {"conditions": [condition], "allocatable": {"cpu": "3920m", "memory": "14Gi"}}
    return {"metadata": {"name": name, "labels": labels} | metadata, "spec": {}, "status": status}
