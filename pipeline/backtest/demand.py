"""Demand of a backtest: of a trace file or frame, or of a window of a cluster's topics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from models.behaviour.lstm import DEFAULT_MODEL
from pipeline.backtest import parallel, topic_simulation, topic_window
from pipeline.backtest.job import Arrays, Job
from pipeline.backtest.setup import PlanningInputs
from pipeline.backtest.topic_window import TopicWindow
from pipeline.errors import UsageError
from pipeline.format import parse_time
from pipeline.inputs import released_models
from pipeline.kafka.connection import reachable
from pipeline.progress import Progress, silent
from pipeline.settings import Settings, load_settings
from pipeline.traces import doubts, trace_file
from pipeline.traces.trace_file import Panel
from pipeline.traces.window import ScoringWindow, ticks_of, window_of

SHARDS = 2
"""Groups of apps that learn apart, as partitions of a stream do; two, so that two cores are used. Not the machine's
number of cores: the same arguments give the same bytes anywhere."""


@dataclass(frozen=True)
class DemandSource:
    """Demand of users over time.

    Attributes:
        name: for people.
        panel: all ticks of the trace, or of the window of topics.
        window: rows of it that are run and scored.
        skipped: counts by what was left out.
        notes: what was assumed of a trace, and what of it is doubtful, a line each.
        digest: of the content that was read.
        model: folder of the model.
        recorded: the window of topics; None: a trace.
    """

    name: str
    panel: Panel
    window: ScoringWindow
    skipped: Mapping[str, int]
    digest: bytes
    model: Path
    recorded: TopicWindow | None = None
    notes: Sequence[str] = ()

    @property
    def ids(self) -> list[bytes] | None:
        """Pseudonyms of the panel's users, where these are not names."""
        return None if self.recorded is None else [bytes.fromhex(user) for user in self.panel.users]

    def run(
        self,
        job: Job,
        folder: Path,
        processes: int | None,
        records: PlanningInputs | None = None,
        progress: Progress = silent,
    ) -> tuple[Arrays, dict[str, list[bytes]]]:
        """Simulate a job.

        Args:
            job: of this demand.
            folder: of days and snapshots.
            processes: at once; None: two.
            records: that the stages plan by, instead of the topics' own.
            progress: of the ticks.

        Returns:
            outcomes of our plans, and with topics the encoded records that the stages published, by topic.
        """
        window = self.recorded
        if window is None:
            return parallel.run(job, self.model, SHARDS, folder, processes, progress), {}
        if records is not None:
            every = [price for prices in records.prices.values() for price in prices]
            window = topic_window.planned_by(window, records.policies, every)
        return topic_simulation.run(
            job, window, self.model, folder, pinned=records is None, progress=progress
        )

    def changed(self, panel: Panel) -> DemandSource:
        """With other values of the same users."""
        window = None if self.recorded is None else topic_window.changed(self.recorded, panel)
        return replace(self, panel=panel, recorded=window)


def of_trace(
    given: Path | pl.DataFrame,
    tick_s: int | None,
    warm_up: str | None,
    begin: str | None,
    until: str | None,
    model: Path | None,
    apps: Sequence[str] = (),
) -> DemandSource:
    """Demand of a trace: a file, or a frame with its columns (docs/telemetry.md).

    Args:
        given: the file or the frame.
        tick_s: seconds of a tick; None: the trace's interval.
        warm_up, begin, until: see `pipeline.traces.window.window_of`.
        model: folder of the behaviour model; None: the released one.
        apps: of the trace, those that are planned; none: all.

    Raises:
        UsageError: it cannot be read, or has nothing to score in the window.
    """
    if isinstance(given, Path):
        name, read = str(given), trace_file.read(given)
    else:
        name, read = "frame", trace_file.of_frame(given, "frame")
    if apps:
        read = trace_file.of_apps(read, apps)
    panel = trace_file.to_panel(read, tick_s)
    _some(panel, name)
    window = _scored(window_of(panel, warm_up, begin, until))
    skipped = {**read.skipped, "duplicates": doubts.repeated(read.frame)}
    digest = panel_digest(panel)
    notes = (*read.notes, *trace_file.slower_apps(read, panel.tick_s))
    return DemandSource(name, panel, window, skipped, digest, model or DEFAULT_MODEL, notes=notes)


def of_topics(
    bootstrap: str | None,
    prefix: str | None,
    offsets: tuple[int, int] | None,
    warm_up: str | None,
    begin: str | None,
    until: str | None,
    model: Path | None,
) -> DemandSource:
    """A window of topics: up to `until`, by default from the first frame there is, so that all is learnt again.

    Raises:
        UsageError: nothing of the window is there.
        Unreachable: the cluster does not answer.
    """
    settings: Settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    begin_s = None if begin is None else parse_time(begin)
    end_s = None if until is None else parse_time(until)
    first_s = None
    if begin_s is not None and warm_up is not None:
        first_s = begin_s - ticks_of(warm_up, 1)
    recorded = topic_window.read(settings, first_s, end_s, offsets)
    panel = recorded.panel
    name = f"topics {settings.prefix}* at {settings.bootstrap}"
    _some(panel, name)
    window = window_of(panel, warm_up if begin is None else None, begin, until)
    window = _scored(replace(window, begin=0))
    folder = model or released_models.folder(settings)
    return DemandSource(name, panel, window, recorded.skipped, recorded.digest(), folder, recorded)


def panel_digest(panel: Panel) -> bytes:
    """BLAKE2b of a panel's content: the same demand has the same digest, whatever file it was read from."""
    digest = hashlib.blake2b()
    names = [panel.tick_s, panel.values.shape, panel.events.shape, panel.apps, panel.users]
    digest.update(json.dumps(names).encode())
    for array in (panel.ticks, panel.values, panel.events, panel.saturated):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _some(panel: Panel, name: str) -> None:
    if len(panel.ticks) < 2:
        raise UsageError(f"{name}: one tick alone, nothing can be planned")


def _scored(window: ScoringWindow) -> ScoringWindow:
    """Not before the second tick: the first cannot be planned for."""
    window = replace(window, score=max(window.score, window.begin + 1))
    if window.score >= window.stop:
        raise UsageError("nothing to score in the window: it is one tick long")
    return window
