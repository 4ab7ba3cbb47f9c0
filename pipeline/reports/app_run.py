"""Outcome of a run per app and tick: demand, plan, ready capacity and cost."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AppRun:
    """One app over a run's ticks, in replicas (the unit in which capacity is bought).

    Attributes:
        app: name.
        tick_s: seconds of a tick.
        start_s: unix seconds at which the first tick starts.
        demand: (tick) replicas that the measured demand needed, not rounded; NaN = not measured.
        low, mean, high: (tick) 95 % interval and mean of the app's own forecast, made one tick before.
        required: (tick) replicas that the plan asked for, made the lead time before.
        ready: (tick) least number of replicas ready within the tick.
        reactive: (tick) the same for the reactive policy.
        counts: (tick) instances ready, by offer.
        tiers: tier by offer.
        cost, reactive_cost: (tick) spent within the tick, in `currency`.
        held: (tick) the plan held for want of telemetry.
        warm_up: ticks at the start that are not scored.
        plans_kept, plans_judged: plans after the warm-up that sufficed in every step of their window, of those whose
            window's demand is known.
    """

    app: str
    tick_s: int
    start_s: int
    demand: np.ndarray
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray
    required: np.ndarray
    ready: np.ndarray
    reactive: np.ndarray
    counts: dict[str, np.ndarray]
    tiers: dict[str, str]
    cost: np.ndarray
    reactive_cost: np.ndarray
    held: np.ndarray
    warm_up: int
    currency: str = "USD"
    plans_kept: int = 0
    plans_judged: int = 0

    @property
    def scored(self) -> np.ndarray:
        """(tick) bool: measured, and after the warm-up."""
        return ~np.isnan(self.demand) & (np.arange(len(self.demand)) >= self.warm_up)

    @property
    def missed(self) -> np.ndarray:
        """(tick) bool: ready capacity was below demand."""
        return self.scored & (self.ready < self.demand)

    @property
    def reactive_missed(self) -> np.ndarray:
        """(tick) bool: the reactive policy's was."""
        return self.scored & (self.reactive < self.demand)
