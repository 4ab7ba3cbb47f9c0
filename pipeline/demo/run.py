"""One replayed installation: a trace through all stages on a Kafka, followed until its last plan, and its summary."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.demo import summary
from pipeline.demo.recorder import Watch
from pipeline.errors import LeadtimeError
from pipeline.inputs import publish
from pipeline.inputs.example import Example
from pipeline.kafka import topics
from pipeline.providers.local_replicas import ReplicaSet
from pipeline.reports.app_run import AppRun
from pipeline.runtime.cluster import cluster
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings
from pipeline.sources.replay import Pace, Replayer, records, unpaced
from pipeline.stages.actuator.service import starting_capacity
from pipeline.traces import trace_file as traces
from pipeline.traces.window import TickWindow

NOTE_S = 3.0
"""Least seconds between two lines of progress where stderr is no terminal."""
STALL_S = 180.0
"""Without any message for so long the run has failed: the slowest step, TensorFlow's start, takes ten seconds."""


class ProgressLines:
    """Progress where no terminal shows the table: a line every NOTE_S seconds at most, and only where it has changed.

    Args:
        say: prints a line.
        begun_s: time of the last line that came from elsewhere, on the monotonic clock.
    """

    def __init__(self, say: Callable[[str], None], begun_s: float) -> None:
        self._say, self._noted_s, self._text = say, begun_s, ""

    def note(self, text: str, now_s: float) -> None:
        """Print a line, unless it is too early for one or the last one was the same."""
        if text != self._text and now_s - self._noted_s >= NOTE_S:
            self._say(text)
            self._noted_s, self._text = now_s, text


class Replayed(NamedTuple):
    """Ticks of a trace.

    Attributes:
        window: those that are shown.
        learnt: by app that the learner steers the first tick that is replayed of it, at or before the window's.
        shifts: what changes in the demand of these apps, by tick.
        shared: whether apps share nodes, but for those that are learnt; else each has instances of its own.
    """

    window: TickWindow
    learnt: Mapping[str, int] = MappingProxyType({})
    shifts: Mapping[int, str] = MappingProxyType({})
    shared: bool = False


class Run:
    """One replay from an empty installation to its summary.

    Args:
        settings: of the installation; without an address a Kafka is started for it.
        trace: what is replayed.
        replayed: ticks of it.
        console: for progress.
        pace: of the replay.
        each: called after each poll of the published records.
        notes: for the end of the page.
        begun_s: when the run began, on the monotonic clock; None = now.
    """

    def __init__(
        self,
        settings: Settings,
        trace: traces.Trace,
        replayed: Replayed,
        console: Console,
        pace: Pace = unpaced,
        each: Callable[[Watch, Supervisor], None] = lambda *_: None,
        notes: Sequence[str] = (),
        begun_s: float | None = None,
    ) -> None:
        self.settings, self.trace, self.console = settings, trace, console
        self.window, self.learnt, self.shifts, self.shared = replayed
        self.pace, self.each, self.notes = pace, each, notes
        self.rows = self.window.select(trace)
        self.replayed = self._replayed()
        self.apps = sorted(self.rows["app"].unique().to_list())
        self.begun_s = time.monotonic() if begun_s is None else begun_s
        self.sent = 0
        self.first_forecast_s: float | None = None
        self.planned_s = 0.0

    def _replayed(self) -> pl.DataFrame:
        """Rows of the window, and before it those of the apps that are learnt."""
        begins = min(self.learnt.values(), default=self.window.first)
        before = replace(self.window, first=begins, last=self.window.first - 1).replayed(self.trace)
        tick = pl.col("ts").dt.epoch("us") // (self.window.tick_s * 1_000_000)
        wanted = [(pl.col("app") == app) & (tick >= first) for app, first in self.learnt.items()]
        shown = self.window.replayed(self.trace)
        return pl.concat([before.filter(pl.any_horizontal(wanted)), shown]) if wanted else shown

    @property
    def remarks(self) -> list[str]:
        """What was assumed of the trace, what is doubtful, and what is left out, a line each."""
        pauses = self.window.pauses(self.trace)
        remarks = [
            *self.trace.notes,
            *([pauses] if pauses else traces.slower_apps(self.trace, self.window.tick_s)),
        ]
        for app, counts in traces.refused_by_app(self.window.refused(self.trace)).items():
            remarks.append(f"of app {app} ingest refuses {traces.counted(counts)}")
        return remarks

    def go(self, page: Path, out: Path | None) -> dict[str, Any]:
        """Run the replay; write the page, and the files into `out`; return the figures.

        Raises:
            LeadtimeError: nothing was published for STALL_S seconds, or the replay failed.
        """
        own, example = self._examples()
        self._say(
            f"{self.rows.height:,} rows, {len(self.apps)} apps, {self.window.ticks} ticks of {self.window.tick_s} s"
        )
        for app, first in self.learnt.items():
            self._say(
                f"of {app}, which the learner steers, also the {self.window.first - first} ticks before"
            )
        for note in self.remarks:
            self._say(f"note: {note}")
        if self.settings.bootstrap is None:
            self._say("starting Kafka")
        with cluster(self.settings) as settings:
            self.settings = settings
            self._say(f"Kafka at {settings.bootstrap}")
            topics.create(settings)
            publish.publish(settings, "prices", "price", example.prices)
            publish.publish(settings, "policies", "policy", example.policies)
            options = self._begin(settings, example)
            supervisor = Supervisor(
                settings.environment(), settings.data_dir / "stages", self._say, options=options
            )
            watch = Watch(settings)
            try:
                supervisor.start()
                pids = {name: stage.process.pid for name, stage in supervisor.stages.items() if stage.process}
                self._say("stages " + ", ".join(f"{name} (pid {pid})" for name, pid in pids.items()))
                self._say("the worker loads TensorFlow and compiles the model: 10 to 30 s")
                self._follow(watch, supervisor)
            finally:
                supervisor.stop()
                watch.close()
        return self._finish(example, own, watch, supervisor, page, out)

    def _examples(self) -> tuple[Example, Example]:
        """What is published: with instances of each app's own, and as it is."""
        own = Example.of(self.trace, self.window, learnt=self.learnt)
        on_nodes = [policy["app"] for policy in own.policies if policy["app"] not in self.learnt]
        return own, own.on_shared_nodes(on_nodes) if self.shared and len(on_nodes) > 1 else own

    def _begin(self, settings: Settings, example: Example) -> Mapping[str, Sequence[str]]:
        """Make what the first tick starts with; return options of the stages, by their names."""
        for app, counts in example.starting.items():
            starting_capacity(
                settings,
                {app: counts},
                self.learnt.get(app, self.window.first),
                replica_sets(example) if app == example.group else None,
            )
        return {}

    def _outcome(self, example: Example, own: Example, watch: Watch) -> list[AppRun]:
        """What became of each app."""
        return summary.outcome(watch, example, own, self.window)

    def _figures(self) -> dict[str, Any]:
        """Figures beside those of every run."""
        return {}

    def _say(self, text: str) -> None:
        elapsed = f"{time.monotonic() - self.begun_s:6.1f} s"
        self.console.print(Text.assemble((elapsed, "dim"), f"  {text}"))

    def _follow(self, watch: Watch, supervisor: Supervisor) -> None:
        """Replay, and watch until the last tick is planned and its commands are answered."""
        failure: list[BaseException] = []

        def send() -> None:
            try:
                items = records(self.replayed, self.trace.tick_s)
                Replayer(self.settings).run(
                    items, self.pace, lambda count: setattr(self, "sent", count), self.window.last
                )
            except BaseException as error:  # told by the main thread
                failure.append(error)

        replaying = threading.Thread(target=send, name="replay", daemon=True)
        replaying.start()
        newest_s, polled = time.monotonic(), 0.0
        lines = ProgressLines(self._say, newest_s)
        with Live(
            console=self.console,
            refresh_per_second=4,
            transient=True,
            get_renderable=lambda: self._table(watch),
        ):
            while True:
                now = time.monotonic()
                if watch.poll():
                    newest_s = now
                self.each(watch, supervisor)
                if watch.counts["forecasts"] and self.first_forecast_s is None:
                    self.first_forecast_s = now - self.begun_s
                    self._say("first forecast; the simulator compiles its sampler for the first plan")
                self._note(watch, lines, now)
                if failure:
                    raise failure[0]
                if now - polled > 0.5:
                    supervisor.poll()
                    polled = now
                    if self._is_done(watch) and not replaying.is_alive() and watch.settled():
                        break
                if now - newest_s > STALL_S and not replaying.is_alive():
                    tails = "\n".join(f"--- {n}\n{stage.tail()}" for n, stage in supervisor.stages.items())
                    raise LeadtimeError(
                        f"nothing has happened for {STALL_S:g} s; planned are {self._planned(watch)} of"
                        f" {self.window.ticks} ticks of {', '.join(sorted(watch.usage)) or 'no app'}; the ends of the"
                        f" stages' logs:\n{tails}"
                    )
        self.planned_s = time.monotonic() - self.begun_s
        self._say(f"{self.window.ticks} ticks planned, all commands answered")

    def _note(self, watch: Watch, lines: ProgressLines, now_s: float) -> None:
        """Note the state in a line where stderr is no terminal, which would show the table."""
        if not self.console.is_terminal:
            planned = f"{self._planned(watch)} of {self.window.ticks} ticks planned"
            if (before := self._before(watch)) and not self._planned(watch):
                planned += f" ({before} before them)"
            lines.note(f"{planned}, {self.sent:,} records replayed", now_s)

    def _is_done(self, watch: Watch) -> bool:
        """Whether all ticks are framed, and the last is planned for each app that was framed in any of them."""
        framed, planned = watch.framed_until(), watch.planned_until()
        return None not in (framed, planned) and min(framed or 0, planned or 0) >= self.window.last

    def _planned(self, watch: Watch) -> int:
        """Ticks for which every app that came so far has a plan."""
        done = watch.planned_until()
        return 0 if done is None else max(0, done - self.window.first + 1)

    def _before(self, watch: Watch) -> int:
        """Ticks before the window for which the apps that are learnt have a plan."""
        newest = [max(watch.plans[app], default=first - 1) - first + 1 for app, first in self.learnt.items()]
        return max(0, min(newest, default=0))

    def _table(self, watch: Watch) -> Table:
        """Progress, as a grid of two columns."""
        grid = Table.grid(padding=(0, 2))
        planned = self._planned(watch)
        elapsed = time.monotonic() - self.begun_s
        share = watch.coverage.share
        for name, value in (
            ("replayed", f"{self.sent:,} records, {self.sent / elapsed:,.0f} a second"),
            ("framed", f"{watch.counts['frames']:,} frames, {watch.counts['samples']:,} samples"),
            ("forecast", f"{watch.counts['forecasts']:,} forecasts, 95 % intervals hold {share:.1%}"),
            ("planned", f"{planned} of {self.window.ticks} ticks, {len(watch.commands)} commands"),
            ("set aside", f"{len(watch.dead_letters)} dead letters, {len(watch.notices)} hold notices"),
        ):
            grid.add_row(f"[bold]{name}[/]", value)
        return grid

    def _finish(
        self,
        example: Example,
        own: Example,
        watch: Watch,
        supervisor: Supervisor,
        page: Path,
        out: Path | None,
    ) -> dict[str, Any]:
        self._say("summing up, beside the reactive policy")
        runs = self._outcome(example, own, watch)
        steered = [
            summary.learner_run(
                app, watch, example, replace(self.window, first=first), self.settings.seed, self.shifts
            )
            for app, first in self.learnt.items()
        ]
        wall_s = time.monotonic() - self.begun_s
        figures: dict[str, Any] = {
            "records": self.sent,
            "users": self.rows.select("app", "user").n_unique(),
            "apps": len(self.apps),
            "ticks": self.window.ticks,
            "tick_s": self.window.tick_s,
            **summary.totals(runs, watch),
            "wall_s": round(wall_s, 1),
            "first_forecast_s": None if self.first_forecast_s is None else round(self.first_forecast_s, 1),
            "records_per_s": round(self.sent / self.planned_s, 1),
            "restarts": {name: stage.restarts for name, stage in supervisor.stages.items()},
            "shared_nodes": summary.shared_nodes(watch, example, runs, self.window),
            "learner": {run.app: run.figures for run in steered},
            **self._figures(),
            "skipped": self.window.skipped(self.trace),
            "notes": self.remarks,
        }
        if out is not None:
            summary.write(out, watch)
        # Here: matplotlib is a second of imports that the stages need not wait for.
        from pipeline.reports import run_page

        self._say("drawing the page")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(run_page.page("Leadtime demo", runs, figures, (*self.notes, *self.remarks), steered))
        self._say(f"page {page}")
        return figures


def replica_sets(example: Example) -> dict[str, ReplicaSet]:
    """Replicas on shared nodes that an example begins with, by app."""
    sizes = {
        policy["app"]: {of["metric"]: of["value"] for of in policy["unit"]} for policy in example.policies
    }
    return {app: ReplicaSet(count, example.group, sizes[app]) for app, count in example.replicas.items()}
