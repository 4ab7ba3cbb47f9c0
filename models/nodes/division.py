"""How the room on shared nodes is divided among apps whose replicas do not all fit.

Each app wants the replicas that its own plan asks for, its margin for bursts included. Nodes are bought for what the
apps need together, which is less than the sum: where all that is wanted does not fit, the margins are lessened. A
higher priority has its replicas first; apps of one priority yield together: all are as sure as the room allows,

    replicas of app a = Q_a(level),   at least those that its present usage fills, at most those wanted,

with Q_a the quantile of what it needs in its scenarios, and the largest level at which all fit, of LEVELS. Where not
even what the present usage fills finds room, that is what is wanted, and the packing places it by priority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.nodes.packing import Counts, Nodes, Replicas, pack

LEVELS: Final = 1 - np.logspace(0, -4, 41)
"""Shares of the scenarios, from 0 to 0.9999: ten for each factor of ten in what is left."""


@dataclass(frozen=True)
class Division:
    """Replicas by app.

    Attributes:
        replicas: (app) to be commanded.
        bounded: (app) whether they are fewer than wanted.
        placed: (app) of these, those that packing finds room for.
        reasons: (app) why others find none; empty where all do.
    """

    replicas: Counts
    bounded: NDArray[np.bool_]
    placed: Counts
    reasons: tuple[str, ...]


def divided(
    wanted: Counts, floor: Counts, need: NDArray[np.int32], replicas: Replicas, nodes: Nodes
) -> Division:
    """Replicas of apps on the nodes that serve.

    Args:
        wanted: (app) of each app's own plan.
        floor: (app) that its present usage fills; of more than are wanted those that are.
        need: (app, scenario) most that the app needs in its plan's window.
        replicas: sizes and priorities.
        nodes: that serve, and are to go on.
    """
    floor = np.minimum(floor, wanted)
    priority = np.zeros(len(wanted), np.int64) if replicas.priority is None else replicas.priority
    at_level = np.quantile(need, LEVELS, axis=1, method="higher").astype(np.int64)
    at_level = np.vstack([np.clip(at_level, floor, wanted), wanted])
    chosen = np.zeros(len(wanted), np.int64)
    for of in np.unique(priority)[::-1].tolist():
        equals = priority == of
        chosen = _most_sure(np.where(equals, floor, chosen), at_level, equals, replicas, nodes)
    packing = pack(nodes, replicas, chosen)
    return Division(chosen, chosen < wanted, packing.placed.sum(axis=0), packing.reasons)


def _most_sure(
    chosen: Counts, at_level: Counts, equals: NDArray[np.bool_], replicas: Replicas, nodes: Nodes
) -> Counts:
    """`chosen` with some apps at the largest level at which all fit; as it is where none does.

    at_level: (level, app), rising.
    """

    def fitting(level: int) -> Counts | None:
        trial = np.where(equals, at_level[level], chosen)
        if (trial @ replicas.size > nodes.room.sum(axis=0) * (1 + 1e-9)).any():
            return None
        return trial if not pack(nodes, replicas, trial).pending.any() else None

    last = len(at_level) - 1
    if (best := fitting(last)) is not None:
        return best
    low, high, best = -1, last, chosen
    while high - low > 1:
        middle = (low + high) // 2
        trial = fitting(middle)
        if trial is None:
            high = middle
        else:
            low, best = middle, trial
    return best
