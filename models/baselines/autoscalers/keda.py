"""KEDA's ScaledObject: a threshold per replica, activation, and a cool-down before the least.

Source: keda.sh, "Scaling Deployments, StatefulSets & Custom Resources" and "ScaledObject specification"; kedacore/keda
`pkg/scaling/executor/scale_scaledobjects.go`. KEDA itself only switches between none and some; in between it feeds an
HPA with external metrics of type AverageValue, so replicas are ceil(total / threshold), ready or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.baselines.autoscalers.base import Array, Count, Facts
from models.baselines.autoscalers.hpa import HorizontalPodAutoscaler, HpaSettings


@dataclass(frozen=True)
class KedaSettings:
    """KEDA's defaults. activation: load above which a trigger is active; cooldown_s: after the last that was."""

    activation: float = 0.0
    cooldown_s: int = 300
    hpa: HpaSettings = field(default=HpaSettings())


class ScaledObject:
    """The knob is the threshold (setting): load that one replica is to take, 1 a full replica.

    An app with a minimum of 0 is scaled to 0 when no trigger has been active for the cool-down, and to one replica by
    the first active trigger; other apps never fall below their minimum.
    """

    def __init__(self, facts: Facts, thresholds: Array, settings: KedaSettings | None = None) -> None:
        self.facts, self.settings = facts, settings or KedaSettings()
        inner = replace(facts, least=np.maximum(facts.least, 1))
        self._hpa = HorizontalPodAutoscaler(inner, thresholds, self.settings.hpa)
        self._active_s: NDArray[Any] = np.full(len(facts.least), -np.inf)
        self._asked: Count | None = None

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`. Without any telemetry the number stands, and a cool-down neither starts nor ends."""
        load, now_s = self.facts.load[row], self.facts.ended_s(row)
        measured = ~np.isnan(load).all(axis=-1)
        if self._asked is None:
            self._asked = ready
            self._active_s = np.full(
                len(measured), float(now_s)
            )  # as KEDA does, when it first sees the object
        active = (np.nan_to_num(load) > self.settings.activation).any(axis=-1)
        self._active_s = np.where(active, now_s, self._active_s)
        idle = measured & ~active & (now_s - self._active_s >= self.settings.cooldown_s)
        before = np.where(active, np.maximum(self._asked, 1), self._asked)  # activation, before the HPA looks
        self._hpa.set_current(np.maximum(before, 1))
        specified = self._hpa.specified(row)
        scaled = self._hpa.steadied(
            self._hpa.proposed(load, np.maximum(before, 1)[..., None], specified, ready), ready
        )
        off = (before == 0) | (idle & (self.facts.least == 0))  # none is running: the HPA is not at work
        self._asked = np.where(off, self.facts.least, scaled)
        return self._asked
