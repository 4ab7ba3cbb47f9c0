"""Simulated populations and machines as series to train on."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.behaviour import training_series
from models.behaviour.training_series import Series
from models.metrics import EVENT_KINDS
from models.synthetic import machines
from models.synthetic.population import population

POPULATIONS: Final = ((1, 60, 4 * 1440), (2, 60, 4 * 1440), (3, 10, 8640), (4, 300, 14 * 288))
"""Seed, tick_s and ticks of each simulated population."""
MACHINES: Final = ((11, 10, 8640), (12, 60, 7 * 1440), (13, 300, 30 * 288), (14, 300, 30 * 288))
"""Seed, tick_s and ticks of each set of simulated machines."""
MACHINES_EACH: Final = 40
MACHINE_GROUPS: Final = (2, 5, 10, 20, 30)
WEIGHT: Final = 0.4  # real series are drawn twice in three times


def population_series(seed: int, tick_s: int, ticks: int) -> list[Series]:
    """A simulated population as series; its events lead its demand."""
    people = population(seed=seed, tick_s=tick_s, ticks=ticks, apps=2, users_per_app=15)
    return [
        Series.of(
            f"synthetic-{seed}/{people.apps[u]}/{people.users[u]}",
            tick_s,
            int(people.ticks[0]),
            people.values[:, u],
            people.events[:, u],
            people.saturated[:, u],
            WEIGHT,
        )
        for u in range(len(people.users))
    ]


def machine_series(seed: int, tick_s: int, ticks: int) -> list[Series]:
    """Simulated machines and totals of some of them as series; without events."""
    values = machines.machines(seed=seed, users=MACHINES_EACH, ticks=ticks, tick_s=tick_s)
    silent = np.full((ticks, len(EVENT_KINDS)), np.nan, np.float32)
    each = [
        Series.of(
            f"machine-{seed}/{u}",
            tick_s,
            0,
            values[:, u],
            silent,
            np.zeros(values[:, u].shape, bool),
            WEIGHT,
        )
        for u in range(MACHINES_EACH)
    ]
    return each + training_series.groups(each, list(MACHINE_GROUPS), seed)
