"""Which plan is explained, and the picture of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.quantile_function import QuantileFunction, Z
from pipeline.errors import UsageError
from pipeline.reports import charts, decision_picture, decisions
from pipeline.reports.decision_text import Surroundings
from pipeline.wire import codec
from pipeline.wire.codec import Record
from pipeline.wire.forecasts import forecast_records
from tests.unit.pipeline.reports.test_decision_text import plan, surroundings

FOUND: dict[int, Record] = {tick: plan(tick=tick, plan_id=f"shop@{tick}") for tick in (98, 99, 101)}


def total(tick: int, cpu: float) -> tuple[Record, int]:
    """A record of forecasts.apps in which the app has row 1: normal, 10 % of its mean wide."""
    location = np.full((2, 5, 6), np.nan, np.float32)
    location[:, 0], location[:, 1] = cpu, 2.0**34
    offsets = np.broadcast_to(Z.astype(np.float16), (2, 5, 6, len(Z)))
    head: dict[str, Any] = {
        "shard": 0,
        "seq": tick,
        "tick": tick,
        "tick_start": tick * 300_000_000,
        "tick_s": 300,
    }
    records = forecast_records(
        head,
        "m",
        [bytes(16), bytes(range(16))],
        ["other", "shop"],
        QuantileFunction(location, location / 10, offsets),
        {"cold_start": np.zeros(2, bool), "censored": np.zeros((2, 5), bool)},
        location[..., 0],
        np.full((2, 4), np.nan, np.float32),
    )
    return codec.decode(codec.encode("forecast", records[0]))[1], 1


@pytest.mark.parametrize(
    ("tick", "at_s", "chosen"),
    [
        (None, None, 101),
        (99, None, 99),
        (None, 100 * 300.0, 99),  # tick 99 ends at 100 * 300 s
        (None, 100 * 300.0 - 1, 98),
        (None, 101 * 300.0, 99),  # there is none of tick 100
        (None, 1e12, 101),
    ],
)
def test_the_plan_of_a_tick_or_of_a_time(tick: int | None, at_s: float | None, chosen: int) -> None:
    assert decisions.choose(FOUND, "shop", tick, at_s)["tick"] == chosen


def test_what_there_is_not_brings_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"^no plan of shop for tick 100: there are 3, of ticks 98 to 101$"):
        decisions.choose(FOUND, "shop", 100, None)
    with pytest.raises(UsageError, match=r"^no plan of shop had been made then: .* 1970-01-01 08:15:00 UTC$"):
        decisions.choose(FOUND, "shop", None, 99 * 300.0 - 1)


def test_a_picture_of_forecast_and_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[charts.Panel]] = []
    figure = charts.fan_figure

    def kept(title: str, panels: list[charts.Panel], **rest: Any) -> Any:
        drawn.append(panels)
        return figure(title, panels, **rest)

    monkeypatch.setattr(charts, "fan_figure", kept)
    plans = {tick: plan(tick=tick, steps=[300 * k for k in range(1, 7)], required=[[11.0, 2.0**34]] * 6,
                        counts=[{"offer_id": "od", "desired": [tick - 94] * 6}]) for tick in (97, 98, 100)}  # fmt: skip
    totals = {tick: total(tick, tick / 10) for tick in (97, 98, 100)}
    path = tmp_path / "plot.png"
    decision_picture.draw(path, plans, plans[100], surroundings(), totals)
    assert path.read_bytes().startswith(b"\x89PNG")
    cpu, memory = drawn[0]
    assert (cpu.metric, cpu.unit, memory.metric) == ("cpu", "cores", "memory")
    # ticks 97 to 100; nothing is known of 99
    np.testing.assert_allclose(cpu.observed, [9.7, 9.8, np.nan, 10.0], rtol=1e-6)
    # the plan of 97 has 3 instances of 2 replicas of 0.95 cores from tick 98 on: 5.7; that of 98 has 4: 7.6;
    # there is none of 99 and 96; that of 100 has 6 for all six steps to come: 11.4
    np.testing.assert_allclose(cpu.capacity, [np.nan, 5.7, 7.6, np.nan, *[11.4] * 6], rtol=1e-6)
    np.testing.assert_allclose(cpu.forecast.mean(), np.full(6, 10.0), rtol=1e-4)
    np.testing.assert_array_equal(cpu.required, np.full(6, 11.0))


def test_a_picture_without_a_forecast_or_a_place(tmp_path: Path) -> None:
    one = plan(steps=[300 * k for k in range(1, 7)], required=[[11.0, 2.0**34]] * 6)
    with pytest.raises(UsageError, match=r"no forecast of shop made at tick 100$"):
        decision_picture.draw(tmp_path / "plot.png", {100: one}, one, Surroundings(), {})
    with pytest.raises(UsageError, match="--plot"):
        decision_picture.draw(
            tmp_path / "no" / "plot.png", {100: one}, one, Surroundings(), {100: total(100, 10.0)}
        )
