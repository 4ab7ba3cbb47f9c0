"""Forecasts and scenarios from another process, so that a backtest of one app uses two cores: no plan changes them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import background
from pipeline.backtest.forecasts import AppForecast, ForecastPass, model_of
from pipeline.backtest.job import Arrays, Job


class ForecastRow(NamedTuple):
    """Forecasts of a row from the other process.

    Attributes:
        forecasts: of `ForecastSource.row`, with scenarios where the row ends with plans.
        blocks: the source's snapshot, at a day's end.
    """

    forecasts: dict[str, AppForecast]
    blocks: Arrays


class ForecastProcess:
    """A `pipeline.backtest.forecasts.ForecastSource` in another process, the same to the byte.

    Args:
        job: what is simulated.
        model: folder of the model.
    """

    def __init__(self, job: Job, model: Path) -> None:
        self._job, self._model, self._latest = job, model, ForecastRow({}, {})
        self._pipe: Any = None

    def row(self, t: int) -> dict[str, AppForecast]:
        """See `ForecastSource`.

        Raises:
            RuntimeError: the other process has ended.
        """
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
            self._pipe, other = context.Pipe(duplex=False)
            given = self._job, self._model, self._latest.blocks, t, other
            context.Process(target=_make, args=given, daemon=True).start()
            other.close()  # otherwise the end of the process would not close the pipe
        try:
            self._latest = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process that makes forecasts and scenarios has ended") from None
        return self._latest.forecasts

    def blocks(self) -> Arrays:
        """See `ForecastSource`."""
        return self._latest.blocks

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """See `ForecastSource`."""
        self._latest = ForecastRow({}, dict(blocks))


def _make(job: Job, model: Path, blocks: Arrays, first: int, out: Connection) -> None:
    """Send all rows from `first` on, as fast as the pipe takes them."""
    background.end_with_parent()
    source = ForecastPass(job, model_of(model, job.rows))
    if blocks:
        source.restore(blocks)
    for t in range(first, len(job.values)):
        forecasts = source.row(t)
        if job.plans(t):
            forecasts = {app: forecast.drawn() for app, forecast in forecasts.items()}
        out.send(ForecastRow(forecasts, source.blocks() if job.ends_day(t + 1) else {}))
