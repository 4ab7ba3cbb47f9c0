"""Backtest: wall time of a backtest of our own plans, without baselines."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.behaviour.lstm import DEFAULT_MODEL
from models.metrics import DAY_S, EVENT_KINDS
from models.synthetic import machines
from pipeline.backtest import demand, parallel, setup
from pipeline.traces import trace_file
from pipeline.traces.window import ScoringWindow

TICK_S: Final = 300
METRICS: Final = 4
LIMIT_S: Final = 300.0  # the aim, for the defaults, on two cores


def measured(users: int, days: int, apps: int, scenarios: int, every: int, seed: int) -> dict[str, Any]:
    """Wall time of planning simulated machines of four metrics at 5 minutes, from the first hour on.

    Args:
        users, days: machines and length of the simulated trace.
        apps: that the users are divided into.
        scenarios: of each decision.
        every: ticks between two decisions.
        seed: of the machines and the scenarios.
    """
    ticks = days * DAY_S // TICK_S
    values = machines.machines(seed=seed, users=users, ticks=ticks, tick_s=TICK_S)
    values[..., METRICS:] = np.nan
    panel = trace_file.Panel(
        ticks=np.arange(ticks, dtype=np.int64),
        tick_s=TICK_S,
        apps=[f"app-{u % apps}" for u in range(users)],
        users=[f"user-{u:06d}" for u in range(users)],
        values=values,
        events=np.full((ticks, users, len(EVENT_KINDS)), np.nan, np.float32),
        saturated=np.zeros(values.shape, bool),
    )
    members = {f"app-{a}": np.arange(a, users, apps) for a in range(min(apps, users))}
    warm = 2 * setup.SETTLE_S // TICK_S
    job = setup.job_of(panel, ScoringWindow(0, warm, ticks), members, None, (), alone=True)
    job = replace(job, scenarios=scenarios, every=every, seed=seed)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parallel.run(job, DEFAULT_MODEL, demand.SHARDS, Path(folder))
    wall_s = time.perf_counter() - begun
    return {
        "users": users,
        "days": days,
        "apps": len(members),
        "ticks": ticks,
        "metrics": METRICS,
        "scenarios": scenarios,
        "every": every,
        "plans": len(members) * ((ticks - job.plan_from - 1) // every + 1),
        "wall_s": round(wall_s, 1),
        "ms_per_tick": round(1000 * wall_s / ticks, 2),
        "within_300_s": wall_s <= LIMIT_S,
    }
