"""A contract server of Azure: what its documentation says of scale sets, as far as our provider uses it.

Bodies of requests and answers are held to the models of the SDK: a field that a model does not have, one of another
type, or a read-only one in a request, is an error of the test. A set has the states that Azure's has: a capacity is
taken at once, and the operation goes on until `settle`; it may fail for lack of room, in part, or a zone may have none.
Spot instances are evicted, kept or deleted, and restored. The server also gives tokens, as the App Service's identity
endpoint does.
"""

import itertools
import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, wraps
from typing import Any, cast, get_args
from urllib.parse import parse_qs, unquote, urlencode

from azure.core.credentials import AccessToken
from azure.mgmt.compute import models

from pipeline.providers.azure.api import AUTOSCALE, COMPUTE, PERMISSIONS, Api
from pipeline.providers.azure.checks import allows
from pipeline.providers.azure.marks import mark_of
from pipeline.providers.azure.resources import Account
from pipeline.providers.marks import Mark
from tests.unit.pipeline.providers.serving import Answer, Contract, Environ, Switch

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
GROUP = "shop"
LOCATION = "westeurope"
ROOT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
Json = dict[str, Any]
Written = tuple[int, Mark | None, bool]
SETS = "Microsoft.Compute/virtualMachineScaleSets"
VMS = "Microsoft.Compute/virtualMachines"
ROUTES: Sequence[tuple[str, str, str, str]] = (
    ("GET", rf"/providers/{SETS}", f"{SETS}/read", COMPUTE),
    ("GET", rf"/providers/{SETS}/(?P<name>[^/]+)", f"{SETS}/read", COMPUTE),
    ("PATCH", rf"/providers/{SETS}/(?P<name>[^/]+)", f"{SETS}/write", COMPUTE),
    ("POST", rf"/providers/{SETS}/(?P<name>[^/]+)/delete", f"{SETS}/delete/action", COMPUTE),
    ("GET", rf"/providers/{SETS}/(?P<name>[^/]+)/instanceView", f"{SETS}/instanceView/read", COMPUTE),
    (
        "GET",
        rf"/providers/{SETS}/(?P<name>[^/]+)/virtualMachines",
        f"{SETS}/virtualMachines/read",
        COMPUTE,
    ),
    ("GET", rf"/providers/{VMS}", f"{VMS}/read", COMPUTE),
    (
        "GET",
        r"/providers/Microsoft.Insights/autoscaleSettings",
        "Microsoft.Insights/autoscaleSettings/read",
        AUTOSCALE,
    ),
    (
        "GET",
        rf"/providers/{SETS}/(?P<name>[^/]+)/providers/Microsoft.Authorization/permissions",
        "Microsoft.Authorization/permissions/read",
        PERMISSIONS,
    ),
    (
        "GET",
        rf"/providers/Microsoft.Compute/locations/{LOCATION}/operations/(?P<name>[^/]+)",
        "Microsoft.Compute/locations/operations/read",
        COMPUTE,
    ),
)


@dataclass(frozen=True)
class Refused:
    """An answer that is an error; body: instead of the JSON of Azure, and without a request id."""

    code: str
    status: int = 400
    message: str = "no"
    details: Sequence[Json] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None


@dataclass(frozen=True)
class Request:
    """A request; action: as roles name it, or empty; name: of a set or operation; etag: that it must have."""

    method: str
    path: str
    query: dict[str, str]
    body: Json | None
    etag: str
    token: str
    action: str
    version: str
    name: str


@dataclass
class Machines:
    """A set and its instances.

    Attributes:
        described: the set; instances: by name, the oldest first.
        room: most instances; None: any number; fault: why there are no more.
        overprovisioned: instances beyond the capacity until the set has settled.
    """

    described: Json
    instances: dict[str, Json] = field(default_factory=dict[str, Json])
    room: int | None = None
    fault: Refused = field(default_factory=lambda: Refused("AllocationFailed", 200, "Allocation failed."))
    operation: str = ""
    overprovisioned: int = 0

    @property
    def capacity(self) -> int:
        return self.described["sku"]["capacity"]


def alone(method: Callable[..., Any]) -> Any:
    """What the world does, while no request is answered."""

    @wraps(method)
    def locked(self: "Cloud", *values: Any, **named: Any) -> Any:
        with self.lock:
            return method(self, *values, **named)

    return locked


@dataclass
class Cloud(Contract):
    """See the module.

    Attributes:
        requests: the oldest first; sets: by name.
        written: capacities that were set, with the mark that was on the set then, and whether late.
        settles: whether an operation ends at once; accepted: status of the answer to a change.
        operations: faults by id; None: it goes on, or has succeeded; ids that are not there have expired.
        settings: of autoscaling; actions: that a role allows; None: all.
        page: most resources in an answer; 0: any number; quota: most instances that a set may ask for.
        broken: what bodies had that the models of the SDK have not, or a defect of the server.
    """

    requests: list[Request] = field(default_factory=list[Request])
    sets: dict[str, Machines] = field(default_factory=dict[str, Machines])
    written: list[Written] = field(default_factory=list[Any])
    settles: bool = True
    accepted: int = 200
    operations: dict[str, Refused | None] = field(default_factory=dict[str, Any])
    settings: list[Json] = field(default_factory=list[Json])
    actions: Sequence[str] | None = None
    page: int = 0
    quota: int = 10_000
    url: str = ""
    broken: list[str] = field(default_factory=list[str])
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    # What the world does.

    @alone
    def make(
        self,
        name: str = "web",
        capacity: int = 2,
        *,
        spot: str = "",
        flexible: bool = False,
        zones: Sequence[str] = ("1", "2"),
        tags: Mapping[str, str] | None = None,
        **properties: Any,
    ) -> Machines:
        """Make a set; spot: its eviction policy, of one that is."""
        profile = {"priority": "Spot", "evictionPolicy": spot} if spot else {"priority": "Regular"}
        described = {
            "id": f"{ROOT}/providers/{SETS}/{name}",
            "name": name,
            "type": SETS,
            "location": LOCATION,
            "zones": list(zones),
            "tags": dict(tags or {}),
            "sku": {"name": "Standard_D2s_v5", "tier": "Standard", "capacity": capacity},
            "properties": {
                "uniqueId": f"u-{next(self.numbers)}",
                "provisioningState": "Succeeded",
                "orchestrationMode": "Flexible" if flexible else "Uniform",
                "overprovision": False,
                "virtualMachineProfile": profile,
                **properties,
            },
        }
        made = self.sets[name.lower()] = Machines(described)
        self._change(made)
        self.settle(name)
        return made

    def _change(self, machines: Machines) -> None:
        machines.described["etag"] = f'"{next(self.numbers)}"'

    @alone
    def scale(self, capacity: int, name: str = "web") -> None:
        """Somebody else sets the capacity."""
        machines = self.sets[name]
        machines.described["sku"]["capacity"] = capacity
        self._change(machines)
        self.settle(name)

    @alone
    def tag(self, key: str, value: str | None, name: str = "web") -> None:
        """Somebody edits a tag; None: takes it away."""
        tags = self.sets[name].described["tags"]
        tags.pop(key, None)
        tags.update({key: value} if value is not None else {})
        self._change(self.sets[name])

    @alone
    def settle(self, name: str = "web") -> None:
        """Make and delete instances until the set has its capacity, as far as there is room; the operation ends."""
        machines = self.sets[name.lower()]
        there, wanted = machines.instances, machines.capacity
        free = [key for key, instance in there.items() if not is_protected(instance)]
        for key in reversed(free[max(0, len(free) - max(0, len(there) - wanted)) :]):
            del there[key]
        room = wanted if machines.room is None else machines.room
        while len(there) < min(wanted, room):
            self._add(machines)
        failed = len(there) < wanted
        machines.described["properties"]["provisioningState"] = "Failed" if failed else "Succeeded"
        self._change(machines)
        if machines.operation:
            self.operations[machines.operation] = machines.fault if failed else None

    def _add(self, machines: Machines, state: str = "Succeeded") -> str:
        """An instance more, in the zone that has fewest; returns its name."""
        number, of = next(self.numbers), machines.described
        is_flexible = of["properties"]["orchestrationMode"] == "Flexible"
        zones = of["zones"]
        taken = [instance["zones"][0] for instance in machines.instances.values() if instance.get("zones")]
        key = f"{of['name']}_{number:06d}"
        within = f"{ROOT}/providers/{VMS}" if is_flexible else f"{of['id']}/virtualMachines"
        instance: Json = {
            "id": f"{within}/{key}",
            "name": key,
            "location": LOCATION,
            "properties": {
                "provisioningState": state,
                "vmId": f"v-{number}",
                "timeCreated": datetime.now(UTC).isoformat(),
                "instanceView": {"statuses": []},
            },
        }
        if zones:
            instance["zones"] = [min(zones, key=taken.count)]
        if is_flexible:
            instance["properties"]["virtualMachineScaleSet"] = {"id": of["id"]}
        else:
            instance["instanceId"] = str(number)
        machines.instances[key if is_flexible else str(number)] = instance
        self.become(instance, "running" if state == "Succeeded" else "")
        return str(instance["name"])

    @alone
    def add(self, state: str, power: str = "", name: str = "web", health: str = "") -> str:
        """An instance in a state; returns its key."""
        machines = self.sets[name]
        self._add(machines, state)
        key = list(machines.instances)[-1]
        self.become(machines.instances[key], power, health)
        return key

    @alone
    def become(self, instance: Json, power: str, health: str = "") -> None:
        """Set the power state of an instance, and what its health probe says."""
        view = instance["properties"]["instanceView"]
        view["statuses"] = [
            {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "ok"},
            *([{"code": f"PowerState/{power}", "level": "Info", "displayStatus": power}] if power else []),
        ]
        if health:
            view["vmHealth"] = {"status": {"code": f"HealthState/{health}", "level": "Info"}}

    @alone
    def expire(self) -> None:
        """The links of all operations."""
        self.operations.clear()

    @alone
    def delete(self, name: str = "web") -> None:
        del self.sets[name]

    @alone
    def fail(self, code: str, zone: str, name: str = "web") -> None:
        """An instance that could not be made in a zone."""
        instance = self.sets[name].instances[self.add("Failed", name=name)]
        instance["zones"] = [zone]
        status = {
            "code": f"ProvisioningState/failed/{code}",
            "level": "Error",
            "message": "Allocation failed.",
        }
        instance["properties"]["instanceView"]["statuses"] = [status]

    @alone
    def evict(self, key: str, name: str = "web") -> None:
        """Take a spot instance back, as the set's eviction policy says."""
        machines = self.sets[name]
        properties = machines.described["properties"]
        if properties["virtualMachineProfile"]["evictionPolicy"] == "Deallocate":
            self.become(machines.instances[key], "deallocated")
            return
        del machines.instances[key]
        if not (properties.get("spotRestorePolicy") or {}).get("enabled"):
            machines.described["sku"]["capacity"] -= 1
        self._change(machines)

    @alone
    def protect(self, keys: Iterable[str], name: str = "web") -> None:
        for key in keys:
            policy = {"protectFromScaleIn": True}
            self.sets[name].instances[key]["properties"]["protectionPolicy"] = policy

    def autoscale(self, name: str = "web", *, enabled: bool = True) -> None:
        """Attach an autoscale setting."""
        self.settings.append(
            {
                "id": f"{ROOT}/providers/Microsoft.Insights/autoscaleSettings/auto",
                "name": "auto",
                "location": LOCATION,
                "properties": {
                    "targetResourceUri": self.sets[name].described["id"],
                    "enabled": enabled,
                    "profiles": [],
                },
            }
        )

    def mark(self, name: str = "web") -> Mark | None:
        """The mark on a set."""
        return mark_of(self.sets[name].described) if name in self.sets else None

    def keys(self, name: str = "web") -> list[str]:
        return list(self.sets[name].instances)

    # What requests are answered.

    def note(self, environ: Environ) -> Request:
        request = read(environ)
        self.requests.append(request)
        return request

    def named(self, request: Request) -> tuple[str, str]:
        return request.method, request.path

    def refusal(self, request: Request, refused: Refused) -> Answer:
        status = f"{refused.status} no"
        if refused.body is not None:
            return status, [("Content-Type", "text/html")], refused.body
        error = {"code": refused.code, "message": refused.message, "details": list(refused.details)}
        return answered({"error": error}, refused.status, **refused.headers)

    def answer(self, request: Request, environ: Environ) -> Answer:
        if request.path == "/msi/token":
            token = {"access_token": "t", "expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
            return answered({**token, "resource": request.query["resource"]})
        if not request.token:
            return self.refusal(request, Refused("AuthenticationFailed", 401, "The token is missing."))
        if not request.action:
            return self.refusal(request, Refused("InvalidResourceType", 404, request.path))
        if request.query.get("api-version") != request.version:
            return self.refusal(request, Refused("InvalidApiVersionParameter", 400, str(request.query)))
        if self.actions is not None and not allows({"actions": self.actions}, request.action):
            words = f"does not have authorization to perform action '{request.action}' over scope '{request.path}'"
            why = f"The client 'x' with object id 'y' {words} or the scope is invalid."
            return self.refusal(request, Refused("AuthorizationFailed", 403, why))
        try:
            done = self._done(request)
        except Exception as error:
            self.broken.append(f"{request.method} {request.path}: {error!r}")
            raise
        return self.refusal(request, done) if isinstance(done, Refused) else done

    def _done(self, request: Request) -> Refused | Answer:
        kind = request.action.rpartition("Microsoft.")[2]
        lists = {
            "Insights/autoscaleSettings/read": lambda: self.settings,
            "Authorization/permissions/read": lambda: [{"actions": self.actions or ["*"], "notActions": []}],
            "Compute/virtualMachines/read": lambda: self._machines(request),
            "Compute/virtualMachineScaleSets/virtualMachines/read": lambda: self._instances(request),
        }
        if kind in lists:
            there = lists[kind]()
            return there if isinstance(there, Refused) else self._pages(request, there)
        if kind == "Compute/locations/operations/read":
            return self._operation(request.name)
        if not request.name:
            return self._pages(request, [self._shown(of, etag=False) for of in self.sets.values()])
        machines = self.sets.get(request.name.lower())
        if machines is None:
            return Refused("ResourceNotFound", 404, f"The Resource '{SETS}/{request.name}' was not found.")
        return {
            "write": self._patch,
            "action": self._delete,
            "read": self._view if "instanceView" in kind else self._get,
        }[kind.rpartition("/")[2]](request, machines)

    def _get(self, request: Request, machines: Machines) -> Answer:
        return answered(self._shown(machines))

    def _shown(self, machines: Machines, *, etag: bool = True) -> Json:
        shown = {key: value for key, value in machines.described.items() if etag or key != "etag"}
        return conforming(models.VirtualMachineScaleSet, shown)

    def _view(self, request: Request, machines: Machines) -> Answer:
        failed = machines.described["properties"]["provisioningState"] == "Failed"
        code = f"ProvisioningState/failed/{machines.fault.code}" if failed else "ProvisioningState/succeeded"
        status = {"code": code, "level": "Error" if failed else "Info", "message": machines.fault.message}
        return answered(conforming(models.VirtualMachineScaleSetInstanceView, {"statuses": [status]}))

    def _operation(self, ident: str) -> Refused | Answer:
        if ident not in self.operations:
            return Refused("NotFound", 404, "The entity was not found.")
        fault = self.operations[ident]
        body: Json = {"name": ident, "status": "Failed" if fault else "InProgress"}
        if fault is not None:
            body["error"] = {
                "code": fault.code,
                "message": fault.message,
                "details": list(fault.details),
            }
        return answered(body)

    def _machines(self, request: Request) -> Refused | list[Json]:
        """Instances of a flexible set: virtual machines of the group."""
        filtered = re.fullmatch(r"'virtualMachineScaleSet/id' eq '(.+)'", request.query.get("$filter", ""))
        if filtered is None or request.query.get("$expand") != "instanceView":
            return Refused("BadRequest", 400, "Instance views only with a filter.")
        machines = self.sets.get(filtered[1].rpartition("/")[2].lower())
        if machines is None or machines.described["properties"]["orchestrationMode"] != "Flexible":
            return []
        return [conforming(models.VirtualMachine, instance) for instance in machines.instances.values()]

    def _instances(self, request: Request) -> Refused | list[Json]:
        machines = self.sets.get(request.name.lower())
        if machines is None:
            return Refused("ResourceNotFound", 404, "The set was not found.")
        if machines.described["properties"]["orchestrationMode"] == "Flexible":
            return Refused("OperationNotAllowed", 409, "Not for flexible orchestration.")
        of = models.VirtualMachineScaleSetVM
        return [conforming(of, instance) for instance in machines.instances.values()]

    def _pages(self, request: Request, items: list[Json]) -> Answer:
        first = int(request.query.get("$skiptoken", 0))
        last = first + self.page if self.page else len(items)
        body: Json = {"value": items[first:last]}
        if last < len(items):
            query = {**request.query, "$skiptoken": str(last)}
            body["nextLink"] = f"{self.url}{request.path}?{urlencode(query)}"
        return answered(body)

    def _patch(self, request: Request, machines: Machines) -> Refused | Answer:
        body = conforming(models.VirtualMachineScaleSetUpdate, request.body or {}, is_request=True)
        of = machines.described
        if request.etag and request.etag != of["etag"]:
            return Refused("PreconditionFailed", 412, "The etag does not match.")
        tags = body.get("tags", of["tags"])
        if any(re.search(r"[<>%&\\?/]", name) or len(value) > 256 for name, value in tags.items()):
            return Refused("InvalidTagNameCharacters", 400, f"The tag names {list(tags)} are invalid.")
        capacity = (body.get("sku") or {}).get("capacity", machines.capacity)
        if capacity > self.quota:
            words = "Operation could not be completed as it results in exceeding approved Cores quota."
            return Refused("OperationNotAllowed", 409, words)
        of["tags"] = dict(tags)
        if "sku" in body:
            of["sku"]["capacity"] = capacity
            self.written.append((capacity, mark_of(of), self.landing_late))
        return self._going_on(machines, self.accepted, with_body=True)

    def _delete(self, request: Request, machines: Machines) -> Refused | Answer:
        of = models.VirtualMachineScaleSetVMInstanceRequiredIDs
        ids = conforming(of, request.body or {}, is_request=True)["instanceIds"]
        if missing := [ident for ident in ids if ident not in machines.instances]:
            return Refused("InvalidParameter", 400, f"The provided instanceId {missing} does not exist.")
        for ident in ids:
            del machines.instances[ident]
        machines.described["sku"]["capacity"] -= len(ids)
        self.written.append((machines.capacity, mark_of(machines.described), self.landing_late))
        return self._going_on(machines, 202, with_body=False)

    def _going_on(self, machines: Machines, status: int, *, with_body: bool) -> Answer:
        """The answer to a change that is taken, after which its operation goes on."""
        machines.operation = f"op-{next(self.numbers)}"
        self.operations[machines.operation] = None
        machines.described["properties"]["provisioningState"] = "Updating"
        self._change(machines)
        path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{LOCATION}/operations"
        link = f"{self.url}{path}/{machines.operation}?p=1&api-version={COMPUTE}"
        headers = {"Azure-AsyncOperation": link}
        done = answered(self._shown(machines) if with_body else None, status, **headers)
        if self.settles:
            self.settle(machines.described["name"].lower())
        return done


def is_protected(instance: Json) -> bool:
    return bool((instance["properties"].get("protectionPolicy") or {}).get("protectFromScaleIn"))


def read(environ: Environ) -> Request:
    """The request of an environment."""
    path, method = unquote(environ["PATH_INFO"]), environ["REQUEST_METHOD"]
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = json.loads(environ["wsgi.input"].read(length)) if length else None
    query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    action, version, name = "", "", ""
    within = rf"/subscriptions/{SUBSCRIPTION}(/resourceGroups/{GROUP})?"
    for of, form, named, needed in ROUTES:
        matched = re.fullmatch(within + form, path, re.IGNORECASE)
        if of == method and matched is not None:
            action, version, name = named, needed, matched.groupdict().get("name") or ""
    token = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
    etag = environ.get("HTTP_IF_MATCH", "")
    return Request(method, path, query, body, etag, token, action, version, name)


def answered(body: Any, status: int = 200, **headers: str) -> Answer:
    """An answer of Azure."""
    every = {"Content-Type": "application/json", "x-ms-request-id": "r-1", **headers}
    return f"{status} status", list(every.items()), json.dumps(body).encode() if body is not None else b""


def conforming(model: Any, data: Json, *, is_request: bool = False) -> Json:
    """JSON that a model of the SDK has all fields of; an AssertionError where it has not."""
    made = model(data)
    fields = {of._rest_name: (name, of) for name, of in made._attr_to_rest_field.items()}
    unknown = set(data) - set(fields)
    assert not unknown, f"{model.__name__} has no {unknown}"
    for key, value in data.items():
        name, of = fields[key]
        assert not is_request or of._visibility != ["read"], f"{model.__name__}.{key} is read-only"
        parsed = getattr(made, name)
        if hasattr(parsed, "_attr_to_rest_field"):
            conforming(type(parsed), value, is_request=is_request)
        elif isinstance(parsed, list):
            for item, raw in zip(cast("list[Any]", parsed), value, strict=True):
                if hasattr(item, "_attr_to_rest_field"):
                    conforming(type(item), raw, is_request=is_request)
        else:
            kinds = tuple(kind for kind in get_args(hints(model).get(name)) if kind in (int, str, bool))
            assert not kinds or isinstance(value, kinds), f"{model.__name__}.{key} is {value!r}"
    return data


@cache
def hints(model: Any) -> dict[str, Any]:
    """Types of a model's fields."""
    return {
        name: hint
        for of in reversed(model.__mro__)
        for name, hint in vars(of).get("__annotations__", {}).items()
    }


class Token:
    """A credential that has a token."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken("t", int(time.time()) + 3600)


@dataclass
class Served:
    """A server."""

    cloud: Cloud
    url: str

    @property
    def account(self) -> Account:
        return Account(SUBSCRIPTION, self.url)

    def api(self, **limits: Any) -> Api:
        return Api(self.account, limits.pop("credential", Token()), **limits)

    def environment(self) -> dict[str, str]:
        """Variables with which another process finds the server, and a token by the SDK's own chain."""
        return {
            "IDENTITY_ENDPOINT": f"{self.url}/msi/token",
            "IDENTITY_HEADER": "secret",
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }


@cache
def switch() -> Switch:
    return Switch()


@contextmanager
def served() -> Generator[Served]:
    """A cloud of its own for a test."""
    cloud = switch().cloud = Cloud(url=switch().url)
    yield Served(cloud, switch().url)
    assert not cloud.broken, cloud.broken
