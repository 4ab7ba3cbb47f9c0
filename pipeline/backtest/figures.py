"""Every policy's figures at its defaults, for each app and for all, with intervals: in the report and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from models.evaluation import day_bootstrap
from models.evaluation.policy_outcomes import RATES, weights
from pipeline.backtest.comparison import OURS, STATIC, Comparison
from pipeline.backtest.job import TIERS, Arrays, Job

ALL: Final = "*"  # the app of figures of all apps together
ORACLE: Final = "oracle"


def stated(
    job: Job, ours: Arrays, baselines: Mapping[str, Arrays], names: Sequence[str], compared: Comparison
) -> dict[str, dict[str, dict[str, Any]]]:
    """By app (ALL: together), policy and figure the value and its interval; one-day blocks, all apps drawn together.

    Args:
        job: what was simulated.
        ours: our outcomes, from the first plan on.
        baselines: outcomes of the baselines, by market.
        names: of the baselines, in the order of their lanes.
        compared: all policies compared.
    """
    market, outcomes = next(iter(compared.outcomes.items()))
    lanes, skip = compared.lanes[market], len(ours["ready"]) - len(compared.demand)
    weight = weights(len(np.unique(outcomes.day)), job.seed)
    spent = {OURS: ours["tiers"][skip:, :, 0]}
    spent |= {STATIC: ours["tiers"][skip:, :, 1]} if STATIC in lanes else {}
    if market in baselines:
        spent |= {name: baselines[market]["tiers"][skip:, :, i] for i, name in enumerate(names)}
    stated_figures: dict[str, dict[str, dict[str, Any]]] = {}
    for app, index in [(ALL, slice(None)), *((app, slice(a, a + 1)) for a, app in enumerate(job.apps))]:
        drawn = {
            name: day_bootstrap.figures(
                day_bootstrap.by_day(
                    outcomes,
                    some[0],
                    index,
                    tiers={tier: spent[name][..., i] for i, tier in enumerate(TIERS)},
                    promise=compared.promise if name == OURS else None,
                ),
                weight,
            )
            for name, some in lanes.items()
        }
        if ORACLE in drawn:
            for own in drawn.values():
                own["cost_to_oracle"] = day_bootstrap.ratio(own["cost"], drawn[ORACLE]["cost"])
        if app == ALL:
            _matched(drawn, compared)
        stated_figures[app] = {
            name: {figure: day_bootstrap.stated(values) for figure, values in own.items()}
            for name, own in drawn.items()
        }
    return stated_figures


def _matched(drawn: dict[str, dict[str, np.ndarray]], compared: Comparison) -> None:
    """Add cost and slack at the same realised hit rate, and the cost's ratio to the oracle's, over all apps."""
    for rate in RATES:
        at = f"{100 * rate:g}"
        for name, (cost, slack) in compared.matched.items():
            drawn[name].update({f"cost_at_{at}": cost[rate], f"slack_at_{at}": slack[rate]})
        if ORACLE in drawn:
            for own in drawn.values():
                own[f"cost_to_oracle_at_{at}"] = own[f"cost_at_{at}"] / drawn[ORACLE][f"cost_at_{at}"]


def table(stated_figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pl.DataFrame:
    """A row for each app, policy and figure, of what `stated` returns."""
    rows = [
        {"app": app, "policy": name, "figure": figure, **values}
        for app, policies in stated_figures.items()
        for name, figures in policies.items()
        for figure, values in figures.items()
    ]
    text, number = (pl.String, pl.Float64)
    schema = dict.fromkeys(("app", "policy", "figure"), text) | dict.fromkeys(day_bootstrap.STATED, number)
    return pl.DataFrame(rows, schema=schema)
