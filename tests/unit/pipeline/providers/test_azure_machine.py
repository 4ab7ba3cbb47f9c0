"""The interleavings of `machine` on scale sets, whose capacity and tag are written in one request on condition."""

import pytest

from pipeline.providers.azure.provider import AzureProvider
from pipeline.providers.azure.resources import Account, Place, ScaleSet
from tests.unit.pipeline.providers.azure_server import GROUP, SUBSCRIPTION, Refused, served
from tests.unit.pipeline.providers.faults import Fault
from tests.unit.pipeline.providers.machine import REF, Interleavings, case

TARGET = ScaleSet(REF, Place(Account(SUBSCRIPTION), GROUP, "web"))


class OfScaleSets(Interleavings):
    name = "azure"
    writes = ("PATCH",)
    refusals = (
        Refused("AnotherOperationInProgress", 409),
        Refused("TooManyRequests", 429),
        Refused("AllocationFailed", 409),
        Refused("OperationNotAllowed", 409),
        Refused("AuthorizationFailed", 403),
        Refused("InternalServerError", 500),
        Refused("PreconditionFailed", 412),
    )

    def start(self) -> None:
        self.context = served()
        self.cloud = (server := self.context.__enter__()).cloud
        self.api = server.api
        self.cloud.make("web", 2)

    def stop(self) -> None:
        self.context.__exit__(None, None, None)

    def made(self) -> AzureProvider:
        return AzureProvider([TARGET], lambda _: self.api(read_s=0.4, call_s=4.0))

    @property
    def faults(self) -> list[Fault]:
        return self.cloud.faults

    def set_count(self, count: int) -> None:
        self.cloud.scale(count)

    def edit(self, text: str | None) -> None:
        self.cloud.tag("note", text)

    def judge(self) -> None:
        """Also what lands late is written only where nothing was changed since, and then first of all."""
        desired = {order["id"]: order["desired"] for order in self.commands}
        marks = [mark for _, mark, _ in self.cloud.written if mark is not None]
        assert len(marks) == len(self.cloud.written)
        assert [count for count, _, _ in self.cloud.written] == [desired[mark.command] for mark in marks]
        epochs = [mark.epoch for mark in marks]
        assert epochs == sorted(set(epochs))


class Quickly(OfScaleSets):
    """Some of them, in the fast tier."""


TestQuickly = case(Quickly, 3)
TestScaleSets = pytest.mark.slow(case(OfScaleSets, 60))
