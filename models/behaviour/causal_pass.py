"""One causal pass of the streaming step over arrays of a trace."""

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
    """The streaming step over (tick, user, ...) arrays, causally: per tick the state, a forecast (user, 5, 6), flags.

    Every `forget` ticks all users are new to the model.
    """
    state = model.initial_state(values.shape[1])
    for t in range(len(values)):
        if forget is not None and t % forget == 0:
            state = model.initial_state(values.shape[1])
        state, forecast, flags = model.step(
            state, values[t], events[t], saturated[t], tick=first_tick + t, tick_s=tick_s
        )
        yield state, forecast, flags
