"""Dependence between the forecast errors of an app's users: the copula that is simulated, and its online estimate.

The normal score of a target is the standard-normal level of its forecast at which it fell. The score of user u, metric
m and step k is taken to be

    z[u, m, k] = b F[m, k] + sqrt(1 - b²) E[u, m, k],      b = loading[u] sqrt(shared[m])

a Gaussian copula with one factor per metric. F and all E[u] are independent; each has correlation
metric_correlation[m, n] × step_correlation^|k - l|, so that every score is standard normal. The mean loading is 1.

Learnt with every tick, as ratios of decayed sums (means over users, less the app's running mean of scores):

    shared              Σ pair product / Σ square: ((Σ z)² - Σ z²) / n (n - 1) is unbiased for the shared variance
    metric correlation  Σ z[m] z[n] / sqrt(Σ z[m]² Σ z[n]²), of users who have both
    step correlation    r^(1 / lag), r the correlation of a forecast's first step with a later TRACKED one
    loading             ridge regression of z[u] on the mean score of the app's other users, shrunk as an estimate of F

Each estimate starts at the prior measured in training, which counts as PRIOR_TICKS ticks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.behaviour.features import TRACKED, clock_of
from models.metrics import METRICS

# The correlation of one pair of users over 100 ticks has a standard error of 0.1, as large as the correlations looked
# for: at 100 ticks what was heard weighs as much as the prior.
PRIOR_TICKS: Final = 100.0
# Half-forgotten after 2,016 × ln 2 = 1,400 ticks, five days of five minutes; standard error 1 / sqrt(2,016) = 0.02.
DECAY: Final = 1 - 1 / 2_016
# Loadings differ from 1 by about a half (standard deviation), before anything is heard: precision 1 / 0.5².
PRIOR_PRECISION: Final = 4.0
LOADINGS: Final = (-1, 0, 1, 2)  # that are simulated: against the app, apart from it, as the rest, strongly
LEAST_MEAN: Final = (
    0.5  # of the loadings, and median: shared, which is for a mean of 1, grows at most fourfold
)
EARLY_UNIT: Final = 1 / 32  # of scores kept in eight bits, which reach 3.97
EARLY_NONE: Final = -128
_LAGS: Final = np.subtract(TRACKED[1:], TRACKED[0])
_SCORES: Final = (len(METRICS), len(TRACKED))
_SQUARE: Final = (len(METRICS), len(METRICS))

# Sums of one app.
SUMS: Final = np.dtype(
    [
        ("ticks", "<f8", _SCORES),  # with a score
        ("mean", "<f8", _SCORES),
        ("pairs", "<f8", _SCORES),  # ticks with two and more
        ("pair", "<f8", _SCORES),  # Σ of the mean product of two users' scores
        ("square", "<f8", _SCORES),
        ("both", "<f8", _SQUARE),  # Σ z[m] z[n]
        ("own", "<f8", _SQUARE),  # Σ z[m]² where there is z[n]
        ("lagged", "<f8", (3, len(_LAGS))),  # product, square of the first step, of the later one
    ]
)
# What is kept of a user: the regression of its loading, and scores that wait for the later steps' (lag, metric).
USER: Final = np.dtype([("loading", "<f4"), ("known", "<f4"), ("early", "i1", (len(_LAGS), len(METRICS)))])


@dataclass(frozen=True)
class Dependence:
    """The copula of an app's scores; its formula is the module's.

    shared: (metric) share of a score's variance that the app's factor explains, 0 to 1; metric_correlation: (metric,
    metric), unit diagonal, positive semidefinite; step_correlation: between consecutive steps, -1 to 1 (AR(1)).
    """

    shared: NDArray[np.float64]
    metric_correlation: NDArray[np.float64]
    step_correlation: float

    @classmethod
    def independent(cls, metrics: int) -> Dependence:
        """Independent users, metrics and steps."""
        return cls(np.zeros(metrics), np.eye(metrics), 0.0)

    def part(self, metrics: NDArray[np.intp]) -> Dependence:
        """The dependence of some metrics, by their indices."""
        return Dependence(
            self.shared[metrics], self.metric_correlation[np.ix_(metrics, metrics)], self.step_correlation
        )

    def strength(self, loading: int = 1) -> NDArray[np.float64]:
        """Coefficient b of the factor in scores of users of this loading, (metric), within -1 and 1."""
        return np.clip(loading * np.sqrt(np.clip(self.shared, 0, 1)), -1, 1)

    def correlation(self, steps: int) -> NDArray[np.float64]:
        """Correlation of the factor, and of each user's own part, (step × metric, step × metric)."""
        return np.kron(_persistence(self.step_correlation, steps), self.metric_correlation).astype(np.float64)

    def root(self, steps: int) -> NDArray[np.float64]:
        """A, (step × metric, step × metric), such that A e has `correlation` for e standard normal."""
        return _kronecker_root(self.metric_correlation.tobytes(), self.step_correlation, steps)

    def among(self, loading: NDArray[np.integer[Any]]) -> Dependence:
        """With `shared` scaled so that the factor moves the sum of users of these loadings as if all had loading 1.

        loading: (user).
        """
        mean = max(float(loading.mean()), LEAST_MEAN) if loading.size else 1.0
        shared = np.clip(self.shared / mean**2, 0, 1)
        return Dependence(shared, self.metric_correlation, self.step_correlation)


def _persistence(step_correlation: float, steps: int) -> NDArray[np.float64]:
    lag = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    return (step_correlation**lag).astype(np.float64)


@lru_cache(maxsize=64)
def _kronecker_root(metric_correlation: bytes, step_correlation: float, steps: int) -> NDArray[np.float64]:
    """`Dependence.root`, cached: it is needed several times for each app and tick."""
    metrics = np.frombuffer(metric_correlation, np.float64)
    width = math.isqrt(metrics.size)
    roots = square_root(_persistence(step_correlation, steps)), square_root(metrics.reshape(width, width))
    return np.kron(*roots).astype(np.float64)


def square_root(correlation: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Symmetric A with A Aᵀ = correlation and rows of length 1; negative eigenvalues of an estimate are taken as 0.

    The symmetric root is continuous in the estimate: shards whose estimates differ a little draw nearly the same
    factor. Eigenvectors alone may change their sign.
    """
    values, vectors = np.linalg.eigh(correlation)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root / np.linalg.norm(root, axis=1, keepdims=True)


def semidefinite(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix with eigenvalues raised to at least 1e-6, scaled back to a unit diagonal."""
    value, vector = np.linalg.eigh(matrix)
    fixed = (vector * np.maximum(value, 1e-6)) @ vector.T
    size = np.sqrt(np.diag(fixed))
    return fixed / np.outer(size, size)


def users(n: int) -> NDArray[Any]:
    """USER records (n) of n new users."""
    fresh = np.zeros(n, USER)
    fresh["loading"], fresh["early"] = 1, EARLY_NONE
    return fresh


def followed(tick: int, tick_s: int) -> NDArray[np.bool_]:
    """The argument `kept` of `learn` in a tick, (lag).

    Scores of the first step are of forecasts made a tick before: they are kept for the lags of which the forecast of
    that tick is kept too.
    """
    return clock_of(tick - 1, tick_s).made[0, 1:] > 0


def learn(
    sums: NDArray[Any],
    known: NDArray[Any],
    scores: NDArray[np.floating[Any]],
    kept: NDArray[np.bool_],
    prior: Dependence,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """SUMS and USER records of an app after a tick; the arguments are not changed.

    Args:
        sums: SUMS (), zeros for a new app.
        known: USER (user).
        scores: (user, metric, tracked) normal scores of the tick's targets, NaN = no target.
        kept: (lag) of `followed`: whether the first step's scores wait for the later step's.
        prior: dependence of a new app.
    """
    sums, known = sums.copy(), known.copy()
    shared = estimate(sums, prior).shared
    mean = sums["mean"] / (PRIOR_TICKS + sums["ticks"])
    spread = np.sqrt((PRIOR_TICKS + sums["square"]) / (PRIOR_TICKS + sums["pairs"]))
    information, regressed = np.zeros(len(known)), np.zeros(len(known))
    first: NDArray[np.float64] | None = None
    for k in range(len(TRACKED)):
        known_score = ~np.isnan(scores[:, :, k])
        if not known_score.any():
            continue
        z = np.where(known_score, scores[:, :, k] - mean[:, k], 0)
        count, total = known_score.sum(axis=0), z.sum(axis=0)
        squares = np.einsum("um,um->m", z, z)
        _add(sums["ticks"][:, k], count > 0, 1.0)
        _add(sums["mean"][:, k], count > 0, total / np.maximum(count, 1) + mean[:, k])
        pairs, many = count > 1, np.maximum(count, 2)
        _add(sums["pairs"][:, k], pairs, 1.0)
        _add(sums["pair"][:, k], pairs, (total**2 - squares) / (many * (many - 1)))
        _add(sums["square"][:, k], pairs, squares / many)
        share = known_score.astype(np.float64)
        together = share.T @ share
        _add(sums["both"], together > 0, z.T @ z / np.maximum(together, 1))
        _add(sums["own"], together > 0, (z * z).T @ share / np.maximum(together, 1))

        z /= spread[:, k]
        others = np.where(known_score & pairs, (total / spread[:, k] - z) / (many - 1), 0)
        factor = others * (shared / np.maximum(shared + (1 - shared) / (many - 1), 1e-12))
        information += np.einsum("um,um->u", factor, factor)
        regressed += np.einsum("um,um->u", factor, z)
        if k == 0:
            first = np.where(known_score, z, np.nan)
        else:
            _follow(sums["lagged"][:, k - 1], known["early"][:, k - 1], np.where(known_score, z, np.nan))
    weighted_sum = known["loading"] * (PRIOR_PRECISION + known["known"]) - PRIOR_PRECISION
    known["known"] = DECAY * known["known"] + information
    known["loading"] = (PRIOR_PRECISION + DECAY * weighted_sum + regressed) / (
        PRIOR_PRECISION + known["known"]
    )
    codes = np.full(known["early"].shape[::2], EARLY_NONE, np.int8)
    if first is not None:
        codes[:] = np.where(
            np.isnan(first), EARLY_NONE, np.clip(np.rint(np.nan_to_num(first) / EARLY_UNIT), -127, 127)
        )
    known["early"][:, kept] = codes[:, None]
    return sums, known


def _add(total: NDArray[np.float64], where: NDArray[np.bool_], amount: Any) -> None:
    """Decay a sum and add to it, in place, where there was a score."""
    total[:] = np.where(where, DECAY * total + amount, total)


def _follow(lagged: NDArray[Any], early: NDArray[np.int8], later: NDArray[np.float64]) -> None:
    """Add products of the first step's scores and a later step's to the sums, in place, and clear the first step's."""
    both = (early != EARLY_NONE) & ~np.isnan(later)
    if both.any():
        a, b = early[both] * EARLY_UNIT, later[both]
        _add(lagged, np.ones(3, bool), np.array([(a * b).mean(), (a * a).mean(), (b * b).mean()]))
    early[:] = EARLY_NONE


def estimate(sums: NDArray[Any], prior: Dependence) -> Dependence:
    """The dependence of an app from its SUMS; exactly the prior where they are zero."""
    pair, square = sums["pair"], sums["square"]
    # steps shrink to their common value, and that to the prior: later ones are heard one tick in seven
    pooled = prior.shared + (pair.sum(1) - prior.shared * square.sum(1)) / (PRIOR_TICKS + square.sum(1))
    steps = (pair - pooled[:, None] * square) / (PRIOR_TICKS + square)
    shared = np.clip(pooled + steps.mean(axis=1), 0, 1)

    size = np.sqrt(sums["own"] * sums["own"].T)
    between = prior.metric_correlation + (sums["both"] - prior.metric_correlation * size) / (
        PRIOR_TICKS + size
    )
    np.fill_diagonal(between, 1)
    if np.linalg.eigvalsh(between)[0] < -1e-9:  # of rounding
        between = semidefinite(between)

    product, *squares = sums["lagged"]
    size = np.sqrt(squares[0] * squares[1])
    step_correlation = np.clip(product / np.where(size > 0, size, 1), 0, 1) ** (1 / _LAGS)
    gain = (size * (step_correlation - prior.step_correlation)).sum() / (PRIOR_TICKS + size.sum())
    return Dependence(shared, between, float(prior.step_correlation + gain))


def loadings(known: NDArray[Any]) -> NDArray[np.int8]:
    """The nearest of LOADINGS for each USER record (user), relative to the median, so that most users have 1."""
    levels = np.array(LOADINGS)
    middle = (levels[1:] + levels[:-1]) / 2
    unit = max(float(np.median(known["loading"])), LEAST_MEAN) if known.size else 1.0
    return levels[np.searchsorted(middle, known["loading"] / unit)].astype(np.int8)
