"""What the behaviour model sees: metrics, event kinds, horizon, calendar, a user's running statistics."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

METRICS: Final = ("cpu", "memory", "network", "disk", "requests")
METRIC_UNITS: Final = ("cores", "bytes", "bytes/s", "bytes/s", "1/s")
EVENT_KINDS: Final = ("API_CALL", "DB_QUERY", "INTERACTION", "OTHER")
STEPS: Final = 6
HORIZON_S: Final = 300.0  # below a tick of 60 s the last step reaches this (RECORDS, "Steps and horizon")
SATURATED_SHARE: Final = (
    0.98  # of its limit: from here a sample is a lower bound of demand (RECORDS, "Censoring")
)

DAY_S: Final = 86_400
SLOT_S: Final = 1_800  # the seasonal memory has one mean per half hour of the day
SLOTS: Final = DAY_S // SLOT_S

AHEAD: Final = (
    0,
    2,
    5,
)  # the steps whose half hour's mean is a feature; a half hour is coarse against a step

# What is kept of a user beside the LSTM's h and c: name -> shape. 347 float32 with the seasonal memory.
PER_METRIC: Final = (
    "last",  # newest value, units of the metric as all up to `peak`
    "recent",  # mean of the last few ticks
    "level",  # mean of about a day
    "root_change",  # mean of sqrt |change per tick| of about a day: the unit below is its square
    "change",  # mean |change per tick| of about a day
    "volatility",  # the same of the last few ticks
    "spread",  # mean |value - level| of about a day
    "peak",  # decaying maximum
    "repeats",  # share of samples equal to the one before
    "seen",  # samples so far
    "age",  # ticks since the last one
)
STATE: Final[dict[str, tuple[int, ...]]] = {
    **{name: (len(METRICS),) for name in PER_METRIC},
    "event_mean": (len(EVENT_KINDS),),
    "event_last": (len(EVENT_KINDS),),
    "ticks": (1,),
    "seasonal": (SLOTS, len(METRICS)),  # NaN: never seen in this half hour
    "seasonal_count": (SLOTS,),
}
FEATURES: Final = 21 * len(METRICS) + 4 * len(EVENT_KINDS) + 8

RECENT_RATE: Final = 0.25  # mean of about the last four ticks
VOLATILITY_RATE: Final = 0.1  # ten ticks
PRIOR_CHANGE: Final = 0.1  # a first sample is expected to change by a tenth of itself per tick, ...
PRIOR_WEIGHT: Final = 2.0  # ... which counts as two samples
SATURATED_DECAY: Final = (
    0.05  # a saturated sample below the last value pulls it down at most this much per tick
)
CHANGE_FLOOR: Final = 1e-3  # of the level: the finest change that scoring tells apart (SCORING, CRPS)
TINY: Final = 1e-9  # keeps an all-zero user's unit positive


def horizon_steps(tick_s: int) -> tuple[int, ...]:
    """Ticks ahead of the six forecast steps, strictly increasing.

    1 to 6 where a tick is 60 s or longer. Below, N = 300 s / tick and the grid is 1, 0.1 N, 0.2 N, 0.4 N,
    0.6 N, N, rounded (10 s: 1, 3, 6, 12, 18, 30), each more than the last (30 s: 1, 2, 3, 4, 6, 10).

    Raises:
        ValueError: the tick is not positive.
    """
    if tick_s <= 0:
        raise ValueError(f"tick_s must be positive, got {tick_s}")
    if tick_s >= 60:
        return tuple(range(1, STEPS + 1))
    n = math.ceil(HORIZON_S / tick_s)
    steps = [1]
    for share in (0.1, 0.2, 0.4, 0.6, 1.0):
        steps.append(max(steps[-1] + 1, round(share * n)))
    return tuple(steps)


def is_saturated(values: NDArray[np.floating[Any]], limits: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """True where usage is at 98 % of its limit or more; NaN in either is not saturated. Equal shapes."""
    return np.greater_equal(
        values, SATURATED_SHARE * limits, where=~np.isnan(limits), out=np.zeros(values.shape, bool)
    )


def slot(time_s: NDArray[np.integer[Any]] | int) -> Any:
    """Half hour of the (UTC) day, 0 to 47, of a unix time."""
    return time_s % DAY_S // SLOT_S


def calendar(time_s: NDArray[np.integer[Any]], tick_s: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Covariates of time, shape (..., 7), for unix times and tick lengths of shape (...).

    Sine and cosine of the time of day, of its double frequency, and of the time of week; half the log of the
    tick length in units of five minutes (1 s: -2.9, 1 h: 1.2).
    """
    day = 2 * np.pi * (time_s % DAY_S) / DAY_S
    week = 2 * np.pi * (time_s % (7 * DAY_S)) / (7 * DAY_S)
    parts = [np.sin(day), np.cos(day), np.sin(2 * day), np.cos(2 * day), np.sin(week), np.cos(week)]
    return np.stack([*parts, np.log(tick_s / 300.0) / 2], axis=-1).astype(np.float32)


def rates(tick_s: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Rates per tick of the running means, shape (..., 3), for tick lengths of shape (...).

    Daily mean (a day in ticks, at least 24); seasonal memory (a quarter per half hour seen, so that a day
    weighs 0.25); decay of the peak (half in seven days).
    """
    daily = np.minimum(tick_s / DAY_S, 1 / 24)
    seasonal = np.minimum(1 - 0.75 ** (tick_s / SLOT_S), 0.5)
    return np.stack([daily, seasonal, 0.5 ** (tick_s / (7 * DAY_S))], axis=-1).astype(np.float32)


def target_slots(tick: Any, tick_s: Any, steps: Any) -> list[Any]:
    """Half hours of the day: of the tick itself, then of the targets of the steps AHEAD."""
    return [slot(tick * tick_s), *(slot((tick + steps[k]) * tick_s) for k in AHEAD)]


def advance(
    tf: Any,
    state: dict[str, Any],
    values: Any,
    events: Any,
    saturated: Any,
    slots: list[tuple[Any, Any]],
    time: Any,
    rate: Any,
) -> tuple[dict[str, Any], tuple[Any, Any], Any]:
    """One tick of the running statistics of n users, and the network's inputs after it.

    Runs in TensorFlow's graph (`tf` is the module), in training and stream alike. Only transcendental
    functions depend on where a row lies in the batch; the caller pads n to full vector registers.

    Args:
        tf: the tensorflow module.
        state: the PER_METRIC and event fields and "ticks" of STATE, each (n, ...).
        values: (n, 5), NaN where absent, and `events` (n, 4) likewise.
        events: rates in 1/s.
        saturated: (n, 5) bool: the value is a lower bound.
        slots: seasonal memory of the current half hour and of those of AHEAD: mean (n, 5), count (n, 1).
        time: `calendar`, (n, 7).
        rate: `rates`, (n, 3).

    Returns:
        new state; new (mean, count) of the current half hour; features (n, FEATURES).
    """
    daily, seasonal, decay = rate[:, 0:1], rate[:, 1:2], rate[:, 2:3]
    present = tf.logical_not(tf.math.is_nan(values))
    shown = tf.cast(present, tf.float32)
    seen, last = state["seen"], state["last"]
    first = tf.logical_and(present, seen < 0.5)
    later = tf.logical_and(present, seen >= 0.5)
    held = tf.logical_and(tf.logical_and(saturated, later), values < last)
    x = tf.where(held, last + SATURATED_DECAY * (values - last), tf.where(present, values, last))
    moved = tf.where(later, tf.abs(x - last), 0.0)
    slow = tf.maximum(daily, 1.0 / (seen + 1.0))
    slow_change = tf.maximum(daily, 1.0 / (seen + PRIOR_WEIGHT))

    def mean(name: str, target: Any, weight: Any, start: Any) -> Any:
        old = state[name]
        return tf.where(first, start, tf.where(later, old + weight * (target - old), old))

    prior = PRIOR_CHANGE * tf.abs(x)
    new = {
        "last": x,
        "recent": mean("recent", x, RECENT_RATE, x),
        "level": mean("level", x, slow, x),
        "root_change": mean("root_change", tf.sqrt(moved), slow_change, tf.sqrt(prior)),
        "change": mean("change", moved, slow_change, prior),
        "volatility": mean("volatility", moved, VOLATILITY_RATE, prior),
        "spread": mean("spread", tf.abs(x - state["level"]), slow, prior),
        "peak": tf.maximum(x, state["peak"] * decay),
        "repeats": mean("repeats", tf.cast(x == last, tf.float32), slow, 0.0 * x),
        "seen": seen + shown,
        "age": tf.where(present, 0.0, state["age"] + 1.0),
    }
    unit = unit_of(tf, new)

    now, count = slots[0]
    fresh = tf.where(tf.math.is_nan(now), x, now + tf.maximum(seasonal, 1.0 / (count + 1.0)) * (x - now))
    slot_now = tf.where(present, fresh, now), count + tf.reduce_max(shown, axis=1, keepdims=True)

    known = tf.logical_not(tf.math.is_nan(events))
    event = tf.where(known, events, state["event_last"])
    event_mean = tf.where(
        state["ticks"] < 0.5, event, state["event_mean"] + VOLATILITY_RATE * (event - state["event_mean"])
    )
    new |= {"event_mean": event_mean, "event_last": event, "ticks": state["ticks"] + 1.0}

    seasons = [tf.where(tf.math.is_nan(mean_), 0.0, mean_ - x) / unit for mean_, _ in slots[1:]]
    squashed = _asinh(
        tf,
        tf.concat(
            [
                (x - last) * tf.cast(later, tf.float32) / unit,
                (new["recent"] - x) / unit,
                (new["level"] - x) / unit,
                (new["peak"] - x) / unit,
                x / unit,
                *seasons,
                (event - event_mean) / (event_mean + 1e-3),
            ],
            axis=1,
        ),
    )
    logs = tf.math.log(
        tf.concat(
            [
                *(
                    tf.clip_by_value(new[name] / unit, 1e-4, 1e4)
                    for name in ("change", "volatility", "spread")
                ),
                tf.clip_by_value(unit / (new["level"] + TINY), 1e-4, 1e4),
                1.0 + new["seen"],
                1.0 + new["age"],
                1.0 + tf.minimum(slots[0][1], 100.0) + 0.0 * x,
                1.0 + event,
                1.0 + state["event_last"],
                1.0 + new["ticks"],
            ],
            axis=1,
        )
    )
    plain = [
        1.0 - shown,
        tf.cast(tf.logical_and(saturated, present), tf.float32),
        new["repeats"],
        tf.cast(x == 0.0, tf.float32),
        *(tf.cast(tf.math.is_nan(mean_), tf.float32) for mean_, _ in (slots[1], slots[-1])),
        1.0 - tf.cast(known, tf.float32),
    ]
    # asinh and log of ratios up to 1e4 reach 10: a third brings inputs to the order of one
    return new, slot_now, tf.concat([squashed / 3.0, logs / 3.0, *plain, time], axis=1)


def unit_of(tf: Any, state: dict[str, Any]) -> Any:
    """A user's unit of each metric (n, 5): squared mean root change per tick (robust to bursts), floored."""
    return tf.maximum(state["root_change"] * state["root_change"], CHANGE_FLOOR * state["level"] + TINY)


def _asinh(tf: Any, x: Any) -> Any:
    """asinh to 1e-7 absolute, by functions that TensorFlow vectorises (its own is several times slower)."""
    size = tf.minimum(tf.abs(x), 1e18)  # whose square is still a float32
    return tf.sign(x) * tf.math.log(size + tf.sqrt(size * size + 1.0))
