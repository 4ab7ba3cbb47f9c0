"""`leadtime replay`: publish a trace, or a window of topics, into the raw topics."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.display import tell
from pipeline.errors import UsageError
from pipeline.format import parse_time
from pipeline.options import AsJson, Bootstrap, Prefix, Speed, refuse_unused, span_of


def replay(
    trace: Annotated[
        Path | None, typer.Argument(help="Trace file, Parquet or CSV.", show_default="a window of topics")
    ] = None,
    source_prefix: Annotated[
        str | None, typer.Option(help="Without a trace: prefix of the topics to read.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Start: event time of a trace, produce time of topics; ISO 8601 or Unix seconds."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Topics: end, by produce time.")] = None,
    offsets: Annotated[str | None, typer.Option(help="Topics: FROM:TO, in every partition.")] = None,
    ticks: Annotated[int | None, typer.Option(min=1, help="Trace: most ticks to replay.")] = None,
    speed: Speed = None,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Publish a trace, or a window of topics, into the raw topics.

    After each tick a watermark goes into every partition, so that ingest closes the tick at once.
    """
    if trace is None:
        refuse_unused({"--ticks": ticks}, "without a trace: give --until or --offsets")
    else:
        of_topics = {"--source-prefix": source_prefix, "--until": until, "--offsets": offsets}
        refuse_unused(of_topics, "with a trace: give --since and --ticks")
    since_s, until_s = (None if text is None else parse_time(text) for text in (since, until))

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.kafka import topics
    from pipeline.kafka.connection import reachable
    from pipeline.kafka.installation import settled
    from pipeline.settings import load_settings
    from pipeline.sources.replay import Replayer, at_speed, records, window_of_topics
    from pipeline.traces import trace_file
    from pipeline.traces.window import TickWindow

    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    settings = settled(settings)
    begun = time.monotonic()
    facts: dict[str, Any] = {}
    if trace is not None:
        read = trace_file.read(trace)
        window = TickWindow.of(read, settings.tick_s, ticks, since_s)
        rows = window.replayed(read)
        pauses = window.pauses(read)
        notes = [*read.notes, *([pauses] if pauses else trace_file.slower_apps(read, window.tick_s))]
        facts |= {"skipped": window.skipped(read), "notes": notes}
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        total, items, last = rows.height, records(rows, read.tick_s), window.last
    else:
        if source_prefix is None or source_prefix == settings.prefix:
            raise UsageError("topics are replayed into others: give --source-prefix, and another --prefix")
        source = settings.model_copy(update={"prefix": source_prefix})
        total, items, last = None, window_of_topics(source, since_s, until_s, span_of(offsets)), None
    topics.create(settings)
    columns = (TextColumn("replayed {task.completed:,.0f} records"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        sent = Replayer(settings).run(
            items, at_speed(speed), lambda count: progress.update(task, completed=count), last
        )
    facts = {"records": sent, "wall_s": round(time.monotonic() - begun, 3), **facts}
    if not as_json:
        print(f"{sent:,} records in {facts['wall_s']} s")
        facts = {"skipped": facts.get("skipped", {})}
    tell(facts, as_json)
