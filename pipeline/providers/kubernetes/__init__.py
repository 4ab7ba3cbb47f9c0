"""Kubernetes as a provider: floors of autoscalers, replicas of workloads and static node pools, observed by watch.

`resources` names what can be commanded, `targets` reads which of it is, `api` makes requests, `marks` is what we
leave on an object, `observation` follows objects, `provider` applies commands and `checks` says what would hinder it.
`api` and what imports it need the client library, the extra `leadtime[kubernetes]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.providers.kubernetes.api import Api


def connected() -> Api:
    """The cluster that this machine's credentials are for.

    Raises:
        UsageError: there are no credentials, or the client library is not installed.
    """
    try:
        from pipeline.providers.kubernetes.api import connect
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pipeline"):
            raise
        raise UsageError(
            f"Kubernetes needs a library that is not installed ({error.name}): pip install 'leadtime[kubernetes]'"
        ) from None
    return connect()
