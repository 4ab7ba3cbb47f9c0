"""Exponential smoothing chosen by statsforecast's AutoETS; it needs the dependency group `rivals`."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.baselines.forecasters.observations import Array
from models.baselines.forecasters.residual import REFRESH_S, WINDOW_S, Residual, carried
from models.metrics import DAY_S, METRICS

REFIT_S: Final = 7 * DAY_S
FIT_TICKS: Final = 2_016  # a week of five minutes
MODEL: Final = "ZZN"  # error and trend are chosen; a day is longer than any season that ETS can carry
PERSISTENCE: Final = (1.0, 0.0, 0.0, np.nan, np.nan)  # alpha, beta, phi; level and trend as they are


def ets(values: Array, *, tick_s: int, warm_up: int) -> Residual:
    """AutoETS per user and metric, with the rolling quantiles of its residuals, sharper than its variance.

    Parameters are fitted on the warm-up, and again every seven days on the last 2,016 ticks; in between the states
    go forward tick by tick.

    Args:
        values: (tick, user, 5), NaN where absent.
        tick_s: tick length in seconds.
        warm_up: rows of the first fit.

    Raises:
        ImportError: the group `rivals` is not installed.
    """
    model: Any = importlib.import_module("statsforecast.models").AutoETS
    every = max(1, REFIT_S // tick_s)
    filled = carried(values)
    first, after = parameters(model, filled[max(0, warm_up - FIT_TICKS) : warm_up])
    fits = {0: first, warm_up: after}
    for row in range(warm_up + every, len(values), every):
        fits[row] = parameters(model, filled[row - min(row, FIT_TICKS) : row])[1]
    level, trend, phi = filtered(values, fits)

    def point(metric: int, rows: range, step: int) -> Array:
        at = slice(rows.start, rows.stop)
        damping = np.power(phi[at, :, metric, None], np.arange(1, step + 1)).sum(-1)
        return level[at, :, metric] + damping * trend[at, :, metric]

    return Residual("ets", point, values, window=WINDOW_S // tick_s, refresh=max(1, REFRESH_S // tick_s))


def parameters(model: Any, history: Array) -> NDArray[np.float64]:
    """Fits of each series in history (tick, user, 5), without gaps: (2, 5, user, 5).

    The first axis: level and trend at the start of the history, at its end; the second: alpha, beta, phi, level, trend.
    A series that cannot be fitted gets those of PERSISTENCE.
    """
    out = np.empty((2, len(PERSISTENCE), history.shape[1], len(METRICS)))
    out[:] = np.reshape(PERSISTENCE, (-1, 1, 1))
    for user in range(history.shape[1]):
        for metric in range(len(METRICS)):
            series = history[:, user, metric].astype(np.float64)
            series = series[~np.isnan(series)]
            if len(series) < 12 or np.ptp(series) == 0:
                continue
            mean = series.mean()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted: dict[str, Any] = model(season_length=1, model=MODEL).fit(series / mean).model_
            alpha, beta, _, phi = fitted["par"][:4]
            trended = fitted["components"][1] != "N"
            damped = fitted["components"][3] == "D"
            for end, state in enumerate((fitted["states"][0], fitted["states"][-1])):
                level, trend = (mean * state[0], mean * state[1] if trended else 0)
                phi_of = (phi if damped else 1) if trended else 0
                out[end, :, user, metric] = alpha, beta if trended else 0, phi_of, level, trend
    return out


def filtered(values: Array, fits: dict[int, NDArray[np.float64]]) -> tuple[Array, Array, Array]:
    """Level, trend and damping after each tick, (tick, user, 5), by the recursion of ETS with additive trend.

    Additive and multiplicative errors share it: only their variance differs. A missing sample moves the level
    along the trend.

    Args:
        values: (tick, user, 5), NaN where absent.
        fits: row from which each set of parameters (5, user, 5) holds; 0 must be among them. Level and trend are
            those before that row (before the first sample of a series that starts later); NaN continues the state.
    """
    levels, trends, phis = (np.empty(values.shape, np.float32) for _ in range(3))
    alpha, beta, phi, start, slope = fits[0]
    level, trend = np.full(values.shape[1:], np.nan), np.nan_to_num(slope)
    for t in range(len(values)):
        y = values[t].astype(np.float64)
        if t and t in fits:
            alpha, beta, phi, fresh, slope = fits[t]
            known = ~np.isnan(fresh) & ~np.isnan(level)
            level, trend = np.where(known, fresh, level), np.where(known, slope, trend)
        begins = np.isnan(level) & ~np.isnan(y)
        level = np.where(begins, np.where(np.isnan(start), y, start), level)
        moved = np.where(np.isnan(level), level, level + phi * trend)
        error = np.where(np.isnan(y) | np.isnan(moved), 0, y - moved)
        level = moved + alpha * error
        trend = np.where(np.isnan(level), trend, phi * trend + beta * error)
        levels[t], trends[t], phis[t] = level, trend, phi
    return levels, trends, phis
