"""The forecasters that we compare with, each causal and fairly tuned, behind one interface."""

from __future__ import annotations

import importlib
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.baselines.forecasters.deepar import DeepAR
from models.baselines.forecasters.exponential import ets
from models.baselines.forecasters.residual import Array, persistence, seasonal_naive

LIBRARIES: Final[dict[str, str | None]] = {
    "persistence": None,
    "seasonal_naive": None,
    "ets": "statsforecast.models",
    "deepar": "gluonts.torch.model.deepar",
}
"""The rivals, and the module of the dependency group `rivals` that each needs."""
NAMES: Final = tuple(LIBRARIES)


class Rival(Protocol):
    """A forecaster of all users of one panel."""

    @property
    def name(self) -> str:
        """One of NAMES."""
        ...

    def quantiles(self, metric: int, rows: range, step: int, levels: NDArray[np.float64]) -> Array:
        """Forecasts (level, row, user) of a metric, `step` ticks ahead of each row and from nothing after it.

        Levels increase; quantiles are never negative, and NaN where there is no forecast.
        """
        ...


def load(name: str) -> None:
    """Load what a rival needs; before TensorFlow, for after it the LLVM in these libraries ends the process.

    Raises:
        ImportError: the dependency group `rivals` is not installed.
    """
    library = LIBRARIES[name]
    if library is not None:
        importlib.import_module(library)


def make(
    name: str,
    values: Array,
    *,
    first_tick: int,
    tick_s: int,
    warm_up: int,
    events: Array | None = None,
    train: tuple[Array, Array] | None = None,
    train_tick: int = 0,
    seed: int = 0,
) -> Rival:
    """A rival of this name for values (tick, user, 5), NaN where absent.

    Args:
        name: one of NAMES.
        values: what it forecasts.
        first_tick: number of the first tick of `values`; `train_tick` of `train`.
        tick_s: tick length in seconds.
        warm_up: rows before the first that is scored: from these it may choose its parameters.
        events: (tick, user, 4) in 1/s of the same users, NaN where absent; for deepar.
        train: values and events of other users, before the first tick that is scored; for deepar.
        train_tick: see `first_tick`.
        seed: for what is random in it.

    Raises:
        ImportError: it needs the dependency group `rivals`, which is not installed.
        ValueError: no such rival, or deepar without `events` and `train`.
    """
    match name:
        case "persistence":
            return persistence(values, tick_s=tick_s)
        case "seasonal_naive":
            return seasonal_naive(values, tick_s=tick_s, warm_up=warm_up)
        case "ets":
            return ets(values, tick_s=tick_s, warm_up=warm_up)
        case "deepar":
            if train is None or events is None or np.isnan(train[0]).all():
                raise ValueError("needs users to train on who are not scored")
            return DeepAR(
                train[0],
                values,
                train_events=train[1],
                events=events,
                train_tick=train_tick,
                first_tick=first_tick,
                tick_s=tick_s,
                warm_up=warm_up,
                seed=seed,
            )
        case _:
            raise ValueError(f"no rival {name!r}; known are {', '.join(NAMES)}")
