"""Causal pass of the streaming step over a trace: each forecast uses only what its tick and earlier ones measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.behaviour.lstm import BehaviourModel, State
from models.quantile_function import QuantileFunction


def forecasts(
    model: BehaviourModel,
    values: NDArray[np.float32],
    events: NDArray[np.float32],
    saturated: NDArray[np.bool_],
    *,
    first_tick: int,
    tick_s: int,
    forget: int | None = None,
) -> Iterator[tuple[State, QuantileFunction, dict[str, NDArray[Any]]]]:
    """Per tick the state after it, the forecast (user, 5, 6), and the flags, as of `BehaviourModel.step`.

    Args:
        model: whose step it is.
        values: (tick, user, 5), NaN = absent.
        events: (tick, user, 4) rates in 1/s, NaN = absent.
        saturated: (tick, user, 5): the value is only a lower bound of demand.
        first_tick: number of the first row's tick.
        tick_s: tick length in seconds.
        forget: rows after which all users start again as new ones; None = never.
    """
    state = model.initial_state(values.shape[1])
    for t in range(len(values)):
        if forget is not None and t % forget == 0:
            state = model.initial_state(values.shape[1])
        state, forecast, flags = model.step(
            state, values[t], events[t], saturated[t], tick=first_tick + t, tick_s=tick_s
        )
        yield state, forecast, flags
