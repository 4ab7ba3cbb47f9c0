"""A process that stood still for longer than its session publishes nothing more."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.errors import Fenced
from pipeline.runtime.session_guard import EXIT, Pulse


def test_a_pause_longer_than_the_session_is_the_end() -> None:
    now = 100.0
    pulse = Pulse(8.0, lambda: now)
    now = 108.0
    pulse.check()
    pulse.beat()
    now = 116.5
    with pytest.raises(Fenced, match=r"^stood still for 8.5 s, longer than its session of 8 s$"):
        pulse.check()
    with pytest.raises(Fenced):
        pulse.beat()
    with pytest.raises(Fenced):  # and stays it
        pulse.check()


CODE = """
import time
from pipeline.runtime.session_guard import Pulse
Pulse(2.0).start()
print("started", flush=True)
time.sleep(60)
"""


def test_a_frozen_process_ends_when_it_wakes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(30) == EXIT
