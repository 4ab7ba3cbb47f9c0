"""Inputs of the behaviour model: a user's running statistics, seasonal memory and calendar, advanced tick by tick."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from models.metrics import DAY_S, EVENT_KINDS, HOUR_S, METRICS, MINUTE_S, STEPS, steps_of

# The seasonal memory: means by slot of the day and of the hour, for what recurs daily and what recurs within the hour.
# Slots of the hour are minutes, and five minutes where a tick is as long.
DAILY_SLOT_S: Final = 600
HOURLY_SLOT_S: Final = 300
DAILY_SLOTS: Final = DAY_S // DAILY_SLOT_S
MINUTES: Final = HOUR_S // MINUTE_S
# A mean is kept as asinh((mean - level) / spread) in whole numbers: 720 + 300 bytes a user, where float32 of all
# would be 4,080. One of 20 codes a unit is a twentieth of the user's spread; 127 of them reach 286 spreads. The few
# slots of five minutes have two bytes each, the minutes one, in the same memory.
DAILY_CODES: Final = 20.0
HOURLY_CODES: Final = {"minute": 20.0, "five minutes": 5_000.0}
DAILY_LIMIT: Final = 127.0
HOURLY_LIMIT: Final = 32_639.0
UNKNOWN: Final = {"daily": -128, "hourly": -32_640}  # never seen: both bytes of the latter are -128

# Levels of persistence's own changes that are tracked: widths of the last value's quantiles, 1 step and 6 ahead
KNOTS: Final = np.array([-2.8, -2.1, -1.4, -0.7, 0.7, 1.4, 2.1, 2.8], np.float32)
WIDTH_STEPS: Final = (0, STEPS - 1)
TRACKED: Final = (
    0,
    2,
    STEPS - 1,
)  # steps whose forecasts are compared with what came (`models.behaviour.online_mixture`)
PAST: Final = 6  # values kept, so that a change over the last step is known when it has happened

# What is kept of a user beside the LSTM's h and c: name -> shape, kind
PER_METRIC: Final = (
    "last",  # newest value, units of the metric as all up to `peak`
    "recent",  # mean of the last few ticks
    "lately",  # mean of about five minutes
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
STATE: Final[dict[str, tuple[tuple[int, ...], Any]]] = {
    **{name: ((len(METRICS),), np.float32 if name != "age" else np.int16) for name in PER_METRIC},
    "event_mean": ((len(EVENT_KINDS),), np.float32),
    "event_last": ((len(EVENT_KINDS),), np.float32),
    "ticks": ((1,), np.float32),
    "past": ((PAST, len(METRICS)), np.float32),  # newest first; NaN: nothing yet
    "width": ((len(WIDTH_STEPS), len(KNOTS), len(METRICS)), np.int16),  # log of |change| / unit at the knots
    "daily": ((DAILY_SLOTS, len(METRICS)), np.int8),
    "hourly": ((MINUTES // 2, len(METRICS)), np.int16),
}
SEASONAL: Final = ("daily", "hourly")  # of these only the slots at hand enter the graph
FEATURES: Final = 34 * len(METRICS) + 4 * len(EVENT_KINDS) + 10

RECENT_RATE: Final = 0.25  # mean of about the last four ticks
VOLATILITY_RATE: Final = 0.1  # ten ticks
PRIOR_CHANGE: Final = 0.1  # a first sample is expected to change by a tenth of itself per tick, ...
PRIOR_WEIGHT: Final = 2.0  # ... which counts as two samples
AGE_LIMIT: Final = 32_767.0  # of its sixteen bits
SATURATED_DECAY: Final = 0.05  # a saturated sample below the last value pulls it down no more per tick
CHANGE_FLOOR: Final = 1e-3  # of the level: the finest change that scoring tells apart (docs/scoring.md, CRPS)
TINY: Final = 1e-9  # keeps an all-zero user's unit positive
# Of a tracked width by |z|, against its own pinball loss: few targets pass a far level, so its steps are larger.
WIDTH_GAIN: Final = np.array([0.15, 0.10, 0.05, 0.02, 0.02, 0.05, 0.10, 0.15], np.float32)
WIDTH_START: Final = (0.4, 200.0)  # gains begin at the first and fall as 1 / (1 + samples / the second)
WIDTH_LIMITS: Final = (-12.0, 12.0)
WIDTH_UNIT: Final = 1 / 2_500  # of its sixteen bits, which reach 13


class Clock(NamedTuple):
    """Inputs that follow from a tick's time alone, for each of n users or for all (n = 1).

    Attributes:
        daily, hourly: (n, 7) seasonal slots of the tick itself and of the targets of its six steps.
        time: (n, 9) covariates: sine and cosine of the time of day, of its double frequency, of the time of week and
            of the hour; half the log of the tick length in units of five minutes (1 s: -2.9, 1 h: 1.2).
        rate: (n, 10) rates per tick of running means: of a day (at least of 24 ticks), of five minutes, of a minute, of
            a daily slot (a quarter per day), of an hourly slot (a tenth per hour); decay of the peak (half in seven
            days); codes per unit of an hourly slot; 1 where the seasonal memory of the day takes a value (once in five
            minutes), where that of the hour does (once per slot), and where `past` does (six times per horizon).
        reach: (n, 6) log of the step over log of the last step: 0 for one tick ahead, 1 for the last step.
        made, due: (n, 3) 1 where the forecast of a TRACKED step is kept to be compared with its target, and where the
            target of the one kept is this tick. One tick ahead: always; else one forecast at a time, every p ticks, p
            a prime of at least 7, so that patterns that recur every few ticks, hourly or daily are met in all phases.
    """

    daily: Any
    hourly: Any
    time: Any
    rate: Any
    reach: Any
    made: Any
    due: Any


def clock(
    tick: NDArray[np.integer[Any]], tick_s: NDArray[np.integer[Any]], steps: NDArray[np.int64]
) -> Clock:
    """The Clock of tick numbers (n), tick lengths in seconds (n) and the steps of these in ticks, (n, 6)."""
    ticks = np.concatenate([tick[:, None], tick[:, None] + steps], axis=1)
    at = ticks * tick_s[:, None]
    now = at[:, 0]
    angles = ((now, DAY_S, 1), (now, DAY_S, 2), (now, 7 * DAY_S, 1), (now, HOUR_S, 1))
    turns = [2 * np.pi * times * (t % period) / period for t, period, times in angles]
    time = [wave(turn) for turn in turns for wave in (np.sin, np.cos)] + [np.log(tick_s / 300.0) / 2]
    taken = np.maximum(tick_s, HOURLY_SLOT_S)
    coarse = tick_s >= HOURLY_SLOT_S
    slot_s = np.where(coarse, HOURLY_SLOT_S, MINUTE_S)
    codes = np.where(coarse, HOURLY_CODES["five minutes"], HOURLY_CODES["minute"])
    stride = -(-steps[:, -1] // PAST)
    rate = [
        np.minimum(tick_s / DAY_S, 1 / 24),
        np.minimum(tick_s / HOURLY_SLOT_S, 1.0),
        np.minimum(tick_s / MINUTE_S, 1.0),
        np.minimum(1 - 0.75 ** (taken / DAILY_SLOT_S), 0.5),
        np.minimum(0.1 * taken / HOURLY_SLOT_S, 0.5),
        0.5 ** (tick_s / (7 * DAY_S)),
        codes,
        now // HOURLY_SLOT_S != (now + tick_s) // HOURLY_SLOT_S,
        now // slot_s != (now + tick_s) // slot_s,
        tick % stride == 0,
    ]
    ahead = steps[:, TRACKED]
    periods = {int(step): _period(int(step)) for step in np.unique(ahead)}
    period = np.vectorize(periods.__getitem__, otypes=[np.int64])(ahead)
    return Clock(
        daily=(at % DAY_S // DAILY_SLOT_S).astype(np.int32),
        hourly=(at % HOUR_S // slot_s[:, None]).astype(np.int32),
        time=np.stack(time, axis=-1).astype(np.float32),
        rate=np.stack(rate, axis=-1).astype(np.float32),
        reach=(np.log(steps) / np.log(steps[:, -1:])).astype(np.float32),
        made=(tick[:, None] % period == 0).astype(np.float32),
        due=((tick[:, None] - ahead) % period == 0).astype(np.float32),
    )


@lru_cache(maxsize=4)
def clock_of(tick: int, tick_s: int) -> Clock:
    """The Clock of one tick, n = 1. Cached, because it is needed twice: do not change its arrays."""
    length_s = np.array([tick_s])
    return clock(np.array([tick]), length_s, steps_of(length_s))


def _period(step: int) -> int:
    """Ticks between two kept forecasts of a step: the first prime of at least 7 above the step; 1 for step 1."""
    if step == 1:
        return 1
    period = max(7, step + 1)
    while any(period % k == 0 for k in range(2, int(period**0.5) + 1)):
        period += 1
    return period


def advance(
    tf: Any,
    state: dict[str, Any],
    values: Any,
    events: Any,
    saturated: Any,
    seasonal: tuple[Any, Any],
    time: Any,
    rate: Any,
) -> tuple[dict[str, Any], tuple[Any, Any], Any, tuple[Any, Any]]:
    """Advance the running statistics of n users by one tick, and compute the network's inputs after it.

    The same TensorFlow graph runs in training and in the stream. Users are the last axis, so that every operation runs
    over long rows.

    Args:
        tf: the tensorflow module.
        state: the fields of STATE without the SEASONAL ones, each (..., n) as float32.
        values: (5, n) in the metrics' units, NaN where absent.
        events: (4, n) rates in 1/s, NaN where absent.
        saturated: (5, n) bool: the value is a lower bound of demand.
        seasonal: codes (7, 5, n) of the slots of `Clock.daily`, and of those of `Clock.hourly`.
        time: of `Clock`, (9, n).
        rate: of `Clock`, (10, n) or (10, 1).

    Returns:
        new state; new codes of the tick's own slots, (5, n) each; features (FEATURES, n); values that the seasonal
        memory expects at the targets, by day and by hour, each (5, 6, n), the last value where it is empty.
    """
    rates = _Rates.of(tf, rate)
    new, presence = _statistics(tf, state, values, saturated, rates)
    unit = unit_of(tf, new)
    new |= _widths_and_past(tf, state, new, unit_of(tf, state), (values, saturated), presence, rates)
    spread = tf.maximum(new["spread"], unit)
    memories = _memories(tf, new, seasonal, rates)
    codes, seasons, off, empty = _seasons(tf, new, unit, spread, memories, presence.present)
    measured = tf.logical_not(tf.math.is_nan(events))
    event = tf.where(measured, events, state["event_last"])
    event_mean = tf.where(
        state["ticks"] < 0.5, event, state["event_mean"] + VOLATILITY_RATE * (event - state["event_mean"])
    )
    new |= {"event_mean": event_mean, "event_last": event, "ticks": state["ticks"] + 1.0}

    squashed = _squashed(tf, new, state["last"], presence.later, unit, off, event)
    logs = _logs(tf, state, new, unit, event)
    width = new["width"] * WIDTH_UNIT
    plain = [
        1.0 - presence.shown,
        tf.cast(tf.logical_and(saturated, presence.present), tf.float32),
        new["repeats"],
        tf.cast(new["last"] == 0.0, tf.float32),
        *empty,
        *(width[0, k] / 3.0 for k in (1, 3, 4, 6)),
        *(width[1, k] / 3.0 for k in (1, 3, 4, 6)),
        1.0 - tf.cast(measured, tf.float32),
    ]
    # asinh and log of ratios up to 1e4 reach 10: a third brings inputs to the order of one
    features = tf.concat([squashed / 3.0, logs / 3.0, *plain, time], axis=0)
    return new, (codes[0], codes[1]), features, (seasons[0], seasons[1])


class _Rates(NamedTuple):
    """The ten rows of `Clock.rate` in their order, each (n) or (1), the last three as booleans."""

    slow: Any
    lately: Any
    minute: Any
    day: Any
    hour: Any
    decay: Any
    hourly_codes: Any
    take_daily: Any
    take_hourly: Any
    push: Any

    @classmethod
    def of(cls, tf: Any, rate: Any) -> _Rates:
        rows = tf.unstack(rate, 10, axis=0)
        return cls(*rows[:7], *(flag > 0.5 for flag in rows[7:]))


class _Presence(NamedTuple):
    """Where a tick has values, (5, n) each.

    Attributes:
        present: bool: the tick has a value.
        shown: the same as 0 and 1 in float32.
        later: bool: the tick has a value, and so has an earlier one.
    """

    present: Any
    shown: Any
    later: Any


def _statistics(
    tf: Any, state: dict[str, Any], values: Any, saturated: Any, rates: _Rates
) -> tuple[dict[str, Any], _Presence]:
    """The PER_METRIC fields of STATE after a tick, (5, n) each, and where the tick has values.

    A saturated value below the last one moves it by SATURATED_DECAY of the difference; without a value nothing moves.

    Args:
        tf: the tensorflow module.
        state: before the tick.
        values: (5, n), NaN where absent.
        saturated: (5, n) bool.
        rates: of the tick.
    """
    present = tf.logical_not(tf.math.is_nan(values))
    shown = tf.cast(present, tf.float32)
    count, last = state["seen"], state["last"]
    first = tf.logical_and(present, count < 0.5)
    later = tf.logical_and(present, count >= 0.5)
    held = tf.logical_and(tf.logical_and(saturated, later), values < last)
    x = tf.where(held, last + SATURATED_DECAY * (values - last), tf.where(present, values, last))
    moved = tf.where(later, tf.abs(x - last), 0.0)
    slow_change = tf.maximum(rates.slow, 1.0 / (count + PRIOR_WEIGHT))
    slow = tf.maximum(rates.slow, 1.0 / (count + 1.0))

    def mean(name: str, target: Any, weight: Any, start: Any) -> Any:
        old = state[name]
        return tf.where(first, start, tf.where(later, old + weight * (target - old), old))

    prior = PRIOR_CHANGE * tf.abs(x)
    new = {
        "last": x,
        "recent": mean("recent", x, RECENT_RATE, x),
        "lately": mean("lately", x, rates.lately, x),
        "level": mean("level", x, slow, x),
        "root_change": mean("root_change", tf.sqrt(moved), slow_change, tf.sqrt(prior)),
        "change": mean("change", moved, slow_change, prior),
        "volatility": mean("volatility", moved, VOLATILITY_RATE, prior),
        "spread": mean("spread", tf.abs(x - state["level"]), slow, prior),
        "peak": tf.maximum(x, state["peak"] * rates.decay),
        "repeats": mean("repeats", tf.cast(x == last, tf.float32), slow, 0.0 * x),
        "seen": count + shown,
        "age": tf.where(present, 0.0, tf.minimum(state["age"] + 1.0, AGE_LIMIT)),
    }
    return new, _Presence(present, shown, later)


def _widths_and_past(
    tf: Any,
    state: dict[str, Any],
    new: dict[str, Any],
    unit: Any,
    sample: tuple[Any, Any],
    presence: _Presence,
    rates: _Rates,
) -> dict[str, Any]:
    """The fields `width` and `past` of STATE after a tick.

    Args:
        tf: the tensorflow module.
        state: before the tick.
        new: the PER_METRIC fields after it.
        unit: (5, n) before the tick.
        sample: values (5, n), NaN where absent, and where they are saturated (5, n).
        presence: of the values.
        rates: of the tick.
    """
    values, saturated = sample
    count, earlier = state["seen"], state["last"]
    tracked = tf.logical_and(rates.push, presence.present)
    oldest = state["past"][PAST - 1]
    width = tf.stack(
        [
            _tracked(tf, state["width"][0], values - earlier, presence.later, saturated, unit, count),
            _tracked(tf, state["width"][1], values - oldest, tracked, saturated, unit, count),
        ],
        axis=0,
    )
    newest = tf.where(new["seen"] > 0.5, new["last"], np.float32(np.nan))
    pushed = tf.concat([newest[None], state["past"][:-1]], axis=0)
    return {"width": width, "past": tf.where(rates.push, pushed, state["past"])}


def _memories(
    tf: Any, new: dict[str, Any], seasonal: tuple[Any, Any], rates: _Rates
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The argument `memories` of `_seasons`; the mean that the hour's memory takes is of about a minute."""
    minute = new["recent"] + rates.minute * (new["last"] - new["recent"])
    hourly_limit = tf.where(rates.hourly_codes > DAILY_CODES, HOURLY_LIMIT, DAILY_LIMIT)
    return (
        (seasonal[0], new["lately"], DAILY_CODES, DAILY_LIMIT, rates.day, rates.take_daily),
        (seasonal[1], minute, rates.hourly_codes, hourly_limit, rates.hour, rates.take_hourly),
    )


def _seasons(
    tf: Any, new: dict[str, Any], unit: Any, spread: Any, memories: Sequence[tuple[Any, ...]], present: Any
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Values that the seasonal memories expect, and their codes after the tick.

    Args:
        tf: the tensorflow module.
        new: running statistics after the tick.
        unit: (5, n) after the tick, in which changes are expressed.
        spread: (5, n) after the tick, in which means are coded.
        memories: of the day and of the hour: codes (7, 5, n) of their slots, mean that is taken, codes per unit,
            largest code, rate, whether a value is taken.
        present: (5, n) bool: the tick has a value.

    Returns:
        for each memory the new codes (5, n) of the tick's slot, and the values (5, 6, n) expected at the targets; for
        both together lists of the network's inputs (5, n): expected changes at the TRACKED steps; and the memories'
        error in this tick's slot with whether the last step's slot is empty.
    """
    codes: list[Any] = []
    seasons: list[Any] = []
    off: list[Any] = []
    empty: list[Any] = []
    for memory, mean_now, per_unit, limit, weight, take in memories:
        own = _asinh(tf, (mean_now - new["level"]) / spread)
        fresh = _remembered(tf, memory[0], own * per_unit, limit, weight)
        codes.append(tf.where(tf.logical_and(take, present), fresh, memory[0]))
        known, code = memory >= -limit, memory / per_unit
        grown = tf.exp(tf.where(known, code, 0.0))
        target = tf.where(known, new["level"] + spread * (grown - 1.0 / grown) / 2.0, new["last"])[1:]
        seasons.append(tf.transpose(target, [1, 0, 2]))
        off += [(target[k] - new["last"]) / unit for k in TRACKED]
        empty += [tf.where(known[0], code[0] - own, 0.0), 1.0 - tf.cast(known[-1], tf.float32)]
    return codes, seasons, off, empty


def _squashed(
    tf: Any, new: dict[str, Any], last: Any, later: Any, unit: Any, off: list[Any], event: Any
) -> Any:
    """Inputs of either sign: asinh of differences in units, (row, n).

    last: (5, n) before the tick; later: where it was known; off: of `_seasons`; event: (4, n) rates in 1/s.
    """
    x, event_mean = new["last"], new["event_mean"]
    return _asinh(
        tf,
        tf.concat(
            [
                (x - last) * tf.cast(later, tf.float32) / unit,
                (new["recent"] - x) / unit,
                (new["lately"] - x) / unit,
                (new["level"] - x) / unit,
                (new["peak"] - x) / unit,
                x / unit,
                *off,
                (event - event_mean) / (event_mean + 1e-3),
            ],
            axis=0,
        ),
    )


def _logs(tf: Any, state: dict[str, Any], new: dict[str, Any], unit: Any, event: Any) -> Any:
    """Positive inputs: logs of sizes in units, of counts and of event rates, (row, n); state: before the tick."""
    return tf.math.log(
        tf.concat(
            [
                *(
                    tf.clip_by_value(new[name] / unit, 1e-4, 1e4)
                    for name in ("change", "volatility", "spread")
                ),
                tf.clip_by_value(unit / (new["level"] + TINY), 1e-4, 1e4),
                1.0 + new["seen"],
                1.0 + new["age"],
                1.0 + event,
                1.0 + state["event_last"],
                1.0 + new["ticks"],
            ],
            axis=0,
        )
    )


def _tracked(tf: Any, width: Any, change: Any, known: Any, saturated: Any, unit: Any, count: Any) -> Any:
    """Log widths (knot, 5, n), as codes, after a change (5, n): streaming quantile estimates by pinball-loss gradients.

    A width grows at most to the change measured, so that a single burst does not carry it beyond. A change that is
    only a lower bound (saturated) can widen but not narrow.
    """
    width = width * WIDTH_UNIT
    known = tf.logical_and(known, tf.logical_not(tf.math.is_nan(change)))
    change = tf.where(known, change, 0.0)
    size = tf.math.log(tf.abs(change) / unit + 1e-30)
    side = np.sign(KNOTS).reshape(-1, 1, 1)
    beyond = ndtr(-np.abs(KNOTS)).astype(np.float32).reshape(-1, 1, 1)  # probability of passing the width
    gain = WIDTH_GAIN.reshape(-1, 1, 1)
    gain = tf.maximum(gain, WIDTH_START[0] / (1.0 + count / WIDTH_START[1]))
    passed = tf.logical_and(side * change > 0.0, size > width)
    wider = tf.minimum(gain * (1.0 - beyond), size - width)
    narrower = tf.where(saturated, 0.0, -gain * beyond)
    moved = tf.clip_by_value(width + tf.where(passed, wider, narrower), *WIDTH_LIMITS)
    return tf.round(tf.where(known, moved, width) / WIDTH_UNIT)


def _remembered(tf: Any, code: Any, target: Any, limit: Any, rate: Any) -> Any:
    """A slot's code (5, n) after a value whose exact code is `target`: moved towards it by `rate`, at least by 1."""
    off = target - code
    near = tf.sign(off) * tf.minimum(tf.abs(off), tf.maximum(rate * tf.abs(off), 1.0))
    moved = tf.where(code >= -limit, code + near, target)
    return tf.round(tf.minimum(tf.maximum(moved, -limit), limit))


def unit_of(tf: Any, state: dict[str, Any]) -> Any:
    """Each user's unit of each metric (5, n): squared mean root change per tick, robust to bursts, with a floor."""
    return tf.maximum(state["root_change"] * state["root_change"], CHANGE_FLOOR * state["level"] + TINY)


def _asinh(tf: Any, x: Any) -> Any:
    """asinh to 1e-7 absolute, of functions that TensorFlow vectorises; its own asinh is several times slower."""
    size = tf.minimum(tf.abs(x), 1e18)  # whose square is still a float32
    return tf.sign(x) * tf.math.log(size + tf.sqrt(size * size + 1.0))
