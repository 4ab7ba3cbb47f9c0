"""GCP in the targets file, and as a provider of an actuator.

[[target]]
ref = "shop/spot-e2"
kind = "InstanceGroupManager"
project = "shop-production"
zone = "europe-west1-b"    # or region = "europe-west1"
name = "shop-spot-e2"
endpoint = "https://compute-shop.p.googleapis.com"   # of Private Service Connect; may be left out
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from pipeline.providers.base import Provider
from pipeline.providers.gcp.resources import KIND, Group, Location, Place
from pipeline.providers.targets import Integration, Row, connected, not_installed
from pipeline.wire.commands import REPLICAS

if TYPE_CHECKING:
    from pipeline.providers.gcp.api import Api

PROJECT: Final = re.compile(r"([a-z0-9.-]+:)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""Id or number."""
NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1035: of groups, zones and regions."""
ENDPOINT: Final = re.compile(r"https?://[^/\s]+")


class GcpIntegration(Integration[Group]):
    """Managed instance groups of the projects that the SDK's credentials may use."""

    kinds = (KIND,)
    fields = ("ref", "kind", "project", "zone", "region", "name", "endpoint")
    scope = "project"

    def faults(self, row: Row) -> list[str]:
        """What is wrong with place and endpoint of a table."""
        project, where = row.get("project"), row.get("zone", row.get("region"))
        rules = [
            (project is not None, "project is missing"),
            (
                project is None or bool(PROJECT.fullmatch(project)),
                f"project {project!r} is no id of a project",
            ),
            (("zone" in row) != ("region" in row), "either zone or region must be given"),
            (where is None or bool(NAME.fullmatch(where)), f"{where!r} is no name of a zone or region"),
            (
                bool(NAME.fullmatch(row["name"])),
                f"name {row['name']!r} is no name of a managed instance group",
            ),
            (
                "endpoint" not in row or bool(ENDPOINT.fullmatch(row["endpoint"])),
                f"endpoint {row.get('endpoint')!r} is no URL of a host",
            ),
            (not row["ref"].endswith(f"/{REPLICAS}"), f"an {KIND} has no replicas of an app"),
        ]
        return [fault for good, fault in rules if not good]

    def resource(self, row: Row) -> Group:
        """The group of a table."""
        at = Location(row["project"], row.get("zone", ""), row.get("region", ""), row.get("endpoint", ""))
        return Group(row["ref"], Place(at, row["name"]))

    def live_faults(self, resources: Sequence[Group]) -> list[str]:
        """See `checks.live_faults`."""
        with connected((group.location.endpoint for group in resources), connect_to) as apis:
            from pipeline.providers.gcp.checks import live_faults

            return live_faults(apis, resources)

    def release(self, resources: Sequence[Group]) -> tuple[list[str], list[str]]:
        """See `release.release`."""
        with connected((group.location.endpoint for group in resources), connect_to) as apis:
            from pipeline.providers.gcp.release import release

            return release(apis, resources)

    def discover(self, where: Mapping[str, str]) -> str:
        """See `discovery.discover`."""
        with closing(connect_to(where.get("endpoint", ""))) as api:
            from pipeline.providers.gcp.discovery import discover

            return discover(api, where["project"])

    @contextmanager
    def provider(self, resources: Sequence[Group], *, dry_run: bool) -> Generator[Provider]:
        """See `provider.GcpProvider`."""
        try:
            from pipeline.providers.gcp.provider import GcpProvider
        except ModuleNotFoundError as error:
            raise not_installed("gcp", error) from None
        with closing(GcpProvider(resources, dry_run=dry_run)) as provider:
            yield provider


def connect_to(endpoint: str) -> "Api":
    """Clients of an endpoint.

    Raises:
        UsageError: there are no credentials, or the client library is not installed.
    """
    try:
        from pipeline.providers.gcp.api import connect
    except ModuleNotFoundError as error:
        raise not_installed("gcp", error) from None
    return connect(endpoint)
