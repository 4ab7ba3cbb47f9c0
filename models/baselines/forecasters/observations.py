"""Telemetry of consecutive ticks, as the forecasters take it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Observations:
    """Values and events of users at consecutive ticks.

    Attributes:
        values: (tick, user, 5), NaN where absent.
        events: (tick, user, 4) in 1/s, NaN where absent; None: not known.
        first_tick: number of the first tick.
    """

    values: Array
    events: Array | None = None
    first_tick: int = 0
