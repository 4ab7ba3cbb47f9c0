"""`leadtime actuator --provider azure` on a real Kafka and the contract server of Azure: killed, and started again."""

import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pipeline.settings import Settings
from pipeline.wire.codec import Record
from pipeline.wire.commands import Target
from tests.integration.actuating import command, plan, publish
from tests.integration.live_actuator import actuator, assert_settled_once, installed, newest, until
from tests.unit.pipeline.providers.azure_server import GROUP, SUBSCRIPTION, Served, served
from tests.unit.pipeline.providers.faults import Fault


@pytest.fixture
def server() -> Generator[Served]:
    with served() as made:
        made.cloud.make()
        yield made


def order(settings: Settings, epoch: int, desired: int) -> Record:
    return command(
        settings, epoch, desired, offer_id="pod", target=Target("azure", "shop/pod"), bounds=(0, 99)
    )


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False], ids=["after the capacity", "before it"])
def test_commands_set_the_capacity_once_however_often_the_actuator_dies(
    settings: Settings, server: Served, tmp_path: Path, lost: bool
) -> None:
    live, cloud = installed(settings, "azure"), server.cloud
    targets = tmp_path / "targets.toml"
    targets.write_text(
        f"""
[[target]]
ref = "shop/pod"
kind = "VirtualMachineScaleSet"
subscription = "{SUBSCRIPTION}"
resource_group = "{GROUP}"
name = "web"
endpoint = "{server.url}"
"""
    )
    there, epoch = server.environment(), int(time.time() // 60) - 2
    first = order(live, epoch, 7)
    fault = Fault("PATCH", lost=lost, unheard=not lost)  # the actuator dies before the answer comes
    cloud.faults.append(fault)
    with actuator(live, "azure", targets, **there):
        publish(live, plan(epoch, issued=1), first)
        until(lambda: not fault.times)
    with actuator(live, "azure", targets, **there) as process:
        assert_settled_once(live, first, older=order(live, epoch - 1, 3))
        publish(live, order(live, epoch + 1, 4))
        until(lambda: cloud.sets["web"].capacity == 4)
        until(lambda: newest(live).get("ready") == 4)
        process.terminate()
        assert process.wait(10) == 0
    assert [count for count, _, _ in cloud.written] == [7, 4]
