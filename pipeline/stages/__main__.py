"""The stages as commands, one process each; apart from the others so that a stage starts with what it needs."""

import logging
import os
import signal
import sys
import threading
from typing import Annotated, Any

# Small products gain nothing from threads, and lose a lot to them on a loaded machine (models/scenarios).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A batch makes some seventy small polars queries: handing each to a pool of threads costs more than it takes.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import structlog
import typer

from pipeline.errors import LeadtimeError, Unreachable
from pipeline.kafka.connection import reachable
from pipeline.options import Bootstrap, Prefix
from pipeline.runtime.session_guard import Pulse
from pipeline.runtime.supervisor import AGAIN_EXIT, USAGE_EXIT, die_with_parent
from pipeline.settings import Settings, load

Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def _stage(supervised: bool, **given: Any) -> tuple[Settings, threading.Event]:
    """Settings of a stage whose Kafka answers, and the event that SIGTERM and SIGINT set."""
    if supervised:
        die_with_parent()
    settings, stop = load(**given), threading.Event()
    reachable(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return settings, stop


def ingest(bootstrap: Bootstrap = None, prefix: Prefix = None, supervised: Supervised = False) -> None:
    """Run ingest: raw records to tick frames."""
    from pipeline.stages.ingest.service import Ingest

    settings, stop = _stage(supervised, bootstrap=bootstrap, prefix=prefix)
    Ingest(settings, Pulse(settings.session_timeout_s).start().check).run(stop)


def worker(bootstrap: Bootstrap = None, prefix: Prefix = None, supervised: Supervised = False) -> None:
    """Run a worker: profiler, simulator and allocator."""
    from pipeline.stages import worker as agents

    settings, _ = _stage(supervised, bootstrap=bootstrap, prefix=prefix)
    agents.run(settings)


def actuator(bootstrap: Bootstrap = None, prefix: Prefix = None, supervised: Supervised = False) -> None:
    """Run the actuator of the local provider."""
    from pipeline.stages.actuator import service as actuators

    settings, stop = _stage(supervised, bootstrap=bootstrap, prefix=prefix)
    actuators.run(settings, stop=stop)


def run(app: typer.Typer, unreachable: int = USAGE_EXIT) -> None:
    """Run a command line; what we raise on purpose is one line and exit code 2, or `unreachable` for that error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        app()
    except LeadtimeError as error:
        print(f"leadtime: {error}", file=sys.stderr)
        sys.exit(unreachable if isinstance(error, Unreachable) else USAGE_EXIT)
    except BrokenPipeError:  # `leadtime ... | head`
        sys.exit(0)


if __name__ == "__main__":
    stage_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    for stage in (ingest, worker, actuator):
        stage_app.command()(stage)
    run(stage_app, AGAIN_EXIT)
