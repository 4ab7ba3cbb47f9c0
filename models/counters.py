"""Tells cumulative counters from rates: a counter only rises, but for restarts."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LEAST: Final = 12
"""Samples below which a rise may be chance or a morning's load."""
BLOCKS: Final = 20
"""A mean of many counters falls now and then, as members come and go: it rises from each twentieth to the next."""
RISES: Final = 0.55
"""Share of the steps that move, at least, in which a counter rises, or a mean of many: a rate rises in half of them."""
RESETS: Final = 0.02
"""Share of the steps, at most, in which a counter starts again: its value falls below half."""


def mostly_rises(rises: NDArray[np.integer[Any]], falls: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which columns (n,) may be counters, by how many of their steps rise and fall: of others `only_rises` is false."""
    moved = rises + falls
    return (rises > 0) & (rises >= RISES * moved)


def only_rises(samples: NDArray[np.floating[Any]]) -> bool:
    """Whether samples (n,) of one column in the order of time look like a cumulative counter.

    They do if they never fall, but for restarts, and rise in more than half of their steps; or, of 10 * BLOCKS samples
    or more, if the medians of BLOCKS equal parts rise from each to the next, and so do RISES of the steps that move: a
    rate that grows with the weeks wavers up and down in equal shares. NaN is left out.
    """
    samples = samples[~np.isnan(samples)].astype(np.float64)
    if len(samples) < LEAST:
        return False
    steps = np.diff(samples)
    falls, rises = steps < 0, int((steps > 0).sum())
    if not mostly_rises(np.array([rises]), np.array([falls.sum()]))[0]:
        return False
    restarts = falls & (samples[1:] < samples[:-1] / 2)
    few = restarts.sum() <= RESETS * len(steps)
    if few and (falls == restarts).all() and 2 * rises > len(steps):
        return True
    if len(samples) < 10 * BLOCKS:
        return False
    before = -np.inf
    for block in np.array_split(samples, BLOCKS):
        median = np.median(block)
        if median <= before:
            return False
        before = median
    return True
