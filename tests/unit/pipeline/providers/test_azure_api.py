"""Requests to Azure: each bounded in time, and each answer mapped by its class."""

import errno
import inspect
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from azure import identity
from azure.core import MatchConditions
from azure.core import exceptions as sdk
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.compute import ComputeManagementClient
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Rejected, Retryable, Throttled
from pipeline.providers.azure import codes
from pipeline.providers.azure.api import COMPUTE, Api, Changed, NotFound, Unanswered, connect, meaning
from pipeline.providers.azure.codes import Fault as Nested
from pipeline.providers.azure.codes import fault_of
from pipeline.providers.azure.resources import Account, Place
from pipeline.providers.bounds import CALL_S
from pipeline.security.certificates import self_signed
from pipeline.stages.actuator.executor import Executor
from tests.unit.pipeline.providers.azure_server import GROUP, SUBSCRIPTION, Refused, Served, Token, served
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.serving import serve

WEB = Place(Account(SUBSCRIPTION), GROUP, "web")
GET = "/virtualMachineScaleSets/web"
COMMON = """
    AccountIsDisabled AcquireDiskLeaseFailed AllocationFailed AllocationTimeout AnotherOperationInProgress
    ArtifactNotFound ArtifactVersionNotFound AttachDiskWhileBeingDetached AuthenticationFailed AuthorizationFailed
    BadRequest CanNotDeleteResource CapacityReservationNotAvailable Conflict ConflictingUserInput
    DiskBlobAlreadyInUseByAnotherDisk DiskBlobNotFound DiskImageNotReady DiskPreparationError DiskProcessingError
    DisabledSubscription ExpiredAuthenticationToken GatewayTimeout ImageBlobNotFound ImageNotFound
    IncorrectDiskBlobType InternalDiskManagementError InternalExecutionError InternalOperationError
    InternalServerError InvalidApiVersionParameter InvalidAuthenticationToken InvalidAuthenticationTokenTenant
    InvalidContentLink InvalidParameter InvalidProxyRequest InvalidRequestContent InvalidRequestFormat
    InvalidResourceLocation InvalidResourceName InvalidResourceReference InvalidSubscriptionId
    InvalidSubscriptionRegistrationState InvalidTagNameCharacters InvalidTemplateDeployment KeyVaultAccessForbidden
    LinkedAuthorizationFailed LinkedInvalidPropertyId ManagementResourceNotFound MissingSubscriptionRegistration
    MultipleExtensionsPerHandlerNotAllowed NetworkingInternalOperationError NoRegisteredProviderFound NotFound
    NotSupported NotSupportedInstrumentation OSProvisioningClientError OSProvisioningInternalError
    OSProvisioningTimedOut OperationNotAllowed OperationPreempted OperationTimedOut
    OverconstrainedAllocationRequest OverconstrainedZonalAllocationRequest ParentResourceNotFound PreconditionFailed
    PrincipalNotFound PropertyChangeNotAllowed PublicIPCountLimitReached QuotaExceeded ReadOnlyDisabledSubscription
    ReferencedResourceNotProvisioned RegionDoesNotAllowProvisioning RequestDisallowedByPolicy RequestTimeout
    ResourceCollectionRequestsThrottled ResourceGroupBeingDeleted ResourceGroupNotFound ResourceNotFound
    ResourceQuotaExceeded ResourceRequestsThrottled RetryableError RetryableErrorDueToAnotherOperation
    RollingUpgradeInProgress ScopeLocked ServerBusy ServiceUnavailable SkuNotAvailable StorageAccountLimitation
    SubnetIsFull SubscriptionNotAuthorizedForImage SubscriptionNotFound SubscriptionNotRegistered
    SubscriptionRequestsThrottled TargetDiskBlobAlreadyExists TooManyRequests TooManyVMRedeploymentRequests
    Unauthorized VHDSizeInvalid VMAgentStatusCommunicationError VMArtifactRepositoryInternalError
    VMExtensionHandlerNonTransientError VMExtensionManagementInternalError VMExtensionProvisioningError
    VMExtensionProvisioningTimeout VMMarketplaceInvalidInput VMScaleSetHasBeenMarkedForDeletion VMStartTimedOut
    ZonalAllocationFailed
"""
"""Codes that the documentation of Resource Manager and of virtual machines lists: the SDK's models have none."""
CODES = sorted({*COMMON.split(), *codes.EVERY, *codes.REFUSED})
AGAIN = {
    *("AllocationFailed", "ZonalAllocationFailed", "OverconstrainedAllocationRequest", "AllocationTimeout"),
    *(
        "OverconstrainedZonalAllocationRequest",
        "AnotherOperationInProgress",
        "Conflict",
        "OperationPreempted",
    ),
    *(
        "RetryableError",
        "TooManyRequests",
        "SubscriptionRequestsThrottled",
        "InternalServerError",
        "ServerBusy",
    ),
    *(
        "ServiceUnavailable",
        "ExpiredAuthenticationToken",
        "InvalidAuthenticationToken",
        "AuthenticationFailed",
    ),
    *("SkuNotAvailable", "PreconditionFailed", "RequestTimeout", "OperationTimedOut"),
}
NEVER = {
    *(
        "QuotaExceeded",
        "OperationNotAllowed",
        "AuthorizationFailed",
        "LinkedAuthorizationFailed",
        "ScopeLocked",
    ),
    *(
        "RequestDisallowedByPolicy",
        "InvalidParameter",
        "ResourceGroupNotFound",
        "ReadOnlyDisabledSubscription",
    ),
    *("MissingSubscriptionRegistration", "SubnetIsFull", "ResourceQuotaExceeded"),
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
            api.call().scale_set(WEB)
    finally:
        server.cloud.faults.clear()
    return met.value


def test_the_actuator_waits_longer_than_a_call_takes() -> None:
    assert inspect.signature(Executor).parameters["timeout_s"].default > CALL_S
    assert Api(Account(SUBSCRIPTION), Token()).call_s == CALL_S


def test_requests_are_those_of_the_sdk(server: Served, api: Api) -> None:
    """Paths, versions and queries, for which we use the SDK's pipeline and not its operations: these retry and wait."""
    cloud = server.cloud
    cloud.make("flexible", 1, flexible=True)
    call = api.call()
    described = call.scale_set(WEB)
    flexible = call.scale_set(Place(WEB.account, GROUP, "flexible"))
    call.scale_sets(GROUP)
    call.scale_sets()
    call.instances(WEB, described)
    call.instances(WEB, flexible)
    call.request("GET", f"{WEB.path}/instanceView")
    tags: Any = {"sku": {"capacity": 2}, "tags": {"a": "b"}}
    call.request("PATCH", WEB.path, body=tags, etag=str(described["etag"]))
    call.request("POST", f"{WEB.path}/delete", body={"instanceIds": cloud.keys()[:1]})
    ours, cloud.requests[:] = list(cloud.requests), []
    client = ComputeManagementClient(Token(), SUBSCRIPTION, server.url, policies=[_Authorized()])
    sets, machines = client.virtual_machine_scale_sets, client.virtual_machine_scale_set_vms
    sets.get(GROUP, "web")
    sets.get(GROUP, "flexible")
    list(sets.list(GROUP))
    list(sets.list_all())
    list(machines.list(GROUP, "web", expand="instanceView"))
    of: Any = {"filter": f"'virtualMachineScaleSet/id' eq '{flexible['id']}'", "expand": "instanceView"}
    list(client.virtual_machines.list(GROUP, **of))
    sets.get_instance_view(GROUP, "web")
    etag = cloud.sets["web"].described["etag"]
    conditional: Any = {"etag": etag, "match_condition": MatchConditions.IfNotModified, "polling": False}
    sets.begin_update(GROUP, "web", tags, **conditional)
    sets.begin_delete_instances(GROUP, "web", {"instanceIds": cloud.keys()[:1]}, polling=False)
    theirs = cloud.requests
    assert [(r.method, r.path.lower(), r.query) for r in ours] == [
        (r.method, r.path.lower(), r.query) for r in theirs
    ]
    assert [bool(r.etag) for r in ours] == [bool(r.etag) for r in theirs]
    assert ours[-2].body == theirs[-2].body
    assert {r.query["api-version"] for r in theirs} == {COMPUTE}


class _Authorized(SansIOHTTPPolicy[Any, Any]):
    """A token over plain HTTP."""

    def on_request(self, request: Any) -> None:
        request.http_request.headers["Authorization"] = "Bearer t"


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 412, 429, 500, 503])
def test_every_documented_code_is_mapped(status: int) -> None:
    for code in CODES:
        error = meaning("GET web", status, Nested(code, "no"))
        assert type(error) in (Retryable, Rejected, Throttled, Changed, Unanswered, NotFound), code
        if code in AGAIN and status != 404:
            assert isinstance(error, Retryable), code
        if code in NEVER and status in (400, 403, 404, 409):
            assert isinstance(error, Rejected), code
        if isinstance(error, Retryable):
            assert 0.0 < error.retry_after <= 300.0
    assert set(CODES) >= AGAIN | NEVER
    assert len(CODES) > 110


@pytest.mark.parametrize("code", ["TooManyRequests", "InvalidParameter", "AuthorizationFailed", "Nonsense"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "POST"])
def test_codes_come_through_the_client(server: Served, api: Api, method: str, code: str) -> None:
    server.cloud.faults[:] = [Fault(method, refused=Refused(code, 400))]
    with pytest.raises((Retryable, Rejected)) as met:
        api.call().request(method, WEB.path, body=None if method == "GET" else {})
    assert isinstance(met.value, Throttled if code == "TooManyRequests" else Rejected)


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=8), st.sampled_from(CODES)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["error", "code", "message", "details", "innererror", "value", "x"]), inner
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(
    status=st.sampled_from([200, 202, 204, 301, 400, 401, 403, 404, 409, 412, 429, 500, 502, 503, 504]),
    body=st.one_of(st.binary(max_size=80), JSON.map(lambda there: json.dumps(there).encode())),
)
def test_no_answer_at_all_raises_anything_else(status: int, body: bytes) -> None:
    server, api = lasting()
    raised(server, api, Fault("GET", times=9, refused=Refused("", status, body=body)))


@cache
def lasting() -> tuple[Served, Api]:
    context = served()
    made = context.__enter__()
    made.cloud.make()
    return made, made.api(read_s=1.0, call_s=4.0)


@given(JSON)
def test_any_error_has_a_fault(body: Any) -> None:
    fault = fault_of(body)
    assert "\n" not in fault.message
    fault_of({"error": {"code": "A", "message": json.dumps(body)}})


def test_a_fault_is_found_at_any_depth_but_not_without_end() -> None:
    inner: dict[str, Any] = {"code": "AllocationFailed", "message": "x"}
    assert fault_of({"error": {"code": "A", "innererror": inner}}).code == "AllocationFailed"
    for _ in range(100):
        inner = {"code": "Deep", "details": [inner]}
    assert fault_of({"error": inner}).code == "Deep"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault("GET", body=b"nonsense"), "none of Azure's"),
        (Fault("GET", body=b""), "none of Azure's"),
        (Fault("GET", body=b"{}"), "none of Azure's"),
        (Fault("GET", body=HTML), "none of Azure's"),
        (Fault("GET", refused=Refused("", 403, body=HTML)), "none of Azure's"),
        (Fault("GET", refused=Refused("", 407, body=b"proxy authentication")), "none of Azure's"),
        (Fault("GET", refused=Refused("", 502, body=HTML)), "502"),
        (Fault("GET", unheard=True), "no answer from Azure"),
        (Fault("GET", slow_s=1.5), "Read timed out"),
    ],
)
def test_what_is_no_answer_is_tried_again(server: Served, api: Api, fault: Fault, why: str) -> None:
    error = raised(server, api, fault)
    assert isinstance(error, Unanswered)
    assert why in str(error)
    assert "\n" not in str(error)


def test_a_redirect_of_a_proxy_is_not_followed(server: Served) -> None:
    def redirect(environ: Any, start: Any) -> list[bytes]:
        there = f"{server.url}{environ['PATH_INFO']}"
        start("302 Found", [("Location", there), ("Content-Type", "text/html")])
        return [HTML]

    with pytest.raises(Unanswered, match="none of Azure's"):
        Api(Account(SUBSCRIPTION, serve(redirect)), Token()).call().scale_set(WEB)
    assert server.cloud.requests == []


def test_an_error_inside_a_200_is_no_success(server: Served, api: Api) -> None:
    body = json.dumps({"error": {"code": "TooManyRequests", "message": "slow"}}).encode()
    for method in ("GET", "PATCH"):
        server.cloud.faults[:] = [Fault(method, body=body)]
        with pytest.raises(Throttled, match="slow"):
            api.call().request(method, WEB.path)
    assert server.cloud.written == []


def test_a_missing_permission_is_named(server: Served, api: Api) -> None:
    server.cloud.actions = []
    action = "Microsoft.Compute/virtualMachineScaleSets/read"
    with pytest.raises(Rejected, match=f"a role must allow: {action} on {WEB.path}$"):
        api.call().scale_set(WEB)
    words = (
        "The client has permission to perform action 'Microsoft.Compute/virtualMachineScaleSets/write' on scope "
        "'/a'; however, it does not have permission to perform action(s) 'Microsoft.Network/subnets/join/action' "
        "on the linked scope(s) '/b' or the linked scope(s) are invalid."
    )
    error = raised(server, api, Fault("GET", refused=Refused("LinkedAuthorizationFailed", 403, words)))
    assert str(error) == "not allowed, a role must allow: Microsoft.Network/subnets/join/action on /b"
    error = raised(server, api, Fault("GET", refused=Refused("AuthorizationFailed", 403, "")))
    assert str(error) == "not allowed, a role must allow: GET web"


def test_there_is_no_such_set(api: Api) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        api.call().scale_set(Place(WEB.account, GROUP, "nosuch"))


def test_pages_that_never_end_are_given_up(server: Served, api: Api) -> None:
    page = {"value": [], "nextLink": f"{server.url}{WEB.path}?again"}
    serving = Fault("GET", times=99, refused=Refused("", 200, body=json.dumps(page).encode()))
    server.cloud.faults[:] = [serving]
    with pytest.raises(Retryable, match="none of Azure's"):
        api.call().scale_sets(GROUP)
    server.cloud.faults.clear()
    loop: Callable[..., Any] = lambda *_, **__: type("A", (), {"body": page})()  # noqa: E731
    call = api.call()
    object.__setattr__(call, "request", loop)
    with pytest.raises(Retryable, match="do not end"):
        call.scale_sets(GROUP)


def test_a_token_goes_to_no_other_server(api: Api) -> None:
    with pytest.raises(Retryable, match=r"names another server: evil\.example"):
        api.call().follow("https://evil.example/page")


def test_requests_are_not_repeated_by_the_client(server: Served, api: Api) -> None:
    raised(server, api, Fault("GET", times=9, refused=Refused("InternalServerError", 500)))
    raised(server, api, Fault("GET", times=9, refused=Refused("MissingSubscriptionRegistration", 409)))
    assert [request.method for request in server.cloud.requests] == ["GET", "GET"]


@pytest.mark.parametrize(("status", "code"), [(429, "TooManyRequests"), (503, "ServiceUnavailable")])
def test_a_pause_that_the_answer_names_is_kept(server: Served, api: Api, status: int, code: str) -> None:
    error = raised(server, api, Fault("GET", refused=Refused(code, status, headers={"Retry-After": "17"})))
    assert isinstance(error, Retryable)
    assert error.retry_after == 17.0


def test_nothing_is_sent_after_the_deadline(server: Served) -> None:
    now_s = [0.0]
    call = server.api(clock=lambda: now_s[0]).call()
    call.scale_set(WEB)
    now_s[0] = CALL_S
    with pytest.raises(Retryable, match="too slowly"):
        call.scale_set(WEB)
    assert len(server.cloud.requests) == 1


class Slow:
    """A credential that takes its time."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        time.sleep(0.4)
        return AccessToken("late", int(time.time()) + 3600)


def test_credentials_that_come_too_late_send_nothing(server: Served) -> None:
    with pytest.raises(Retryable, match="credentials, answers too slowly"):
        server.api(credential=Slow()).call(0.2).scale_set(WEB)
    assert server.cloud.requests == []


def test_a_server_that_hangs_is_left_in_time(server: Served) -> None:
    api, release = server.api(read_s=0.3), threading.Event()
    fault = Fault("GET", held=release)
    began = time.monotonic()
    assert isinstance(raised(server, api, fault), Unanswered)
    assert time.monotonic() - began < 2.0
    release.set()
    assert fault.finished.wait(5)


def test_a_certificate_of_somebody_else_is_refused(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    url = serve(lambda *_: [], context)
    with pytest.raises(Retryable, match=r"no connection to Azure: .*certificate") as refused:
        Api(Account(SUBSCRIPTION, url), Token()).call().scale_set(WEB)
    assert refused.value.retry_after == 30.0


def test_a_token_goes_over_plain_http_to_this_machine_alone() -> None:
    with pytest.raises(Retryable, match="not permitted for non-TLS"):
        Api(Account(SUBSCRIPTION, "http://192.0.2.1"), Token()).call().scale_set(WEB)


def test_nobody_listens() -> None:
    with pytest.raises(Unanswered, match="no answer from Azure"):
        Api(Account(SUBSCRIPTION, "http://127.0.0.1:1"), Token()).call().scale_set(WEB)


def test_a_netrc_does_not_replace_the_token(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.api().call().scale_set(WEB)
    assert server.cloud.requests[-1].token == "t"


def test_a_proxy_that_is_dead_is_no_answer(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Unanswered, match=r"no answer from Azure: .*[Pp]roxy"):
        server.api().call().scale_set(WEB)
    assert server.cloud.requests == []


ERRORS = [
    of
    for module in (sdk, identity)
    for _, of in inspect.getmembers(module, inspect.isclass)
    if issubclass(of, sdk.AzureError)
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda of: of.__name__)
def test_every_error_of_the_client_is_mapped(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = error.__new__(error)
    BaseException.__init__(made, "broken\nin two lines")
    made._error_format = None
    with pytest.raises((Retryable, Rejected)) as met:
        failing(monkeypatch, made).call().scale_set(WEB)
    assert "\n" not in str(met.value)
    if issubclass(error, sdk.ClientAuthenticationError):
        assert isinstance(met.value, Retryable)
        assert met.value.retry_after == 30.0


@pytest.mark.parametrize(
    "error", [OSError(errno.ECONNRESET, "reset"), KeyError("x"), ValueError("\n"), RecursionError()]
)
def test_what_else_the_client_raises_is_no_answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unanswered):
        failing(monkeypatch, error).call().scale_set(WEB)


def test_an_error_of_this_machine_ends_the_actuator(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="full"):
        failing(monkeypatch, OSError(errno.ENOSPC, "full")).call().scale_set(WEB)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Api:
    api = Api(Account(SUBSCRIPTION), Token())

    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(api, "send", fail)
    return api


def test_without_credentials_there_is_one_line(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(Retryable, match=r"^no credentials for Azure: [^\n]+$") as met:
        connect(server.account).call().scale_set(WEB)
    assert met.value.retry_after == 30.0
    assert server.cloud.requests == []


def test_tokens_come_by_the_chain_of_the_sdk(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    assert connect(server.account).call().scale_set(WEB)["name"] == "web"
    first, second = server.cloud.requests
    assert (first.path, first.query["resource"], second.token) == ("/msi/token", server.url, "t")
    server.cloud.faults[:] = [
        Fault("GET", "/msi/token", times=9, refused=Refused("unauthorized_client", 400))
    ]
    with pytest.raises(Retryable, match="no credentials for Azure"):
        connect(server.account).call().scale_set(WEB)


@pytest.mark.parametrize("code", ["ExpiredAuthenticationToken", "InvalidAuthenticationToken", "Nonsense"])
def test_wrong_credentials_and_clocks_are_waited_for(server: Served, api: Api, code: str) -> None:
    words = "The access token expiry UTC time is earlier than the current UTC time."
    error = raised(server, api, Fault("GET", times=2, refused=Refused(code, 401, words)))
    assert isinstance(error, Retryable)
    assert error.retry_after == 30.0
    assert "credentials, or this machine's clock: The access token" in str(error)
