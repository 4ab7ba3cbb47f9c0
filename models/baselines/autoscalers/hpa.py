"""The Kubernetes HorizontalPodAutoscaler.

Source: kubernetes.io, "Horizontal Pod Autoscaling", sections "Algorithm details", "Configurable scaling behavior" and
"Default behavior"; kubernetes/kubernetes `pkg/controller/podautoscaler/horizontal.go` and `replica_calculator.go`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.baselines.autoscalers.base import Array, Count, Facts, whole
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

    tolerance: of the ratio to the target, within which nothing changes (--horizontal-pod-autoscaler-tolerance)
    sync_period_s: between two synchronisations (--horizontal-pod-autoscaler-sync-period)
    up, down: see `Behaviour`; growth by four pods or a doubling, release of any number after five minutes
    """

    tolerance: float = 0.1
    sync_period_s: int = 15
    up: Behaviour = field(default=SCALE_UP)
    down: Behaviour = field(default=SCALE_DOWN)


class HorizontalPodAutoscaler:
    """The controllers of all apps; the knob is the target utilisation (setting) of a full replica.

    A tick may be longer than the time between synchronisations: the bounds on change are then applied once for each
    synchronisation in it, as if usage had been the same all along.
    """

    def __init__(self, facts: Facts, targets: Array, settings: HpaSettings | None = None) -> None:
        self.facts, self.settings = facts, settings or HpaSettings()
        self._targets = targets[:, None, None]
        up, down, sync_s = self.settings.up, self.settings.down, self.settings.sync_period_s
        longest_s = max((policy.period_s for b in (up, down) for policy in b.policies), default=0)
        self._syncs = max(1, facts.tick_s // sync_s)
        self._asked: deque[Count] = deque(maxlen=max(1, longest_s // sync_s))
        self._up: deque[Count] = deque(maxlen=facts.ticks(up.stabilisation_s))
        self._down: deque[Count] = deque(maxlen=facts.ticks(down.stabilisation_s))
        self._specified: NDArray[np.bool_] | None = None

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`. Per metric ceil(ready × utilisation / target), the largest over metrics.

        While a metric is missing, or no replica is ready, the others can only raise the number.
        """
        load = self.facts.load[row]
        return self.steadied(self.proposed(load, ready[..., None], self.specified(row), ready), ready)

    def specified(self, row: int) -> NDArray[np.bool_]:
        """(app, metric), metrics that an app has: measured up to this row at least once."""
        begin = 0 if self._specified is None else row
        measured = ~np.isnan(self.facts.load[begin : row + 1]).all(axis=0)
        specified = np.array(measured if self._specified is None else self._specified | measured, np.bool_)
        self._specified = specified
        return specified

    def current(self, ready: Count) -> Count:
        """Replicas of the last request, (setting, app); before the first decision those ready."""
        return self._asked[-1] if self._asked else ready

    def set_current(self, count: Count) -> None:
        """Take over replicas (setting, app) that another controller has requested since."""
        if self._asked:
            self._asked[-1] = count
        else:
            self._asked.append(count)

    def proposed(self, load: Array, serving: Count, specified: NDArray[np.bool_], ready: Count) -> Count:
        """Replicas (setting, app) before behaviours and bounds.

        Where a metric calls for growth, replicas requested but not ready count as ready and unused, so that they are
        not requested twice.

        Args:
            load: (app, metric).
            serving: (setting, app, metric or 1), replicas that the load is spread over.
            specified: (app, metric), metrics that are used.
            ready: (setting, app).
        """
        current = self.current(ready)[..., None]
        wanted = load / self._targets
        known = ~np.isnan(load) & (serving > 0)
        ratio = wanted / np.maximum(serving, 1)
        growing = (ratio > 1) & (current > serving)
        ratio = np.where(growing, wanted / np.maximum(current, 1), ratio)
        stands = (np.abs(ratio - 1) <= self.settings.tolerance) | (growing & (ratio < 1))
        each = np.where(stands, current, whole(np.nan_to_num(wanted)))
        proposal = np.where(known & specified, each, -1).max(axis=-1, initial=-1)
        sure = (known | ~specified).all(axis=-1) & specified.any(axis=-1)
        return np.where(sure, proposal, np.maximum(proposal, current[..., 0]))

    def steadied(self, proposal: Count, ready: Count) -> Count:
        """A proposal (setting, app) after stabilisation, bounds on change and the apps' bounds."""
        current = self.current(ready)
        self._up.append(proposal)
        self._down.append(proposal)
        lowest, highest = np.min(self._up, axis=0), np.max(self._down, axis=0)
        goal = np.minimum(np.maximum(current, lowest), highest)
        desired = self.facts.bounded(self._changed(current, self.facts.bounded(goal)))
        self._asked[-1] = desired
        return desired

    def _changed(self, current: Count, goal: Count) -> Count:
        """The goal, limited by the change that the behaviours allow in a tick's synchronisations."""
        syncs = self._syncs if self._asked else 1  # nothing was before the first
        if not self._asked:
            self._asked.append(current)
        desired = current
        for left in range(syncs, 0, -1):
            up, down = self._limit(self.settings.up, 1), self._limit(self.settings.down, -1)
            desired = np.clip(goal, np.minimum(down, desired), np.maximum(up, desired))
            if np.array_equal(desired, goal):
                self._asked.extend([desired] * left)
                break
            self._asked.append(desired)
        return desired

    def _limit(self, behaviour: Behaviour, sign: int) -> Count:
        """The furthest number (setting, app) that a behaviour allows: up with sign 1, down with -1."""
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
                limits.append(whole(share) if sign > 0 else np.floor(share + ROUNDING).astype(np.int64))
        return (np.max if (behaviour.select == "Max") == (sign > 0) else np.min)(limits, axis=0)
