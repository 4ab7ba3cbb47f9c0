"""Simulated provisioning of one app under many policies at once: start-up, failed launches, lost spot, the bill.

A lane is one policy's fleet. All lanes share the random events: the fate of the j-th instance of an offer launched in a
tick, and of the j-th that serves in it, is drawn from the key (seed, app, offer, tick) alone.

    launch      ready after a lognormal start-up time through the offer's median and 99 % (as the local provider's);
                with its `launch_failure` probability it fails then instead, and is tried again RETRY_S later
    loss        spot instances of a pool are lost in waves: in each tick each survives with probability p, one draw
                for the pool, p ~ Beta of mean exp(-interruptions × tick) and correlation POOL_CORRELATION, as the
                allocator takes it for its window (`models.purchase.market`); at a moment common to the pool
    notice      a lost instance serves no longer when its loss is announced; its successor is launched at that moment
    release     pending instances are released before ready ones; ready instances are interchangeable
    bill        from the launch request to the end of notice or drain, at least `billing_min_s`; reserved instances
                whether used or not

Ready capacity of a tick is the least within it: what is ready at its start, less what is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models.capacity import Offer
from models.purchase.market import POOL_CORRELATION, pool_of
from models.random_streams import stream

RETRY_S: Final = 60.0  # after a launch that failed, as the local provider's default
ATTEMPTS: Final = 6  # at 5 % failures the seventh is tried once in 1.6e9 launches (0.05⁷ = 8e-10)
Z99: Final = 2.3263478740408408  # standard-normal 99 % quantile
LATEST: Final = (
    64  # ticks: an instance that takes longer to start never serves (1 h at ticks of 1 min, 5 h at 5 min)
)

Count = NDArray[np.int64]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """Terms of an offer that `Offer` lacks: seconds of notice before a loss, and least time billed."""

    notice_s: float = 0.0
    billing_min_s: float = 0.0


@dataclass
class Fleet:
    """One app's instances in every lane, (lane, offer).

    ready, pending: at the end of the last tick; pending (lane, offer, tick): by the ticks until they are ready
    failed, interrupted: numbers in these states at the end of the last tick
    least: least number ready within the last tick; hours: instance-hours billed for it
    young: (lane, offer, age in ticks) instances that run and are younger than the least time billed
    coming: number that will be failed at the end of the tick that begins
    owed_s: instance-seconds to be billed beside running instances: drains, and rests of least times billed
    """

    ready: Count
    pending: Count
    failed: Count
    interrupted: Count
    least: Count
    hours: Float
    young: Count
    owed_s: Float
    coming: Count

    @property
    def running(self) -> Count:
        """Instances that serve or will, (lane, offer)."""
        return self.ready + self.pending.sum(axis=-1)


class SimulatedCloud:
    """The simulated cloud of one app."""

    def __init__(
        self, offers: Sequence[Offer], terms: Mapping[str, Terms], *, tick_s: int, seed: int, app: str
    ) -> None:
        self.offers, self.tick_s, self.seed, self.app = tuple(offers), tick_s, seed, app
        self.terms = [terms.get(offer.offer_id, Terms()) for offer in offers]
        self.reserved = np.array([offer.tier == "RESERVED" for offer in offers], dtype=bool)
        self.owned = np.array([offer.owned_count for offer in offers], dtype=np.int64)
        ages = [math.ceil(term.billing_min_s / tick_s) for term in self.terms]
        self._ages = max(1, *ages) if ages else 1

    def start(self, counts: Mapping[str, int], lanes: int) -> Fleet:
        """A fleet of `lanes` lanes, each with these ready instances by offer."""
        shape = (lanes, len(self.offers))
        ready = np.tile([counts.get(offer.offer_id, 0) for offer in self.offers], (lanes, 1)).astype(np.int64)
        return Fleet(
            ready=ready.reshape(shape),
            pending=np.zeros((*shape, LATEST), np.int64),
            failed=np.zeros(shape, np.int64),
            interrupted=np.zeros(shape, np.int64),
            least=ready.reshape(shape).copy(),
            hours=np.zeros(shape),
            young=np.zeros((*shape, self._ages), np.int64),
            owed_s=np.zeros(shape),
            coming=np.zeros(shape, np.int64),
        )

    def apply(self, fleet: Fleet, desired: Count, tick: int, drain_s: Float | float = 0.0) -> None:
        """Launch or release instances at the start of a tick to `desired` (lane, offer); reserved ones at most owned.

        drain_s: seconds for which a released ready instance is still billed.
        """
        desired = np.where(self.reserved, np.minimum(desired, self.owned), desired)
        change = desired - fleet.running
        fleet.young = np.concatenate([np.maximum(change, 0)[..., None], fleet.young[..., :-1]], axis=-1)
        least_s = np.array([term.billing_min_s for term in self.terms])
        fleet.owed_s = np.zeros(change.shape)
        excess = np.maximum(-change, 0)
        if excess.any():
            left = excess.copy()
            for age in range(1, self._ages):  # newest first; billed for the rest of the least time
                gone = np.minimum(left, fleet.young[..., age])
                fleet.young[..., age] -= gone
                left -= gone
                fleet.owed_s += gone * np.maximum(0.0, least_s - age * self.tick_s)
            for wait in np.flatnonzero(fleet.pending.any(axis=(0, 1)))[::-1]:  # the last to be ready first
                gone = np.minimum(excess, fleet.pending[..., wait])
                fleet.pending[..., wait] -= gone
                excess -= gone
            fleet.ready -= excess
            fleet.owed_s += excess * drain_s
        self._launched(fleet, np.maximum(change, 0), tick, 0.0)

    def live(self, fleet: Fleet, tick: int) -> None:
        """Advance the fleet by a tick: losses and their successors, start-ups, failed launches and the bill."""
        length, running = self.tick_s, fleet.running
        seconds = running * float(length) + fleet.owed_s
        fleet.least = fleet.ready.copy()
        fleet.interrupted = np.zeros_like(fleet.ready)
        lost = np.zeros_like(fleet.ready)
        for o, (offer, term) in enumerate(zip(self.offers, self.terms, strict=True)):
            survival, moment = self._wave(offer, tick)
            most = int(fleet.ready[:, o].max(initial=0))
            if survival >= 1 or not most:
                continue
            taken = stream(np, self.seed, self.app, offer.offer_id, tick, "loss").random(most) > survival
            lost[:, o] = np.concatenate([[0], np.cumsum(taken)])[fleet.ready[:, o]]
            rest_s = (1 - moment) * length
            fleet.interrupted[:, o] = lost[:, o] if term.notice_s > rest_s else 0
            # the lost instance is billed to the end of its notice, its successor from the loss on
            seconds[:, o] += lost[:, o] * term.notice_s
            if lost[:, o].any():
                successors = np.zeros_like(lost)
                successors[:, o] = lost[:, o]
                self._launched(fleet, successors, tick, moment, "successor")
        fleet.least -= lost
        fleet.ready += fleet.pending[..., 0] - lost
        fleet.pending = np.concatenate(
            [fleet.pending[..., 1:], np.zeros_like(fleet.pending[..., :1])], axis=-1
        )
        fleet.failed = np.minimum(fleet.coming, fleet.pending.sum(axis=-1))
        fleet.coming = np.zeros_like(fleet.failed)
        fleet.hours = np.where(self.reserved, self.owned * float(length), seconds) / 3600

    def _launched(self, fleet: Fleet, counts: Count, tick: int, moment: float, use: str = "launch") -> None:
        """Add pending instances, (lane, offer), requested at `moment`, a share (0 to 1) of the tick."""
        for o, offer in enumerate(self.offers):
            most = int(counts[:, o].max(initial=0))
            if not most:
                continue
            # a row per instance: the first instances of a large launch have the draws of a smaller launch
            draw = stream(np, self.seed, self.app, offer.offer_id, tick, use).random((most, 2, ATTEMPTS))
            normal, luck = ndtri(draw[:, 0]).T, draw[:, 1].T
            median = max(offer.startup_p50_s, 1e-3)
            spread = math.log(max(offer.startup_p99_s, median) / median) / Z99
            takes = median * np.exp(spread * normal)
            fails = luck < offer.launch_failure
            # ready after all attempts up to the first that does not fail
            before = np.cumsum(takes + RETRY_S, axis=0) - (takes + RETRY_S)
            first = np.argmin(fails, axis=0)
            at = np.arange(most)
            ready_s = moment * self.tick_s + before[first, at] + takes[first, at]
            ready_s[fails.all(axis=0)] = np.inf
            wait = np.minimum(np.ceil(ready_s / self.tick_s) - 1, LATEST - 1).astype(np.int64)
            wait = np.maximum(wait, 0)
            ends = moment * self.tick_s + takes[0]
            again = fails[0] & (ends <= self.tick_s) & (ends + RETRY_S > self.tick_s)
            table = np.zeros((most + 1, LATEST), np.int64)
            table[at + 1, wait] = 1
            fleet.pending[:, o] += np.cumsum(table, axis=0)[counts[:, o]]
            fleet.coming[:, o] += np.concatenate([[0], np.cumsum(again)])[counts[:, o]]

    def _wave(self, offer: Offer, tick: int) -> tuple[float, float]:
        """Survival probability of a pool's instances in a tick, and the moment of losses as a share of the tick."""
        if offer.tier != "SPOT" or offer.interruption_h <= 0:
            return 1.0, 0.0
        rate = max(o.interruption_h for o in self.offers if pool_of(o) == pool_of(offer))
        mean, strength = math.exp(-rate * self.tick_s / 3600), 1 / POOL_CORRELATION - 1
        draw = stream(np, self.seed, "pool", pool_of(offer), tick)
        moment = float(draw.random())
        return float(draw.beta(mean * strength, (1 - mean) * strength)), moment
