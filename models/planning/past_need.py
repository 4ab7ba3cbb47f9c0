"""Two experts for the replicas that an app needs: what it needed in windows of its own past, and its past changes.

With n(s) the replicas that the demand of bin s of the last days filled (`models.demand.same_time` keeps them), and a
promise that covers the bins from k to l after the present bin t,

    recent        max of n(s + k .. s + l),                for s in the last day
    persistence   n(t) + max of n(s + k .. s + l) - n(s),  for s in the last 7 days

are samples of what the promise's window will need. Where bursts cannot be foreseen, what was needed lately covers the
next one at less cost than a forecast that follows each burst (Autopilot's moving window: Rzadca et al., EuroSys 2020).
At each price of a shortage the replicas are those of least cost over the samples (`models.planning.shortage_price`),
and are averaged with those that the scenarios give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.capacity import Policy, governed, replica_loads
from models.demand import same_time
from models.metrics import DAY_S, METRICS, horizon_steps
from models.planning.shortage_price import confidences

RECENT_S: Final = DAY_S
PERSISTENCE_S: Final = 7 * DAY_S
LEAST: Final = 48
"""Samples without which there is no expert; of longer bins so many are taken, however old."""
MOST: Final = 2_016
"""Samples that are taken, evenly spaced: seven days of five minutes."""

Array = NDArray[np.float64]
Replicas = NDArray[np.int64]


@dataclass(frozen=True)
class PastNeed:
    """What an expert takes for the app's need.

    Attributes:
        window, soon: (sample) replicas that the promise's steps and those before them need, not rounded.
        weight: of the expert beside the scenarios, above 0 and at most 1.
    """

    window: Array
    soon: Array
    weight: float

    def at(self, owned: int, prices: Sequence[float]) -> Replicas:
        """The expert's replicas (2, price): of the promise's steps, and of those before them.

        A price chooses a confidence by what the window needs, and the steps before it are served with the same.

        Args:
            owned: replicas that are paid for whether they are used or not.
            prices: of an hour's shortage, in those of a replica-hour.
        """
        window, soon = (
            np.sort(np.ceil(np.maximum(of, 0) - 1e-6)).astype(np.int64) for of in (self.window, self.soon)
        )
        rank = np.ceil(confidences(window, owned, prices) * len(window) - 1e-9).astype(int) - 1
        return np.stack([window, soon])[:, np.maximum(rank, 0)]

    def averaged(self, scenarios: NDArray[np.integer[Any]], expert: NDArray[np.integer[Any]]) -> Replicas:
        """Replicas of the scenarios averaged with the expert's, rounded up; of equal shapes."""
        return np.ceil((1 - self.weight) * scenarios + self.weight * expert - 1e-6).astype(np.int64)


@dataclass(frozen=True)
class Past:
    """The samples of both experts at the end of a tick; None where the app's history is too short.

    recent, persistence: (2, sample) replicas of the promise's window, and of the steps before it.
    """

    recent: Array | None
    persistence: Array | None

    def weighted(self, recent: float, persistence: float) -> PastNeed | None:
        """The expert that has a weight above 0; None: neither has, or its history is too short."""
        for samples, weight in ((self.recent, recent), (self.persistence, persistence)):
            if weight and samples is not None:
                return PastNeed(samples[0], samples[1], weight)
        return None


def past(
    state: same_time.State, usage: NDArray[np.floating[Any]], policy: Policy, window: slice, tick_s: int
) -> Past:
    """The experts' samples for an app.

    Args:
        state: its history, of `models.demand.same_time`, with the present tick.
        usage: (METRICS) of the tick, NaN = not measured.
        policy: gives the governed metrics and a replica's size.
        window: steps that the promise covers.
        tick_s: length of a tick in seconds.
    """
    each = same_time.bin_ticks(tick_s)
    bin_s = each * tick_s
    ahead = [max(1, -(-step // each)) for step in horizon_steps(tick_s)]
    until = ahead[window.stop - 1]
    first = ahead[window.start - 1] + 1 if window.start else 1
    bins = max(PERSISTENCE_S // bin_s, LEAST) + until
    need = _need(same_time.newest(state, bins), policy)
    changes = [_largest(need, min(first, until), until), _largest(need, 1, max(first - 1, 1))]
    made = len(need) - until  # windows that have passed
    if made < LEAST:
        return Past(None, None)
    levels = np.stack([change[:made] for change in changes])
    recent = _known(levels[:, -max(RECENT_S // bin_s, LEAST) :])
    now = float(_need(usage[:, None], policy)[0])
    rises = _known(levels - need[:made])
    return Past(recent, None if rises is None or np.isnan(now) else now + rises)


def _need(usage: NDArray[np.floating[Any]], policy: Policy) -> Array:
    """Replicas (bin) that usage (METRICS, bin) filled, not rounded; NaN where no governed metric was measured."""
    loads = replica_loads(usage.T.astype(np.float64), METRICS, policy)
    index = [METRICS.index(name) for name in governed(METRICS, policy)]
    known = ~np.isnan(usage[index]).all(axis=0)
    return np.where(known, loads.max(axis=-1, initial=0.0), np.nan)


def _largest(need: Array, first: int, last: int) -> Array:
    """Largest need of the bins from `first` to `last` after each bin, NaN where none of them is known."""
    if len(need) <= last:
        return np.zeros(0)
    spans = sliding_window_view(need[first:], last - first + 1)
    known = ~np.isnan(spans)
    return np.where(known.any(axis=-1), np.where(known, spans, -np.inf).max(axis=-1), np.nan)


def _known(samples: Array) -> Array | None:
    """Samples (2, sample) that are known in both rows, at most MOST; None: fewer than LEAST."""
    samples = samples[:, ~np.isnan(samples).any(axis=0)]
    if samples.shape[1] < LEAST:
        return None
    return samples[:, :: -(-samples.shape[1] // MOST)]
