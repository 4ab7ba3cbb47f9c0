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
HALF_S: Final = 3 * 86_400.0
HALF_TICKS: Final = 500
"""Of longer ticks so many at least: a tail of one in a hundred needs them."""
PRIOR_PRICE: Final = 100.0
"""Of the prior: 1 % of critical prices are above it (34 on nasa95, 130 on Bitbrains)."""
PRIOR_SCALE: Final = 0.8
"""Of the prior: its tail falls by e within so much of a log price."""

Array = NDArray[np.float64]
Tail = dict[str, Array]
"""n (1) and above (grid), see the module."""


def initial() -> Tail:
    """Of an app or a shard without a tick."""
    return {"n": np.zeros(1), "above": np.zeros(len(GRID))}


def prior() -> Array:
    """Share of critical prices above each point of the grid before anything is known, (grid)."""
    return np.clip(0.01 * np.exp(-(GRID - np.log(PRIOR_PRICE)) / PRIOR_SCALE), 0.0, 1.0)


def critical_price(ready: NDArray[np.floating[Any]], need: float) -> float:
    """Log of the least price whose capacity suffices; between two lanes by their capacity, on a log scale.

    Args:
        ready: (price) replicas that served throughout the tick, by PRICES.
        need: replicas that the tick's demand filled.

    Returns:
        Below the grid where every lane sufficed, above it where none did.
    """
    enough = ready >= need
    if enough[0]:
        return float(LOG_PRICES[0]) - 1.0
    if not enough.any():
        return float(LOG_PRICES[-1]) + 1.0
    i = int(np.argmax(enough))
    share = (need - ready[i - 1]) / (ready[i] - ready[i - 1])
    return float(LOG_PRICES[i - 1] + share * (LOG_PRICES[i] - LOG_PRICES[i - 1]))


def kept(tick_s: int) -> float:
    """Share of older ticks that still counts after one more (d)."""
    return float(0.5 ** (1 / max(HALF_S / tick_s, HALF_TICKS)))


def observe(tail: Tail, critical: float, kept: float) -> Tail:
    """The tail with one more tick; kept: share of older ticks that still counts (d)."""
    return {"n": kept * tail["n"] + 1, "above": kept * tail["above"] + (critical > GRID)}


def posterior(tail: Tail, before: Array, weight: float) -> Array:
    """Share of critical prices above each point of the grid (grid); before: the prior's, worth `weight` ticks."""
    return (tail["above"] + weight * before) / (tail["n"] + weight)


def log_price(share_above: Array, allowed: float) -> float:
    """Log price of which a share `allowed` of critical prices is above; between points along log shares.

    Args:
        share_above: (grid), falling.
        allowed: 0 to 1.
    """
    below = np.flatnonzero(share_above <= allowed)
    if not below.size:
        return float(GRID[-1])
    i = int(below[0])
    if i == 0:
        return float(GRID[0])
    high, low = np.log(np.maximum(share_above[i - 1 : i + 1], 1e-12))
    part = (high - np.log(allowed)) / (high - low)
    return float(GRID[i - 1] + part * (GRID[i] - GRID[i - 1]))
