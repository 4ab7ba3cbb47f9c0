"""AWS for tests: moto behind a front that enforces what AWS documents and moto does not.

The front, a WSGI application in this process, reads each request and lets moto answer it, but for what moto lacks: it
refuses a desired capacity outside the group's bounds, protects instances from scale in, launches no more than there is
room for and notes failed launches as scaling activities, takes several victims in a request, refuses what a policy of
IAM does not allow, gives pages, and does what a fault says instead.
"""

import json
import re
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import boto3
from moto.autoscaling.models import autoscaling_backends
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sqs.models import sqs_backends

from pipeline.providers.aws.api import Api
from pipeline.providers.aws.marks import mark_of
from pipeline.providers.marks import Mark
from tests.unit.pipeline.providers.serving import Answer, Contract, Environ, Switch, serve

REGION = "eu-west-1"
ZONES = ("eu-west-1a", "eu-west-1b")
NAMESPACE = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
ACCOUNT = "123456789012"
NO_CAPACITY = (
    "Could not launch Spot Instances. InsufficientInstanceCapacity - There is no Spot capacity available."
)
Written = tuple[int, Mark | None, bool]


@dataclass(frozen=True)
class Refused:
    """An answer that is an error; body: instead of AWS's XML or JSON."""

    code: str
    status: int = 400
    message: str = "no"
    body: bytes | None = None


@dataclass(frozen=True)
class Request:
    """A request: service and operation, as IAM names it, and parameters."""

    action: str
    parameters: dict[str, str]


@dataclass
class Cloud(Contract):
    """See the module.

    Attributes:
        requests: the oldest first; keys: ids of their access keys.
        written: desired capacities that were set, with the mark that was on the group then, and whether late.
        room: most instances that can run in a group; None: any number.
        messages: of activities that failed, by zone, while there is no room.
        lives: lifecycle states by instance, where another than moto's; ill: instances that are not healthy.
        policy: statements of IAM that allow requests; None: everything is allowed.
        page: most groups in an answer, whatever was asked for; 0: what was.
    """

    requests: list[Request] = field(default_factory=list[Request])
    written: list[Written] = field(default_factory=list[Any])
    keys: list[str] = field(default_factory=list[str])
    room: int | None = None
    messages: dict[str, str] = field(default_factory=lambda: {ZONES[0]: NO_CAPACITY})
    desired: dict[str, int] = field(default_factory=dict[str, int])
    lives: dict[str, str] = field(default_factory=dict[str, str])
    ill: set[str] = field(default_factory=set[str])
    activities: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    policy: Sequence[dict[str, Any]] | None = None
    page: int = 0

    # What the world does.

    @property
    def backend(self) -> Any:
        return autoscaling_backends[ACCOUNT][REGION]

    def make(
        self, name: str = "web", desired: int = 2, *, least: int = 0, most: int = 20, **more: Any
    ) -> None:
        """Make a group, with a launch configuration of its own."""
        client = boto_client("autoscaling")
        backend = self.backend
        if "lc" not in backend.launch_configurations:
            client.create_launch_configuration(
                LaunchConfigurationName="lc", ImageId="ami-12345678", InstanceType="m5.large"
            )
        launch = {} if "MixedInstancesPolicy" in more else {"LaunchConfigurationName": "lc"}
        client.create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=least,
            MaxSize=most,
            DesiredCapacity=desired,
            AvailabilityZones=list(ZONES),
            **launch,
            **more,
        )
        self.desired[name] = desired

    def instances(self, name: str = "web") -> list[str]:
        return [state.instance.id for state in self.backend.autoscaling_groups[name].instance_states]

    def protect(self, ids: Iterable[str], name: str = "web") -> None:
        self.backend.set_instance_protection(name, list(ids), True)

    def scale(self, count: int, name: str = "web") -> None:
        """Somebody else sets the desired capacity."""
        with self.lock:
            self.desired[name] = count
            self.settle(name)

    def settle(self, name: str = "web") -> None:
        """Launch and terminate until the group has what it wants, as far as there is room."""
        group, there = self.backend.autoscaling_groups[name], self.instances(name)
        wanted = self.desired[name]
        granted = wanted if self.room is None else min(wanted, max(self.room, 0))
        free = [s.instance.id for s in group.instance_states if not s.protected_from_scale_in]
        for instance in free[: max(0, len(there) - wanted)]:
            self.end(instance)
        if granted > len(there):
            self.backend.set_desired_capacity(name, granted)
        if granted < wanted:
            for zone, message in self.messages.items():
                self.activity("Failed", zone, message, name)

    def end(self, instance: str) -> None:
        """Terminate an instance; the desired capacity stays."""
        self.backend.terminate_instance(instance, True)

    def launched(self, instance: str, age_s: float) -> None:
        """Say how long ago an instance was launched."""
        at = datetime.fromtimestamp(time.time() - age_s, UTC)
        ec2_backends[ACCOUNT][REGION].get_instance(instance).launch_time = at

    def activity(self, status: str, zone: str, message: str, name: str = "web", age_s: float = 0.0) -> None:
        """Note a launch, as the newest."""
        at = datetime.fromtimestamp(time.time() - age_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {
            "ActivityId": f"a-{len(self.activities)}",
            "AutoScalingGroupName": name,
            "Description": "Launching a new EC2 instance.",
            "Cause": "a difference between desired and actual capacity",
            "StartTime": at,
            "StatusCode": status,
            "StatusMessage": message,
            "Details": json.dumps({"Subnet ID": "subnet-1", "Availability Zone": zone}),
        }
        self.activities.insert(0, fields)

    def mark(self, name: str = "web") -> Mark | None:
        """The mark on a group."""
        group = self.backend.autoscaling_groups.get(name)
        if group is None:
            return None
        tags = [{"Key": tag["Key"], "Value": tag["Value"]} for tag in group.tags]
        return mark_of({"AutoScalingGroupARN": group.arn, "Tags": tags})

    # What requests are answered.

    def note(self, environ: Environ) -> Request:
        request = read(environ)
        self.requests.append(request)
        credential = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
        self.keys.append(credential.partition("/")[0])
        return request

    def named(self, request: Request) -> tuple[str, str]:
        return request.action.partition(":")[2], request.action

    def refusal(self, request: Request, refused: Refused) -> Answer:
        return refusal(request.action.partition(":")[0], refused)

    def answer(self, request: Request, environ: Environ) -> Answer:
        denied = self._denied(request)
        return self.refusal(request, denied) if denied else self._answer(request, environ)

    def _denied(self, request: Request) -> Refused | None:
        if self.policy is None or any(allows(statement, request) for statement in self.policy):
            return None
        resource = resource_of(request)
        code = "UnauthorizedOperation" if request.action.startswith("ec2:") else "AccessDenied"
        where = f" on resource: {resource}" if resource != "*" else ""
        words = f"is not authorized to perform: {request.action}{where}"
        why = f"because no identity-based policy allows the {request.action} action"
        return Refused(code, 403, f"User: arn:aws:iam::{ACCOUNT}:user/x {words} {why}")

    def _answer(self, request: Request, environ: Environ) -> Answer:
        custom = {
            "autoscaling:SetDesiredCapacity": self._set,
            "autoscaling:TerminateInstanceInAutoScalingGroup": self._terminate,
            "autoscaling:DescribeScalingActivities": self._activities,
        }.get(request.action)
        if custom is not None:
            answer = custom(request.parameters)
            return self.refusal(request, answer) if isinstance(answer, Refused) else xml(request, answer)
        if request.action == "autoscaling:DescribeAutoScalingGroups" and self.page:
            with_pages(environ, request, self.page)
        status, headers, body = pass_on(environ)
        if request.action == "autoscaling:DescribeAutoScalingGroups" and status.startswith("200"):
            body = self._described(body)
            headers = [(name, value) for name, value in headers if name.lower() == "content-type"]
        return status, headers, body

    def _set(self, parameters: dict[str, str]) -> Refused | str:
        name, count = parameters["AutoScalingGroupName"], int(parameters["DesiredCapacity"])
        group = self.backend.autoscaling_groups.get(name)
        if group is None:
            return Refused("ValidationError", 400, f"AutoScalingGroup name not found - {name}")
        for word, bound, out in (
            ("above max", group.max_size, count > group.max_size),
            ("below min", group.min_size, count < group.min_size),
        ):
            if out:
                text = (
                    f"New SetDesiredCapacity value {count} is {word} value {bound} for the AutoScalingGroup."
                )
                return Refused("ValidationError", 400, text)
        self.written.append((count, self.mark(name), self.landing_late))
        self.scale(count, name)
        return ""

    def _terminate(self, parameters: dict[str, str]) -> Refused | str:
        name = parameters.get("AutoScalingGroupName", "")
        victims = [value for key, value in parameters.items() if key.startswith("InstanceIds.member.")]
        group = self.backend.autoscaling_groups.get(name)
        if group is None or not victims or len(victims) > 100:
            return Refused("ValidationError", 400, "AutoScalingGroupName and 1 to 100 InstanceIds are needed")
        if missing := [victim for victim in victims if victim not in self.instances(name)]:
            return Refused("ValidationError", 400, f"Instance Id not found - No managed instance {missing}")
        if self.desired[name] - len(victims) < group.min_size:
            return Refused("ValidationError", 400, "would violate group's min size constraint")
        self.desired[name] -= len(victims)
        self.written.append((self.desired[name], self.mark(name), self.landing_late))
        for victim in victims:
            self.end(victim)
        return "<Activities/>"

    def _activities(self, parameters: dict[str, str]) -> str:
        name = parameters.get("AutoScalingGroupName")
        mine = [a for a in self.activities if a["AutoScalingGroupName"] == name]
        members = [
            "".join(f"<{key}>{escape(value)}</{key}>" for key, value in activity.items())
            for activity in mine[: int(parameters.get("MaxRecords", 100))]
        ]
        return "<Activities>" + "".join(f"<member>{member}</member>" for member in members) + "</Activities>"

    def _described(self, body: bytes) -> bytes:
        """Groups as the front has them: what they want, and what state their instances are in."""
        ElementTree.register_namespace("", NAMESPACE)
        root, of = ElementTree.fromstring(body), {"": NAMESPACE}
        if not root.tag.startswith("{"):
            of = {"": ""}
        for group in root.iterfind(".//AutoScalingGroups/member", of):
            name = group.findtext("AutoScalingGroupName", "", of)
            wanted = group.find("DesiredCapacity", of)
            assert wanted is not None
            wanted.text = str(self.desired[name])
            for instance in group.iterfind("Instances/member", of):
                ident = instance.findtext("InstanceId", "", of)
                life, health = instance.find("LifecycleState", of), instance.find("HealthStatus", of)
                assert life is not None
                assert health is not None
                life.text = self.lives.get(ident, life.text)
                health.text = "Unhealthy" if ident in self.ill else health.text
        return ElementTree.tostring(root)


def read(environ: Environ) -> Request:
    """The request of an environment, whose body can be read again."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = BytesIO(body)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/(\w+)/", environ.get("HTTP_AUTHORIZATION", ""))
    service = scope[1] if scope else ""
    if target:
        fields = {key: json.dumps(value) for key, value in json.loads(body or b"{}").items()}
        return Request(f"{service}:{target.partition('.')[2]}", fields)
    fields = dict(parse_qsl(body.decode(), keep_blank_values=True))
    return Request(f"{service}:{fields.get('Action', '')}", fields)


def with_pages(environ: Environ, request: Request, page: int) -> None:
    """Ask for pages of so many."""
    body = urlencode(request.parameters | {"MaxRecords": str(page)}).encode()
    environ |= {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}


@cache
def moto_app() -> Any:
    return DomainDispatcherApplication(create_backend_app)


def pass_on(environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
    """What moto answers."""
    got: list[Any] = []
    body = b"".join(moto_app()(environ, lambda status, headers, *_: got.extend((status, headers))))
    return got[0], got[1], body


def xml(request: Request, inner: str) -> tuple[str, list[tuple[str, str]], bytes]:
    """An answer of a query service."""
    name = request.action.partition(":")[2]
    result = f"<{name}Result>{inner}</{name}Result>" if inner else ""
    metadata = "<ResponseMetadata><RequestId>front</RequestId></ResponseMetadata>"
    text = f'<{name}Response xmlns="{NAMESPACE}">{result}{metadata}</{name}Response>'
    return "200 OK", [("Content-Type", "text/xml")], text.encode()


def refusal(service: str, refused: Refused) -> tuple[str, list[tuple[str, str]], bytes]:
    """An error as a service words it."""
    status = f"{refused.status} no"
    if refused.body is not None:
        return status, [("Content-Type", "text/html")], refused.body
    inner = f"<Code>{refused.code}</Code><Message>{escape(refused.message)}</Message>"
    if service == "sqs":
        body = {"__type": f"com.amazonaws.sqs#{refused.code}", "message": refused.message}
        headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", "front")]
        return status, headers, json.dumps(body).encode()
    if service == "ec2":
        text = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>front</RequestID></Response>"
    else:
        error = f"<Error><Type>Sender</Type>{inner}</Error><RequestId>front</RequestId>"
        text = f'<ErrorResponse xmlns="{NAMESPACE}">{error}</ErrorResponse>'
    return status, [("Content-Type", "text/xml")], text.encode()


def resource_of(request: Request) -> str:
    """The resource of a request that IAM judges; `*`: it has none."""
    if request.action.startswith("sqs:"):
        queue = json.loads(request.parameters["QueueUrl"]).rpartition("/")[2]
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
    name = request.parameters.get("AutoScalingGroupName") or request.parameters.get(
        "Tags.member.1.ResourceId", ""
    )
    if not name or request.action.split(":")[1].startswith("Describe"):
        return "*"
    return f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:uuid:autoScalingGroupName/{name}"


def allows(statement: dict[str, Any], request: Request) -> bool:
    """Whether a statement of IAM allows a request, as far as ours go: actions, resources, and keys of tags."""
    actions, resources = statement["Action"], statement["Resource"]
    resources = [resources] if isinstance(resources, str) else resources
    keys = [v for k, v in request.parameters.items() if re.fullmatch(r"Tags\.member\.\d+\.Key", k)]
    condition = statement.get("Condition", {}).get("ForAllValues:StringEquals", {}).get("aws:TagKeys")
    return (
        statement["Effect"] == "Allow"
        and request.action in actions
        and any(fnmatchcase(resource_of(request), resource) for resource in resources)
        and (condition is None or set(keys) <= set(condition))
    )


@dataclass
class Served:
    """A front that is served."""

    cloud: Cloud
    url: str

    def api(self, **limits: Any) -> Api:
        return Api(session(), self.url, **limits)

    def queue(self, name: str = "spot") -> str:
        """Make a queue; returns its URL."""
        return boto_client("sqs").create_queue(QueueName=name)["QueueUrl"]

    def send(self, queue: str, body: object) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        boto_client("sqs").send_message(QueueUrl=queue, MessageBody=text)


def boto_client(service: str) -> Any:
    """A client of moto itself: what the world does is no request of ours."""
    return session().client(service, endpoint_url=_moto_url())


@cache
def session() -> boto3.Session:
    """One for all tests: it keeps the models that clients are made of."""
    return boto3.Session("AKIAX", "secret", region_name=REGION)


@cache
def _moto_url() -> str:
    """moto itself, served once for all tests of the process."""
    return serve(moto_app())


@cache
def switch() -> Switch:
    return Switch()


@contextmanager
def served() -> Generator[Served]:
    """A cloud of its own for a test."""
    cloud = switch().cloud = Cloud()
    try:
        yield Served(cloud, switch().url)
    finally:
        autoscaling_backends[ACCOUNT][REGION].reset()
        sqs_backends[ACCOUNT][REGION].reset()
