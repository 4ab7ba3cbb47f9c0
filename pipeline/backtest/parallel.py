"""A job split into shards of apps, a process each; each day is a file, and a killed run resumes after the last."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Final

import numpy as np

from models.behaviour.lstm import CARD
from pipeline import background
from pipeline.backtest.forecast_process import ForecastProcess
from pipeline.backtest.forecasts import ForecastPass, model_of
from pipeline.backtest.job import Arrays, Job
from pipeline.backtest.simulation import Simulation
from pipeline.backtest.trace_simulation import TraceSimulation
from pipeline.errors import UsageError
from pipeline.progress import Progress, silent

SNAPSHOT: Final = "snapshot.npz"
POLL_S: Final = 0.5


def split(job: Job, shards: int) -> list[Job]:
    """The job in parts of its apps, apps of one allocation group or pool together; each holds its own users alone."""
    groups: dict[str, list[str]] = {}
    for app in job.apps:
        group = "" if job.pool else job.policies[app].allocation_group or app
        groups.setdefault(group, []).append(app)
    # an app costs about as much as twenty of its users (measured: scenarios and plan against sampling)
    cost = {name: sum(20 + len(job.members[app]) for app in apps) for name, apps in groups.items()}
    parts: list[list[str]] = [[] for _ in range(min(shards, len(groups)))]
    spent = [0] * len(parts)
    for name in sorted(groups, key=lambda name: (-cost[name], name)):
        least = spent.index(min(spent))
        parts[least] += groups[name]
        spent[least] += cost[name]
    return [job.part(sorted(apps)) for apps in parts]


def run(
    job: Job,
    model: Path,
    shards: int,
    folder: Path,
    processes: int | None = None,
    progress: Progress = silent,
) -> Arrays:
    """All shards' outcomes, (tick from the first plan on, app by name, ...).

    Args:
        job: what is simulated.
        model: folder of the model.
        shards: parts that learn apart.
        folder: of days and snapshots; days that it holds are not simulated again.
        processes: at once; 1: this process; None: one for each shard, and two for a single shard.
        progress: of the ticks of all shards.

    Raises:
        UsageError: no model, or nothing to plan.
    """
    parts = split(job, shards)
    rows = len(job.values)
    if not (model / CARD).is_file():
        raise UsageError(f"{model} holds no model")
    folders = [folder / f"shard-{number}" for number in range(len(parts))]
    for path in folders:
        path.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        for done, (part, path) in enumerate(zip(parts, folders, strict=True), 1):
            work(part, model, path)
            progress("planning", rows * done, rows * len(parts))
    else:
        _in_processes(parts, model, folders, processes or len(parts), progress)
    names = [app for part in parts for app in part.apps]
    order = np.argsort(np.array(names), kind="stable")
    of_parts = [days(folder) for folder in folders]
    return {
        name: np.concatenate([_wide(part_days, of_parts, name) for part_days in of_parts], axis=1)[:, order]
        for name in of_parts[0]
    }


def _in_processes(
    parts: list[Job], model: Path, folders: list[Path], processes: int, progress: Progress
) -> None:
    """Simulate each part in a process of its own."""
    context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    total = len(parts) * len(parts[0].values)
    with ProcessPoolExecutor(processes, context, background.end_with_parent) as pool:
        alone = len(parts) == 1
        running = [pool.submit(work, p, model, f, alone) for p, f in zip(parts, folders, strict=True)]
        while True:
            done, left = wait(running, timeout=POLL_S)
            for one in done:
                one.result()
            progress("planning", sum(rows_done(f) for f in folders), total)
            if not left:
                break


def _wide(one: Arrays, shards: list[Arrays], name: str) -> np.ndarray:
    """An array padded to the width of the widest shard's: apps have different numbers of offers."""
    array = one[name]
    lacks = max(other[name].shape[-1] for other in shards) - array.shape[-1] if array.ndim > 2 else 0
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, lacks)]) if lacks else array


def work(job: Job, model: Path, folder: Path, ahead: bool = False) -> None:
    """Simulate a shard from its last snapshot to its end; ahead: forecasts and scenarios come from another process."""

    def report(row: int) -> None:
        if row % 20 == 0:
            (folder / "row").write_text(str(row))

    def make() -> Simulation:
        return TraceSimulation(
            job, ForecastProcess(job, model) if ahead else ForecastPass(job, model_of(model, job.rows))
        )

    resume(make, len(job.values), folder, report)
    (folder / "row").write_text(str(len(job.values)))


def resume(make: Callable[[], Simulation], rows: int, folder: Path, report: Callable[[int], None]) -> None:
    """Run a simulation from its last snapshot to its end; a day is written before the snapshot that follows it.

    Args:
        make: makes the simulation; not called where all rows are done.
        rows: of the job.
        folder: of days and snapshots.
        report: called with the rows done.
    """
    blocks: Arrays = {}
    if (folder / SNAPSHOT).exists():
        with np.load(folder / SNAPSHOT) as kept:
            blocks = dict(kept)
    if blocks and int(blocks["row"]) == rows:
        return
    simulation = make()
    if blocks:
        simulation.restore(blocks)
    first = simulation.row
    for day in simulation.run(report):
        if day:
            write(folder / f"day-{first:07d}.npz", day)
        write(folder / SNAPSHOT, simulation.blocks())
        first = simulation.row


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file as a whole or not at all: beside it, then over it."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))
    draft.replace(path)


def rows_done(folder: Path) -> int:
    """Rows that a shard has simulated."""
    try:
        return int((folder / "row").read_text() or 0)
    except FileNotFoundError:
        return 0


def days(folder: Path) -> Arrays:
    """Outcomes of all days of a shard."""
    days_read: list[Arrays] = []
    for path in sorted(folder.glob("day-*.npz")):
        with np.load(path) as day:
            days_read.append(dict(day))
    names = dict.fromkeys(name for day in days_read for name in day)
    return {name: np.concatenate([day[name] for day in days_read if name in day]) for name in names}
