"""What the error codes of Azure Resource Manager and its compute provider mean.

An answer may have a code that says little, and the one that matters in `error.details`, at any depth: a request that
is throttled has the code `OperationNotAllowed`, as one that exceeds a quota has, and `TooManyRequests` within.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

THROTTLED: Final = frozenset(
    {
        "TooManyRequests",
        "TooManyRequestsReceived",
        "SubscriptionRequestsThrottled",
        "ResourceCollectionRequestsThrottled",
        "ResourceRequestsThrottled",
        "TenantRequestsThrottled",
        "RequestsThrottled",
        "RequestThrottled",
        "ThrottlingException",
        "Throttled",
        "OperationThrottled",
        "RateLimitExceeded",
        "TooManyVMRedeploymentRequests",
    }
)
NO_CAPACITY: Final = frozenset(
    {
        "AllocationFailed",
        "ZonalAllocationFailed",
        "OverconstrainedAllocationRequest",
        "OverconstrainedZonalAllocationRequest",
        "SpotAllocationFailed",
        "LowPriorityAllocationFailed",
        "AllocationTimeout",
        "OutOfCapacity",
        "InsufficientCapacity",
        "CapacityReservationNotAvailable",
    }
)
NOT_OFFERED: Final = frozenset({"SkuNotAvailable", "RegionDoesNotAllowProvisioning", "ZoneNotAvailable"})
"""What may be offered again in hours or days."""
BUSY: Final = frozenset(
    {
        "AnotherOperationInProgress",
        "AttachDiskWhileBeingDetached",
        "Conflict",
        "ConflictingConcurrentWriteNotAllowed",
        "ConflictingServerOperation",
        "ConcurrentUpdateError",
        "DiskImageNotReady",
        "MaxUnhealthyInstancePercentExceededBeforeRollingUpgrade",
        "NotReady",
        "OperationPreempted",
        "OperationPreemptedByAnotherOperation",
        "OperationPreemptedByMoreRecentOperation",
        "ParentResourceBusy",
        "PreconditionFailed",
        "ReferencedResourceNotProvisioned",
        "ResourceGroupBeingMoved",
        "RetryableError",
        "RetryableErrorDueToAnotherOperation",
        "RollingUpgradeInProgress",
        "SubscriptionBeingMoved",
    }
)
"""What passes by itself and was not carried out."""
UNKNOWN: Final = frozenset(
    {
        "BadGateway",
        "GatewayTimeout",
        "InternalDiskManagementError",
        "InternalExecutionError",
        "InternalOperationError",
        "InternalServerError",
        "NetworkingInternalOperationError",
        "OperationTimedOut",
        "RequestTimeout",
        "ServerBusy",
        "ServerTimeout",
        "ServiceTimeout",
        "ServiceUnavailable",
        "VMArtifactRepositoryInternalError",
    }
)
"""What may have been carried out, as any other 5xx."""
CREDENTIALS: Final = frozenset(
    {
        "AuthenticationFailed",
        "AuthenticationFailedInvalidHeader",
        "AuthenticationFailedMissingToken",
        "ExpiredAuthenticationToken",
        "InvalidAuthenticationInfo",
        "InvalidAuthenticationToken",
        "InvalidAuthenticationTokenAudience",
        "InvalidAuthenticationTokenTenant",
        "TokenExpired",
        "Unauthorized",
    }
)
DENIED: Final = frozenset(
    {"AuthorizationFailed", "AuthorizationPermissionMismatch", "LinkedAuthorizationFailed"}
)
REFUSED: Final = frozenset(
    {
        "AccountIsDisabled",
        "BadRequest",
        "DisabledSubscription",
        "InvalidParameter",
        "InvalidResourceReference",
        "MissingSubscriptionRegistration",
        "NotFound",
        "OSProvisioningClientError",
        "OperationNotAllowed",
        "PropertyChangeNotAllowed",
        "QuotaExceeded",
        "ReadOnlyDisabledSubscription",
        "RequestDisallowedByPolicy",
        "ResourceGroupBeingDeleted",
        "ResourceGroupNotFound",
        "ResourceNotFound",
        "ResourceQuotaExceeded",
        "ScopeLocked",
        "SubnetIsFull",
        "SubscriptionNotFound",
        "VMScaleSetHasBeenMarkedForDeletion",
    }
)
"""What never passes by itself, whatever the status: the lock of a scope is a 409."""
EVERY: Final = (
    THROTTLED
    | NO_CAPACITY
    | NOT_OFFERED
    | BUSY
    | UNKNOWN
    | CREDENTIALS
    | DENIED
    | (REFUSED - {"OperationNotAllowed"})
)
DEEPEST: Final = 8


@dataclass(frozen=True)
class Fault:
    """An error that an answer or an operation has: the code that matters, and its message."""

    code: str
    message: str


def fault_of(body: Any) -> Fault:
    """The error in an answer's body; its code is empty where there is none."""
    there = body.get("error", body) if isinstance(body, dict) else {}
    every = list(_errors(there, 0))
    known = [error for error in every if error.code in EVERY]
    return (known or every or [Fault("", "")])[-1]


def _errors(error: Any, depth: int) -> Iterator[Fault]:
    """An error and those within it, the outermost first; messages are one line."""
    if isinstance(error, str):
        try:
            error = json.loads(error)
        except (ValueError, RecursionError):
            return
        error = error.get("error", error) if isinstance(error, dict) else {}
    if not isinstance(error, dict) or depth > DEEPEST:
        return
    code, message = error.get("code"), error.get("message")
    if isinstance(code, str) and code:
        yield Fault(code, " ".join(str(message or "").split()))
    if isinstance(message, str) and message.lstrip().startswith("{"):
        yield from _errors(message, depth + 1)
    details = error.get("details")
    for inner in details if isinstance(details, list) else [details]:
        yield from _errors(inner, depth + 1)
    yield from _errors(error.get("innererror"), depth + 1)
