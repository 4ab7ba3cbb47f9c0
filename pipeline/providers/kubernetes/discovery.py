"""Proposes targets: objects whose label names the app that they scale."""

from typing import Final

from pipeline.errors import UsageError
from pipeline.providers.kubernetes.api import Api, Call, NotFound
from pipeline.providers.kubernetes.checks import refuse_hindered
from pipeline.providers.kubernetes.marks import PREFIX
from pipeline.providers.kubernetes.resources import DEPLOYMENT, HPA, SCALED_OBJECT, Kind, Object, Place
from pipeline.providers.targets import proposal

APP_LABEL: Final = f"{PREFIX}app"
"""Label whose value is the app of an object."""
OFFER_LABEL: Final = f"{PREFIX}offer"
POD: Final = "pod"
"""Offer of an object without OFFER_LABEL."""


def discover(api: Api, namespace: str, context: str = "") -> str:
    """A targets file of the autoscalers and Deployments of a namespace that have the label APP_LABEL; a comment says
    what hinders commands of one. context: of the cluster, for the file.

    Raises:
        UsageError: there is none.
        Retryable, Rejected: the cluster does not tell.
    """
    proposals = [
        _proposed(api, Place(kind, namespace, str(obj["metadata"]["name"])), obj, context)
        for kind in (HPA, SCALED_OBJECT, DEPLOYMENT)
        for obj in _labelled(api.call(), kind, namespace)
        if not _is_of_keda(obj)
    ]
    if not proposals:
        raise UsageError(f"no autoscaler or Deployment in namespace {namespace} has the label {APP_LABEL}")
    return "\n\n".join(proposals)


def _labelled(call: Call, kind: Kind, namespace: str) -> list[Object]:
    try:
        return call.list(Place(kind, namespace), selector=APP_LABEL)[0]
    except NotFound:  # a cluster without KEDA
        return []


def _is_of_keda(obj: Object) -> bool:
    """Whether it is the autoscaler that KEDA made of a ScaledObject, with its labels."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return any(owner.get("kind") == SCALED_OBJECT.name for owner in owners)


def _proposed(api: Api, place: Place, obj: Object, context: str) -> str:
    labels = obj["metadata"]["labels"]
    fields = {
        "ref": f"{labels[APP_LABEL]}/{labels.get(OFFER_LABEL, POD)}",
        "kind": place.kind.name,
        "namespace": place.namespace,
        "name": place.name,
        **({"context": context} if context else {}),
    }
    return proposal(fields, lambda: refuse_hindered(api.call(), place, obj))
