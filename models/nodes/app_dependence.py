"""How the demand of apps that share nodes moves together: learnt online, and put into scenarios drawn app by app.

The score of an app is the standard-normal level, in its own scenarios, of the load that came: of the largest one over
the window that is planned for. Scores of a group's apps are taken to be jointly normal with one common factor,

    z[a] = b[a] F + sqrt(1 - b[a]²) E[a],      correlation of two apps  b[a] b[c],

and pairs that the factor does not explain keep their own correlation as far as data shows it: the correlation of all
pairs, shrunk to that of the factor (Ledoit and Wolf 2003 shrink to a single-index model so). Learnt with every tick, as
ratios of decayed sums of scores less their running mean:

    level     the mean correlation of all pairs, Σ z[a] z[c] / sqrt(Σ z[a]² Σ z[c]²), shrunk to the prior
    loading   ridge regression of each app on the others' factor, by alternating least squares (minres, Harman and
              Jones 1966), shrunk to sqrt(level)
    pair      of what the factor leaves, shrunk to 0
    tail      1 / ν, from how often two apps are high together: P(z[c] > HIGH | z[a] > HIGH), shrunk to the prior

Apps' bursts come together far more often than correlation says (jobs that start at midnight): on Bitbrains one app in
five is in its highest 2 % when another is, where normals of the same correlation, 0.16, say one in twenty. So the
scores of a scenario have a common scale, sqrt(ν / χ²(ν)): their dependence is that of Student's t with ν degrees of
freedom (Demarta and McNeil 2005), of normals for tail 0. Why: docs/decisions/0026-apps-burst-together.md.

An app that has no score in a tick keeps its sums; what is not known is the prior's, which counts as PRIOR_TICKS ticks.

Scenarios are paired by Iman and Conover (1982): each app's are put into another order, so that the ranks of their
largest loads are those of draws with the learnt correlation and tail. Nothing else of an app's scenarios changes, so
its own need at any confidence stays to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr, ndtri, owens_t, stdtrit

from models.behaviour.error_dependence import DECAY, PRIOR_TICKS, semidefinite
from models.demand.scenarios import BLAS_PRODUCTS
from models.random_streams import stream

Array = NDArray[np.float64]
State = dict[str, NDArray[Any]]

# Means over Bitbrains' ten apps and three groups of services of Microsoft's cloud: 0.07 to 0.23, and 1/30 to 2/5.
PRIOR: Final = 0.13
PRIOR_TAIL: Final = 1 / 6
# Loadings differ from the common one by some 0.2 (standard deviation), before anything is known: precision 1 / 0.2².
LOADING_PRECISION: Final = 25.0
# Correlations that the factor leaves differ from 0 by some 0.1: precision 1 / 0.1², in ticks.
PAIR_TICKS: Final = 100.0
MOST_LOADING: Final = 0.995  # a loading of 1 would make an app's own part vanish
ROUNDS: Final = 30  # of alternating least squares: loadings change by less than 1e-3 after some ten
SCORE_MOST: Final = 3.5  # of 4,096 scenarios the rarest is at 3.7; a load beyond all of them tells no more
PAIRS: Final = ("product", "square")
HIGH: Final = 1.645  # the highest 5 %: rare enough to tell of the tail, and there are some in a day
TAILS: Final = np.array([0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2])
GRID: Final = np.linspace(-1, 1, 41)  # correlations for which the tail is tabulated
SCALES: Final = 64  # equally probable ones, of Student's t


@dataclass(frozen=True)
class AppDependence:
    """Correlations of a group's scores.

    Attributes:
        loading: (app) on the common factor, within -1 and 1.
        correlation: (app, app), unit diagonal, positive semidefinite.
        tail: 1 / ν of Student's t, 0 to 1/2; 0 = normal.
    """

    loading: Array
    correlation: Array
    tail: float


def initial_state(apps: int) -> State:
    """What is known of a group of new apps: nothing.

    ticks: (app) decayed, with a score; sum: (app) Σ z; product, square: (app, app) Σ z[a] z[c] and Σ z[a]² over the
    ticks in which both have a score; high: (3) ticks with two scores and more, the mean share of the apps that are
    high, and of the pairs of which both are.
    """
    pairs = {name: np.zeros((apps, apps)) for name in PAIRS}
    return {"ticks": np.zeros(apps), "sum": np.zeros(apps), "high": np.zeros(3), **pairs}


def moved(state: State, index: NDArray[np.integer[Any]]) -> State:
    """The state of a group whose apps joined, left or changed their order.

    index: (app) each app's place in `state`, -1 = it is new.
    """
    fresh, known = initial_state(len(index)), index >= 0
    old = index[known]
    fresh["high"][:] = state["high"]
    for name in ("ticks", "sum", *PAIRS):
        values = fresh[name]
        pairs = name in PAIRS
        values[np.ix_(known, known) if pairs else known] = state[name][np.ix_(old, old) if pairs else old]
    return fresh


def normal_scores(load: NDArray[np.floating[Any]], came: NDArray[np.floating[Any]]) -> Array:
    """Standard-normal level of what came in each app's scenarios, (app); NaN where it is not known.

    Among equal scenarios it is the middle of their levels, within SCORE_MOST.

    load: (app, scenario), the largest over the window; came: (app), likewise, NaN = not measured.
    """
    below = (load < came[:, None]).sum(axis=1)
    equal = (load == came[:, None]).sum(axis=1)
    scores = np.clip(ndtri((below + equal / 2 + 0.5) / (load.shape[1] + 1)), -SCORE_MOST, SCORE_MOST)
    return np.where(np.isnan(came), np.nan, scores)


def learn(state: State, scores: NDArray[np.floating[Any]], weight: float = 1.0) -> State:
    """The state after a tick's scores (app), NaN = none; the argument is not changed.

    weight: of the tick. Scores of windows of n ticks overlap, so that n of them tell what one does: 1 / n.
    """
    known = ~np.isnan(scores)
    both = known & known[:, None]
    z = np.where(known, scores - state["sum"] / (PRIOR_TICKS + state["ticks"]), 0.0)
    raw = np.where(known, scores, 0.0)
    count, high = int(known.sum()), int((z > HIGH).sum())
    several = np.full(3, count > 1)
    high_shares = np.array([1.0, high / max(count, 1), high * (high - 1) / max(count * (count - 1), 1)])
    added = {
        "ticks": (known, known.astype(float)),
        "sum": (known, raw),
        "high": (several, high_shares),
        "product": (both, np.outer(z, z)),
        "square": (both, np.broadcast_to((z * z)[:, None], both.shape)),
    }
    return {
        name: np.where(where, DECAY * state[name] + weight * amount, state[name])
        for name, (where, amount) in added.items()
    }


def estimate(state: State, prior: float = PRIOR, prior_tail: float = PRIOR_TAIL) -> AppDependence:
    """The dependence of a group; that of the prior where nothing is known.

    prior: correlation of two apps of which nothing is known, 0 to 1; prior_tail: likewise.
    """
    apps = len(state["ticks"])
    if apps < 2:
        return AppDependence(np.full(apps, math.sqrt(prior)), np.eye(apps), prior_tail)
    other = ~np.eye(apps, dtype=bool)
    size = np.sqrt(state["square"] * state["square"].T)
    size, product = np.where(other, size, 0.0), np.where(other, state["product"], 0.0)
    pairs = apps * (apps - 1)
    level = prior + (product - prior * size).sum() / pairs / (PRIOR_TICKS + size.sum() / pairs)
    loading = _loadings(product, size, math.sqrt(min(max(level, 0.0), 1.0)))
    factor = np.outer(loading, loading)
    left = (product - factor * size) / (PAIR_TICKS + size)
    correlation = np.clip(factor + left, -MOST_LOADING, MOST_LOADING)
    np.fill_diagonal(correlation, 1.0)
    if np.linalg.eigvalsh(correlation)[0] < 1e-6:
        correlation = semidefinite(correlation)
    return AppDependence(loading, correlation, _tail(state["high"], correlation[other], prior_tail))


def _tail(high: Array, correlation: Array, prior: float) -> float:
    """1 / ν, from the shares of `initial_state`'s high and the correlations of all pairs, (pair)."""
    ticks, single, both = high
    share = (PRIOR_TICKS * ndtr(-HIGH) + single) / (PRIOR_TICKS + ticks)
    table = high_together(round(float(share), 3))
    together = np.array([np.interp(correlation, GRID, row).mean() for row in table])
    before = PRIOR_TICKS * share
    conditional = (both + before * np.interp(prior, TAILS, together)) / (single + before)
    return float(np.interp(conditional, together, TAILS))


@lru_cache(maxsize=64)
def high_together(share: float) -> Array:
    """P(z[c] is high | z[a] is) of Student's t, by TAILS and by the correlations of GRID, (tail, correlation).

    Of two normals, both exceed h with probability Q(h) - 2 T(h, sqrt((1 - ρ) / (1 + ρ))), T Owen's (1956).

    share: of the scores that are high, 0 to 1, not included.
    """
    slope = np.sqrt((1 - GRID) / np.maximum(1 + GRID, 1e-12))
    middle = (np.arange(SCALES) + 0.5) / SCALES
    rows = [ndtri(1 - share) * np.ones(1)]
    rows += [
        stdtrit(1 / tail, 1 - share) * np.sqrt(2 * tail * gammaincinv(1 / (2 * tail), middle))
        for tail in TAILS[1:].tolist()
    ]
    both = [(ndtr(-h[:, None]) - 2 * owens_t(h[:, None], slope)).mean(axis=0) for h in rows]
    return np.array(both) / share


def _loadings(product: Array, size: Array, common: float) -> Array:
    """Loadings (app) that fit the products of pairs best, shrunk to a common one.

    product, size: (app, app) with zeros on the diagonal, Σ z[a] z[c] and what it would be at a correlation of 1.
    An app's loading is known from the others' mean as well as the factor is from it: Σ b² / (1 - b̄² + Σ b²) of a tick.
    """
    # a start that signs can differ in: the first principal component of the shrunk correlations
    shrunk = common**2 + (product - common**2 * size) / (PRIOR_TICKS + size)
    np.fill_diagonal(shrunk, 1.0)
    vector = np.cos(np.arange(len(product)) / len(product))  # not at right angles to what apps have in common
    for _ in range(ROUNDS):  # `eigh` waits for threads: ten milliseconds
        vector = shrunk @ vector
        vector /= np.linalg.norm(vector)
    largest = float(vector @ shrunk @ vector)
    start = vector * math.sqrt(max(largest - 1.0, 0.0)) * (1.0 if vector.sum() >= 0 else -1.0)
    loading = np.clip(start, -MOST_LOADING, MOST_LOADING)
    for _ in range(ROUNDS):
        squares = loading**2
        others = squares.sum() - squares
        share = 1.0 / (1.0 - squares.mean() + others)
        gained, known = product @ loading * share, size @ squares * share
        fitted = (LOADING_PRECISION * common + gained) / (LOADING_PRECISION + known)
        loading = np.clip((loading + fitted) / 2, -MOST_LOADING, MOST_LOADING)
    return loading


def paired(
    load: NDArray[np.floating[Any]], dependence: AppDependence, key: tuple[int, bytes, int]
) -> NDArray[np.int64]:
    """Order of each app's scenarios in which their loads depend on each other as scores do, (app, scenario).

    Scenario s of the group is `order[a, s]` of app a. Scenarios of equal load are in an order that tells nothing.

    Args:
        load: (app, scenario) the largest over the window, at least 0.
        dependence: of the apps' scores.
        key: seed, group and tick, which name the random stream.
    """
    apps, scenarios = load.shape
    generator = stream(np, *key, "apps")
    draws = generator.standard_normal((apps, scenarios), dtype=np.float32)
    # the draws' own correlation, which is chance, is taken out before the wanted one is put in
    root = np.linalg.cholesky(dependence.correlation + 1e-9 * np.eye(apps))
    draws -= draws.mean(axis=1, keepdims=True)
    width = max(1, BLAS_PRODUCTS // max(1, apps**2))
    parts = [slice(begin, begin + width) for begin in range(0, scenarios, width)]
    own = sum((draws[:, part] @ draws[:, part].T for part in parts), np.zeros((apps, apps))) / scenarios
    own += np.eye(apps) * apps / scenarios  # of few scenarios it is singular
    mixing = np.linalg.solve(np.linalg.cholesky(own).T, root.T).T.astype(np.float32)
    for part in parts:
        draws[:, part] = mixing @ draws[:, part]
    if dependence.tail > 0:
        draws /= np.sqrt(generator.chisquare(1 / dependence.tail, scenarios) * dependence.tail).astype(
            np.float32
        )
    order = np.empty((apps, scenarios), np.int64)
    np.put_along_axis(order, ranked(draws), ranked(load.astype(np.float32)), axis=1)
    return order


def ranked(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices of each row's values in rising order, equal ones as they lie; the same on all machines.

    The bits of a float are as ordered as it is, so that with its index behind it is one whole number, which sorts in
    half the time of a stable `argsort`.

    values: (row, value) without NaN, at most 2³² in a row.
    """
    bits = np.ascontiguousarray(values + np.float32(0)).view(np.int32).astype(np.int64)
    keys = np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)
    shift = max(1, (values.shape[1] - 1).bit_length())
    keys <<= shift
    keys |= np.arange(values.shape[1])
    keys.sort(axis=1)
    keys &= (1 << shift) - 1
    return keys
