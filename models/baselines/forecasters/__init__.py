"""Forecasters to compare with, causal and tuned on history of their own, behind one interface."""

from __future__ import annotations

import importlib
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.baselines.forecasters.deepar import DeepAR
from models.baselines.forecasters.exponential import ets
from models.baselines.forecasters.observations import Array, Observations
from models.baselines.forecasters.residual import persistence, seasonal_naive

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


def import_libraries(name: str) -> None:
    """Import the libraries of a rival: before TensorFlow, because their LLVM, loaded after it, ends the process.

    Raises:
        ImportError: the dependency group `rivals` is not installed.
    """
    library = LIBRARIES[name]
    if library is not None:
        importlib.import_module(library)


def make(
    name: str,
    observed: Observations,
    *,
    tick_s: int,
    warm_up: int,
    train: Observations | None = None,
    seed: int = 0,
) -> Rival:
    """Make the rival of this name for a panel of users.

    Args:
        name: one of NAMES.
        observed: what it forecasts; deepar needs events too.
        tick_s: tick length in seconds.
        warm_up: rows before the first that is scored: from these it may choose its parameters.
        train: values and events of other users, before the first tick that is scored; for deepar.
        seed: of its random numbers.

    Raises:
        ImportError: it needs the dependency group `rivals`, which is not installed.
        ValueError: no rival has this name, or deepar lacks events or values to train on.
    """
    values = observed.values
    match name:
        case "persistence":
            return persistence(values, tick_s=tick_s)
        case "seasonal_naive":
            return seasonal_naive(values, tick_s=tick_s, warm_up=warm_up)
        case "ets":
            return ets(values, tick_s=tick_s, warm_up=warm_up)
        case "deepar":
            if train is None or observed.events is None or np.isnan(train.values).all():
                raise ValueError("needs users to train on who are not scored")
            return DeepAR(train, observed, tick_s=tick_s, warm_up=warm_up, seed=seed)
        case _:
            raise ValueError(f"no rival {name!r}; known are {', '.join(NAMES)}")
