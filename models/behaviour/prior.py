"""Priors estimated in training: the dependence of forecast errors, and initial values of what is learnt online."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models.behaviour.causal_pass import forecasts
from models.behaviour.error_dependence import Dependence, semidefinite
from models.behaviour.lstm import BehaviourModel, State
from models.metrics import METRICS, STEPS, horizon_steps

Array = NDArray[np.float32]

SCORE_LIMIT = 1e-4  # PIT kept this far from 0 and 1, so that a score is finite: at most 3.7
MIN_PAIRS = 200  # joint observations for a correlation; fewer are noise of a tenth and more


def normal_scores(
    model: BehaviourModel,
    values: NDArray[np.float32],
    events: NDArray[np.float32],
    saturated: NDArray[np.bool_],
    *,
    first_tick: int,
    tick_s: int,
    score_from: int,
    seed: int = 0,
) -> tuple[NDArray[np.float32], State]:
    """Normal scores (tick, user, metric, step) of the forecasts made from row `score_from` on; and the last state.

    A score is the standard-normal quantile of the target's randomised probability integral transform (PIT), by the
    tick of the forecast; NaN where there is no forecast, or the target is absent or saturated. Arguments as of
    `causal_pass.forecasts`; seed: of the randomisation.
    """
    state = model.initial_state(values.shape[1])
    rng = np.random.default_rng(seed)
    steps = horizon_steps(tick_s)
    total = len(values)
    scores = np.full((total - score_from, values.shape[1], len(METRICS), STEPS), np.nan, np.float32)
    stream = forecasts(model, values, events, saturated, first_tick=first_tick, tick_s=tick_s)
    for t, (state, forecast, _) in enumerate(stream):  # noqa: B007
        for k, step in enumerate(steps):
            if score_from <= t < total - step:
                y = np.where(saturated[t + step], np.nan, values[t + step])
                pit = forecast[:, :, k].pit(y, rng.random(y.shape))
                scores[t - score_from, :, :, k] = ndtri(np.clip(pit, SCORE_LIMIT, 1 - SCORE_LIMIT))
    return scores, state


def prior(states: list[State]) -> dict[str, NDArray[np.float64]]:
    """Initial `shift` (held, 1, tracked) and `odds` (part, 1) of new users: the mean of what users have learnt.

    The mean is over users and metrics with at least MIN_PAIRS samples, the same for all metrics; zeros without any.
    Without states the result is empty.
    """
    priors: dict[str, NDArray[np.float64]] = {}
    for name in ("shift", "odds") if states else ():
        # metric as the second axis, so that a (user, metric) mask selects
        learnt = [np.moveaxis(s[name].astype(np.float64), 2, 1)[s["seen"] >= MIN_PAIRS] for s in states]
        pooled = np.concatenate(learnt)
        priors[name] = np.expand_dims(pooled.mean(0) if len(pooled) else np.zeros(pooled.shape[1:]), 1)
    return priors


def dependence(scores: list[NDArray[np.float32]]) -> Dependence:
    """Dependence estimated from the normal scores (tick, user, metric, step) of one or more sets of users.

    `shared` is the mean correlation over pairs of users and steps, per metric, at least 0; a metric that no two users
    have takes the mean of the others. The metric correlation is the mean over users and steps of that within a user,
    made positive semidefinite; the step correlation the mean over users and metrics of that between a forecast's
    consecutive steps.
    """
    metrics = range(len(METRICS))
    shared = np.full(len(METRICS), np.nan)
    between = np.eye(len(METRICS))
    for m in metrics:
        pairs = [
            _correlation(s[:, a, m, k], s[:, b, m, k])
            for s in scores
            for k in range(STEPS)
            for a in range(s.shape[1])
            for b in range(a)
        ]
        shared[m] = np.clip(_mean(pairs), 0, 1)
        for other in range(m):
            within = [
                _correlation(s[:, u, m, k], s[:, u, other, k])
                for s in scores
                for k in range(STEPS)
                for u in range(s.shape[1])
            ]
            between[m, other] = between[other, m] = np.nan_to_num(_mean(within))
    steps = [
        _correlation(s[:, u, m, k], s[:, u, m, k + 1])
        for s in scores
        for u in range(s.shape[1])
        for m in metrics
        for k in range(STEPS - 1)
    ]
    known = ~np.isnan(shared)
    shared[~known] = shared[known].mean() if known.any() else 0.0
    return Dependence(shared, semidefinite(between), float(np.nan_to_num(_mean(steps))))


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    both = ~np.isnan(a) & ~np.isnan(b)
    if both.sum() < MIN_PAIRS or a[both].std() == 0 or b[both].std() == 0:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
