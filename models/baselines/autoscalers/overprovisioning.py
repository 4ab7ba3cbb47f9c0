"""HPAs on nodes that cluster-autoscaler provides, with a deployment of placeholders that keeps some of them free.

Source: kubernetes.io, "Overprovision Node Capacity For A Cluster"; kubernetes/autoscaler `cluster-autoscaler/FAQ.md`,
"How can I configure overprovisioning with Cluster Autoscaler?": pods of the lowest priority ask for room and use
none. A replica that finds no other room evicts one at once, and the evicted one, now pending, lets a node be added.
Sized in proportion to the cluster by kubernetes-sigs/cluster-proportional-autoscaler's linear mode.
"""

from __future__ import annotations

import numpy as np

from models.baselines.autoscalers.base import Array, Count, Facts, whole
from models.baselines.autoscalers.hpa import HorizontalPodAutoscaler

TARGET = 0.8
"""Utilisation that the HPAs keep: Kubernetes' default. The room kept free is swept instead."""


class Overprovisioning:
    """The HPAs of all apps; the knob is the placeholders' size, as a share of what the replicas ask for (setting).

    Attributes:
        headroom: (setting) that share, at least 0: nodes are provided for so much more than `decide` asks for.
    """

    def __init__(self, facts: Facts, headroom: Array) -> None:
        self.headroom = headroom
        self._hpa = HorizontalPodAutoscaler(facts, np.full(len(headroom), TARGET))

    def decide(self, row: int, ready: Count) -> Count:
        """See `Autoscaler`: the apps' replicas; of what is ready, the placeholders' room serves nobody."""
        return self._hpa.decide(row, np.minimum(ready, self._hpa.current(ready)))


def with_headroom(replicas: Count, headroom: Array) -> Count:
    """Replicas (setting, ...) with the placeholders beside them, which are whole ones of the same size."""
    share = headroom.reshape(-1, *[1] * (replicas.ndim - 1))
    return replicas + whole(share * replicas)
