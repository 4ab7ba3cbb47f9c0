"""A replay plans apps from when they come, and waits neither for them nor for those that ingest refuses altogether."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from models.behaviour.lstm import BehaviourModel
from pipeline.demo import recorder
from pipeline.demo.recorder import Watch
from pipeline.demo.run import Replayed, Run
from pipeline.inputs import released_models
from pipeline.inputs.example import Example
from pipeline.inputs.store import OBSERVED, SideInputs
from pipeline.security import signing_keys
from pipeline.settings import Settings
from pipeline.stages.allocator.agent import REPLAY_WAIT_S, Allocator
from pipeline.traces.trace_file import Trace, of_frame
from pipeline.traces.window import TickWindow
from pipeline.wire.codec import DEFAULT, Record
from tests.unit.pipeline.messages import NOW_US, TICK_S
from tests.unit.pipeline.stages import driving

NINE = datetime(2024, 5, 6, 9, tzinfo=UTC)
FIRST = NOW_US // 1_000_000 // TICK_S
"""Tick of the first samples of `driving`; the frame before it is empty, and that of its last samples stays open."""
FRAMED = driving.TICKS - 1
LATE = 3
"""Tick of the window in which the app that is late comes."""


def rows(app: str, ticks: range, **amounts: float | None) -> pl.DataFrame:
    """Two users' samples of each minute."""
    return pl.DataFrame(
        [
            {"ts": NINE + timedelta(minutes=tick), "app": app, "user": f"u{user}"} | amounts
            for tick in ticks
            for user in range(2)
        ]
    )


def mixed(ticks: int = 8) -> Trace:
    """An app of all ticks, a late one, one of which ingest refuses all, and one whose first samples are infinite."""
    return of_frame(
        pl.concat(
            [
                rows("early", range(ticks), cpu=1.0, memory=1e9),
                rows("late", range(LATE, ticks), cpu=3.0, memory=3e9),
                rows("refused", range(ticks), cpu=-1.0, memory=1e9),
                rows("infinite", range(2), cpu=float("inf"), memory=1e9),
                rows("infinite", range(2, ticks), cpu=1.0, memory=1e9),
            ]
        )
    )


def test_the_example_is_sized_by_what_ingest_takes_while_an_app_is_there() -> None:
    trace = mixed()
    example = Example.of(trace, TickWindow.of(trace, 60))
    units = {policy["app"]: {u["metric"]: u["value"] for u in policy["unit"]} for policy in example.policies}
    assert units == {
        "early": {"cpu": 2 / 12, "memory": 2e9 / 12},
        "infinite": {"cpu": 2 / 12, "memory": 2e9 / 12},
        "late": {"cpu": 6 / 12, "memory": 6e9 / 12},
    }
    assert sorted(example.starting) == ["early", "infinite", "late"]


def test_an_app_without_usage_is_governed_by_what_it_reports() -> None:
    frames = [
        rows("busy", range(4), cpu=1.0),
        rows("idle", range(4), requests=0.0),
        rows("events", range(4), **{"events.API_CALL": 1.0}),
    ]
    trace = of_frame(pl.concat(frames, how="diagonal"))
    window = TickWindow.of(trace, 60)
    governed = {policy["app"]: policy["governed"] for policy in Example.of(trace, window).policies}
    assert governed == {"busy": ["cpu"], "events": ["cpu"], "idle": ["requests"]}
    alone = of_frame(frames[2])
    assert [policy["app"] for policy in Example.of(alone, window).policies] == ["events"]


class Silent:
    """A consumer to which nothing comes."""

    def assign(self, positions: list[Any]) -> None:
        assert positions == []


def watch_of(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(recorder.reader, "reader", lambda *_: Silent())
    monkeypatch.setattr(recorder.reader, "whole", lambda *_: [])
    return Watch(settings)


def test_the_demo_waits_for_plans_of_apps_that_were_framed_and_for_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(tick_s=TICK_S, partitions=1, demo_keys=True, data_dir=tmp_path, bootstrap="none:1")
    watch = watch_of(settings, monkeypatch)
    window = TickWindow(FIRST, FIRST + FRAMED - 1, TICK_S)
    run = Run(settings, mixed(), Replayed(window), Console(file=io.StringIO()))
    frames = [
        DEFAULT.decode(value)[1]
        for value in driving.frames(settings, 0, {"shop": ["ann"], "blog": ["late-dora"]})
    ]
    assert {frame["tick"] for frame in frames} == set(range(window.first - 1, window.last + 1))
    for tick in range(window.first - 1, window.last + 1):
        for frame in frames:
            if frame["tick"] == tick:
                watch._take("behaviour.frames", frame)
        framed = ["shop"] * (tick >= window.first) + ["blog"] * (tick >= window.first + LATE)
        for app in framed:
            assert not run._is_done(watch)
            assert watch.planned_until() in (None, tick - 1)
            watch._take("plans", {"app": app, "tick": tick, "commands_issued": 0})
        assert watch.planned_until() == (tick if framed else None)
    assert run._is_done(watch)


def capacity(app: str, tick: int) -> Record:
    return {
        "tick": tick, "target": f"{app}/plain", "app": app, "offer_id": "plain", "ready": 7, "pending": 0,
        "allocatable": [{"metric": "cpu", "value": 8.0}, {"metric": "memory", "value": 16e9}], "generation": 1,
    }  # fmt: skip


def test_the_allocator_plans_a_late_app_from_its_starting_capacity_without_a_wait(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Capacity is observed once, for the tick before the window: no actuator adds to it before an app's first plan."""
    model = BehaviourModel.load(released_models.folder(installation))
    monkeypatch.setattr("pipeline.kafka.reader.newest", lambda *_: None)
    monkeypatch.setattr(driving, "USERS", {"shop": ["ann"], "blog": ["late-dora"]})
    waits: list[tuple[str, int, float]] = []
    monkeypatch.setattr(
        SideInputs, "wait_observed", lambda _, app, tick, wait_s, *__: waits.append((app, tick, wait_s))
    )

    def make(publish: driving.Publish) -> Allocator:
        inputs = driving.FakeInputs(
            installation, [driving.policy("shop"), driving.policy("blog")], driving.PRICES
        )
        for app in ("shop", "blog"):
            inputs._take(OBSERVED, DEFAULT.encode("capacity_observed", capacity(app, FIRST - 1)))
        key = signing_keys.signing_key(installation)
        return Allocator(0, model, inputs, DEFAULT, publish, key, installation)

    published = driving.drive(make, driving.scenarios(model, installation, {"shop": ["eve"]}), None)
    plans = {(plan["app"], plan["tick"] - FIRST): plan for topic, _, plan, _ in published if topic == "plans"}
    ticks = range(driving.TICKS)
    assert set(plans) == {("shop", tick) for tick in ticks} | {("blog", tick) for tick in ticks[LATE:]}
    waited = {(app, tick - FIRST + 1) for app, tick, _ in waits}
    assert waited == {("shop", tick) for tick in ticks[1:]} | {("blog", tick) for tick in ticks[LATE + 1 :]}
    assert {wait_s for *_, wait_s in waits} == {REPLAY_WAIT_S}
    for app, tick in (("shop", 0), ("blog", LATE)):
        begun = {offer["offer_id"]: offer["ready"] for offer in plans[app, tick]["capacity"]}
        assert begun["plain"] == 7


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_demo_with_a_late_and_a_refused_app_ends_and_names_what_was_refused(
    settings: Settings, tmp_path: Path
) -> None:
    trace = mixed()
    window = TickWindow.of(trace, 60)
    here = settings.model_copy(
        update={
            "data_dir": tmp_path / "demo", "tick_s": 60, "partitions": 2, "event_time": True, "scenarios": 256,
            "demo_keys": True,
        }
    )  # fmt: skip
    figures = Run(here, trace, Replayed(window), Console(file=io.StringIO())).go(
        tmp_path / "demo.html", tmp_path / "out"
    )
    planned: dict[str, list[int]] = {}
    for line in (tmp_path / "out" / "plans.jsonl").read_text().splitlines():
        plan = json.loads(line)
        planned.setdefault(plan["app"], []).append(plan["tick"] - window.first)
    assert {app: sorted(ticks) for app, ticks in planned.items()} == {
        "early": list(range(8)),
        "infinite": list(range(2, 8)),
        "late": list(range(LATE, 8)),
    }
    assert figures["dead_letters"] == 16 + 4
    assert {"of app refused ingest refuses 16 negative", "of app infinite ingest refuses 4 infinite"} <= set(
        figures["notes"]
    )
