"""How far demand may go beyond the most that was seen: of what is simulated, nothing goes further.

Of n + 1 exchangeable ticks the last is the largest with probability 1 / (n + 1), whatever their distribution. So what
is as likely as 1 / n or more lies below the largest of n ticks, but for growth; what is less likely lies beyond it as
far as the tail is heavy (Weissman 1978, with the index of `models.demand.reconciliation`). Growth is what a day's
largest was over that of the week before it: the most of a week, and a tenth at least. A network that has learnt from
other machines multiplies a burst by their bursts, and knows nothing of where this app has always ended.

An app's first day knows no bound, nor does a week after one without demand.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import DAY_S, METRICS

Array = NDArray[np.float64]
State = dict[str, NDArray[Any]]

WEEK: Final = 8  # days: today and the seven before it
DAYS: Final = 2 * WEEK - 1  # of each day of a week, the week before
GROWTH: Final = 1.1


def initial_state() -> State:
    """Of an app that is new: newest day, and each day's largest demand (day, METRICS), the newest last."""
    return {"day": np.zeros(1, np.int64), "largest": np.zeros((DAYS, len(METRICS)))}


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
    return {"day": np.maximum(state["day"], day), "largest": largest}


def most(state: State, probability: Array, tick_s: int, index: float) -> Array:
    """Demand (METRICS, ...) that is exceeded with a probability (...) at most; infinite where nothing bounds it.

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
    bound = np.where(known[-1], week.max(axis=0) * np.maximum(growth, GROWTH), np.inf)
    return bound.reshape(-1, *[1] * probability.ndim) * np.maximum(rarer, 1.0)
