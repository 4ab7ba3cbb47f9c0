"""Proposes targets: sets that a tag names as `app/offer`."""

from pipeline.errors import UsageError
from pipeline.providers.azure.api import Api
from pipeline.providers.azure.checks import refuse_described, refuse_scaled
from pipeline.providers.azure.marks import TARGET, tag
from pipeline.providers.azure.resources import KIND, Described, Place, place_of
from pipeline.providers.targets import proposal


def discover(api: Api, resource_group: str) -> str:
    """A targets file of the sets of a subscription, or of a resource group of it, that have the tag TARGET; a comment
    says what hinders commands of one.

    Raises:
        UsageError: there is none.
        Retryable, Rejected: Azure does not tell.
    """
    tagged = [of for of in api.call().scale_sets(resource_group) if tag(of, TARGET)]
    if not tagged:
        raise UsageError(f"no {KIND} in {resource_group or api.account.subscription} has the tag {TARGET}")
    tables: list[str] = []
    for scale_set in sorted(tagged, key=lambda of: str(of["id"]).lower()):
        place = place_of(scale_set, api.account)
        fields = {
            "ref": tag(scale_set, TARGET),
            "kind": KIND,
            "subscription": place.account.subscription,
            "resource_group": place.resource_group,
            "name": place.name,
            **({"endpoint": place.account.endpoint} if place.account.endpoint else {}),
        }

        def check(place: Place = place, scale_set: Described = scale_set) -> None:
            refuse_described(place, scale_set)
            refuse_scaled(api.call(), place)

        tables.append(proposal(fields, check))
    return "\n\n".join(tables)
