"""Requests to AWS: each bounded in time, and each answer mapped by its class."""

import errno
import inspect
import ssl
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore import exceptions as sdk
from botocore.credentials import DeferredRefreshableCredentials
from botocore.loaders import Loader
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Rejected, Retryable, UsageError
from pipeline.providers.aws import api as requests
from pipeline.providers.aws.api import Api, NotFound, Unanswered, connect
from pipeline.providers.aws.resources import Account, Place
from pipeline.providers.bounds import CALL_S
from pipeline.security.certificates import self_signed
from pipeline.stages.actuator.executor import Executor
from tests.unit.pipeline.providers.aws_server import REGION, Refused, Served, served, session
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.serving import serve

WEB = Place(Account("", REGION), "web")
READ = "DescribeAutoScalingGroups"
COMMON = """
    AccessDeniedException AccessDenied ExpiredTokenException ExpiredToken IncompleteSignature InternalFailure
    MalformedHttpRequestException NotAuthorized OptInRequired RequestAbortedException RequestEntityTooLargeException
    RequestExpired RequestTimeoutException ServiceUnavailable ThrottlingException UnrecognizedClientException
    UnknownOperationException ValidationError InvalidAction InvalidClientTokenId InvalidParameterCombination
    InvalidParameterValue InvalidQueryParameter MalformedQueryString MissingAction MissingAuthenticationToken
    MissingParameter SignatureDoesNotMatch Throttling AuthFailure Blocked DryRunOperation IdempotentParameterMismatch
    PendingVerification RequestLimitExceeded UnauthorizedOperation UnsupportedOperation InternalError Unavailable
    InsufficientInstanceCapacity InsufficientHostCapacity InsufficientReservedInstanceCapacity
    InsufficientAddressCapacity InsufficientCapacityOnHost MaxSpotInstanceCountExceeded VcpuLimitExceeded
    UnfulfillableCapacity InstanceLimitExceeded InvalidInstanceID.NotFound InvalidInstanceID.Malformed
    SpotMaxPriceTooLow Server.InternalError Client.UnauthorizedOperation
    AWS.SimpleQueueService.NonExistentQueue OverLimit KmsThrottled
"""
"""Codes that every service of AWS documents, and those of EC2, whose model in botocore has none."""


def documented() -> dict[str, int]:
    """Every code of the models of the services that we call, and of botocore's table of repeats, with its status."""
    codes: dict[str, int] = dict.fromkeys(COMMON.split(), 400)
    of: Any = botocore.session.get_session()
    for service in ("autoscaling", "ec2", "sqs", "sts", "sso", "sso-oidc"):
        for shape in of.get_service_model(service).error_shapes:
            error = shape.metadata.get("error") or {}
            codes[str(error.get("code") or shape.name)] = int(error.get("httpStatusCode") or 400)

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "service_error_code" in node:
                codes.setdefault(str(node["service_error_code"]), int(node.get("http_status_code") or 400))
            for inner in node.values():
                walk(inner)

    walk(Loader().load_data("_retry"))
    return codes


CODES = documented()
AGAIN = {
    *(
        "ScalingActivityInProgress",
        "ResourceContention",
        "IdempotentCallInProgress",
        "Throttling",
        "InternalFailure",
    ),
    *(
        "ThrottlingException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ExpiredToken",
        "ExpiredTokenException",
    ),
    *("RequestExpired", "InvalidClientTokenId", "SignatureDoesNotMatch", "InsufficientInstanceCapacity"),
    *("MaxSpotInstanceCountExceeded", "UnfulfillableCapacity", "ResourceInUse", "InstanceRefreshInProgress"),
}
NEVER = {
    *("ValidationError", "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "LimitExceeded"),
    *("IdempotentParameterMismatch", "AlreadyExists", "VcpuLimitExceeded", "OptInRequired"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as made:
        made.cloud.make()
        yield made


@pytest.fixture(scope="module")
def api(server: Served) -> Api:
    return server.api(read_s=1.0, call_s=4.0)


def raised(server: Served, api: Api, fault: Fault, service: str = "autoscaling") -> Exception:
    server.cloud.faults[:] = [fault]
    call = api.call()
    ask = {
        "autoscaling": lambda: call.group(WEB),
        "ec2": lambda: call.request("DescribeInstances", service="ec2", InstanceIds=["i-1"]),
        "sqs": lambda: call.request("ReceiveMessage", service="sqs", QueueUrl=f"{server.url}/1/x"),
    }[service]
    try:
        with pytest.raises((Retryable, Rejected)) as met:
            ask()
    finally:
        server.cloud.faults.clear()
    return met.value


def test_the_actuator_waits_longer_than_a_call_takes() -> None:
    assert inspect.signature(Executor).parameters["timeout_s"].default > CALL_S
    assert Api(session()).call_s == CALL_S


@pytest.mark.parametrize("status", [0, 400, 403, 500, 503])
def test_every_documented_code_is_mapped(status: int) -> None:
    """As the client raises it; 0: the status that its model has."""
    for code, own in CODES.items():
        response: Any = {
            "Error": {"Code": code, "Message": "no"},
            "ResponseMetadata": {"RequestId": "1", "HTTPStatusCode": status or own},
        }
        error = requests._refused("autoscaling:X", sdk.ClientError(response, "X"))
        assert isinstance(error, Retryable | Rejected), code
        if code in AGAIN:
            assert isinstance(error, Retryable), code
            assert 1.0 <= error.retry_after <= 60.0
        if code in NEVER and status < 500:
            assert isinstance(error, Rejected), code
    assert set(CODES) >= AGAIN | NEVER
    assert len(CODES) > 90


@pytest.mark.parametrize("service", ["autoscaling", "ec2", "sqs"])
@pytest.mark.parametrize(
    "code", ["Throttling", "ValidationError", "AccessDenied", "InternalFailure", "Nonsense"]
)
def test_codes_come_through_the_client(server: Served, api: Api, service: str, code: str) -> None:
    operation = {"autoscaling": READ, "ec2": "DescribeInstances", "sqs": "ReceiveMessage"}[service]
    error = raised(server, api, Fault(operation, refused=Refused(code, 400)), service)
    assert isinstance(error, Rejected if code in (*NEVER, "Nonsense") else Retryable)


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from([200, 204, 301, 400, 403, 404, 413, 429, 500, 502, 503, 504]),
    body=st.binary(max_size=80),
)
def test_no_answer_at_all_raises_anything_else(server: Served, api: Api, status: int, body: bytes) -> None:
    raised(server, api, Fault(READ, times=9, refused=Refused("", status, body=body)))


HTML = b"<html><head><title>Proxy</title></head><body><p>Sign in first</p></body></html>"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(READ, body=b"nonsense"), "none of AWS's"),
        (Fault(READ, body=b""), "none of AWS's"),
        (Fault(READ, body=HTML), "none of AWS's"),
        (Fault(READ, refused=Refused("", 403, body=HTML)), "none of AWS's"),
        (Fault(READ, refused=Refused("", 407, body=b"proxy authentication")), "none of AWS's"),
        (Fault(READ, refused=Refused("", 502, body=HTML)), "502"),
        (Fault(READ, unheard=True), "no answer from AWS"),
        (Fault(READ, slow_s=1.5), "ead timeout"),
    ],
)
def test_what_is_no_answer_is_tried_again(server: Served, api: Api, fault: Fault, why: str) -> None:
    error = raised(server, api, fault)
    assert isinstance(error, Unanswered)
    assert why in str(error)
    assert "\n" not in str(error)


def test_a_proxys_page_is_no_success_of_an_operation_without_a_result(server: Served, api: Api) -> None:
    server.cloud.faults[:] = [Fault("SetDesiredCapacity", body=HTML)]
    with pytest.raises(Unanswered, match="none of AWS's"):
        api.call().request("SetDesiredCapacity", AutoScalingGroupName="web", DesiredCapacity=3)
    assert server.cloud.written == []


def test_a_missing_permission_is_named(server: Served, api: Api) -> None:
    server.cloud.policy = []
    try:
        with pytest.raises(Rejected, match=r"a policy must allow: autoscaling:DescribeAutoScalingGroups$"):
            api.call().group(WEB)
        with pytest.raises(
            Rejected, match=r"allow: autoscaling:SetDesiredCapacity on arn:aws:.*GroupName/web$"
        ):
            api.call().request("SetDesiredCapacity", AutoScalingGroupName="web", DesiredCapacity=3)
        with pytest.raises(Rejected, match=r"allow: ec2:DescribeInstances$"):
            api.call().request("DescribeInstances", service="ec2", InstanceIds=["i-1"])
    finally:
        server.cloud.policy = None


def test_an_error_without_a_message_names_the_action_that_was_tried(server: Served, api: Api) -> None:
    error = raised(server, api, Fault(READ, refused=Refused("AccessDenied", 403, "")))
    assert str(error) == f"not allowed, a policy must allow: autoscaling:{READ}"


def test_there_is_no_such_group(api: Api) -> None:
    with pytest.raises(NotFound, match=r"no AutoScalingGroup nosuch in eu-west-1$"):
        api.call().group(Place(WEB.account, "nosuch"))


def test_groups_come_in_pages(server: Served, api: Api) -> None:
    names = [f"paged-{number}" for number in range(5)]
    for name in names:
        server.cloud.make(name, 0)
    server.cloud.page = 2
    before = len(server.cloud.requests)
    try:
        assert list(api.call().groups([*names, "nosuch"])) == names
    finally:
        server.cloud.page = 0
    assert len(server.cloud.requests) - before == 3


def test_pages_that_never_end_are_given_up(server: Served, api: Api) -> None:
    page = b"<AutoScalingGroups/><NextToken>again</NextToken>"
    text = b"<r><DescribeAutoScalingGroupsResult>%b</DescribeAutoScalingGroupsResult>%b</r>"
    server.cloud.faults[:] = [
        Fault(
            READ,
            times=99,
            body=text % (page, b"<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>"),
        )
    ]
    with pytest.raises(Retryable, match="do not end"):
        api.call().groups(["web"])
    server.cloud.faults.clear()


def test_requests_are_not_repeated_by_the_client(server: Served, api: Api) -> None:
    before = len(server.cloud.requests)
    raised(server, api, Fault(READ, times=9, refused=Refused("InternalFailure", 500)))
    assert len(server.cloud.requests) == before + 1


def test_nothing_is_sent_after_the_deadline(server: Served) -> None:
    now_s = [0.0]
    slow = server.api(clock=lambda: now_s[0])
    call, before = slow.call(), len(server.cloud.requests)
    call.group(WEB)
    now_s[0] = CALL_S
    with pytest.raises(Retryable, match="too slowly"):
        call.group(WEB)
    assert len(server.cloud.requests) == before + 1


def test_credentials_that_come_too_late_send_nothing(server: Served) -> None:
    """An assumed role is asked for within a request, by a client with bounds of its own."""

    def fetch() -> dict[str, str]:
        time.sleep(0.4)
        return {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": "2099-01-01T00:00:00Z"}

    inner = botocore.session.get_session()
    inner._credentials = DeferredRefreshableCredentials(fetch, "slow")
    api, before = (
        Api(boto3.Session(botocore_session=inner, region_name=REGION), server.url),
        len(server.cloud.requests),
    )
    with pytest.raises(Retryable, match="credentials, answers too slowly"):
        api.call(0.2).group(WEB)
    assert len(server.cloud.requests) == before


def test_a_server_that_hangs_is_left_in_time(server: Served) -> None:
    api, release = server.api(read_s=0.3), threading.Event()
    fault = Fault(READ, held=release)
    began = time.monotonic()
    assert isinstance(raised(server, api, fault), Unanswered)
    assert time.monotonic() - began < 2.0
    release.set()
    assert fault.finished.wait(5)


def test_a_certificate_of_somebody_else_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    url = serve(lambda *_: [], context)
    api = Api(session(), url)
    with pytest.raises(Retryable, match="SSL validation failed") as refused:
        api.call().group(WEB)
    assert refused.value.retry_after == 30.0


def test_nobody_listens() -> None:
    api = Api(session(), "http://127.0.0.1:1")
    with pytest.raises(Unanswered, match="Could not connect"):
        api.call().group(WEB)


ERRORS = [
    of
    for _, of in inspect.getmembers(sdk, inspect.isclass)
    if issubclass(of, sdk.BotoCoreError) and of is not sdk.BotoCoreError
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda of: of.__name__)
def test_every_error_of_the_client_is_mapped(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = error.__new__(error)
    BaseException.__init__(made, "broken\nin two lines")
    with pytest.raises((Retryable, Rejected)) as met:
        failing(monkeypatch, made).call().request(READ)
    assert "\n" not in str(met.value)
    if "Credential" in error.__name__ or "SSO" in error.__name__ or "Token" in error.__name__:
        assert isinstance(met.value, Retryable)
        assert met.value.retry_after == 30.0


@pytest.mark.parametrize(
    "error", [OSError(errno.ECONNRESET, "reset"), KeyError("x"), ValueError("\n"), RecursionError()]
)
def test_what_else_the_client_raises_is_no_answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unanswered):
        failing(monkeypatch, error).call().request(READ)


def test_an_error_of_this_machine_ends_the_actuator(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="full"):
        failing(monkeypatch, OSError(errno.ENOSPC, "full")).call().request(READ)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Api:
    api = nowhere()

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(api.client("autoscaling"), "describe_auto_scaling_groups", fail, raising=False)
    return api


@cache
def nowhere() -> Api:
    return Api(session())


def test_without_credentials_there_is_one_line(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    with pytest.raises(Retryable, match=r"^no credentials for AWS: [^\n]+$") as met:
        connect(WEB.account).call().group(WEB)
    assert met.value.retry_after == 30.0
    with pytest.raises(UsageError, match=r"^AWS in eu-west-1 \(nobody\): [^\n]*nobody[^\n]*$"):
        connect(Account("nobody", REGION))


def test_credentials_are_those_of_the_profile(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = OTHERKEY\naws_secret_access_key = b\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    connect(Account("other", REGION)).call().group(WEB)
    assert server.cloud.keys[-1] == "OTHERKEY"


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch", "RequestExpired"]
)
def test_credentials_or_a_clock_that_are_wrong_are_waited_for(server: Served, api: Api, code: str) -> None:
    error = raised(server, api, Fault(READ, refused=Refused(code, 403, "signature not yet current")))
    assert isinstance(error, Retryable)
    assert error.retry_after == 30.0
    assert "credentials, or this machine's clock" in str(error)


def test_an_error_inside_a_200_is_no_success(server: Served, api: Api) -> None:
    error = b"<ErrorResponse><Error><Code>Throttling</Code></Error><RequestId>1</RequestId></ErrorResponse>"
    for operation in ("SetDesiredCapacity", READ):
        server.cloud.faults[:] = [Fault(operation, body=error)]
        parameters: dict[str, Any] = {}
        if operation != READ:
            parameters = {"AutoScalingGroupName": "web", "DesiredCapacity": 3}
        with pytest.raises(Retryable):
            api.call().request(operation, **parameters)
    assert server.cloud.written == []
