"""`leadtime replay`: a trace, or a window of topics, into the raw topics."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.errors import UsageError
from pipeline.kafka import topics
from pipeline.kafka.connection import reachable
from pipeline.options import AsJson, Bootstrap, Prefix, Speed, span_of
from pipeline.settings import load
from pipeline.sources.replay import Replayer, records, window_of_topics
from pipeline.traces import trace_file as traces
from pipeline.traces.window import TickWindow


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
    settings = load(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    since, until = (None if at is None else at.replace(tzinfo=UTC) for at in (since, until))
    begun = time.monotonic()
    if trace is not None:
        read = traces.read(trace)
        window = TickWindow.of(read, settings.tick_s, ticks, since)
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
