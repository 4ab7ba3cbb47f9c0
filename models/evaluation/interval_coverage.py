"""Coverage of 95 % intervals: how many outcomes lie inside the interval of their forecast."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.quantile_function import QuantileFunction

LEVELS: Final = (0.025, 0.975)


class Counts(NamedTuple):
    """Numbers of forecasts with an outcome.

    Attributes:
        scored: those whose outcome is known.
        inside: of these, the outcomes inside the interval.
        censored: outcomes that are lower bounds only, which are not scored.
    """

    scored: int
    inside: int
    censored: int


def counts(
    forecast: QuantileFunction,
    observed: NDArray[np.floating[Any]],
    censored: NDArray[np.bool_],
    draws: NDArray[np.float64],
) -> Counts:
    """Count outcomes inside the interval, by the randomised probability integral transform (docs/scoring.md).

    Args:
        forecast: of any shape.
        observed: likewise, NaN where not measured.
        censored: likewise: the value is a lower bound.
        draws: likewise, uniform in [0, 1): they place an outcome within a flat part of its distribution.
    """
    pit = forecast.pit(observed, draws)
    known = ~np.isnan(pit)
    scored = known & ~censored
    inside = scored & (pit >= LEVELS[0]) & (pit <= LEVELS[1])
    return Counts(int(scored.sum()), int(inside.sum()), int((known & censored).sum()))
