"""What would hinder commands: permissions that are missing, objects that are not there or not ours to set."""

from collections.abc import Iterable
from typing import Final

from pipeline.errors import Rejected
from pipeline.providers.kubernetes.api import Api, Call
from pipeline.providers.kubernetes.marks import MANAGER, pause_of, state_of, stated_count
from pipeline.providers.kubernetes.observation import watched_for, workload_of
from pipeline.providers.kubernetes.resources import (
    ACCESS_REVIEW,
    AUTOSCALERS,
    EVENT,
    HPA,
    POD,
    SCALED_OBJECT,
    WORKLOADS,
    Object,
    Permission,
    Place,
    Resource,
)

FOLLOWED: Final = ("list", "watch")


def refuse_hindered(call: Call, place: Place, obj: Object) -> None:
    """Refuse an object whose count is not ours to set.

    Raises:
        Rejected: it is paused, or an autoscaler of it would fight.
        Retryable: that cannot be told.
    """
    if (pause := pause_of(obj)) is not None:
        raise Rejected(f"{place} is paused ({pause})")
    if place.kind is HPA:
        owners = obj["metadata"].get("ownerReferences") or ()
        owner = next((o["name"] for o in owners if o.get("kind") == SCALED_OBJECT.name), None)
        if owner is not None:
            raise Rejected(f"KEDA sets {place}: make {SCALED_OBJECT.name} {owner} the target")
    if place.kind in AUTOSCALERS:
        workload_of(place, obj)
    if place.kind.name in WORKLOADS:
        _refuse_autoscaled(call, place)


def _refuse_autoscaled(call: Call, place: Place) -> None:
    autoscalers, _ = call.list(Place(HPA, place.namespace))
    for autoscaler in autoscalers:
        ref = autoscaler.get("spec", {}).get("scaleTargetRef", {})
        if (ref.get("kind"), ref.get("name")) == (place.kind.name, place.name):
            name = autoscaler["metadata"]["name"]
            raise Rejected(
                f"{HPA.name} {name} sets {place}: make it, or its {SCALED_OBJECT.name}, the target"
            )


def permissions(resource: Resource) -> list[Permission]:
    """What commands and observations of a target need."""
    place = resource.place
    needed = [Permission("get", place), Permission("patch", place, "scale" if resource.by_scale else "")]
    needed += [Permission(verb, watched) for watched, _ in watched_for([resource]) for verb in FOLLOWED]
    if place.kind.name in WORKLOADS:
        needed.append(Permission("list", Place(HPA, place.namespace)))
    if place.kind in AUTOSCALERS or place.kind.name in WORKLOADS:
        needed.append(Permission("list", Place(POD, place.namespace)))
    needed.append(Permission("create", Place(EVENT, place.namespace or "default")))
    return needed


def live_faults(api: Api, resources: Iterable[Resource]) -> list[str]:
    """What hinders targets, as the API server tells now, each as a line; nothing is changed.

    Raises:
        Retryable: the API server does not answer.
    """
    faults: list[str] = []
    for resource in resources:
        call = api.call()
        missing = [permission for permission in permissions(resource) if not _allowed(call, permission)]
        faults += [f"target {resource.ref}: a role must allow: {permission}" for permission in missing]
        if not any(permission.place == resource.place for permission in missing):
            fault = _fault(call, resource)
            faults += [f"target {resource.ref}: {fault}"] if fault else []
    return faults


def _allowed(call: Call, permission: Permission) -> bool:
    place = permission.place
    attributes = {
        "verb": permission.verb,
        "group": place.kind.group,
        "resource": place.kind.plural,
        "subresource": permission.subresource,
        "namespace": place.namespace,
        "name": place.name,
    }
    review = call.create(Place(ACCESS_REVIEW), {"spec": {"resourceAttributes": attributes}})
    return bool(review.get("status", {}).get("allowed"))


def _fault(call: Call, resource: Resource) -> str | None:
    """What hinders a target that may be read and written; a patch that changes nothing is tried last."""
    try:
        obj = call.get(resource.place)
        count = stated_count(resource, state_of(resource, obj))
        refuse_hindered(call, resource.place, obj)
        body = {"spec": {resource.kind.count: count}}
        subresource = "scale" if resource.by_scale else ""
        call.patch(resource.place, body, manager=MANAGER, subresource=subresource, dry_run=True)
    except Rejected as error:
        return str(error)
    return None
