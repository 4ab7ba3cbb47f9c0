"""`leadtime actuator --provider gcp` on a real Kafka and the contract server of GCP: killed, and started again."""

from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.integration.live_actuator import LiveCloud, assert_set_once_though_killed
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.gcp_server import PROJECT, ZONES, served, service_account

TARGETS = f"""
[[target]]
ref = "shop/pod"
kind = "InstanceGroupManager"
project = "{PROJECT}"
zone = "{ZONES[0]}"
name = "web"
"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False], ids=["after the size", "between mark and size"])
def test_commands_set_the_size_once_however_often_the_actuator_dies(
    settings: Settings, tmp_path: Path, lost: bool
) -> None:
    with served() as server:
        cloud = server.cloud
        cloud.make()
        live = LiveCloud(
            "gcp",
            f'{TARGETS}endpoint = "{server.url}"\n',
            {"GOOGLE_APPLICATION_CREDENTIALS": str(service_account(tmp_path))},
            cloud.faults,
            lambda: cloud.group().target,
            lambda: [size for size, _, _ in cloud.written],
        )
        fault = Fault("resize", lost=lost, unheard=not lost)
        assert_set_once_though_killed(settings, live, fault, tmp_path)
