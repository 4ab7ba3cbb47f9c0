"""The `leadtime` command. Every command has --json: one object on stdout; progress and complaints go to stderr."""

import json
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline import admin, stages, topics
from pipeline import trace as traces
from pipeline.backtest import backtest, span_of
from pipeline.bench import bench_app
from pipeline.broker import broker
from pipeline.client import reachable
from pipeline.cluster import cluster
from pipeline.demo import demo
from pipeline.errors import UsageError
from pipeline.evaluate import evaluate
from pipeline.explain import explain
from pipeline.keys import signing_key
from pipeline.observe import observe
from pipeline.options import AsJson, Bootstrap, Prefix, Speed
from pipeline.settings import load
from pipeline.stages import run
from pipeline.supervise import STAGES, Supervisor
from pipeline.train import train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
for command in (
    demo,
    broker,
    observe,
    explain,
    train,
    evaluate,
    backtest,
    stages.ingest,
    stages.worker,
    stages.actuator,
):
    app.command()(command)
app.add_typer(admin.topics_app, name="topics")
app.add_typer(admin.policies_app, name="policies")
app.add_typer(admin.prices_app, name="prices")
app.add_typer(admin.calendar_app, name="calendar")
app.add_typer(admin.models_app, name="models")
app.add_typer(bench_app, name="bench")


@app.command()
def up(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    tick: Annotated[int | None, typer.Option(min=1, help="Length of a tick in seconds.")] = None,
    only: Annotated[str, typer.Option(help="Which stages, by comma.")] = ",".join(STAGES),
    as_json: AsJson = False,
) -> None:
    """Run all stages against a cluster, or an embedded one where none is set, and start again what dies."""
    names = [name.strip() for name in only.split(",")]
    if unknown := set(names) - set(STAGES):
        raise UsageError(f"no stage {', '.join(sorted(unknown))}: there are {', '.join(STAGES)}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with cluster(load(bootstrap=bootstrap, prefix=prefix, tick_s=tick)) as settings:
        topics.create(settings)
        signing_key(settings)  # made before the first actuator asks whom to trust
        supervisor = Supervisor(settings.environment(), settings.data_dir / "stages")
        supervisor.start(names)
        pids = {name: stage.process.pid for name, stage in supervisor.stages.items() if stage.process}
        facts = {"bootstrap": settings.bootstrap, "logs": str(supervisor.folder), "stages": pids}
        print(
            json.dumps(facts) if as_json else f"Kafka at {settings.bootstrap}; logs in {supervisor.folder}",
            flush=True,
        )
        try:
            while not stop.wait(0.5):
                supervisor.poll()
        finally:
            supervisor.stop()


@app.command()
def replay(
    trace: Annotated[Path | None, typer.Argument(help="Trace file; none: a window of topics.")] = None,
    source_prefix: Annotated[
        str | None, typer.Option(help="Without a trace: prefix of the topics to read.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="From this time on (UTC): of the trace, or of producing.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Topics: up to this produce time (UTC).")] = None,
    offsets: Annotated[str | None, typer.Option(help="Topics: FROM:TO, of every partition.")] = None,
    ticks: Annotated[int | None, typer.Option(min=1, help="Trace: at most so many ticks.")] = None,
    speed: Speed = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Publish a trace, or a window of topics, into the raw topics."""
    from pipeline.replay import Replayer, Window, records, window_of_topics

    settings = load(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    since, until = (None if at is None else at.replace(tzinfo=UTC) for at in (since, until))
    begun = time.monotonic()
    if trace is not None:
        read = traces.read(trace)
        window = Window.of(read, settings.tick_s, ticks, since)
        rows = window.select(read)
        total, items, last = rows.height, records(rows, read.tick_s), window.last
    else:
        if source_prefix is None or source_prefix == settings.prefix:
            raise UsageError("topics replay into others: give --source-prefix, and another --prefix")
        source = settings.model_copy(update={"prefix": source_prefix})
        total, items, last = None, window_of_topics(source, since, until, span_of(offsets)), None
    topics.create(settings)
    columns = (TextColumn("replayed {task.completed:,.0f} records"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        sent = Replayer(settings).run(
            items, speed, lambda count: progress.update(task, completed=count), last
        )
    facts = {"records": sent, "wall_s": round(time.monotonic() - begun, 3)}
    print(json.dumps(facts) if as_json else f"{sent:,} records in {facts['wall_s']} s")


def main() -> None:
    """Run a command."""
    run(app)
