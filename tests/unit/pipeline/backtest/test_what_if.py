from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from models.metrics import EVENT_KINDS, METRICS
from pipeline.backtest import setup, what_if
from pipeline.backtest.demand import DemandSource
from pipeline.backtest.setup import PlanningInputs
from pipeline.errors import UsageError
from pipeline.traces.trace_file import Panel
from pipeline.traces.window import ScoringWindow

TICK_S = 300
FIRST = 1_767_268_800 // TICK_S  # 2026-01-01T12:00:00Z


@pytest.fixture
def source() -> DemandSource:
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 2, (40, 3, len(METRICS))).astype(np.float32)
    panel = Panel(
        ticks=np.arange(FIRST, FIRST + 40),
        tick_s=TICK_S,
        apps=["blog", "shop", "shop"],
        users=["ann", "bob", "cid"],
        values=values,
        events=np.ones((40, 3, len(EVENT_KINDS)), np.float32),
        saturated=np.zeros(values.shape, bool),
    )
    return DemandSource("test", panel, ScoringWindow(0, 20, 40), {}, b"", Path("none"))


@pytest.fixture
def records(source: DemandSource) -> PlanningInputs:
    return setup.sized(source.panel, source.window, setup.members_of(source.panel, 0, 0))


def of(offers: list[dict[str, object]], tier: str) -> dict[str, object]:
    return next(price for price in offers if price["tier"] == tier)


def test_settings_change_what_they_name_and_nothing_else(
    source: DemandSource, records: PlanningInputs
) -> None:
    text = "confidence=0.9 policy.hold_s=0 policy.scale_down=never price.spot=2 startup=3"
    other = what_if.parse(text, source, records)
    for app, policy in other.records.policies.items():
        assert policy == records.policies[app] | {"confidence": 0.9, "hold_s": 0.0, "scale_down": "never"}
    before, after = (of(r.prices["shop"], "SPOT") for r in (records, other.records))
    assert after["price"] == before["price"] * 2  # pyright: ignore[reportOperatorIssue]
    assert after["startup_p99_s"] == 3 * 180
    assert of(other.records.prices["shop"], "ON_DEMAND")["price"] == Decimal("0.1920")
    assert other.source is source


def test_a_campaign_multiplies_an_apps_demand_for_a_while(
    source: DemandSource, records: PlanningInputs
) -> None:
    other = what_if.parse("campaign=shop@2026-01-01T13:00Z/10m/x3", source, records)
    before, after = (one.panel for one in (source, other.source))
    inside = np.zeros(before.values.shape[:2], bool)
    inside[12:14, 1:] = True
    np.testing.assert_array_equal(after.values[inside], before.values[inside] * 3)
    np.testing.assert_array_equal(after.events[inside], before.events[inside] * 3)
    np.testing.assert_array_equal(after.values[~inside], before.values[~inside])


def test_smaller_replicas_are_as_much_capacity_for_as_much_money(records: PlanningInputs) -> None:
    small = what_if.smaller(records, 0.1)
    for app in records.policies:
        assert small.policies[app]["max"] == 10 * records.policies[app]["max"]
        for before, after in zip(records.prices[app], small.prices[app], strict=True):
            assert after["price"] * 10 == before["price"]
            assert after["capacity"][0]["value"] * 10 == pytest.approx(before["capacity"][0]["value"])
            offer = before["offer_id"]
            assert small.starting[app][offer] == 10 * records.starting[app][offer]
    unit = records.policies["shop"]["unit"][0]
    assert small.policies["shop"]["unit"][0]["value"] == pytest.approx(unit["value"] / 10)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing is different"),
        ("confidence", "not NAME=VALUE"),
        ("colour=red", "'colour' is unknown; known are confidence"),
        ("confidence=2", "confidence=2"),
        ("confidence=high", "not a value of that field"),
        ("policy.colour=red", "no field 'colour'"),
        ("policy.governed=cpu", "no field 'governed' of one value"),
        ("price=-1", "a factor is a number above 0"),
        ("price.gold=2", "tiers are reserved"),
        ("prices=none.toml", "none.toml"),
        ("campaign=shop", "not APP@TIME/DURATION/xFACTOR"),
        ("campaign=shop@2031-01-01T00:00Z/1h/x2", "no tick of the window"),
        ("campaign=cafe@2026-01-01T13:00Z/1h/x2", "no such app"),
    ],
)
def test_what_cannot_be_is_one_line(
    text: str, says: str, source: DemandSource, records: PlanningInputs
) -> None:
    with pytest.raises(UsageError, match=says) as error:
        what_if.parse(text, source, records)
    assert "\n" not in str(error.value)


def test_differences_are_of_the_same_days() -> None:
    base = {str(figure): np.array([1.0, 2.0, 3.0]) for figure in what_if.SHOWN}
    other = {figure: days + 0.5 for figure, days in base.items()}
    rows = what_if.differences(base, {"price=2": other})
    cost = next(row for row in rows if row["figure"] == "cost")
    assert cost == {
        "what_if": "price=2", "figure": "cost", "as_given": 1.0, "value": 1.5, "low": 2.525, "high": 3.475,
        "difference_value": 0.5, "difference_low": 0.5, "difference_high": 0.5,
    }  # fmt: skip
    assert {line[""]: line["price=2"] for line in what_if.table(rows)}["cost"] == "1.5, +0.5 (+0.5 to +0.5)"
