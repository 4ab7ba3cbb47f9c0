"""The unit of a number that counts time since 1970, told by its magnitude."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PER_SECOND: Final = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""How many of each unit are a second."""
BEGIN_S, END_S = 631_152_000, 4_102_444_800
"""1990 and 2100 in Unix seconds: times between them, in the four units, are four disjoint ranges of numbers."""
LATE_S: Final = 2_524_608_000
"""2050: seconds since 1900, as of NTP, look like times after it."""

YEARS_S: Final = (-62_135_596_800, 253_402_300_799)
"""Years 1 to 9999 in Unix seconds."""
YEARS_US: Final = (YEARS_S[0] * 10**6, YEARS_S[1] * 10**6 + 999_999)
"""The same in microseconds since 1970."""


def units_of(values: NDArray[np.number[Any]]) -> NDArray[np.int64]:
    """Position in `PER_SECOND` of the unit in which each number is a time from 1990 to 2100; -1 where none is."""
    units = np.full(values.shape, -1, np.int64)
    for position, per_second in enumerate(PER_SECOND.values()):
        units[(values >= BEGIN_S * per_second) & (values < END_S * per_second)] = position
    return units


def unit_of(value: float) -> str | None:
    """The unit in which a number is a time from 1990 to 2100; None if there is none.

    >>> unit_of(1_715_000_000), unit_of(1_715_000_000_000), unit_of(17)
    ('seconds', 'milliseconds', None)
    """
    position = int(units_of(np.array([value]))[0])
    return None if position < 0 else tuple(PER_SECOND)[position]


def microseconds(values: NDArray[np.number[Any]], units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers as microseconds since 1970, rounded; what is beyond the years 1 to 9999 is put at their ends.

    Args:
        values: int64 or float64.
        units: position of each one's unit in `PER_SECOND`.
    """
    out = np.zeros(values.shape, np.int64)
    for position, per_second in enumerate(PER_SECOND.values()):
        chosen = units == position
        most = min(int(YEARS_S[1]) * per_second, 2**62)
        part = np.clip(values[chosen], max(int(YEARS_S[0]) * per_second, -(2**62)), most)
        if per_second <= 10**6:
            out[chosen] = np.rint(part * (10**6 // per_second))
        else:
            out[chosen] = np.floor_divide(part.astype(np.int64), per_second // 10**6)
    return out
