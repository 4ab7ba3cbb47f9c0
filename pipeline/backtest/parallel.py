"""A job's apps in shards, a process each; a day of a shard is a file, and a killed run goes on from the last one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from models.behaviour.lstm import CARD
from pipeline.backtest.forecast_process import ForecastProcess
from pipeline.backtest.forecasts import ForecastPass, model_of
from pipeline.backtest.job import NOTHING, Arrays, Job
from pipeline.backtest.simulation import Simulation
from pipeline.backtest.trace_simulation import TraceSimulation
from pipeline.errors import UsageError
from pipeline.progress import Progress, silent

SNAPSHOT: Final = "snapshot.npz"
POLL_S: Final = 0.5


def split(job: Job, shards: int) -> list[Job]:
    """The job in parts of its apps, apps of one allocation group together; a part holds its own users alone."""
    groups: dict[str, list[str]] = {}
    for app in job.apps:
        groups.setdefault(job.policies[app].allocation_group or app, []).append(app)
    # an app costs about as much as twenty of its users (measured: scenarios and plan against sampling)
    cost = {name: sum(20 + len(job.members[app]) for app in apps) for name, apps in groups.items()}
    parts: list[list[str]] = [[] for _ in range(min(shards, len(groups)))]
    spent = [0] * len(parts)
    for name in sorted(groups, key=lambda name: (-cost[name], name)):
        least = spent.index(min(spent))
        parts[least] += groups[name]
        spent[least] += cost[name]
    return [_part(job, sorted(apps)) for apps in parts]


def _part(job: Job, apps: list[str]) -> Job:
    users = np.unique(np.concatenate([job.members[app] for app in apps]))
    return replace(
        job,
        values=job.values[:, users],
        events=job.events[:, users],
        saturated=job.saturated[:, users],
        ids=[job.ids[u] for u in users],
        members={app: np.searchsorted(users, job.members[app]) for app in apps},
        before=NOTHING,
    )


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
        job: what is run.
        model: folder of the model.
        shards: parts that learn apart.
        folder: of days and snapshots; what it has of this job already is not done again.
        processes: at once; 1 is this process, none one for each shard, and a second one for a shard that is alone.
        progress: of the ticks of all shards.

    Raises:
        UsageError: no model, or nothing to plan.
    """
    parts = split(job, shards)
    rows = len(job.values)
    if not (model / CARD).is_file():
        raise UsageError(f"{model} holds no model")
    folders = [folder / f"shard-{number}" for number in range(len(parts))]
    for one in folders:
        one.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        for part, one in zip(parts, folders, strict=True):
            work(part, model, one)
            progress("planning", rows * (folders.index(one) + 1), rows * len(parts))
    else:
        _beside(parts, model, folders, processes or len(parts), progress)
    names = [app for part in parts for app in part.apps]
    order = np.argsort(np.array(names), kind="stable")
    found = [days(f) for f in folders]
    return {
        name: np.concatenate([_wide(one, found, name) for one in found], axis=1)[:, order]
        for name in found[0]
    }


def _beside(parts: list[Job], model: Path, folders: list[Path], processes: int, progress: Progress) -> None:
    """Each part in a process of its own."""
    context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    total = len(parts) * len(parts[0].values)
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        alone = len(parts) == 1
        running = [pool.submit(work, p, model, f, alone) for p, f in zip(parts, folders, strict=True)]
        while True:
            done, left = wait(running, timeout=POLL_S)
            for one in done:
                one.result()
            progress("planning", sum(told(f) for f in folders), total)
            if not left:
                break


def _wide(one: Arrays, shards: list[Arrays], name: str) -> np.ndarray:
    """An array as wide as the widest shard's, for apps of more or fewer offers."""
    array = one[name]
    lacks = max(other[name].shape[-1] for other in shards) - array.shape[-1] if array.ndim > 2 else 0
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, lacks)]) if lacks else array


def work(job: Job, model: Path, folder: Path, ahead: bool = False) -> None:
    """One shard from its last snapshot to its end; ahead: with forecasts and scenarios from a second process."""

    def tell(row: int) -> None:
        if row % 20 == 0:
            (folder / "row").write_text(str(row))

    def make() -> Simulation:
        return TraceSimulation(
            job, ForecastProcess(job, model) if ahead else ForecastPass(job, model_of(model, job.rows))
        )

    follow(make, len(job.values), folder, tell)
    (folder / "row").write_text(str(len(job.values)))


def follow(make: Callable[[], Simulation], rows: int, folder: Path, tell: Callable[[int], None]) -> None:
    """Run what `make` gives from its last snapshot to its end; a day is written before the snapshot that follows it.

    Args:
        make: not called where all is done.
        rows: of the job.
        folder: of days and snapshots.
        tell: gets the row that was reached.
    """
    blocks: Arrays = {}
    if (folder / SNAPSHOT).exists():
        with np.load(folder / SNAPSHOT) as kept:
            blocks = dict(kept)
    if blocks and int(blocks["row"]) == rows:
        return
    living = make()
    if blocks:
        living.restore(blocks)
    first = living.row
    for day in living.run(tell):
        if day:
            write(folder / f"day-{first:07d}.npz", day)
        write(folder / SNAPSHOT, living.blocks())
        first = living.row


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Beside it, then over it: a file is there whole or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))
    draft.replace(path)


def told(folder: Path) -> int:
    """The row that a shard has reached."""
    try:
        return int((folder / "row").read_text() or 0)
    except FileNotFoundError:
        return 0


def days(folder: Path) -> Arrays:
    """All days of a shard, one after another."""
    found: list[Arrays] = []
    for path in sorted(folder.glob("day-*.npz")):
        with np.load(path) as day:
            found.append(dict(day))
    names = dict.fromkeys(name for day in found for name in day)
    return {name: np.concatenate([day[name] for day in found if name in day]) for name in names}
