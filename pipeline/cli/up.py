"""`leadtime up`: all stages on this machine, supervised."""

import json
import signal
import threading
from typing import Annotated

import typer

from pipeline.errors import UsageError
from pipeline.options import AsJson, Bootstrap, Prefix


def up(
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    tick: Annotated[
        int | None, typer.Option(min=1, help="Length of a tick in seconds.", show_default="LEADTIME_TICK_S")
    ] = None,
    only: Annotated[str, typer.Option(help="Stages to run, separated by commas.")] = "ingest,worker,actuator",
    as_json: AsJson = False,
) -> None:
    """Run all stages on this machine; a stage that dies is started again.

    They run against the Kafka that is set, or against an embedded one where none is set. The length of a tick is set
    once: another one than the installation has is refused. Where LEADTIME_FEEDS_FILE is set, prices are pulled as well.
    """
    from pipeline.inputs.feeds.files import read_feeds
    from pipeline.kafka import topics
    from pipeline.kafka.installation import declare, settled
    from pipeline.runtime.cluster import cluster
    from pipeline.runtime.supervisor import PRICES, STAGES, Supervisor
    from pipeline.security.signing_keys import signing_key
    from pipeline.settings import load_settings

    names = [name.strip() for name in only.split(",")]
    if unknown := set(names) - set(STAGES):
        raise UsageError(f"no stage {', '.join(sorted(unknown))}: there are {', '.join(STAGES)}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with cluster(load_settings(bootstrap=bootstrap, prefix=prefix, tick_s=tick)) as settings:
        topics.create(settings)
        settings = (declare if "ingest" in names else settled)(settings)
        if settings.feeds_file is not None:
            read_feeds(
                settings.feeds_file, settings.gcp_api_key
            )  # refused here, or never: its service goes on
            names.append(PRICES)
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
