"""Commands that each run a stage as a process: `leadtime up` starts `python -m pipeline.stages worker` and the others.

Nothing heavy is imported before a command runs, so that a stage loads only what it needs and `--help` is quick.
"""

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# Small products gain nothing from threads, and lose a lot to them on a loaded machine (models/demand/scenarios).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A batch makes some seventy small polars queries: handing each to a pool of threads costs more than it takes.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import typer

from pipeline.command_line import run
from pipeline.errors import AGAIN_EXIT, UsageError
from pipeline.options import Bootstrap, Prefix, refuse_unused

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pipeline.providers.base import Provider
    from pipeline.settings import Settings

Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def _stage(supervised: bool, **options: Any) -> "tuple[Settings, threading.Event]":
    """Settings of a stage whose Kafka answers, and an event that SIGTERM and SIGINT set.

    Raises:
        UsageError: a setting is not allowed, or the tick is not the installation's.
        Unreachable: Kafka does not answer.
    """
    from pipeline.kafka.connection import reachable
    from pipeline.kafka.installation import settled
    from pipeline.runtime.supervisor import die_with_parent
    from pipeline.settings import load_settings

    if supervised:
        die_with_parent()
    settings, stop = load_settings(**options), threading.Event()
    reachable(settings)
    settings = settled(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return settings, stop


def ingest(bootstrap: Bootstrap = None, prefix: Prefix = None, supervised: Supervised = False) -> None:
    """Run ingest: group raw telemetry records into one frame per tick and partition."""
    from pipeline.kafka.installation import declare
    from pipeline.runtime.session_guard import Pulse
    from pipeline.stages.ingest.service import Ingest

    settings, stop = _stage(supervised, bootstrap=bootstrap, prefix=prefix)
    settings = declare(settings)
    Ingest(settings, Pulse(settings.session_timeout_s).start().check).run(stop)


def worker(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    only: Annotated[
        str, typer.Option(help="Agents to run, separated by commas; each is to run in one group of workers.")
    ] = "profiler,simulator,allocator,learner",
    supervised: Supervised = False,
) -> None:
    """Run a worker: profiler (forecasts per user), simulator (joint scenarios), allocator (plans, commands) and
    learner (adjustments of plans).
    """
    from pipeline.stages import worker as agents

    settings, _ = _stage(supervised, bootstrap=bootstrap, prefix=prefix)
    agents.run(settings, [name.strip() for name in only.split(",")])


def actuator(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    provider: Annotated[
        str, typer.Option(help="Whose commands it applies: local, kubernetes, aws, azure or gcp.")
    ] = "local",
    targets: Annotated[
        Path | None, typer.Option(help="TOML file of [[target]] tables: which object each target is.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Have each change checked, and change nothing.",
        ),
    ] = False,
    replayed: Annotated[
        bool, typer.Option("--replayed", help="Follow a replay, which goes at the speed of a test cluster.")
    ] = False,
    supervised: Supervised = False,
) -> None:
    """Run the actuator of a provider: apply signed commands, publish results and observed capacity."""
    integration = _integration(provider, targets, dry_run=dry_run)
    settings, stop = _stage(supervised, bootstrap=bootstrap, prefix=prefix)
    from pipeline.stages.actuator import service as actuators

    if integration is None:
        actuators.run(settings, stop=stop)
        return
    if settings.event_time and not replayed:
        raise UsageError(
            "a cluster or cloud has no event time: replays need the local provider, or its own speed and --replayed"
        )
    with integration as made:
        actuators.run(settings, {provider: made}, stop=stop)


def prices(bootstrap: Bootstrap = None, prefix: Prefix = None, supervised: Supervised = False) -> None:
    """Pull prices by the feeds file that is set, every so often."""
    from pipeline.inputs.feeds import service

    settings, stop = _stage(supervised, bootstrap=bootstrap, prefix=prefix)
    if settings.feeds_file is None:
        raise UsageError("no feeds file is set: LEADTIME_FEEDS_FILE")
    service.run(
        settings, settings.feeds_file, settings.feeds_every_s, stop, lambda pulled: print(pulled, flush=True)
    )


def _integration(
    provider: str, targets: Path | None, *, dry_run: bool
) -> "AbstractContextManager[Provider] | None":
    """A provider with the targets of a file, not connected yet; None: the local one, which has what it is commanded.

    Raises:
        UsageError: there is no such provider, the file has faults or no target of it, or an option has no effect.
    """
    from pipeline.providers.integrations import INTEGRATIONS
    from pipeline.providers.targets import read_targets

    if provider == "local":
        refuse_unused({"--targets": targets, "--dry-run": dry_run}, "with the local provider")
        return None
    if provider not in INTEGRATIONS:
        raise UsageError(f"no provider {provider}: there are {', '.join(['local', *INTEGRATIONS])}")
    if targets is None:
        raise UsageError(f"--provider {provider} needs --targets FILE")
    resources = read_targets(targets, INTEGRATIONS).by_provider().get(provider)
    if not resources:
        raise UsageError(f"{targets}: no target of {provider}")
    return INTEGRATIONS[provider].provider(resources, dry_run=dry_run)


if __name__ == "__main__":
    stage_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    for stage in (ingest, worker, actuator, prices):
        stage_app.command()(stage)
    run(stage_app, AGAIN_EXIT)
