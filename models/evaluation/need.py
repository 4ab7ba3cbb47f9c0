"""Replicas that measured usage needs, and the ticks in which saturation hides the need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.baselines.autoscalers.registry import largest
from models.capacity import Policy, floor_demand, replica_loads
from models.demand.reconciliation import lower_bound
from models.metrics import METRICS


def filled(usage: NDArray[np.floating[Any]], policies: Sequence[Policy]) -> NDArray[np.float64]:
    """(tick, app, metric) replicas that usage (tick, app, METRICS) fills, not rounded; NaN = not measured.

    Metrics are the governed ones of each app's policy, in its order.
    """
    usage = usage.astype(np.float64)
    widest = max(len(policy.governed) for policy in policies)
    replicas = np.full((*usage.shape[:2], widest), np.nan)
    for a, policy in enumerate(policies):
        carried = replica_loads(usage[:, a], METRICS, policy)
        index = [METRICS.index(m) for m in policy.governed]
        replicas[:, a, : len(index)] = np.where(np.isnan(usage[:, a, index]), np.nan, carried)
    return replicas


def of_tick(
    usage: NDArray[np.float64], saturated: NDArray[np.float64], metrics: Sequence[str], policy: Policy
) -> float:
    """Replicas that an app's demand filled in a tick; NaN: not measured, or a lower bound alone.

    Args:
        usage, saturated: (metric) usage, and the part of it that saturated users have; NaN = not measured.
        metrics: their names.
        policy: its governed metrics set the need.
    """
    measured, held = np.full((2, 1, 1, len(METRICS)), np.nan)
    index = [METRICS.index(metric) for metric in metrics]
    measured[0, 0, index], held[0, 0, index] = usage, saturated
    if censored(measured, np.nan_to_num(held), [policy])[0, 0]:
        return float("nan")
    replicas = filled(measured, [policy])[0, 0]
    return float(np.nanmax(replicas)) if np.isfinite(replicas).any() else float("nan")


def censored(usage: NDArray[Any], saturated: NDArray[Any], policies: Sequence[Policy]) -> NDArray[np.bool_]:
    """(tick, app) where the need is not known.

    A saturated metric is a lower bound of demand. The need is censored where that metric, with its saturated part
    counted 1.5 times as in the reactive floor, would need more than the largest measured need; where another metric
    needs more anyway, the need is known.

    Args:
        usage: (tick, app, METRICS), NaN = not measured.
        saturated: likewise, what saturated users have of it.
        policies: (app) whose governed metrics set the need.
    """
    bounds = lower_bound(saturated, usage)
    known = largest(filled(usage, policies))
    possible = largest(filled(np.where(bounds, floor_demand(usage, saturated), np.nan), policies))
    return ~np.isnan(possible) & (possible > known)
