"""The interleavings of `machine` on auto scaling groups."""

import pytest

from pipeline.providers.aws.provider import AwsProvider
from pipeline.providers.aws.resources import Account, Group, Place
from tests.unit.pipeline.providers.aws_server import REGION, Refused, boto_client, served
from tests.unit.pipeline.providers.machine import REF, TwoWrites, case

GROUP = Group(REF, Place(Account("", REGION), "web"))


class OfGroups(TwoWrites):
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

    def stop(self) -> None:
        self.context.__exit__(None, None, None)

    def made(self) -> AwsProvider:
        return AwsProvider([GROUP], lambda _: self.api(read_s=0.4, call_s=4.0))

    def edit(self, text: str | None) -> None:
        client, tag = boto_client("autoscaling"), {"ResourceId": "web", "ResourceType": "auto-scaling-group"}
        if text is None:
            client.delete_tags(Tags=[{**tag, "Key": "note"}])
        else:
            tags = [{**tag, "Key": "note", "Value": text, "PropagateAtLaunch": True}]
            client.create_or_update_tags(Tags=tags)


class Quickly(OfGroups):
    """Some of them, in the fast tier."""


TestQuickly = case(Quickly, 3)
TestGroups = pytest.mark.slow(case(OfGroups, 40))
