"""AWS in the targets file, and as a provider of an actuator.

[[target]]
ref = "shop/spot-m7i"
kind = "AutoScalingGroup"
region = "eu-west-1"
name = "shop-spot-m7i"
profile = "production"    # of ~/.aws/config, for another account; without it: the SDK's default credentials
queue = "https://sqs.eu-west-1.amazonaws.com/111122223333/spot-warnings"   # of spot warnings; may be left out
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from pipeline.providers.aws.resources import KIND, Account, Group, Place
from pipeline.providers.base import Provider
from pipeline.providers.targets import Integration, Row, connected, not_installed
from pipeline.wire.commands import REPLICAS

if TYPE_CHECKING:
    from pipeline.providers.aws.api import Api

REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d{1,2}")
NAME: Final = re.compile(r"[^:\x00-\x1f]{1,255}")
"""Of a group: what the API takes."""
QUEUE: Final = re.compile(r"https?://\S+/\S+/\S+")


class AwsIntegration(Integration[Group]):
    """Auto scaling groups of the accounts that the SDK has credentials for."""

    kinds = (KIND,)
    fields = ("ref", "kind", "region", "name", "profile", "queue")
    scope = "region"

    def faults(self, row: Row) -> list[str]:
        """What is wrong with place and queue of a table."""
        region, name, queue = row.get("region"), row["name"], row.get("queue")
        rules = [
            (region is not None, "region is missing"),
            (region is None or bool(REGION.fullmatch(region)), f"region {region!r} is no region of AWS"),
            (bool(NAME.fullmatch(name)), f"name {name!r} is no name of an auto scaling group"),
            (row.get("profile") != "", "profile is empty"),
            (queue is None or bool(QUEUE.fullmatch(queue)), f"queue {queue!r} is no URL of an SQS queue"),
            (not row["ref"].endswith(f"/{REPLICAS}"), f"an {KIND} has no replicas of an app"),
        ]
        return [fault for good, fault in rules if not good]

    def resource(self, row: Row) -> Group:
        """The group of a table."""
        account = Account(row.get("profile", ""), row["region"])
        return Group(row["ref"], Place(account, row["name"]), row.get("queue", ""))

    def live_faults(self, resources: Sequence[Group]) -> list[str]:
        """See `checks.live_faults`."""
        with connected((group.account for group in resources), connect_to) as apis:
            from pipeline.providers.aws.checks import live_faults

            return live_faults(apis, resources)

    def release(self, resources: Sequence[Group]) -> tuple[list[str], list[str]]:
        """See `release.release`."""
        with connected((group.account for group in resources), connect_to) as apis:
            from pipeline.providers.aws.release import release

            return release(apis, resources)

    def discover(self, where: Mapping[str, str]) -> str:
        """See `discovery.discover`."""
        account = Account(where.get("profile", ""), where["region"])
        with closing(connect_to(account)) as api:
            from pipeline.providers.aws.discovery import discover

            return discover(api, account)

    @contextmanager
    def provider(self, resources: Sequence[Group], *, dry_run: bool) -> Generator[Provider]:
        """See `provider.AwsProvider`."""
        try:
            from pipeline.providers.aws.provider import AwsProvider
        except ModuleNotFoundError as error:
            raise not_installed("aws", error) from None
        with closing(AwsProvider(resources, dry_run=dry_run)) as provider:
            yield provider


def connect_to(account: Account) -> "Api":
    """Clients for an account and region.

    Raises:
        UsageError: there is no such profile, or the client library is not installed.
    """
    try:
        from pipeline.providers.aws.api import connect
    except ModuleNotFoundError as error:
        raise not_installed("aws", error) from None
    return connect(account)
