"""Scores of forecasts, as SCORING defines them, for one causal pass over a trace beside persistence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models import rivals
from models.distribution import QuantileFunction
from models.features import DAY_S, METRICS, STEPS, horizon_steps
from models.lstm import BehaviourModel

CRPS_LEVELS: Final = np.arange(1, 100) / 100
# levels swept for slack at the same realised rate
BOUND_LEVELS: Final = np.array(
    [0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.993, 0.995, 0.997, 0.998, 0.999, 0.9995]
)
PUBLISHED: Final = int(np.flatnonzero(BOUND_LEVELS == 0.99)[0])
RIVAL_WINDOW_S: Final = 7 * DAY_S
RIVAL_REFRESH_S: Final = 3 * 3_600  # 1/56 of the window: finer changes no figure and costs the sort each time
RIVAL_FLOOR: Final = 1e-3  # of the user's mean |y|
REPEATS: Final = 0.95  # users with a larger share of exact repeats have no upper limit on coverage
BLOCK: Final = 256  # ticks scored at once: 99 levels × 256 × 125 users × 4 bytes = 13 MB


def crps(quantiles: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Twice the mean pinball loss over the 99 levels: quantiles (99, ...), y (...)."""
    error = y - quantiles
    levels = CRPS_LEVELS.reshape(-1, *[1] * y.ndim).astype(np.float32)
    return 2 * np.maximum(levels * error, (levels - 1) * error).mean(0)


@dataclass(frozen=True)
class Scores:
    """Sums over scored ticks, each (user, metric, step); (bound, user, metric, step) for the swept bounds."""

    users: list[str]
    count: NDArray[np.float64]
    sum_y: NDArray[np.float64]
    repeats: NDArray[np.float64]
    censored: NDArray[np.float64]
    crps: NDArray[np.float64]
    rival_crps: NDArray[np.float64]
    covered: NDArray[np.float64]
    inside: NDArray[np.float64]
    held: NDArray[np.float64]
    slack: NDArray[np.float64]
    rival_held: NDArray[np.float64]
    rival_slack: NDArray[np.float64]

    @classmethod
    def zeros(cls, users: list[str]) -> Scores:
        """Nothing scored yet."""
        shape = (len(users), len(METRICS), STEPS)
        bounds = (len(BOUND_LEVELS), *shape)
        return cls(users, *(np.zeros(shape) for _ in range(8)), *(np.zeros(bounds) for _ in range(4)))

    def crps_ratio(self) -> NDArray[np.float64]:
        """Per user, metric and step: CRPS over the rival's; NaN where nothing was scored or all is zero."""
        n = np.maximum(self.count, 1)
        floor = RIVAL_FLOOR * self.sum_y / n
        scored = (self.count > 0) & (self.sum_y > 0)
        return np.where(
            scored, self.crps / n / np.where(scored, np.maximum(self.rival_crps / n, floor), 1), np.nan
        )

    def table(self) -> list[dict[str, Any]]:
        """One row per metric and step that was scored; slack_matched is None where no swept level holds 99 %."""
        ratio = self.crps_ratio()
        rows: list[dict[str, Any]] = []
        for m, metric in enumerate(METRICS):
            for k in range(STEPS):
                n, mine = self.count[:, m, k].sum(), ratio[:, m, k]
                if not n or np.isnan(mine).all():
                    continue
                bounds = {
                    name: (held[:, :, m, k].sum(1) / n, slack[:, :, m, k].sum(1) / self.sum_y[:, m, k].sum())
                    for name, held, slack in (
                        ("", self.held, self.slack),
                        ("rival_", self.rival_held, self.rival_slack),
                    )
                }
                row: dict[str, Any] = {
                    "metric": metric,
                    "step": k + 1,
                    "crps_ratio": float(np.exp(np.nanmean(np.log(np.maximum(mine, 1e-9))))),
                    "users_worse_than_rival": float((mine > 1).sum() / (~np.isnan(mine)).sum()),
                    "coverage_95": float(self.covered[:, m, k].sum() / n),
                    "inside_95": float(self.inside[:, m, k].sum() / n),
                }
                for name, (held, slack) in bounds.items():
                    row[f"{name}bound_99"] = float(held[PUBLISHED])
                    row[f"{name}slack_99"] = float(slack[PUBLISHED])
                    within = held[0] <= 0.99 <= held[-1]
                    row[f"{name}slack_matched"] = float(np.interp(0.99, held, slack)) if within else None
                rows.append(row)
        return rows

    def summary(self) -> dict[str, float | int]:
        """Whole-trace figures: see SCORING; coverage limits are over metrics and steps."""
        ratio, rows = self.crps_ratio(), self.table()
        coverage = [float(row["coverage_95"]) for row in rows]
        n = self.count.sum()
        if not rows:
            return {"users": 0, "ticks": 0, "excluded": len(self.users)}
        by_user = self.covered.sum((1, 2)) / np.maximum(self.count.sum((1, 2)), 1)
        still = self.repeats.sum((1, 2)) > REPEATS * self.count.sum((1, 2))
        scored = ~np.isnan(ratio).all((1, 2))
        fine = (by_user >= 0.92) & ((by_user <= 0.98) | still)
        return {
            "crps_ratio": float(np.exp(np.nanmean(np.log(np.maximum(ratio, 1e-9))))),
            "coverage_95": float(self.covered.sum() / n),
            "coverage_95_min": min(coverage),
            "coverage_95_max": max(coverage),
            "users_covered_92_to_98": float(fine[scored].mean()),
            "bound_99": float(self.held[PUBLISHED].sum() / n),
            "rival_bound_99": float(self.rival_held[PUBLISHED].sum() / n),
            "users": int(scored.sum()),
            "ticks": int(self.count.max()),
            "excluded": int((~scored).sum()),
            "censored": int(self.censored.sum()),
        }


def forecasts(
    model: BehaviourModel,
    values: NDArray[np.float32],
    events: NDArray[np.float32],
    saturated: NDArray[np.bool_],
    *,
    first_tick: int,
    tick_s: int,
) -> Iterator[QuantileFunction]:
    """The streaming step over (tick, user, ...) arrays, causally: one forecast (user, 5, 6) per tick."""
    state = model.initial_state(values.shape[1])
    for t in range(len(values)):
        state, forecast, _ = model.step(
            state, values[t], events[t], saturated[t], tick=first_tick + t, tick_s=tick_s
        )
        yield forecast


def evaluate(
    model: BehaviourModel,
    values: NDArray[np.float32],
    events: NDArray[np.float32],
    saturated: NDArray[np.bool_],
    users: list[str],
    *,
    first_tick: int,
    tick_s: int,
    score_from: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score one causal pass of the streaming step beside persistence; the model's forecasts as published.

    Args:
        model: the model to score.
        values: (tick, user, 5), NaN where absent; `events` (tick, user, 4) and `saturated` (tick, user, 5).
        events: rates in 1/s.
        saturated: such targets are counted as censored and not scored.
        users: (user) names.
        first_tick: number of the first tick.
        tick_s: tick length in seconds.
        score_from: forecasts made before this row warm up the state and are not scored.
        seed: of the randomised PIT.
        progress: called with (ticks done, ticks).
    """
    scores = Scores.zeros(users)
    rng = np.random.default_rng(seed)
    steps = horizon_steps(tick_s)
    block: list[QuantileFunction] = []
    start = score_from
    total = len(values)
    stream = forecasts(model, values, events, saturated, first_tick=first_tick, tick_s=tick_s)
    for t, forecast in enumerate(stream):
        if t >= score_from:
            block.append(forecast)
        if block and (len(block) == BLOCK or t == total - 1):
            for m in range(len(METRICS)):
                for k, step in enumerate(steps):
                    _score(
                        scores,
                        _part(block, m, k),
                        values[..., m],
                        saturated[..., m],
                        start,
                        step,
                        m,
                        k,
                        tick_s,
                        rng,
                    )
            start, block = t + 1, []
        progress(t + 1, total)
    return scores


def _part(block: list[QuantileFunction], m: int, k: int) -> QuantileFunction:
    """(tick, user) of one metric and step."""
    parts = [forecast[:, m, k] for forecast in block]
    return QuantileFunction(
        np.stack([p.location for p in parts]),
        np.stack([p.scale for p in parts]),
        np.stack([p.offsets for p in parts]),
    )


def _score(
    scores: Scores,
    forecast: QuantileFunction,
    values: NDArray[np.float32],
    saturated: NDArray[np.bool_],
    start: int,
    step: int,
    m: int,
    k: int,
    tick_s: int,
    rng: np.random.Generator,
) -> None:
    """Add the forecasts (tick, user) of one metric and step made from row `start`, where a target exists."""
    n = min(forecast.shape[0], len(values) - start - step)
    if n <= 0 or np.isnan(values).all():
        return
    forecast, rows = forecast[:n], range(start, start + n)
    y, hit = values[start + step : start + step + n], saturated[start + step : start + step + n]
    rival = rivals.persistence_quantiles(
        values,
        rows,
        step,
        np.concatenate([CRPS_LEVELS, BOUND_LEVELS]),
        window=RIVAL_WINDOW_S // tick_s,
        refresh=max(1, RIVAL_REFRESH_S // tick_s),
    )
    usable = ~np.isnan(y) & ~np.isnan(forecast.location) & ~np.isnan(rival[0])
    scores.censored[:, m, k] += (usable & hit).sum(0)
    ok = usable & ~hit

    def add(total: NDArray[np.float64], amount: Any) -> None:
        total[..., m, k] += np.where(ok, amount, 0).sum(-2, dtype=np.float64)

    add(scores.count, 1)
    add(scores.sum_y, y)
    add(scores.repeats, y == values[start + step - 1 : start + step - 1 + n])
    add(scores.crps, crps(forecast.at(ndtri(CRPS_LEVELS)[:, None, None]), y))
    add(scores.rival_crps, crps(rival[: len(CRPS_LEVELS)], y))
    pit = forecast.pit(y, rng.random(y.shape))
    lo, hi = forecast.interval()
    add(scores.covered, (pit >= 0.025) & (pit <= 0.975))
    add(scores.inside, (lo <= y) & (y <= hi))
    bounds = forecast.at(ndtri(BOUND_LEVELS)[:, None, None])
    add(scores.held, pit <= BOUND_LEVELS[:, None, None])
    add(scores.slack, np.maximum(bounds - y, 0))
    theirs = rival[len(CRPS_LEVELS) :]
    add(scores.rival_held, y <= theirs)
    add(scores.rival_slack, np.maximum(theirs - y, 0))
