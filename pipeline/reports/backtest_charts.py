"""Pictures of a backtest: cost against hit rate, misses by day, one app's demand beside its capacity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from models.evaluation import policy_outcomes
from models.evaluation.policy_outcomes import Outcomes
from models.metrics import DAY_S
from pipeline.backtest.comparison import OURS, STATIC, Comparison
from pipeline.backtest.job import Arrays, Job
from pipeline.reports import charts

ORACLE: Final = "oracle"
SHOWN: Final = 288  # ticks of an app's picture: a day of five minutes, 3 px a tick
PX_PER_INCH: Final = 96  # of CSS: a picture this wide shows 9 pt text at its size
LEAST_CELL: Final = 0.6  # inches of a day in the picture of misses
TEXT: Final = 0.36  # inches of a number there
LEAST_HIT_RATE: Final = 0.7  # shown of the frontier: below it no policy is of use
HIT_RATES: Final = (0.7, 0.9, 0.95, 0.99, 0.999, 0.9999)
LABEL: Final = 0.1  # of the axis: room of one label


@dataclass(frozen=True)
class Cast:
    """Names of the policies on the page, and the policies that are highlighted.

    Attributes:
        names: shown name by policy.
        rival: the policy set beside ours, if any.
    """

    names: Mapping[str, str]
    rival: str | None

    def role(self, policy: str) -> str:
        """Name of the policy's colour in `charts.THEME`; empty for all but ours, the rival and the oracle."""
        return {ORACLE: "ink", self.rival: "reactive", OURS: "ours"}.get(policy, "")


def first_market(ranked: Comparison) -> tuple[str, Outcomes]:
    """Name of the market of the installation's own offers, and the outcomes of all policies in it."""
    return next(iter(ranked.outcomes.items()))


def worst_app(ranked: Comparison) -> int:
    """Index of the app in which our plans missed most; of equals that whose demand varies most."""
    outcomes = first_market(ranked)[1]
    missed = outcomes.missed[..., 0].sum(axis=0)
    demand = np.where(
        np.isnan(outcomes.demand), np.nanmean(outcomes.demand, axis=0, keepdims=True), outcomes.demand
    )
    return int(np.lexsort((-np.nan_to_num(np.ptp(demand, axis=0)), -missed))[0])


def frontier(ranked: Comparison, cast: Cast) -> Figure:
    """Cost against hit rate: a line a policy through the settings that no other of the policy beats in both.

    One panel a market. Large points are defaults. Both axes are logarithmic, that of the hit rate in the share missed;
    without a miss half a miss is drawn. What lies below LEAST_HIT_RATE, or is dearer than every line, is left out.
    """
    with mpl.rc_context(charts.STYLE):
        figure = Figure(figsize=(11.0, 4.6), layout="constrained")
        panels = figure.subplots(1, len(ranked.outcomes), squeeze=False)[0]
        for axes, market in zip(panels, ranked.outcomes, strict=True):
            _frontier(axes, ranked.outcomes[market], ranked.lanes[market], cast)
            axes.set_title(
                {"tiers": "All tiers", "on_demand": "On demand only"}.get(market, market), loc="left"
            )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside upper right", ncols=5)
    return figure


def _frontier(axes: Axes, outcomes: Outcomes, lanes: Mapping[str, Sequence[int]], cast: Cast) -> None:
    rows = outcomes.lanes()
    least = 0.5 / max(1, rows[0]["app_ticks"])
    costs: list[float] = []
    others = iter(["other policies"])
    for name in sorted(lanes, key=lambda policy: bool(cast.role(policy))):
        role = cast.role(name)
        missed = np.array([max(1 - (rows[lane]["hit_rate"] or 0), least) for lane in lanes[name]])
        cost = np.array([rows[lane]["cost"] for lane in lanes[name]])
        best = policy_outcomes.frontier(-missed, cost)
        shown = missed[best] <= 1 - LEAST_HIT_RATE
        costs += cost[best][shown].tolist()
        colour, line = charts.STYLES[role]
        weight: dict[str, Any] = (
            {"linewidth": 2.2, "zorder": 3} if role else {"linewidth": 1.0, "alpha": 0.55}
        )
        label = cast.names.get(name, name) if role else next(others, None)
        axes.plot(missed[best], cost[best], color=colour, linestyle=line, label=label, **weight)
        size = 70 if role else 22
        axes.scatter(
            missed[:1], cost[:1], size, color=colour, edgecolors=charts.PAPER, zorder=4 if role else 2
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1 - LEAST_HIT_RATE, least / 1.4)
    axes.xaxis.set_major_locator(FixedLocator(_shares(least)))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * (1 - share):g} %")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())  # STYLE does not read the mathematics of log labels
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("${x:,g}"))
    if costs:
        axes.set_ylim(0.93 * min(costs), 1.07 * max(costs))
    for rate in policy_outcomes.RATES:
        axes.axvline(1 - rate, color=charts.MUTED, linewidth=0.8, linestyle=":")
    axes.set_xlabel("app-ticks served")
    axes.set_ylabel("cost of the window")


def _shares(least: float) -> list[float]:
    """Shares missed that are labelled: those of HIT_RATES down to `least`, as far apart as their labels need."""
    span = math.log((1 - LEAST_HIT_RATE) / least)
    kept: list[float] = []
    for share in (1 - rate for rate in HIT_RATES):
        if share >= least and (not kept or math.log(kept[-1] / share) >= LABEL * span):
            kept.append(share)
    return kept


def misses(ranked: Comparison, cast: Cast, days: Sequence[str]) -> Figure:
    """Share of app-ticks missed, a row a policy at its default and a column a day, as bars on one scale.

    Args:
        ranked: the outcomes.
        cast: names and roles.
        days: date of each day of the window.
    """
    market, outcomes = first_market(ranked)
    missed, _, _, counted = outcomes.by_day
    defaults = {name: lanes[0] for name, lanes in ranked.lanes[market].items()}
    share = 100 * missed[:, list(defaults.values())].T / np.maximum(counted[:, 0], 1)
    known = counted[:, 0] > 0
    cell = float(np.clip(9.0 / len(days), LEAST_CELL, 4.0))
    end = (
        max(float(share.max(initial=0.0)), 1.0) * cell / (cell - TEXT)
    )  # room for the text behind the longest bar
    with mpl.rc_context(
        {**charts.STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}
    ):
        figure = Figure(figsize=(1.9 + cell * len(days), 0.6 + 0.27 * len(defaults)), layout="constrained")
        panels = figure.subplots(1, len(days), sharey=True, squeeze=False)[0]
        for d, axes in enumerate(panels):
            axes.set_title(days[d], fontsize=9, loc="left", color=charts.MUTED)
            axes.set(xlim=(0, end), ylim=(len(defaults) - 0.4, -0.6))
            axes.tick_params(bottom=False, labelbottom=False)
            axes.axvline(0, color=charts.MUTED, linewidth=0.8)
            for row, name in enumerate(defaults):
                role = cast.role(name)
                colour = charts.STYLES[role][0]
                axes.barh(row, share[row, d], 0.66, color=colour, alpha=0.75 if role else 0.4)
                text = _share(share[row, d]) if known[d] else "–"
                weight = "bold" if role == "ours" else "normal"
                axes.annotate(
                    text, (share[row, d], row), (3, 0), textcoords="offset points", va="center", fontsize=8.5,
                    fontweight=weight,
                )  # fmt: skip
        panels[0].set_yticks(range(len(defaults)), [cast.names.get(name, name) for name in defaults])
        panels[0].tick_params(axis="y", labelcolor=charts.INK)
    return figure


def _share(percent: float) -> str:
    return "0" if percent == 0 else f"{percent:.1f}" if percent < 10 else f"{percent:.0f}"


def day_slice(ranked: Comparison, app: int) -> slice:
    """The stretch of at most SHOWN ticks in which our plans missed most; the first of equals."""
    missed = first_market(ranked)[1].missed[:, app, 0].astype(float)
    width = min(SHOWN, len(missed))
    start = int(np.convolve(missed, np.ones(width), "valid").argmax())
    return slice(start, start + width)


def demand(job: Job, ours: Arrays, ranked: Comparison, app: int) -> Figure:
    """One app over `day_slice`: demand, 95 % interval of the forecast it was planned by, planned and ready capacity."""
    outcomes = first_market(ranked)[1]
    rows = day_slice(ranked, app)
    first = job.first_tick + len(job.values) - len(outcomes.demand) + rows.start
    edges = (first + np.arange(rows.stop - rows.start + 1)) * job.tick_s / DAY_S
    middle = (edges[1:] + edges[:-1]) / 2
    need, ready = outcomes.demand[rows, app], outcomes.ready[rows, app, 0]
    short = outcomes.missed[rows, app, 0]
    low, high = _band(job, ours, ranked, app)
    with mpl.rc_context(charts.STYLE):
        figure = Figure(figsize=(11.0, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(
            middle, low[rows], high[rows], color=charts.FORECAST, alpha=0.6, linewidth=0, step="mid",
            label="95 % of the forecast",
        )  # fmt: skip
        steps: dict[str, Any] = {"baseline": None, "edges": edges}
        planned = outcomes.asked[rows, app, 0]
        axes.stairs(planned, color=charts.MUTED, linewidth=1.2, linestyle="--", label="planned", **steps)
        axes.stairs(ready, color=charts.OURS, linewidth=2, label="ready", **steps)
        axes.plot(middle, need, color=charts.INK, linewidth=1.3, label="demand")
        if short.any():
            axes.scatter(middle[short], need[short], 26, color=charts.REACTIVE, zorder=4, label="missed")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, charts.top_of(np.concatenate([need, ready]), need[:0], cut=True))
        axes.set_ylabel("replicas")
        charts.time_axis(axes)
        figure.legend(frameon=False, ncols=5, loc="outside upper left")
    return figure


def learner(job: Job, ours: Arrays, ranked: Comparison) -> Figure:
    """Saving beside the plans without the learner, and misses, over the window; changes of arm are marked.

    The best fixed setting in hindsight is, of our sweep, the cheapest that missed no more than is allowed.
    """
    market, outcomes = first_market(ranked)
    lanes, scored = ranked.lanes[market], outcomes.scored[..., None]
    cost = np.cumsum(np.where(scored, outcomes.cost, 0.0).sum(axis=1), axis=0)
    missed = np.cumsum(outcomes.missed.sum(axis=1), axis=0)
    allowed = (1 - next(iter(job.policies.values())).confidence) * np.cumsum(outcomes.scored.sum(axis=1))
    shown = {"with the learner": (lanes[OURS][0], "ours"), "without": (lanes[STATIC][0], "")}
    within = [lane for lane in lanes[OURS][1:] if missed[-1, lane] <= allowed[-1]]
    if within:
        shown["best fixed setting in hindsight"] = min(within, key=lambda lane: cost[-1, lane]), "ink"
    first = job.first_tick + len(job.values) - len(cost)
    at = (first + np.arange(len(cost))) * job.tick_s / DAY_S
    arm = ours["steered"][-len(cost) :, :, 1]
    moved = at[1:][(np.diff(arm, axis=0) != 0).any(axis=1)]
    saved = {
        name: charts.Course(cost[:, lanes[STATIC][0]] - cost[:, lane], missed[:, lane], role)
        for name, (lane, role) in shown.items()
    }
    return charts.learner_figure(at, saved, allowed, dict.fromkeys(moved.tolist(), ""))


def _band(job: Job, ours: Arrays, ranked: Comparison, app: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the 95 % interval that the plan for a tick saw of an app's demand, (scored tick); NaN: no plan."""
    rows, skip = len(ours["band"]), len(ours["band"]) - len(ranked.demand)
    ends = np.full((rows + job.steps[-1], 2), np.nan)
    for i in np.flatnonzero(~np.isnan(ours["band"][:, app, 0])):
        ends[i + job.steps[ours["window"][i, app, 0]]] = ours["band"][i, app, [0, 2]]
    return ends[skip:rows, 0], ends[skip:rows, 1]
