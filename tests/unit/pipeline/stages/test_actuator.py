"""The actuator's decisions without Kafka: executor, order and positions."""

import errno
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from pipeline.errors import Exhausted, LeadtimeError, Rejected, Retryable, Throttled
from pipeline.providers.base import Observation, Provider, Result
from pipeline.security.signing_keys import demo_key
from pipeline.stages.actuator.executor import Executor, Stopped
from pipeline.stages.actuator.offsets import Positions
from pipeline.stages.actuator.plan_order import PlanOrder
from pipeline.wire.codec import encode
from pipeline.wire.commands import Target
from tests.unit.pipeline.messages import command

KEY = demo_key()
Answer = Callable[[dict[str, Any], float], Result]


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Scripted(Provider):
    """Answers `apply` from a script; counts the calls."""

    def __init__(self, *script: Exception | float, generation: int = 7, command_id: str = "") -> None:
        self.script, self.generation, self.command_id = list(script), generation, command_id
        self.calls: list[float] = []

    def apply(self, command: dict[str, Any], now_s: float) -> Result:
        self.calls.append(now_s)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            time.sleep(step)
        return Result(2, command["desired"], now_s, self.generation + 1)

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        return Observation(2, 1, {"cpu": 3.5}, self.generation, command_id=self.command_id, least_ready=1)


def executor(provider: Provider, **more: Any) -> Executor:
    return Executor({"local": provider}, KEY.keyring, **more)


def summary(outcomes: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[tuple[int, str, str]]:
    for _, settled in outcomes:
        encode("command_result", settled)  # all are records
    return [(asked["epoch"], settled["status"], settled["reason"]) for asked, settled in outcomes]


def test_applied_with_all_that_the_provider_said() -> None:
    [(_, settled)] = executor(Scripted()).submit(command(), 660.0)
    assert settled["status"] == "APPLIED"
    assert (settled["before"], settled["after"], settled["generation"]) == (2, 3, 8)
    assert settled["requested_ts"] == settled["accepted_ts"] == at(660.0)


def test_refused_commands_do_not_reach_the_provider() -> None:
    provider = Scripted()
    desk = executor(provider)
    forged = command() | {"desired": 8}
    assert summary(desk.submit(forged, 660.0)) == [(10, "REFUSED", "forged")]
    assert summary(desk.submit(command(), 1e6)) == [(10, "REFUSED", "expired")]
    assert summary(desk.submit(command(desired=8, bounds=(0, 4)), 660.0)) == [
        (10, "REFUSED", "out-of-bounds")
    ]
    assert provider.calls == []
    assert summary(desk.submit(command(), 660.0)) == [(10, "APPLIED", "")]
    assert summary(desk.submit(command(), 660.0)) == [(10, "REFUSED", "replayed")]
    assert summary(desk.submit(command(desired=4), 660.0)) == [(10, "REFUSED", "older-epoch")]
    assert summary(desk.submit(command(epoch=9), 660.0)) == [(9, "REFUSED", "older-epoch")]
    assert provider.calls == [660.0]


def test_a_dry_run_is_judged_but_not_applied() -> None:
    provider = Scripted()
    assert summary(executor(provider).submit(command(dry_run=True), 660.0)) == [(10, "NOOP", "dry-run")]
    assert provider.calls == []


def test_a_conflict_unless_the_command_itself_made_the_change() -> None:
    asked = command(expected_generation=6)
    assert summary(executor(Scripted()).submit(asked, 660.0)) == [(10, "REFUSED", "conflict")]
    applied_before_a_kill = Scripted(command_id=asked["id"])
    assert summary(executor(applied_before_a_kill).submit(asked, 660.0)) == [(10, "APPLIED", "")]


def test_our_own_late_change_is_no_conflict_but_somebody_elses_is() -> None:
    provider = Scripted(Retryable("busy", 30.0))
    desk = executor(provider)
    late = command(10, expected_generation=7)
    assert summary(desk.submit(late, 660.0)) == [(10, "RETRYING", "busy")]
    assert summary(desk.retry(690.0)) == [(10, "APPLIED", "")]
    # the next plan was made while the first command waited: it still expects 7
    provider.generation, provider.command_id = 8, late["id"]
    assert summary(desk.submit(command(11, expected_generation=7), 720.0)) == [(11, "APPLIED", "")]
    provider.generation, provider.command_id = 9, ""
    assert summary(desk.submit(command(12, expected_generation=8), 780.0)) == [(12, "REFUSED", "conflict")]


def test_a_change_by_somebody_else_ends_a_retry() -> None:
    provider = Scripted(Retryable("busy", 30.0))
    desk = executor(provider)
    desk.submit(command(expected_generation=7), 660.0)
    provider.generation = 8
    assert summary(desk.retry(10_000.0)) == [(10, "FAILED", "conflict")]
    assert provider.calls == [660.0]
    assert desk.retries == {}


def test_retried_when_due_and_at_that_moment() -> None:
    provider = Scripted(Retryable("busy", 30.0), Retryable("busy", 45.0))
    desk = executor(provider)
    assert summary(desk.submit(command(), 660.0)) == [(10, "RETRYING", "busy")]
    assert desk.retry(689.9) == []
    assert desk.retry(10_000.0, apps=["another"]) == []
    assert summary(desk.retry(10_000.0, apps=["shop"])) == [(10, "RETRYING", "busy"), (10, "APPLIED", "")]
    assert provider.calls == [660.0, 690.0, 735.0]
    assert desk.retries == {}


def test_retries_end_with_the_command() -> None:
    provider = Scripted(*(Retryable("busy", 200.0) for _ in range(9)))
    desk = executor(provider)
    desk.submit(command(), 660.0)
    # due at 860 and at 1060; expires at 960
    assert summary(desk.retry(10_000.0)) == [(10, "RETRYING", "busy"), (10, "FAILED", "expired")]
    assert provider.calls == [660.0, 860.0]


def test_a_newer_command_replaces_one_that_is_being_retried() -> None:
    desk = executor(Scripted(Retryable("busy", 90.0)))
    desk.submit(command(10), 660.0)
    assert summary(desk.submit(command(11), 720.0)) == [(10, "FAILED", "superseded"), (11, "APPLIED", "")]
    assert desk.retry(10_000.0) == []


def test_a_provider_that_asks_for_no_patience_is_given_some() -> None:
    provider = Scripted(Retryable("busy", 0.0))
    desk = executor(provider)
    desk.submit(command(), 660.0)
    assert desk.retry(660.5) == []
    assert summary(desk.retry(661.0)) == [(10, "APPLIED", "")]


def test_a_command_waits_for_its_time() -> None:
    provider = Scripted()
    desk = executor(provider)
    assert summary(desk.submit(command(), 600.0)) == [(10, "RETRYING", "not-before")]
    assert summary(desk.retry(700.0)) == [(10, "APPLIED", "")]
    assert provider.calls == [660.0]


def test_resumed_after_a_restart() -> None:
    first = executor(Scripted(Retryable("busy", 30.0)))
    [(asked, last)] = first.submit(command(), 660.0)
    provider = Scripted()
    successor = executor(provider)
    successor.ledger.accept(last["target"], last["epoch"], last["command_id"])
    successor.resume(asked, last)
    assert summary(successor.retry(700.0)) == [(10, "APPLIED", "")]
    assert provider.calls == [690.0]


def test_rejected_has_failed() -> None:
    assert summary(executor(Scripted(Rejected("quota"))).submit(command(), 660.0)) == [
        (10, "FAILED", "quota")
    ]


def test_a_defect_of_a_provider_fails_its_command_with_a_reason() -> None:
    defect = executor(Scripted(OSError(36, "File name too long")))
    reason = "defect of the provider: OSError: [Errno 36] File name too long"
    assert summary(defect.submit(command(), 660.0)) == [(10, "FAILED", reason)]


SEEN = Observation(2, 1, {"cpu": 3.5}, 7)
MALFORMED: list[Any] = [
    None,
    {"ready": 2},
    replace(SEEN, ready=None),
    replace(SEEN, ready="2"),
    replace(SEEN, pending=-1),
    replace(SEEN, interrupted=-2),
    replace(SEEN, generation="v7"),
    replace(SEEN, generation=2**70),
    replace(SEEN, allocatable={"cpu": None}),
    replace(SEEN, allocatable=None),
    replace(SEEN, managed_by=None),
    replace(SEEN, reason=b"full"),
    replace(SEEN, pending_ready_s=None),
]


@pytest.mark.parametrize("seen", MALFORMED)
def test_a_malformed_observation_is_a_defect_of_its_provider_and_of_no_other_target(seen: Any) -> None:
    """No observation is published of it, its commands are decided, and the actuator goes on."""

    class Broken(Scripted):
        def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
            return seen

    desk = Executor({"local": Broken(), "sound": Scripted()}, KEY.keyring)
    with structlog.testing.capture_logs() as logs:
        assert desk.observe(Target("local", "shop/od"), 10, 60, 660.0) is None
    assert [log["event"] for log in logs] == ["defect of a provider", "no observation"]
    assert logs[1]["target"] == "shop/od"
    assert desk.observe(Target("sound", "shop/od"), 10, 60, 660.0) is not None
    assert summary(desk.submit(command(expected_generation=6), 660.0)) == [(10, "APPLIED", "")]


DONE = Result(2, 3, 660.0, 8)


@pytest.mark.parametrize(
    ("done", "names"),
    [
        (None, "AttributeError"),
        (replace(DONE, after=-1), "after is -1: a count is 0 or more"),
        (replace(DONE, after="3"), "after"),
        (replace(DONE, before=1.5), "before"),
        (replace(DONE, accepted_s=None), "TypeError"),
        (replace(DONE, accepted_s=math.nan), "NaN"),
        (replace(DONE, accepted_s=6.6e14), "out of range"),
        (replace(DONE, generation="v8"), "generation"),
        (replace(DONE, generation=2**70), "generation"),
        (replace(DONE, request_id=17), "provider_request_id"),
    ],
)  # fmt: skip
def test_a_malformed_result_has_failed_and_the_next_command_is_applied(
    done: Any, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = executor(Scripted())
    with monkeypatch.context() as patch:
        patch.setattr(Scripted, "apply", lambda *_: done)
        ((epoch, status, reason),) = summary(desk.submit(command(), 660.0))
    assert (epoch, status) == (10, "FAILED")
    assert reason.startswith("defect of the provider: ")
    assert names in reason
    assert summary(desk.submit(command(epoch=11), 720.0)) == [(11, "APPLIED", "")]


@pytest.mark.parametrize("pause", [None, "soon", math.nan, math.inf, -5.0, 0.0])
def test_a_pause_that_is_no_time_is_the_shortest(pause: Any) -> None:
    desk = executor(Scripted(Retryable("throttled", pause)))
    assert summary(desk.submit(command(), 660.0)) == [(10, "RETRYING", "throttled")]
    assert summary(desk.retry(661.0)) == [(10, "APPLIED", "")]


def test_a_reason_that_is_no_text_and_a_price_that_a_provider_cannot_take_end_nothing() -> None:
    provider = Scripted(Rejected("no such group: \udcff"))
    provider.offered = lambda price: {}[price["offer_id"]]
    desk = executor(provider)
    with structlog.testing.capture_logs() as logs:
        desk.offered({"provider": "local", "offer_id": "od"})
    assert [log["event"] for log in logs] == ["defect of a provider"]
    assert summary(desk.submit(command(), 660.0)) == [(10, "FAILED", "no such group: ?")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE])
def test_an_error_of_the_machine_decides_no_command(code: int) -> None:
    desk = executor(Scripted(OSError(code, os.strerror(code))))
    with pytest.raises(Exhausted, match=os.strerror(code)):
        desk.submit(command(), 660.0)
    assert summary(desk.submit(command(), 660.0)) == [(10, "APPLIED", "")]


def test_an_error_of_the_machine_leaves_a_retry_due() -> None:
    desk = executor(Scripted(Retryable("busy", 30.0), OSError(errno.ENOSPC, "No space left on device")))
    desk.submit(command(), 660.0)
    with pytest.raises(Exhausted):
        desk.retry(700.0)
    assert summary(desk.retry(700.0)) == [(10, "APPLIED", "")]


def test_a_hang_is_given_up_after_the_timeout() -> None:
    desk = executor(Scripted(5.0), timeout_s=0.2)
    began_s = time.monotonic()
    assert summary(desk.submit(command(), 660.0)) == [(10, "RETRYING", "no answer within 0.2 s")]
    assert time.monotonic() - began_s < 2.0
    assert desk.retries["shop/od-4"].due_s == 661.0


def test_a_stop_does_not_wait_for_a_hang() -> None:
    stopping = threading.Event()
    desk = executor(Scripted(5.0), stopping=stopping.is_set)
    threading.Timer(0.1, stopping.set).start()
    began_s = time.monotonic()
    with pytest.raises(Stopped):
        desk.submit(command(), 660.0)
    assert time.monotonic() - began_s < 1.0
    assert desk.ledger.epochs == {}


def test_an_observation_is_a_record_of_the_tick() -> None:
    record = executor(Scripted()).observe(Target("local", "a/b/od-4"), 10, 60, 660.0)
    assert record is not None
    encode("capacity_observed", record)
    assert (record["tick"], record["app"], record["offer_id"]) == (10, "a/b", "od-4")
    assert (record["ready"], record["pending"], record["least_ready"], record["generation"]) == (2, 1, 1, 7)


def test_other_providers_commands_are_not_ours() -> None:
    desk = executor(Scripted())
    assert desk.owns(command())
    assert not desk.owns(command(target=Target("aws", "shop/od-4")))


SHOP = ("shop", False)
"""The queue of plans of an app's own instances."""


def plan(tick: int, issued: int = 0, app: str = "shop") -> dict[str, Any]:
    return {
        "plan_id": f"{app}/od-4-{tick}",
        "app": app,
        "tick": tick,
        "tick_s": 60,
        "commands_issued": issued,
        "counts": [],
        "level": "INSTANCES",
        "allocation_group": app,
        "parts": [],
    }


@given(
    st.permutations(
        [("plan", 10), ("plan", 11), *(("command", epoch, n) for epoch in (10, 11) for n in (0, 1, 2))]
    )
)
def test_a_tick_is_complete_with_all_of_its_commands_in_any_order_of_arrival(events: list[Any]) -> None:
    # The plans of one app keep their order: they share a partition.
    plans = iter([10, 11])
    order = PlanOrder()
    done: list[Any] = []
    for offset, event in enumerate(events):
        if event[0] == "plan":
            order.add_plan(("plans", 0, offset), plan(next(plans), issued=3))
        else:
            _, epoch, n = event
            assert order.add_command(("commands", 0, offset), command(epoch, desired=n, order=2 - n))
        while (unit := order.head(SHOP)) is not None:
            done.append((unit.tick, unit.end_s, [item[1]["desired"] for item in unit.commands]))
            order.pop(unit)
        assert order.strays() == []
    assert done == [(10, 660.0, [2, 1, 0]), (11, 720.0, [2, 1, 0])]


def test_a_repeat_does_not_complete_a_tick() -> None:
    order = PlanOrder()
    order.add_plan(("plans", 0, 0), plan(10, issued=2))
    assert order.add_command(("commands", 0, 0), command(10, desired=1))
    assert not order.add_command(("commands", 0, 1), command(10, desired=1))
    assert order.head(SHOP) is None


def test_a_repeated_plan_is_no_new_tick_and_its_commands_are_strays() -> None:
    order = PlanOrder()
    order.add_plan(("plans", 0, 0), plan(10, issued=1))
    order.add_command(("commands", 0, 0), command(10))
    first = order.head(SHOP)
    assert first is not None
    order.pop(first)
    order.add_plan(("plans", 0, 1), plan(10, issued=1))
    unit = order.head(SHOP)
    assert unit is not None
    assert (unit.repeated, unit.commands) == (True, ())
    order.add_command(("commands", 0, 1), command(10))
    order.pop(unit)
    assert [(position, now_s) for position, _, now_s in order.strays()] == [(("commands", 0, 1), 660.0)]
    assert order.strays() == []
    assert order.done("shop") == 10


def test_a_command_that_expired_before_its_plan_waits_no_longer() -> None:
    order = PlanOrder()
    order.add_command(("commands", 0, 0), command(12, lifetime_s=-200.0))  # 780 - 200 = 580 s
    assert order.strays() == []  # no plan yet: the app has no clock
    order.add_plan(("plans", 0, 0), plan(10))
    unit = order.head(SHOP)
    assert unit is not None
    order.pop(unit)
    assert len(order.strays()) == 1


def test_offsets_go_up_to_the_oldest_that_is_not_finished() -> None:
    positions = Positions()

    def committed() -> list[tuple[str, int, int]]:
        return [(one.topic, one.partition, one.offset) for one in positions.to_commit()]

    for offset in (5, 6, 7):
        positions.read(("commands", 1, offset))
    positions.finish(("commands", 1, 5))
    positions.finish(("commands", 1, 7))
    assert committed() == [("commands", 1, 6)]
    assert committed() == []
    positions.finish(("commands", 1, 6))
    assert committed() == [("commands", 1, 8)]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"leadtime_provider_{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("step", "label"),
    [
        (Throttled("too many requests", 5.0), "throttled"),
        (Retryable("busy", 5.0), "retryable"),
        (Rejected("no such group"), "rejected"),
        (ValueError("a bug"), "defect"),
        (OSError(errno.ENOSPC, "disk full"), "exhausted"),
        (1.0, "timeout"),
    ],
)
def test_a_failed_call_of_a_provider_is_counted_by_its_class(step: Exception | float, label: str) -> None:
    def counted() -> tuple[float, float]:
        labels = {"provider": "local", "call": "apply"}
        return sample("errors_total", **labels, **{"class": label}), sample("call_seconds_count", **labels)

    errors, calls = counted()
    with suppress(LeadtimeError):
        executor(Scripted(step), timeout_s=0.2).submit(command(), 660.0)
    assert counted() == (errors + 1, calls + 1)


class Counted(Scripted):
    """Has as many ready instances as a test says; grows from `before`."""

    def __init__(self, *script: Exception | float) -> None:
        super().__init__(*script)
        self.before, self.ready = 0, 0

    def apply(self, command: dict[str, Any], now_s: float) -> Result:
        done = replace(super().apply(command, now_s), before=self.before)
        self.before = done.after
        return done

    def observe(self, target: Target, now_s: float, since_s: float | None = None) -> Observation:
        return replace(super().observe(target, now_s, since_s), ready=self.ready)


def test_time_from_a_command_until_its_count_is_ready() -> None:
    provider = Counted(Retryable("no capacity", 30.0))
    desk = Executor({"slow": provider}, KEY.keyring)

    def seen(ready: int, now_s: float) -> tuple[float, float]:
        provider.ready = ready
        desk.observe(Target("slow", "shop/od-4"), int(now_s // 60) - 1, 60, now_s)
        return sample("ready_seconds_count", provider="slow"), sample("ready_seconds_sum", provider="slow")

    def ask(desired: int, epoch: int) -> None:
        target = Target("slow", "shop/od-4", region="eu")
        desk.submit(command(epoch, desired, target=target), (epoch + 1) * 60.0)

    ask(3, 10)
    desk.retry(690.0)
    assert seen(2, 700.0) == (0, 0)
    assert seen(3, 720.0) == (1, 60.0)  # from the command, not from its retry
    ask(5, 12)
    ask(7, 13)
    assert seen(6, 900.0) == (2, 60.0 + 120.0)
    ask(4, 15)  # 7 are not wanted any more
    assert seen(7, 1000.0) == (2, 180.0)
