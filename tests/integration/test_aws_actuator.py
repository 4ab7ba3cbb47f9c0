"""`leadtime actuator --provider aws` on a real Kafka and moto behind a front: killed, and started again."""

import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pipeline.settings import Settings
from pipeline.wire.codec import Record
from pipeline.wire.commands import Target
from tests.integration.actuating import command, plan, publish
from tests.integration.live_actuator import actuator, assert_settled_once, installed, newest, until
from tests.unit.pipeline.providers.aws_server import Served, served
from tests.unit.pipeline.providers.faults import Fault

TARGETS = """
[[target]]
ref = "shop/pod"
kind = "AutoScalingGroup"
region = "eu-west-1"
name = "web"
"""


@pytest.fixture
def server() -> Generator[Served]:
    with served() as made:
        made.cloud.make()
        yield made


def order(settings: Settings, epoch: int, desired: int) -> Record:
    return command(settings, epoch, desired, offer_id="pod", target=Target("aws", "shop/pod"), bounds=(0, 99))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False], ids=["after the count", "between tag and count"])
def test_commands_set_the_count_once_however_often_the_actuator_dies(
    settings: Settings, server: Served, tmp_path: Path, lost: bool
) -> None:
    live, cloud = installed(settings, "aws"), server.cloud
    targets = tmp_path / "targets.toml"
    targets.write_text(TARGETS)
    there = {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    epoch = int(time.time() // 60) - 2
    first = order(live, epoch, 7)
    fault = Fault(
        "SetDesiredCapacity", lost=lost, unheard=not lost
    )  # the actuator dies before the answer comes
    cloud.faults.append(fault)
    with actuator(live, "aws", targets, **there):
        publish(live, plan(epoch, issued=1), first)
        until(lambda: not fault.times)
    with actuator(live, "aws", targets, **there) as process:
        assert_settled_once(live, first, older=order(live, epoch - 1, 3))
        publish(live, order(live, epoch + 1, 4))
        until(lambda: cloud.desired["web"] == 4)
        until(lambda: newest(live).get("ready") == 4)
        process.terminate()
        assert process.wait(10) == 0
    assert [count for count, _, _ in cloud.written] == [7, 4]
