"""`leadtime explain`: why an app has the instances that it has, read from the topics."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console

from models import capacity
from pipeline.errors import UsageError
from pipeline.format import parse_time, utc
from pipeline.reports import decision_text
from pipeline.reports.decision_text import Surroundings
from pipeline.reports.decisions import DecisionTopics, choose
from pipeline.runtime.cluster import cluster
from pipeline.settings import load
from pipeline.wire import forecasts, policies
from pipeline.wire.codec import Record

PAST_TICKS: Final = 48
"""Of history in a plot: eight times the steps ahead, so that the rhythm is seen and the fan still has a ninth."""
PANELS: Final = 3
"""Metrics in a plot; more than so many are governed by no policy that we know."""


def explain(
    app: Annotated[str, typer.Argument(help="Which app.")],
    tick: Annotated[int | None, typer.Option(help="The plan of this tick; default: the newest.")] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="The last plan made at this time or before: 2026-01-31T14:05 (UTC), or unix seconds."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON object.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write a PNG of the forecast, the history and the planned capacity.")
    ] = None,
    bootstrap: Annotated[
        str | None, typer.Option(help="Address of Kafka, host:port; default: the embedded one.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Of the installation's topics.")] = None,
) -> None:
    """Why an app has the instances that it has: one decision's record."""
    if tick is not None and at is not None:
        raise UsageError("give --tick or --at, not both")
    at_s = None if at is None else parse_time(at)
    with cluster(load(bootstrap=bootstrap, prefix=prefix)) as settings:
        topics = DecisionTopics(settings)
        found = topics.plans(app)
        plan = choose(found, app, tick, at_s)
        around = topics.around(plan) if plot is not None or not as_json else Surroundings()
        if plot is not None:
            first = plan["tick"] - PAST_TICKS + 1
            draw(plot, found, plan, around, topics.totals(app, first, plan["tick"]))
            print(f"wrote {plot}", file=sys.stderr)
    if as_json:
        print(json.dumps(decision_text.plain(plan)))
    elif sys.stdout.isatty():
        Console().print(decision_text.document(plan, around))
    else:
        print(decision_text.text(plan, around), end="")


def draw(
    path: Path,
    found: Mapping[int, Record],
    plan: Record,
    around: Surroundings,
    totals: Mapping[int, tuple[Record, int]],
) -> None:
    """A picture of a decision: history, fan and what the planned instances carry, by governed metric.

    Args:
        path: of the PNG file.
        found: the app's plans by tick.
        plan: the one that is explained.
        around: its policy and prices.
        totals: forecast records with the app's total, and its row in them, by tick.

    Raises:
        UsageError: there is no forecast, or the file cannot be written.
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
    carried = [decision_text.replicas(found[t - 1], around, 0) if t - 1 in found else None for t in before]
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
