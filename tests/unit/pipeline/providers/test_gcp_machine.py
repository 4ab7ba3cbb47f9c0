"""The interleavings of `machine` on managed instance groups."""

import pytest
from hypothesis.stateful import rule

from pipeline.providers.gcp.marks import COMMAND
from pipeline.providers.gcp.provider import GcpProvider
from pipeline.providers.gcp.resources import Group
from tests.unit.pipeline.providers.gcp_server import Refused, served
from tests.unit.pipeline.providers.machine import REF, TwoWrites, case


class OfGroups(TwoWrites):
    name = "gcp"
    writes = ("patch", "resize")
    refusals = (
        Refused("conditionNotMet", 412),
        Refused("rateLimitExceeded", 403),
        Refused("resourceNotReady"),
        Refused("quotaExceeded", 403),
        Refused("forbidden", 403),
        Refused("backendError", 503),
    )

    def start(self) -> None:
        self.context = served()
        self.server = self.context.__enter__()
        self.cloud = self.server.cloud
        self.cloud.make("web", 2)

    def stop(self) -> None:
        self.context.__exit__(None, None, None)

    def made(self) -> GcpProvider:
        group = Group(REF, self.server.place())
        return GcpProvider([group], lambda _: self.server.api(read_s=0.4, call_s=4.0))

    def edit(self, text: str | None) -> None:
        """Somebody else edits the description, beside our mark in it."""
        with self.cloud.lock:
            group = self.cloud.group()
            ours = COMMAND.search(group.description)
            group.description = f"{text or ''}{ours[0] if ours else ''}"
            group.version += 1


class WhereOperationsTakeTime(OfGroups):
    """Sizes that are asked for are set in their order, some time later."""

    def start(self) -> None:
        super().start()
        self.cloud.deferred, self.cloud.deferred_of = True, "resize"

    @rule()
    def operations_end(self) -> None:
        self.cloud.finish()
        self.judge()

    def teardown(self) -> None:
        for fault in self.held:
            self._release(fault)
        self.held.clear()
        self.operations_end()
        super().teardown()


class Quickly(OfGroups):
    """Some of them, in the fast tier."""


TestQuickly = case(Quickly, 5)
TestGroups = pytest.mark.slow(case(OfGroups, 60))
TestOperations = pytest.mark.slow(case(WhereOperationsTakeTime, 60))
