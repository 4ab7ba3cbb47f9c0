"""Azure in the targets file, and as a provider of an actuator.

[[target]]
ref = "shop/spot-d2s"
kind = "VirtualMachineScaleSet"
subscription = "00000000-0000-0000-0000-000000000000"
resource_group = "shop"
name = "shop-spot-d2s"
endpoint = "https://management.local.azurestack.external"   # of an Azure Stack Hub; may be left out
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from pipeline.providers.azure.resources import KIND, Account, Place, ScaleSet
from pipeline.providers.base import Provider
from pipeline.providers.targets import Integration, Row, connected, not_installed
from pipeline.wire.commands import REPLICAS

if TYPE_CHECKING:
    from pipeline.providers.azure.api import Api

SUBSCRIPTION: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
RESOURCE_GROUP: Final = re.compile(r"[\w.()-]{0,89}[\w()-]")
NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
"""What Azure takes as names."""
ENDPOINT: Final = re.compile(r"https?://[^/\s]+/?")


class AzureIntegration(Integration[ScaleSet]):
    """Virtual machine scale sets of the subscriptions that the SDK has credentials for."""

    kinds = (KIND,)
    fields = ("ref", "kind", "subscription", "resource_group", "name", "endpoint")
    scope = "subscription"

    def faults(self, row: Row) -> list[str]:
        """What is wrong with the place of a table."""
        forms = {
            "subscription": SUBSCRIPTION,
            "resource_group": RESOURCE_GROUP,
            "name": NAME,
            "endpoint": ENDPOINT,
        }
        faults = [f"{field} is missing" for field in ("subscription", "resource_group") if field not in row]
        faults += [
            f"{field} {row[field]!r} is none of Azure"
            for field, form in forms.items()
            if field in row and not form.fullmatch(row[field])
        ]
        if row["ref"].endswith(f"/{REPLICAS}"):
            faults.append(f"a {KIND} has no replicas of an app")
        return faults

    def resource(self, row: Row) -> ScaleSet:
        """The set of a table."""
        account = Account(row["subscription"].lower(), row.get("endpoint", "").rstrip("/"))
        return ScaleSet(row["ref"], Place(account, row["resource_group"].lower(), row["name"].lower()))

    def live_faults(self, resources: Sequence[ScaleSet]) -> list[str]:
        """See `checks.live_faults`."""
        with connected((of.account for of in resources), connect_to) as apis:
            from pipeline.providers.azure.checks import live_faults

            return live_faults(apis, resources)

    def release(self, resources: Sequence[ScaleSet]) -> tuple[list[str], list[str]]:
        """See `release.release`."""
        with connected((of.account for of in resources), connect_to) as apis:
            from pipeline.providers.azure.release import release

            return release(apis, resources)

    def discover(self, where: Mapping[str, str]) -> str:
        """See `discovery.discover`."""
        with closing(connect_to(Account(where["subscription"].lower(), where.get("endpoint", "")))) as api:
            from pipeline.providers.azure.discovery import discover

            return discover(api, where.get("resource_group", ""))

    @contextmanager
    def provider(self, resources: Sequence[ScaleSet], *, dry_run: bool) -> Generator[Provider]:
        """See `provider.AzureProvider`."""
        try:
            from pipeline.providers.azure.provider import AzureProvider
        except ModuleNotFoundError as error:
            raise not_installed("azure", error) from None
        with closing(AzureProvider(resources, dry_run=dry_run)) as provider:
            yield provider


def connect_to(account: Account) -> "Api":
    """A client of an account.

    Raises:
        UsageError: the client library is not installed.
    """
    try:
        from pipeline.providers.azure.api import connect
    except ModuleNotFoundError as error:
        raise not_installed("azure", error) from None
    return connect(account)
