"""SkyServe's policy for spot and on-demand replicas, SpotHedge, for a number of replicas that others decide.

As in "SkyServe: Serving AI Models across Regions and Clouds with Spot Instances" (arXiv 2411.01438, section 3) and
SkyPilot's documentation ("Spot Hedge"):

    placement        zones are active, or preempting once a replica in them was preempted or could not be launched;
                     a zone in which a replica becomes ready is active again. With fewer than two active zones all are
                     active (rebalancing). A replica is launched in the active zone with the fewest, then the cheapest.
    overprovision    N_target + N_extra spot replicas are kept.
    fallback         O = min(N_target, N_target + N_extra − S_ready) replicas on demand, S_ready of them on spot.

A replica that could not be launched is given up and launched in another zone. On-demand replicas are of the cheapest
offer. N_extra is 1 in SkyPilot (`_DEFAULT_OVER_PROVISION_NUM`) and swept here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer

Count = NDArray[np.int64]


class SpotHedge:
    """One service in several lanes.

    Args:
        offers: a spot offer is a zone; the on-demand offers.
        extra: (lane) spot replicas beyond the target.
    """

    def __init__(self, offers: Sequence[Offer], extra: Sequence[int]) -> None:
        self.extra = list(extra)
        self.spot = [o for o, offer in enumerate(offers) if offer.tier == "SPOT"]
        self.on_demand = [o for o, offer in enumerate(offers) if offer.tier == "ON_DEMAND"]
        self.active = [set(self.spot) for _ in extra]

    def decide(
        self,
        target: Count,
        ready: Count,
        pending: Count,
        stopped: NDArray[np.bool_],
        price: NDArray[np.float64],
    ) -> Count:
        """Desired replicas (lane, offer).

        Args:
            target: (lane) replicas that are wanted.
            ready, pending: (lane, offer) of which those that fail to launch are no part.
            stopped: (lane, offer) whether replicas were preempted or could not be launched.
            price: (offer) now.
        """
        desired = np.zeros_like(ready)
        for lane, extra in enumerate(self.extra):
            active = self.active[lane]
            active.update(o for o in self.spot if ready[lane, o] and not stopped[lane, o])
            active.difference_update(o for o in self.spot if stopped[lane, o])
            if len(active) < 2:
                active.update(self.spot)
            counts = ready[lane] + pending[lane]
            wanted = int(target[lane]) + extra
            have = int(counts[self.spot].sum())
            for _ in range(have, wanted):
                counts[min(active, key=lambda o: (counts[o], price[o], o))] += 1
            for _ in range(wanted, have):
                counts[max(self.spot, key=lambda o: (counts[o], price[o], o))] -= 1
            fallback = min(int(target[lane]), max(0, wanted - int(ready[lane, self.spot].sum())))
            counts[self.on_demand] = 0
            counts[min(self.on_demand, key=lambda o: (price[o], o))] = fallback
            desired[lane] = counts
        return desired
