"""Simulated fleets of one app on the demand that came: what each setting would have had ready, and have cost.

Demand does not react to capacity, so every setting can be judged in every tick, whichever is in force (an MDP with
exogenous inputs: Sinclair et al., "Hindsight learning for MDPs with exogenous inputs", ICML 2023). Lanes share the
random events of `models.evaluation.simulated_cloud`; they buy by one table of purchases, hold what was wanted within
the policy's hold time, and grow before they shrink, as plans do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy
from models.evaluation.simulated_cloud import Fleet, SimulatedCloud, Terms
from models.purchase.table import Tiers, grown_before_shrunk

Count = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]


class ShadowFleets:
    """Fleets of an app, a lane a setting.

    Args:
        app: its name, a key of the random events.
        offers: that can be bought.
        policy: of the app: hold time, drain time and the confidence of supply.
        terms: by offer, of the simulated cloud.
        tick_s: tick length.
        seed: of the random events.
        supply: (lane) confidence with which what is wanted is to be there; None: the policy's.
    """

    def __init__(
        self,
        app: str,
        offers: Sequence[Offer],
        policy: Policy,
        terms: Mapping[str, Terms],
        *,
        tick_s: int,
        seed: int,
        supply: Sequence[float | None],
    ) -> None:
        self.tick_s, self.policy = tick_s, policy
        self.cloud = SimulatedCloud(offers, terms, tick_s=tick_s, seed=seed, app=app)
        confidences = [policy.confidence if share is None else share for share in supply]
        self.tables = [
            (
                Tiers(offers, policy, tick_s=tick_s, seed=seed, confidence=share),
                np.flatnonzero(np.equal(confidences, share)),
            )
            for share in dict.fromkeys(confidences)
        ]
        """Table of purchases of each confidence of supply, and its lanes."""
        self.size = self.tables[0][0].size
        self.price = np.array([offer.price_h for offer in offers])
        self.held = np.zeros((max(1, -int(-policy.hold_s // tick_s)), len(supply)), np.int64)
        self.fleet: Fleet | None = None

    def use(self, known: dict[float, Tiers]) -> None:
        """Buy by these tables, of the same offers, policy, tick and seed, by confidence; what they lack is added."""
        self.tables = [(known.setdefault(table.confidence, table), lanes) for table, lanes in self.tables]

    def live(self, tick: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Take the fleets through a tick; (lane) replicas ready throughout it, and cost. Before `decide`: zeros."""
        if self.fleet is None:
            return np.zeros(self.held.shape[1]), np.zeros(self.held.shape[1])
        self.cloud.live(self.fleet, tick)
        ready = (self.fleet.least @ self.size).astype(np.float64)
        return ready, self.fleet.hours @ self.price

    def decide(self, tick: int, wanted: Count, soon: Count) -> None:
        """Buy at a tick's end; the first purchase is there at once.

        Args:
            tick: that ends.
            wanted: (lane) replicas over the promise's steps.
            soon: (lane) replicas until a purchase can serve: what is ready is not released below them.
        """
        self.held = np.concatenate([wanted[None], self.held[:-1]])
        most = self.held.max(axis=0)
        desired = np.zeros((len(most), len(self.size)), np.int64)
        for table, lanes in self.tables:
            desired[lanes] = table.counts(most[lanes])
        if self.fleet is None:
            self.fleet = self.cloud.start({}, len(wanted))
            self.fleet.ready = desired.copy()
        else:
            desired = grown_before_shrunk(desired, self.fleet.ready, self.size, soon)
        self.cloud.apply(self.fleet, desired, tick + 1, self.policy.drain_s)

    def blocks(self) -> Arrays:
        """For a snapshot."""
        fleet = {} if self.fleet is None else {f.name: getattr(self.fleet, f.name) for f in fields(Fleet)}
        return {"held": self.held, **fleet}

    def restore(self, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a snapshot."""
        self.held = blocks["held"].copy()
        if "ready" in blocks:
            self.fleet = Fleet(**{f.name: blocks[f.name].copy() for f in fields(Fleet)})
