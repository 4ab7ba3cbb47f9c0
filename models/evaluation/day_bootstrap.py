"""A policy's figures by day, and their intervals by a bootstrap of days (docs/scoring.md, "Uncertainty").

Sums over app-ticks add up over days; the worst shortfall and the longest run are the maxima over the days drawn, where
a run's length counts on the day on which it reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.policy_outcomes import Outcomes

Array = NDArray[np.float64]
LEVELS: Final = (0.025, 0.975)  # of the interval


def by_day(
    outcomes: Outcomes,
    lane: int,
    apps: Any = slice(None),
    *,
    tiers: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    promise: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> dict[str, Array]:
    """Sums and maxima of a lane by day, each (day).

    Args:
        outcomes: of the window.
        lane: index of the lane.
        apps: index of the apps that are taken together.
        tiers: by tier the amount spent, (tick, app).
        promise: which decisions have an outcome, and which of them were kept, (tick, app).
    """
    column = slice(lane, lane + 1)
    part = replace(
        outcomes,
        demand=outcomes.demand[:, apps],
        scored=outcomes.scored[:, apps],
        ready=outcomes.ready[:, apps, column],
        asked=outcomes.asked[:, apps, column],
        cost=outcomes.cost[:, apps, column],
    )
    missed, short = part.missed[..., 0], part.short[..., 0]
    demand = np.where(part.scored, np.nan_to_num(part.demand), 0.0)
    changed = np.diff(part.asked[..., 0], axis=0, prepend=part.asked[:1, :, 0]) != 0
    days = np.unique(outcomes.day)

    def total(x: Any) -> Array:
        return np.array([float(np.asarray(x)[outcomes.day == d].sum()) for d in days])

    def most(x: Any) -> Array:
        return np.array([float(np.asarray(x)[outcomes.day == d].max(initial=0.0)) for d in days])

    sums = {
        "app_ticks": total(part.scored),
        "misses": total(missed),
        "short": total(short),
        "demand": total(demand),
        "spare": total(part.spare[..., 0]),
        "cost": total(part.cost[..., 0]),
        "actions": total(changed),
        "worst_shortfall": most(short),
        "longest_run": most(_runs(missed)),
    }
    for tier, spent in (tiers or {}).items():
        sums[f"cost_{tier.lower()}"] = total(spent[:, apps])
    if promise is not None:
        known, kept = promise
        sums |= {"decisions": total(known[:, apps]), "kept": total(kept[:, apps])}
    return sums


def _runs(missed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Length so far of the run of misses that a tick is in, (tick, app); 0 without a miss."""
    runs = np.zeros(missed.shape, np.int64)
    length = np.zeros(missed.shape[1], np.int64)
    for t, now in enumerate(missed):
        length = np.where(now, length + 1, 0)
        runs[t] = length
    return runs


def figures(days: Mapping[str, Array], weight: Array) -> dict[str, Array]:
    """Figures of each draw, (draw), the first of the days as they were; NaN where the denominator is 0.

    Args:
        days: of `by_day`.
        weight: (draw, day), see `models.evaluation.policy_outcomes.weights`.
    """

    def total(name: str) -> Array:
        return weight @ days[name]

    def most(name: str) -> Array:
        return np.where(weight > 0, days[name], 0.0).max(axis=1, initial=0.0)

    def share(part: str, whole: str) -> Array:
        denominator = total(whole)
        return np.where(denominator > 0, total(part) / np.where(denominator > 0, denominator, 1.0), np.nan)

    values = {
        "hit_rate": 1 - share("misses", "app_ticks"),
        "unserved": share("short", "demand"),
        "worst_shortfall": most("worst_shortfall"),
        "longest_run": most("longest_run"),
        "slack": share("spare", "demand"),
        "actions": total("actions"),
    }
    values |= {name: total(name) for name in days if name.startswith("cost")}
    if "decisions" in days:
        values["promise"] = share("kept", "decisions")
    return values


def ratio(own: Array, reference: Array) -> Array:
    """Ratio of two figures, draw by draw; NaN where the reference is not above 0."""
    return own / np.where(reference > 0, reference, np.nan)


def stated(drawn: Array) -> dict[str, float | None]:
    """A figure with its 95 % interval; None where it is NaN, an interval also where half of the draws are NaN."""
    known = drawn[1:][~np.isnan(drawn[1:])]
    low, high = np.quantile(known, LEVELS) if len(known) >= len(drawn) / 2 else (np.nan, np.nan)
    return {
        name: None if np.isnan(x) else float(x) for name, x in zip(STATED, (drawn[0], low, high), strict=True)
    }


STATED: Final[Sequence[str]] = ("value", "low", "high")
