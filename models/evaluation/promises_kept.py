"""Whether demand stayed within the curves that plans promised to carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.capacity import Policy
from models.metrics import METRICS


@dataclass(frozen=True)
class Promises:
    """Decisions of consecutive ticks.

    Attributes:
        made: (tick, app) whether there is a plan.
        required: (tick, app, step, METRICS) demand that the plan carries, NaN where it has no such metric.
        window: (tick, app, 2) first and last step that the promise covers.
        steps: ticks ahead of each step.
    """

    made: NDArray[np.bool_]
    required: NDArray[np.floating[Any]]
    window: NDArray[np.integer[Any]]
    steps: Sequence[int]


def kept(
    promises: Promises, usage: NDArray[np.floating[Any]], policies: Sequence[Policy]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which decisions have an outcome, and in which of them demand stayed within the promise, (tick, app).

    All governed metrics and steps of the window count together. Ticks without a plan of any app, or whose last step
    lies beyond the usage, have no outcome.

    Args:
        promises: the first is of the tick of the first row of `usage`.
        usage: (tick, app, METRICS), NaN where it is not known or a lower bound only; may go on after the promises.
        policies: (app).
    """
    governed = np.zeros((len(policies), usage.shape[-1]), bool)
    for a, policy in enumerate(policies):
        governed[a, [METRICS.index(m) for m in policy.governed]] = True
    known, stayed = np.zeros((2, *promises.made.shape), bool)
    steps, step = np.array(promises.steps), np.arange(len(promises.steps))
    for i, made in enumerate(promises.made):
        if not made.any() or i + steps[-1] >= len(usage):
            continue
        ahead = usage[steps + i].transpose(1, 0, 2)  # (app, step, metric)
        required, window = promises.required[i], promises.window[i]
        inside = (step >= window[:, :1]) & (step <= window[:, 1:])
        cell = inside[..., None] & governed[:, None] & ~np.isnan(ahead) & ~np.isnan(required)
        known[i] = cell.any(axis=(1, 2))
        missed = (cell & (ahead > np.nan_to_num(required))).any(axis=(1, 2))
        stayed[i] = known[i] & ~missed
    return known, stayed


def share_kept(known: NDArray[np.bool_], stayed: NDArray[np.bool_]) -> float | None:
    """Share of the decisions with an outcome whose demand stayed within the promise, as of `kept`; None without any."""
    return int(stayed.sum()) / int(known.sum()) if known.any() else None
