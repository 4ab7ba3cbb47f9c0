"""Demand of one app whose regime shifts once: what a learner is timed on.

Demand in a tick is

    y = level * exp(SWING * sin(2 pi (time + shift) / day) + u) * (1 + JOB where a job runs) * (burst height)

with u an autoregression of the first order. A job runs for JOB_S four times a day; bursts begin at random (a Poisson
process) and have a lognormal height and a geometric length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from models.metrics import DAY_S

SWING: Final = 0.4
NOISE: Final = 0.05
"""Standard deviation of u,"""
NOISE_KEPT: Final = 0.8
"""and its correlation from tick to tick."""
JOB: Final = 0.6
JOB_S: Final = 1_800.0
JOBS_A_DAY: Final = 4
BURST_TICKS: Final = 3.0
BURST_MEDIAN: Final = 1.8
BURST_SPREAD: Final = 0.25


@dataclass(frozen=True)
class Regime:
    """What demand is like.

    Attributes:
        level: geometric mean, replicas.
        bursts: begun a day, on the average.
        job_s: by which jobs begin later.
        season_s: by which the day's rhythm is ahead.
        startup: factor of the offers' start-up times.
    """

    level: float = 40.0
    bursts: float = 0.0
    job_s: float = 0.0
    season_s: float = 0.0
    startup: float = 1.0


@dataclass(frozen=True)
class Shift:
    """A regime, and the one that follows it.

    Attributes:
        before, after: the shift.
        like: a regime that needs as much capacity for each replica of demand as `after`, once all is settled.
    """

    before: Regime
    after: Regime
    like: Regime


PLAIN: Final = Regime()
BURSTY: Final = Regime(bursts=12.0)
SLOW: Final = Regime(startup=2.0)
SHIFTS: Final[Mapping[str, Shift]] = {
    "level_x3": Shift(PLAIN, replace(PLAIN, level=3 * PLAIN.level), PLAIN),
    "bursts_begin": Shift(PLAIN, BURSTY, BURSTY),
    "bursts_end": Shift(BURSTY, PLAIN, PLAIN),
    "job_moves_15_min": Shift(PLAIN, replace(PLAIN, job_s=900.0), PLAIN),
    "season_flips": Shift(PLAIN, replace(PLAIN, season_s=DAY_S / 2), PLAIN),
    "startup_x2": Shift(PLAIN, SLOW, SLOW),
}
"""By name."""


def demand(spans: Sequence[tuple[Regime, int]], tick_s: int, seed: int) -> NDArray[np.float64]:
    """Demand in replicas, not rounded, (tick) from midnight on.

    The random numbers of a tick depend on seed and tick alone, so that series of the same seed differ by their
    regimes only.

    Args:
        spans: regimes, each with its number of ticks, in their order.
        tick_s: length of a tick in seconds.
        seed: of the random numbers.
    """
    ticks = sum(count for _, count in spans)
    draws = np.random.default_rng([seed, tick_s]).standard_normal((ticks, 4))
    normal, heights, begins, ends = draws[:, 0], draws[:, 1], ndtr(draws[:, 2]), ndtr(draws[:, 3])
    made = np.empty(ticks)
    u, height, t = 0.0, 1.0, 0
    for regime, count in spans:
        starts = regime.bursts * tick_s / DAY_S
        for _ in range(count):
            u = NOISE_KEPT * u + NOISE * np.sqrt(1 - NOISE_KEPT**2) * normal[t]
            if begins[t] < starts:
                height = BURST_MEDIAN * float(np.exp(BURST_SPREAD * heights[t]))
            elif ends[t] < 1 / BURST_TICKS:
                height = 1.0
            now_s = t * tick_s
            season = SWING * np.sin(2 * np.pi * (now_s + regime.season_s) / DAY_S)
            running = (now_s - regime.job_s) % (DAY_S / JOBS_A_DAY) < JOB_S
            made[t] = regime.level * np.exp(season + u) * (1 + JOB * running) * height
            t += 1
    return made
