"""One causal pass of the streaming step over a trace, scored beside rivals as docs/scoring.md defines it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models.baselines.forecasters import Rival
from models.baselines.forecasters.residual import persistence
from models.behaviour.causal_pass import forecasts
from models.behaviour.lstm import BehaviourModel
from models.evaluation.forecast_scores import (
    BOUND,
    BOUND_LEVELS,
    CRPS_LEVELS,
    HELD_LEVELS,
    LEVELS,
    Scores,
    Sums,
)
from models.evaluation.trace_window import TraceWindow
from models.metrics import horizon_steps
from models.quantile_function import LEVELS as GRID
from models.quantile_function import Z_MAX, Z_STEP, QuantileFunction

BLOCK: Final = 288  # forecasts of a user scored at once: 117 levels × 288 × 125 users × 4 bytes = 17 MB
MOST_DAYS: Final = 100  # blocks of scores at most: in a longer window a block is several days

_CRPS: Final = np.searchsorted(LEVELS, CRPS_LEVELS)
_BOUNDS: Final = np.searchsorted(LEVELS, BOUND_LEVELS)
_LOW, _HIGH, _BOUND = (int(i) for i in np.searchsorted(LEVELS, [0.025, 0.975, BOUND]))
_EDGES: Final = np.concatenate([[0.0], LEVELS, [1.0]])
_POSITION: Final = np.clip((ndtri(LEVELS) + Z_MAX) / Z_STEP, 0, GRID - 1)
_LEFT: Final = np.minimum(_POSITION.astype(int), GRID - 2)
_SHARE: Final = (_POSITION - _LEFT).astype(np.float32)

Array = NDArray[np.float32]


def crps(quantiles: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Twice the mean pinball loss over the 99 levels: quantiles (99, ...), y (...)."""
    over = quantiles - y
    tilted = np.tensordot(CRPS_LEVELS.astype(over.dtype), over, 1)
    return 2 * (np.maximum(over, 0, out=over).sum(0) - tilted) / len(CRPS_LEVELS)


def quantiles_of(forecast: QuantileFunction) -> Array:
    """Values at LEVELS, (level, ...): `QuantileFunction.at` without a gather for each element."""
    offsets = np.moveaxis(forecast.offsets, -1, 0).astype(np.float32)
    left, right = offsets[_LEFT], offsets[_LEFT + 1]
    share = _SHARE.reshape(-1, *[1] * forecast.location.ndim)
    out = np.minimum(left + share * (right - left), right, out=left)
    out *= forecast.scale
    out += forecast.location
    return np.maximum(out, 0, out=out)


def pit_of(quantiles: Array, y: Array, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Randomised PIT of y (...) in quantiles (level, ...) at LEVELS, exact as to which levels it is below.

    Between two levels, and across a flat part at y, the PIT is placed by u in [0, 1). A flat part ends half way to the
    next level, or at 0 or 1 beyond the last level.
    """
    below, upto = (quantiles < y).sum(0), (quantiles <= y).sum(0)
    middle = (_EDGES[1:] + _EDGES[:-1]) / 2
    middle[0], middle[-1] = 0, 1
    tied = upto > below
    low = np.where(tied, middle[below], _EDGES[below])
    high = np.where(tied, middle[upto], _EDGES[upto + 1 - tied])
    return low + u * (high - low)


def evaluate(
    model: BehaviourModel,
    trace: TraceWindow,
    users: list[str],
    *,
    rivals: Sequence[Rival] = (),
    every: int = 1,
    forget: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score one causal pass of the streaming step beside rivals, on the ticks that all of them forecast.

    Args:
        model: the model to score.
        trace: what it forecasts; saturated targets are counted as censored and scored apart.
        users: (user) names.
        rivals: of these values; persistence where none is given.
        every: ticks from one scored forecast to the next.
        forget: ticks after which the model, unlike the rivals, starts all users anew; None: never.
        seed: of the randomised PIT.
        progress: called with (ticks done, ticks).
    """
    rivals = rivals or [persistence(trace.values, tick_s=trace.tick_s)]
    total, days = len(trace.values), trace.days()
    merged = max(1, math.ceil((int(days[-1]) + 1) / MOST_DAYS))
    scores = Scores.zeros(users, int(days[-1]) // merged + 1, [rival.name for rival in rivals])
    scorer = Scorer(scores, rivals, trace.values, trace.saturated, trace.tick_s, np.random.default_rng(seed))
    passed = forecasts(
        model,
        trace.values,
        trace.events,
        trace.saturated,
        first_tick=trace.first_tick,
        tick_s=trace.tick_s,
        forget=forget,
    )
    pending: list[QuantileFunction] = []
    start = trace.score_from
    for t, (_, forecast, _) in enumerate(passed):
        if t >= trace.score_from and (t - trace.score_from) % every == 0:
            start = start if pending else t
            pending.append(forecast)
        ends = t == total - 1 or days[t + 1] // merged != days[t] // merged
        if pending and (ends or len(pending) == BLOCK):
            rows = range(start, start + every * len(pending), every)
            scorer.add(pending, rows, int(days[start]) // merged)
            pending = []
        progress(t + 1, total)
    return scores


@dataclass(frozen=True)
class Scorer:
    """Adds forecasts beside those of rivals to scores.

    Attributes:
        scores: added to.
        rivals: of the same values.
        values: (tick, user, 5) what is forecast, NaN where absent.
        saturated: (tick, user, 5): such targets are counted as censored and scored apart.
        tick_s: tick length in seconds.
        rng: of the randomised PIT.
    """

    scores: Scores
    rivals: Sequence[Rival]
    values: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    tick_s: int
    rng: np.random.Generator

    def add(self, made: list[QuantileFunction], rows: range, block: int) -> None:
        """Add the forecasts (user, metric, step) made at `rows` to a block of the scores."""
        self.scores.ticks[block] += len(rows)
        for m in np.flatnonzero(~np.isnan(self.values).all((0, 1))):
            part = _part(made, int(m))
            for k, step in enumerate(horizon_steps(self.tick_s)):
                n = len(range(rows.start, min(rows.stop, len(self.values) - step), rows.step))
                if n:
                    self._score(part[:n, :, k], rows[:n], step, (block, int(m), k))

    def _score(self, forecast: QuantileFunction, rows: range, step: int, at: tuple[int, int, int]) -> None:
        """Add the forecasts (row, user) of one metric made at `rows`, all with a target, to block, metric and step."""
        block, m, k = at
        scores, values = self.scores, self.values[..., m]
        targets = np.array(rows) + step
        y, hit = values[targets], self.saturated[..., m][targets]
        theirs = [rival.quantiles(m, rows, step, LEVELS) for rival in self.rivals]
        usable = ~np.isnan(y) & ~np.isnan(forecast.location)
        for quantiles in theirs:
            usable &= ~np.isnan(quantiles[0])
        ok, censored = usable & ~hit, usable & hit

        def add(total: NDArray[np.float32], amount: Any, of: NDArray[np.bool_] = ok) -> None:
            total[block, ..., m, k] += np.where(of, amount, 0).sum(-2, dtype=np.float64)

        add(scores.count, 1)
        add(scores.censored, 1, censored)
        add(scores.sum_y, np.abs(y))
        add(scores.repeats, y == values[targets - 1])
        u = self.rng.random(y.shape)
        mine = quantiles_of(forecast)
        # the model's own PIT knows where a flat part ends between two levels
        todo = [(scores.model, mine, forecast.pit(y, u))]
        todo += [
            (scores.rivals[r.name], q, pit_of(q, y, u)) for r, q in zip(self.rivals, theirs, strict=True)
        ]
        for sums, quantiles, pit in todo:
            _add(add, sums, quantiles, pit, y, censored)


def _part(forecasts: list[QuantileFunction], m: int) -> QuantileFunction:
    """(tick, user, step) of one metric."""
    parts = [forecast[:, m] for forecast in forecasts]
    return QuantileFunction(
        np.stack([p.location for p in parts]),
        np.stack([p.scale for p in parts]),
        np.stack([p.offsets for p in parts]),
    )


def _add(
    add: Callable[..., None],
    sums: Sums,
    quantiles: Array,
    pit: NDArray[np.floating[Any]],
    y: Array,
    censored: NDArray[np.bool_],
) -> None:
    """Add one forecaster's scores to its sums: quantiles (level, row, user) at LEVELS, PIT and y (row, user)."""
    loss = crps(quantiles[_CRPS], y)
    add(sums.crps, loss)
    add(sums.covered, (pit >= LEVELS[_LOW]) & (pit <= LEVELS[_HIGH]))
    add(sums.inside, (quantiles[_LOW] <= y) & (y <= quantiles[_HIGH]))
    add(sums.held, pit <= HELD_LEVELS[:, None, None])
    add(sums.slack, np.maximum(quantiles[_BOUNDS] - y, 0))
    add(sums.censored_crps, loss, censored)
    add(sums.censored_held, y <= quantiles[_BOUND], censored)
