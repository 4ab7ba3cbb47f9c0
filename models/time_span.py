"""Where the times of a trace lie: the stretch that holds nearly all of them, and the few beyond it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import DAY_S

US: Final = 1_000_000
GAP_US: Final = 2 * DAY_S * US
"""A gap is never wide below two days: telemetry pauses for nights, holidays and outages."""
GAP_WIDTHS: Final = 20
"""A gap is wide beyond so many widths of the densest half of the times."""
FEW, FEW_SHARE = 2, 0.05
"""At most so many times, or this share of all, are outliers: more are a part of the trace."""
LEAST: Final = 5
"""Of fewer times none is an outlier: there is no bulk to be far from."""
SPARSE_TICKS, SPARSE_RATIO = 100_000, 100
"""Ticks in which a trace may be spread out whatever it holds (70 days of minutes), and times the ticks with a row."""


def bulk(times_us: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """The slice [begin, end) of sorted times (n,) that is left when outliers are taken off at both ends.

    The densest half of the times is the core (its width is the robust scale of Rousseeuw's "shorth", 1984). From it the
    slice grows to both sides up to the first wide gap. What lies beyond are outliers, if they are few.
    """
    n = len(times_us)
    if n < LEAST:
        return 0, n
    half = n // 2 + 1
    widths = times_us[half - 1 :] - times_us[: n - half + 1]
    core = int(np.argmin(widths))
    wide = np.flatnonzero(np.diff(times_us) > max(GAP_US, GAP_WIDTHS * int(widths[core])))
    before, after = wide[wide < core], wide[wide >= core + half - 1]
    begin = int(before[-1]) + 1 if len(before) else 0
    end = int(after[0]) + 1 if len(after) else n
    return (begin, end) if n - (end - begin) <= max(FEW, FEW_SHARE * n) else (0, n)


def widest_gap(times: NDArray[np.integer[Any]]) -> int:
    """Position in sorted times (n >= 2) after which the widest gap begins."""
    return int(np.argmax(np.diff(times)))


def is_sparse(span: int, occupied: int) -> bool:
    """Whether a trace that spans so many ticks has rows in too few of them for arrays or a replay of them all."""
    return span > max(SPARSE_TICKS, SPARSE_RATIO * occupied)
