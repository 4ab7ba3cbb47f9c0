"""A simulated cloud whose spot pools give what a recorded supply gave, at the prices of its time.

Of a spot offer whose pool the record has, in each tick at most so many instances can serve as the pool gave at least
within it:

    loss        ready instances above that end; successors are launched at once, as a group with a desired count does
    launch      what does not fit waits as a failed launch, costs nothing, and goes on when there is room
    outage      a provider that is out starts nothing, changes no count, and answers no command; what runs goes on

All else is as in `models.evaluation.simulated_cloud`, without interruptions drawn of such offers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer
from models.evaluation.simulated_cloud import Count, Fleet, Float, SimulatedCloud, Terms

UNLIMITED = 1_000_000


@dataclass(frozen=True)
class Supply:
    """What providers gave, tick by tick.

    Attributes:
        first_tick: of the arrays; a tick beyond their ends is taken modulo their length.
        room: by spot offer, (tick) instances that its pool gives at least within the tick.
        price: by offer, (tick) per hour; offers without one keep their own.
        out: by provider, (tick) whether it is out.
    """

    first_tick: int
    room: Mapping[str, NDArray[np.int64]]
    price: Mapping[str, NDArray[np.float64]]
    out: Mapping[str, NDArray[np.bool_]]

    def room_of(self, offer: str, tick: int) -> int:
        """Instances of an offer that its pool gives in a tick."""
        room = self.room.get(offer)
        return UNLIMITED if room is None else int(room[(tick - self.first_tick) % len(room)])

    def price_of(self, offer: Offer, tick: int) -> float:
        """An offer's price per hour in a tick."""
        price = self.price.get(offer.offer_id)
        return offer.price_h if price is None else float(price[(tick - self.first_tick) % len(price)])

    def is_out(self, provider: str, tick: int) -> bool:
        """Whether a provider is out in a tick."""
        out = self.out.get(provider)
        return (
            out is not None and 0 <= tick - self.first_tick < len(out) and bool(out[tick - self.first_tick])
        )


class SuppliedCloud(SimulatedCloud):
    """The simulated cloud of one app on a recorded supply."""

    def __init__(
        self,
        offers: Sequence[Offer],
        terms: Mapping[str, Terms],
        supply: Supply,
        *,
        tick_s: int,
        seed: int,
        app: str,
    ) -> None:
        recorded = [replace(o, interruption_h=0.0) if o.offer_id in supply.room else o for o in offers]
        super().__init__(recorded, terms, tick_s=tick_s, seed=seed, app=app)
        self.supply = supply

    def apply(self, fleet: Fleet, desired: Count, tick: int, drain_s: Float | float = 0.0) -> None:
        """As `SimulatedCloud.apply`; counts of a provider that is out stay as they are."""
        out = np.array([self.supply.is_out(offer.provider, tick) for offer in self.offers], dtype=bool)
        super().apply(fleet, np.where(out, fleet.running, desired), tick, drain_s)

    def live(self, fleet: Fleet, tick: int) -> None:
        """As `SimulatedCloud.live`, within what the pools give."""
        lost = np.zeros_like(fleet.ready)
        waits = np.zeros_like(fleet.pending)
        for o, offer in enumerate(self.offers):
            out = self.supply.is_out(offer.provider, tick)
            room = self.supply.room_of(offer.offer_id, tick)
            if room >= UNLIMITED and not out:
                continue
            lost[:, o] = np.maximum(fleet.ready[:, o] - room, 0)
            fleet.ready[:, o] -= lost[:, o]
            if lost[:, o].any():
                successors = np.zeros_like(lost)
                successors[:, o] = lost[:, o]
                self._launched(fleet, successors, tick, 0.0, "successor")
            left = np.zeros(len(lost), np.int64) if out else np.maximum(room - fleet.ready[:, o], 0)
            before = np.cumsum(fleet.pending[:, o], axis=-1)
            fits = np.minimum(before, left[:, None])
            starting = np.diff(fits, axis=-1, prepend=0)
            waits[:, o] = fleet.pending[:, o] - starting
            fleet.pending[:, o] = starting
        fleet.owed_s = fleet.owed_s + lost * float(self.tick_s)
        super().live(fleet, tick)
        fleet.pending = fleet.pending + waits
        fleet.failed = fleet.failed + waits.sum(axis=-1)
        fleet.interrupted = fleet.interrupted + lost
