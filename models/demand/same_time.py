"""An expert for an app's total: what the app used at the same time of the last 14 days.

Demand that follows a schedule, such as a job at each half hour, comes back at the same time of the day, which a network
that sees the last hours does not know. Of the target tick t of one step and one metric, with u the usage and D a day,

    samples     u(t - d D + j b)       d = 1 .. 14 days, j = -1, 0, 1 bins of b seconds: 42 values at most
    expert      e(z), their empirical quantile at the probability of z, for the 21 levels of the grid

A value that was not measured is left out; where fewer than 3 days have any, there is no expert (NaN). Between two order
statistics quantiles are straight lines, at the probabilities (i + 1/2) / n, as those of scenarios are; beyond them the
extreme value stands, since the line beyond the grid's end is that of the marginal that this is averaged into
(`models.demand.reconciliation`). Quantiles are averaged at each level, so that a schedule that is certain moves the
whole distribution, and a mixture's second mode is not made.

A bin is a tick, or as many ticks as make 60 seconds. Of a bin of several ticks one tick is kept, not their mean:
spread and peaks of a tick are what capacity has to serve. Its place in the bin moves on by one each day.

Usage is kept in 16 bits: 6 of exponent and 10 of mantissa of float32, 2^-14 to 2^50 in units of the metric, with a
relative error of at most 2^-11 = 0.05 %; less is 0. Only metrics that the app has reported are kept. That is 14 days of

    ticks of          10 s     60 s     300 s
    values a metric   20,162   20,162   4,034
    bytes a metric    40,324   40,324   8,068

so an app of four metrics has 161 KB at ticks of 10 and 60 s, and 32 KB at 300 s.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from models.metrics import DAY_S, METRICS, MINUTE_S
from models.quantile_function import LEVELS, Z

Array = NDArray[np.float64]
Codes = NDArray[np.uint16]
State = dict[str, NDArray[Any]]

DAYS: Final = 14
LEAST_DAYS: Final = 3
NEIGHBOURS: Final = (-1, 0, 1)  # bins
ABSENT: Final = 65_535  # the code of a value that was not measured
_MANTISSA: Final = 13  # bits of float32's mantissa that are dropped
_BIAS: Final = (127 - 14) << 10  # of the exponent, in codes
_LEVEL: Final = ndtr(Z.astype(float))


def bin_ticks(tick_s: int) -> int:
    """Ticks of a bin: as few as make a minute."""
    return -(-MINUTE_S // tick_s)


def slots(tick_s: int) -> int:
    """Bins that are kept: 14 days, the present one, and one for a day that is no whole number of bins."""
    return -(-DAYS * DAY_S // (bin_ticks(tick_s) * tick_s)) + 2


def initial_state(tick_s: int) -> State:
    """Of an app of which nothing was measured.

    tick_s: length of its ticks in seconds; newest: number of the newest bin, -1 = none; usage: (METRICS, slot) codes
    of 16 bits, that of bin n at slot n modulo the slots. A metric has slots from its first measured value on: the
    others' rows are not kept (`rows`, of METRICS, says which there are).
    """
    return {
        "tick_s": np.array([tick_s]),
        "newest": np.array([-1]),
        "rows": np.zeros(len(METRICS), np.bool_),
        "usage": np.zeros((0, slots(tick_s)), np.uint16),
    }


def observe(state: State, usage: NDArray[Any], tick: int, tick_s: int) -> State:
    """State after a tick; the array of usage is written in place, so that a tick costs no copy of 14 days.

    A tick before the newest bin changes nothing; after a change of the tick's length all begins anew.

    Args:
        state: of the app.
        usage: (METRICS) of the app in the tick, where it is a lower bound the demand that it proves; NaN = not
            measured.
        tick: its number.
        tick_s: its length in seconds.
    """
    if int(state["tick_s"][0]) != tick_s:
        state = initial_state(tick_s)
    each = bin_ticks(tick_s)
    slot, newest = tick // each, int(state["newest"][0])
    if tick % each != tick * tick_s // DAY_S % each or slot <= newest:
        return state
    known = ~np.isnan(usage)
    rows, kept = state["rows"], state["usage"]
    size = kept.shape[1]
    if (known & ~rows).any():
        wider = np.full((len(METRICS), size), ABSENT, np.uint16)
        wider[rows] = kept
        rows = rows | known
        kept = wider[rows]
    skipped = min(slot - newest, size) if newest >= 0 else 0
    kept[:, (slot - np.arange(skipped)) % size] = ABSENT
    kept[:, slot % size] = packed(usage[rows])
    return state | {"newest": np.array([slot]), "rows": rows, "usage": kept}


def quantiles(state: State, tick: int, steps: tuple[int, ...], tick_s: int) -> NDArray[np.float32]:
    """The expert's forecasts (METRICS, step, 21) float32 at the grid's levels, never falling; NaN where there is none.

    Args:
        state: of the app, after the tick.
        tick: in which the forecast is made.
        steps: ticks ahead.
        tick_s: length of a tick in seconds.
    """
    result = np.full((len(METRICS), len(steps), LEVELS), np.nan, np.float32)
    rows, newest = state["rows"], int(state["newest"][0])
    if not rows.any() or int(state["tick_s"][0]) != tick_s:
        return result
    each, size = bin_ticks(tick_s), state["usage"].shape[1]
    back = np.rint(np.arange(1, DAYS + 1) * DAY_S / (each * tick_s)).astype(np.int64)
    target = (tick + np.array(steps)) // each
    at = target[:, None, None] - back[:, None] + np.array(NEIGHBOURS)  # (step, day, neighbour)
    codes = np.where((at <= newest) & (at > newest - size), state["usage"][:, at % size], np.uint16(ABSENT))
    days = (codes != ABSENT).any(axis=-1).sum(axis=-1)
    # codes rise with the values, and that of no value is the largest
    rising = np.sort(codes.reshape(*codes.shape[:2], -1), axis=-1)
    count = (rising != ABSENT).sum(axis=-1)[..., None]
    position = np.clip(_LEVEL * count - 0.5, 0, np.maximum(count - 1, 0))
    low = position.astype(np.int64)
    values = unpacked(rising).astype(np.float64)
    left = np.take_along_axis(values, low, -1)
    right = np.take_along_axis(values, np.minimum(low + 1, np.maximum(count - 1, 0)), -1)
    expert = left + (position - low) * (right - left)
    result[rows] = np.where((days >= LEAST_DAYS)[..., None], expert, np.nan)
    return np.maximum.accumulate(result, axis=-1)


def newest(state: State, bins: int) -> NDArray[np.float32]:
    """Usage (METRICS, bin) of the newest bins that are kept, the oldest first; NaN = not measured.

    Args:
        state: of the app.
        bins: as many at most; fewer where the history is shorter.
    """
    last, kept = int(state["newest"][0]), state["usage"]
    bins = min(bins, kept.shape[1], last + 1)
    result = np.full((len(METRICS), bins), np.nan, np.float32)
    result[state["rows"]] = unpacked(kept[:, np.arange(last + 1 - bins, last + 1) % kept.shape[1]])
    return result


def packed(usage: NDArray[Any]) -> Codes:
    """Values of 0 or more as codes, which rise with them; NaN is ABSENT, and values beyond 2^50 are as the largest."""
    single = np.nan_to_num(np.maximum(usage, 0)).astype(np.float32)
    bits = (single.view(np.uint32).astype(np.int64) + (1 << _MANTISSA >> 1)) >> _MANTISSA
    codes = np.clip(bits - _BIAS, 0, ABSENT - 1)
    return np.where(np.isnan(usage), ABSENT, codes).astype(np.uint16)


def unpacked(codes: Codes) -> NDArray[np.float32]:
    """The values of codes; ABSENT is NaN."""
    bits = (codes.astype(np.uint32) + np.uint32(_BIAS)) << np.uint32(_MANTISSA)
    values = np.where(codes == 0, np.float32(0), bits.view(np.float32))
    return np.where(codes == ABSENT, np.float32(np.nan), values)
