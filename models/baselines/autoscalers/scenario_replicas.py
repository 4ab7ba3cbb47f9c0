"""The replicas that our scenarios need at each setting of a sweep, as an autoscaling policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from models.baselines.autoscalers.base import Count


class ScenarioReplicas:
    """Replicas by setting, held for each app's hold time as the guard rails of plans hold them.

    Args:
        wanted: (tick, app, setting) from the row `first` on.
        soon: likewise, replicas needed before a purchase can serve.
        first: row of the first tick.
        hold: (app) ticks that a number is held, including that of the decision.
    """

    def __init__(self, wanted: Count, soon: Count, first: int, hold: Sequence[int]) -> None:
        self._first, self._soon = first, soon
        self._wanted = np.stack(
            [
                sliding_window_view(np.pad(wanted[:, a], [(n - 1, 0), (0, 0)]), n, axis=0).max(axis=-1)
                for a, n in enumerate(hold)
            ],
            axis=1,
        )

    def decide(self, row: int, ready: Count) -> Count:
        """See `models.baselines.autoscalers.base.Autoscaler`; the settings repeat to the number of fleets."""
        wanted = self._wanted[row - self._first].T.astype(np.int64)
        return np.tile(wanted, (len(ready) // len(wanted), 1))

    def kept(self, row: int, lanes: int) -> Count:
        """(lane, app) ready replicas that must not be released until others serve."""
        soon = self._soon[row - self._first].T.astype(np.int64)
        return np.tile(soon, (lanes // len(soon), 1))
