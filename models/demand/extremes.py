"""Upper bounds of an app's simulated demand, from the largest demand that was measured.

Of n + 1 exchangeable ticks the last is the largest with probability 1 / (n + 1), whatever their distribution. So demand
of probability 1 / n or more is at most the largest of n ticks, apart from growth; rarer demand exceeds it by a factor
that the tail's index gives (Weissman 1978, with the index of `models.demand.reconciliation`). Growth is the largest
ratio, over a week, of a day's largest demand to that of the week before it, at least 1.1. The bound is needed because
a network trained on other machines forecasts their bursts, and does not know this app's limits.

In an app's first day neither rare demand nor growth is known. There the predictive distribution of how far the largest
demand of the next horizon, X, passes the largest so far, M, bounds demand. Counted in slots of a sixth of the horizon,
of which n are known,

    P(log(X / M) > x) = r / (1 + x / s)      r = 6 / (6 + n)      x(p) = s (r / p - 1), p at most LIKELY

r is that of exchangeable slots, of which the six to come have the largest. Beyond, excesses are Pareto in logarithms:
exponential ones of unknown scale are (Lomax 1954), and index 1 is what training traces show. The scale s is the app's
own Hill estimate (1975), the mean log ratio of its √n largest slots to the next one, shrunk to that of all apps. That
mean is one of gaps, i log(x_i / x_i+1) of the i-th largest, which of a Pareto tail are alike: each counts as GAP_LIMIT
at most, since a single wide one is two levels, as of a job that comes again and again, and no tail. So a steady app is
bounded within half an hour, and one that bursts or grows, whose largest slots lie far apart, hardly at all. How the fit
was made: docs/decisions/0019-an-apps-first-day.md.

An app whose measured demand is zero, and that never returned from zero, is taken to end: its demand is at most the mean
of its last six slots, which falls with each zero and is 0 after a horizon. After a week without demand there is no
bound.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import DAY_S, METRICS, STEPS, horizon_steps

Array = NDArray[np.float64]
State = dict[str, NDArray[Any]]

WEEK: Final = 8  # days: today and the seven before it
DAYS: Final = 2 * WEEK - 1  # of each day of a week, the week before
GROWTH: Final = 1.1
LONG_AGO: Final = -(2**31)  # a slot: of a state that does not know when its demand began
RECENT: Final = 60
"""Slots that are kept, an hour of ticks of a minute, and that count at most: demand drifts. Of 240 slots 4 to 8 % of
the horizons pass the largest in training, not 2 %. The scale comes from the seven largest of them."""
# Maximum likelihood over the training parts of six traces (cpu to requests, 1 to 224 users, ticks of 60 and 300 s),
# sources weighed as the square root of their samples.
SCALE: Final = 0.12  # of all apps,
SCALE_WEIGHT: Final = (
    0.2  # and the slots that it counts for beside an app's own: apps differ more than all say
)
GAP_LIMIT: Final = 0.5  # likeliest of 0.2 to 3; with it as many horizons pass their bound as without
EXCESS_LIMIT: Final = 50.0  # of x: exp(50) bounds nothing
LIKELY: Final = 0.02
"""What is likelier is bounded as this is: such levels are known from forecasts, and demand that rises for hours passes
its largest with every slot."""


def initial_state() -> State:
    """State of a new app.

    day: number of the newest day; largest: (day, METRICS) largest demand of each day, the newest last; slot: number of
    the newest slot; first: (METRICS) slot in which the demand of these days began; recent: (slot, METRICS) largest
    demand of each of the last slots, the newest last, NaN = not measured; ended: whether all measured demand is zero
    after there was some; returned: whether demand ever came back after that.
    """
    return {
        "day": np.zeros(1, np.int64),
        "largest": np.zeros((DAYS, len(METRICS))),
        "slot": np.zeros(1, np.int64),
        "first": np.full(len(METRICS), LONG_AGO),
        "recent": np.full((RECENT, len(METRICS)), np.nan),
        "ended": np.zeros(1, np.bool_),
        "returned": np.zeros(1, np.bool_),
    }


def observe(state: State, demand: Array, tick: int, tick_s: int) -> State:
    """State after a tick.

    Args:
        state: of the app.
        demand: (METRICS) in the tick, a lower bound where it is censored; NaN = not measured.
        tick: its number.
        tick_s: its length in seconds.
    """
    day = tick * tick_s // DAY_S
    passed = min(max(day - int(state["day"][0]), 0), DAYS)
    largest = np.concatenate([state["largest"][passed:], np.zeros((passed, len(METRICS)))])
    largest[-1] = np.fmax(largest[-1], demand)
    slot = tick // _slot_ticks(tick_s)
    passed = min(max(slot - int(state["slot"][0]), 0), RECENT)
    recent = np.concatenate([state["recent"][passed:], np.full((passed, len(METRICS)), np.nan)])
    recent[-1] = np.fmax(recent[-1], demand)
    measured, any_demand = not np.isnan(demand).all(), (demand > 0).any()
    ended = measured & ~any_demand & (largest > 0).any()
    return {
        "day": np.maximum(state["day"], day),
        "largest": largest,
        "slot": np.maximum(state["slot"], slot),
        "first": np.where((state["largest"] > 0).any(axis=0), state["first"], slot),
        "recent": recent,
        "ended": np.where(measured, ended, state["ended"]),
        "returned": state["returned"] | (state["ended"] & any_demand),
    }


def raised(state: State, demand: Array) -> State:
    """The state as if a demand (METRICS), NaN = not known, had been measured in its newest tick, for bounds alone.

    For demand that is estimated, where users are silent: what is not measured must not bound what is used meanwhile.
    """
    largest = state["largest"].copy()
    largest[-1] = np.fmax(largest[-1], demand)
    return state | {"largest": largest, "ended": state["ended"] & ~(demand > 0).any()}


def _slot_ticks(tick_s: int) -> int:
    """Ticks of a slot: a sixth of the horizon."""
    return -(-horizon_steps(tick_s)[-1] // STEPS)


def new(state: State, tick_s: int) -> NDArray[np.bool_]:
    """(METRICS) Whether the demand of a metric began less than a day ago."""
    return np.asarray((state["slot"] - state["first"]) * _slot_ticks(tick_s) * tick_s < DAY_S)


def horizon_most(state: State, probability: Array, tick_s: int) -> Array:
    """Demand (METRICS, ...) that the largest of a whole horizon exceeds with at most a probability.

    Bounds a metric in its first day, and one whose demand ended; infinite for others.

    Args:
        state: of the app.
        probability: (...) of exceeding the bound, above 0.
        tick_s: length of a tick in seconds.
    """
    bound = np.full((len(METRICS), *probability.shape), np.inf)
    recent, largest = state["recent"], state["largest"][-WEEK:].max(axis=0)
    for m in np.flatnonzero(new(state, tick_s) & (largest > 0)):
        slots = recent[~np.isnan(recent[:, m]), m]
        rate = STEPS / (STEPS + len(slots))
        excess = _scale(slots) * np.maximum(rate / np.minimum(probability, LIKELY) - 1, 0)
        bound[m] = largest[m] * np.exp(np.minimum(excess, EXCESS_LIMIT))
    if state["ended"][0] and not state["returned"][0]:
        known = ~np.isnan(recent)
        for m in np.flatnonzero(known[-1] & (known.sum(axis=0) > STEPS)):
            bound[m] = np.minimum(bound[m], np.nanmean(recent[-STEPS:, m]))
    return bound


def _scale(slots: Array) -> float:
    """Scale s of the module's formula, from an app's slots (slot); zeros are left out."""
    rising = np.log(np.sort(slots[slots > 0]))
    count = math.isqrt(len(rising)) if len(rising) > 1 else 0
    gaps = np.arange(count, 0, -1) * np.diff(rising[-count - 1 :]) if count else np.zeros(0)
    return (SCALE_WEIGHT * SCALE + float(np.minimum(gaps, GAP_LIMIT).sum())) / (SCALE_WEIGHT + count)


def most(state: State, probability: Array, tick_s: int, index: float) -> Array:
    """Demand (METRICS, ...) that a tick exceeds with at most a probability.

    Bounds a metric whose demand is known for a day or more; infinite for others.

    Args:
        state: of the app.
        probability: (...) of exceeding the bound.
        tick_s: length of a tick in seconds.
        index: of the tail beyond the largest measured demand.
    """
    largest = state["largest"]
    before = np.stack([largest[day : day + WEEK - 1].max(axis=0) for day in range(DAYS - WEEK + 1)])
    week, known = largest[-WEEK:], before > 0
    growth = np.where(known, week / np.where(known, before, 1.0), 1.0).max(axis=0)
    ticks = np.count_nonzero(week[:-1], axis=0) * (DAY_S / tick_s)
    rarer = np.maximum(np.multiply.outer(ticks, probability), 1e-12) ** -index
    known_long = known[-1] & ~new(state, tick_s)
    bound = np.where(known_long, week.max(axis=0) * np.maximum(growth, GROWTH), np.inf)
    return bound.reshape(-1, *[1] * probability.ndim) * np.maximum(rarer, 1.0)
