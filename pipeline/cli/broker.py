"""`leadtime broker`: the embedded Kafka alone, in the foreground."""

import json
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipeline.options import AsJson


def broker(
    port: Annotated[
        int | None, typer.Option(help="Loopback port.", show_default="a free one", min=1024, max=65535)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the topics.", show_default="kafka in LEADTIME_DATA_DIR"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the embedded Kafka alone, until Ctrl-C or SIGTERM; prints its address."""
    from pipeline.kafka.embedded import EmbeddedKafka
    from pipeline.settings import load_settings

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with EmbeddedKafka(data or load_settings().data_dir / "kafka", port=port) as kafka:
        address = {"bootstrap": kafka.bootstrap, "data": str(kafka.data), "log": str(kafka.log)}
        print(json.dumps(address) if as_json else kafka.bootstrap, flush=True)
        while not ended.wait(0.5):
            if not kafka.running:
                raise kafka.failure("ended by itself")
