"""A slow stage makes lag: its memory stays, and nothing is lost."""

import json
import os
import subprocess
import sys

import pytest

from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.runtime.fenced_state import QUEUED
from pipeline.settings import Settings
from pipeline.stages.worker import BUFFERED, FETCH_BYTES
from pipeline.wire.messages import MESSAGE_BYTES

MESSAGES = 200
"""Of half a megabyte each: 100 MB, three times what may wait in the process."""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_slow_stage_makes_lag_and_not_memory(settings: Settings) -> None:
    topics.create(settings)
    outputs = Outputs(settings, {"compression.type": "none"})
    for place in range(MESSAGES):
        value = place.to_bytes(8, "big") + os.urandom(MESSAGE_BYTES - 8)
        outputs.send("behaviour.frames", value, key="0", partition=0)
    outputs.flush()
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.slow_stage", str(MESSAGES)],
        env={**os.environ, **settings.environment(), "LEADTIME_METRICS_PORT": "1"},
        capture_output=True,
        timeout=150,
        check=True,
    )
    facts = json.loads(done.stdout)
    assert facts["places"] == list(range(MESSAGES))
    # what the client fetched, what waits in the stream and in the partition's queue, and as much again that the
    # allocator keeps
    waiting_mb = 2 * (FETCH_BYTES + (BUFFERED + QUEUED) * MESSAGE_BYTES) / 2**20
    assert facts["grown_mb"] < waiting_mb < MESSAGES * MESSAGE_BYTES / 2**20 / 2
    # the rest of them waits in the topic
    assert facts["lag"] > MESSAGES / 2
