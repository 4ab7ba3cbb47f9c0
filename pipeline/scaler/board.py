"""The newest plan of each app, and how many replicas it wants of an offer."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

import grpc

from pipeline.errors import LeadtimeError
from pipeline.scaler.triggers import Trigger
from pipeline.wire.codec import Record
from pipeline.wire.plans import lifetime_s

IN_FORCE: Final = ("canary", "auto", "paused")
"""Modes whose counts are answered. Those of canary are bounded already, those of paused are what was last commanded;
shadow changes nothing, also not through KEDA."""


class Unanswerable(LeadtimeError):
    """There is no count to answer with; `code` is the status of gRPC."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Planned:
    """What of a plan counts here.

    Attributes:
        app, tick, mode: of the plan.
        end_s: end of its tick, unix seconds.
        life_s: seconds after it for which the plan's commands are valid.
        counts: instances by offer at the plan's first step, as its commands have them.
    """

    app: str
    tick: int
    mode: str
    end_s: float
    life_s: float
    counts: dict[str, int]

    @classmethod
    def of(cls, record: Record) -> Self:
        """Of a record `plan`."""
        counts = {count["offer_id"]: int(count["desired"][0]) for count in record["counts"]}
        tick, tick_s = record["tick"], record["tick_s"]
        return cls(
            record["app"], tick, record["mode"], float((tick + 1) * tick_s), lifetime_s(tick_s), counts
        )


class Board:
    """Plans by app, of one event loop.

    Args:
        ahead_s: a plan whose tick ends later than now by more is none: it would hide all until then.
    """

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s
        self._newest: dict[str, Planned] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def take(self, planned: Planned, now_s: float) -> None:
        """Note a plan, unless a newer one of the app is there, and wake who waits for the app."""
        newest = self._newest.get(planned.app)
        if planned.end_s > now_s + self.ahead_s or (newest is not None and planned.tick < newest.tick):
            return
        self._newest[planned.app] = planned
        for changed in self._waiting.get(planned.app, ()):
            changed.set()

    def replicas(self, trigger: Trigger, now_s: float) -> int:
        """Replicas that are planned.

        Raises:
            Unanswerable: nobody knows the app or offer, its plan is too old, or the mode commands nothing.
        """
        planned = self._newest.get(trigger.app)
        if planned is None:
            raise Unanswerable(grpc.StatusCode.NOT_FOUND, f"there is no plan of app {trigger.app!r}")
        age_s, most_s = now_s - planned.end_s, trigger.max_age_s or planned.life_s
        if age_s > most_s:
            of = f"the newest plan of {trigger.app}, of tick {planned.tick}"
            why = f"{of}, is {age_s:.0f} s old, {most_s:g} s at most"
            raise Unanswerable(grpc.StatusCode.UNAVAILABLE, why)
        if planned.mode not in IN_FORCE:
            why = f"{trigger.app} is in {planned.mode} mode, in which nothing is commanded"
            raise Unanswerable(grpc.StatusCode.FAILED_PRECONDITION, why)
        if trigger.offer not in planned.counts:
            why = f"the plan of {trigger.app} has no offer {trigger.offer!r}: {', '.join(sorted(planned.counts))}"
            raise Unanswerable(grpc.StatusCode.NOT_FOUND, why)
        return planned.counts[trigger.offer]

    @contextmanager
    def changes(self, app: str) -> Generator[asyncio.Event]:
        """An event that is set when a plan of the app came."""
        changed = asyncio.Event()
        waiting = self._waiting.setdefault(app, set())
        waiting.add(changed)
        try:
            yield changed
        finally:
            waiting.discard(changed)
            if not waiting:
                self._waiting.pop(app, None)
