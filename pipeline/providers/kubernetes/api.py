"""Requests to the API server through the official client, each bounded in time, and each answer mapped by its class.

Every failure is one of these:

| answer | becomes |
|---|---|
| 409 | `Conflict`: read again (`Retryable`) |
| 410 | `Gone`: list again (`Retryable`) |
| 404 | `NotFound` (`Rejected`) |
| 403 | `Rejected`, with the permission that is missing or the reason of whoever refused |
| other 4xx, 3xx | `Rejected` |
| 429 | `Throttled` (`Retryable`), after `Retry-After` where it is given |
| 401, 408, 5xx | `Retryable`, after `Retry-After` where it is given |
| no answer, a broken one, one that is no JSON, a certificate that does not fit | `Retryable` |
| a `Status` of failure inside a 200 | as its code |

The client makes no retries of its own: the actuator does, and a repeat that nobody knows of could land late. All
requests of one call of the provider have `CALL_S` together, less than the actuator waits, so that a call which it gave
up sends nothing more. Credentials are the client's own chain: in-cluster where there is a service account, else
`KUBECONFIG` or `~/.kube/config`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from kubernetes import config as kubernetes_config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import OpenApiException
from urllib3.exceptions import HTTPError

from pipeline.errors import Rejected, Retryable, Throttled, UsageError
from pipeline.providers.bounds import CALL_S, CONNECT_S, LONG_WAIT_S, OF_THE_MACHINE, READ_S, WAIT_S, one_line
from pipeline.providers.kubernetes.resources import Object, Permission, Place

LIST_S: Final = 30.0
"""For all pages of a list, which no call of the provider waits for."""
WATCH_S: Final = 50.0
"""Length of a watch, which the server ends: what is silent for longer is dead, not quiet."""
PAGE: Final = 500
PIECE: Final = 65_536
BODY_BYTES: Final = 64 * 1024**2
"""More than any page that is asked for can have."""
RETRYABLE: Final = frozenset({401, 408})
"""Besides 5xx. A token that was rotated is read again, so that 401 can pass."""
JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"


class Conflict(Retryable):
    """The object changed since it was read."""


class Gone(Retryable):
    """The version that a watch or page continues from is not kept any more."""


class NotFound(Rejected):
    """There is no such object, or no such kind."""


def connect(context: str | None = None) -> "Api":
    """A client with the credentials of this machine.

    Args:
        context: of the kubeconfig; None: the current one.

    Raises:
        UsageError: there are no credentials, or they cannot be read.
    """
    configuration = Configuration(retries=cast("Any", False))
    configuration.keep_alive = True  # else a balancer in between drops an idle connection, and nobody is told
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ and context is None:
            kubernetes_config.load_incluster_config(configuration)
        else:
            kubernetes_config.load_kube_config(context=context, client_configuration=configuration)
    except Exception as error:  # it raises its own, and what a malformed file brings about
        raise UsageError(f"no credentials for Kubernetes: {one_line(error)}") from None
    return Api(ApiClient(configuration))


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of a response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Api:
    """A connection to one cluster, for any number of threads.

    Args:
        client: of the library, which must make no retries.
        clock: monotonic seconds.
        connect_s, read_s, call_s: longest connecting, silence and whole call.
    """

    def __init__(
        self,
        client: ApiClient,
        clock: Callable[[], float] = time.monotonic,
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        call_s: float = CALL_S,
    ) -> None:
        self.client, self.clock = client, clock
        self.connect_s, self.read_s, self.call_s = connect_s, read_s, call_s

    def call(self, within_s: float | None = None) -> "Call":
        """A call whose requests have so many seconds together."""
        return Call(self, self.clock() + (self.call_s if within_s is None else within_s))

    def close(self) -> None:
        """Close idle connections."""
        self.client.close()

    def send(
        self,
        permission: Permission,
        method: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        read_s: float | None = None,
    ) -> Any:
        """Begin a request; returns the response of urllib3 with its body still to be read.

        Raises:
            Retryable: there was no answer.
        """
        content = MERGE if method == "PATCH" else JSON

        def begin() -> Any:
            prepared = self.client.param_serialize(
                method,
                permission.place.path(permission.subresource),
                query_params=[*query],
                header_params={"Accept": JSON, "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            limits = (self.connect_s, read_s or self.read_s)
            return self.client.call_api(*prepared, _request_timeout=limits).response

        return _reached(begin)


@dataclass(frozen=True)
class Call:
    """Requests that have until `deadline` (monotonic seconds) together.

    Each method raises `Retryable` (`Conflict`, `Gone`) or `Rejected` (`NotFound`), as the module's table says.
    """

    api: Api
    deadline: float

    def get(self, place: Place) -> Object:
        """An object."""
        return self._request(Permission("get", place), "GET")

    def patch(
        self, place: Place, body: Object, *, manager: str, subresource: str = "", dry_run: bool = False
    ) -> Object:
        """Merge `body` into an object; returns what it is since then."""
        query = [("fieldManager", manager), *([("dryRun", "All")] if dry_run else [])]
        return self._request(Permission("patch", place, subresource), "PATCH", query, body)

    def create(self, place: Place, body: Object, *, manager: str = "") -> Object:
        """Make an object; manager: owner of its fields; empty: named after the client library."""
        full = {"apiVersion": place.kind.api_version, "kind": place.kind.name, **body}
        query = [("fieldManager", manager)] if manager else []
        return self._request(Permission("create", place), "POST", query, full)

    def delete(self, place: Place) -> None:
        """Delete an object at once, and later what it owns."""
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        self._request(Permission("delete", place), "DELETE", [], body)

    def list(
        self, place: Place, *, selector: str = "", fields: str = "", most: int | None = None
    ) -> tuple[list[Object], str]:
        """All objects of a kind (`most` at most), and the version at which they were read."""
        items: list[Object] = []
        query = [("limit", str(most or PAGE))]
        query += [("labelSelector", selector)] if selector else []
        query += [("fieldSelector", fields)] if fields else []
        after = ""
        while True:
            page = self._request(
                Permission("list", place), "GET", [*query, *([("continue", after)] if after else [])]
            )
            there = page.get("items") or []
            if not isinstance(there, list) or not all(_is_object(item) for item in there):
                raise Retryable(f"the list of {place} is malformed", WAIT_S)
            items += there
            before, after = after, str(page["metadata"].get("continue") or "")
            if not after or (most is not None and len(items) >= most):
                return items, str(page["metadata"].get("resourceVersion", ""))
            if after == before:
                raise Retryable(f"the list of {place} does not end", WAIT_S)

    def watch(self, place: Place, version: str, *, selector: str = "") -> "Stream":
        """Follow all objects of a kind from a version on."""
        query = [("watch", "true"), ("resourceVersion", version), ("allowWatchBookmarks", "true")]
        query += [("timeoutSeconds", f"{WATCH_S:.0f}")]
        query += [("labelSelector", selector)] if selector else []
        permission = Permission("watch", place)
        raw = self.api.send(permission, "GET", query, read_s=WATCH_S + self.api.read_s)
        if raw.status != 200:
            _check(permission, Answer(raw.status, raw.headers, self._read(raw)))
        return Stream(permission, raw)

    def _request(
        self,
        permission: Permission,
        method: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
    ) -> Object:
        self._in_time()
        raw = self.api.send(permission, method, query, body)
        return _check(permission, Answer(raw.status, raw.headers, self._read(raw)))

    def _in_time(self) -> None:
        if self.api.clock() >= self.deadline:
            raise Retryable("the API server answers too slowly", WAIT_S)

    def _read(self, raw: Any) -> bytes:
        def read() -> bytes:
            body = bytearray()
            while chunk := raw.read1(PIECE):  # one arrival, however slowly they drip
                body += chunk
                if len(body) > BODY_BYTES:
                    raise Retryable(f"an answer of more than {BODY_BYTES:,} bytes", LONG_WAIT_S)
                self._in_time()
            return bytes(body)

        try:
            return _reached(read)
        except Retryable:
            raw.close()
            raise
        finally:
            raw.release_conn()


class Stream:
    """Events of a watch, until the server ends it."""

    def __init__(self, permission: Permission, raw: Any) -> None:
        self.permission, self._raw = permission, raw

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        """Type and object of each event; the object of a BOOKMARK has but its version.

        Raises:
            Retryable, Rejected: as a `Call`; `Gone` where events were lost.
        """
        rest = b""
        try:
            while chunk := _reached(lambda: self._raw.read1(PIECE)):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._event(line)
                if len(rest) > BODY_BYTES:
                    raise Retryable(f"an event of more than {BODY_BYTES:,} bytes", LONG_WAIT_S)
        finally:
            self._raw.close()

    def _event(self, line: bytes) -> tuple[str, Object]:
        event = _decoded(line)
        obj = event.get("object")
        if event.get("type") == "ERROR" and isinstance(obj, dict):
            _refuse(self.permission, _code(obj) or 500, {}, cast("Object", obj))
        if not _is_object(obj):
            raise Retryable(f"an event of {self.permission.place} is malformed", WAIT_S)
        return str(event.get("type")), cast("Object", obj)

    def stop(self) -> None:
        """End it, from any thread."""
        try:
            self._raw.shutdown()
        except (HTTPError, OSError, RuntimeError, ValueError):  # it had ended
            return


def _reached(request: Callable[[], Any]) -> Any:
    """What a request returns.

    Raises:
        Retryable: it failed without an answer of the API server.
        OSError: for this machine (OF_THE_MACHINE).
    """
    try:
        return request()
    except OpenApiException as error:  # the library's for TLS
        raise Retryable(f"no connection to the API server: {one_line(error)}", LONG_WAIT_S) from None
    except kubernetes_config.ConfigException as error:
        raise Retryable(f"no credentials for Kubernetes: {one_line(error)}", LONG_WAIT_S) from None
    except HTTPError as error:
        raise Retryable(f"no answer from the API server: {one_line(error)}", WAIT_S) from None
    except OSError as error:
        if error.errno in OF_THE_MACHINE:
            raise
        raise Retryable(f"no answer from the API server: {one_line(error)}", WAIT_S) from None


def _check(permission: Permission, answer: Answer) -> Object:
    """The object of an answer.

    Raises:
        Retryable, Rejected: it is a failure, as the module's table says.
    """
    if not 200 <= answer.status < 300:
        try:
            status = _decoded(answer.body)
        except Retryable:  # a proxy's page, perhaps: its status is all there is
            status = {}
        _refuse(permission, answer.status, answer.headers, status)
    obj = _decoded(answer.body)
    if obj.get("kind") == "Status" and obj.get("status") == "Failure":
        _refuse(permission, _code(obj) or 500, answer.headers, obj)
    if not isinstance(obj.get("metadata", {}), dict) or "kind" not in obj:
        raise Retryable("the API server's answer is no object of its API", WAIT_S)
    return {"metadata": {}} | obj


def _refuse(permission: Permission, code: int, headers: Mapping[str, str], status: Object) -> None:
    """Raise what a failure means.

    Raises:
        Retryable, Rejected: always one of them.
    """
    message = str(status.get("message") or f"status {code}").replace("\n", " ")
    where = f"{permission.place}: {message}"
    wait_s = _retry_after_s(headers, status)
    if code == 409:
        raise Conflict(where, 1.0 if wait_s is None else wait_s)
    if code == 410:
        raise Gone(where, 1.0)
    if code == 401:
        raise Retryable(f"the API server does not accept our credentials: {message}", wait_s or LONG_WAIT_S)
    if code == 429:
        raise Throttled(f"{where} ({code})", WAIT_S if wait_s is None else wait_s)
    if code in RETRYABLE or code >= 500:
        raise Retryable(f"{where} ({code})", WAIT_S if wait_s is None else wait_s)
    if code == 404:
        raise NotFound(where)
    if code == 403 and ("cannot " in message or not status):
        raise Rejected(f"not allowed, a role must allow: {permission}")
    raise Rejected(where if code in (403, 422) else f"{where} ({code})")


def _retry_after_s(headers: Mapping[str, str], status: Object) -> float | None:
    """Seconds until the next try, as the answer says; None where it does not, or not readably."""
    details = status.get("details")
    text = headers.get("Retry-After") or (
        details.get("retryAfterSeconds") if isinstance(details, dict) else None
    )
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except (TypeError, ValueError):
        pass
    try:
        at = parsedate_to_datetime(str(text))
        return max(0.0, (at - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _code(status: Object) -> int:
    code = status.get("code")
    return code if isinstance(code, int) else 0


def _decoded(body: bytes) -> Object:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Retryable(f"the API server's answer is no JSON object: {body[:60]!r}", WAIT_S)
    return cast("Object", value)


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and isinstance(cast("Object", value).get("metadata"), dict)
