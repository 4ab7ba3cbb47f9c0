"""`leadtime actuator --provider azure` on a real Kafka and the contract server of Azure: killed, and started again."""

from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.integration.live_actuator import LiveCloud, assert_set_once_though_killed
from tests.unit.pipeline.providers.azure_server import GROUP, SUBSCRIPTION, served
from tests.unit.pipeline.providers.faults import Fault

TARGETS = f"""
[[target]]
ref = "shop/pod"
kind = "VirtualMachineScaleSet"
subscription = "{SUBSCRIPTION}"
resource_group = "{GROUP}"
name = "web"
"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False], ids=["after the capacity", "before it"])
def test_commands_set_the_capacity_once_however_often_the_actuator_dies(
    settings: Settings, tmp_path: Path, lost: bool
) -> None:
    with served() as server:
        cloud = server.cloud
        cloud.make()
        live = LiveCloud(
            "azure",
            f'{TARGETS}endpoint = "{server.url}"\n',
            server.environment(),
            cloud.faults,
            lambda: cloud.sets["web"].capacity,
            lambda: [count for count, _, _ in cloud.written],
        )
        fault = Fault("PATCH", lost=lost, unheard=not lost)
        assert_set_once_though_killed(settings, live, fault, tmp_path)
