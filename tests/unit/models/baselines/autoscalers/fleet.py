"""A fleet of one app and one setting, stepped with plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.baselines.autoscalers.base import Array, Autoscaler, Facts

HOUR = 3_600
DAY = 86_400


def facts_of(load: Any, *, least: int = 1, most: int = 100, tick_s: int = 300, lead: int = 1) -> Facts:
    """Facts of (tick), (tick, app) or (tick, app, metric) loads, from the beginning of a day."""
    load = np.asarray(load, np.float64)
    load = load.reshape(*load.shape, *(1,) * (3 - load.ndim))
    apps = load.shape[1]
    return Facts(load, np.full(apps, least), np.full(apps, most), tick_s, lead)


class One:
    """One app at one setting; its loads become known as they are told."""

    def __init__(
        self, make: Callable[[Facts, Array], Autoscaler], setting: float, *, metrics: int = 1, **facts: Any
    ) -> None:
        self._load = np.full((64, 1, metrics), np.nan)
        self.policy, self.row = make(facts_of(self._load, **facts), np.array([setting])), 0

    def decide(self, load: float | Sequence[float], ready: int = 1) -> int:
        """Replicas wanted for the load of one tick, per metric."""
        self._load[self.row, 0] = load
        wanted = self.policy.decide(self.row, np.array([[ready]]))
        assert wanted.shape == (1, 1)
        self.row += 1
        return int(wanted[0, 0])
