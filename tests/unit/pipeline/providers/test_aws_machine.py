"""The interleavings of `machine` on groups, where nothing makes a write depend on what was read.

A request that was given up can land after a newer command's. So it is told apart from somebody else's edit, and the
next command mends it; no other write moves a group to an older epoch, and none is made twice.
"""

import pytest

from pipeline.providers.aws.provider import AwsProvider
from pipeline.providers.aws.resources import Account, Group, Place
from tests.unit.pipeline.providers.aws_server import REGION, Refused, boto_client, served
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.machine import REF, Interleavings, case

GROUP = Group(REF, Place(Account("", REGION), "web"))


class OfGroups(Interleavings):
    name = "aws"
    writes = ("CreateOrUpdateTags", "SetDesiredCapacity")
    refusals = (
        Refused("ScalingActivityInProgress"),
        Refused("ResourceContention", 500),
        Refused("Throttling"),
        Refused("ValidationError"),
        Refused("AccessDenied", 403),
        Refused("InternalFailure", 500),
    )

    def start(self) -> None:
        self.context = served()
        self.cloud = (server := self.context.__enter__()).cloud
        self.api = server.api
        self.cloud.make("web", 2)
        self.restored: set[str] = set()

    def stop(self) -> None:
        self.context.__exit__(None, None, None)

    def made(self) -> AwsProvider:
        return AwsProvider([GROUP], lambda _: self.api(read_s=0.4, call_s=4.0))

    @property
    def faults(self) -> list[Fault]:
        return self.cloud.faults

    def set_count(self, count: int) -> None:
        mark = self.cloud.mark()
        if mark is not None and count == mark.before:  # nothing tells it from a count that was never written
            self.restored.add(mark.command)
        self.cloud.scale(count)

    def edit(self, text: str | None) -> None:
        client, tag = boto_client("autoscaling"), {"ResourceId": "web", "ResourceType": "auto-scaling-group"}
        if text is None:
            client.delete_tags(Tags=[{**tag, "Key": "note"}])
        else:
            tags = [{**tag, "Key": "note", "Value": text, "PropagateAtLaunch": True}]
            client.create_or_update_tags(Tags=tags)

    def judge(self) -> None:
        desired = {order["id"]: order["desired"] for order in self.commands}
        ours = [(count, mark) for count, mark, late in list(self.cloud.written) if not late]
        marks = [mark for _, mark in ours if mark is not None]
        assert len(marks) == len(ours)
        assert [count for count, _ in ours] == [desired[mark.command] for mark in marks]
        epochs = [mark.epoch for mark in marks if mark.command not in self.restored]
        assert epochs == sorted(set(epochs))


class Quickly(OfGroups):
    """Some of them, in the fast tier."""


TestQuickly = case(Quickly, 3)
TestGroups = pytest.mark.slow(case(OfGroups, 40))
