"""Reactive autoscaling, as a rival: the Kubernetes HorizontalPodAutoscaler at its defaults.

Source: kubernetes.io, "Horizontal Pod Autoscaling", sections "Algorithm details" and "Default behavior".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HpaSettings:
    """Kubernetes' defaults; the target and the bounds have none there.

    unit: what one replica has, per metric; target_utilisation: of it, wanted on average
    tolerance: of the ratio to the target, within which nothing changes (--horizontal-pod-autoscaler-tolerance)
    stabilisation_s: a scale-down takes the largest recommendation of this time (stabilizationWindowSeconds)
    up_pods, up_share: growth in up_period_s is bounded by the larger of the two (selectPolicy Max)
    Scaling down is not bounded (100 % in 15 s).
    """

    unit: Mapping[str, float]
    min: int = 1
    max: int = 1000
    target_utilisation: float = 0.8
    tolerance: float = 0.1
    stabilisation_s: float = 300.0
    up_pods: int = 4
    up_share: float = 1.0
    up_period_s: float = 15.0


class HorizontalPodAutoscaler:
    """The controller of one scaled target; `decide` is one synchronisation.

    A tick may be longer than the 15 s between synchronisations: the bound on growth is applied once for each period
    since the last decision, as if usage had been the same all along.
    """

    def __init__(self, settings: HpaSettings) -> None:
        self.settings = settings
        self._recommended: list[tuple[float, int]] = []
        self._asked: int | None = None
        self._decided_s = -math.inf

    def decide(self, usage: Mapping[str, float], ready_replicas: int, now_s: float) -> int:
        """Replicas desired, for the usage of all replicas together per metric; NaN or absent = not measured.

        Per metric ceil(ready × average usage / target), the largest over metrics. While a metric is missing, or no
        replica is ready, the others can only raise the number.
        """
        s = self.settings
        current = ready_replicas if self._asked is None else self._asked
        proposals = [
            self._proposed(usage.get(m, math.nan), s.unit[m], ready_replicas, current) for m in s.unit
        ]
        known = [p for p in proposals if p is not None]
        proposal = max(known, default=current)
        if len(known) < len(proposals):
            proposal = max(proposal, current)

        self._recommended = [(t, r) for t, r in self._recommended if now_s - t < s.stabilisation_s]
        self._recommended.append((now_s, proposal))
        stable = max(proposal, min(current, max(r for _, r in self._recommended)))

        elapsed_s = now_s - self._decided_s
        periods = max(1, int(elapsed_s // s.up_period_s)) if math.isfinite(elapsed_s) else 1
        self._decided_s = now_s
        self._asked = max(s.min, min(s.max, self._grown(current, stable, periods)))
        return self._asked

    def _proposed(self, usage: float, unit: float, ready: int, current: int) -> int | None:
        """Replicas for one metric; None where it is not measured.

        When it calls for growth, replicas that are asked for and not ready count as ready and unused, so that what
        is on its way is not asked for again.
        """
        if math.isnan(usage) or ready < 1:
            return None
        per_replica = unit * self.settings.target_utilisation
        ratio, counted = usage / (ready * per_replica), ready
        growing = ratio > 1 and current > ready
        if growing:
            ratio, counted = usage / (current * per_replica), current
        if abs(ratio - 1) <= self.settings.tolerance or (growing and ratio < 1):
            return current
        return math.ceil(ratio * counted - 1e-9)  # a rounding above a whole number is no replica

    def _grown(self, current: int, goal: int, periods: int) -> int:
        """The goal, as far as growth may reach in so many periods."""
        reach = current
        for _ in range(periods):
            if reach >= goal:
                return goal
            reach = max(reach + self.settings.up_pods, math.ceil(reach * (1 + self.settings.up_share)))
        return min(goal, reach)
