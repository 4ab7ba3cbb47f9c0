"""The targets file: which object each `app/offer` of the commands is.

[[target]]
ref = "shop/pod"                      # app/offer as in prices and commands, or app/replicas on shared nodes
kind = "HorizontalPodAutoscaler"      # ScaledObject, Deployment, StatefulSet, NodePool
namespace = "shop"                    # not of a NodePool
name = "web"
through = "object"                    # or "scale": by the subresource alone
"""

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Final, cast

from pipeline.errors import UsageError
from pipeline.names import name_fault, offer_fault
from pipeline.providers.kubernetes.resources import COMMANDED, NODE_POOL, Place, Resource
from pipeline.wire.commands import REPLICAS

FIELDS: Final = ("ref", "kind", "namespace", "name", "through")
WAYS: Final = ("object", "scale")
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""Names of objects; those of namespaces have no dots."""


def read_targets(path: Path) -> list[Resource]:
    """The targets of a file.

    Raises:
        UsageError: it cannot be read, or has faults: names the first.
    """
    resources, faults = parse_targets(path)
    if faults:
        more = f" (and {len(faults) - 1} more: leadtime targets check)" if len(faults) > 1 else ""
        raise UsageError(f"{path}: {faults[0]}{more}")
    return resources


def parse_targets(path: Path) -> tuple[list[Resource], list[str]]:
    """The targets of a file that have no fault, and all faults, each as a line.

    Raises:
        UsageError: the file cannot be read, or is no TOML.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no TOML: {error}") from None
    rows = document.pop("target", [])
    faults = [f"{name}: there is only [[target]]" for name in document]
    if not isinstance(rows, list) or not rows:
        return [], [*faults, "no [[target]]"]
    resources: list[Resource] = []
    for number, row in enumerate(cast("list[Any]", rows), 1):
        if not isinstance(row, dict):
            faults.append(f"target {number}: must be a table")
            continue
        table = cast("dict[str, Any]", row)
        name = str(table.get("ref") or number)
        wrong = _faults(table)
        faults += [f"target {name}: {fault}" for fault in wrong]
        if not wrong:
            resources.append(_resource(table))
    return resources, [*faults, *_doubled(resources)]


def _resource(row: dict[str, Any]) -> Resource:
    place = Place(COMMANDED[row["kind"]], row.get("namespace", ""), row["name"])
    return Resource(row["ref"], place, row.get("through") == "scale")


def _faults(row: dict[str, Any]) -> list[str]:
    """What is wrong with a table [[target]]."""
    faults = [f"no field {name!r}: there are {', '.join(FIELDS)}" for name in row if name not in FIELDS]
    faults += [f"{name} is missing" for name in ("ref", "kind", "name") if name not in row]
    texts = [name for name in FIELDS if name in row and not isinstance(row[name], str)]
    faults += [f"{name} must be a text" for name in texts]
    return faults or [*_ref_faults(row["ref"]), *_place_faults(row)]


def _ref_faults(ref: str) -> list[str]:
    app, slash, offer = ref.rpartition("/")
    if not slash:
        return ["ref must be app/offer, as in commands"]
    wrong = [("app", name_fault(app)), ("offer", None if offer == REPLICAS else offer_fault(offer))]
    return [f"ref: the {what} {fault}" for what, fault in wrong if fault]


def _place_faults(row: dict[str, Any]) -> list[str]:
    kind = COMMANDED.get(row["kind"])
    if kind is None:
        return [f"no kind {row['kind']!r}: there are {', '.join(COMMANDED)}"]
    namespace, name, way = row.get("namespace", ""), row["name"], row.get("through", WAYS[0])
    rules = [
        (bool(NAME.fullmatch(name)), f"name {name!r} is no name of Kubernetes"),
        (kind.namespaced or not namespace, f"a {kind.name} has no namespace"),
        (not kind.namespaced or bool(namespace), "namespace is missing"),
        (
            not namespace or ("." not in namespace and bool(NAME.fullmatch(namespace))),
            f"namespace {namespace!r} is no name of Kubernetes",
        ),
        (way in WAYS, f"through {way!r}: there are {', '.join(WAYS)}"),
        (way != "scale" or kind.scaled, f"a {kind.name} has no count that its subresource scale sets"),
        (
            not row["ref"].endswith(f"/{REPLICAS}") or kind is not NODE_POOL,
            f"a {kind.name} has no replicas of an app",
        ),
    ]
    return [fault for good, fault in rules if not good]


def _doubled(resources: list[Resource]) -> list[str]:
    refs = Counter(resource.ref for resource in resources)
    places = Counter(resource.place for resource in resources)
    return [
        *(f"target {ref}: {n} targets have this ref" for ref, n in refs.items() if n > 1),
        *(f"{place}: {n} targets are this object" for place, n in places.items() if n > 1),
    ]
