"""`leadtime observe`: publish this machine's own telemetry, a user for each command that runs on it."""

import json
import platform
import signal
import sys
import threading
import time
from typing import Annotated

import typer

from pipeline.options import AsJson, Bootstrap, Prefix

SHORTEST_S = 0.2
"""Processor time is counted in hundredths of a second: a shorter sample would be mostly rounding."""


def observe(
    app: Annotated[str, typer.Option(help="Name of the app.", show_default="this host's name")] = "",
    interval: Annotated[
        float, typer.Option(help="Seconds between samples.", min=SHORTEST_S, max=3600.0)
    ] = 5.0,
    top: Annotated[
        int, typer.Option(help="Most commands that become users of their own.", min=1, max=10_000)
    ] = 30,
    duration: Annotated[
        float | None, typer.Option(help="Seconds until it ends.", show_default="until Ctrl-C")
    ] = None,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
) -> None:
    """Publish this machine's own telemetry, one user per command that runs on it.

    Of each command: CPU, memory and disk; the network of the whole machine.
    """
    from pipeline.kafka import topics
    from pipeline.kafka.connection import reachable
    from pipeline.settings import load_settings
    from pipeline.sources.host import publish

    settings = load_settings(bootstrap=bootstrap, prefix=prefix)
    reachable(settings)
    topics.create(settings)
    app = app or platform.node() or "machine"
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    until = None if duration is None else time.monotonic() + duration

    def wait(seconds: float) -> bool:
        left = seconds if until is None else until - time.monotonic()
        return (until is not None and left < SHORTEST_S) or ended.wait(min(seconds, left))

    print(f"observing this machine as app {app}, a sample every {interval:g} s", file=sys.stderr, flush=True)
    done = publish(settings, app, interval, top, wait)
    numbers = {"records": done.records, "users": len(done.users), "seconds": round(done.seconds, 3)}
    if as_json:
        print(json.dumps({"app": app, **numbers}))
    else:
        print(f"{app}: {done.records} records of {len(done.users)} users in {done.seconds:.0f} s")
