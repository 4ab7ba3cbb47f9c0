"""A rerun on two cores: forecasts and scenarios do not depend on plans, so a process makes them while another plans."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.lanes import Arrays, Job
from pipeline.living import Living
from pipeline.planning import Decide
from pipeline.rerun import Rerun, model_of


class Made(NamedTuple):
    """What the other process made of a row.

    Attributes:
        found: of `Living.decided`.
        blocks: of the `Rerun`, at a day's end.
    """

    found: dict[str, tuple[Decide, int]]
    blocks: Arrays


class Ahead(Living):
    """The same as a `Rerun`, to the byte; what its lanes plan with comes from one in another process.

    Args:
        job: what is run.
        model: folder of the model.
    """

    def __init__(self, job: Job, model: Path) -> None:
        super().__init__(job)
        self._model, self._made = model, Made({}, {})
        self._pipe: Any = None

    def decided(self, t: int, plans: bool) -> dict[str, tuple[Decide, int]]:
        """What the other process made of the row."""
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
            self._pipe, other = context.Pipe(duplex=False)
            begin = self._made.blocks
            process = context.Process(
                target=_make, args=(self.job, self._model, begin, t, self.day, other), daemon=True
            )
            process.start()
            other.close()  # else its end would not be heard
        try:
            self._made = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process that makes forecasts and scenarios has ended") from None
        return self._made.found

    def blocks(self) -> Arrays:
        """A snapshot: that of the `Rerun` with these lanes."""
        return {**self._made.blocks, **self.lane_blocks()}

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from one."""
        self.restore_lanes(blocks)
        self._made = Made({}, dict(blocks))


def _make(job: Job, model: Path, blocks: Arrays, first: int, day: int, out: Connection) -> None:
    """All rows from `first` on, each as soon as there is room for it."""
    rerun = Rerun(job, model_of(model, job.rows))
    if blocks:
        rerun.restore(blocks)
    for row in range(first, len(job.values)):
        found = rerun.decided(row, rerun.plans(row))
        rerun.row = row + 1
        ends = rerun.row % day == 0 or rerun.row == len(job.values)
        out.send(Made(found, rerun.blocks() if ends else {}))
