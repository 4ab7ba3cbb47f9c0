"""What settings that do not change would have cost an app, and have missed, on the demand that came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.learning.shadow_fleets import Count, ShadowFleets


class Need(NamedTuple):
    """A tick and the plan at its end.

    Attributes:
        tick: its number.
        need: replicas that its demand filled; NaN: not known.
        wanted, soon: (lane) replicas that the plan needs, as of `ShadowFleets.decide`.
    """

    tick: int
    need: float
    wanted: Count
    soon: Count


def outcomes(fleets: ShadowFleets, ticks: Sequence[Need]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(tick, lane) cost, and whether capacity was short; before the first plan, and where the need is not known, not.

    Args:
        fleets: a lane a setting.
        ticks: in order.
    """
    cost, missed = [], []
    for now in ticks:
        started = fleets.fleet is not None
        ready, spent = fleets.live(now.tick)
        cost.append(spent)
        missed.append((ready < now.need) & started)
        fleets.decide(now.tick, now.wanted, now.soon)
    return np.array(cost), np.array(missed)
