"""An app's demand: its users' summed scenarios and its own forecast, averaged and corrected online by outcomes.

Per metric and step, at the standard-normal level z:

    sum         a(z), quantiles of the simulated sum of the users, which knows each user's state
    total       b(z), the app's own forecast, which knows the errors of totals
    marginal    q(z) = a + w (b - a), w = sigmoid(odds): one quantile function (comonotone, "Vincentised")
    experts     q(z) + v (e(z) - q(z)) of governed metrics, where a weight v is asked for: e(z) from the same time of
                the last 14 days (`models.demand.same_time`); elsewhere, and where there is no e, q as it is
    scenarios   keep their ranks, and with them the dependence; the one at level z gets q(z exp(stretch(z)))

Learnt from outcomes, of one decision at a time, from its tick until its last step:

    odds     per app, metric and part of the distribution along the pinball loss: CRPS learning (Berrisch and Ziel
             2021), decaying to equal weights, which are hard to improve on (`ODDS_KEPT`)
    stretch  per metric, of the level that holds jointly with the first of PROMISED, a part of all apps and one of the
             app: adaptive conformal inference (Gibbs and Candès 2021) of the promise that demand stays within the
             required curves at all steps and governed metrics together
    tail     per metric, how far the limits of rarer misses lie beyond: log(needed / limit), averaged over the decisions
             that missed the limit, is Hill's estimator (1975) of the tail's index, and index × log(odds of a miss
             fewer) Weissman's extrapolation (1978). An app's own misses are averaged with those of all apps, weighted
             by their number, so that an app with narrow misses does not pay for the bursts of others. The remaining
             error at the rarer levels, of all apps, is again corrected by adaptive conformal inference
    largest  per app, day and metric, the largest demand measured: an upper bound of scenarios, apart from growth; in an
             app's first day the bound is of the horizon's largest (`models.demand.extremes`)
    hidden   demand of users who fell silent and were not replaced (`models.demand.turnover`)

Which marginal is learnt from. Odds, what all apps share, the tail and the app's own `stretch` are learnt from the
static marginal, without experts, at every weight in force: what is learnt is a function of the demand that came, a
return to static finds the state that static would have, and other apps' promises do not depend on an app's experts.
The promise of a plan is that of the marginal that it was made from. So each of WEIGHTS has an own stretch and an own
limit at the first of PROMISED beside static's, learnt by the same rule from the same decisions, whichever is in force:
each weight's promise is held by the outcomes of its own marginal, and no two integrators act on one.

Each metric has a share of the misses allowed: the share of failed scenarios in which its own curve fails. A miss is
divided equally among the metrics that missed, so that the shares add up to the promise.
Beyond the grid's last level, 3.5, quantile functions are extended as straight lines: a user's first burst passes it.

Arrays are (metric, step, ...), metrics in the order of `features.METRICS`; demand is (scenario, step, metric).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
WEIGHTS: Final = (0.25, 0.5, 1.0)  # of experts, beside 0; a new one goes to the end

_LEVEL: Final = ndtr(Z.astype(float))
_PARTS: Final = parts(Z).astype(float)
_EVEN: Final = 0.5 / np.sqrt(_LEVEL * (1 - _LEVEL))  # far levels' losses are small
_TAIL: Final = LEVELS - 5  # the grid's slope beyond its end is that from 2.1 to 3.5: one interval's is noise


def initial_state() -> State:
    """State of a new app: sum and total weigh the same, no stretch, no miss of its own, no decision followed."""
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
    """Initial state that all apps share: stretch (metric, promised), misses and their log excess (metric)."""
    misses = np.full(len(METRICS), COMMON_PRIOR)
    return {"stretch": np.tile(STRETCH, (len(METRICS), 1)), "misses": misses, "excess": INDEX * misses}


def initial_experts(state: State) -> State:
    """What is learnt beside `state` where experts are asked for; it begins as static, and is kept with `state`.

    expert: (METRICS, step, 21) their quantiles when the decision that is followed was made, NaN = none;
    expert_stretch, expert_limit, expert_worst: (weight, METRICS) of each of WEIGHTS as `stretch`, the first of
    `limit`, and `worst` are of static.
    """
    none = np.full((len(WEIGHTS), len(METRICS)), np.nan)
    return {
        "expert": np.full((len(METRICS), STEPS, LEVELS), np.nan, np.float32),
        "expert_stretch": np.tile(state["stretch"], (len(WEIGHTS), 1)),
        "expert_limit": none,
        "expert_worst": none,
    }


def stretched(state: State, common: State, own: Array | None = None) -> Array:
    """Log of the limits at PROMISED over the level that holds jointly with the first of them, (METRICS, promised).

    Args:
        state: of the app.
        common: of all apps.
        own: (METRICS) the app's own stretch; None: static's.
    """
    own = state["stretch"] if own is None else own
    index = OWN_PRIOR * common["excess"] / common["misses"] + state["excess"]
    index = np.maximum(index / (OWN_PRIOR + state["misses"]), NORMAL_INDEX)
    beyond = index[:, None] * BEYOND
    beyond[:, 1:] += common["stretch"][:, 1:]
    total = common["stretch"][:, :1] + own[:, None] + beyond
    return np.clip(np.maximum.accumulate(total, axis=1), -STRETCH_LIMIT, STRETCH_LIMIT)


@dataclass(frozen=True)
class Experts:
    """Quantiles that are averaged into the marginals of governed metrics.

    Attributes:
        quantiles: (METRICS, step, 21) float32 at the grid's levels, NaN = none: the weight there is 0.
        weights: 0 or one of WEIGHTS each; scenarios are made for all of them, the first is that in force.
    """

    quantiles: NDArray[np.float32]
    weights: Sequence[float] = (0.0,)

    def __post_init__(self) -> None:
        for weight in self.weights:
            if weight and weight not in WEIGHTS:
                known = ", ".join(f"{w:g}" for w in (0, *WEIGHTS))
                raise ValueError(f"an expert's weight is one of {known}, got {weight:g}")


@dataclass(frozen=True)
class Decision:
    """Scope of a decision.

    Attributes:
        metrics: of its demand, as indices of METRICS.
        governed: those of them that the promise covers, likewise.
        window: steps that the promise covers.
        confidence: asked for; it selects the limit where several of PROMISED fall on one level, as they do with few
            scenarios.
        tick: in which the decision is made.
        tick_s: tick length in seconds.
        experts: averaged into the marginals; None: static, and nothing is learnt of experts.
        estimated: (METRICS) demand of the tick where it is not measured for silent users: bounds lie above it; None:
            it is measured.
        of_apps: the demand is of several apps, each of which was reconciled. It has their forecasts and margins, so
            that only what its own outcomes have taught moves it: another prior margin would count twice.
    """

    metrics: Sequence[int]
    governed: Sequence[int]
    window: slice
    confidence: float
    tick: int
    tick_s: int
    experts: Experts | None = None
    estimated: Array | None = None
    of_apps: bool = False


def reconcile(
    demand: NDArray[np.float32],
    total: QuantileFunction,
    state: State,
    common: State,
    decision: Decision,
) -> tuple[NDArray[np.float32], State]:
    """Corrected scenarios (scenario, step, metric) float32 of an app's demand, and the app's state after the decision.

    The decision's outcome is followed if no earlier decision is being followed.

    Args:
        demand: (scenario, step, metric) float32, the users' sum, not negative.
        total: (metric, step) the app's own forecast; where it is NaN, the sum alone counts.
        state: of the app.
        common: state that all apps share.
        decision: that the scenarios are for.
    """
    scenarios, after = reconcile_each(demand, total, state, common, decision)
    return scenarios[0], after


def reconcile_each(
    demand: NDArray[np.float32],
    total: QuantileFunction,
    state: State,
    common: State,
    decision: Decision,
) -> tuple[list[NDArray[np.float32]], State]:
    """`reconcile` at each of the experts' weights, from one ranking of the scenarios; that in force comes first.

    The state does not depend on the weights.
    """
    rising, order = ranked(demand)
    scenarios = demand.shape[0]
    grid = _grid(rising)
    other = np.maximum(total.grid().astype(np.float64), 0)
    known = np.isfinite(other[..., 0]) & (not decision.of_apps)
    other = np.where(known[..., None], other, grid)
    index, window, experts = list(decision.metrics), decision.window, decision.experts
    marginal = _marginal(grid, other, state["odds"][:, index])
    state = _with_experts(state, experts)

    ranks = np.empty_like(order, np.int32)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(scenarios, dtype=np.int32), order.shape), -1)
    inside = [index.index(m) for m in decision.governed]
    box, share = _promise(ranks[inside][:, window], scenarios)
    levels = _levels(scenarios)
    own = {0.0: state["stretch"]}
    if experts is not None:
        own |= dict(zip(WEIGHTS, state["expert_stretch"], strict=True))
    if decision.of_apps:
        limits = {weight: box * np.exp(of[index, None]) for weight, of in own.items()}
    else:
        limits = {weight: box[0] * np.exp(stretched(state, common, of)[index]) for weight, of in own.items()}
    bounding = state if decision.estimated is None else extremes.raised(state, decision.estimated)
    most = extremes.most(bounding, 1 - ndtr(levels), decision.tick_s, INDEX)
    chosen = _distinct(box, decision.confidence)
    jointly = _jointly(levels, box[chosen], PROMISED[chosen])
    within_horizon = jointly / max(len(inside), 1)  # a metric's share of the misses
    most = np.minimum(most, extremes.horizon_most(bounding, within_horizon, decision.tick_s))[index]
    ranking = _Ranking(order, levels, box, chosen, most)
    if experts is None:
        results = [ranking.scenarios(marginal, limits[0.0], range(len(index)))]
    else:
        results = _with_each(ranking, marginal, limits, inside, experts.quantiles[index], experts.weights)

    after = dict(state)
    if state["made"][0] == NONE and inside:
        full = initial_state()
        after |= {name: full[name] for name in ("sum", "total", "limit", "share", "worst")}
        after["sum"][index], after["total"][index] = grid, other
        governed = list(decision.governed)
        after["limit"][governed], after["share"][governed] = limits[0.0][inside], share
        after["made"], after["window"] = np.array([decision.tick]), np.array([window.start, window.stop])
        if experts is not None:
            full = initial_experts(state)
            after |= {name: full[name] for name in ("expert_limit", "expert_worst")}
            after["expert"] = experts.quantiles
            after["expert_limit"][:, governed] = [limits[weight][inside, 0] for weight in WEIGHTS]
    return [np.ascontiguousarray(result.transpose(2, 1, 0)) for result in results], after


def _with_experts(state: State, experts: Experts | None) -> State:
    """The state of one for whom experts are asked for or not."""
    if experts is None:
        return {name: array for name, array in state.items() if not name.startswith("expert")}
    if "expert" not in state:
        return state | initial_experts(state)
    kept = len(state["expert_stretch"])
    if kept == len(WEIGHTS):
        return state
    fresh = initial_experts(state)  # of weights that a snapshot does not know yet
    names = ("expert_stretch", "expert_limit", "expert_worst")
    return state | {name: np.concatenate([state[name], fresh[name][kept:]]) for name in names}


@dataclass(frozen=True)
class _Ranking:
    """Ranks of an app's scenarios, and what their levels come to; the same for every marginal.

    order: (metric, step, scenario) which scenario each rank is; levels: (scenario) normal score of each rank;
    box: (promised) levels that hold jointly; chosen: those of PROMISED that count; most: (metric, scenario) the largest
    demand at each level.
    """

    order: NDArray[np.intp]
    levels: Array
    box: Array
    chosen: Sequence[int]
    most: Array

    def scenarios(self, marginal: Array, limit: Array, metrics: Sequence[int]) -> NDArray[np.float32]:
        """Scenarios (metric, step, scenario) of marginals (metric, step, 21) and limits (metric, promised).

        metrics: places of those that are made; the others' are not set.
        """
        made = np.empty(self.order.shape, np.float32)
        for m in metrics:
            moved = _moved(self.levels, self.box[self.chosen], limit[m, self.chosen])
            for k in range(marginal.shape[1]):
                made[m, k][self.order[m, k]] = np.minimum(_value(marginal[m, k], moved), self.most[m])
        return made


def _with_each(
    ranking: _Ranking,
    marginal: Array,
    limits: Mapping[float, Array],
    inside: Sequence[int],
    expert: NDArray[np.float32],
    weights: Sequence[float],
) -> list[NDArray[np.float32]]:
    """Scenarios at each of the experts' weights; of metrics that are not governed those of static, made once.

    Args:
        ranking: of the scenarios.
        marginal: (metric, step, 21) of static.
        limits: (metric, promised) by weight.
        inside: places of the governed metrics.
        expert: (metric, step, 21), NaN = none.
        weights: 0 or of WEIGHTS.
    """
    needed = [m for m in range(len(marginal)) if m not in inside or 0 in weights]
    static = ranking.scenarios(marginal, limits[0.0], needed)
    results: list[NDArray[np.float32]] = []
    for weight in weights:
        result = static
        if weight:
            result = ranking.scenarios(_weighed(marginal, expert, weight), limits[weight], inside)
            others = [m for m in range(len(marginal)) if m not in inside]
            result[others] = static[others]
        results.append(result)
    return results


def observe(
    state: State, common: State, usage: Array, proved: Array, tick: int, tick_s: int
) -> tuple[State, State]:
    """The app's state and the one that all apps share, after a tick's usage.

    Usage of a tick that is a step of the followed decision is its outcome; after the last step the decision is closed.

    Args:
        state: of the app.
        common: state that all apps share.
        usage: (METRICS) of the app in the tick; NaN = not known, or only a lower bound of demand.
        proved: (METRICS) least demand that usage proves, lower bounds included; NaN = not measured.
        tick: its number.
        tick_s: its length in seconds.
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
            if "expert" in state:
                needed = [
                    _needed(_weighed(marginal, state["expert"][:, k], weight), usage) for weight in WEIGHTS
                ]
                after["expert_worst"] = np.fmax(state["expert_worst"], needed)
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
        if "expert" in state:
            after["expert_stretch"] = _own_stretch(after)
        common = {"stretch": common["stretch"] + COMMON_GAIN * error} | _remembered(common, missed, excess)
        after["made"] = np.array([NONE])
    return after, common


def _own_stretch(state: State) -> Array:
    """Own stretch (weight, METRICS) at each of WEIGHTS after a decision's last step, by the rule of static's."""
    worst, limit = state["expert_worst"], state["expert_limit"]
    miss = worst > limit
    shared = miss / np.maximum(miss.sum(axis=1, keepdims=True), 1)
    scored = ~np.isnan(worst + limit)
    error = np.where(scored, shared - state["share"] * (1 - PROMISED[0]), 0.0)
    return np.clip(state["expert_stretch"] + OWN_GAIN * error, -STRETCH_LIMIT, STRETCH_LIMIT)


def _weighed(marginal: Array, expert: NDArray[Any], weight: float) -> Array:
    """Quantiles (..., 21) averaged with an expert's by its weight, level by level; where that has none, as they are."""
    return np.where(np.isnan(expert), marginal, marginal + weight * (expert - marginal))


def _remembered(kept: State, missed: NDArray[np.bool_], excess: Array) -> State:
    """Misses and their log excess (metric) with those of one decision; both are scaled down to REMEMBERED misses."""
    misses = kept["misses"] + missed
    fade = np.minimum(1.0, REMEMBERED / np.maximum(misses, 1.0))
    return {"misses": fade * misses, "excess": fade * (kept["excess"] + excess)}


def lower_bound(held: NDArray[Any], usage: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether usage only bounds demand from below, in its shape; held: the part by saturated users; NaN counts as 0."""
    return np.nan_to_num(held) > SATURATED_SHARE * np.nan_to_num(usage)


class Measured(NamedTuple):
    """Demand as far as a tick's usage tells it, each in the usage's shape.

    bounded: whether usage only bounds demand from below; known: the usage where it is the demand, else NaN;
    proved: float64, the least demand that usage proves, NaN = not measured.
    """

    bounded: NDArray[np.bool_]
    known: NDArray[Any]
    proved: Array


def measured(usage: NDArray[Any], held: NDArray[Any]) -> Measured:
    """Demand that usage (..., metric) tells; held: the part of it by saturated users, NaN counts as 0."""
    bounded = lower_bound(held, usage)
    proved = floor_demand(usage.astype(np.float64), np.nan_to_num(held).astype(np.float64))
    return Measured(bounded, np.where(bounded, np.nan, usage), proved)


def ranked(demand: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Demand sorted over the scenarios, and the scenario of each value, both (metric, step, scenario).

    Ties keep their order on every machine: the keys sorted are a value's bits, which rise with it where it is not
    negative, followed by its index. They sort in vector registers, which a stable sort of floats does not.

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
    """Quantiles at the grid's levels (..., 21) of values sorted over the last axis, linear between two ranks."""
    scenarios = rising.shape[-1]
    position = np.clip(_LEVEL * scenarios - 0.5, 0, scenarios - 1)
    low = np.minimum(position.astype(int), scenarios - 2)
    return rising[..., low] + (position - low) * (rising[..., low + 1].astype(np.float64) - rising[..., low])


def _marginal(one: NDArray[Any], other: NDArray[Any], odds: Array) -> Array:
    """Weighted average of two grids (metric, ..., 21), made non-decreasing; odds (part, metric) of the second."""
    weight = 1 / (1 + np.exp(-np.einsum("pm,pz->mz", odds, _PARTS)))
    weight = weight.reshape(len(weight), *[1] * (one.ndim - 2), LEVELS)
    return np.maximum.accumulate(one + weight * (other - one), axis=-1)


def _promise(ranks: NDArray[np.int32], scenarios: int) -> tuple[Array, Array]:
    """Standard-normal levels that hold jointly with PROMISED (promised), and each metric's share of failures (metric).

    ranks: (metric, step, scenario) of the governed metrics in the promise's window.
    """
    if not ranks.size:
        return ndtri(PROMISED), np.zeros(len(ranks))
    by_metric = ranks.max(axis=1)
    worst = np.sort(by_metric.max(axis=0))
    needed = np.ceil(PROMISED * scenarios - 1e-9).astype(int) - 1
    failed = (by_metric > worst[needed[0]]).mean(axis=1)
    share = failed / failed.sum() if failed.any() else np.full(len(ranks), 1 / len(ranks))
    return ndtri((worst[needed] + 0.5) / scenarios), share


def _jointly(levels: Array, box: Array, promised: Array) -> Array:
    """Probability that at least one step and governed metric exceeds its marginal quantile, at each of the levels.

    At the levels `box`, each another, it is 1 - promised; between and beyond them its ratio to a single marginal's
    probability is interpolated.
    """
    marginal = 1 - ndtr(levels)
    ratio = np.interp(levels, box, (1 - promised) / (1 - ndtr(box)))
    return np.minimum.accumulate(np.minimum(ratio * marginal, 1.0))


def _distinct(box: Array, confidence: float) -> list[int]:
    """Index into PROMISED for each distinct level of `box`: the first at or above `confidence`, else the last."""
    chosen: list[int] = []
    for level in np.unique(box):
        same = np.flatnonzero(box == level)
        enough = same[PROMISED[same] >= confidence]
        chosen.append(int(enough[0] if enough.size else same[-1]))
    return chosen


def _moved(levels: Array, box: Array, limit: Array) -> Array:
    """Levels (scenario) stretched so that those of `box` become `limit`; the log of the factor is linear between."""
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
    """Slope of the line beyond the grid's end, at least a thousandth of the value: a constant total can be exceeded."""
    top = grid[..., -1]
    return np.maximum((top - grid[..., _TAIL]) / (Z[-1] - Z[_TAIL]), 1e-3 * top + 1e-9)


def _learnt(state: State, usage: Array, k: int) -> Array:
    """Odds (part, metric) after usage (metric), the outcome of step k: a gradient step on each level's pinball loss."""
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
