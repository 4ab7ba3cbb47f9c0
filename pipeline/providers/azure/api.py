"""Requests to Azure Resource Manager through the SDK's own pipeline, each bounded in time, each answer mapped by class.

Every failure is one of these, by the code that matters (`codes`), else by the status:

| answer | becomes |
|---|---|
| too many requests, 429 | `Throttled`, for as long as `Retry-After` says |
| 412: somebody changed it since it was read | `Changed`, which is `Retryable` at once |
| 409 while it is updated, no capacity | `Retryable` |
| a size that is not offered | `Retryable`, much later |
| no, expired or unknown credentials, a clock that is off, a certificate that does not fit | `Retryable`, later |
| access denied | `Rejected`, with the permission that is missing and its scope |
| quota, a lock, a policy, no such resource, other 4xx | `Rejected` |
| no answer, a broken one, a proxy's page (no request id of Azure), 408, 5xx | `Unanswered`, which is `Retryable` |

An error in an answer of status 200 is mapped as well. The SDK's policies that send something again are left out
(retries, redirects, the registration of resource providers, which waits for minutes): the actuator repeats, and a
repeat that nobody knows of could land late. Operations that run for long are never waited for. Nothing is sent after
the deadline of a call, which is less than the actuator waits: the transport asks for it right before a request leaves,
since credentials may take long to come. They come from the SDK's own chain alone.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from azure.core import exceptions as sdk
from azure.core.credentials import TokenCredential
from azure.core.pipeline.policies import RequestIdPolicy, UserAgentPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse
from azure.core.settings import settings
from azure.identity import DefaultAzureCredential
from azure.mgmt import compute
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy
from azure.mgmt.core.tools import get_arm_endpoints
from requests.adapters import HTTPAdapter

from pipeline.errors import Rejected, Retryable, Throttled
from pipeline.providers.azure import codes
from pipeline.providers.azure.codes import Fault, fault_of
from pipeline.providers.azure.resources import (
    SETS,
    Account,
    Described,
    Place,
    group_path,
    is_flexible,
    properties,
    provisioning,
)
from pipeline.providers.bounds import CALL_S, CONNECT_S, LONG_WAIT_S, OF_THE_MACHINE, READ_S, WAIT_S, one_line

COMPUTE: Final = "2026-04-01"
"""API version of the locked `azure.mgmt.compute`, whose models say what answers have."""
AUTOSCALE: Final = "2022-10-01"
PERMISSIONS: Final = "2022-04-01"
"""API versions of Azure Monitor and of role-based access control."""
LEAST_LEFT_S: Final = 0.05
THROTTLED_S: Final = 10.0
"""Pause after throttling whose answer names none."""
AT_ONCE_S: Final = 0.05
"""Pause before what somebody changed meanwhile is read again."""
MOST_WAIT_S: Final = 300.0
"""Longest pause, and the one after a size that is not offered."""
PERMISSION: Final = re.compile(r"perform action(?:\(s\))? '([^']+)'(?:.*?scope(?:\(s\))? '([^']+)')?")
"""What an answer of denied access names; of several, as in a linked scope, the last is missing."""
REQUEST_IDS: Final = ("x-ms-request-id", "x-ms-correlation-request-id")
_deadline: ContextVar[float] = ContextVar("deadline")


class Unanswered(Retryable):
    """Nobody knows whether the request was carried out, or will be."""


class Changed(Retryable):
    """The object is not any more as it was read: nothing was done."""


class NotFound(Rejected):
    """There is no such resource."""


@dataclass(frozen=True)
class Answer:
    """An answer that is none of an error: body, and where the operation that goes on can be asked for, or nothing."""

    body: Described
    operation: str
    request_id: str


def default_credential() -> TokenCredential:
    """The SDK's own chain: environment, workload identity, managed identity, command line."""
    limits = {"connection_timeout": CONNECT_S, "read_timeout": READ_S, "retry_total": 0}
    return DefaultAzureCredential(process_timeout=int(READ_S), **limits)


def connect(account: Account) -> "Api":
    """A client of an account."""
    return Api(account, default_credential())


class Api:
    """A client of one account, for any number of threads.

    Args:
        account: subscription and endpoint.
        credential: of the SDK.
        clock: monotonic seconds.
        connect_s, read_s, call_s: longest connecting, silence and whole call.
    """

    def __init__(
        self,
        account: Account,
        credential: TokenCredential,
        clock: Callable[[], float] = time.monotonic,
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        call_s: float = CALL_S,
    ) -> None:
        self.account, self.clock, self.call_s = account, clock, call_s
        endpoint = account.endpoint
        cloud = get_arm_endpoints(settings.azure_cloud())
        self.endpoint = endpoint or str(cloud["resource_manager"])
        scopes = [f"{endpoint.rstrip('/')}/.default"] if endpoint else cloud["credential_scopes"]
        policies = [
            RequestIdPolicy(),
            UserAgentPolicy(base_user_agent=f"leadtime azsdk-python-mgmt-compute/{compute.__version__}"),
            ARMChallengeAuthenticationPolicy(credential, *scopes),
        ]
        transport: Any = _Transport(self._in_time, connect_s, read_s)
        self._client = compute.ComputeManagementClient(
            credential, account.subscription, self.endpoint, policies=policies, transport=transport
        )
        self._is_here = urlsplit(self.endpoint).hostname == "127.0.0.1"

    def call(self, within_s: float | None = None) -> "Call":
        """A call whose requests have so many seconds together."""
        return Call(self, self.clock() + (self.call_s if within_s is None else within_s))

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request through the SDK's pipeline; a token over plain HTTP goes to this machine alone."""
        return self._client.send_request(request, enforce_https=not self._is_here)

    def _in_time(self) -> None:
        """Send nothing that nobody waits for any more."""
        if self.clock() >= _deadline.get() - LEAST_LEFT_S:
            raise Retryable("Azure, or what gives its credentials, answers too slowly", WAIT_S)


class _Transport(RequestsTransport):
    """The SDK's transport, which asks for the deadline before each request.

    `requests` would put the password of a .netrc in place of our token: an authentication that does nothing keeps it
    from that, while proxies and certificates of the environment stay.
    """

    def __init__(self, in_time: Callable[[], None], connect_s: float, read_s: float) -> None:
        super().__init__(connection_timeout=connect_s, read_timeout=read_s)
        self._in_time = in_time
        self.open()
        session: Any = self.session
        session.auth = lambda request: request
        adapter: Any = HTTPAdapter(pool_maxsize=32, max_retries=0)
        session.mount("https://", adapter)
        session.mount("http://", adapter)

    def send(self, request: Any, *, proxies: Any = None, **options: Any) -> Any:
        """Send a request, unless nobody waits for it any more."""
        self._in_time()
        return super().send(request, proxies=proxies, **options)


@dataclass(frozen=True)
class Call:
    """Requests that have until `deadline` (monotonic seconds) together.

    Each method raises `Retryable` or `Rejected`, as the module's table says.
    """

    api: Api
    deadline: float

    def request(
        self,
        method: str,
        path: str,
        version: str = COMPUTE,
        *,
        body: Described | None = None,
        etag: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a request.

        Args:
            method: of HTTP.
            path: of a resource, or the URL of a page or operation at the same resource manager.
            version: of the API; empty: the URL has one.
            body: JSON.
            etag: the request is carried out only where the resource still has it; empty: in any case.
            query: parameters besides the version.
        """
        headers = {"If-Match": etag} if etag else {}
        parameters = {**(query or {}), **({"api-version": version} if version else {})}
        request = HttpRequest(method, path, params=parameters, headers=headers, json=body)
        token = _deadline.set(self.deadline)
        what = f"{method} {path.partition('?')[0].rpartition('/')[2]}"
        try:
            return _answer(what, self.api.send(request))
        except (Retryable, Rejected):
            raise
        except sdk.AzureError as error:
            raise _unreached(error) from None
        except OSError as error:
            if error.errno in OF_THE_MACHINE:
                raise
            raise Unanswered(f"no answer from Azure: {one_line(error)}", WAIT_S) from None
        except Exception as error:  # what a page that is none of Azure's brings about in the SDK
            raise Unanswered(f"the answer to {what} is none of Azure's: {one_line(error)}", WAIT_S) from None
        finally:
            _deadline.reset(token)

    def pages(
        self, path: str, version: str = COMPUTE, query: Mapping[str, str] | None = None
    ) -> list[Described]:
        """What all pages of a list have."""
        items: list[Described] = []
        page = self.request("GET", path, version, query=query).body
        seen: set[str] = set()
        while True:
            there: Any = page.get("value")
            if not isinstance(there, list) or not all(isinstance(item, dict) for item in there):
                raise Retryable(f"the list {path.rpartition('/')[2]} is malformed", WAIT_S)
            items += there
            after = str(page.get("nextLink") or "")
            if not after:
                return items
            if after in seen:
                raise Retryable(f"the pages of {path.rpartition('/')[2]} do not end", WAIT_S)
            seen.add(after)
            page = self.follow(after).body

    def follow(self, url: str) -> Answer:
        """What the URL that an answer named has; our token goes to no other server."""
        if urlsplit(url).netloc != urlsplit(self.api.endpoint).netloc:
            raise Retryable(f"an answer of Azure names another server: {urlsplit(url).netloc}", LONG_WAIT_S)
        return self.request("GET", url, "")

    def scale_sets(self, resource_group: str = "") -> list[Described]:
        """Descriptions of the sets of a resource group, or of the subscription where that is empty."""
        return self.pages(group_path(self.api.account.subscription, resource_group) + SETS)

    def scale_set(self, place: Place) -> Described:
        """The description of a set, with its etag.

        Raises:
            NotFound: there is none.
        """
        there = self.request("GET", place.path).body
        if provisioning(there) == "deleting":
            raise NotFound(f"there is no {place}")
        if not properties(there).get("uniqueId") or not there.get("etag"):
            raise Unanswered(f"the description of {place} is none of Azure's", WAIT_S)
        return there

    def instances(self, place: Place, scale_set: Described) -> list[Described]:
        """Descriptions of the instances of a set, with what they do now."""
        if not is_flexible(scale_set):
            return self.pages(f"{place.path}/virtualMachines", query={"$expand": "instanceView"})
        within = group_path(place.account.subscription, place.resource_group)
        path = f"{within}/providers/Microsoft.Compute/virtualMachines"
        of = f"'virtualMachineScaleSet/id' eq '{scale_set['id']}'"
        return self.pages(path, query={"$filter": of, "$expand": "instanceView"})


def _answer(what: str, response: HttpResponse) -> Answer:
    """An answer that is no error.

    Raises:
        Retryable, Rejected: it is one.
    """
    request_id = next((response.headers[name] for name in REQUEST_IDS if response.headers.get(name)), "")
    try:
        body: Any = response.json() if response.content else {}
    except ValueError:
        body = None
    is_error = response.status_code not in (200, 201, 202, 204)
    if is_error or (isinstance(body, dict) and "error" in body and "status" not in body):
        raise _refused(what, response, fault_of(body), request_id)
    if not request_id or not isinstance(body, dict):
        raise Unanswered(f"the answer to {what} is none of Azure's, perhaps a proxy's", WAIT_S)
    headers = response.headers
    operation = headers.get("Azure-AsyncOperation") or headers.get("Location") or ""
    return Answer(body, operation, request_id)


def _refused(what: str, response: HttpResponse, fault: Fault, request_id: str) -> Retryable | Rejected:
    """What an answer that is an error means."""
    status = response.status_code
    error = meaning(what, status, fault, _retry_after(response))
    if isinstance(error, Rejected) and not request_id:
        return Unanswered(f"{error}: the answer is none of Azure's, perhaps a proxy's", WAIT_S)
    return error


def meaning(what: str, status: int, fault: Fault, after_s: float | None = None) -> Retryable | Rejected:
    """What an error means.

    Args:
        what: was requested, in words.
        status: of the answer.
        fault: its code and message.
        after_s: seconds that the answer asks for; None: it names none.
    """
    code = fault.code
    where = f"{what}: {fault.message or f'status {status}'} ({code or status})"
    rules: list[tuple[bool, Callable[[], Retryable | Rejected]]] = [
        (code in codes.THROTTLED or status == 429, lambda: Throttled(where, after_s or THROTTLED_S)),
        (code in codes.CREDENTIALS or status == 401, lambda: _unknown_to_azure(fault)),
        (code in codes.DENIED, lambda: Rejected(_permission(what, fault.message))),
        (status == 412 or code == "PreconditionFailed", lambda: Changed(where, AT_ONCE_S)),
        (code in codes.NOT_OFFERED, lambda: Retryable(where, MOST_WAIT_S)),
        (code in codes.NO_CAPACITY or code in codes.BUSY, lambda: Retryable(where, after_s or WAIT_S)),
        (
            code in codes.UNKNOWN or status in (200, 408) or status >= 500,
            lambda: Unanswered(where, after_s or WAIT_S),
        ),
        (status == 404, lambda: NotFound(where)),
        (code in codes.REFUSED, lambda: Rejected(where)),
        (status == 409, lambda: Retryable(where, after_s or WAIT_S)),
    ]
    return next((made() for applies, made in rules if applies), Rejected(where))


def _unknown_to_azure(fault: Fault) -> Retryable:
    words = f"Azure does not accept our credentials, or this machine's clock: {fault.message or fault.code}"
    return Retryable(words, LONG_WAIT_S)


def _permission(what: str, message: str) -> str:
    """The permission, and its scope where the message names one, that a role must allow."""
    named = PERMISSION.findall(message)
    action, scope = named[-1] if named else (what, "")
    return f"not allowed, a role must allow: {action}{f' on {scope}' if scope else ''}"


def _retry_after(response: HttpResponse) -> float | None:
    """Seconds in the header `Retry-After`; None: it has none."""
    try:
        return min(max(float(response.headers.get("Retry-After") or ""), 1.0), MOST_WAIT_S)
    except ValueError:
        return None


def _unreached(error: sdk.AzureError) -> Retryable | Rejected:
    """What a failure of the SDK itself means."""
    inner: object = getattr(error, "inner_exception", None)
    if isinstance(error, sdk.ClientAuthenticationError):
        return Retryable(f"no credentials for Azure: {_shortly(error)}", LONG_WAIT_S)
    if isinstance(inner, requests.exceptions.SSLError):
        return Retryable(f"no connection to Azure: {one_line(error)}", LONG_WAIT_S)
    return Unanswered(f"no answer from Azure: {one_line(error)}", WAIT_S)


def _shortly(error: Exception) -> str:
    """One line of an error that lists every credential which was tried."""
    text = one_line(error)
    return text if len(text) <= 400 else f"{text[:400]} …"
