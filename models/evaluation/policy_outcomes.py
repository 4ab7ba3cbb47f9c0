"""Figures of policies over a window (docs/scoring.md): hit rate, cost, slack, and all at the same hit rate.

Arrays are (tick, app, lane); a lane is a policy at one setting. Capacity and demand are in replicas, not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.forecast_scores import DRAWS, matched

RATES: Final = (0.95, 0.99, 0.999)  # hit rates at which policies are compared

Float = NDArray[np.floating[Any]]
Array = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcomes:
    """Demand, capacity and cost of lanes over the scored window.

    demand: (tick, app), NaN = not measured; scored: (tick, app), measured and not censored; day: (tick)
    ready: least capacity within each tick; asked: replicas wanted from the tick on; cost: spent within it
    carry: demand that a tick did not serve is added to the next tick's
    """

    demand: Float
    scored: Bool
    day: NDArray[np.int64]
    ready: Float
    asked: Float
    cost: Float
    carry: bool = False

    @cached_property
    def due(self) -> Float:
        """Demand (tick, app, lane), with `carry` plus the backlog of earlier ticks; without it one lane for all."""
        if not self.carry:
            return self.demand[..., None]
        due = np.empty(self.ready.shape)
        left = np.zeros(self.ready.shape[1:])
        for t, (demand, ready) in enumerate(zip(self.demand, self.ready, strict=True)):
            due[t] = demand[:, None] + left
            left = np.where(np.isnan(due[t]), left, np.maximum(due[t] - ready, 0.0))
        return due

    @property
    def spare(self) -> Float:
        """Ready capacity beyond what was due, in replicas; 0 where not scored."""
        return np.where(self.scored[..., None], np.maximum(self.ready - np.nan_to_num(self.due), 0), 0.0)

    @property
    def missed(self) -> Bool:
        """Ticks scored in which ready capacity was below demand."""
        return self.scored[..., None] & (self.ready < self.due)

    @property
    def short(self) -> Float:
        """Demand that ready capacity did not carry, in replicas; 0 where not scored."""
        return np.where(self.missed, np.nan_to_num(self.due) - self.ready, 0.0)

    def lanes(self, apps: Any = slice(None)) -> list[dict[str, Any]]:
        """A row of figures for each lane, over the apps of an index together."""
        scored, missed = self.scored[:, apps], self.missed[:, apps]
        demand = np.where(scored, np.nan_to_num(self.demand[:, apps]), 0.0)
        short, asked = self.short[:, apps], self.asked[:, apps]
        spare = self.spare[:, apps]
        rows: list[dict[str, Any]] = []
        for lane in range(self.ready.shape[-1]):
            m, n = missed[..., lane], int(scored.sum())
            again = m[1:] & m[:-1]
            by_day = [
                1 - m[self.day == d].sum() / max(scored[self.day == d].sum(), 1)
                for d in np.unique(self.day).tolist()
            ]
            rows.append(
                {
                    "app_ticks": n,
                    "misses": int(m.sum()),
                    "hit_rate": 1 - int(m.sum()) / n if n else None,
                    "cost": float(self.cost[:, apps, lane].sum()),
                    "cost_scored": float(self.cost[:, apps, lane][scored].sum()),
                    "unserved": float(short[..., lane].sum() / max(demand.sum(), 1e-12)),
                    "worst_shortfall": float(short[..., lane].max(initial=0.0)),
                    "longest_run": max((_run(m[:, a]) for a in range(m.shape[1])), default=0),
                    "miss_after_miss": float(again.sum() / m[:-1].sum()) if m[:-1].any() else None,
                    "worst_day": float(min(by_day, default=1.0)),
                    "slack": float(spare[..., lane].sum() / max(demand.sum(), 1e-12)),
                    "actions": int((np.diff(asked[..., lane], axis=0) != 0).sum()),
                }
            )
        return rows

    @cached_property
    def by_day(self) -> tuple[Array, Array, Array, Array]:
        """Misses, cost and slack of the scored app-ticks (day, lane), and their number and demand (day, 2)."""
        days = np.unique(self.day)
        demand = np.where(self.scored, np.nan_to_num(self.demand), 0.0)

        def total(x: Any) -> Array:
            summed = [np.asarray(x[self.day == d].sum(axis=(0, 1)), np.float64) for d in days]
            return np.stack(summed)

        counted = np.stack([total(self.scored.astype(np.float64)), total(demand)], axis=-1)
        cost = np.where(self.scored[..., None], self.cost, 0)
        return total(self.missed), total(cost), total(self.spare), counted


def _run(missed: Bool) -> int:
    """The longest run of misses of one app."""
    edges = np.diff(np.concatenate([[0], missed.astype(np.int8), [0]]))
    return int((np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)).max(initial=0))


def weights(days: int, seed: int) -> Array:
    """Number of times each day is drawn, (draw, day): first every day once, then DRAWS bootstrap draws of days."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(days, [1 / days] * days, DRAWS)
    return np.concatenate([np.ones((1, days)), drawn.astype(np.float64)])


def hit_rates(outcomes: Outcomes, weight: Float) -> Float:
    """Share of app-ticks scored that each lane did not miss, (draw, lane); weight: (draw, day), see `weights`."""
    missed, _, _, counted = outcomes.by_day
    return 1 - (weight @ missed) / np.maximum(weight @ counted[:, 0], 1)[:, None]


def interval(drawn: Float) -> tuple[float, float] | None:
    """95 % interval of a figure's draws; None where fewer than half of them are known, or none."""
    known = drawn[~np.isnan(drawn)]
    if len(known) < len(drawn) / 2 or not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def at_rate(outcomes: Outcomes, lanes: Sequence[int], rate: float, weight: Float) -> tuple[Float, Float]:
    """Cost and slack of a policy's sweep where it realises a hit rate, (draw); NaN where no setting reaches it.

    Both are of the app-ticks that are scored, as the hits are: else a policy that adds capacity when usage is at its
    limit would pay for ticks whose demand is not known.

    Between two settings both are linear in the logarithm of the share of misses (as
    `models.evaluation.forecast_scores.matched`). Settings that cost more than another and hit less are left out.

    Args:
        outcomes: of the window.
        lanes: of one policy, a lane a setting.
        rate: hit rate.
        weight: (draw, day), see `weights`.
    """
    missed, cost, spare, counted = outcomes.by_day
    columns = list(lanes)
    n, size = (weight @ counted[:, i] for i in (0, 1))
    hit = 1 - weight @ missed[:, columns] / np.maximum(n, 1)[:, None]
    spent, slack = weight @ cost[:, columns], weight @ spare[:, columns] / np.maximum(size, 1e-12)[:, None]
    out = np.full((2, len(weight)), np.nan)
    for d in range(len(weight)):
        kept = frontier(hit[d], spent[d])
        for i, figure in enumerate((spent, slack)):
            out[i, d] = matched(hit[d][kept][None], figure[d][kept][None], rate)[0]
    return out[0], out[1]


def relative_difference(value: float, reference: float) -> float:
    """(value − reference) / reference; NaN where the reference is not above 0."""
    return value / reference - 1 if reference > 0 else math.nan


def frontier(hit: Float, cost: Float) -> NDArray[np.intp]:
    """Indices of the settings on the Pareto frontier of hit rate and cost, by rising hit rate."""
    order = np.lexsort((-hit, cost))
    kept: list[int] = []
    for i in order.tolist():
        if not kept or hit[i] > hit[kept[-1]]:
            kept.append(i)
    return np.array(kept, dtype=np.intp)


def nearest(outcomes: Outcomes, lanes: Sequence[int], rate: float) -> int:
    """The lane whose share of misses is nearest to 1 − rate on a log scale; of equal lanes the cheapest."""
    missed, cost, _, counted = outcomes.by_day
    share = (missed.sum(axis=0) + 0.5) / max(counted[:, 0].sum(), 1.0)
    apart = np.abs(np.log(share / (1 - rate)))
    return min(lanes, key=lambda lane: (apart[lane], cost[:, lane].sum(), lane))


def compared(outcomes: Outcomes, lane: int, reference: int, hour: int) -> dict[str, Any]:
    """Ready capacity and its price of two lanes in the scored app-ticks, and when their capacity differs.

    `one` (the lane) and `other` (the reference) give mean ready capacity in replicas, and the cost of a replica-hour.
    `when` splits the difference in capacity, in parts that add up to it: within an hour after a peak (demand in the
    app's highest twentieth), else while demand is below the app's median, and the rest.

    Args:
        outcomes: of the window.
        lane: index of a lane.
        reference: index of the lane that it is compared with.
        hour: ticks of an hour.
    """
    scored, n = outcomes.scored, max(int(outcomes.scored.sum()), 1)
    demand = np.where(scored, outcomes.demand, np.where(scored.any(axis=0), np.nan, 0.0))
    peak, median = np.nanquantile(demand, [0.95, 0.5], axis=0)
    high = np.asarray(demand > peak)
    after = np.stack([high[max(0, t + 1 - hour) : t + 1].any(axis=0) for t in range(len(high))])
    quiet = ~after & (demand < median)
    difference = np.where(scored, outcomes.ready[..., lane] - outcomes.ready[..., reference], 0.0)

    def means(index: int) -> dict[str, float]:
        ready, cost = (np.where(scored, x[..., index], 0.0).sum() for x in (outcomes.ready, outcomes.cost))
        return {"ready": float(ready / n), "replica_hour": float(cost * hour / max(ready, 1e-12))}

    parts = {"after a peak": after, "below the median": quiet, "else": ~after & ~quiet}
    return {
        "one": means(lane),
        "other": means(reference),
        "when": {name: float(difference[part].sum() / n) for name, part in parts.items()},
    }
