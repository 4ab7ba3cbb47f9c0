"""Kinds of objects that can be commanded, or that tell what became of it, and where in an object their counts are."""

from dataclasses import dataclass
from typing import Any, Final

Object = dict[str, Any]
"""An object of the API as its JSON."""


@dataclass(frozen=True)
class Kind:
    """A kind of the API.

    Attributes:
        name: as in `kind`.
        group, version, plural: as in its path; the core group is empty.
        namespaced: whether its objects are in namespaces.
        count: field of `spec` that a command sets; empty where none does.
        default: count of an object that does not state it; None: such an object has none.
        least: smallest count that the API server takes.
        most: field of `spec`, by its path, that bounds the count; empty: nothing does.
        most_default: bound of an object that does not state it.
        scaled: whether it has the subresource `scale`.
    """

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    count: str = ""
    default: int | None = 1
    least: int = 0
    most: tuple[str, ...] = ()
    most_default: int | None = None
    scaled: bool = False

    @property
    def resource(self) -> str:
        """As permissions name it: `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """As in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version


HPA: Final = Kind(
    "HorizontalPodAutoscaler",
    "autoscaling",
    "v2",
    "horizontalpodautoscalers",
    count="minReplicas",
    least=1,
    most=("maxReplicas",),
)
SCALED_OBJECT: Final = Kind(
    "ScaledObject",
    "keda.sh",
    "v1alpha1",
    "scaledobjects",
    count="minReplicaCount",
    default=0,
    most=("maxReplicaCount",),
    most_default=100,
)
DEPLOYMENT: Final = Kind("Deployment", "apps", "v1", "deployments", count="replicas", scaled=True)
STATEFUL_SET: Final = Kind("StatefulSet", "apps", "v1", "statefulsets", count="replicas", scaled=True)
NODE_POOL: Final = Kind(
    "NodePool",
    "karpenter.sh",
    "v1",
    "nodepools",
    namespaced=False,
    count="replicas",
    default=None,
    most=("limits", "nodes"),
    scaled=True,
)
NODE: Final = Kind("Node", "", "v1", "nodes", namespaced=False)
POD: Final = Kind("Pod", "", "v1", "pods")
EVENT: Final = Kind("Event", "", "v1", "events")
ACCESS_REVIEW: Final = Kind(
    "SelfSubjectAccessReview", "authorization.k8s.io", "v1", "selfsubjectaccessreviews", namespaced=False
)

COMMANDED: Final = {kind.name: kind for kind in (HPA, SCALED_OBJECT, DEPLOYMENT, STATEFUL_SET, NODE_POOL)}
"""Kinds that a target may be, by name."""
AUTOSCALERS: Final = (HPA, SCALED_OBJECT)
"""Kinds whose count is a floor: their workload has at least so many."""
WORKLOADS: Final = {kind.name: kind for kind in (DEPLOYMENT, STATEFUL_SET)}
"""Kinds of pods that an autoscaler's target is followed to."""
NODE_POOL_LABEL: Final = "karpenter.sh/nodepool"


@dataclass(frozen=True)
class Place:
    """Where an object is, or with an empty name, where all of its kind are (in a namespace).

    context: of the kubeconfig, in a targets file alone: what talks to one cluster knows no other.
    """

    kind: Kind
    namespace: str = ""
    name: str = ""
    context: str = ""

    def path(self, subresource: str = "") -> str:
        """Path of its URL."""
        kind = self.kind
        root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        inside = f"/namespaces/{self.namespace}" if kind.namespaced else ""
        tail = "".join(f"/{part}" for part in (self.name, subresource) if part)
        return f"{root}{inside}/{kind.plural}{tail}"

    def __str__(self) -> str:
        place = f"{self.kind.name} {'/'.join(part for part in (self.namespace, self.name) if part)}"
        return f"{place} of context {self.context}" if self.context else place


@dataclass(frozen=True)
class Permission:
    """What a role must allow: a verb on a place, or on a subresource of it."""

    verb: str
    place: Place
    subresource: str = ""

    def __str__(self) -> str:
        kind = self.place.kind
        resource = f"{kind.plural}/{self.subresource}" if self.subresource else kind.plural
        group = f".{kind.group}" if kind.group else ""
        name = f' "{self.place.name}"' if self.place.name else ""
        where = f' in namespace "{self.place.namespace}"' if self.place.namespace else ""
        return f"{self.verb} {resource}{group}{name}{where}"


@dataclass(frozen=True)
class Resource:
    """A target of commands: `ref` is `app/offer`; by_scale: written through the subresource `scale` alone."""

    ref: str
    place: Place
    by_scale: bool = False

    @property
    def kind(self) -> Kind:
        """Of the object that commands change."""
        return self.place.kind


def count_of(kind: Kind, obj: Object) -> int | None:
    """The count that an object states; None: it has none, as a node pool that is not static."""
    count = obj.get("spec", {}).get(kind.count)
    return kind.default if count is None else int(count)


def most_of(kind: Kind, obj: Object) -> int | None:
    """The greatest count that an object allows; None: any."""
    value: Any = obj.get("spec", {})
    for name in kind.most:
        value = value.get(name) if isinstance(value, dict) else None
    if not kind.most or value is None:
        return kind.most_default
    return int(quantity(value))


_UNITS: Final = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
} | {
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
    "Ei": 2.0**60,
}


def quantity(value: object) -> float:
    """A quantity of the API (`100m`, `2Gi`, `1e3`, 4) as a number.

    Raises:
        ValueError: it is none.
    """
    text = str(value)
    number = text.rstrip("numkKMGTPEi")
    if number == text or text[len(number) :] not in _UNITS:
        return float(text)  # 1E3 too
    return float(number) * _UNITS[text[len(number) :]]
