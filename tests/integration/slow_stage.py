"""An agent that takes its time, in a process of its own: `python -m tests.integration.slow_stage MESSAGES`.

One JSON object on stdout: places folded, in order, and by how much memory grew in MB; the lag is its metric's.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import faust
import psutil

from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.runtime import metrics
from pipeline.runtime.fenced_state import Agent
from pipeline.settings import Settings, load_settings
from pipeline.stages.worker import streams

FOLD_S = 0.05
"""A twentieth of a second a message: ten times what the consumer takes to fetch one."""


class Slow:
    """A stage that only counts."""

    def __init__(self, messages: int) -> None:
        self.messages, self.places = messages, list[int]()
        self.process = psutil.Process()
        self.before = self.most = 0
        self.lag = 0.0

    def restore(self, blocks: Mapping[bytes, bytes]) -> None:
        """Nothing is kept: one process sees all."""
        self.before = self.process.memory_info().rss

    def fold(self, value: bytes) -> int | None:
        """The message's place is its first eight bytes."""
        time.sleep(FOLD_S)
        self.places.append(int.from_bytes(value[:8], "big"))
        self.most = max(self.most, self.process.memory_info().rss)
        for metric in metrics.LAG.collect():
            self.lag = max([self.lag, *(sample.value for sample in metric.samples)])
        if len(self.places) == self.messages:
            grown = (self.most - self.before) / 2**20
            print(json.dumps({"places": self.places, "grown_mb": grown, "lag": self.lag}), flush=True)
            os._exit(0)
        return self.places[-1]

    @property
    def done(self) -> int:
        """All that were folded."""
        return self.places[-1] if self.places else -1

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """A position."""
        yield b"position", str(self.done).encode()


def main(settings: Settings, messages: int) -> None:
    """Until all messages of the first partition of the frames' topic are folded."""
    app, slow = streams(settings), Slow(messages)
    source = topics.name("behaviour.frames", settings)
    agent = Agent("profiler", source, settings, Outputs(settings), lambda _: slow)
    channel: Any = app.topic(source, value_type=bytes, partitions=settings.partitions)
    app.agent(channel, name="profiler")(agent.serve)
    metrics.LAG_S = 0.2
    metrics.watch_lag("slow", lambda: agent.positions, settings)
    worker = faust.Worker(app, loglevel=logging.ERROR, quiet=True, redirect_stdouts=False)
    worker.spinner = None
    worker.execute_from_commandline()


if __name__ == "__main__":
    main(load_settings(), int(sys.argv[1]))
