"""What the demo shows of the learner: from plans and the adjustments that they follow, without Kafka."""

from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.learning import schedule
from models.metrics import METRICS
from pipeline.cli.demo import _learner_rows, _window
from pipeline.demo import summary
from pipeline.inputs.example import Example
from pipeline.reports import run_page
from pipeline.reports.learner_run import LearnerRun
from pipeline.traces import default_trace
from pipeline.traces.window import TickWindow
from pipeline.wire.codec import DEFAULT, Record
from tests.unit.pipeline.stages.driving import PRICES, FakeInputs
from tests.unit.pipeline.stages.learning import DAY, FIRST, TICK_S, days
from tests.unit.pipeline.stages.test_learner import SETTINGS, Adjustments, learning, making

TICKS = DAY + 150
OFFERS = [
    {**price, "commitment_id": "shop", "interruption": 0.0, "owned_count": price.get("owned_count")}
    for price in PRICES
]
EXAMPLE = Example([learning("shop")], OFFERS, {"shop": {"kept": 2, "plain": 4, "spare": 0}})


class Published:
    """What a run published of an app, as `pipeline.demo.recorder.Watch` keeps it."""

    def __init__(self) -> None:
        self.codec = DEFAULT
        self.plans: dict[str, dict[int, Record]] = defaultdict(dict)
        self.adjustments: dict[str, dict[int, Record]] = defaultdict(dict)
        self.usage: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        self.totals: dict[str, dict[int, Record]] = defaultdict(dict)
        self.observed: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))


@pytest.fixture(scope="module")
def published() -> Published:
    """Plans follow the newest adjustment that holds; eight instances on demand until the price is used, then six."""
    watch, made = Published(), Adjustments()
    stage = making(FakeInputs(SETTINGS, EXAMPLE.policies, OFFERS))(made)
    billed = 0.0
    for plan in days(["shop"], TICKS):
        tick = plan["tick"]
        if (version := tick - 1 - schedule.epoch_ticks(TICK_S)) in watch.adjustments["shop"]:
            plan["versions"]["adjustment"] = f"shop@{version}"
        steered = (watch.adjustments["shop"].get(version) or {"arm": "static"})["arm"] != "static"
        ready = 6 if steered else 8
        billed += ready * TICK_S / 3600
        watch.plans["shop"][tick] = DEFAULT.decode(DEFAULT.encode("plan", plan))[1]
        need = np.nan if plan["need"] is None else plan["need"]
        watch.usage["shop"][tick] = np.array([need * 4.0 * 0.95 if m == "cpu" else np.nan for m in METRICS])
        for offer, count, hours in (("plain", ready, billed), ("kept", 0, 0.0), ("spare", 0, 0.0)):
            watch.observed["shop"][offer][tick] = {"ready": count, "least_ready": count, "billed_h": hours}
        stage.fold(DEFAULT.encode("plan", plan))
        watch.adjustments["shop"] |= {record["version"]: record for record, _ in made[-1:]}
    return watch


@pytest.fixture(scope="module")
def run(published: Any) -> LearnerRun:
    window = TickWindow(FIRST, FIRST + TICKS - 1, TICK_S)
    return summary.learner_run("shop", published, EXAMPLE, window, 7, {FIRST + DAY + 80: "demand rises"})


def test_it_begins_after_a_day_of_known_demand_and_is_set_beside_static(run: LearnerRun) -> None:
    assert run.begins is not None
    assert DAY < run.begins < DAY + 20
    assert np.isnan(run.price[: run.begins]).all()
    assert np.isfinite(run.price[run.begins :]).all()
    assert [text for _, text in run.changes] == ["steers, arm network", "demand rises"]
    before = slice(12, run.begins)
    assert run.static_cost[before].sum() == pytest.approx(run.cost[before].sum())  # plans were static
    assert run.cost[run.begins + 2] == pytest.approx(0.1 * 6 * TICK_S / 3600)
    assert run.saving == pytest.approx(1 - 6 / 8, abs=0.1)
    figures = run.figures
    assert figures["price_first"] == run.price[run.begins]
    assert figures["realised_share"] == 1 - run.missed[run.begins + 1 :].sum() / figures["ticks"]


def test_the_page_has_a_picture_of_it_and_the_terminal_its_figures(run: LearnerRun) -> None:
    page = run_page.page("Demo", [], {}, [], [run])
    section = page.partition("The learner at work")[2].partition("</section>")[0]
    for part in (
        "<b>shop</b> is steered from",
        "steers, arm network",
        "demand rises",
        "<svg",
        "static (simulated)",
    ):
        assert part in section
    rows = {name.strip(): ours for name, ours, _ in _learner_rows(run.figures, "USD")}
    assert rows["learner, arm"] == "network"
    assert rows["cost since then"].startswith("$")


def test_without_a_price_it_says_so(published: Any) -> None:
    window = TickWindow(FIRST, FIRST + DAY - 60, TICK_S)
    run = summary.learner_run("shop", published, EXAMPLE, window, 7, {})
    assert (run.begins, run.saving, run.changes) == (None, None, [])
    assert "are static: a day of known demand" in run_page.page("Demo", [], {}, [], [run])
    assert _learner_rows(run.figures, "USD")[0][1].startswith("static")


def test_the_default_trace_shifts_the_level_of_one_app_and_comes_with_its_history() -> None:
    trace = default_trace.build(2 * 288)
    replayed = _window(trace, 300, 288, None, simulated=True)
    assert replayed.window.ticks == 288
    assert replayed.window.first - replayed.learnt[default_trace.LEARNT] == 240
    assert list(replayed.shifts) == [replayed.window.first + 14 * 12]
    early = _window(trace, 300, 288, (default_trace.START + timedelta(hours=1)).timestamp(), simulated=True)
    assert early.window.first - early.learnt[default_trace.LEARNT] == 12
    assert _window(trace, 300, 288, None, simulated=False).learnt == {}

    level = (
        trace.frame.group_by("app", pl.col("ts") >= default_trace.SHIFT)
        .agg(pl.col("memory").mean())
        .pivot("ts", index="app", values="memory")
    )
    rises = dict(zip(level["app"], level["true"] / level["false"], strict=True))
    assert rises[default_trace.LEARNT] > 1.2 > rises["simulated-app-1"]


def test_amounts_stay_exact_in_the_example() -> None:
    medians = {"a": {"cpu": 12.0}, "b": {"cpu": 24.0}}
    example = Example.of_medians(medians, learnt=["b"])
    plain = Example.of_medians(medians)
    assert [policy.get("learner") for policy in example.policies] == [None, True]
    assert example.policies[1]["confidence_of"] == "TIME"
    assert plain.policies[1] == {
        name: value for name, value in example.policies[1].items() if name not in ("learner", "confidence_of")
    }
    assert isinstance(example.prices[0]["price"], Decimal)
