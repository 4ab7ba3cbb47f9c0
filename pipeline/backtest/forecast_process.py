"""Forecasts and scenarios from another process: no plan changes them, so two cores make a backtest of one app."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.backtest.forecasts import AppForecast, ForecastPass, model_of
from pipeline.backtest.job import Arrays, Job


class ForecastRow(NamedTuple):
    """What the other process made of a row.

    Attributes:
        found: of `ForecastSource.row`, with scenarios where the row ends with plans.
        blocks: of the source, at a day's end.
    """

    found: dict[str, AppForecast]
    blocks: Arrays


class ForecastProcess:
    """A `pipeline.backtest.forecasts.ForecastSource` in another process, the same to the byte.

    Args:
        job: what is run.
        model: folder of the model.
    """

    def __init__(self, job: Job, model: Path) -> None:
        self._job, self._model, self._made = job, model, ForecastRow({}, {})
        self._pipe: Any = None

    def row(self, t: int) -> dict[str, AppForecast]:
        """See `ForecastSource`.

        Raises:
            RuntimeError: the other process has ended.
        """
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
            self._pipe, other = context.Pipe(duplex=False)
            given = self._job, self._model, self._made.blocks, t, other
            context.Process(target=_make, args=given, daemon=True).start()
            other.close()  # else its end would not be heard
        try:
            self._made = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process that makes forecasts and scenarios has ended") from None
        return self._made.found

    def blocks(self) -> Arrays:
        """See `ForecastSource`."""
        return self._made.blocks

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """See `ForecastSource`."""
        self._made = ForecastRow({}, dict(blocks))


def _make(job: Job, model: Path, blocks: Arrays, first: int, out: Connection) -> None:
    """All rows from `first` on, each as soon as there is room for it."""
    source = ForecastPass(job, model_of(model, job.rows))
    if blocks:
        source.restore(blocks)
    for t in range(first, len(job.values)):
        found = source.row(t)
        if job.plans(t):
            found = {name: one.drawn() for name, one in found.items()}
        out.send(ForecastRow(found, source.blocks() if job.ends_day(t + 1) else {}))
