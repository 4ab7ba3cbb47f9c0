"""A backtest as a page and as pictures: frontier, misses over time, demand and capacity, decisions worth reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from models.evaluation import policy_outcomes as outcomes_of
from models.metrics import DAY_S
from pipeline import format as fmt
from pipeline.backtest import what_if
from pipeline.backtest.comparison import OURS, Comparison
from pipeline.backtest.job import Arrays, Job
from pipeline.reports import charts, run_page

COLOURS: Final = (
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#999999",
    "#7a5195",
    "#a05a2c",
    "#bcbd22",
    "#e377c2",
    "#222222",
)
SHOWN: Final = 288  # ticks of an app's picture: a day of five minutes, 3 px a tick
WORTH: Final = 12  # decisions listed
NOTES: Final = (
    "Hit rate: share of app-ticks in which ready capacity, at its least within the tick, was at least the measured "
    "demand in all governed metrics. Ticks at their limit (censored) are not counted.",
    "Our default is the stream's own plan at the policy's confidence. Points beside it, and all rivals', are replicas "
    "that a forecast or rule asks for, bought by one table of purchases from the same offers, on the same luck.",
    "Demand does not react to shortage, but for a backlog that is carried over where asked.",
    "Apps named group-* are artificial: machines put together by chance.",
)


def write(folder: Path, job: Job, seen: Arrays, ranked: Comparison, facts: Mapping[str, Any]) -> None:
    """`report.html`, `frontier.png`, `misses.png` and `demand.png` in a folder."""
    worst = _worst(ranked)
    figures = {
        "frontier": frontier(ranked),
        "misses": misses(ranked),
        "demand": demand(job, seen, ranked, worst),
    }
    for name, figure in figures.items():
        charts.png(figure, folder / f"{name}.png")
    app = job.apps[worst]
    titles = {
        "frontier": "Cost against hit rate",
        "misses": "Misses over time",
        "demand": f"{app}, the day with most misses of ours",
    }
    body = [
        "<header><h1>Leadtime backtest</h1></header>",
        f"<p>{escape(Path(facts['source']).name)}: {facts['apps']} apps of {facts['users']} users, {facts['ticks']:,} "
        f"ticks of {facts['tick_s']} s after {facts['warm_up_ticks']:,} that warm up; {facts['scenarios']:,} "
        f"scenarios, a decision every {facts['every']}.</p>",
        _published(facts),
        _table(facts["policies"], "All tiers"),
        *(
            f"<figure><figcaption><b>{escape(titles[name])}</b></figcaption>"
            f'<div class="wide">{charts.svg(figure, escape(titles[name]))}</div></figure>'
            for name, figure in figures.items()
        ),
        _table(facts["policies_on_demand"], "On demand only") if facts["policies_on_demand"] else "",
        _figures(facts["figures"]),
        _what_if(facts.get("what_if", ())),
        _table(
            facts["divisible"]["policies"],
            "In divisible units: replicas and instances of a tenth of the size",
        )
        if "divisible" in facts
        else "",
        _decisions(job, seen, ranked),
        _by_app(facts["figures"]),
        '<section class="notes"><h2>Notes</h2><ul>'
        + "".join(f"<li>{escape(note)}</li>" for note in (*NOTES, *_said(facts)))
        + "</ul></section>",
    ]
    (folder / "report.html").write_text(run_page.whole("Leadtime backtest", body))


def _said(facts: Mapping[str, Any]) -> Sequence[str]:
    skipped = ", ".join(f"{count:,} {name}" for name, count in facts["skipped"].items() if count)
    wins = [_why(name, facts) for name in facts["cheaper"]]
    worse = facts["summary"]["worse_than_hpa"]
    if worse:
        wins.append(
            f"On {', '.join(worse)} the HPA at its defaults both costs less and hits more than our plans."
        )
    return [*([f"Left out of the trace: {skipped}."] if skipped else []), *wins]


def _why(name: str, facts: Mapping[str, Any]) -> str:
    """Where a rival wins, and by what: less capacity, and when, or cheaper capacity."""
    ours, theirs = (facts["policies"][n]["at_99"]["cost"] for n in (OURS, name))
    one, other, when = (facts["cheaper"][name][key] for key in ("one", "other", "when"))
    parts = ", ".join(f"{replicas:+.1f} {text}" for text, replicas in when.items())
    return (
        f"{name} is cheaper than we are at a realised 99 % ({theirs:,.0f} and {ours:,.0f}). At the settings next to it "
        f"{other['ready']:.1f} replicas are ready on average and {one['ready']:.1f} of ours, at "
        f"{other['replica_hour']:.3f} and {one['replica_hour']:.3f} a replica and hour. When ours are more: {parts} "
        f"(a peak: demand among the highest twentieth, and an hour after it)."
    )


def _worst(ranked: Comparison) -> int:
    """The app with most misses of ours."""
    market = next(iter(ranked.outcomes.values()))
    return int(market.missed[..., 0].sum(axis=0).argmax())


def _colours(ranked: Comparison) -> dict[str, str]:
    names = next(iter(ranked.lanes.values()))
    return {OURS: charts.OURS} | dict(
        zip([name for name in names if name != OURS], COLOURS * 2, strict=False)
    )


def frontier(ranked: Comparison) -> Figure:
    """Cost against the share of misses of every policy's settings, one panel a market; larger marks: defaults.

    Lines join settings that no other of the policy beats in both.
    """
    colours = _colours(ranked)
    with mpl.rc_context(charts.STYLE):
        figure = Figure(figsize=(11.0, 4.6), layout="constrained")
        panels = figure.subplots(1, len(ranked.outcomes), squeeze=False)[0]
        for axes, (market, outcomes) in zip(panels, ranked.outcomes.items(), strict=True):
            rows = outcomes.lanes()
            least = 0.5 / max(1, rows[0]["app_ticks"])  # no miss: half of one
            for name, lanes in ranked.lanes[market].items():
                x = [max(1 - (rows[lane]["hit_rate"] or 0), least) for lane in lanes]
                y = [rows[lane]["cost"] for lane in lanes]
                best = outcomes_of.frontier(-np.array(x), np.array(y))
                axes.plot(
                    [x[i] for i in best], [y[i] for i in best], ".-", color=colours[name], linewidth=1.2,
                    label=name,
                )  # fmt: skip
                axes.plot(x, y, ".", color=colours[name], alpha=0.3, markersize=4, zorder=1)
                axes.scatter(x[:1], y[:1], 60, color=colours[name], edgecolors=charts.PAPER, zorder=4)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.invert_xaxis()
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
            for axis in (axes.xaxis, axes.yaxis):  # STYLE does not read the mathematics of log labels
                axis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            for rate in (0.95, 0.99, 0.999):
                axes.axvline(1 - rate, color=charts.MUTED, linewidth=0.8, linestyle=":")
            axes.set_xlabel("app-ticks missed (dotted: 5, 1 and 0.1 %; no miss is drawn as half of one)")
            axes.set_ylabel("cost of the window, $")
            axes.set_title(market.replace("_", " "), loc="left")
        panels[0].legend(frameon=False, fontsize=8)
    return figure


def misses(ranked: Comparison) -> Figure:
    """Share of app-ticks missed by day, every policy at its default."""
    colours = _colours(ranked)
    market, outcomes = next(iter(ranked.outcomes.items()))
    missed, _, _, counted = outcomes.by_day
    with mpl.rc_context(charts.STYLE):
        figure = Figure(figsize=(11.0, 3.0), layout="constrained")
        axes = figure.subplots()
        for name, lanes in ranked.lanes[market].items():
            share, ours = 100 * missed[:, lanes[0]] / np.maximum(counted[:, 0], 1), name == OURS
            axes.plot(
                np.arange(len(share)),
                share,
                "o-",
                color=colours[name],
                markersize=3 + ours,
                linewidth=1 + ours,
                zorder=2 + ours,
                label=name,
            )
        axes.set_yscale("symlog", linthresh=1, linscale=1)  # rare misses and frequent ones
        axes.set_yticks(
            [0, 0.5, 1, 2, 5, 10, 20, 50, 100], ["0", "0.5", "1", "2", "5", "10", "20", "50", "100"]
        )
        axes.set_ylim(-0.05, max(2.0, 1.2 * axes.dataLim.y1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("day of the window")
        axes.set_ylabel("missed, %")
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure


def demand(job: Job, seen: Arrays, ranked: Comparison, app: int) -> Figure:
    """An app's demand, what was forecast and planned of it, what was ready; the stretch in which most was missed."""
    market = next(iter(ranked.outcomes.values()))
    missed = market.missed[:, app, 0].astype(float)
    width = min(SHOWN, len(missed))
    start = int(np.convolve(missed, np.ones(width), "valid").argmax())
    rows = slice(start, start + width)
    first = job.first_tick + len(job.values) - len(missed) + start
    edges = (first + np.arange(width + 1)) * job.tick_s / DAY_S
    middle = (edges[1:] + edges[:-1]) / 2
    need, ready = market.demand[rows, app], market.ready[rows, app, 0]
    with mpl.rc_context(charts.STYLE):
        figure = Figure(figsize=(11.0, 3.6), layout="constrained")
        axes = figure.subplots()
        low, high = _band(job, seen, ranked, app)
        axes.fill_between(
            middle, low[rows], high[rows], color=charts.FORECAST, alpha=0.6, linewidth=0, step="mid",
            label="95 % interval at lead time",
        )  # fmt: skip
        axes.stairs(
            market.asked[rows, app, 0],
            edges,
            color=charts.MUTED,
            linewidth=1.2,
            linestyle="--",
            baseline=None,
            label="planned",
        )
        axes.stairs(ready, edges, color=charts.OURS, linewidth=2, baseline=None, label="ready")
        axes.plot(middle, need, color=charts.INK, linewidth=1.3, label="demand")
        short = market.missed[rows, app, 0]
        axes.scatter(middle[short], need[short], 26, color=charts.REACTIVE, zorder=4, label="missed")
        axes.set_ylim(0, charts.top_of(np.concatenate([need, ready]), need[:0], cut=True))
        axes.set_ylabel("replicas")
        charts.time_axis(axes)
        axes.set_title(job.apps[app], loc="left")
        figure.legend(frameon=False, fontsize=8, ncols=5, loc="outside upper right")
    return figure


def _band(job: Job, seen: Arrays, ranked: Comparison, app: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of an app's demand in each scored tick, as the plan for it saw it; NaN: none did."""
    rows, skip = len(seen["band"]), len(seen["band"]) - len(ranked.demand)
    found = np.full((rows + job.steps[-1], 2), np.nan)
    for i in np.flatnonzero(~np.isnan(seen["band"][:, app, 0])):
        found[i + job.steps[seen["window"][i, app, 0]]] = seen["band"][i, app, [0, 2]]
    return found[skip:rows, 0], found[skip:rows, 1]


def _table(policies: Mapping[str, Any], title: str) -> str:
    rows: list[tuple[str, ...]] = []
    for name, row in policies.items():
        default = row["defaults"]
        matched = [
            f"{row[f'at_{rate}']['cost']:,.2f}" if row[f"at_{rate}"]["cost"] else "–"
            for rate in ("95", "99", "99.9")
        ]
        slack = row["at_99"]["slack"]
        rows.append(
            (
                name,
                fmt.percent(default["hit_rate"] or 0.0),
                f"{default['cost']:,.2f}",
                f"{default['slack']:.2f}",
                f"{default['longest_run']}",
                f"{default['actions']:,}",
                *matched,
                "–" if slack is None else f"{slack:.2f}",
            )
        )
    head = (
        "Policy", "Hit rate", "Cost", "Slack", "Longest run of misses", "Changes", "Cost at 95 %", "at 99 %",
        "at 99.9 %", "Slack at 99 %",
    )  # fmt: skip
    return f'<section><h2>{escape(title)}</h2><div class="wide">{run_page.table(head, rows)}</div></section>'


FIGURES: Final = {
    "hit_rate": "Hit rate",
    "promise": "Promise kept",
    "unserved": "Unserved",
    "worst_shortfall": "Worst shortfall",
    "longest_run": "Longest run",
    "cost": "Cost",
    "cost_reserved": "reserved",
    "cost_on_demand": "on demand",
    "cost_spot": "spot",
    "slack": "Slack",
    "actions": "Changes",
    "cost_to_oracle": "Cost to oracle's",
}
SHARES: Final = ("hit_rate", "promise", "unserved")


def _stated(name: str, figure: Mapping[str, float | None]) -> str:
    """A figure, and below it its interval."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return fmt.MISSING

    def said(x: float) -> str:
        return f"{100 * x:.2f} %" if name in SHARES else f"{x:,.4g}"

    return said(value) + ("" if low is None or high is None else f" ({said(low)} to {said(high)})")


def _rows(policies: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (name, *(_stated(f, figures[f]) if f in figures else fmt.MISSING for f in FIGURES))
        for name, figures in policies.items()
    ]


def _figures(figures: Mapping[str, Any]) -> str:
    """All policies at their defaults over all apps, with intervals."""
    table = run_page.table(("Policy", *FIGURES.values()), _rows(figures["*"]))
    title = "At defaults, all apps (in brackets 95 % of a bootstrap of days)"
    return f'<section><h2>{title}</h2><div class="wide">{table}</div></section>'


def _by_app(figures: Mapping[str, Any]) -> str:
    rows = _rows({app: policies[OURS] for app, policies in figures.items() if app != "*"})
    table = run_page.table(("App", *FIGURES.values()), rows)
    return f'<section><h2>Our plans, app by app</h2><div class="wide">{table}</div></section>'


def _what_if(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = what_if.table(rows)
    head = ("What if", *(name for name in lines[0] if name))
    table = run_page.table(head, [tuple(line.values()) for line in lines])
    note = "After the comma the difference to the run as given, in brackets 95 % of a bootstrap of the same days."
    return f'<section><h2>What if</h2><p>{note}</p><div class="wide">{table}</div></section>'


def _published(facts: Mapping[str, Any]) -> str:
    """How many of the records that the topics hold came out the same."""
    if "published" not in facts:
        return ""
    said: list[str] = []
    for topic, counts in facts["published"].items():
        if isinstance(counts, dict):
            of = counts["same"] + counts["different"] + counts["published_only"]
            said.append(f"{counts['same']:,} of {of:,} {topic} as published, byte for byte")
    late = (
        ""
        if facts["published"]["from_the_beginning"]
        else " What had been learnt before the window is not known."
    )
    return f"<p>{'; '.join(said)}.{late}</p>"


def _decisions(job: Job, seen: Arrays, ranked: Comparison) -> str:
    """Where most was lacking: what had been planned, and what was said of it."""
    market = next(iter(ranked.outcomes.values()))
    skip = len(seen["plan"]) - len(ranked.demand)
    short = market.short[..., 0]
    rows: list[tuple[str, ...]] = []
    for at in np.argsort(-short, axis=None)[:WORTH].tolist():
        t, a = divmod(at, short.shape[1])
        if short[t, a] <= 0:
            break
        start_s = (job.first_tick + job.plan_from + skip + t) * job.tick_s
        before = max(0, t - 1)
        rows.append(
            (
                fmt.date_time(start_s),
                job.apps[a],
                f"{market.demand[t, a]:,.1f}",
                f"{market.ready[t, a, 0]:,.0f}",
                f"{market.asked[before, a, 0]:,.0f}",
                str(seen["reason"][skip + before, a]) or "as bought",
            )
        )
    head = ("Tick (UTC)", "App", "Demand", "Ready", "Planned before", "Guard rails, and what was said")
    return f'<section><h2>Where we lacked most</h2><div class="wide">{run_page.table(head, rows)}</div></section>'
