"""How dear a shortage has to be for the capacity bought at that price to suffice: its distribution, learnt online.

A plan at price x of an hour's shortage (in prices of a replica-hour) is as sure as costs least in all
(`models.planning.shortage_price`). In a tick whose demand is known, the *critical price* is the least x whose capacity,
simulated in a lane of its own, suffices. With the price at the (1 - a) quantile of critical prices, a share a of the
ticks is missed: quantile estimation with full information, for the demand does not react to what is bought.

Counts of ticks whose critical price lies above each point of a grid of log prices; old ticks fade by half in HALF_S:

    n <- n * d + 1,   above(g) <- above(g) * d + [critical > g],   d = 2^(-1 / max(HALF_S / tick_s, HALF_TICKS))

What an app has not seen itself is taken from all apps of the shard, and before them from the prior, each as so many
ticks of evidence: tail(g) = (above(g) + w * prior(g)) / (n + w), a Beta-binomial posterior mean at each g.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PRICES: Final = (5, 10, 20, 40, 70, 100, 150, 200, 300, 450, 700, 1_000, 2_000, 5_000)
"""Prices of an hour's shortage, in those of a replica-hour, at which lanes are simulated."""
LOG_PRICES: Final = np.log(np.array(PRICES, np.float64))
GRID: Final = np.linspace(LOG_PRICES[0], LOG_PRICES[-1], 80)
"""Log prices at which the tail is counted: 9 % apart."""
HALF_S: Final = 86_400.0
HALF_TICKS: Final = 336
"""Of longer ticks so many at least, 14 days of an hour: a tail of one in a hundred needs them."""
PRIOR_PRICE: Final = 100.0
"""Of the prior: 1 % of critical prices are above it (34 on nasa95, 130 on Bitbrains)."""
PRIOR_SCALE: Final = 0.8
"""Of the prior: its tail falls by e within so much of a log price."""

Array = NDArray[np.float64]
Tail = dict[str, Array]
"""n (...) and above (..., grid) of the module, of one arm or of several."""


def initial(*arms: int) -> Tail:
    """Of an app or a shard without a tick, for so many arms; without a number for one."""
    return {"n": np.zeros(arms), "above": np.zeros((*arms, len(GRID)))}


PRIOR: Final = np.clip(0.01 * np.exp(-(GRID - np.log(PRIOR_PRICE)) / PRIOR_SCALE), 0.0, 1.0)
"""Share of critical prices above each point of the grid before anything is known, (grid)."""


def critical_price(ready: NDArray[np.floating[Any]], need: float) -> Array:
    """Log of the least price whose capacity suffices, (...); between two lanes by their capacity, on a log scale.

    Args:
        ready: (..., price) replicas that served throughout the tick, by PRICES.
        need: replicas that the tick's demand filled.

    Returns:
        Below the grid where every lane sufficed, above it where none did.
    """
    enough = ready >= need
    first = np.argmax(enough, axis=-1)[..., None]
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(ready, of, -1)[..., 0] for of in (before, first))
    share = (need - low) / np.where(high > low, high - low, 1.0)
    left, right = LOG_PRICES[before[..., 0]], LOG_PRICES[first[..., 0]]
    between = np.where(enough[..., 0], LOG_PRICES[0] - 1.0, left + share * (right - left))
    return np.where(enough.any(axis=-1), between, LOG_PRICES[-1] + 1.0)


def kept(tick_s: int) -> float:
    """Share of older ticks that still counts after one more (d)."""
    return float(0.5 ** (1 / max(HALF_S / tick_s, HALF_TICKS)))


def observe(tail: Tail, critical: Array | float, kept: float) -> Tail:
    """The tail with one more tick; critical: (...); kept: share of older ticks that still counts (d)."""
    above = np.asarray(critical)[..., None] > GRID
    return {"n": kept * tail["n"] + 1, "above": kept * tail["above"] + above}


def posterior(tail: Tail, before: Array, weight: float) -> Array:
    """Share of critical prices above each point (..., grid); before: the prior's, worth `weight` ticks."""
    return (tail["above"] + weight * before) / (tail["n"][..., None] + weight)


def log_price(share_above: Array, allowed: float) -> Array:
    """Log price (...) of which a share `allowed` of critical prices is above; between points along log shares.

    Args:
        share_above: (..., grid), falling.
        allowed: 0 to 1.
    """
    below = share_above <= allowed
    first = np.argmax(below, axis=-1)[..., None]
    before = np.maximum(first - 1, 0)
    high, low = (
        np.log(np.maximum(np.take_along_axis(share_above, of, -1)[..., 0], 1e-12)) for of in (before, first)
    )
    part = (high - np.log(allowed)) / np.where(high > low, high - low, 1.0)
    left, right = GRID[before[..., 0]], GRID[first[..., 0]]
    between = np.where(below[..., 0], GRID[0], left + part * (right - left))
    return np.where(below.any(axis=-1), between, GRID[-1])
