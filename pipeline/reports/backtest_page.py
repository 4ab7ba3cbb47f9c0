"""Writes a backtest as a page and three pictures: result, where a rival wins, and the figures behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.evaluation.policy_outcomes import relative_difference
from models.metrics import DAY_S
from pipeline import format as fmt
from pipeline.backtest import what_if
from pipeline.backtest.comparison import OURS, STATIC, Comparison
from pipeline.backtest.job import Arrays, Job
from pipeline.reports import backtest_charts, charts, html_parts
from pipeline.reports.backtest_charts import ORACLE, PX_PER_INCH, Cast
from pipeline.reports.html_parts import Bar, Interval
from pipeline.wire.currencies import DEFAULT

_CURRENCY: Final = ContextVar("currency", default=DEFAULT)
"""Of the amounts of the page that is written: `facts["currency"]`."""
WORTH: Final = 12  # decisions listed
LISTED: Final = 6  # names in a sentence, and rivals whose advantage is explained
NAMES: Final = {
    OURS: "Leadtime",
    STATIC: "Leadtime without the learner",
    "hpa": "HPA",
    "hpa_overprovisioning": "HPA, over-provisioned nodes",
    "keda": "KEDA",
    "aws": "AWS predictive scaling",
    "phpa_linear": "PHPA, linear",
    "phpa_holt_winters": "PHPA, Holt-Winters",
    "crane": "Crane EHPA",
    "autopilot": "Autopilot",
    "autopilot_window": "Autopilot, moving window",
    "fixed": "Fixed capacity",
    "persistence": "Persistence",
    ORACLE: "Oracle",
}
"""What a policy is called on the page; the name on the command line is its hint."""
RATES: Final = ("99", "95", "99.9")
"""Hit rates, in percent, at which policies are compared: the first that ours and another reach leads the page."""
FIGURES: Final = {
    "hit_rate": ("Hit rate", "share of app-ticks in which ready capacity was at least the measured demand"),
    "promise": ("Promise", "share of decisions whose demand stayed within what was planned for"),
    "unserved": ("Unserved", "share of demand that ready capacity did not carry"),
    "worst_shortfall": ("Worst", "replicas that were lacking in the worst app-tick"),
    "longest_run": ("Run", "longest run of misses of one app, in ticks"),
    "cost": ("Cost", "of the whole window"),
    "cost_to_oracle": ("× oracle", "cost over the oracle's at its default"),
    "cost_reserved": ("reserved", "part of the cost: reserved instances"),
    "cost_on_demand": ("on demand", "part of the cost: on-demand instances"),
    "cost_spot": ("spot", "part of the cost: spot instances"),
    "slack": ("Slack", "ready capacity beyond demand, over demand"),
    "actions": ("Changes", "ticks in which the number of replicas wanted changed"),
}
SHARES: Final = ("hit_rate", "promise", "unserved")
NOTES: Final = (
    "Hit rate: share of app-ticks in which ready capacity, at its least within the tick, was at least the measured "
    "demand in all governed metrics. Ticks at their limit (censored) are not counted.",
    "Our default is the stream's own plan at the policy's confidence. Our other settings and all rivals' ask for "
    "replicas, which are bought by the same search from the same offers and meet the same failures.",
    "Cost at a hit rate: of the scored app-ticks, between the two settings nearest to it. The oracle knows the demand "
    "to come and waits for machines to start as everybody does.",
    "Demand does not react to shortage, except for the backlog where one is carried over.",
    "Apps named group-* are artificial: machines put together by chance.",
)


@dataclass(frozen=True)
class Lead:
    """The comparison that the page opens with: costs by policy at one hit rate.

    Attributes:
        rate: in percent, a name of RATES.
        ours: cost.
        cost: of every policy that reaches the rate, ours too.
        rival: the best product; where none reaches the rate the cheapest other policy but the oracle, if any.
    """

    rate: str
    ours: float
    cost: Mapping[str, float]
    rival: str | None


def write(folder: Path, job: Job, ours: Arrays, ranked: Comparison, facts: Mapping[str, Any]) -> None:
    """Write `report.html`, `frontier.png`, `misses.png`, `demand.png`, and `learner.png` beside a learner.

    Args:
        folder: exists.
        job: the job that was run.
        ours: our plans' outcomes, from the first plan on.
        ranked: outcomes of all policies.
        facts: what `leadtime backtest --json` prints.

    Raises:
        OSError: a file cannot be written.
    """
    _CURRENCY.set(facts.get("currency", DEFAULT))
    lead = lead_of(facts)
    cast = Cast(NAMES, lead.rival if lead else None)
    app = backtest_charts.worst_app(ranked)
    figures = {
        "frontier": backtest_charts.frontier(ranked, cast),
        "misses": backtest_charts.misses(ranked, cast, _dates(job, ranked)),
        "demand": backtest_charts.demand(job, ours, ranked, app),
    }
    steered = "steered" in ours and STATIC in facts["policies"]
    figures |= {"learner": backtest_charts.learner(job, ours, ranked)} if steered else {}
    for name, figure in figures.items():
        charts.png(figure, folder / f"{name}.png")
    pictures = {
        name: html_parts.picture(
            charts.svg(figure, escape(TITLES[name][0])), float(figure.get_figwidth()) * PX_PER_INCH
        )
        for name, figure in figures.items()
    }
    body = [
        _header(job, ranked, facts),
        _hero(lead, cast, facts),
        _tiles(facts),
        _wins(lead, facts),
        _matched(facts["policies"]),
        _certainty(lead, cast, facts, len(_dates(job, ranked))),
        *(
            _figure(*TITLES[name], pictures[name])
            for name in ("learner", "frontier", "misses")
            if name in pictures
        ),
        _figure(*_app_title(job, ranked, app), pictures["demand"]),
        _shortages(job, ours, ranked),
        _what_if(facts.get("what_if", ())),
        _defaults(facts["figures"]["*"], "At their defaults", "Policy"),
        _others(facts),
        _apps(facts["figures"]),
        _notes(facts),
    ]
    (folder / "report.html").write_text(html_parts.document("Leadtime backtest", body))


TITLES: Final = {
    "frontier": (
        "Cost against hit rate",
        "Lower and further right is better. A line joins a policy's settings; large points are defaults.",
    ),
    "learner": (
        "The learner",
        "Saved beside the plans without it, and app-ticks missed, up to each time. Dotted: a change of arm.",
    ),
    "misses": ("Misses by day", "Percent of app-ticks missed by every policy at its default, on one scale."),
    "demand": ("Demand and capacity of one app", ""),
}


def lead_of(facts: Mapping[str, Any]) -> Lead | None:
    """The comparison that the page opens with; None without another policy, or where our plans reach none of RATES."""
    policies = facts["policies"]
    for rate in RATES:
        cost = {
            name: row[f"at_{rate}"]["cost"]
            for name, row in policies.items()
            if row[f"at_{rate}"]["cost"] is not None
        }
        if OURS not in cost or len(cost) < 2:
            continue
        rivals = [name for name in cost if name not in (OURS, STATIC, ORACLE)]
        best = facts["summary"]["best_product"]
        cheapest = min(rivals, key=lambda name: (cost[name], name), default=None)
        return Lead(rate, cost[OURS], cost, best if best in cost else cheapest)
    return None


def headline(lead: Lead | None, facts: Mapping[str, Any]) -> str:
    """One sentence: our cost beside the best product's and the oracle's at the same hit rate."""
    _CURRENCY.set(facts.get("currency", DEFAULT))
    if lead is None:
        default = facts["policies"][OURS]["defaults"]
        served, cost = fmt.percent(default["hit_rate"] or 0.0), _money(default["cost"])
        return f"Leadtime served {served} of app-ticks for {cost}."
    parts: list[str] = []
    if lead.rival is not None:
        product = "the best product, " if lead.rival == facts["summary"]["best_product"] else ""
        parts.append(
            f"{_difference(lead.ours, lead.cost[lead.rival])} {product}{NAMES.get(lead.rival, lead.rival)}"
        )
    if ORACLE in lead.cost:
        parts.append(f"{_difference(lead.ours, lead.cost[ORACLE])} an oracle")
    matched = f"With {lead.rate} % of app-ticks served, Leadtime costs {', and '.join(parts)}."
    return " ".join([matched, *_planned_outcome(facts), *_shared_nodes(facts)])


def _shared_nodes(facts: Mapping[str, Any]) -> list[str]:
    """Sentences on nodes that apps share: whether replicas could be placed, and the cost beside own nodes."""
    nodes = facts.get("nodes")
    if nodes is None or nodes["packed"]["all"] is None:  # no tick in which all apps were measured
        return []
    sentences = [
        f"On these nodes packing placed all replicas in {fmt.percent(nodes['packed']['all'])} of ticks."
    ]
    ratio = nodes.get("cost_to_own_at_99", {}).get(OURS)
    if ratio is not None:
        sentences.append(
            f"They cost {_difference(ratio, 1.0)} nodes of each app's own, where 99 % is served on both."
        )
    return sentences


def _planned_outcome(facts: Mapping[str, Any]) -> list[str]:
    """Sentences on our plans as they come: realised share, cost, avoidable cost removed, and the learner's part."""
    policies, removed = facts["policies"], facts["summary"]["avoidable_removed"]
    held = facts["promise"]["kept"]
    if removed is None:
        return []

    def outcome(name: str) -> str:
        row = policies[name]["defaults"]
        return f"{fmt.percent(row['hit_rate'] or 0.0)} for {_money(row['cost_scored'])}"

    dearer = 100 * (facts["summary"]["cost_ratio_as_it_comes"] - 1)
    beside = (
        f", and removed {fmt.percent(removed)} of the cost that could have been avoided: the best product's less the"
        " oracle's at that share."
        if removed >= 0
        else f", {dearer:.1f} % more than the best product at that share."
    )
    sentences = [
        f"As planned it served {outcome(OURS)}{beside}"
        + ("" if held is None else f" Of its plans {fmt.percent(held)} held over their whole window.")
    ]
    if STATIC in policies:
        sentences.append(f"Without the learner it served {outcome(STATIC)}.")
    return sentences


def _difference(cost: float, reference: float) -> str:
    """A cost compared with a reference in words, up to "than" or "as"."""
    change = relative_difference(cost, reference)
    if math.isnan(change) or abs(change) < 0.0005:
        return "as much as"
    return f"{100 * abs(change):.1f} % {'more' if change > 0 else 'less'} than"


def _header(job: Job, ranked: Comparison, facts: Mapping[str, Any]) -> str:
    end = job.first_tick + len(job.values)
    start, stop = (fmt.date_time(tick * job.tick_s) for tick in (end - len(ranked.demand), end))
    own = "artificial apps" if facts["artificial_apps"] else "apps"
    apps = own if facts["apps"] != 1 else own.removesuffix("s")
    users = "user" if facts["users"] == 1 else "users"
    return (
        f"<header><h1>Leadtime backtest</h1><p>{escape(Path(facts['source']).name)} · {start} to {stop} UTC · "
        f"{facts['apps']:,} {apps} of {facts['users']:,} {users} · {facts['ticks']:,} ticks of {facts['tick_s']} s"
        f"</p></header>"
    )


def _hero(lead: Lead | None, cast: Cast, facts: Mapping[str, Any]) -> str:
    if lead is None:
        alone = facts["policies"].keys() <= {OURS, STATIC}
        why = (
            "No other policy was run beside it."
            if alone
            else "Costs are not compared: there is no hit rate that its settings and another policy's reach."
        )
        return f'<section class="hero"><h2>{headline(None, facts)}</h2><p>{why}</p></section>'
    rows = [
        Bar(
            cast.names.get(name, name),
            cost,
            _money(cost),
            "" if name == OURS or lead.ours <= 0 else _signed(100 * relative_difference(cost, lead.ours)),
            cast.role(name),
            HINTS.get(name, name),
        )
        for name, cost in sorted(lead.cost.items(), key=lambda item: (item[1], item[0]))
    ]
    unreached = [cast.names.get(name, name) for name in facts["policies"] if name not in lead.cost]
    missing = f" {_list(unreached)} served less at every setting." if unreached else ""
    return (
        f'<section class="hero"><h2>{escape(headline(lead, facts))}</h2>'
        f"<p>Cost of the scored app-ticks, every policy set so that it serves {lead.rate} % of them, and its "
        f"difference to Leadtime's.{escape(missing)}</p>"
        f"{html_parts.bars(rows, lead.ours)}</section>"
    )


HINTS: Final = {
    OURS: "this planner",
    STATIC: "this planner, without the learner",
    ORACLE: "oracle: knows the demand to come, waits for machines to start",
    "persistence": "persistence: the last value and a quantile of what exceeded it",
    "fixed": "fixed: one number of replicas, a quantile of the past week",
}


def _tiles(facts: Mapping[str, Any]) -> str:
    default, promise = facts["policies"][OURS]["defaults"], facts["promise"]
    kept = fmt.MISSING if promise["kept"] is None else fmt.percent(promise["kept"])
    tiles = {
        "of the time served (hit rate)": fmt.percent(default["hit_rate"] or 0.0),
        "cost by default": _money(default["cost"]),
        f"of {promise['decisions']:,} plans held": kept,
        "app-ticks missed": f"{default['misses']:,}",
        "app-ticks scored": f"{default['app_ticks']:,}",
        "not scored: at their limit": f"{facts['censored_app_ticks']:,}",
        "scenarios a decision": f"{facts['scenarios']:,}",
    }
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in tiles.items()
    )
    return f'<dl class="facts">{items}</dl>{_published(facts)}'


def _wins(lead: Lead | None, facts: Mapping[str, Any]) -> str:
    """Where a rival is better than our plans, and why."""
    if lead is None:
        return ""
    lines: list[str] = []
    ours = {rate: facts["policies"][OURS][f"at_{rate}"]["cost"] for rate in RATES}
    explained = sorted(facts["cheaper"], key=lambda name: facts["policies"][name]["at_99"]["cost"])
    lines += [_why(name, facts) for name in explained[:LISTED]]
    lines += (
        [f"Likewise at 99 %: {_list([_name(n) for n in explained[LISTED:]])}."] if explained[LISTED:] else []
    )
    for rate in RATES:
        cost = {name: row[f"at_{rate}"]["cost"] for name, row in facts["policies"].items() if name != ORACLE}
        cheaper = (
            []
            if rate == "99"
            else [
                name for name, value in cost.items() if None not in (value, ours[rate]) and value < ours[rate]
            ]
        )
        if ours[rate] is None:
            reached = [_name(name) for name, value in cost.items() if value is not None]
            lines += (
                [f"With {rate} % served: no setting of Leadtime reaches it; {_list(reached)} do."]
                if reached
                else []
            )
        if cheaper:
            listed = [
                f"{_name(name)} ({_money(cost[name])})" for name in sorted(cheaper, key=cost.__getitem__)
            ]
            lines.append(
                f"With {rate} % served Leadtime costs {_money(ours[rate])}; cheaper: {_list(listed)}."
            )
    worse = facts["summary"]["worse_than_hpa"]
    if worse:
        lines.append(
            f"On {_list(worse)} the HPA at its defaults both costs less and misses less than our plans."
        )
    if not lines:
        compared = [f"{rate} %" for rate in sorted(RATES, key=float) if ours[rate] is not None]
        text = f"Nowhere in this run: no rival is cheaper with {_list(compared)} served."
        return f'<section class="wins"><h2>Where a rival wins</h2><p>{text}</p></section>'
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section class="wins"><h2>Where a rival wins</h2><ul>{items}</ul></section>'


def _why(name: str, facts: Mapping[str, Any]) -> str:
    """By how much a rival is cheaper at 99 %, and whether by less capacity, when, or by cheaper capacity."""
    ours, theirs = (facts["policies"][n]["at_99"]["cost"] for n in (OURS, name))
    own, other, when = (facts["cheaper"][name][key] for key in ("one", "other", "when"))
    parts = [f"{_signed(replicas, '')} from {WHEN.get(part, part)}" for part, replicas in when.items()]
    return (
        f"{_name(name)} costs {_difference(theirs, ours)} Leadtime with 99 % served: "
        f"{_money(theirs)}, Leadtime {_money(ours)}. At the settings nearest to "
        f"99 % it keeps {other['ready']:.1f} replicas ready on average, Leadtime {own['ready']:.1f}, and pays "
        f"{_money(other['replica_hour'])} a replica-hour, Leadtime "
        f"{_money(own['replica_hour'])}. Leadtime's difference in replicas: {', '.join(parts)}."
    )


WHEN: Final = {
    "after a peak": "the hour after a peak (demand in its highest twentieth)",
    "below the median": "demand below its median",
    "else": "the rest",
}


def _matched(policies: Mapping[str, Any], title: str = "At the same hit rate") -> str:
    """Cost and slack of every policy at each hit rate that is compared at."""
    rates = sorted(RATES, key=float)
    rows = [
        (
            _name(name),
            *(_money(row[f"at_{rate}"]["cost"]) for rate in rates),
            *(_plain(row[f"at_{rate}"]["slack"]) for rate in rates),
        )
        for name, row in policies.items()
    ]
    if len(rows) == 1 and all(row["at_99"]["cost"] is None for row in policies.values()):
        return ""
    head = (
        "Policy",
        *(
            (f"Cost at {rate} %", f"of the scored app-ticks, where {rate} % of them are served")
            for rate in rates
        ),
        *((f"Slack at {rate} %", "ready capacity beyond demand, over demand") for rate in rates),
    )
    return f"<section><h2>{escape(title)}</h2>{html_parts.table(head, rows, 'rows', _name(OURS))}</section>"


def _as_it_comes(policies: Mapping[str, Any], title: str) -> str:
    """Hit rate and cost of every policy at its defaults: for a run without a sweep."""
    rows = [
        (_name(name), fmt.percent(row["defaults"]["hit_rate"]), _money(row["defaults"]["cost"]))
        for name, row in policies.items()
    ]
    head = ("Policy", "Hit rate", "Cost")
    return f"<section><h2>{escape(title)}</h2>{html_parts.table(head, rows, 'rows', _name(OURS))}</section>"


def _certainty(lead: Lead | None, cast: Cast, facts: Mapping[str, Any], days: int) -> str:
    """Intervals of the costs over the oracle's."""
    if lead is None:
        return ""
    title = "<h2>How sure that is</h2>"
    if days == 1:
        text = "One day gives no interval: run more days to see how far costs vary by day."
        return f"<section>{title}<p>{text}</p></section>"
    figure = f"cost_to_oracle_at_{lead.rate}"
    rows: list[Interval] = []
    for name, figures in facts["figures"]["*"].items():
        stated: dict[str, Any] = figures.get(figure) or {"value": None}
        if name != ORACLE and stated["value"] is not None and stated["low"] is not None:
            value, low, high = (stated[key] for key in ("value", "low", "high"))
            text = f"{value:.2f} ({low:.2f} to {high:.2f})"
            rows.append(Interval(_name(name), value, low, high, text, cast.role(name), name))
    if not rows:
        return ""
    few = " With so few days the intervals are rough." if days < 7 else ""
    rows.sort(key=lambda row: (row.value, row.label))
    return (
        f"<section>{title}<p>Cost over the oracle's with {lead.rate} % served; lines are 95 % intervals of a bootstrap "
        f"of {days} days, all apps together.{few}{_versus(lead, facts)}</p>"
        f"{html_parts.intervals(rows, min(1.0, *(row.low for row in rows)))}</section>"
    )


def _versus(lead: Lead, facts: Mapping[str, Any]) -> str:
    """Whether the difference to the best product is more than days vary."""
    interval = facts["summary"]["cost_ratio_best_product_95"]
    if (
        lead.rate != "99"
        or interval is None
        or lead.rival is None
        or lead.rival != facts["summary"]["best_product"]
    ):
        return ""
    low, high = interval
    within = (
        "so the difference may be chance" if low <= 1 <= high else "so the difference is more than days vary"
    )
    return f" Leadtime's cost over {_name(lead.rival)}'s lies in {low:.2f} to {high:.2f}, {within}."


def _figure(title: str, text: str, picture: str) -> str:
    return f"<figure><figcaption><b>{escape(title)}</b> <span>{escape(text)}</span></figcaption>{picture}</figure>"


def _app_title(job: Job, ranked: Comparison, app: int) -> tuple[str, str]:
    missed = backtest_charts.first_market(ranked)[1].missed[:, app, 0]
    total, shown = int(missed.sum()), int(missed[backtest_charts.day_slice(ranked, app)].sum())
    if not total:
        others = "; of all apps' demand, this varies most" if len(job.apps) > 1 else ""
        return job.apps[app], f"Leadtime missed no app-tick{others}."
    of = "" if shown == total else f" of the app's {total:,}"
    misses = "1 miss" if shown == 1 else f"{shown:,} misses"
    return job.apps[app], f"The app and stretch in which Leadtime missed most: {misses}{of}."


def _dates(job: Job, ranked: Comparison) -> list[str]:
    """Date of each day of the scored window."""
    start = (job.first_tick + len(job.values) - len(ranked.demand)) * job.tick_s // DAY_S
    days = np.unique(backtest_charts.first_market(ranked)[1].day)
    return [f"{datetime.fromtimestamp((start + int(day)) * DAY_S, UTC):%-d %b}" for day in days]


def _shortages(job: Job, ours: Arrays, ranked: Comparison) -> str:
    """The app-ticks in which most replicas were lacking: what was planned, and the plan's reason."""
    market = backtest_charts.first_market(ranked)[1]
    skip = len(ours["plan"]) - len(ranked.demand)
    short = market.short[..., 0]
    rows: list[tuple[str, ...]] = []
    for at in np.argsort(-short, axis=None, kind="stable")[:WORTH].tolist():
        t, a = divmod(at, short.shape[1])
        if short[t, a] <= 0:
            break
        before = max(0, t - 1)
        rows.append(
            (
                fmt.date_time((job.first_tick + job.plan_from + skip + t) * job.tick_s),
                job.apps[a],
                f"{market.demand[t, a]:,.2f}",
                f"{market.ready[t, a, 0]:,.0f}",
                f"{market.asked[before, a, 0]:,.0f}",
                str(ours["reason"][skip + before, a]) or "none: as bought",
            )
        )
    title = "<h2>Where Leadtime lacked most</h2>"
    if not rows:
        return f"<section>{title}<p>Ready capacity was never below demand.</p></section>"
    head = ("Tick (UTC)", "App", "Demand", "Ready", "Planned before", "Guard rails and reason")
    return f"<section>{title}{html_parts.table(head, rows, 'prose')}</section>"


def _what_if(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = what_if.table(rows)
    head = ("What if", *(name for name in lines[0] if name))
    table = html_parts.table(head, [tuple(line.values()) for line in lines])
    note = "After the comma the difference to the run as given, in brackets 95 % of a bootstrap of the same days."
    return f"<section><h2>What if</h2><p>{note}</p>{table}</section>"


def _defaults(rows: Mapping[str, Mapping[str, Any]], title: str, kind: str) -> str:
    """Figures of policies or apps, and below, folded, their intervals."""
    head = (kind, *FIGURES.values())
    values = [(_name(name), *(_value(f, figures.get(f)) for f in FIGURES)) for name, figures in rows.items()]
    ranges = [(_name(name), *(_range(f, figures.get(f)) for f in FIGURES)) for name, figures in rows.items()]
    known = any(cell != fmt.MISSING for row in ranges for cell in row[1:])
    table = html_parts.table(head, ranges, "rows", _name(OURS))
    below = (
        html_parts.folded("95 % intervals of these figures, from a bootstrap of days", table) if known else ""
    )
    return f"<section><h2>{escape(title)}</h2>{html_parts.table(head, values, 'rows', _name(OURS))}{below}</section>"


def _apps(figures: Mapping[str, Any]) -> str:
    """Our plans' figures by app, the lowest hit rate first."""

    def rate(app: str) -> tuple[float, str]:
        value = figures[app][OURS]["hit_rate"]["value"]
        return (1.0 if value is None else value, app)

    apps = sorted((app for app in figures if app != "*"), key=rate)
    return (
        _defaults({app: figures[app][OURS] for app in apps}, "Leadtime, app by app", "App")
        if len(apps) > 1
        else ""
    )


def _others(facts: Mapping[str, Any]) -> str:
    """The same comparison without reserved and spot instances, and in small units, where they were run."""
    parts = [
        _matched(table, title) or _as_it_comes(table, title)
        for table, title in (
            (facts["policies_on_demand"], "On demand only, at the same hit rate"),
            (
                facts.get("divisible", {}).get("policies"),
                "In divisible units, replicas and instances of a tenth of the size",
            ),
        )
        if table
    ]
    return "".join(parts)


def _notes(facts: Mapping[str, Any]) -> str:
    skipped = _list([f"{count:,} {name}" for name, count in facts["skipped"].items() if count])
    every = "" if facts["every"] == 1 else f", a decision every {facts['every']} ticks"
    run = f"Before the window {facts['warm_up_ticks']:,} ticks were run and not scored; seed {facts['seed']}{every}."
    lines = [run, *([f"Left out of the trace: {skipped}."] if skipped else []), *facts["notes"], *NOTES]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section class="notes"><h2>Notes</h2><ul>{items}</ul></section>'


def _published(facts: Mapping[str, Any]) -> str:
    """How many of the records that the topics hold came out the same."""
    if "published" not in facts:
        return ""
    parts = [
        f"{counts['same']:,} of {counts['same'] + counts['different'] + counts['published_only']:,} {topic} "
        f"came out as published, byte for byte"
        for topic, counts in facts["published"].items()
        if isinstance(counts, dict)
    ]
    whole = facts["published"]["from_the_beginning"]
    late = "" if whole else " What had been learnt before the window is not known."
    return f"<p>{escape('; '.join(parts))}.{late}</p>"


def _name(policy: str) -> str:
    return NAMES.get(policy, policy)


def _list(names: Sequence[str]) -> str:
    """Names as a sentence has them, at most LISTED of them."""
    shown = list(names[:LISTED])
    if len(names) > LISTED:
        return f"{', '.join(shown)} and {len(names) - LISTED:,} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _signed(value: float, unit: str = " %", digits: int = 1) -> str:
    return f"{value:+,.{digits}f}{unit}".replace("-", "−")


def _money(cost: float | None) -> str:
    return fmt.money(cost, _CURRENCY.get())


def _plain(value: float | None) -> str:
    return fmt.MISSING if value is None else f"{value:.2f}"


def _stated(figure: str, value: float) -> str:
    """A value of one of FIGURES."""
    if figure in SHARES:
        return fmt.percent(value) if figure != "unserved" else f"{100 * value:.2f} %"
    if figure.startswith("cost") and figure != "cost_to_oracle":
        return _money(value)
    if figure in ("longest_run", "actions"):
        return f"{value:,.0f}"
    return f"{value:,.2f}"


def _value(figure: str, row: Mapping[str, float | None] | None) -> str:
    return fmt.MISSING if row is None or row["value"] is None else _stated(figure, row["value"])


def _range(figure: str, row: Mapping[str, float | None] | None) -> str:
    """Both ends of a figure's interval; NONE where there is none or both are the value, as of a single day."""
    if row is None or row["low"] is None or row["high"] is None or row["low"] == row["high"]:
        return fmt.MISSING
    return f"{_stated(figure, row['low'])} to {_stated(figure, row['high'])}"
