"""Proposes targets: groups that a tag names as `app/offer`."""

from pipeline.errors import UsageError
from pipeline.providers.aws.api import PAGE, Api
from pipeline.providers.aws.checks import refuse_described, refuse_scaled
from pipeline.providers.aws.marks import tags_of
from pipeline.providers.aws.resources import KIND, Account, Described, Place
from pipeline.providers.targets import TARGET_TAG, proposal


def discover(api: Api, account: Account) -> str:
    """A targets file of the groups of an account and region that have the tag TARGET_TAG; a comment says what hinders
    commands of one.

    Raises:
        UsageError: there is none.
        Retryable, Rejected: AWS does not tell.
    """
    call = api.call()
    filters = [{"Name": "tag-key", "Values": [TARGET_TAG]}]
    groups = call.pages("DescribeAutoScalingGroups", "AutoScalingGroups", Filters=filters, MaxRecords=PAGE)
    if not groups:
        raise UsageError(f"no auto scaling group in {account} has the tag {TARGET_TAG}")
    tables: list[str] = []
    for group in sorted(groups, key=lambda group: str(group["AutoScalingGroupName"])):
        place = Place(account, str(group["AutoScalingGroupName"]))
        fields = {
            "ref": tags_of(group).get(TARGET_TAG, ""),
            "kind": KIND,
            "region": account.region,
            **({"profile": account.profile} if account.profile else {}),
            "name": place.name,
        }

        def check(place: Place = place, group: Described = group) -> None:
            refuse_described(place, group)
            refuse_scaled(api.call(), place)

        tables.append(proposal(fields, check))
    return "\n\n".join(tables)
