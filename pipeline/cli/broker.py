"""`leadtime broker`: the embedded Kafka alone, in the foreground."""

import json
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipeline.kafka.embedded import EmbeddedKafka
from pipeline.options import AsJson
from pipeline.settings import load


def broker(
    port: Annotated[
        int | None, typer.Option(help="Loopback port; default: a free one.", min=1024, max=65535)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that keeps the topics; default: in the data folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the embedded Kafka alone in the foreground, until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with EmbeddedKafka(data or load().data_dir / "kafka", port=port) as kafka:
        address = {"bootstrap": kafka.bootstrap, "data": str(kafka.data), "log": str(kafka.log)}
        print(json.dumps(address) if as_json else kafka.bootstrap, flush=True)
        while not ended.wait(0.5):
            if not kafka.running:
                raise kafka.failure("ended by itself")
