"""The Kubernetes HorizontalPodAutoscaler.

Source: kubernetes.io, "Horizontal Pod Autoscaling", sections "Algorithm details", "Configurable scaling behavior" and
"Default behavior"; kubernetes/kubernetes `pkg/controller/podautoscaler/horizontal.go` and `replica_calculator.go`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from models.autoscalers.base import Count, Fleet, Float, whole
from models.capacity import ROUNDING


@dataclass(frozen=True)
class Scaling:
    """One entry of a behaviour's `policies`: at most `value` pods, or percent of them, in `period_s`."""

    type: Literal["Pods", "Percent"]
    value: int
    period_s: int


@dataclass(frozen=True)
class Behaviour:
    """`behavior.scaleUp` or `.scaleDown`: the bounds of one direction, and the window it is steadied over."""

    policies: tuple[Scaling, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"
    stabilisation_s: int = 0


SCALE_UP: Final = Behaviour((Scaling("Pods", 4, 15), Scaling("Percent", 100, 15)))
SCALE_DOWN: Final = Behaviour((Scaling("Percent", 100, 15),), stabilisation_s=300)


@dataclass(frozen=True)
class HpaSettings:
    """Kubernetes' defaults.

    target_utilisation: of a full replica, wanted on average; 80 % of CPU is what an HPA without metrics gets
    tolerance: of the ratio to the target, within which nothing changes (--horizontal-pod-autoscaler-tolerance)
    sync_period_s: between two synchronisations (--horizontal-pod-autoscaler-sync-period)
    up, down: see `Behaviour`; the defaults are four pods or a doubling, and all pods after five minutes
    """

    target_utilisation: float = 0.8
    tolerance: float = 0.1
    sync_period_s: int = 15
    up: Behaviour = field(default=SCALE_UP)
    down: Behaviour = field(default=SCALE_DOWN)


class HorizontalPodAutoscaler:
    """The controller of each app's replicas.

    A tick may be longer than the time between synchronisations: the bounds on change are then applied once for each
    synchronisation in it, as if usage had been the same all along.
    """

    def __init__(self, settings: HpaSettings, fleet: Fleet, target_utilisation: Float) -> None:
        """Its targets (headroom) instead of the settings' one."""
        self.settings, self.fleet = settings, fleet
        self._target = target_utilisation[:, None, None]
        periods = [policy.period_s for b in (settings.up, settings.down) for policy in b.policies]
        self._syncs = max(1, fleet.tick_s // settings.sync_period_s)
        self._asked: deque[Count] = deque(maxlen=max(1, max(periods, default=1) // settings.sync_period_s))
        self._up: deque[Count] = deque(maxlen=fleet.ticks(settings.up.stabilisation_s))
        self._down: deque[Count] = deque(maxlen=fleet.ticks(settings.down.stabilisation_s))

    def decide(self, tick: int, load: Float, ready: Count) -> Count:
        """See `Autoscaler`. Per metric ceil(ready × utilisation / target), the largest over metrics.

        While a metric is missing, or no replica is ready, the others can only raise the number.
        """
        return self.steadied(self.proposed(load, ready), ready)

    def current(self, ready: Count) -> Count:
        """Replicas asked for at last, (headroom, app); those ready before the first decision."""
        return self._asked[-1] if self._asked else ready

    def proposed(self, load: Float, ready: Count) -> Count:
        """Replicas (headroom, app) before behaviours and bounds.

        Where a metric calls for growth, replicas that are asked for and not ready count as ready and unused, so that
        what is on its way is not asked for again.
        """
        current = self.current(ready)
        wanted = load / self._target
        known = ~np.isnan(load) & (ready > 0)[..., None]
        ratio = wanted / np.maximum(ready, 1)[..., None]
        growing = (ratio > 1) & (current > ready)[..., None]
        ratio = np.where(growing, wanted / np.maximum(current, 1)[..., None], ratio)
        stands = (np.abs(ratio - 1) <= self.settings.tolerance) | (growing & (ratio < 1))
        each = np.where(stands, current[..., None], whole(np.nan_to_num(wanted)))
        proposal = np.where(known, each, -1).max(axis=-1, initial=-1)
        return np.where(known.all(axis=-1), proposal, np.maximum(proposal, current))

    def steadied(self, proposal: Count, ready: Count) -> Count:
        """What a proposal (headroom, app) becomes by stabilisation, the bounds on change and the fleet's bounds."""
        current = self.current(ready)
        self._up.append(proposal)
        self._down.append(proposal)
        lowest, highest = np.min(self._up, axis=0), np.max(self._down, axis=0)
        goal = np.minimum(np.maximum(current, lowest), highest)
        asked = self._changed(current, np.clip(goal, self.fleet.least, self.fleet.most))
        self._asked[-1] = asked = np.clip(asked, self.fleet.least, self.fleet.most)
        return asked

    def _changed(self, current: Count, goal: Count) -> Count:
        """The goal, as far as the behaviours let the number go in a tick's synchronisations."""
        syncs = self._syncs if self._asked else 1  # nothing was before the first
        self._asked.extend([current] * (not self._asked))
        asked = current
        for left in range(syncs, 0, -1):
            up, down = self._limit(self.settings.up, 1), self._limit(self.settings.down, -1)
            asked = np.clip(goal, np.minimum(down, asked), np.maximum(up, asked))
            if np.array_equal(asked, goal):
                self._asked.extend([asked] * left)
                break
            self._asked.append(asked)
        return asked

    def _limit(self, behaviour: Behaviour, sign: int) -> Count:
        """The furthest number (headroom, app) in one direction: up with sign 1, down with -1."""
        if behaviour.select == "Disabled" or not behaviour.policies:
            return self._asked[-1]
        limits: list[Count] = []
        for policy in behaviour.policies:
            syncs = max(1, policy.period_s // self.settings.sync_period_s)
            start = self._asked[-min(syncs, len(self._asked))]
            if policy.type == "Pods":
                limits.append(start + sign * policy.value)
            else:
                share = start * (1 + sign * policy.value / 100)
                limits.append(np.trunc(whole(share) if sign > 0 else share + ROUNDING).astype(np.int64))
        return (np.max if (behaviour.select == "Max") == (sign > 0) else np.min)(limits, axis=0)
