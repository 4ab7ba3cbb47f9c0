"""Sums in which NaN, a value that was not measured, is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def total(values: NDArray[np.floating[Any]], axis: int = 0) -> NDArray[np.float64]:
    """Sums over an axis without NaN, in float64; NaN where all values are NaN or there is none."""
    return np.where(np.isnan(values).all(axis=axis), np.nan, np.nansum(values, axis=axis, dtype=np.float64))
