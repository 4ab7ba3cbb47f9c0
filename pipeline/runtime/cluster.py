"""Gives a command its Kafka cluster: the configured one, or an embedded broker that is restarted if it dies."""

import contextlib
import sys
import threading
import time
from collections.abc import Generator

from pipeline.background import watching
from pipeline.errors import Unreachable, UsageError
from pipeline.kafka.connection import reachable
from pipeline.kafka.embedded import EmbeddedKafka
from pipeline.runtime.backoff import Backoff
from pipeline.settings import Settings


@contextlib.contextmanager
def cluster(settings: Settings) -> Generator[Settings]:
    """Settings whose Kafka answers: the address given by the user, else that of an embedded broker.

    Raises:
        UsageError, Unreachable: as `reachable` and `EmbeddedKafka.start`.
    """
    if settings.bootstrap is not None:
        reachable(settings)
        yield settings
        return
    with EmbeddedKafka(settings.data_dir / "kafka") as kafka, kept(kafka):
        yield settings.model_copy(update={"bootstrap": kafka.bootstrap, "kafka": kafka.options})


@contextlib.contextmanager
def kept(kafka: EmbeddedKafka) -> Generator[None]:
    """Within the context, restart a broker that ended by itself, with back-off, and print a line about it."""

    def watch(ended: threading.Event) -> None:
        backoff, started_s = Backoff(), time.monotonic()
        while not ended.wait(0.5):
            if kafka.running:
                continue
            wait_s = backoff.after(time.monotonic() - started_s)
            print(f"kafka ended; again in {wait_s:g} s; its log is {kafka.log}", file=sys.stderr)
            if ended.wait(wait_s):
                return
            try:
                kafka.start()
            except (Unreachable, UsageError) as error:
                print(f"kafka: {error}", file=sys.stderr)
            started_s = time.monotonic()

    with watching(watch, "kafka"):
        yield
