"""Posterior of an offer's start-up time, from launches that were seen to be ready between two observations.

A start-up time T is lognormal, log T ~ N(μ, σ²), as providers' measured ones roughly are and as `simulated_cloud` draws
them. What the stream shows of a launch is an interval (a, b] that T lies in: it was not ready at one observation and
was at the next; one that is still waited for, or was released before, has b = ∞. With the stated launch failure f an
attempt fails and is made again RELAUNCH_S later, so that

    P(a < T ≤ b) = (1 − f) [F(b) − F(a)] + f [F₂(b) − F₂(a)],   F₂(t) = F((t − RELAUNCH_S) / 2),

of which the last is an approximation by two equal attempts. The prior shrinks to what is stated,

    μ ~ N(log p50 + shift, spread²),   log σ ~ N(log σ₀, SIGMA_SPREAD²),   σ₀ = log(p99 / p50) / z₉₉,

with the shift of the provider's other offers (`provider_shift`). The posterior is computed on a grid that is centred
thrice (Gelman et al., Bayesian Data Analysis, 3rd ed., ch. 3 and 10.1; interval censoring: Klein and Moeschberger,
Survival Analysis, ch. 3). Nothing is drawn: the same counts give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Z99: Final = 2.3263478740408408  # standard-normal 99 % quantile
RELAUNCH_S: Final = 60.0  # a provider's pause after a launch that failed
OFFER_SPREAD: Final = 0.5  # of log μ between offers of a provider: a factor of 1.6
PROVIDER_SPREAD: Final = 0.7  # of log μ between providers and what they state: a factor of 2
SIGMA_SPREAD: Final = 0.7  # of log σ around what is stated
LEAST_SIGMA: Final = 0.05  # of a stated 99 % that equals the median
POINTS: Final = 41  # of the grid in either direction: quantiles then err by less than 1 % of the interval
PASSES: Final = 3
WIDTH: Final = 5.0  # posterior deviations that the grid reaches to either side
TINY: Final = 1e-300

Array = NDArray[np.float64]
Interval = tuple[float, float, float]
"""Seconds after which a launch was not ready, within which it was (∞: it was not), and number of launches."""


@dataclass(frozen=True)
class Stated:
    """Start-up seconds as an offer states them, and its launch failure, 0 to below 1."""

    p50_s: float
    p99_s: float
    failure: float = 0.0

    @property
    def location(self) -> float:
        """log of the median; below a millisecond counts as one."""
        return math.log(max(self.p50_s, 1e-3))

    @property
    def sigma(self) -> float:
        """Deviation of log T through the median and the 99 % quantile."""
        return max(math.log(max(self.p99_s, self.p50_s, 1e-3)) - self.location, 0.0) / Z99


@dataclass(frozen=True)
class Posterior:
    """What is known of a start-up time.

    Attributes:
        launches: number that the intervals are of.
        p50_s, p90_s, p99_s: quantiles of the next start-up time (posterior predictive).
        location: posterior mean and standard deviation of μ.
        grid: (point) μ, σ and weight.
    """

    launches: float
    p50_s: float
    p90_s: float
    p99_s: float
    location: tuple[float, float]
    grid: tuple[Array, Array, Array]

    def interval(self, quantile: float = 0.99, level: float = 0.95) -> tuple[float, float]:
        """Equal-tailed credible interval, seconds, of a quantile of the start-up time."""
        mu, sigma, weight = self.grid
        values = mu + float(ndtri(quantile)) * sigma
        order = np.argsort(values, kind="stable")
        mass = np.cumsum(weight[order]) - 0.5 * weight[order]
        low, high = np.interp([(1 - level) / 2, (1 + level) / 2], mass, values[order])
        return float(np.exp(low)), float(np.exp(high))


def posterior(
    stated: Stated, intervals: Iterable[Interval], shift: tuple[float, float] = (0.0, 0.0)
) -> Posterior:
    """The posterior of an offer's start-up time.

    Args:
        stated: of the offer.
        intervals: of its launches.
        shift: mean and standard deviation of log T − log stated, of the provider's other offers (`provider_shift`).
    """
    return _posterior(stated, tuple(sorted((float(a), float(b), float(n)) for a, b, n in intervals)), shift)


@lru_cache(maxsize=4096)
def _posterior(stated: Stated, intervals: tuple[Interval, ...], shift: tuple[float, float]) -> Posterior:
    counts = np.array(intervals, dtype=np.float64).reshape(-1, 3)
    prior = stated.location + shift[0], math.hypot(OFFER_SPREAD, shift[1])
    sigma_0 = math.log(max(stated.sigma, LEAST_SIGMA))
    centre, reach = _start(prior, sigma_0, counts)
    mu = sigma = weight = np.zeros(0)
    for _ in range(PASSES):
        axes = [np.linspace(c - r, c + r, POINTS) for c, r in zip(centre, reach, strict=True)]
        mu, log_sigma = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        sigma = np.exp(log_sigma)
        log_p = -0.5 * ((mu - prior[0]) / prior[1]) ** 2 - 0.5 * ((log_sigma - sigma_0) / SIGMA_SPREAD) ** 2
        log_p += _log_likelihood(mu, sigma, counts, stated.failure)
        weight = np.exp(log_p - log_p.max())
        weight /= weight.sum()
        centre, deviation = zip(*(_moments(of, weight) for of in (mu, log_sigma)), strict=True)
        steps = [2 * r / (POINTS - 1) for r in reach]
        reach = [WIDTH * max(d, 0.5 * s) for d, s in zip(deviation, steps, strict=True)]
    p50_s, p90_s, p99_s = _predictive(mu, sigma, weight, (0.5, 0.9, 0.99))
    launches = float(counts[:, 2].sum())
    return Posterior(launches, p50_s, p90_s, p99_s, _moments(mu, weight), (mu, sigma, weight))


def _start(
    prior: tuple[float, float], sigma_0: float, counts: Array
) -> tuple[Sequence[float], Sequence[float]]:
    """Centre and reach of the first grid over μ and log σ: all that prior and intervals could mean."""
    seen = [math.log(max(low, min(high, 1e9) / 2, 1e-3)) for low, high, _ in counts.tolist()]
    ends = [prior[0] - 3 * prior[1], prior[0] + 3 * prior[1], *seen]
    low, high = min(ends), max(ends)
    return ((low + high) / 2, sigma_0), ((high - low) / 2, 4 * SIGMA_SPREAD)


def _log_likelihood(mu: Array, sigma: Array, counts: Array, failure: float) -> Array:
    """Of the intervals, (point)."""
    if not len(counts):
        return np.zeros_like(mu)

    def below(seconds: Array) -> Array:
        with np.errstate(divide="ignore"):
            return ndtr((np.log(np.maximum(seconds, 0.0)) - mu[:, None]) / sigma[:, None])

    low, high, number = counts.T
    inside = (1 - failure) * (below(high) - below(low))
    if failure > 0:
        inside += failure * (below((high - RELAUNCH_S) / 2) - below((low - RELAUNCH_S) / 2))
    return np.log(np.maximum(inside, TINY)) @ number


def _moments(values: Array, weight: Array) -> tuple[float, float]:
    mean = float(values @ weight)
    return mean, math.sqrt(max(float((values - mean) ** 2 @ weight), 0.0))


def _predictive(mu: Array, sigma: Array, weight: Array, levels: Sequence[float]) -> list[float]:
    """Quantiles of the next start-up time, seconds: of the mixture over the grid, by interpolation."""
    kept = weight > 1e-9
    mu, sigma, weight = mu[kept], sigma[kept], weight[kept] / weight[kept].sum()
    logs = np.linspace(float((mu - 4 * sigma).min()), float((mu + 4 * sigma).max()), 512)
    mass = ndtr((logs[:, None] - mu) / sigma) @ weight
    return np.exp(np.interp(levels, mass, logs)).tolist()


def provider_shift(others: Sequence[tuple[Stated, Sequence[Interval]]]) -> tuple[float, float]:
    """Mean and deviation of log T − log stated of a provider, as its other offers have shown it.

    A normal hierarchical model with known spreads (Bayesian Data Analysis, ch. 5.4): offer j, seen to be shifted by
    d_j ± s_j, counts with the weight 1 / (s_j² + OFFER_SPREAD²), beside a prior of no shift with PROVIDER_SPREAD.
    """
    total, precision = 0.0, PROVIDER_SPREAD**-2
    for stated, intervals in others:
        if intervals:
            alone = posterior(stated, intervals, (0.0, PROVIDER_SPREAD))
            # without its prior: the shift that the launches alone show
            own = max(alone.location[1] ** -2 - 1 / (OFFER_SPREAD**2 + PROVIDER_SPREAD**2), 1e-6)
            shown = (alone.location[0] - stated.location) * alone.location[1] ** -2 / own
            weight = 1 / (1 / own + OFFER_SPREAD**2)
            total, precision = total + weight * shown, precision + weight
    return total / precision, precision**-0.5
