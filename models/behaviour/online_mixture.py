"""The published forecast: quantile average of network and persistence, corrected online by each user's outcomes.

At the standard-normal level z, around the last value and in units of the metric:

    network      a = scale (move + sinh((asinh(z) + shift + skew) / tail))
    persistence  b = ± exp(width ± 1.1 shift) unit, the tracked quantiles of the user's own changes
    share        w = 1.2 sigmoid(gate + odds) - 0.1, within 0 and 1
    published    q = b + w (a - b): one quantile function (comonotone)

The network gives move, scale, skew, tail and the gates of centre and tails; widths are those of
`models.behaviour.features`. Learnt here, for every user and metric when a target arrives, by gradients of pinball loss:

    shift  by the published quantile: adaptive conformal inference (Gibbs and Candès 2021), at quartiles and median, at
           the ends of the 95 % interval and at the 99 % bound, for the TRACKED steps; the levels between quartiles and
           ends, and the steps between, are interpolated
    odds   by the gradient of q's loss: CRPS learning (Berrisch and Ziel 2021)

For a new user the ends are wider by a fixed addition to the shift, which falls with the number of samples (COLD).

The outcome of a step h ticks ahead is known h ticks later. Until then the parameters of its forecast are kept, for one
tick at a time (`features.Clock.made`); its quantiles are then computed with the present shift, odds and widths.

Arrays have the batch last: (metric, step, level, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from models.behaviour.features import KNOTS, TRACKED, WIDTH_UNIT
from models.metrics import METRICS
from models.quantile_function import OFFSET_LIMIT

# weight of a tracked step's shift in each of the six
BETWEEN: Final = np.array([[1, 0.5, 0, 0, 0, 0], [0, 0.5, 1, 2 / 3, 1 / 3, 0], [0, 0, 0, 1 / 3, 2 / 3, 1]])
FINEST: Final = 1e-4  # of a unit: tracked changes up to it are none
SHARED: Final = ("centre", "lower", "upper")  # parts of the distribution with a gate each

# Levels whose shift is learnt, by their z, and the probabilities held there; the bound aims beyond by what was missing
# on users held out before the test window.
HELD_Z: Final = np.array([-1.96, -0.7, 0.0, 0.7, 1.96, 2.33], np.float32)
HELD: Final = np.array([0.025, ndtr(-0.7), 0.5, ndtr(0.7), 0.975, 0.9902], np.float32)
INNER: Final = (
    1,
    2,
    3,
)  # of these: they move the network alone, whose centre may be off; persistence has none
LEARNT: Final = np.array([-2.1, -1.75, -1.4, -0.7, 0.0, 0.7, 1.4, 1.75, 2.1, 2.45], np.float32)
# (tracked, held): of the later steps one target in seven is seen. The lower end costs nothing where it wavers, and has
# far to go where demand has a floor.
SHIFT_GAIN: Final = np.outer([0.5, 1, 1], [0.1, 0.02, 0.02, 0.02, 0.04, 0.08]).astype(np.float32)
# That of the bound falls with the samples, to 0.4 of it from 2,000 on: one that wavers costs slack.
BOUND_FALL: Final = (2_000.0, 0.4)
SHIFT_LIMIT: Final = 1.5
SHIFT_UNIT: Final = 1 / 20_000  # of its sixteen bits, which reach 1.6; the smallest step is 0.0003
# Added to the shift of a user's early samples, falling as their count to this power: what (held) was missing of both
# ends and the bound, on users held out before the test window, when they were new.
COLD: Final = np.array([0.5, 0, 0, 0, 1.0, 1.2], np.float32)
COLD_POWER: Final = -0.55
ODDS_GAIN: Final = 0.005
ODDS_LIMIT: Final = 8.0
ODDS_UNIT: Final = 1 / 4_000  # likewise
SCALE_UNIT: Final = 1 / 1_000  # likewise: scales from 1e-14 to 1e14
GATE_UNIT: Final = 1 / 30  # of its eight bits, which reach 4.2; a share ends at 2.4
PULL_LIMIT: Final = 10.0
# Probability nearest to each of LEARNT: of a point mass that reaches from one level to another
_BETWEEN_LEVELS: Final = np.concatenate([[0.0], (ndtr(LEARNT[1:]) + ndtr(LEARNT[:-1])) / 2, [1.0]])
MASS: Final = [float(mass) for mass in np.diff(_BETWEEN_LEVELS)]
SCORE_LIMIT: Final = (
    3.0  # the levels learnt end at 2.45: a score beyond is an extrapolation, good for a little
)

STATE: Final[dict[str, tuple[tuple[int, ...], Any]]] = {
    "shift": ((len(HELD), len(METRICS), len(TRACKED)), np.int16),
    "odds": ((len(SHARED), len(METRICS)), np.int16),
    # of the later steps; that of one tick ahead is the last value. NaN: nothing to value
    "made_last": ((len(METRICS), len(TRACKED) - 1), np.float32),
    "made_scale": ((len(METRICS), len(TRACKED)), np.int16),  # its log
    "made_shape": ((3, len(METRICS), len(TRACKED)), np.float16),  # move, skew, tail
    "made_gates": ((len(SHARED), len(METRICS), len(TRACKED)), np.int8),
}


def parts(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of centre, lower and upper tail at levels z, (3, level): the centre's falls from 1 at 0.7 to 0 at 2.1."""
    tails = np.clip((np.abs(z) - 0.7) / 1.4, 0, 1)
    return np.stack([1 - tails, tails * (z < 0), tails * (z > 0)]).astype(np.float32)


def end(z: float) -> int | None:
    """The row of HELD whose shift alone moves the level z, for |z| of 1.5 and more; None nearer the median."""
    return None if abs(z) < 1.5 else 0 if z < 0 else 4 if z < 2.3 else 5


def rows(z: float) -> dict[int, float]:
    """The rows of HELD whose shifts move the network's level z, and their weights, which sum to 1."""
    outer = end(z)
    if outer is not None:
        return {outer: 1.0}
    above = int(np.searchsorted(HELD_Z, z))
    share = float((HELD_Z[above] - z) / (HELD_Z[above] - HELD_Z[above - 1]))
    return {row: weight for row, weight in ((above - 1, share), (above, 1 - share)) if weight > 1e-6}


def average(
    tf: Any,
    shape: Any,
    scale: Any,
    width: Any,
    unit: Any,
    reach: Any,
    z: NDArray[np.float32],
    shift: Any = None,
    odds: Any = None,
) -> tuple[list[Any], list[Any], list[Any]]:
    """Network a, persistence b and share w at every level, each a list of (metric, step, ...); see the module.

    a and b are changes from the last value in the metric's units.

    Args:
        tf: the tensorflow module.
        shape: (6, metric, step, ...): move, skew, tail and three gates.
        scale: (metric, step, ...) in units of the metric.
        width: codes of the field of `features.STATE`, (2, knot, metric, ...).
        unit: (metric, 1, ...).
        reach: (step, ...) of `features.Clock`.
        z: standard-normal levels, (level).
        shift: (held, metric, step, ...); None = 0.
        odds: (3, metric, ...); None = 0.
    """
    move, skew, tail, *gates = tf.unstack(shape, axis=0)
    slope = 1.0 / tail
    skew = skew * slope
    sizes = [size * unit for size in _sizes(tf, width, reach)]
    if odds is not None:
        gates = [gate + odd[:, None] for gate, odd in zip(gates, tf.unstack(odds, axis=0), strict=True)]
    moved = [] if shift is None else [(row * slope, tf.exp(1.1 * row)) for row in tf.unstack(shift, axis=0)]
    network: list[Any] = []
    persistence: list[Any] = []
    share: list[Any] = []
    shares: dict[tuple[float, ...], Any] = {}  # levels of the same parts have one
    for level, part in zip(z.tolist(), map(tuple, parts(z).T.tolist()), strict=True):
        at = float(np.arcsinh(level)) * slope + skew
        change = _at(tf, sizes, level)
        outer = end(level)
        if moved:
            at += sum(weight * moved[row][0] for row, weight in rows(level).items())
        if moved and outer is not None:
            change = change * moved[outer][1] if level > 0 else change / moved[outer][1]
        grown = tf.exp(at)
        offset = move + tf.clip_by_value((grown - 1.0 / grown) / 2.0, -OFFSET_LIMIT, OFFSET_LIMIT)
        network.append(scale * offset)
        persistence.append(change)
        if part not in shares:
            gate = sum(share_ * gate for share_, gate in zip(part, gates, strict=True) if share_)
            # beyond both ends of the sigmoid, so that a share of nothing leaves persistence's point mass as it is
            shares[part] = tf.clip_by_value(1.2 * tf.sigmoid(gate) - 0.1, 0.0, 1.0)
        share.append(shares[part])
    return network, persistence, share


def rising(tf: Any, levels: list[Any]) -> list[Any]:
    """Running maximum over the levels: quantiles could cross without it, because shares differ between levels."""
    levels = [*levels]
    for k in range(1, len(levels)):
        levels[k] = tf.maximum(levels[k], levels[k - 1])
    return levels


def _sizes(tf: Any, width: Any, reach: Any) -> list[Any]:
    """Absolute tracked quantiles of changes in units, a list over KNOTS of (metric, step, ...)."""
    logs = tf.unstack(width * WIDTH_UNIT, axis=1)  # (2, metric, ...) a knot
    middle = len(KNOTS) // 2
    logs = [*rising(tf, logs[middle - 1 :: -1])[::-1], *rising(tf, logs[middle:])]  # outwards from the median
    pairs = [(log[0][:, None], log[1][:, None]) for log in logs]
    return [tf.maximum(tf.exp(one + reach * (six - one)) - FINEST, 0.0) for one, six in pairs]


def _at(tf: Any, sizes: list[Any], z: float) -> Any:
    """Change at the level z from the sizes at KNOTS.

    Halfway between two knots it is their geometric mean, because tails are convex; within the first knot and beyond the
    last it is on the line through 0 and that knot. Other levels are not supported.
    """
    middle, sign, z = len(KNOTS) // 2, np.sign(z), abs(z)
    own = sizes[middle:] if sign > 0 else sizes[middle - 1 :: -1]
    levels = np.abs(KNOTS[middle:])
    near = int(np.argmin(np.abs(levels - z)))
    if abs(levels[near] - z) < 1e-6:
        return sign * own[near]
    if z < levels[0] or z > levels[-1]:
        return own[near] * float(sign * z / levels[near])
    above = int(np.searchsorted(levels, z))
    assert abs(levels[above] + levels[above - 1] - 2 * z) < 1e-5, "levels halve the distance of knots"
    return sign * tf.sqrt(own[above - 1] * own[above])


class _Due(NamedTuple):
    """Kept forecasts of the TRACKED steps whose target is a tick, (metric, tracked, ...) each.

    Attributes:
        known: whether there are forecast and target.
        scale: of the forecast, in units of the metric; 1 where not known.
        y: the target less the last value, in units of the scale; 0 where not known.
        least, most: bounds of the forecast less the last value, in units of the metric.
        shape: (6, ...) the argument of `average`.
    """

    known: Any
    scale: Any
    y: Any
    least: Any
    most: Any
    shape: Any

    @classmethod
    def of(cls, tf: Any, state: dict[str, Any], values: Any, ceiling: Any, due: Any) -> _Due:
        """The kept forecasts in a state whose target `values` (metric, ...) are; arguments as of `learn`."""
        newest = tf.where(state["seen"] > 0.5, state["last"], np.float32(np.nan))
        last = tf.concat([newest[:, None], state["made_last"]], axis=1)
        scale = tf.exp(state["made_scale"] * SCALE_UNIT)
        made = tf.logical_and(due > 0.5, state["made_shape"][2] > 0.0)  # no forecast has a tail of 0
        known = tf.logical_and(made, tf.logical_not(tf.math.is_nan(last + values[:, None])))
        last, scale = tf.where(known, last, 0.0), tf.where(known, scale, 1.0)
        y = tf.where(known, (values[:, None] - last) / scale, 0.0)
        least, most = -last, ceiling[:, None] - last
        move, skew, tail = tf.unstack(state["made_shape"], axis=0)
        gates = tf.unstack(state["made_gates"] * GATE_UNIT, axis=0)
        shape = tf.stack([tf.where(known, part, kind) for part, kind in zip(
            (move, skew, tail, *gates), (0.0, 0.0, 1.0, 0.0, 0.0, 0.0), strict=True)], axis=0)  # fmt: skip
        return cls(known, scale, y, least, most, shape)


def learn(
    tf: Any,
    state: dict[str, Any],
    values: Any,
    saturated: Any,
    unit: Any,
    ceiling: Any,
    due: Any,
    reach: Any,
) -> tuple[Any, Any, Any]:
    """Codes of shift and odds after a tick, and the normal scores of its targets (metric, tracked, ...).

    A score is NaN where nothing was due or known, and where the target was saturated.

    Args:
        tf: the tensorflow module.
        state: the fields of STATE, `last`, `width` and `seen`, before the tick, batch last.
        values: (metric, ...) targets, NaN where absent.
        saturated: (metric, ...): demand is above the target, which is only a lower bound.
        unit: (metric, ...) of the user before the tick.
        ceiling: (metric, ...) upper limit of forecasts.
        due: of `features.Clock`, (tracked, ...).
        reach: of `features.Clock`, (6, ...).
    """
    at = _Due.of(tf, state, values, ceiling, due)
    shift, odds = state["shift"] * SHIFT_UNIT, state["odds"] * ODDS_UNIT
    cold = _cold(tf, state["seen"])
    reach = tf.gather(reach, TRACKED, axis=0)
    width = state["width"]
    a, b, w = average(tf, at.shape, at.scale, width, unit[:, None], reach, LEARNT, shift + cold, odds)
    q = [
        tf.clip_by_value(b_ + w_ * (a_ - b_), at.least, at.most) / at.scale
        for a_, b_, w_ in zip(a, b, w, strict=True)
    ]
    q = rising(tf, q)
    passed = tf.logical_and(saturated[:, None], at.known)
    ascent = _ascent(tf, q, at, passed)
    shift = _shifted(tf, shift, q, w, state["seen"], ascent)
    odds = _weighed(tf, odds, (a, b), q, at.scale, ascent)
    scored = tf.logical_and(at.known, tf.logical_not(passed))
    scores = tf.where(scored, _score(tf, q, at.y), np.float32(np.nan))
    return tf.round(shift / SHIFT_UNIT), tf.round(odds / ODDS_UNIT), scores


def _ascent(tf: Any, q: list[Any], at: _Due, passed: Any) -> Callable[[Any, float], Any]:
    """A function of a quantile and its probability tau: minus the gradient of its pinball loss.

    The gradient is tau - 1{PIT <= tau}, on a point mass its mean over a random PIT; 0 where no target is known, and
    never negative where the target is passed.

    Args:
        tf: the tensorflow module.
        q: quantiles at LEARNT in units of the scale.
        at: the forecasts, and their targets.
        passed: (metric, tracked, ...): demand is above the target.
    """
    y = at.y
    below, upto = (sum(mass * tf.cast(held, tf.float32) for held, mass in zip(levels, MASS, strict=True))
                   for levels in ([one < y for one in q], [one <= y for one in q]))  # fmt: skip

    def ascent(quantile: Any, tau: float) -> Any:
        tie = tau - tf.clip_by_value((tau - below) / tf.maximum(upto - below, 1e-6), 0.0, 1.0)
        off = tf.where(y > quantile, tau, tf.where(y < quantile, tau - 1.0, tie))
        off = tf.where(passed, tf.maximum(off, 0.0), off)
        return tf.where(at.known, off, 0.0)

    return ascent


def _shifted(
    tf: Any, shift: Any, q: list[Any], w: list[Any], seen: Any, ascent: Callable[[Any, float], Any]
) -> Any:
    """Shift (held, metric, tracked, ...) after a step along the loss of the published quantile at each of HELD.

    q, w: quantiles and shares at LEARNT; seen: (metric, ...) samples before the tick.
    """
    # levels 1.96 and 2.33 as they are published: interpolated
    at = (q[1] + 0.6 * (q[0] - q[1]), *q[3:6], q[7] + 0.6 * (q[8] - q[7]), q[8] + 0.657 * (q[9] - q[8]))
    samples, least_gain = BOUND_FALL
    fallen = least_gain + (1.0 - least_gain) / (1.0 + seen[:, None] / samples)
    pace = [1.0] * (len(HELD) - 1) + [fallen]
    steps = [
        pace[row] * gain[:, None] * ascent(level, float(tau)) * (w[2 + row] if row in INNER else 1.0)
        for row, (gain, level, tau) in enumerate(zip(SHIFT_GAIN.T, at, HELD, strict=True))
    ]
    return tf.clip_by_value(shift + tf.stack(steps, axis=0), -SHIFT_LIMIT, SHIFT_LIMIT)


def _weighed(
    tf: Any,
    odds: Any,
    experts: tuple[list[Any], list[Any]],
    q: list[Any],
    scale: Any,
    ascent: Callable[[Any, float], Any],
) -> Any:
    """Odds (part, metric, ...) after a step along the published quantiles' loss, summed over the tracked steps.

    experts: network and persistence at LEARNT; q: published quantiles there, in units of the scale.
    """
    a, b = experts
    spread = tf.abs(a[5] - a[3]) + tf.abs(b[5] - b[3]) + 1e-9 * scale
    pull = [0.0 * odds[0] for _ in SHARED]
    for j, (tau, part) in enumerate(
        zip(ndtr(LEARNT.astype(float)).tolist(), parts(LEARNT).T.tolist(), strict=True)
    ):
        off = tf.clip_by_value((a[j] - b[j]) / spread, -PULL_LIMIT, PULL_LIMIT) * ascent(q[j], tau)
        even = float(0.5 / np.sqrt(tau * (1 - tau)))  # far levels' losses are small
        total = even * tf.reduce_sum(off, axis=1)
        pull = [old + share * total if share else old for old, share in zip(pull, part, strict=True)]
    return tf.clip_by_value(odds + ODDS_GAIN * tf.stack(pull, axis=0), -ODDS_LIMIT, ODDS_LIMIT)


def _score(tf: Any, q: list[Any], y: Any) -> Any:
    """The standard-normal level at which the quantiles q at LEARNT reach y, limited to SCORE_LIMIT.

    Linear between levels, and beyond them along the last interval; on a point mass, the middle of its levels.
    """
    score = float(LEARNT[0]) + 0.0 * y
    last = len(LEARNT) - 2
    for j, width in enumerate(np.diff(LEARNT).tolist()):
        left, size = y - q[j], q[j + 1] - q[j]
        flat = 0.5 + 0.5 * tf.sign(left)
        # a division by less than this passes float32's range: it is a point mass
        share = tf.where(size > 1e-30, left / tf.maximum(size, 1e-30), flat)
        low, high = -np.inf if j == 0 else 0.0, np.inf if j == last else 1.0
        score += width * tf.clip_by_value(share, low, high)
    return tf.clip_by_value(score, -SCORE_LIMIT, SCORE_LIMIT)


def remember(tf: Any, state: dict[str, Any], made: Any, last: Any, scale: Any, shape: Any) -> dict[str, Any]:
    """The fields `made_*` after a tick: replaced by this tick's forecast for the steps of which it is kept.

    Args:
        tf: the tensorflow module.
        state: the fields before the tick.
        made: of `features.Clock`, (tracked, ...).
        last: (metric, ...) last value, NaN where there was none.
        scale: (metric, 6, ...) of this tick's forecast.
        shape: (6, metric, 6, ...) of this tick's forecast.
    """
    now = made > 0.5
    scale, shape = tf.gather(scale, TRACKED, axis=1), tf.gather(shape, TRACKED, axis=2)
    said = {
        "made_last": last[:, None] + 0.0 * scale[:, 1:],
        "made_scale": tf.clip_by_value(tf.round(tf.math.log(scale) / SCALE_UNIT), -32_767.0, 32_767.0),
        "made_shape": tf.clip_by_value(shape[:3], -OFFSET_LIMIT, OFFSET_LIMIT),
        "made_gates": tf.clip_by_value(tf.round(shape[3:] / GATE_UNIT), -127.0, 127.0),
    }
    return {
        name: tf.where(now[1:] if name == "made_last" else now, new, state[name])
        for name, new in said.items()
    }


def for_steps(tf: Any, codes: Any, seen: Any) -> Any:
    """Shift of all steps (held, metric, 6, ...) from the tracked steps' codes, after `seen` samples (metric, ...)."""
    rows = tf.unstack(codes * SHIFT_UNIT, axis=2)
    steps = [sum(float(w) * row for w, row in zip(column, rows, strict=True) if w) for column in BETWEEN.T]
    return tf.stack(steps, axis=2) + _cold(tf, seen)


def _cold(tf: Any, seen: Any) -> Any:
    """Addition to the shift of users with `seen` samples (metric, ...): (held, metric, 1, ...)."""
    fallen = tf.exp(COLD_POWER * tf.math.log(tf.maximum(seen, 1.0)))
    return tf.stack([float(cold) * fallen[:, None] for cold in COLD], axis=0)
