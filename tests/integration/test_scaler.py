"""`leadtime scaler` as a process: plans of a real Kafka, pushed within a second, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import grpc
import pytest

from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from tests.unit.pipeline.reports.test_decision_text import plan
from tests.unit.pipeline.scaler.serving import Client, refused

POD = {"app": "shop", "offer": "pod"}
CODE = grpc.StatusCode


class Plans:
    """Publishes plans of apps, a tick of a second each, the first one just over."""

    def __init__(self, settings: Settings) -> None:
        topics.create(settings)
        self.outputs, self.tick = Outputs(settings), int(time.time()) - 2

    def publish(self, replicas: int, app: str = "shop", age_s: int = 0, partition: int = 0) -> None:
        self.tick += 1
        record = plan(
            app=app,
            plan_id=f"{app}@{self.tick}",
            tick=self.tick - age_s,
            tick_s=1,
            counts=[{"offer_id": "pod", "desired": [replicas]}],
        )
        self.outputs.publish("plans", "plan", record, key=app, partition=partition)
        self.outputs.flush()


@contextmanager
def scaler(settings: Settings, listen: str = "127.0.0.1:0") -> Generator[tuple[subprocess.Popen[str], str]]:
    """A process that listens, and its address."""
    command = [sys.executable, "-m", "pipeline", "scaler", "--listen", listen, "--json"]
    environment = os.environ | settings.environment()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["address"]
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_plans_are_answered_pushed_and_known_again_after_a_kill(settings: Settings) -> None:
    plans = Plans(settings)
    plans.publish(0)
    plans.publish(7, "bank", partition=1)
    plans.publish(5, "old", age_s=3600)
    with scaler(settings) as (process, address), grpc.insecure_channel(address) as channel:
        keda = Client(channel)
        pushes = keda.stream(**POD)
        assert next(pushes).result is False
        assert keda.replicas(app="bank", offer="pod") == 7
        code, why = refused(keda.replicas, app="old", offer="pod")
        assert (code, "s old, 600 s at most" in why) == (CODE.UNAVAILABLE, True)
        assert keda.replicas(app="old", offer="pod", maxAgeSeconds="7200") == 5
        assert refused(keda.replicas, app="none", offer="pod")[0] is CODE.NOT_FOUND
        waits: list[float] = []
        for count in (3, 0) * 5:
            began_s = time.monotonic()
            plans.publish(count)
            assert next(pushes).result is (count > 0)
            waits.append(time.monotonic() - began_s)
        print("from plan to push, s:", [round(wait, 3) for wait in sorted(waits)])
        assert sorted(waits)[5] < 1.0  # the median: others share the machine
        plans.publish(4)
        assert next(pushes).result is True
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert refused(keda.active, **POD)[0] is CODE.UNAVAILABLE
        assert refused(lambda: next(pushes))[0] is CODE.UNAVAILABLE
        plans.publish(6)  # while nobody follows
        with scaler(settings, address) as (again, _):
            deadline = time.monotonic() + 30
            while refuses(keda) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert keda.replicas(**POD) == 6
            assert next(keda.stream(**POD)).result is True
            again.send_signal(signal.SIGTERM)
            assert again.wait(20) == 0


def refuses(keda: Client) -> bool:
    try:
        keda.active(**POD)
    except grpc.RpcError:
        return True
    return False
