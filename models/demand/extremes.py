"""How far demand may go beyond the most that was seen: of what is simulated, nothing goes further.

Of n + 1 exchangeable ticks the last is the largest with probability 1 / (n + 1), whatever their distribution. So what
is as likely as 1 / n or more lies below the largest of n ticks, but for growth; what is less likely lies beyond it as
far as the tail is heavy (Weissman 1978, with the index of `models.demand.reconciliation`). Growth is what a day's
largest was over that of the week before it: the most of a week, and a tenth at least. A network that has learnt from
other machines multiplies a burst by their bursts, and knows nothing of where this app has always ended.

An app's first day knows neither what is rare nor its growth. There the predictive distribution of how far the largest
of the next horizon, X, passes the largest seen so far, M, bounds demand. Counted in slots of a sixth of the horizon, of
which n are known,

    P(log(X / M) > x) = r / (1 + x / s)      r = 6 / (6 + n)      x(p) = s (r / p - 1), p at most LIKELY

r is that of exchangeable slots, of which the six to come have the largest. Beyond, excesses are Pareto in logarithms:
exponential ones of unknown scale are (Lomax 1954), and index 1 is what training traces show. The scale s is the app's
own Hill estimate (1975), the mean log ratio of its √n largest slots to the next one, shrunk to that of all. So an app
that has been steady is bounded within half an hour, and one that bursts or grows, whose largest slots lie far apart,
hardly ever. How the fit was made: docs/decisions/0019-an-apps-first-day.md.

An app of which all that is measured is zero, and that never came back from there, ends within a horizon: its demand is
at most the mean of its last six slots, and with each zero less. A week without demand knows no bound.
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
EXCESS_LIMIT: Final = 50.0  # of x: exp(50) bounds nothing
LIKELY: Final = 0.02
"""What is likelier is bounded as this is: such levels are known from forecasts, and demand that rises for hours passes
its largest with every slot."""


def initial_state() -> State:
    """Of an app that is new.

    day: the newest; largest: of each day the largest demand (day, METRICS), the newest last; slot: the newest; first:
    the one in which the demand of these days began (METRICS); recent: largest demand of each of the last slots (slot,
    METRICS), the newest last, NaN where not measured; ended: whether all that is measured is zero after there was
    some; returned: whether it ever came back from there.
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
        tick_s: its length.
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


def _slot_ticks(tick_s: int) -> int:
    """Ticks of a slot: a sixth of the horizon."""
    return -(-horizon_steps(tick_s)[-1] // STEPS)


def new(state: State, tick_s: int) -> NDArray[np.bool_]:
    """Whether the demand of a metric (METRICS) began less than a day ago."""
    return np.asarray((state["slot"] - state["first"]) * _slot_ticks(tick_s) * tick_s < DAY_S)


def horizon_most(state: State, probability: Array, tick_s: int) -> Array:
    """Demand (METRICS, ...) that a whole horizon exceeds with a probability (...) at most.

    Of a metric in its first day, and of one at zero; infinite where nothing bounds it.

    Args:
        state: of the app.
        probability: see there.
        tick_s: of a tick.
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
    """Scale of the log excess over the largest of an app's slots, zeros apart; see the module."""
    rising = np.sort(slots[slots > 0])
    count = math.isqrt(len(rising)) if len(rising) > 1 else 0
    own = float(np.log(rising[len(rising) - count :] / rising[-count - 1]).sum()) if count else 0.0
    return (SCALE_WEIGHT * SCALE + own) / (SCALE_WEIGHT + count)


def most(state: State, probability: Array, tick_s: int, index: float) -> Array:
    """Demand (METRICS, ...) that is exceeded with a probability (...) at most; infinite where nothing bounds it.

    Of a metric that is known for a day or more.

    Args:
        state: of the app.
        probability: see there.
        tick_s: of a tick.
        index: of the tail, beyond what was seen.
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
