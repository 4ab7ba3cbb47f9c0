"""Posteriors of launch failure, interruptions and how they come together; conjugate, or on a grid.

| figure | what is observed | posterior |
|---|---|---|
| launch failure | in each observation with launches that ended, the share that failed | Beta |
| interruptions per hour of a pool | in each observation, the share of instances lost, over its time | Gamma |
| correlation of losses in a pool | lost of those ready, beta-binomial as `models.purchase.market` has it | grid |
| the same between pools of a provider | how often two of them lost instances in the same tick | copula |

Shares count as one trial, however many instances they are of: instances of one pool fail and are lost together, so a
second one says little more (design effect 1 + (m − 1) ρ of m instances, m at ρ = 1). Priors shrink an offer to its
provider and a provider to what is stated: the prior mean of offer i is

    (weight × stated_i + Σ_{j≠i} lost_j) / (weight + Σ_{j≠i} time_j),

an empirical Bayes estimate (Gelman et al., Bayesian Data Analysis, 3rd ed., ch. 2.6 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, betaln, gammaincinv, gammaln, ndtri
from scipy.stats import multivariate_normal

FAILURE_WEIGHT: Final = 10.0  # launches that what is stated, or what the provider showed, counts for
PROVIDER_LAUNCHES: Final = 40.0  # likewise of what is stated beside the provider's other offers
EVENTS: Final = (
    0.5  # interruptions that what is stated counts for: rates are stated by the month and in wide bands
)
MOST_HOURS: Final = 12.0  # for no longer than this
ELSEWHERE: Final = 0.25  # of an hour of another provider's pool, beside one of the same provider
CORRELATIONS: Final = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99)
USUAL: Final = 0.3  # `models.purchase.market.POOL_CORRELATION`
DECISIVE: Final = 3.0  # log-likelihood above that of USUAL: odds of 20
JOINT: Final = 3  # losses of two pools together, below which pools of a provider count as independent
SHRUNK: Final = 200.0  # pairs of pools in a tick that count as independent in the prior

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """Of an offer or pool: what is stated, what happened (failures, losses), and of how many launches or hours."""

    stated: float
    events: float = 0.0
    exposure: float = 0.0


@dataclass(frozen=True)
class Rate:
    """Posterior mean, and the equal-tailed interval of 99 %."""

    mean: float
    low: float
    high: float


def _prior_mean(own: Tally, others: Sequence[Tally], weight: float) -> float:
    """The empirical Bayes mean of the module's text; `weight`: of what is stated, in launches or hours."""
    events, exposure = (sum(getattr(o, name) for o in others) for name in ("events", "exposure"))
    return (weight * own.stated + events) / (weight + exposure)


def _relative(own: Tally, other: Tally) -> Tally:
    """What another provider's pool showed, as of a pool that states what `own` does, with the weight ELSEWHERE."""
    scale = other.stated / max(own.stated, 1e-9)
    return Tally(own.stated, ELSEWHERE * other.events, ELSEWHERE * scale * other.exposure)


def failure(own: Tally, others: Sequence[Tally] = ()) -> Rate:
    """Probability that a launch fails: Beta(w m + failed, w (1 − m) + launched − failed); others: of the provider."""
    mean = min(max(_prior_mean(own, others, PROVIDER_LAUNCHES), 1e-3), 0.99)
    a = FAILURE_WEIGHT * mean + own.events
    b = FAILURE_WEIGHT * (1 - mean) + own.exposure - own.events
    low, high = betaincinv(a, b, [0.005, 0.995]).tolist()
    return Rate(a / (a + b), low, high)


def interruptions(own: Tally, others: Sequence[Tally] = (), elsewhere: Sequence[Tally] = ()) -> Rate:
    """Interruptions per hour: Gamma of shape w m + lost and rate w + hours, w = EVENTS / m at most MOST_HOURS.

    Args:
        own: of the pool.
        others: of the provider's other pools.
        elsewhere: of other providers' pools, each relative to what it states, as the same source states it.
    """
    weight = min(EVENTS / max(own.stated, 1e-9), MOST_HOURS)
    known = [*others, *(_relative(own, tally) for tally in elsewhere)]
    mean = max(_prior_mean(own, known, weight), 1e-6)
    weight = min(EVENTS / mean, MOST_HOURS)
    shape, rate = weight * mean + own.events, weight + own.exposure
    low, high = (gammaincinv(shape, [0.005, 0.995]) / rate).tolist()
    return Rate(shape / rate, low, high)


def together(own: Tally, others: Sequence[Tally], elsewhere: Sequence[Tally]) -> Rate:
    """Interruptions per hour of all those pools, weighted as in `interruptions`, as of a single one."""
    known = [own, *others, *(_relative(own, tally) for tally in elsewhere)]
    events, exposure = (sum(getattr(o, name) for o in known) for name in ("events", "exposure"))
    return interruptions(Tally(own.stated, events, exposure))


def log_likelihoods(lost: int, ready: int, share: float) -> Array:
    """Of k = `lost` of n = `ready` instances by CORRELATIONS: C(n, k) B(k + a, n − k + b) / B(a, b).

    a = share × s, b = (1 − share) × s, s = 1 / ρ − 1; share: expected to be lost, 0 to 1.
    """
    strength = 1 / np.array(CORRELATIONS) - 1
    a, b = share * strength, (1 - share) * strength
    choose = gammaln(ready + 1) - gammaln(lost + 1) - gammaln(ready - lost + 1)
    return choose + betaln(lost + a, ready - lost + b) - betaln(a, b)


def correlation(own: Sequence[float] | None, pools: Sequence[float] | None = None) -> float | None:
    """The most likely of CORRELATIONS; None: it is not decisively more so than the usual one.

    Args:
        own: log-likelihoods of the pool by CORRELATIONS, None = no evidence; where they decide nothing, all decide.
        pools: likewise of all pools together.
    """
    for values in (own, pools):
        if values is not None:
            known = np.asarray(values)
            best = int(known.argmax())
            if known[best] - known[CORRELATIONS.index(USUAL)] > DECISIVE:
                return CORRELATIONS[best]
    return None


def between_pools(hits: float, exposed: float, joint: float, pairs: float) -> float:
    """Correlation r of the Gaussian copula with which two pools of a provider lose instances in the same tick.

    With the share p of pool-ticks with a loss it solves Φ₂(z_p, z_p; r) = q for the share q of pairs in which both lost
    some, shrunk to p² as SHRUNK pairs (Nelsen, An Introduction to Copulas, 2nd ed., ch. 2). 0 below JOINT of these.

    Args:
        hits, exposed: pool-ticks with a loss, and all.
        joint, pairs: pairs of pools in a tick that both lost some, and all.
    """
    if joint < JOINT or not exposed or hits >= exposed:
        return 0.0
    share = hits / exposed
    together = (joint + SHRUNK * share**2) / (pairs + SHRUNK)
    grid = [i / 10 for i in range(10)]
    return min(grid, key=lambda r: (abs(_both(round(share, 4), r) - together), r))


@lru_cache(maxsize=4096)
def _both(share: float, r: float) -> float:
    z = float(ndtri(min(max(share, 1e-6), 1 - 1e-6)))
    normal: Any = multivariate_normal
    return float(normal.cdf([z, z], mean=[0.0, 0.0], cov=[[1.0, r], [r, 1.0]]))
