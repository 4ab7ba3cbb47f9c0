"""Proposes targets: groups whose description names them as `app/offer`."""

from pipeline.errors import UsageError
from pipeline.providers.gcp.api import Api
from pipeline.providers.gcp.checks import refuse_described, refuse_scaled
from pipeline.providers.gcp.marks import TARGET
from pipeline.providers.gcp.resources import KIND, Described, Location, Place
from pipeline.providers.targets import proposal


def discover(api: Api, project: str) -> str:
    """A targets file of the groups of a project whose description has `[leadtime.dev/target app/offer]`; a comment says
    what hinders commands of one.

    Raises:
        UsageError: there is none.
        Retryable, Rejected: GCP does not tell.
    """
    groups = [group for group in api.call().everywhere(project) if _ref(group)]
    if not groups:
        raise UsageError(
            f"no managed instance group of {project} has [leadtime.dev/target app/offer] in its description"
        )
    tables: list[str] = []
    for group in sorted(groups, key=lambda group: str(group.get("selfLink") or group["name"])):
        place = _place(project, api.endpoint, group)
        at = place.location
        fields = {
            "ref": _ref(group),
            "kind": KIND,
            "project": project,
            **({"zone": at.zone} if at.zone else {"region": at.region}),
            "name": place.name,
            **({"endpoint": api.endpoint} if api.endpoint else {}),
        }

        def check(place: Place = place, group: Described = group) -> None:
            refuse_described(place, group)
            refuse_scaled(api.call(), place, group)

        tables.append(proposal(fields, check))
    return "\n\n".join(tables)


def _ref(group: Described) -> str:
    named = TARGET.search(str(group.get("description") or ""))
    return named[1] if named else ""


def _place(project: str, endpoint: str, group: Described) -> Place:
    zone, region = (str(group.get(of) or "").rpartition("/")[2] for of in ("zone", "region"))
    return Place(Location(project, zone, "" if zone else region, endpoint), str(group["name"]))
