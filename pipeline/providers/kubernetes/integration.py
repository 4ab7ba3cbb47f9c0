"""Kubernetes in the targets file, and as a provider of an actuator.

[[target]]
ref = "shop/pod"
kind = "HorizontalPodAutoscaler"      # ScaledObject, Deployment, StatefulSet, NodePool
namespace = "shop"                    # not of a NodePool
name = "web"
through = "object"                    # or "scale": by the subresource alone
context = "eu"                        # of the kubeconfig; default: the cluster of this machine's credentials
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pipeline.providers.base import Observation, Provider, Record, Result
from pipeline.providers.kubernetes.resources import COMMANDED, NODE_POOL, Place, Resource
from pipeline.providers.targets import Integration, Row, connected, named, not_installed
from pipeline.wire.commands import REPLICAS, Target

if TYPE_CHECKING:
    from pipeline.providers.kubernetes.api import Api

WAYS: Final = ("object", "scale")
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""Names of objects; those of namespaces have no dots."""


class KubernetesIntegration(Integration[Resource]):
    """Objects of the clusters that this machine's credentials are for."""

    kinds = tuple(COMMANDED)
    fields = ("ref", "kind", "namespace", "name", "through", "context")
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
            (row.get("context") != "", "context is empty"),
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
        kind, namespace = COMMANDED[row["kind"]], row.get("namespace", "")
        place = Place(kind, namespace, row["name"], row.get("context", ""))
        return Resource(row["ref"], place, row.get("through") == "scale")

    def live_faults(self, resources: Sequence[Resource]) -> list[str]:
        """See `checks.live_faults`."""
        by_context = _by_context(resources)
        with connected(by_context, connect_to) as apis:
            from pipeline.providers.kubernetes.checks import live_faults

            return [fault for of, inside in by_context.items() for fault in live_faults(apis[of], inside)]

    def release(self, resources: Sequence[Resource]) -> tuple[list[str], list[str]]:
        """See `release.release`."""
        by_context = _by_context(resources)
        with connected(by_context, connect_to) as apis:
            from pipeline.providers.kubernetes.release import release

            each = [release(apis[of], inside) for of, inside in by_context.items()]
        return [line for done, _ in each for line in done], [line for _, failed in each for line in failed]

    def discover(self, where: Mapping[str, str]) -> str:
        """See `discovery.discover`."""
        context = where.get("context", "")
        with closing(connect_to(context)) as api:
            from pipeline.providers.kubernetes.discovery import discover

            return discover(api, where["namespace"], context)

    @contextmanager
    def provider(self, resources: Sequence[Resource], *, dry_run: bool) -> Generator[Provider]:
        """See `provider.KubernetesProvider`: one for each cluster."""
        by_ref: dict[str, Provider] = {}
        with ExitStack() as stack:
            for context, inside in _by_context(resources).items():
                api = connect_to(context)
                from pipeline.providers.kubernetes.provider import KubernetesProvider

                cluster = stack.enter_context(closing(KubernetesProvider(api, inside, dry_run=dry_run)))
                by_ref |= dict.fromkeys((resource.ref for resource in inside), cluster)
            yield Clusters(by_ref)


class Clusters(Provider):
    """Several clusters as one provider; by_ref: that of each target."""

    def __init__(self, by_ref: Mapping[str, Provider]) -> None:
        self.by_ref = by_ref

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        """As the target's cluster does."""
        return named(self.by_ref, target.ref).observe(target, now_s, since_s)

    def apply(self, command: Record, now_s: float) -> Result:
        """As the target's cluster does."""
        return named(self.by_ref, Target.of(command).ref).apply(command, now_s)

    def can_share_nodes(self) -> bool:
        """It can: each cluster's scheduler places replicas."""
        return True


def _by_context(resources: Sequence[Resource]) -> dict[str, list[Resource]]:
    """Targets by context, without it."""
    grouped: dict[str, list[Resource]] = {}
    for of in resources:
        bare = replace(of, place=replace(of.place, context=""))
        grouped.setdefault(of.place.context, []).append(bare)
    return grouped


def connect_to(context: str = "") -> "Api":
    """The cluster of a context of the kubeconfig; empty: the one that this machine's credentials are for.

    Raises:
        UsageError: there are no credentials, or the client library is not installed.
    """
    try:
        from pipeline.providers.kubernetes.api import connect
    except ModuleNotFoundError as error:
        raise not_installed("kubernetes", error) from None
    return connect(context or None)
