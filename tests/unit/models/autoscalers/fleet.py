"""A fleet of one app at one headroom, stepped with plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.autoscalers import Autoscaler, Fleet


def fleet(*, apps: int = 1, least: int = 1, most: int = 100, tick_s: int = 15, lead_ticks: int = 1) -> Fleet:
    return Fleet(np.full(apps, least), np.full(apps, most), tick_s, lead_ticks)


class One:
    """One app at one headroom; a tick after the other."""

    def __init__(self, policy: Autoscaler, tick: int = 0) -> None:
        self.policy, self.tick = policy, tick

    def decide(self, load: float | Sequence[float], ready: int = 1) -> int:
        """Replicas wanted for the load of one tick, per metric."""
        values = np.array(load, np.float64, ndmin=1)[None]
        wanted = self.policy.decide(self.tick, values, np.array([[ready]]))
        assert wanted.shape == (1, 1)
        self.tick += 1
        return int(wanted[0, 0])
