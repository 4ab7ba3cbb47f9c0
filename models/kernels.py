"""Loops over scenarios that NumPy takes in a dozen passes over memory, compiled by Numba: seven times as fast.

Arithmetic is strict (no `fastmath`): each gives the bits of the array expression that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
P = ParamSpec("P")
R = TypeVar("R")


def compiled(loop: Callable[P, R]) -> Callable[P, R]:
    """The loop as machine code, kept from one start to the next where there is a place for it."""
    options: dict[str, Any] = {"nogil": True}
    try:
        return numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # no folder can be written: it is compiled again, in a second
        return numba.njit(**options)(loop)


@compiled
def add_users(
    deviation: Array, intercept: Array, slope: Array, middle: np.float32, top: np.float32, acc: Array
) -> None:
    """Add users' demand to acc (row, 2, half), with these scores and with their mirror image.

    deviation: (user, row, half), grid positions from the middle one; intercept, slope: (user, row, cell), of demand
    over the grid position; top: the last position.
    """
    users, rows, half = deviation.shape
    zero = np.float32(0)
    for user in range(users):
        for row in range(rows):
            at, rise = intercept[user, row], slope[user, row]
            plain, mirrored = acc[row, 0], acc[row, 1]
            for s in range(half):
                up = min(max(middle + deviation[user, row, s], zero), top)
                down = min(max(middle - deviation[user, row, s], zero), top)
                cell, other = np.int32(up), np.int32(down)
                plain[s] += max(up * rise[cell] + at[cell], zero)
                mirrored[s] += max(down * rise[other] + at[other], zero)


@compiled
def look_up(table: Array, index: NDArray[np.uint16], out: Array) -> None:
    """Elements of a table of 65,536, all flat: NumPy's `take` makes each index eight bytes and checks it."""
    for i in range(len(index)):
        out[i] = table[index[i]]


@compiled
def staircase(margin: Array, first: Array, second: Array, most: int, least: NDArray[np.int64]) -> None:
    """For each count of the first the least count of the second with which at most so many scenarios lack.

    margin: (group, scenario); first, second: (count, group, scenario) supply, rising over the counts, which the one
    of the second falls with; most: scenarios; least: (count of the first), filled; the number of the second's counts
    where none suffices.
    """
    groups, scenarios = margin.shape
    zero, count_left = np.float32(0), len(second)
    for count in range(len(first)):
        while count_left:
            lacking = 0
            for s in range(scenarios):
                for group in range(groups):
                    left = margin[group, s] + first[count, group, s]
                    if left + second[count_left - 1, group, s] < zero:
                        lacking += 1
                        break
                if lacking > most:
                    break
            if lacking > most:
                break
            count_left -= 1
        least[count] = count_left
