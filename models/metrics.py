"""The five metrics, four kinds of events and six forecast steps that everything is counted in."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

METRICS: Final = ("cpu", "memory", "network", "disk", "requests")
METRIC_UNITS: Final = ("cores", "bytes", "bytes/s", "bytes/s", "1/s")
EVENT_KINDS: Final = ("API_CALL", "DB_QUERY", "INTERACTION", "OTHER")
STEPS: Final = 6
HORIZON_S: Final = 300.0  # the last step of ticks below 60 s (docs/records.md, "Steps and horizon")
SATURATED_SHARE: Final = 0.98  # of its limit: a lower bound from here on (docs/records.md, "Censoring")
DAY_S: Final = 86_400
HOUR_S: Final = 3_600
MINUTE_S: Final = 60


def horizon_steps(tick_s: int) -> tuple[int, ...]:
    """Ticks ahead of the six forecast steps, strictly increasing.

    1 to 6 where a tick is 60 s or longer. Below, N = 300 s / tick and the grid is 1, 0.1 N, 0.2 N, 0.4 N,
    0.6 N, N, rounded (10 s: 1, 3, 6, 12, 18, 30), each more than the last (30 s: 1, 2, 3, 4, 6, 10).

    Raises:
        ValueError: the tick is not positive.
    """
    if tick_s <= 0:
        raise ValueError(f"tick_s must be positive, got {tick_s}")
    if tick_s >= 60:
        return tuple(range(1, STEPS + 1))
    n = math.ceil(HORIZON_S / tick_s)
    steps = [1]
    for share in (0.1, 0.2, 0.4, 0.6, 1.0):
        steps.append(max(steps[-1] + 1, round(share * n)))
    return tuple(steps)


def is_saturated(values: NDArray[np.floating[Any]], limits: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """True where usage is at 98 % of its limit or more; NaN in either is not saturated. Equal shapes.

    A limit that is not above 0 is none: cgroups and the kubelet write 0 or -1 for it.
    """
    return np.greater_equal(
        values, SATURATED_SHARE * limits, where=limits > 0, out=np.zeros(values.shape, bool)
    )


def steps_of(tick_s: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """`horizon_steps` for tick lengths (n): (n, 6)."""
    return np.array([horizon_steps(int(length)) for length in tick_s], np.int64).reshape(-1, STEPS)
