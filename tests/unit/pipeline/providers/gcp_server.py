"""GCP for tests: managed instance groups whose requests and answers hold to Compute Engine's discovery document.

The document `compute.v1.json` is the one that google-api-python-client bundles. A request that is none of its methods,
or has a parameter or field that it does not, is refused; that, and an answer that does not hold to it, is a violation,
which a test fails for. Behind it is the state machine of a group: instances are created where there is room, and are
tried again where there is none, or only once; a resize with an id is done once; operations may end later, or with
errors.
"""

import json
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import AnonymousCredentials

from pipeline.providers.gcp.api import Api
from pipeline.providers.gcp.marks import mark_of
from pipeline.providers.gcp.resources import Location, Place
from pipeline.providers.marks import Mark
from tests.unit.pipeline.providers.serving import Answer, Contract, Environ, Switch

PROJECT = "shop-production"
REGION = "europe-west1"
ZONES = tuple(f"{REGION}-{letter}" for letter in "bcd")
ROOT = "https://www.googleapis.com/compute/v1/"
STOCKOUT = "ZONE_RESOURCE_POOL_EXHAUSTED"
ACTIONS = (
    *("abandoning", "creating", "creatingWithoutRetries", "deleting", "none", "recreating", "refreshing"),
    *("restarting", "resuming", "starting", "stopping", "suspending", "verifying"),
)
PERMISSIONS = {
    "instanceGroupManagers.get": "compute.instanceGroupManagers.get",
    "instanceGroupManagers.list": "compute.instanceGroupManagers.list",
    "instanceGroupManagers.aggregatedList": "compute.instanceGroupManagers.list",
    "instanceGroupManagers.listErrors": "compute.instanceGroupManagers.get",
    "instanceGroupManagers.listManagedInstances": "compute.instanceGroupManagers.get",
    "instanceGroupManagers.patch": "compute.instanceGroupManagers.update",
    "instanceGroupManagers.resize": "compute.instanceGroupManagers.update",
    "instanceGroupManagers.deleteInstances": "compute.instanceGroupManagers.update",
    "autoscalers.get": "compute.autoscalers.get",
    "zoneOperations.get": "compute.zoneOperations.get",
    "regionOperations.get": "compute.regionOperations.get",
}
"""What GCP documents that a request needs."""


@dataclass(frozen=True)
class Refused:
    """An answer that is an error; code: reason; body: instead of Google's JSON; after_s: Retry-After."""

    code: str
    status: int = 400
    message: str = "no"
    body: bytes | None = None
    after_s: int | None = None


@dataclass(frozen=True)
class Request:
    """A request of a method of the document: its name without `region`, parameters, body and path."""

    method: str
    parameters: dict[str, str]
    body: dict[str, Any]
    path: str
    id: str = ""
    fault: str = ""


@dataclass
class Instance:
    """A managed instance; errors: codes of its last attempt."""

    name: str
    zone: str
    action: str = "NONE"
    status: str = "RUNNING"
    errors: tuple[str, ...] = ()
    health: str = ""


@dataclass
class Managed:
    """A group; more: further fields of its description."""

    id: int
    name: str
    zone: str
    target: int
    description: str = ""
    version: int = 1
    retries: bool = True
    instances: list[Instance] = field(default_factory=list[Instance])
    errors: list[dict[str, Any]] = field(default_factory=list[Any])
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    stable: bool | None = None
    made: int = 0

    @property
    def where(self) -> str:
        return f"zones/{self.zone}" if self.zone else f"regions/{REGION}"

    @property
    def fingerprint(self) -> str:
        return f"{self.version:010d}AA="

    @property
    def path(self) -> str:
        return f"projects/{PROJECT}/{self.where}/instanceGroupManagers/{self.name}"


@dataclass
class Cloud(Contract):
    """See the module.

    Attributes:
        groups: by where and name.
        requests: the oldest first; tokens: their credentials.
        written: sizes that were set, with the mark that was on the group when they were asked for, and whether late.
        room: most instances in a zone; one without: any number. code: of what fails for lack of it.
        permissions: that requests have; None: all.
        page: most items in an answer, whatever was asked for; 0: what was.
        deferred: whether operations end only when they are finished, and do what they do then.
        deferred_of, failing_of: method of the operations that are; empty: all.
        failing: code, message and status of errors that the next operations end with.
        slow: whether instances stay in creation.
        violations: what did not hold to the document.
    """

    groups: dict[tuple[str, str], Managed] = field(default_factory=dict[Any, Managed])
    requests: list[Request] = field(default_factory=list[Request])
    tokens: list[str] = field(default_factory=list[str])
    written: list[tuple[int, Mark | None, bool]] = field(default_factory=list[Any])
    room: dict[str, int] = field(default_factory=dict[str, int])
    code: str = STOCKOUT
    permissions: set[str] | None = None
    page: int = 0
    deferred: bool = False
    deferred_of: str = ""
    failing_of: str = ""
    failing: list[tuple[str, str, int]] = field(default_factory=list[Any])
    slow: bool = False
    violations: list[str] = field(default_factory=list[str])
    autoscalers: dict[str, str] = field(default_factory=dict[str, str])
    operations: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    waiting: list[tuple[str, Any]] = field(default_factory=list[Any])
    made: int = 0

    # What the world does.

    def make(self, name: str = "web", size: int = 2, *, zone: str = ZONES[0], **more: Any) -> Managed:
        """Make a group; zone: empty: a regional one."""
        self.made += 1
        group = Managed(10**15 + self.made, name, zone, size, **more)
        self.groups[group.where, name] = group
        self.settle(group)
        return group

    def group(self, name: str = "web") -> Managed:
        return next(group for group in self.groups.values() if group.name == name)

    def scale(self, size: int, name: str = "web") -> None:
        """Somebody else sets the size."""
        with self.lock:
            self._scaled(self.group(name), size)

    def settle(self, group: Managed) -> None:
        """Create and delete until the group has its size, as far as there is room."""
        for instance in [i for i in group.instances if i.errors]:
            group.instances.remove(instance)
        going = sorted(group.instances, key=lambda i: i.status == "RUNNING")
        for instance in going[: max(0, len(group.instances) - group.target)]:
            group.instances.remove(instance)
        while len(group.instances) < group.target:
            zones = [group.zone] if group.zone else list(ZONES)
            zone = min(zones, key=lambda of: sum(i.zone == of for i in group.instances))
            group.made += 1
            instance = Instance(f"{group.name}-{group.made:04d}", zone)
            group.instances.append(instance)
            self._try(group, instance)

    def _try(self, group: Managed, instance: Instance) -> None:
        here = sum(
            i.zone == instance.zone and not i.errors for g in self.groups.values() for i in g.instances
        )
        action = "CREATING" if group.retries else "CREATING_WITHOUT_RETRIES"
        if here > self.room.get(instance.zone, 10**6):
            instance.action, instance.status, instance.errors = action, "", (self.code,)
            self.note_error(group, instance)
            if not group.retries:
                group.instances.remove(instance)
                group.target -= 1
        elif self.slow:
            instance.action, instance.status = action, "PROVISIONING"

    def note_error(self, group: Managed, instance: Instance) -> None:
        """Keep an error of the instance's last attempt."""
        details = {"action": instance.action, "instance": instance_url(instance)}
        group.errors.append(
            {
                "error": {"code": instance.errors[0], "message": f"there are not enough: {instance.zone}"},
                "instanceActionDetails": details,
                "timestamp": datetime.now(UTC).isoformat(),
            }
        )

    def run(self) -> None:
        """What is created runs."""
        for group in self.groups.values():
            for instance in group.instances:
                if not instance.errors:
                    instance.action, instance.status = "NONE", "RUNNING"

    def finish(self) -> None:
        """End all operations."""
        with self.lock:
            waiting, self.waiting = self.waiting, []
            for name, do in waiting:
                self._end(self.operations[name], do)

    def mark(self, name: str = "web") -> Mark | None:
        """The mark on a group."""
        group_named = next((group for group in self.groups.values() if group.name == name), None)
        return None if group_named is None else mark_of(self.described(group_named))

    def attach(self, mode: str, name: str = "web") -> None:
        """Attach an autoscaler."""
        group = self.group(name)
        self.autoscalers[f"{name}-as"] = mode
        group.more["autoscaler"] = f"{ROOT}projects/{PROJECT}/{group.where}/autoscalers/{name}-as"

    def described(self, group: Managed) -> dict[str, Any]:
        """A group as the API describes it."""
        lives = [camel(instance.action) for instance in group.instances]
        stable = all(i.action == "NONE" and i.status == "RUNNING" for i in group.instances)
        status: dict[str, Any] = {"isStable": stable if group.stable is None else group.stable}
        more = dict(group.more)
        if "autoscaler" in more:
            status["autoscaler"] = more.pop("autoscaler")
        status |= more.pop("status", {})
        where = {"zone": f"{ROOT}projects/{PROJECT}/zones/{group.zone}"} if group.zone else {}
        return {
            "kind": "compute#instanceGroupManager",
            "id": str(group.id),
            "name": group.name,
            "baseInstanceName": group.name,
            "description": group.description,
            "fingerprint": group.fingerprint,
            "targetSize": group.target,
            "currentActions": {action: lives.count(action) for action in ACTIONS},
            "selfLink": ROOT + group.path,
            "status": status,
            **(where or {"region": f"{ROOT}projects/{PROJECT}/regions/{REGION}"}),
            **more,
        }

    # What requests are answered.

    def note(self, environ: Environ) -> Request:
        request = read(environ)
        self.requests.append(request)
        self.tokens.append(environ.get("HTTP_AUTHORIZATION", ""))
        return request

    def named(self, request: Request) -> tuple[str, str]:
        return request.fault, request.path

    def refusal(self, request: Request, refused: Refused) -> Answer:
        headers = [("Content-Type", "application/json; charset=UTF-8")]
        headers += [("Retry-After", str(refused.after_s))] if refused.after_s is not None else []
        if refused.body is not None:
            return f"{refused.status} no", headers, refused.body
        return f"{refused.status} no", headers, json.dumps(error_body(refused)).encode()

    def answer(self, request: Request, environ: Environ) -> Answer:
        wrong = request_faults(request)
        if wrong:
            self.violations += wrong
            return self.refusal(request, Refused("invalid", 400, "; ".join(wrong)))
        denied = self._denied(request)
        body = denied or getattr(self, f"_{snake(request.fault)}")(request)
        if isinstance(body, Refused):
            return self.refusal(request, body)
        schema = methods()[request.id]["response"]["$ref"]
        self.violations += [f"answer to {request.id}: {fault}" for fault in value_faults(schema, body)]
        return "200 OK", [("Content-Type", "application/json; charset=UTF-8")], json.dumps(body).encode()

    def _denied(self, request: Request) -> Refused | None:
        permission = self.permission_of(request)
        if self.permissions is None or permission in self.permissions:
            return None
        resource = request.path.removeprefix("/compute/v1/")
        return Refused("forbidden", 403, f"Required '{permission}' permission for '{resource}'")

    def permission_of(self, request: Request) -> str:
        """What a request needs."""
        return PERMISSIONS[request.method]

    def _find(self, request: Request) -> Managed | Refused:
        where = request.path.removeprefix(f"/compute/v1/projects/{PROJECT}/")
        of, name = "/".join(where.split("/")[:2]), request.parameters["instanceGroupManager"]
        group = self.groups.get((of, name))
        words = f"The resource 'projects/{PROJECT}/{of}/instanceGroupManagers/{name}' was not found"
        return group if group is not None else Refused("notFound", 404, words)

    def _get(self, request: Request) -> dict[str, Any] | Refused:
        group = self._find(request)
        return group if isinstance(group, Refused) else self.described(group)

    def _list(self, request: Request) -> dict[str, Any]:
        where = "/".join(request.path.removeprefix(f"/compute/v1/projects/{PROJECT}/").split("/")[:2])
        names = set(re.findall(r'\(name = "([^"]+)"\)', request.parameters.get("filter", "")))
        here = [g for g in self.groups.values() if g.where == where and (not names or g.name in names)]
        kind = "compute#regionInstanceGroupManagerList" if "regions/" in where else KIND_LIST
        return {"kind": kind, "id": where} | self._paged(request, "items", [self.described(g) for g in here])

    def _aggregated_list(self, request: Request) -> dict[str, Any]:
        scopes = {
            where: {
                "instanceGroupManagers": [self.described(g) for g in self.groups.values() if g.where == where]
            }
            for where in dict.fromkeys(group.where for group in self.groups.values())
        }
        return {"kind": "compute#instanceGroupManagerAggregatedList", "id": "all", "items": scopes}

    def _list_managed_instances(self, request: Request) -> dict[str, Any] | Refused:
        group = self._find(request)
        if isinstance(group, Refused):
            return group
        return self._paged(request, "managedInstances", [instance_body(i) for i in group.instances])

    def _list_errors(self, request: Request) -> dict[str, Any] | Refused:
        group = self._find(request)
        return group if isinstance(group, Refused) else self._paged(request, "items", group.errors)

    def _paged(self, request: Request, key: str, items: list[Any]) -> dict[str, Any]:
        most = self.page or int(request.parameters.get("maxResults", 500))
        first = int(request.parameters.get("pageToken", 0))
        rest = {"nextPageToken": str(first + most)} if first + most < len(items) else {}
        return {key: items[first : first + most], **rest}

    def _patch(self, request: Request) -> dict[str, Any] | Refused:
        group = self._find(request)
        if isinstance(group, Refused):
            return group
        if request.body.get("fingerprint") != group.fingerprint:
            return Refused("conditionNotMet", 412, "Invalid fingerprint.")
        if set(request.body) != {"fingerprint", "description"}:
            return Refused("invalid", 400, f"not ours to patch: {sorted(request.body)}")

        def do() -> None:
            group.description = str(request.body["description"])
            group.version += 1

        return self._operate(request, group, do)

    def _resize(self, request: Request) -> dict[str, Any] | Refused:
        group, size = self._find(request), int(request.parameters["size"])
        if isinstance(group, Refused):
            return group
        if not 0 <= size <= 2000:
            return Refused("invalid", 400, f"Invalid value for field 'size': '{size}'.")
        of_request = self.mark(group.name), self.landing_late
        return self._operate(request, group, lambda: self._set(group, size, *of_request))

    def _delete_instances(self, request: Request) -> dict[str, Any] | Refused:
        group, urls = self._find(request), request.body.get("instances", [])
        if isinstance(group, Refused):
            return group
        going = [i for i in group.instances if instance_url(i) in urls]
        if len(going) != len(urls) or len(urls) > 1000:
            return Refused("invalid", 400, "Invalid value for field 'instances': not a member of the group")

        of_request = self.mark(group.name), self.landing_late

        def do() -> None:
            group.instances = [i for i in group.instances if i not in going]
            self._set(group, group.target - len(going), *of_request)

        return self._operate(request, group, do)

    def _set(self, group: Managed, size: int, mark: Mark | None, late: bool) -> None:
        self.written.append((size, mark, late))
        self._scaled(group, size)

    def _scaled(self, group: Managed, size: int) -> None:
        group.target = size
        group.version += 1
        self.settle(group)

    def _operate(self, request: Request, group: Managed, do: Any) -> dict[str, Any]:
        """Do, now or later, what an operation does, unless one with the same id was asked for before."""
        ident = request.parameters.get("requestId", "")
        known = next(
            (of for of in self.operations.values() if ident and of["clientOperationId"] == ident), None
        )
        if known is not None:
            return known
        name = f"operation-{len(self.operations)}"
        operation: dict[str, Any] = {
            "kind": "compute#operation",
            "id": str(10**6 + len(self.operations)),
            "name": name,
            "operationType": request.method,
            "status": "RUNNING",
            "targetId": str(group.id),
            "targetLink": ROOT + group.path,
            "clientOperationId": ident,
            "progress": 0,
        }
        self.operations[name] = operation
        if self.deferred and (not self.deferred_of or request.fault == self.deferred_of):
            self.waiting.append((name, do))
        else:
            self._end(operation, do)
        return operation

    def _end(self, operation: dict[str, Any], do: Any) -> None:
        operation |= {"status": "DONE", "progress": 100}
        of_method = not self.failing_of or operation["operationType"].endswith(self.failing_of)
        if not self.failing or not of_method:
            do()
            return
        code, message, status = self.failing.pop(0)
        error = {"errors": [{"code": code, "message": message}]}
        operation |= {"error": error, "httpErrorStatusCode": status, "httpErrorMessage": "ERROR"}

    def _operations_get(self, request: Request) -> dict[str, Any] | Refused:
        return self.operations.get(request.parameters["operation"], Refused("notFound", 404, "was not found"))

    def _autoscalers_get(self, request: Request) -> dict[str, Any] | Refused:
        name = request.parameters["autoscaler"]
        if name not in self.autoscalers:
            return Refused("notFound", 404, f"The resource '{name}' was not found")
        policy = {"mode": self.autoscalers[name], "minNumReplicas": 1, "maxNumReplicas": 9}
        return {"kind": "compute#autoscaler", "name": name, "autoscalingPolicy": policy}


KIND_LIST = "compute#instanceGroupManagerList"


def instance_url(instance: Instance) -> str:
    return f"{ROOT}projects/{PROJECT}/zones/{instance.zone}/instances/{instance.name}"


def instance_body(instance: Instance) -> dict[str, Any]:
    errors = [{"code": code, "message": f"there are not enough: {instance.zone}"} for code in instance.errors]
    health = [{"detailedHealthState": instance.health}] if instance.health else []
    return {
        "instance": instance_url(instance),
        "name": instance.name,
        "currentAction": instance.action,
        **({"instanceStatus": instance.status} if instance.status else {}),
        "targetStatus": "DELETED" if instance.action == "DELETING" else "RUNNING",
        "lastAttempt": {"errors": {"errors": errors}} if errors else {},
        "instanceHealth": health,
    }


def error_body(refused: Refused) -> dict[str, Any]:
    """An error as Google words it."""
    inner = {"message": refused.message, "domain": "global", "reason": refused.code}
    return {"error": {"code": refused.status, "message": refused.message, "errors": [inner]}}


def camel(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name.replace(".", "_")).lower()


# The discovery document.


@cache
def document() -> dict[str, Any]:
    path = files("googleapiclient") / "discovery_cache/documents/compute.v1.json"
    return json.loads(path.read_text())


@cache
def methods() -> dict[str, dict[str, Any]]:
    """Methods of the resources that we use, by `resource.method`."""
    names = {"instanceGroupManagers", "autoscalers", "zoneOperations", "regionOperations"}
    names |= {"regionInstanceGroupManagers", "regionAutoscalers"}
    resources = document()["resources"]
    return {f"{of}.{name}": method for of in names for name, method in resources[of]["methods"].items()}


@cache
def routes() -> list[tuple[str, str, re.Pattern[str]]]:
    """Name, HTTP method and path of each method."""
    made: list[tuple[str, str, re.Pattern[str]]] = []
    for name, method in methods().items():
        path = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", "/compute/v1/" + method["path"])
        made.append((name, method["httpMethod"], re.compile(path)))
    return made


def read(environ: Environ) -> Request:
    """The request of an environment."""
    raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    path, verb = str(environ["PATH_INFO"]), str(environ["REQUEST_METHOD"])
    query = dict(parse_qsl(str(environ.get("QUERY_STRING", "")), keep_blank_values=True))
    for ident, method, pattern in routes():
        matched = pattern.fullmatch(path)
        if matched and method == verb:
            resource, _, name = ident.partition(".")
            short = re.sub("^region(?=[A-Z])", "", resource)
            short = resource if short == "Operations" else short[0].lower() + short[1:]
            fault = "operations." + name if "Operations" in resource else f"{short}.{name}"
            return Request(
                f"{short}.{name}",
                {**matched.groupdict(), **query},
                json.loads(raw or b"{}"),
                path,
                ident,
                fault.removeprefix("instanceGroupManagers."),
            )
    return Request("", query, {}, path)


def request_faults(request: Request) -> list[str]:
    """What of a request the document does not have."""
    method = methods().get(request.id)
    if method is None:
        return [f"no method: {request.path}"]
    known = method["parameters"]
    faults = [f"{request.id}: no parameter {name}" for name in request.parameters if name not in known]
    faults += [
        f"{request.id}: {name} is missing"
        for name, of in known.items()
        if of.get("required") and name not in request.parameters
    ]
    faults += [
        f"{request.id}: {name}={value}"
        for name, value in request.parameters.items()
        if name in known and not parameter_holds(known[name], value)
    ]
    if "request" in method:
        faults += value_faults(method["request"]["$ref"], request.body, writing=True)
    elif request.body:
        faults.append(f"{request.id}: has no body")
    return faults


def parameter_holds(of: Mapping[str, Any], value: str) -> bool:
    if of["type"] == "integer":
        return value.lstrip("-").isdigit()
    return "pattern" not in of or re.fullmatch(of["pattern"], value) is not None


def value_faults(schema: str, value: Any, *, writing: bool = False) -> list[str]:
    """What of a value does not hold to a schema; writing: what can only be read is no field either."""
    return list(_faults({"$ref": schema}, value, schema, writing))


SIMPLE: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
}


def _faults(of: Mapping[str, Any], value: Any, at: str, writing: bool) -> Iterable[str]:
    if "$ref" in of:
        of = document()["schemas"][of["$ref"]]
    kind = of["type"]
    if kind == "array":
        if not isinstance(value, list):
            yield f"{at} is no array"
        else:
            for item in value:
                yield from _faults(of["items"], item, f"{at}[]", writing)
    elif kind == "object":
        yield from _object_faults(of, value, at, writing)
    elif kind != "any" and not isinstance(value, SIMPLE[kind]):
        yield f"{at} is no {kind}: {value!r}"
    elif "enum" in of and value not in of["enum"]:
        yield f"{at} is not of the enum: {value!r}"


def _object_faults(of: Mapping[str, Any], value: Any, at: str, writing: bool) -> Iterable[str]:
    if not isinstance(value, dict):
        yield f"{at} is no object"
        return
    for name, item in value.items():
        field_of = of.get("properties", {}).get(name) or of.get("additionalProperties")
        if field_of is None:
            yield f"{at} has no field {name}"
        elif writing and field_of.get("readOnly"):
            yield f"{at}.{name} is read only"
        else:
            yield from _faults(field_of, item, f"{at}.{name}", writing)


@dataclass
class Served:
    """A cloud that is served."""

    cloud: Cloud
    url: str

    @property
    def location(self) -> Location:
        """A zone, as targets name it."""
        return Location(PROJECT, ZONES[0], endpoint=self.url)

    def place(self, name: str = "web") -> Place:
        return Place(self.location, name)

    def api(self, **limits: Any) -> Api:
        return Api(AnonymousCredentials(), self.url, **limits)


def service_account(folder: Path) -> Path:
    """A file of a service account's key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "account.json"
    fields = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "leadtime@shop-production.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://127.0.0.1:1/token",
    }
    path.write_text(json.dumps(fields))
    return path


@cache
def switch() -> Switch:
    return Switch()


@contextmanager
def served() -> Generator[Served]:
    """A cloud of its own for a test."""
    cloud = switch().cloud = Cloud()
    yield Served(cloud, switch().url)
    assert cloud.violations == []
