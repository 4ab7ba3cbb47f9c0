"""Requests to Compute Engine through google-cloud-compute, each bounded in time, and each answer mapped by its class.

Every failure is one of these:

| answer | becomes |
|---|---|
| 412 conditionNotMet | `Conflict`: read again (`Retryable`) |
| 429, 403 rateLimitExceeded and alike | `Throttled` |
| resourceNotReady and alike, 409, no capacity | `Retryable` |
| expired, unknown or missing credentials, a clock that is off, a certificate that does not fit | `Retryable`, later |
| 403 | `Rejected`, with the permission that is missing, or what is switched off |
| 404 | `NotFound` (`Rejected`) |
| quota, IP space and other 4xx | `Rejected` |
| no answer, a broken one, a proxy's page, a redirect, 408, 5xx | `Unanswered`, which is `Retryable` |
| an error inside a 200 | as its code |

An operation that ended with errors is mapped by their codes likewise. The SDK makes no retries of its own: the actuator
does, and a repeat that nobody knows of could land late. A call of the provider sends nothing after its deadline
(CALL_S), which is less than the actuator waits, credentials included. They come from the SDK's own chain alone; of the
environment that `requests` trusts only proxies and CA bundle are followed, since a `~/.netrc` would replace the token.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import google.auth
import requests
from google.api_core import exceptions as core
from google.api_core.client_options import ClientOptions
from google.auth import exceptions as auth
from google.cloud import compute_v1
from google.protobuf.json_format import MessageToDict
from requests.utils import get_environ_proxies

from pipeline.errors import Rejected, Retryable, Throttled, UsageError
from pipeline.providers.bounds import CALL_S, CONNECT_S, LONG_WAIT_S, OF_THE_MACHINE, READ_S, WAIT_S, one_line
from pipeline.providers.gcp.resources import Described, Location, Place

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
CLIENTS: Final = {
    "groups": ("InstanceGroupManagersClient", "RegionInstanceGroupManagersClient"),
    "autoscalers": ("AutoscalersClient", "RegionAutoscalersClient"),
    "operations": ("ZoneOperationsClient", "RegionOperationsClient"),
}
"""Of a zone, and of a region."""
RESOURCES: Final = {
    "groups": "compute.instanceGroupManagers",
    "autoscalers": "compute.autoscalers",
    "operations": "compute.{zone}Operations",
}
WRITES: Final = ("patch", "resize", "delete_instances")
PAGE: Final = 500
"""Groups, instances or errors in an answer: the most that the API gives."""
NAMES: Final = 50
"""Names in a filter, which is part of a URL."""
LEAST_LEFT_S: Final = 0.05
THROTTLED_S: Final = 10.0
"""Pause after throttling where the answer names none: limits of the API are of a minute or 100 s."""


def _codes(text: str) -> frozenset[str]:
    return frozenset(_normal(word) for word in text.split())


def _normal(code: str) -> str:
    """A code as all its spellings have it: `rateLimitExceeded` is `RATE_LIMIT_EXCEEDED`."""
    return re.sub(r"[^a-z0-9]", "", code.lower())


THROTTLED: Final = _codes(
    """rateLimitExceeded userRateLimitExceeded servingLimitExceeded concurrentLimitExceeded dailyLimitExceeded
    RESOURCE_OPERATION_RATE_EXCEEDED OPERATION_RATE_EXCEEDED RESOURCE_EXHAUSTED tooManyRequests
    concurrentOperationsQuotaExceeded"""
)
CONFLICT: Final = _codes("conditionNotMet CONDITION_NOT_MET preconditionFailed invalidFingerprint")
BUSY: Final = _codes(
    """resourceNotReady resourceInUse operationInProgress conflict ABORTED UNAVAILABLE STOCKOUT
    VM_MIN_COUNT_NOT_REACHED RESOURCE_POOL_EXHAUSTED REGION_RESOURCE_POOL_EXHAUSTED ZONE_RESOURCE_POOL_EXHAUSTED
    ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS PREEMPTED RESOURCE_BEING_USED CANCELLED LOCATION_POLICY_TEMPORARY"""
)
"""What passes by itself and was not carried out, whatever its status."""
UNKNOWN: Final = _codes(
    "INTERNAL_ERROR INTERNAL internalError backendError UNKNOWN DEADLINE_EXCEEDED DATA_LOSS timeout"
)
"""What may have been carried out, as any other 5xx."""
CREDENTIALS: Final = _codes(
    """authError unauthorized UNAUTHENTICATED expired invalidCredentials ACCESS_TOKEN_EXPIRED CREDENTIALS_MISSING
    ACCESS_TOKEN_TYPE_UNSUPPORTED SESSION_COOKIE_EXPIRED SESSION_COOKIE_INVALID ACCOUNT_STATE_INVALID
    JWT_TOKEN_INVALID CREDENTIAL_TYPE_UNSUPPORTED OVERLOADED_CREDENTIALS"""
)
DENIED: Final = _codes(
    """forbidden insufficientPermissions PERMISSION_DENIED IAM_PERMISSION_DENIED PERMISSIONS_ERROR accessDenied
    ACCESS_TOKEN_SCOPE_INSUFFICIENT"""
)
REFUSED: Final = _codes(
    """quotaExceeded QUOTA_EXCEEDED RESOURCE_QUOTA_EXCEEDED IP_SPACE_EXHAUSTED IP_SPACE_EXHAUSTED_WITH_DETAILS
    limitExceeded LIMIT_EXCEEDED accessNotConfigured SERVICE_DISABLED BILLING_DISABLED billingNotEnabled
    CONSUMER_SUSPENDED CONSUMER_INVALID USER_PROJECT_DENIED SECURITY_POLICY_VIOLATED RESOURCE_PROJECT_INVALID
    USER_BLOCKED_BY_ADMIN RESOURCE_USAGE_RESTRICTION_VIOLATED ORG_RESTRICTION_VIOLATION SERVICE_NOT_VISIBLE
    ORG_RESTRICTION_HEADER_INVALID GCP_SUSPENDED LOCATION_POLICY_VIOLATED LOCATION_ORG_POLICY_VIOLATED
    LOCATION_TAX_POLICY_VIOLATED TLS_ORG_POLICY_VIOLATED ENDPOINT_USAGE_RESTRICTION_VIOLATED
    TLS_CIPHER_RESTRICTION_VIOLATED invalid badRequest"""
)
"""What somebody has to mend, with words that say what, whatever its status."""
PERMISSION: Final = re.compile(r"Required '([a-zA-Z]+\.[a-zA-Z.]+)' permission for '([^']+)'")
"""What an answer of denied access names."""
_deadline: ContextVar[float] = ContextVar("deadline")


class Unanswered(Retryable):
    """Nobody knows whether the request was carried out, or will be."""


class Conflict(Retryable):
    """The group changed since it was read."""


class NotFound(Rejected):
    """There is no such group."""


def connect(endpoint: str) -> "Api":
    """Clients with the credentials of this machine; endpoint: URL; empty: Google's own.

    Raises:
        UsageError: there are no credentials, or they cannot be read.
    """
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except Exception as error:  # it raises its own, and what a malformed file brings about
        raise UsageError(f"no credentials for GCP: {one_line(error)}") from None
    return Api(credentials, endpoint)


class Api:
    """Clients with the same credentials, for any number of threads.

    Args:
        credentials: of google-auth.
        endpoint: URL; empty: Google's own.
        clock: monotonic seconds.
        connect_s, read_s, call_s: longest connecting, silence and whole call.
    """

    def __init__(
        self,
        credentials: Any,
        endpoint: str = "",
        clock: Callable[[], float] = time.monotonic,
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        call_s: float = CALL_S,
    ) -> None:
        self.credentials, self.endpoint, self.clock = credentials, endpoint, clock
        self.connect_s, self.read_s, self.call_s = connect_s, read_s, call_s
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def call(self, within_s: float | None = None) -> "Call":
        """A call whose requests have so many seconds together."""
        return Call(self, self.clock() + (self.call_s if within_s is None else within_s))

    def client(self, name: str) -> Any:
        """A client of the SDK."""
        with self._lock:
            if name not in self._clients:
                options = ClientOptions(api_endpoint=self.endpoint or None)
                made: Any = getattr(compute_v1, name)(
                    credentials=self.credentials, transport="rest", client_options=options
                )
                session = getattr(made.transport, "_session")  # noqa: B009 - the SDK hands it out in no other way
                self._bind(session)
                self._bind(getattr(session, "_auth_request_session"))  # noqa: B009
                self._clients[name] = made
            return self._clients[name]

    def close(self) -> None:
        """Close idle connections."""
        for client in self._clients.values():
            client.transport.close()

    def _bind(self, session: Any) -> None:
        """Let a session send nothing that nobody waits for any more, and wait for no answer that long."""
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        send = session.send

        def in_time(prepared: Any, **options: Any) -> Any:
            left_s = _deadline.get() - self.clock()
            if left_s <= LEAST_LEFT_S:
                raise Retryable("GCP, or what gives its credentials, answers too slowly", WAIT_S)
            limits = {
                "timeout": (min(self.connect_s, left_s), min(self.read_s, left_s)),
                "allow_redirects": False,
                "proxies": get_environ_proxies(prepared.url, no_proxy=None),
            }
            return _unwrapped(send(prepared, **options | limits))

        session.send = in_time


def _unwrapped(answer: Any) -> Any:
    """An answer whose status is that of the error inside, if there is one: the SDK would take it for an empty one."""
    if answer.status_code < 400:
        try:
            body: Any = answer.json()
            error = body["error"] if "kind" not in body else {}
            answer.status_code = int(error["code"])
        except (ValueError, TypeError, LookupError):
            pass
    return answer


@dataclass(frozen=True)
class Call:
    """Requests that have until `deadline` (monotonic seconds) together.

    Each method raises `Retryable` (`Conflict`, `Unanswered`) or `Rejected` (`NotFound`), as the module's table says.
    """

    api: Api
    deadline: float

    def request(self, location: Location, service: str, method: str, **fields: Any) -> Described:
        """Make a request; returns its answer."""
        client = self.api.client(CLIENTS[service][bool(location.region)])
        token = _deadline.set(self.deadline)
        try:
            send = getattr(
                client, f"{method}_unary" if method in WRITES else method
            )  # "unary": does not wait
            answer = send(request=location.scope | fields, retry=None, timeout=self.api.read_s)
            if hasattr(answer, "pages"):
                answer = next(iter(answer.pages))
            body: Described = MessageToDict(type(answer).pb(answer))
        except (Retryable, Rejected):
            raise
        except core.GoogleAPICallError as error:
            raise _refused(_permission(location, service, method, fields), error) from None
        except Exception as error:
            raise _unreached(error) from None
        finally:
            _deadline.reset(token)
        if "kind" in type(answer).meta.fields and not str(body.get("kind", "")).startswith("compute#"):
            raise Unanswered(f"the answer to {method} is none of GCP's: it has no kind", WAIT_S)
        return body

    def pages(
        self, location: Location, service: str, method: str, key: str, **fields: Any
    ) -> list[Described]:
        """What all pages of a request have under a key."""
        items: list[Described] = []
        after = ""
        while True:
            page = self.request(
                location,
                service,
                method,
                max_results=PAGE,
                **fields,
                **({"page_token": after} if after else {}),
            )
            if str((page.get("warning") or {}).get("code")) in ("UNREACHABLE", "PARTIAL_SUCCESS"):
                raise Retryable(f"{method} of {location} is not complete: {page['warning']['code']}", WAIT_S)
            there: Any = page.get(key) or ()
            items += there.values() if isinstance(there, dict) else there  # by zone, where they are of all
            before, after = after, str(page.get("nextPageToken") or "")
            if not after:
                return items
            if after == before:
                raise Retryable(f"the pages of {method} do not end", WAIT_S)

    def groups(self, location: Location, names: list[str]) -> dict[str, Described]:
        """Descriptions of groups by name; one that does not exist has none."""
        described: dict[str, Described] = {}
        for first in range(0, len(names), NAMES):
            part = names[first : first + NAMES]
            page = self.pages(
                location, "groups", "list", "items", filter=" OR ".join(f'(name = "{name}")' for name in part)
            )
            described |= {name: group for group in page if (name := str(group.get("name"))) in part}
        return described

    def everywhere(self, project: str) -> list[Described]:
        """Descriptions of all groups of a project."""
        at = Location(project)
        scopes = self.pages(at, "groups", "aggregated_list", "items")
        return [group for scope in scopes for group in scope.get("instanceGroupManagers") or ()]

    def group(self, place: Place) -> Described:
        """The description of a group.

        Raises:
            NotFound: there is none.
        """
        group = self.of_group(place, "get")
        if "id" not in group:
            raise Unanswered("the answer to get is none of GCP's: it has no id", WAIT_S)
        return group

    def of_group(self, place: Place, method: str, **fields: Any) -> Described:
        """Make a request for a group."""
        return self.request(place.location, "groups", method, instance_group_manager=place.name, **fields)


def permission_of(place: Place, method: str) -> str:
    """The permission that a request for a group needs."""
    return _permission(place.location, "groups", method, {"instance_group_manager": place.name})


def _permission(location: Location, service: str, method: str, fields: dict[str, Any]) -> str:
    """The permission that a request needs, and on what, where it is of one group."""
    verb = "update" if method in WRITES else "list" if method == "list" else "get"
    resource = RESOURCES[service].format(zone="region" if location.region else "zone")
    name = fields.get("instance_group_manager")
    return f"{resource}.{verb}" + (f" on {Place(location, name).path}" if name else f" in {location}")


def _refused(permission: str, error: core.GoogleAPICallError) -> Retryable | Rejected:
    """What an answer that is an error means."""
    status, answer = int(error.code or 0), error.response
    reasons = [*_reasons(error), *([error.reason] if error.reason else [])]
    # "403 POST https://…: Required …": the SDK puts the request before the message
    message = (
        " ".join(re.sub(r"^[A-Z]+ https?://\S+?: ", "", str(error.message)).split()) or f"status {status}"
    )
    if not reasons and not _is_googles(answer):
        return Unanswered(
            f"{message[:200]} ({status}): the answer is none of GCP's, perhaps a proxy's", WAIT_S
        )
    return mapped(permission, reasons, message, status, _retry_after_s(answer))


def _reasons(error: core.GoogleAPICallError) -> list[str]:
    return [str(of.get("reason") or "") for of in error.errors if isinstance(of, dict)]


def _is_googles(answer: Any) -> bool:
    """Whether an answer has the form of an error of Google's."""
    try:
        return isinstance(answer.json()["error"], dict)
    except (AttributeError, ValueError, TypeError, LookupError):
        return False


def _retry_after_s(answer: Any) -> float | None:
    """Seconds until the next try, as the answer says; None: it does not, or not readably."""
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def mapped(
    permission: str, codes: Iterable[str], message: str, status: int, wait_s: float | None = None
) -> Retryable | Rejected:
    """What an error means.

    Args:
        permission: that the request needs.
        codes: reasons of an answer, or codes of an operation's errors.
        message: in words.
        status: of HTTP; 0: none.
        wait_s: pause that the answer names.
    """
    named = [code for code in codes if code]
    known = {_normal(code) for code in named}
    where = f"{message} ({', '.join(dict.fromkeys(named)) or status})"
    rules: list[tuple[bool, Callable[[], Retryable | Rejected]]] = [
        (
            bool(known & THROTTLED) or (status == 429 and not known & REFUSED),
            lambda: Throttled(where, THROTTLED_S if wait_s is None else wait_s),
        ),
        (bool(known & CONFLICT) or status == 412, lambda: Conflict(where, 1.0)),
        (bool(known & REFUSED), lambda: Rejected(where)),
        (
            bool(known & CREDENTIALS) or status == 401,
            lambda: Retryable(
                f"GCP does not accept our credentials, or this machine's clock: {message}", LONG_WAIT_S
            ),
        ),
        (
            bool(known & BUSY) or status == 409,
            lambda: Retryable(where, WAIT_S if wait_s is None else wait_s),
        ),
        (
            bool(known & UNKNOWN) or status >= 500 or status == 408,
            lambda: Unanswered(where, WAIT_S if wait_s is None else wait_s),
        ),
        (bool(known & DENIED) or status == 403, lambda: Rejected(_denied(permission, message))),
        (status == 404, lambda: NotFound(where)),
    ]
    return next((made for holds, made in rules if holds), lambda: Rejected(where))()


def _denied(permission: str, message: str) -> str:
    """The permission, and the resource where the message names it, that a role must have."""
    named = PERMISSION.search(message)
    return f"not allowed, a role must have: {f'{named[1]} on {named[2]}' if named else permission}: {message}"


def _unreached(error: Exception) -> Exception:
    """What a failure without an answer means: `Retryable`, or an error of this machine as it is."""
    if isinstance(error, auth.TransportError):
        return Retryable(f"no answer from what gives GCP's credentials: {one_line(error)}", WAIT_S)
    if isinstance(error, auth.GoogleAuthError):
        return Retryable(f"no credentials for GCP: {one_line(error)}", LONG_WAIT_S)
    if isinstance(error, requests.exceptions.SSLError):
        return Retryable(f"no connection to GCP: {one_line(error)}", LONG_WAIT_S)
    if isinstance(error, requests.exceptions.RequestException | core.GoogleAPIError):
        return Unanswered(f"no answer from GCP: {one_line(error)}", WAIT_S)
    if isinstance(error, OSError):
        if error.errno in OF_THE_MACHINE:
            return error
        return Unanswered(f"no answer from GCP: {one_line(error)}", WAIT_S)
    # its parsers raise whatever a page that is none of GCP's brings about
    return Unanswered(f"the answer is none of GCP's: {one_line(error)[:200]}", WAIT_S)


def failure_of(permission: str, operation: Described) -> Retryable | Rejected | None:
    """What the errors mean that an operation ended with; None: it has none."""
    errors: list[Described] = (operation.get("error") or {}).get("errors") or []
    status = int(operation.get("httpErrorStatusCode") or 0)
    if not errors and status < 400:
        return None
    message = "; ".join(str(of.get("message") or "") for of in errors) or str(
        operation.get("httpErrorMessage")
    )
    return mapped(permission, [str(of.get("code") or "") for of in errors], message, status)
