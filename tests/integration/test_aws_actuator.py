"""`leadtime actuator --provider aws` on a real Kafka and moto behind a front: killed, and started again."""

from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.integration.live_actuator import LiveCloud, assert_set_once_though_killed
from tests.unit.pipeline.providers.aws_server import served
from tests.unit.pipeline.providers.faults import Fault

TARGETS = """
[[target]]
ref = "shop/pod"
kind = "AutoScalingGroup"
region = "eu-west-1"
name = "web"
"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False], ids=["after the count", "between tag and count"])
def test_commands_set_the_count_once_however_often_the_actuator_dies(
    settings: Settings, tmp_path: Path, lost: bool
) -> None:
    with served() as server:
        cloud = server.cloud
        cloud.make()
        live = LiveCloud(
            "aws",
            TARGETS,
            {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            cloud.faults,
            lambda: cloud.desired["web"],
            lambda: [count for count, _, _ in cloud.written],
        )
        fault = Fault("SetDesiredCapacity", lost=lost, unheard=not lost)
        assert_set_once_though_killed(settings, live, fault, tmp_path)
