"""Exponential smoothing chosen by statsforecast's AutoETS; it needs the dependency group `rivals`."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.features import DAY_S, METRICS
from models.rivals.residual import REFRESH_S, WINDOW_S, Array, Residual, carried

REFIT_S: Final = 7 * DAY_S
FIT_TICKS: Final = 2_016  # a week of five minutes
MODEL: Final = "ZZN"  # error and trend are chosen; a day is longer than any season that ETS can carry
PERSISTENCE: Final = (1.0, 0.0, 0.0)  # alpha, beta, phi


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
    fits = {
        0 if row == warm_up else row: parameters(model, filled[max(0, row - FIT_TICKS) : row])
        for row in range(warm_up, len(values), every)
    }
    level, trend, phi = filtered(values, fits)

    def point(metric: int, rows: range, step: int) -> Array:
        at = slice(rows.start, rows.stop)
        damping = np.power(phi[at, :, metric, None], np.arange(1, step + 1)).sum(-1)
        return level[at, :, metric] + damping * trend[at, :, metric]

    return Residual("ets", point, values, window=WINDOW_S // tick_s, refresh=max(1, REFRESH_S // tick_s))


def parameters(model: Any, history: Array) -> NDArray[np.float64]:
    """Alpha, beta, phi of each series in history (tick, user, 5) without gaps, as (3, user, 5)."""
    out = np.empty((3, history.shape[1], len(METRICS)))
    out[:] = np.reshape(PERSISTENCE, (3, 1, 1))
    for user in range(history.shape[1]):
        for metric in range(len(METRICS)):
            series = history[:, user, metric].astype(np.float64)
            series = series[~np.isnan(series)]
            if len(series) < 12 or np.ptp(series) == 0:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted: dict[str, Any] = (
                    model(season_length=1, model=MODEL).fit(series / series.mean()).model_
                )
            alpha, beta, _, phi = fitted["par"][:4]
            trended = fitted["components"][1] != "N"
            damped = fitted["components"][3] == "D"
            out[:, user, metric] = alpha, beta if trended else 0, (phi if damped else 1) if trended else 0
    return out


def filtered(values: Array, fits: dict[int, NDArray[np.float64]]) -> tuple[Array, Array, Array]:
    """Level, trend and damping after each tick, (tick, user, 5), by the recursion of ETS with additive trend.

    Additive and multiplicative errors share it: only their variance differs. A series starts at its first sample
    without trend; a missing sample moves the level along the trend.

    Args:
        values: (tick, user, 5), NaN where absent.
        fits: row from which each set of parameters (3, user, 5) holds; one is 0.
    """
    levels, trends, phis = (np.empty(values.shape, np.float32) for _ in range(3))
    level, trend = np.full(values.shape[1:], np.nan), np.zeros(values.shape[1:])
    alpha, beta, phi = fits[0]
    for t in range(len(values)):
        alpha, beta, phi = fits.get(t, (alpha, beta, phi))
        y = values[t].astype(np.float64)
        moved = level + phi * trend
        error = np.where(np.isnan(y), 0, y - moved)
        level = np.where(np.isnan(level), y, moved + alpha * error)
        trend = phi * trend + beta * np.nan_to_num(error)
        levels[t], trends[t], phis[t] = level, trend, phi
    return levels, trends, phis
