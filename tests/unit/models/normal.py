"""A forecaster that is known by heart."""

from typing import Any

import numpy as np

from models.quantile_function import QuantileFunction, Z


class Normal:
    """Stands for a BehaviourModel that forecasts normal(10, 1) for every metric."""

    def initial_state(self, n: int) -> dict[str, Any]:
        return {}

    def step(self, state: Any, values: Any, *_: Any, tick: int, tick_s: int) -> Any:
        shape = (len(values), 5, 6)
        offsets = np.broadcast_to(Z.astype(np.float16), (*shape, 21))
        return (
            state,
            QuantileFunction(np.full(shape, 10, np.float32), np.ones(shape, np.float32), offsets),
            {},
        )
