"""Bounds of a purchase (maximum, budget, quotas, shares) as rows of a linear system over the counts per offer."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy, committed, quotas
from models.purchase.market import Market

Counts = NDArray[np.int64]
# Relative to a row's largest coefficient: sums of some hundred float64 products err by 1e-13.
TOLERANCE: Final = 1e-9
UNLIMITED: Final = 1_000_000  # instances of an offer, where nothing else bounds it


@dataclass(frozen=True)
class Bounds:
    """rows @ counts ≤ most, 0 ≤ counts ≤ upper.

    rows: (row, offer), each divided by its largest coefficient; most: (row); upper: (offer), instances; names: by row
    """

    rows: NDArray[np.float64]
    most: NDArray[np.float64]
    names: tuple[str, ...]
    upper: Counts

    def excess(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """By how much counts (..., offer) exceed the rows, summed, (...); 0 = within."""
        over = counts @ self.rows.T - self.most
        return np.where(over > TOLERANCE, over, 0.0).sum(axis=-1)

    def least(self, counts: NDArray[Any], offer: int) -> Counts:
        """The least count of an offer, (...), given the counts (..., offer) of the others: by the rows that demand more
        of it, as the on-demand share does.
        """
        asking = np.flatnonzero(self.rows[:, offer] < 0)
        others = np.where(np.arange(counts.shape[-1]) == offer, 0, counts) @ self.rows[asking].T
        lacking = (others - self.most[asking] - TOLERANCE) / -self.rows[asking, offer]
        return np.maximum(np.ceil(lacking).max(axis=-1, initial=0), 0).astype(np.int64)

    def without(self, *names: str) -> Bounds:
        """The same without the rows of these names."""
        kept = [i for i, name in enumerate(self.names) if name not in names]
        return Bounds(self.rows[kept], self.most[kept], tuple(self.names[i] for i in kept), self.upper)


def bounds(market: Market, offers: Sequence[Offer], policy: Policy, excluded: Container[str] = ()) -> Bounds:
    """The bounds of these offers' counts; excluded: ids of offers of which no more may be bought than run.

    A quota is in instances, the least limit that an offer of its group names. A zone share below 1 / (number of zones)
    is raised to it, as no purchase could keep it; zones of one name in two regions are two zones.
    """
    size = np.array([market.size[o.offer_id] for o in offers], dtype=float)
    spot = np.array([o.tier == "SPOT" for o in offers], dtype=bool)
    price = np.array([0.0 if o.tier == "RESERVED" else o.price_h for o in offers])
    rows, most, names = [size], [float(policy.limit)], ["maximum"]
    if policy.budget is not None:
        rows.append(price)
        most.append(max(0.0, policy.budget - committed(market.offers)))
        names.append("budget")
    for group, (ids, limit) in quotas(offers).items():
        rows.append(np.array([float(o.offer_id in ids) for o in offers]))
        most.append(float(limit))
        names.append(f"quota {group}")
    if policy.min_on_demand > 0 and spot.any():
        # stable ≥ share (stable + spot)
        rows.append(size * np.where(spot, policy.min_on_demand, policy.min_on_demand - 1))
        most.append(0.0)
        names.append("on-demand share")
    share = zone_share(market.offers, policy)
    if share is not None:
        for zone in sorted({zone_of(o) for o in offers}):
            rows.append(size * np.array([float(zone_of(o) == zone) - share for o in offers]))
            most.append(0.0)
            names.append("zone share")
    matrix = np.stack(rows)
    largest = np.abs(matrix).max(axis=1, initial=0.0)
    largest[largest == 0] = 1.0
    upper = [
        min(
            o.owned_count if o.tier == "RESERVED" else UNLIMITED,
            market.running[o.offer_id] if o.offer_id in excluded else UNLIMITED,
        )
        for o in offers
    ]
    return Bounds(
        matrix / largest[:, None],
        np.array(most) / largest,
        tuple(names),
        np.array(upper, dtype=np.int64),
    )


def zone_share(offers: Sequence[Offer], policy: Policy) -> float | None:
    """Share of the replicas that one zone may carry; None where the policy sets none, or the offers have one zone."""
    zones = len({zone_of(o) for o in offers})
    if policy.zone_share is None or policy.zone_share >= 1 or zones < 2:
        return None
    return max(policy.zone_share, 1 / zones)


def zone_of(offer: Offer) -> tuple[str, str, str]:
    """Provider, region and zone of an offer: names of zones are unique within a region only."""
    return offer.provider, offer.region, offer.zone


def zone_note(offers: Sequence[Offer], policy: Policy) -> str:
    """Why the policy's zone share cannot be met by any purchase; empty where it can."""
    zones = len({zone_of(o) for o in offers})
    if (
        policy.zone_share is None
        or policy.zone_share >= 1
        or math.floor(policy.zone_share * zones + TOLERANCE)
    ):
        return ""
    return f"a zone share of {policy.zone_share:.4g} cannot be met with {zones} zone{'s' * (zones != 1)}"
