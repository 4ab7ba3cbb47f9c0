"""Requests to AWS through boto3, each bounded in time, and each answer mapped by its class.

Every failure is one of these:

| answer | becomes |
|---|---|
| throttling, 429 | `Throttled` |
| a scaling activity or contention in progress, no capacity | `Retryable` |
| expired, unknown or missing credentials, a clock that is off, a certificate that does not fit | `Retryable`, later |
| access denied | `Rejected`, with the IAM action that is missing |
| ValidationError and other 4xx | `Rejected` |
| no answer, a broken one, a proxy's page (no request id of AWS), 408, 5xx | `Unanswered`, which is `Retryable` |

The SDK makes no retries of its own: the actuator does, and a repeat that nobody knows of could land late. A call of the
provider sends nothing after its deadline (CALL_S), which is less than the actuator waits: every client asks for it
right before a request leaves, since credentials may take long to come. They come from the SDK's own chain alone.
"""

import re
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import boto3
from botocore import exceptions as sdk
from botocore.config import Config

from pipeline.errors import Rejected, Retryable, Throttled, UsageError
from pipeline.providers.aws.resources import KIND, Account, Described, Place
from pipeline.providers.bounds import CALL_S, CONNECT_S, LONG_WAIT_S, OF_THE_MACHINE, READ_S, WAIT_S, one_line

PAGE: Final = 100
"""Groups, and names of groups, in a request: the most that the API takes."""
LEAST_LEFT_S: Final = 0.05
THROTTLED_S: Final = 10.0
"""Pause after throttling: the buckets of the API refill within seconds."""
THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "KmsThrottled",
        "KMS.ThrottlingException",
    }
)
BUSY: Final = frozenset(
    {
        "ScalingActivityInProgress",
        "ResourceContention",
        "ResourceInUse",
        "IdempotentCallInProgress",
        "InstanceRefreshInProgress",
        "IncorrectState",
        "PriorRequestNotComplete",
        "TransactionInProgressException",
        "ReplicatedWriteConflictException",
        "IDPCommunicationError",
        "InvalidNextToken",
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacityOnHost",
        "InsufficientAddressCapacity",
        "InsufficientCapacity",
        "MaxSpotInstanceCountExceeded",
        "UnfulfillableCapacity",
        "SpotMaxPriceTooLow",
    }
)
"""What passes by itself and was not carried out, whatever its status: some are 400, some 500."""
UNKNOWN: Final = frozenset(
    {
        "InternalFailure",
        "InternalError",
        "ServiceUnavailable",
        "Unavailable",
        "ServerInternal",
        "RequestTimeout",
        "RequestTimeoutException",
    }
)
"""What may have been carried out, as any other 5xx."""
CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidToken",
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        "AuthFailure",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "RequestInTheFuture",
        "NotAuthorized",
        "InvalidIdentityToken",
        "InvalidSecurityToken",
        "InvalidX509Certificate",
        "UnauthorizedException",
    }
)
DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "AuthorizationError",
    }
)
NO_CREDENTIALS: Final = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.InvalidConfigError,
    sdk.ConfigNotFound,
    sdk.ProfileNotFound,
    sdk.MetadataRetrievalError,
    sdk.RefreshWithMFAUnsupportedError,
    sdk.UnknownCredentialError,
    sdk.UnknownTokenProviderError,
    sdk.NoAuthTokenError,
    sdk.LoginError,
)
ACTION: Final = re.compile(r"(?:to perform|allows the):? ?([a-z0-9-]+:[A-Za-z]+)(?:.*? on resource: (\S+))?")
"""What an answer of denied access names."""
_deadline: ContextVar[float] = ContextVar("deadline")


class Unanswered(Retryable):
    """Nobody knows whether the request was carried out, or will be."""


class NotFound(Rejected):
    """There is no such group."""


def connect(account: Account) -> "Api":
    """Clients for an account and region.

    Raises:
        UsageError: there is no such profile or region.
    """
    try:
        session = boto3.Session(profile_name=account.profile or None, region_name=account.region)
        return Api(session)
    except (sdk.BotoCoreError, ValueError) as error:
        raise UsageError(f"AWS in {account}: {one_line(error)}") from None


class Api:
    """Clients of one account and region, for any number of threads.

    Args:
        session: of boto3, with credentials and region.
        endpoint: URL of all services; empty: the SDK's own.
        clock: monotonic seconds.
        connect_s, read_s, call_s: longest connecting, silence and whole call.
    """

    def __init__(
        self,
        session: boto3.Session,
        endpoint: str = "",
        clock: Callable[[], float] = time.monotonic,
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        call_s: float = CALL_S,
    ) -> None:
        self.session, self.endpoint, self.clock, self.call_s = session, endpoint, clock, call_s
        self._config = Config(
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=32,
            tcp_keepalive=True,
        )
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.client("autoscaling")

    def call(self, within_s: float | None = None) -> "Call":
        """A call whose requests have so many seconds together."""
        return Call(self, self.clock() + (self.call_s if within_s is None else within_s))

    def client(self, service: str) -> Any:
        """The client of a service."""
        with self._lock:
            if service not in self._clients:
                made: Any = self.session.client(
                    service, endpoint_url=self.endpoint or None, config=self._config
                )
                made.meta.events.register("before-send", self._in_time)
                self._clients[service] = made
            return self._clients[service]

    def close(self) -> None:
        """Close idle connections."""
        for client in self._clients.values():
            client.close()

    def _in_time(self, **_: Any) -> None:
        """Send nothing that nobody waits for any more."""
        if self.clock() >= _deadline.get() - LEAST_LEFT_S:
            raise Retryable("AWS, or what gives its credentials, answers too slowly", WAIT_S)


@dataclass(frozen=True)
class Call:
    """Requests that have until `deadline` (monotonic seconds) together.

    Each method raises `Retryable` or `Rejected`, as the module's table says.
    """

    api: Api
    deadline: float

    def request(self, operation: str, *, service: str = "autoscaling", **parameters: Any) -> Described:
        """Make a request; returns its answer."""
        client, name = self.api.client(service), _method(operation)
        token = _deadline.set(self.deadline)
        try:
            answer = getattr(client, name)(**parameters)
        except (Retryable, Rejected):
            raise
        except sdk.ClientError as error:
            raise _refused(f"{service}:{operation}", error) from None
        except sdk.BotoCoreError as error:
            raise _unreached(error) from None
        except OSError as error:
            if error.errno in OF_THE_MACHINE:
                raise
            raise Unanswered(f"no answer from AWS: {one_line(error)}", WAIT_S) from None
        except Exception as error:  # its parsers raise whatever a page that is none of AWS's brings about
            raise Unanswered(
                f"the answer to {operation} is none of AWS's: {one_line(error)}", WAIT_S
            ) from None
        finally:
            _deadline.reset(token)
        if not _request_id(answer):
            raise Unanswered(f"the answer to {operation} is none of AWS's: it has no request id", WAIT_S)
        return answer

    def pages(self, operation: str, key: str, **parameters: Any) -> list[Described]:
        """What all pages of a request have under a key."""
        items: list[Described] = []
        after = ""
        while True:
            page = self.request(operation, **parameters, **({"NextToken": after} if after else {}))
            there: Any = page.get(key) or []
            if not isinstance(there, list):
                raise Retryable(f"the answer to {operation} is malformed", WAIT_S)
            items += there
            before, after = after, str(page.get("NextToken") or "")
            if not after:
                return items
            if after == before:
                raise Retryable(f"the pages of {operation} do not end", WAIT_S)

    def groups(self, names: list[str]) -> dict[str, Described]:
        """Descriptions of groups by name; one that does not exist has none."""
        described: dict[str, Described] = {}
        for first in range(0, len(names), PAGE):
            part = names[first : first + PAGE]
            page = self.pages(
                "DescribeAutoScalingGroups", "AutoScalingGroups", AutoScalingGroupNames=part, MaxRecords=PAGE
            )
            described |= {str(group.get("AutoScalingGroupName")): group for group in page}
        return described

    def group(self, place: Place) -> Described:
        """The description of a group.

        Raises:
            NotFound: there is none.
        """
        group = self.groups([place.name]).get(place.name)
        if group is None or str(group.get("Status", "")).startswith("Delete"):
            raise NotFound(f"there is no {KIND} {place.name} in {place.account}")
        return group


def _method(operation: str) -> str:
    """The client's name of an operation: `SetDesiredCapacity` is `set_desired_capacity`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()


def _request_id(answer: Described) -> str:
    """AWS's name of a request; empty: the answer is somebody else's."""
    metadata = answer.get("ResponseMetadata")
    return str(metadata.get("RequestId") or "") if isinstance(metadata, dict) else ""


def _refused(action: str, error: sdk.ClientError) -> Retryable | Rejected:
    """What an answer that is an error means; action: as IAM names it."""
    details: Any = error.response.get("Error") or {}
    metadata: Any = error.response.get("ResponseMetadata") or {}
    code, status = str(details.get("Code") or ""), int(metadata.get("HTTPStatusCode") or 0)
    message = " ".join(str(details.get("Message") or f"status {status}").split())
    name = code.removeprefix("Client.").removeprefix("Server.").removeprefix("AWS.SimpleQueueService.")
    where = f"{action}: {message} ({code or status})"
    if name in THROTTLED or status == 429:
        return Throttled(where, THROTTLED_S)
    if name in CREDENTIALS or (status == 401 and name not in DENIED):
        return Retryable(
            f"AWS does not accept our credentials, or this machine's clock: {message}", LONG_WAIT_S
        )
    if name in BUSY:
        return Retryable(where, WAIT_S)
    if name in UNKNOWN or status >= 500 or status == 408:
        return Unanswered(where, WAIT_S)
    if name in DENIED:
        return Rejected(f"not allowed, a policy must allow: {_permission(action, message)}")
    if not _request_id(error.response):
        return Unanswered(f"{where}: the answer is none of AWS's, perhaps a proxy's", WAIT_S)
    return Rejected(where)


def _permission(action: str, message: str) -> str:
    """The action, and the resource where the message names it, that a policy must allow."""
    named = ACTION.search(message)
    if named is None:
        return action
    resource = (named[2] or "").rstrip(".,")
    denied = ", which a policy denies explicitly" if "explicit deny" in message else ""
    return (f"{named[1]} on {resource}" if resource else named[1]) + denied


def _unreached(error: sdk.BotoCoreError) -> Retryable | Rejected:
    """What a failure of the SDK itself means."""
    if isinstance(error, sdk.ParamValidationError):
        return Rejected(f"AWS's client refuses the request: {one_line(error)}")
    if isinstance(error, NO_CREDENTIALS):
        return Retryable(f"no credentials for AWS: {one_line(error)}", LONG_WAIT_S)
    if isinstance(error, sdk.SSLError):
        return Retryable(f"no connection to AWS: {one_line(error)}", LONG_WAIT_S)
    return Unanswered(f"no answer from AWS: {one_line(error)}", WAIT_S)
