"""An app's demand: the sum of its users' scenarios and its own forecast made one, and held to what happens.

Per metric and step, at the standard-normal level z:

    sum         a(z), the quantiles of the simulated sum of the users: it knows who is about to do what
    total       b(z), the app's own forecast: it knows how totals really err
    marginal    q(z) = a + w (b - a), w = sigmoid(odds): one quantile function (comonotone, "Vincentised")
    scenarios   keep their ranks, and with them the dependence; the one at level z gets q(z exp(stretch(z)))

Learnt from what happened, of one decision at a time, from its tick until its last step:

    odds     per app, metric and part of the distribution along the pinball loss: CRPS learning (Berrisch and Ziel
             2021), drawn to a half, which is hard to beat (`ODDS_KEPT`)
    stretch  per metric, of the level that holds jointly with the first of PROMISED, all apps' and each app's own part:
             adaptive conformal inference (Gibbs and Candès 2021) of the *promise*, that demand stays within the
             required curves at all steps and governed metrics together
    tail     per metric, how the levels of rarer misses lie beyond: log(needed / limit), averaged over the decisions
             that missed the limit, is Hill's estimator (1975) of the tail's index, and index × log(odds of a miss
             fewer) Weissman's extrapolation (1978). An app's own misses count beside all apps', as many as it has
             had. So an app whose misses are narrow pays for no burst that others make. All apps' remainder at the
             rarer levels is again adaptive conformal inference
    largest  per app, day and metric, what demand has reached: scenarios end there, but for growth; in an app's first
             day the whole horizon's largest does, as far as steady apps go (`models.demand.extremes`)
    hidden   of users who fell silent, what nobody has taken over (`models.demand.turnover`)

A metric answers for its share of the misses allowed: that of the scenarios that its own curve fails. Of a miss each
metric that missed takes an equal part, so that the parts add up to the promise.
Beyond the grid's last level, 3.5, quantile functions go on as straight lines: a user's first burst passes it.

Arrays are (metric, step, ...), metrics in the order of `features.METRICS`; demand is (scenario, step, metric).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from models.behaviour.online_mixture import parts
from models.capacity import floor_demand
from models.demand import extremes, turnover
from models.metrics import METRICS, STEPS, horizon_steps
from models.quantile_function import LEVELS, QuantileFunction, Z

Array = NDArray[np.float64]
State = dict[str, NDArray[Any]]

PROMISED: Final = np.array([0.95, 0.99, 0.999])  # confidences held: those of a plan's `cost_at`
ODDS_GAIN: Final = 0.003
ODDS_KEPT: Final = 0.98  # of the odds, from one step's outcome to the next: they forget within a day
PULL_LIMIT: Final = 10.0
STRETCH_LIMIT: Final = 3.0  # exp(3) = 20 times the level
# What all apps' stretch and tail begin with, and their gains: found on machines' groupings before the test window.
STRETCH: Final = np.array([-0.05, 0.0, 0.0])
COMMON_GAIN: Final = np.array([0.002, 0.005, 0.02])  # of all apps', at PROMISED
OWN_GAIN: Final = 0.02  # of an app's own, at the first of PROMISED
INDEX: Final = 0.37  # of the tail, that of machines
NORMAL_INDEX: Final = (
    0.1  # and the least: 24 normal cells hold jointly at 2.85, 3.38 and 3.67, ratios of 1.18 and 1.29
)
BEYOND: Final = np.array([0.0, 1.75, 4.5])
"""Of the index, at PROMISED. Weissman's are log(0.05 / 0.01) = 1.61 and log(0.05 / 0.001) = 3.91: machines' far tails
are heavier than the index at the first level says, a normal's are lighter and cost little."""
COMMON_PRIOR: Final = 20.0  # misses that INDEX counts for among all apps',
OWN_PRIOR: Final = 10.0  # and that all apps' index counts for beside an app's own
REMEMBERED: Final = 300.0  # misses that count at most: a month of ten apps
EXCESS_LIMIT: Final = 4.0  # exp(4) = 55 times the limit; one miss tells no more
BEGIN: Final = 0.6  # of the first of these levels, where stretching begins: below it errs little
FAR: Final = 100.0  # a level beyond all that are stretched to: 3.7 exp(3) = 74
SATURATED_SHARE: Final = 0.1
"""From a tenth of an app's usage on, its total counts as a lower bound: below, the error is within a scenario's."""
NONE: Final = -1  # no decision is followed

_LEVEL: Final = ndtr(Z.astype(float))
_PARTS: Final = parts(Z).astype(float)
_EVEN: Final = 0.5 / np.sqrt(_LEVEL * (1 - _LEVEL))  # far levels' losses are small
_TAIL: Final = LEVELS - 5  # the grid's slope beyond its end is that from 2.1 to 3.5: one interval's is noise


def initial_state() -> State:
    """Of an app that is new: half and half, no stretch and no miss of its own."""
    metrics = len(METRICS)
    return {
        "odds": np.zeros((3, metrics)),
        "stretch": np.zeros(metrics),
        "misses": np.zeros(metrics),
        "excess": np.zeros(metrics),
        "made": np.array([NONE]),
        "window": np.zeros(2, np.int64),
        "sum": np.full((metrics, STEPS, LEVELS), np.nan, np.float32),
        "total": np.full((metrics, STEPS, LEVELS), np.nan, np.float32),
        "limit": np.full((metrics, len(PROMISED)), np.nan),
        "share": np.zeros(metrics),
        "worst": np.full(metrics, np.nan),
        **extremes.initial_state(),
        **turnover.initial_state(),
    }


def initial_common() -> State:
    """What all apps share: stretch (metric, promised), misses that the tail is known from, their excess (metric)."""
    misses = np.full(len(METRICS), COMMON_PRIOR)
    return {"stretch": np.tile(STRETCH, (len(METRICS), 1)), "misses": misses, "excess": INDEX * misses}


def stretched(state: State, common: State) -> Array:
    """Log of the limits at PROMISED over the level that holds jointly with the first of them, (METRICS, promised)."""
    index = OWN_PRIOR * common["excess"] / common["misses"] + state["excess"]
    index = np.maximum(index / (OWN_PRIOR + state["misses"]), NORMAL_INDEX)
    beyond = index[:, None] * BEYOND
    beyond[:, 1:] += common["stretch"][:, 1:]
    total = common["stretch"][:, :1] + state["stretch"][:, None] + beyond
    return np.clip(np.maximum.accumulate(total, axis=1), -STRETCH_LIMIT, STRETCH_LIMIT)


@dataclass(frozen=True)
class Decision:
    """What a decision is about.

    Attributes:
        metrics: of its demand, as indices of METRICS.
        governed: those of them that the promise is about, likewise.
        window: steps that the promise is about.
        confidence: asked for; it counts where two of PROMISED come to one level, as with few scenarios they do.
        tick: in which it is made.
        tick_s: tick length in seconds.
    """

    metrics: Sequence[int]
    governed: Sequence[int]
    window: slice
    confidence: float
    tick: int
    tick_s: int


def reconcile(
    demand: NDArray[np.float32],
    total: QuantileFunction,
    state: State,
    common: State,
    decision: Decision,
) -> tuple[NDArray[np.float32], State]:
    """Scenarios of an app's demand, and its state: the decision is followed if no earlier one is.

    Args:
        demand: (scenario, step, metric) float32, the users' sum.
        total: (metric, step) the app's own forecast; where it is NaN, the sum alone counts.
        state: of the app.
        common: of all apps.
        decision: that the scenarios are for.
    """
    rising, order = ranked(demand)
    scenarios = demand.shape[0]
    grid = _grid(rising)
    other = np.maximum(total.grid().astype(np.float64), 0)
    known = np.isfinite(other[..., 0])
    other = np.where(known[..., None], other, grid)
    index, window = list(decision.metrics), decision.window
    marginal = _marginal(grid, other, state["odds"][:, index])

    ranks = np.empty_like(order, np.int32)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(scenarios, dtype=np.int32), order.shape), -1)
    inside = [index.index(m) for m in decision.governed]
    box, share = _promise(ranks[inside][:, window], scenarios)
    levels = _levels(scenarios)
    limit = box[0] * np.exp(stretched(state, common)[index])
    one = _distinct(box, decision.confidence)
    most = extremes.most(state, 1 - ndtr(levels), decision.tick_s, INDEX)
    within_horizon = _jointly(levels, box) / max(len(inside), 1)  # a metric's share of the misses
    most = np.minimum(most, extremes.horizon_most(state, within_horizon, decision.tick_s))[index]
    result = np.empty_like(rising)
    for m in range(len(index)):
        moved = _moved(levels, box[one], limit[m, one])
        for k in range(grid.shape[1]):
            result[m, k][order[m, k]] = np.minimum(_value(marginal[m, k], moved), most[m])

    after = dict(state)
    if state["made"][0] == NONE and inside:
        full = initial_state()
        after |= {name: full[name] for name in ("sum", "total", "limit", "share", "worst")}
        after["sum"][index], after["total"][index] = grid, other
        governed = list(decision.governed)
        after["limit"][governed], after["share"][governed] = limit[inside], share
        after["made"], after["window"] = np.array([decision.tick]), np.array([window.start, window.stop])
    return np.ascontiguousarray(result.transpose(2, 1, 0)), after


def observe(
    state: State, common: State, usage: Array, proved: Array, tick: int, tick_s: int
) -> tuple[State, State]:
    """State and what all apps share after a tick's usage, which may be the outcome of a step that is followed.

    Args:
        state: of the app.
        common: of all apps.
        usage: (METRICS) of the app in the tick, NaN = not known, or a lower bound alone.
        proved: (METRICS) demand that usage proves, where it is a lower bound too; NaN = not measured.
        tick: its number.
        tick_s: its length.
    """
    ahead, steps = tick - int(state["made"][0]), horizon_steps(tick_s)
    after = state | extremes.observe(state, proved, tick, tick_s)
    if state["made"][0] == NONE:
        return after, common
    if ahead in steps:
        k = steps.index(ahead)
        after["odds"] = _learnt(state, usage, k)
        if state["window"][0] <= k < state["window"][1]:
            marginal = _marginal(state["sum"][:, k], state["total"][:, k], state["odds"])
            after["worst"] = np.fmax(state["worst"], _needed(marginal, usage))
    if ahead >= steps[-1]:
        scored = ~np.isnan(after["worst"])[:, None]
        miss = after["worst"][:, None] > state["limit"]
        shared = miss / np.maximum(miss.sum(axis=0), 1)  # one decision's miss, by the metrics that missed
        error = np.where(scored, shared - state["share"][:, None] * (1 - PROMISED), 0.0)
        missed = miss[:, 0]
        ratio = np.where(missed, after["worst"] / state["limit"][:, 0], 1.0)
        excess = np.minimum(np.log(ratio), EXCESS_LIMIT)
        after["stretch"] = np.clip(state["stretch"] + OWN_GAIN * error[:, 0], -STRETCH_LIMIT, STRETCH_LIMIT)
        after |= _remembered(state, missed, excess)
        common = {"stretch": common["stretch"] + COMMON_GAIN * error} | _remembered(common, missed, excess)
        after["made"] = np.array([NONE])
    return after, common


def _remembered(kept: State, missed: NDArray[np.bool_], excess: Array) -> State:
    """Misses and their excess (metric) with those of one decision; the oldest fade beyond REMEMBERED."""
    misses = kept["misses"] + missed
    fade = np.minimum(1.0, REMEMBERED / np.maximum(misses, 1.0))
    return {"misses": fade * misses, "excess": fade * (kept["excess"] + excess)}


def lower_bound(held: NDArray[Any], usage: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether usage only bounds demand from below; held: the part of it by saturated users; NaN is none."""
    return np.nan_to_num(held) > SATURATED_SHARE * np.nan_to_num(usage)


class Measured(NamedTuple):
    """What a tick's usage says of demand, each in the usage's shape.

    bounded: whether usage only bounds demand from below; known: the usage where it is the demand, else NaN;
    proved: float64, the least demand that usage proves, NaN = not measured.
    """

    bounded: NDArray[np.bool_]
    known: NDArray[Any]
    proved: Array


def measured(usage: NDArray[Any], held: NDArray[Any]) -> Measured:
    """Demand known and demand proved by usage (..., metric), of which saturated users have `held`; NaN is none."""
    bounded = lower_bound(held, usage)
    proved = floor_demand(usage.astype(np.float64), np.nan_to_num(held).astype(np.float64))
    return Measured(bounded, np.where(bounded, np.nan, usage), proved)


def ranked(demand: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Demand rising over the scenarios, and which scenario each is, both (metric, step, scenario).

    Ties keep their order, whatever the machine: the keys sorted are a value's bits, which rise with it where it
    is not negative, and below them its index. Unlike a stable sort of floats that runs in vector registers.

    demand: (scenario, step, metric) float32, not negative.
    """
    column = np.ascontiguousarray(demand.transpose(2, 1, 0), dtype=np.float32)
    keys = column.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys = np.sort(keys | np.arange(column.shape[-1], dtype=np.uint64), axis=-1)
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)
    return (keys >> np.uint64(32)).astype(np.uint32).view(np.float32), order


def marginals(demand: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quantiles of scenarios (scenario, step, metric) at the levels of the grid, (metric, step, 21)."""
    return _grid(ranked(demand)[0]).astype(np.float32)


def _grid(rising: NDArray[np.float32]) -> Array:
    """Quantiles at the grid's levels of what rises over the last axis, between two ranks along a straight line."""
    scenarios = rising.shape[-1]
    position = np.clip(_LEVEL * scenarios - 0.5, 0, scenarios - 1)
    low = np.minimum(position.astype(int), scenarios - 2)
    return rising[..., low] + (position - low) * (rising[..., low + 1].astype(np.float64) - rising[..., low])


def _marginal(one: NDArray[Any], other: NDArray[Any], odds: Array) -> Array:
    """The average of two grids (metric, ..., 21), never falling; odds (part, metric)."""
    weight = 1 / (1 + np.exp(-np.einsum("pm,pz->mz", odds, _PARTS)))
    weight = weight.reshape(len(weight), *[1] * (one.ndim - 2), LEVELS)
    return np.maximum.accumulate(one + weight * (other - one), axis=-1)


def _promise(ranks: NDArray[np.int32], scenarios: int) -> tuple[Array, Array]:
    """Levels that hold jointly with PROMISED, and each metric's share of what fails.

    ranks: (metric, step, scenario), of those that the promise is about.
    """
    if not ranks.size:
        return ndtri(PROMISED), np.zeros(len(ranks))
    by_metric = ranks.max(axis=1)
    worst = np.sort(by_metric.max(axis=0))
    needed = np.ceil(PROMISED * scenarios - 1e-9).astype(int) - 1
    failed = (by_metric > worst[needed[0]]).mean(axis=1)
    share = failed / failed.sum() if failed.any() else np.full(len(ranks), 1 / len(ranks))
    return ndtri((worst[needed] + 0.5) / scenarios), share


def _jointly(levels: Array, box: Array) -> Array:
    """Probability that some step and governed metric passes its marginal quantile at each level.

    Known at the levels `box`, where it is that of missing PROMISED; between them, and beyond, by its ratio to one
    marginal's.
    """
    marginal = 1 - ndtr(levels)
    ratio = np.interp(levels, box, (1 - PROMISED) / (1 - ndtr(box)))
    return np.minimum.accumulate(np.minimum(ratio * marginal, 1.0))


def _distinct(box: Array, confidence: float) -> list[int]:
    """Of each level among PROMISED's the confidence that counts: the first that is asked for or more, else the last."""
    chosen: list[int] = []
    for level in np.unique(box):
        same = np.flatnonzero(box == level)
        enough = same[PROMISED[same] >= confidence]
        chosen.append(int(enough[0] if enough.size else same[-1]))
    return chosen


def _moved(levels: Array, box: Array, limit: Array) -> Array:
    """Levels (scenario) stretched so that `box` comes to `limit`: the logarithm is linear between."""
    stretch = np.interp(levels, [BEGIN * box[0], *box], [0.0, *np.log(limit / box)])
    return np.maximum.accumulate(levels * np.exp(stretch))


def _value(grid: Array, z: Array) -> Array:
    """Quantiles at z of a grid (21), beyond the last level along a straight line."""
    return np.interp(z, [*Z, FAR], [*grid, grid[-1] + _slope(grid) * (FAR - Z[-1])])


def _needed(grid: Array, y: Array) -> Array:
    """The level (metric) at which a grid (metric, 21) reaches y (metric); NaN where y is."""
    at = np.clip((grid < y[:, None]).sum(-1), 1, LEVELS - 1)[:, None]
    left, right = (np.take_along_axis(grid, i, -1)[:, 0] for i in (at - 1, at))
    share = np.clip((y - left) / np.where(right > left, right - left, 1), 0, 1)
    inside = Z[at[:, 0] - 1] + share * (Z[1] - Z[0])
    top = grid[:, -1]
    z = np.where(y > top, Z[-1] + (y - top) / _slope(grid), inside)
    return np.where(np.isnan(y + top), np.nan, z)


def _slope(grid: Array) -> Array:
    """Of the line beyond the end; a thousandth of the value at least, so that a constant total can be passed."""
    top = grid[..., -1]
    return np.maximum((top - grid[..., _TAIL]) / (Z[-1] - Z[_TAIL]), 1e-3 * top + 1e-9)


def _learnt(state: State, usage: Array, k: int) -> Array:
    """Odds (part, metric) after the outcome of step k: along the pinball loss of each level."""
    one, other = state["sum"][:, k].astype(np.float64), state["total"][:, k].astype(np.float64)
    y = usage[:, None]
    marginal = _marginal(one, other, state["odds"])
    known = ~np.isnan(y + marginal)
    ascent = np.where(y > marginal, _LEVEL, np.where(y < marginal, _LEVEL - 1, 0.0))
    width = np.abs(one[:, 14] - one[:, 6]) + np.abs(other[:, 14] - other[:, 6])  # z from -1.4 to 1.4
    spread = width[:, None] + 1e-9
    pull = np.where(known, np.clip((other - one) / spread, -PULL_LIMIT, PULL_LIMIT) * ascent * _EVEN, 0.0)
    kept = np.where(known.any(axis=1), ODDS_KEPT, 1.0)
    return kept * state["odds"] + ODDS_GAIN * np.einsum("mz,pz->pm", pull, _PARTS)


@lru_cache(maxsize=4)
def _levels(scenarios: int) -> Array:
    """Normal scores of the ranks, at the middle of each rank's share of probability, (scenario)."""
    return ndtri((np.arange(scenarios) + 0.5) / scenarios)
