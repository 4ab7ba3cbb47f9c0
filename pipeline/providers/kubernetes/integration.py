"""Kubernetes in the targets file, and as a provider of an actuator.

[[target]]
ref = "shop/pod"
kind = "HorizontalPodAutoscaler"      # ScaledObject, Deployment, StatefulSet, NodePool
namespace = "shop"                    # not of a NodePool
name = "web"
through = "object"                    # or "scale": by the subresource alone
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from pipeline.providers.base import Provider
from pipeline.providers.kubernetes.resources import COMMANDED, NODE_POOL, Place, Resource
from pipeline.providers.targets import Integration, Row, not_installed
from pipeline.wire.commands import REPLICAS

if TYPE_CHECKING:
    from pipeline.providers.kubernetes.api import Api

WAYS: Final = ("object", "scale")
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""Names of objects; those of namespaces have no dots."""


class KubernetesIntegration(Integration[Resource]):
    """Objects of the cluster that this machine's credentials are for."""

    kinds = tuple(COMMANDED)
    fields = ("ref", "kind", "namespace", "name", "through")
    scope = "namespace"

    def faults(self, row: Row) -> list[str]:
        """What is wrong with place and way of a table."""
        kind, namespace = COMMANDED[row["kind"]], row.get("namespace", "")
        name, way = row["name"], row.get("through", WAYS[0])
        rules = [
            (bool(NAME.fullmatch(name)), f"name {name!r} is no name of Kubernetes"),
            (kind.namespaced or not namespace, f"a {kind.name} has no namespace"),
            (not kind.namespaced or bool(namespace), "namespace is missing"),
            (
                not namespace or ("." not in namespace and bool(NAME.fullmatch(namespace))),
                f"namespace {namespace!r} is no name of Kubernetes",
            ),
            (way in WAYS, f"through {way!r}: there are {', '.join(WAYS)}"),
            (way != "scale" or kind.scaled, f"a {kind.name} has no count that its subresource scale sets"),
            (
                not row["ref"].endswith(f"/{REPLICAS}") or kind is not NODE_POOL,
                f"a {kind.name} has no replicas of an app",
            ),
        ]
        return [fault for good, fault in rules if not good]

    def resource(self, row: Row) -> Resource:
        """The object of a table."""
        place = Place(COMMANDED[row["kind"]], row.get("namespace", ""), row["name"])
        return Resource(row["ref"], place, row.get("through") == "scale")

    def live_faults(self, resources: Sequence[Resource]) -> list[str]:
        """See `checks.live_faults`."""
        with closing(connected()) as api:
            from pipeline.providers.kubernetes.checks import live_faults

            return live_faults(api, resources)

    def release(self, resources: Sequence[Resource]) -> tuple[list[str], list[str]]:
        """See `release.release`."""
        with closing(connected()) as api:
            from pipeline.providers.kubernetes.release import release

            return release(api, resources)

    def discover(self, where: Mapping[str, str]) -> str:
        """See `discovery.discover`."""
        with closing(connected()) as api:
            from pipeline.providers.kubernetes.discovery import discover

            return discover(api, where["namespace"])

    @contextmanager
    def provider(self, resources: Sequence[Resource], *, dry_run: bool) -> Generator[Provider]:
        """See `provider.KubernetesProvider`."""
        api = connected()
        from pipeline.providers.kubernetes.provider import KubernetesProvider

        with closing(KubernetesProvider(api, resources, dry_run=dry_run)) as provider:
            yield provider


def connected() -> "Api":
    """The cluster that this machine's credentials are for.

    Raises:
        UsageError: there are no credentials, or the client library is not installed.
    """
    try:
        from pipeline.providers.kubernetes.api import connect
    except ModuleNotFoundError as error:
        raise not_installed("kubernetes", error) from None
    return connect()
