"""Fleets of what is commanded: a lane a rival, each with settings of its own in every tick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.capacity import Offer, Policy
from models.evaluation.simulated_cloud import Terms
from models.learning.app_learner import ARMS, Observation, Setting, replicas_at
from models.learning.shadow_fleets import ShadowFleets
from models.purchase.table import Tiers

Need = tuple[int, int]
"""Replicas wanted, and soon, of `models.planning.sweep.SweepNeed`."""


class CommandedFleets(ShadowFleets):
    """Fleets of one app, a lane a rival; as `ShadowFleets`, but with the supply of the arm that is in force.

    Args:
        app, offers, policy, terms, tick_s, seed: of `ShadowFleets`.
        rivals: number of lanes.
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
        rivals: int,
    ) -> None:
        supply = [arm.supply for arm in ARMS.values()]
        super().__init__(app, offers, policy, terms, tick_s=tick_s, seed=seed, supply=supply)
        self.every = [table for table, _ in self.tables]
        self.held = np.zeros((len(self.held), rivals), np.int64)

    def use(self, known: dict[float, Tiers]) -> None:
        """As of `ShadowFleets`."""
        super().use(known)
        self.every = [table for table, _ in self.tables]

    def follow(self, now: Observation, settings: Sequence[Setting]) -> None:
        """Buy for every lane at a tick's end.

        Args:
            now: of the tick; its curves are bought from.
            settings: of every lane; without a price: static.
        """
        static = now.static or (0, 0)
        arms = list(ARMS.values())
        needs = [static if of.price is None else need_at(now, of.arm, of.price) for of in settings]
        shares = [None if of.price is None else arms[of.arm].supply for of in settings]
        confidence = np.array([self.policy.confidence if share is None else share for share in shares])
        self.tables = [
            (table, np.flatnonzero(confidence == table.confidence))
            for table in self.every
            if (confidence == table.confidence).any()
        ]
        wanted, soon = np.array(needs, np.int64).T
        self.decide(now.tick, wanted, soon)


def need_at(now: Observation, arm: int, price: float) -> Need:
    """Replicas at a price of a shortage, between those of the curve's prices."""
    at = float(np.log(price))
    return replicas_at(at, now.wanted[arm]), replicas_at(at, now.soon[arm])
