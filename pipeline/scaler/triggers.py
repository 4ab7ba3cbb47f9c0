"""Metadata of a trigger `external-push`, as KEDA passes it on: whose replicas, and how old a plan may be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.errors import UsageError
from pipeline.names import name_fault, offer_fault
from pipeline.wire.commands import REPLICAS

OF_KEDA: Final = frozenset({"scalerAddress", "enableTLS", "unsafeSsl", "tlsCertFile"})
"""What KEDA itself reads of the metadata, and passes on."""
OURS: Final = ("app", "offer", "maxAgeSeconds")
MOST_AGE_S: Final = 7200.0
"""Longest `maxAgeSeconds`, twice the longest tick; also how far back plans are read when the service starts."""


@dataclass(frozen=True)
class Trigger:
    """Whose replicas.

    Attributes:
        app, offer: of the plan; the offer `replicas` is an app's on shared nodes.
        max_age_s: oldest plan that answers, seconds; None: as long as a plan's commands are valid.
    """

    app: str
    offer: str
    max_age_s: float | None = None


def trigger_of(metadata: Mapping[str, str]) -> Trigger:
    """A trigger by its metadata.

    Raises:
        UsageError: a field is missing, unknown or not allowed; one line that names it.
    """
    unknown = sorted(set(metadata) - OF_KEDA - set(OURS))
    if unknown:
        raise UsageError(f"metadata {unknown[0][:80]!r}: not known, there are {', '.join(OURS)}")
    app, offer, age = (metadata.get(name, "") for name in OURS)
    faults = {"app": name_fault(app), "offer": None if offer == REPLICAS else offer_fault(offer)}
    for field, fault in faults.items():
        if fault:
            raise UsageError(f"metadata {field} {fault}")
    return Trigger(app, offer, _age(age) if age else None)


def _age(text: str) -> float:
    try:
        age_s = float(text)
    except ValueError:
        age_s = math.nan
    if not 1.0 <= age_s <= MOST_AGE_S:
        raise UsageError(f"metadata maxAgeSeconds must be from 1 to {MOST_AGE_S:g}, got {text[:80]!r}")
    return age_s
