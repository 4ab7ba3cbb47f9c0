"""A picture of one decision: usage so far, forecast and planned capacity, by governed metric."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from models import capacity
from pipeline.errors import UsageError
from pipeline.format import utc
from pipeline.reports import decision_text
from pipeline.reports.decision_text import Surroundings
from pipeline.wire import forecasts, policies
from pipeline.wire.codec import Record

PAST_TICKS: Final = 48
"""Ticks of history in a plot: eight times the six steps ahead, so that the forecast keeps a ninth of the width."""
PANELS: Final = 3
"""Most metrics in a plot: policies govern cpu, memory and at most one more in practice."""


def draw(
    path: Path,
    by_tick: Mapping[int, Record],
    plan: Record,
    around: Surroundings,
    totals: Mapping[int, tuple[Record, int]],
) -> None:
    """Write a picture of a decision: usage so far, forecast and what the planned instances carry, by governed metric.

    Args:
        path: of the PNG file.
        by_tick: the app's plans by tick.
        plan: the plan that is explained.
        around: its policy and prices.
        totals: as `pipeline.reports.decisions.DecisionTopics.totals` gives them.

    Raises:
        UsageError: the plan's tick has no forecast, or the file cannot be written.
    """
    from pipeline.reports import charts  # matplotlib takes half a second that the text need not wait for

    tick, app = plan["tick"], plan["app"]
    if tick not in totals:
        raise UsageError(f"the topic forecasts.apps has no forecast of {app} made at tick {tick}")
    record, row = totals[tick]
    fan = forecasts.unpack([record])[0][row]
    policy = None if around.policy is None else policies.policy_of(around.policy)
    names = [metric for metric in plan["metrics"] if metric in record["metrics"]]
    if policy is not None:
        names = list(capacity.governed(names, policy)) or names
    past = min(PAST_TICKS, tick - min(totals) + 1)
    before = range(tick - past + 1, tick + 1)
    carried = [
        decision_text.replicas(by_tick[t - 1], around, 0) if t - 1 in by_tick else None for t in before
    ]
    carried += [decision_text.replicas(plan, around, step) for step in range(len(plan["steps"]))]
    replicas = np.array([np.nan if n is None else n for n in carried], float)
    panels: list[charts.Panel] = []
    for metric in names[:PANELS]:
        observed = np.array([_usage(totals.get(t), metric) for t in before])
        at = record["metrics"].index(metric)
        required = np.array(plan["required"], float)[:, plan["metrics"].index(metric)]
        carries = np.full(len(replicas), np.nan)
        if policy is not None and metric in policy.governed:
            carries = replicas * policy.usable(metric) - policy.base.get(metric, 0.0)
        panels.append(charts.Panel(metric, record["units"][at], observed, carries, fan[at], required))
    if not panels:
        raise UsageError(f"the forecast of {app} made at tick {tick} has no metric of the plan")
    end_s = float((tick + 1) * plan["tick_s"])
    title = f"{app}: forecast and plan of {utc(end_s)}"
    figure = charts.fan_figure(title, panels, end_s=end_s, tick_s=plan["tick_s"], steps_s=plan["steps"])
    try:
        charts.png(figure, path)
    except OSError as error:
        raise UsageError(f"--plot {path}: {error}") from None


def _usage(total: tuple[Record, int] | None, metric: str) -> float:
    """An app's usage of a metric in the tick of a forecast record; NaN where it has none."""
    if total is None or metric not in total[0]["metrics"]:
        return math.nan
    record, row = total
    usage = np.frombuffer(record["observed"], "<f4").reshape(-1, len(record["metrics"]))
    return float(usage[row, record["metrics"].index(metric)])
