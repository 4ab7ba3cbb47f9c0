"""Requests to GCP: each bounded in time, and each answer mapped by its class."""

import errno
import inspect
import json
import ssl
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api import error_reason_pb2
from google.api_core import exceptions as core
from google.auth import credentials as credentials_of
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Rejected, Retryable, Throttled, UsageError
from pipeline.providers.bounds import CALL_S
from pipeline.providers.gcp.api import Api, Conflict, NotFound, Unanswered, connect, failure_of, mapped
from pipeline.providers.gcp.resources import Location, Place
from pipeline.security.certificates import self_signed
from pipeline.stages.actuator.executor import Executor
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.gcp_server import PROJECT, ZONES, Refused, Served, served, service_account
from tests.unit.pipeline.providers.serving import serve

COMMON = """
    badRequest required invalid invalidParameter invalidFingerprint resourceNotReady resourceInUse
    resourceInUseByAnotherResource resourceAlreadyExists alreadyExists authError expired unauthorized forbidden
    accessNotConfigured insufficientPermissions quotaExceeded rateLimitExceeded userRateLimitExceeded
    dailyLimitExceeded limitExceeded concurrentLimitExceeded notFound methodNotAllowed conflict conditionNotMet
    uploadTooLarge requestTooLarge internalError backendError operationInProgress billingNotEnabled
    CONDITION_NOT_MET INTERNAL_ERROR INVALID_FIELD_VALUE INVALID_USAGE IP_SPACE_EXHAUSTED
    IP_SPACE_EXHAUSTED_WITH_DETAILS LIMIT_EXCEEDED PERMISSIONS_ERROR QUOTA_EXCEEDED RESOURCE_ALREADY_EXISTS
    RESOURCE_IN_USE_BY_ANOTHER_RESOURCE RESOURCE_NOT_FOUND RESOURCE_NOT_READY RESOURCE_OPERATION_RATE_EXCEEDED
    RESOURCE_POOL_EXHAUSTED STOCKOUT TIMEOUT UNSUPPORTED_OPERATION VM_MIN_COUNT_NOT_REACHED
    ZONE_RESOURCE_POOL_EXHAUSTED ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS
"""
"""Reasons of Compute Engine's answers and codes of its operations: no document of the API lists them."""
CODES = sorted({*COMMON.split(), *error_reason_pb2.ErrorReason.keys(), *code_pb2.Code.keys()})
AGAIN = {
    *(
        "rateLimitExceeded",
        "userRateLimitExceeded",
        "RATE_LIMIT_EXCEEDED",
        "resourceNotReady",
        "backendError",
    ),
    *(
        "RESOURCE_NOT_READY",
        "conditionNotMet",
        "CONDITION_NOT_MET",
        "STOCKOUT",
        "ZONE_RESOURCE_POOL_EXHAUSTED",
    ),
    *("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "internalError", "INTERNAL_ERROR", "authError", "expired"),
    *(
        "ACCESS_TOKEN_EXPIRED",
        "UNAVAILABLE",
        "RESOURCE_EXHAUSTED",
        "RESOURCE_OPERATION_RATE_EXCEEDED",
        "ABORTED",
    ),
}
NEVER = {
    *(
        "quotaExceeded",
        "QUOTA_EXCEEDED",
        "forbidden",
        "PERMISSIONS_ERROR",
        "IAM_PERMISSION_DENIED",
        "invalid",
    ),
    *("IP_SPACE_EXHAUSTED", "IP_SPACE_EXHAUSTED_WITH_DETAILS", "accessNotConfigured", "SERVICE_DISABLED"),
    *("BILLING_DISABLED", "RESOURCE_QUOTA_EXCEEDED", "CONSUMER_SUSPENDED"),
}
HTML = b"<html><head><title>Proxy</title></head><body><p>Sign in first</p></body></html>"


@pytest.fixture
def server() -> Iterator[Served]:
    with served() as made:
        made.cloud.make()
        yield made


@pytest.fixture
def api(server: Served) -> Api:
    return server.api(read_s=1.0, call_s=4.0)


def raised(server: Served, api: Api, fault: Fault) -> Exception:
    server.cloud.faults[:] = [fault]
    try:
        with pytest.raises((Retryable, Rejected)) as met:
            api.call().group(server.place())
    finally:
        server.cloud.faults.clear()
    return met.value


def test_the_actuator_waits_longer_than_a_call_takes() -> None:
    assert inspect.signature(Executor).parameters["timeout_s"].default > CALL_S
    assert Api(AnonymousCredentials()).call_s == CALL_S


@pytest.mark.parametrize("status", [0, 400, 403, 404, 409, 412, 429, 500, 503])
def test_every_documented_code_is_mapped(status: int) -> None:
    """0: of an operation that ended with it."""
    for code in CODES:
        error = mapped("p", [code], "no", status)
        assert type(error) in (Retryable, Rejected, Throttled, Conflict, Unanswered, NotFound), code
        if code in AGAIN:
            assert isinstance(error, Retryable), code
            assert 1.0 <= error.retry_after <= 60.0
        if code in NEVER and status < 404:
            assert isinstance(error, Rejected), code
        operation = {"error": {"errors": [{"code": code, "message": "no"}]}, "httpErrorStatusCode": status}
        assert type(failure_of("p", operation)) is type(error)
    assert set(CODES) >= AGAIN | NEVER
    assert len(CODES) > 90


@pytest.mark.parametrize("code", ["rateLimitExceeded", "invalid", "forbidden", "backendError", "Nonsense"])
@pytest.mark.parametrize("method", ["get", "patch", "resize", "list"])
def test_codes_come_through_the_client(server: Served, api: Api, method: str, code: str) -> None:
    server.cloud.faults[:] = [Fault(method, refused=Refused(code, 503 if code == "backendError" else 400))]
    call, place = api.call(), server.place()
    ask = {
        "get": lambda: call.group(place),
        "list": lambda: call.groups(place.location, ["web"]),
        "resize": lambda: call.of_group(place, "resize", size=3),
        "patch": lambda: call.of_group(place, "patch", instance_group_manager_resource={"description": "x"}),
    }[method]
    with pytest.raises((Retryable, Rejected)) as met:
        ask()
    assert isinstance(met.value, Rejected if code in ("invalid", "forbidden", "Nonsense") else Retryable)
    assert "http" not in str(met.value)


def test_the_reason_of_an_error_info_counts_before_its_status(server: Served, api: Api) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
    inner = {"code": 403, "message": "has not been used in project 1 before", "status": "PERMISSION_DENIED"}
    body = json.dumps({"error": {**inner, "details": [info], "errors": [{"reason": "forbidden"}]}}).encode()
    error = raised(server, api, Fault("get", refused=Refused("", 403, body=body)))
    assert str(error) == "has not been used in project 1 before (forbidden, SERVICE_DISABLED)"
    assert isinstance(error, Rejected)


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from([200, 204, 301, 400, 401, 403, 404, 412, 413, 429, 500, 502, 503, 504]),
    body=st.one_of(
        st.binary(max_size=80),
        st.sampled_from([b"[]", b"{}", b'"x"', b"null", b'{"error": 3}', b'{"error": {"errors": [3]}}']),
    ),
)
def test_no_answer_at_all_raises_anything_else(status: int, body: bytes) -> None:
    server, api = lasting()
    raised(server, api, Fault("get", times=9, refused=Refused("", status, body=body)))


@cache
def lasting() -> tuple[Served, Api]:
    context = served()
    made = context.__enter__()
    made.cloud.make()
    return made, made.api(read_s=1.0, call_s=4.0)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault("get", body=b"nonsense"), "none of GCP's"),
        (Fault("get", body=b""), "none of GCP's"),
        (Fault("get", body=b"{}"), "none of GCP's: it has no kind"),
        (Fault("get", body=b'{"kind": "compute#instanceGroupManager"}'), "none of GCP's: it has no id"),
        (Fault("get", body=HTML), "none of GCP's"),
        (Fault("get", refused=Refused("", 403, body=HTML)), "none of GCP's"),
        (Fault("get", refused=Refused("", 407, body=b"proxy authentication")), "none of GCP's"),
        (Fault("get", refused=Refused("", 502, body=HTML)), "502"),
        (Fault("get", unheard=True), "no answer from GCP"),
        (Fault("get", slow_s=1.5), "Read timed out"),
    ],
)
def test_what_is_no_answer_is_tried_again(server: Served, api: Api, fault: Fault, why: str) -> None:
    error = raised(server, api, fault)
    assert isinstance(error, Unanswered)
    assert why in str(error)
    assert "\n" not in str(error)


def test_a_redirect_of_a_proxy_is_not_followed(server: Served, api: Api) -> None:
    def redirect(environ: Any, start: Any) -> list[bytes]:
        start(
            "302 Found", [("Location", f"{server.url}{environ['PATH_INFO']}"), ("Content-Type", "text/html")]
        )
        return [HTML]

    proxied = Api(AnonymousCredentials(), serve(redirect))
    with pytest.raises(Unanswered, match="none of GCP's"):
        proxied.call().group(server.place())
    assert server.cloud.requests == []


def test_an_error_inside_a_200_is_no_success(server: Served, api: Api) -> None:
    body = json.dumps(
        {"error": {"code": 429, "message": "slow", "errors": [{"reason": "rateLimitExceeded"}]}}
    )
    for method, fields in (("resize", {"size": 3}), ("get", {})):
        server.cloud.faults[:] = [Fault(method, body=body.encode())]
        with pytest.raises(Throttled, match="slow"):
            api.call().of_group(server.place(), method, **fields)
    assert server.cloud.written == []


@pytest.mark.parametrize("body", [HTML, b"{}", b'{"status": "DONE"}'])
def test_a_proxys_page_is_no_operation(server: Served, api: Api, body: bytes) -> None:
    server.cloud.faults[:] = [Fault("resize", body=body)]
    with pytest.raises(Unanswered, match="none of GCP's"):
        api.call().of_group(server.place(), "resize", size=3)


def test_a_missing_permission_is_named(server: Served, api: Api) -> None:
    server.cloud.permissions = set()
    where = f"projects/{PROJECT}/zones/{ZONES[0]}/instanceGroupManagers/web"
    with pytest.raises(Rejected, match=f"a role must have: compute.instanceGroupManagers.get on {where}: "):
        api.call().group(server.place())
    error = raised(server, api, Fault("get", refused=Refused("forbidden", 403, "Access denied.")))
    assert f"a role must have: compute.instanceGroupManagers.get on {where}: Access denied." in str(error)


def test_there_is_no_such_group(server: Served, api: Api) -> None:
    with pytest.raises(NotFound, match="instanceGroupManagers/nosuch' was not found"):
        api.call().group(Place(server.location, "nosuch"))


def test_groups_come_in_pages_and_requests_in_batches(server: Served, api: Api) -> None:
    names = [f"paged-{number}" for number in range(55)]
    for name in names:
        server.cloud.make(name, 0)
    server.cloud.page = 20
    assert list(api.call().groups(server.location, [*names, "nosuch"])) == names
    assert len(server.cloud.requests) == 3 + 1


def test_pages_that_never_end_are_given_up(server: Served, api: Api) -> None:
    page = b'{"kind": "compute#instanceGroupManagerList", "id": "x", "items": [], "nextPageToken": "again"}'
    server.cloud.faults[:] = [Fault("list", times=99, body=page)]
    with pytest.raises(Retryable, match="do not end"):
        api.call().groups(server.location, ["web"])


@pytest.mark.parametrize("code", ["UNREACHABLE", "PARTIAL_SUCCESS"])
def test_a_list_that_is_not_complete_hides_no_group(server: Served, api: Api, code: str) -> None:
    page = {"kind": "compute#instanceGroupManagerList", "id": "x", "warning": {"code": code}}
    server.cloud.faults[:] = [Fault("list", body=json.dumps(page).encode())]
    with pytest.raises(Retryable, match=f"not complete: {code}"):
        api.call().groups(server.location, ["web"])


def test_requests_are_not_repeated_by_the_client(server: Served, api: Api) -> None:
    raised(server, api, Fault("get", times=9, refused=Refused("backendError", 503)))
    assert len(server.cloud.requests) == 1


@pytest.mark.parametrize(("status", "code"), [(429, "rateLimitExceeded"), (503, "backendError")])
def test_a_pause_that_the_answer_names_is_kept(server: Served, api: Api, status: int, code: str) -> None:
    error = raised(server, api, Fault("get", refused=Refused(code, status, after_s=17)))
    assert isinstance(error, Retryable)
    assert error.retry_after == 17.0


def test_nothing_is_sent_after_the_deadline(server: Served) -> None:
    now_s = [0.0]
    slow = server.api(clock=lambda: now_s[0])
    call = slow.call()
    call.group(server.place())
    now_s[0] = CALL_S
    with pytest.raises(Retryable, match="too slowly"):
        call.group(server.place())
    assert len(server.cloud.requests) == 1


class Slow(credentials_of.Credentials):
    """Credentials that take their time."""

    def refresh(self, request: Any) -> None:
        time.sleep(0.4)
        self.token = "late"


def test_credentials_that_come_too_late_send_nothing(server: Served) -> None:
    api = Api(Slow(), server.url)
    with pytest.raises(Retryable, match="credentials, answers too slowly"):
        api.call(0.2).group(server.place())
    assert server.cloud.requests == []


class Expired(credentials_of.Credentials):
    """Credentials that cannot be renewed."""

    def refresh(self, request: Any) -> None:
        raise auth.RefreshError("invalid_grant: reauth related error", {"error": "invalid_grant"})


def test_credentials_that_cannot_be_renewed_are_waited_for(server: Served) -> None:
    with pytest.raises(Retryable, match=r"^no credentials for GCP: .*invalid_grant[^\n]*$") as met:
        Api(Expired(), server.url).call().group(server.place())
    assert met.value.retry_after == 30.0


class Renewed(credentials_of.Credentials):
    """Credentials whose first token nobody takes any more."""

    times = 0

    def refresh(self, request: Any) -> None:
        self.times += 1
        self.token = f"token-{self.times}"


def test_a_token_that_is_not_accepted_is_renewed_and_then_waited_for(server: Served) -> None:
    server.cloud.faults[:] = [Fault("get", refused=Refused("authError", 401, "Invalid Credentials"))]
    Api(Renewed(), server.url).call().group(server.place())
    assert server.cloud.tokens == ["Bearer token-1", "Bearer token-2"]
    server.cloud.faults[:] = [Fault("get", times=9, refused=Refused("authError", 401, "Invalid Credentials"))]
    with pytest.raises(Retryable, match=r"this machine's clock: Invalid Credentials") as met:
        Api(Renewed(), server.url).call().group(server.place())
    assert met.value.retry_after == 30.0


def test_a_server_that_hangs_is_left_in_time(server: Served) -> None:
    api, release = server.api(read_s=0.3), threading.Event()
    fault = Fault("get", held=release)
    began = time.monotonic()
    assert isinstance(raised(server, api, fault), Unanswered)
    assert time.monotonic() - began < 2.0
    release.set()
    assert fault.finished.wait(5)


def test_a_certificate_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def empty(_: Any, start: Any) -> list[bytes]:
        start("200 OK", [])
        return []

    url = serve(empty, context)
    place = Place(Location("p", "z"), "web")
    with pytest.raises(Retryable, match=r"no connection to GCP: .*CERTIFICATE_VERIFY_FAILED") as refused:
        Api(AnonymousCredentials(), url).call().group(place)
    assert refused.value.retry_after == 30.0
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    with pytest.raises(Unanswered, match="none of GCP's"):  # trusted, and no answer of the API
        Api(AnonymousCredentials(), url).call().group(place)


def test_a_netrc_does_not_replace_the_token(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    Api(Renewed(), server.url).call().group(server.place())
    assert server.cloud.tokens == ["Bearer token-1"]


def test_a_proxy_of_the_environment_is_followed(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Unanswered, match=r"[Pp]roxy"):
        server.api().call().group(server.place())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.api().call().group(server.place())


def test_nobody_listens() -> None:
    with pytest.raises(Unanswered, match="Connection refused"):
        Api(AnonymousCredentials(), "http://127.0.0.1:1").call().group(Place(Location("p", "z"), "web"))


def classes(module: Any, of: type[BaseException]) -> list[type[BaseException]]:
    return [found for _, found in inspect.getmembers(module, inspect.isclass) if issubclass(found, of)]


ERRORS = [
    *classes(core, core.GoogleAPIError),
    *classes(auth, auth.GoogleAuthError),
    *classes(requests.exceptions, requests.exceptions.RequestException),
]


@pytest.mark.parametrize("of", ERRORS, ids=lambda of: f"{of.__module__}.{of.__name__}")
def test_every_error_of_the_client_is_mapped(of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if issubclass(of, core.GoogleAPICallError):
        made = of("broken\nin two lines")
    elif of is core.RetryError:
        made = of("broken\nin two lines", None)
    else:
        made = of.__new__(of)
        BaseException.__init__(made, "broken\nin two lines")
    with pytest.raises((Retryable, Rejected)) as met:
        failing(monkeypatch, made).call().group(Place(Location("p", "z"), "web"))
    assert "\n" not in str(met.value)
    if issubclass(of, auth.GoogleAuthError) and of is not auth.TransportError:
        assert isinstance(met.value, Retryable)
        assert met.value.retry_after == 30.0


@pytest.mark.parametrize(
    "error", [OSError(errno.ECONNRESET, "reset"), KeyError("x"), ValueError("\n"), RecursionError()]
)
def test_what_else_the_client_raises_is_no_answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unanswered):
        failing(monkeypatch, error).call().group(Place(Location("p", "z"), "web"))


def test_an_error_of_this_machine_ends_the_actuator(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="full"):
        failing(monkeypatch, OSError(errno.ENOSPC, "full")).call().group(Place(Location("p", "z"), "web"))


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Api:
    api = nowhere()

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(api.client("InstanceGroupManagersClient"), "get", fail, raising=False)
    return api


@cache
def nowhere() -> Api:
    return Api(AnonymousCredentials())


def test_without_credentials_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match=r"^no credentials for GCP: [^\n]+$"):
        connect("")
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(UsageError, match=r"^no credentials for GCP: [^\n]+$"):
        connect("")


def test_credentials_are_those_of_the_environment(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(tmp_path)))
    connect(server.url).call().group(server.place())
    assert server.cloud.tokens[0].startswith("Bearer ey")  # a token that the account signed itself
