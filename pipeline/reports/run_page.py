"""A run as a self-contained HTML page: figures and pictures; nothing on it is loaded from elsewhere."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np

from models.evaluation.policy_outcomes import relative_difference
from models.metrics import DAY_S
from pipeline import format as fmt
from pipeline.reports import charts, html_parts
from pipeline.reports.app_run import AppRun
from pipeline.reports.charts import Moment
from pipeline.reports.learner_run import LearnerRun

HERO_TICKS = 72
"""Of the opening picture: a tick is then 12 px wide, and six hours are seen at five minutes, one at a minute."""
CHARTS = 12
SHOWN_TICKS = 1000
"""Of a longer run the last are drawn: more than pixels tell no more, and the page stays small."""
DEFINITIONS = (
    "Short, or a miss: a scored tick in which the least ready capacity was below the measured demand. Shaded ticks are "
    "the warm-up, which is not scored.",
    "Hit rate is the realised share of time; plans that held: the share of plans whose replicas sufficed in every "
    "step of their window.",
    "Coverage: share of outcomes inside the 95 % interval of the forecast made one tick before; 95 % is right.",
    "Held: ticks in which telemetry was missing and the last plan stood.",
    "Capacity and demand are in replicas; demand is not rounded.",
)

SHARED = "replicas on shared nodes"


def page(
    title: str,
    runs: Sequence[AppRun],
    summary: Mapping[str, Any],
    notes: Sequence[str],
    learnt: Sequence[LearnerRun] = (),
) -> str:
    """A self-contained HTML page about a run.

    Args:
        title: of the page.
        runs: outcomes per app.
        summary: the run's figures, under the names that `leadtime demo --json` has; any may be missing.
        notes: what a reader must know to judge it, with what hit rate and cost are; definitions of the rest are added.
        learnt: of the apps that the learner steers.
    """
    chosen = hero(runs)
    charted = sorted(runs, key=lambda run: -_spent(run, run.cost))[:CHARTS]
    parts = [
        f"<header><h1>{escape(title)}</h1>{_when(runs)}</header>",
        _hero(*chosen) if chosen else "<p>There was no app in this run.</p>",
        _headline(runs, summary),
        _facts(runs, summary),
        *(_learner(run) for run in learnt),
    ]
    if charted:
        which = f"the {CHARTS} of {len(runs)} that cost most" if len(runs) > CHARTS else "dearest first"
        parts += [
            f"<h2>App by app <small>{which}</small></h2>",
            _legend(charted),
            *(_chart(run) for run in charted),
        ]
    if len(runs) > 1:
        parts.append(_apps(runs))
    lines = "".join(f"<li>{escape(note)}</li>" for note in (*notes, *DEFINITIONS))
    parts.append(f'<section class="notes"><h2>Notes</h2><ul>{lines}</ul></section>')
    return html_parts.document(title, parts)


def hero(runs: Sequence[AppRun]) -> tuple[AppRun, slice] | None:
    """The app and the stretch of HERO_TICKS that show the largest difference; None without a tick.

    Among all stretches after the warm-up, by, in this order: the reactive policy misses and we never do; how many
    ticks more it misses than we; how many replicas it lacks in them; whether this is in the middle of the stretch;
    how much demand varies. The first of equals.
    """
    best: tuple[tuple[float, ...], AppRun, slice] | None = None
    for run in runs:
        ticks = len(run.demand)
        width = min(ticks, HERO_TICKS)
        our, late = run.missed, run.reactive_missed
        lacking = np.where(late, np.nan_to_num(run.demand - run.reactive), 0.0)
        for start in range(min(run.warm_up, ticks - width), ticks - width + 1) if ticks else ():
            window = slice(start, start + width)
            ours, theirs = int(our[window].sum()), int(late[window].sum())
            centre = float(np.flatnonzero(late[window]).mean()) if theirs else 0.0
            demand = run.demand[window]
            measured = demand[~np.isnan(demand)]
            spread = float(np.ptp(measured)) / max(float(measured.max()), 1e-9) if len(measured) else 0.0
            key = (
                float(theirs > 0 and ours == 0),
                float(theirs - ours),
                float(lacking[window].sum()),
                -abs(centre - (width - 1) / 2),
                spread,
            )
            if best is None or key > best[0]:
                best = key, run, window
    return None if best is None else best[1:]


def moment(run: AppRun, window: slice) -> Moment | None:
    """The longest stretch in a window in which the reactive policy was short (of equals, by most replicas) and we were
    not; None without one.

    Our capacity was ready from the tick on since which it covered the demand of the stretch's first tick. That tick is
    left out where it is the window's first, or where demand had been as high in between.
    """
    short = np.flatnonzero((run.reactive_missed & ~run.missed)[window]) + window.start
    if not len(short):
        return None
    stretches = np.split(short, np.flatnonzero(np.diff(short) > 1) + 1)
    lacking = run.demand - run.reactive
    longest = max(stretches, key=lambda stretch: (len(stretch), float(lacking[stretch].sum())))
    first, over = int(longest[0]), int(longest[-1]) + 1
    lacked = np.flatnonzero(run.ready[window.start : first] < run.demand[first])
    ready = window.start + int(lacked[-1]) + 1 if len(lacked) else first
    ahead = ready < first and not (run.demand[ready:first] >= run.demand[first]).any()
    return Moment(ready if ahead else None, first, over)


def _when(runs: Sequence[AppRun]) -> str:
    if not runs or not len(runs[0].demand):
        return ""
    run = runs[0]
    start, end = (fmt.date_time(run.start_s + tick * run.tick_s) for tick in (0, len(run.demand)))
    return f"<p>{start} to {end} UTC · {len(run.demand):,} ticks of {run.tick_s} s</p>"


def _hero(run: AppRun, window: slice) -> str:
    theirs, ours = int(run.reactive_missed[window].sum()), int(run.missed[window].sum())
    scored, at = int(run.scored[window].sum()), moment(run, window)
    if theirs > ours:
        headline = f"The reactive policy was short in {theirs} of {scored} ticks; Leadtime in {_count(ours)}."
    elif theirs or ours:
        headline = f"Leadtime was short in {_count(ours)} of {scored} ticks; the reactive policy in {theirs}."
    elif scored:
        headline = "Neither policy was ever short in this run."
    else:
        headline = "No tick of this run could be scored."
    start, end = (fmt.date_time(run.start_s + tick * run.tick_s) for tick in (window.start, window.stop))
    why = "the reactive policy missed most while ours did not" if theirs > ours else "demand varied most"
    picture = charts.svg(charts.run_figure(run, window, at, cut=False), escape(f"{run.app}: {headline}"))
    return (
        f'<section class="hero"><h2>{headline}</h2><p><b>{escape(run.app)}</b>, {start} to {end} UTC. Of all '
        f"apps and stretches of {window.stop - window.start} ticks, the one in which {why}."
        f'</p>{_legend([run])}<div class="wide">{picture}</div></section>'
    )


def _count(number: int) -> str:
    return "none" if number == 0 else f"{number:,}"


def _legend(runs: Sequence[AppRun]) -> str:
    present = {tier for run in runs for tier in charts.tiers_of(run)}
    items = [
        ('<path d="M0 9 L9 4 L18 8 L26 3" stroke="var(--ink)" fill="none" stroke-width="2"/>', "demand"),
        ('<rect width="26" height="12" fill="var(--forecast)"/>', "95 % of the forecast, one tick before"),
        (
            '<path d="M0 9 H10 V3 H26" stroke="var(--ours)" fill="none" stroke-width="2.6"/>',
            "ready capacity, Leadtime",
        ),
        (
            '<path d="M0 9 H14 V3 H26" stroke="var(--reactive)" fill="none" stroke-width="2" '
            'stroke-dasharray="5 2"/>',
            "ready capacity, reactive",
        ),
        ('<circle cx="13" cy="6" r="4.5" fill="var(--ours)"/>', "Leadtime short"),
        ('<path d="M9 2 l8 8 m0 -8 l-8 8" stroke="var(--reactive)" stroke-width="2.2"/>', "reactive short"),
    ]
    for tier in [*charts.TIER_COLOURS, *sorted(present - charts.TIER_COLOURS.keys())]:
        if tier in present:
            name = charts.TIER_NAMES.get(tier, tier or "no tier")
            fill = name if tier in charts.TIER_COLOURS else "other"
            stripes = '<path d="M4 12 L16 0 M14 12 L26 0" stroke="var(--paper)" stroke-width="1.6"/>'
            mark = f'<rect width="26" height="12" fill="var(--{fill})"/>{stripes if tier == "SPOT" else ""}'
            items.append((mark, SHARED if tier == "SHARED" else f"{escape(name)} instances"))
    spans = "".join(
        f'<span><svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{mark}</svg>{text}</span>'
        for mark, text in items
    )
    return f'<p class="legend">{spans}</p>'


def _headline(runs: Sequence[AppRun], summary: Mapping[str, Any]) -> str:
    currency = str(summary.get("currency") or (runs[0].currency if runs else "USD"))
    hit, their_hit = _given(summary, "hit_rate"), _given(summary, "reactive_hit_rate")
    cost, their_cost = _given(summary, "cost"), _given(summary, "reactive_cost")
    missed = [
        sum(int(m.sum()) for m in of) for of in ([r.missed for r in runs], [r.reactive_missed for r in runs])
    ]
    rows = [
        ("Hit rate", fmt.percent(hit), fmt.percent(their_hit), _signed((hit - their_hit) * 100, " points")),
        ("Plans that held", fmt.percent(_given(summary, "realised_share_of_plans")), "", ""),
        ("Misses", f"{missed[0]:,}", f"{missed[1]:,}", _signed(missed[0] - missed[1], "", digits=0)),
        (
            "Cost",
            fmt.money(cost, currency),
            fmt.money(their_cost, currency),
            _signed(relative_difference(cost, their_cost) * 100, " %", digits=1),
        ),
        ("Coverage", fmt.percent(_given(summary, "coverage_95")), "", ""),
    ]
    head = ("", "Leadtime", "Reactive", "Difference")
    shared = _shared_nodes(summary.get("shared_nodes"), currency)
    return f"<section><h2>The whole run</h2>{html_parts.table(head, rows)}{shared}</section>"


def _shared_nodes(facts: Mapping[str, Any] | None, currency: str) -> str:
    """What the nodes cost that apps share, and what nodes of each app's own would; empty where none are shared."""
    if not facts:
        return ""
    return (
        f"<p>{escape(', '.join(facts['apps']))} share nodes, which cost {fmt.money(facts['cost'], currency)}; nodes of "
        f"each app's own would have cost {fmt.money(facts['cost_alone'], currency)}, by what the plans say that each "
        "needs at the same confidence. The reactive policy has instances of each app's own, sized for it.</p>"
    )


def _learner(run: LearnerRun) -> str:
    """The learner's part: sentences, and a picture of what was saved and missed beside static, with its changes."""
    name, facts = escape(run.app), run.figures
    if run.begins is None:
        return (
            f"<section><h2>The learner at work</h2><p>The plans of <b>{name}</b> are static: a day of known demand is "
            "needed before a price is used.</p></section>"
        )
    at = (run.start_s + run.tick_s * np.arange(1, len(run.cost) + 1)) / DAY_S
    began = np.arange(len(at)) > run.begins
    spent = {of: np.cumsum(np.where(began, cost, 0.0)) for of, cost in _beside(run, "cost")}
    missed = {of: np.cumsum(np.where(began, short, 0)) for of, short in _beside(run, "missed")}
    courses = {of: charts.Course(spent[STATIC_NAME] - spent[of], missed[of], ROLES[of]) for of in spent}
    allowed = run.allowed * np.cumsum(began & run.known)
    marks = {float(at[tick]): text.partition(",")[0] for tick, text in run.changes if tick >= 0}
    figure = charts.learner_figure(at, courses, allowed, marks, run.price)
    times = [fmt.date_time(run.start_s + (tick + 1) * run.tick_s) for tick, _ in run.changes]
    changes = "".join(
        f"<li>{time}: {escape(text)}</li>" for time, (_, text) in zip(times, run.changes, strict=True)
    )
    label = f"{name}: saved and missed beside static, and the price of a shortage"
    return (
        f"<section><h2>The learner at work</h2><p>{_outcome(run, facts)}</p><ul>{changes}</ul>"
        f'<div class="wide">{charts.svg(figure, label)}</div></section>'
    )


def _outcome(run: LearnerRun, facts: Mapping[str, Any]) -> str:
    """Since when the app is steered, at which prices, and what came of it."""
    first, least, most, last = (
        f"{_given(facts, f'price_{of}'):.0f}" for of in ("first", "least", "most", "last")
    )
    served, static = (fmt.percent(_given(facts, n)) for n in ("realised_share", "static_realised_share"))
    ours, theirs = (fmt.money(_given(facts, n), run.currency) for n in ("cost", "static_cost"))
    best = ""
    if run.best_price is not None:
        cost = fmt.money(float(run.best_cost[(run.begins or 0) + 1 :].sum()), run.currency)
        best = f" The best fixed price in hindsight, {run.best_price:.0f}, would have cost {cost}."
    return (
        f"<b>{escape(run.app)}</b> is steered from {fmt.date_time(facts['begins_s'])} UTC on, after a day of known "
        f"demand. An hour's shortage was worth {first} replica-hours at first, {least} to {most} since, and {last} at "
        f"the end. Of the ticks since then {served} were served for {ours}; a simulated fleet at the policy's "
        f"confidence (static) would have served {static} for {theirs}.{best}"
    )


STATIC_NAME: Final = "static (simulated)"
ROLES: Final = {
    "with the learner": "ours",
    STATIC_NAME: "",
    "best fixed price in hindsight (simulated)": "ink",
}


def _beside(run: LearnerRun, of: str) -> Iterator[tuple[str, np.ndarray]]:
    """Cost or misses by tick: as it came, static's, and the best fixed price's where there is one."""
    yield "with the learner", getattr(run, of)
    yield STATIC_NAME, getattr(run, f"static_{of}")
    if run.best_price is not None:
        yield "best fixed price in hindsight (simulated)", getattr(run, f"best_{of}")


def _facts(runs: Sequence[AppRun], summary: Mapping[str, Any]) -> str:
    given = {"apps": len(runs), "held": sum(int(run.held.sum()) for run in runs), **summary}
    shown = {
        "apps": "apps",
        "users": "users",
        "ticks": "ticks",
        "records": "records",
        "records_per_s": "records/s",
        "forecasts": "forecasts",
        "plans": "plans",
        "held": "held app-ticks",
        "commands": "commands",
        "applied": "applied",
        "late": "late records",
        "dead_letters": "dead letters",
        "wall_s": "seconds in all",
    }
    tiles = "".join(
        f"<div><dt>{label}</dt><dd>{fmt.number(_given(given, name))}</dd></div>"
        for name, label in shown.items()
        if name in given
    )
    return f'<dl class="facts">{tiles}</dl>'


def _chart(run: AppRun) -> str:
    window = slice(max(0, len(run.demand) - SHOWN_TICKS), len(run.demand))
    cut = f" · the last {SHOWN_TICKS:,} ticks" if window.start else ""
    scored = int(run.scored.sum())
    caption = (
        f"hit rate {fmt.percent(_hits(run.missed, scored))}, "
        f"reactive {fmt.percent(_hits(run.reactive_missed, scored))} · "
        f"cost {fmt.money(_spent(run, run.cost), run.currency)}, "
        f"reactive {fmt.money(_spent(run, run.reactive_cost), run.currency)}{cut}"
    )
    picture = charts.svg(charts.run_figure(run, window), escape(f"{run.app}: {caption}"))
    return (
        f"<figure><figcaption><b>{escape(run.app)}</b> {escape(caption)}</figcaption>"
        f'<div class="wide">{picture}</div></figure>'
    )


def _apps(runs: Sequence[AppRun]) -> str:
    rows: list[tuple[str, ...]] = []
    for run in runs:
        scored = int(run.scored.sum())
        measured = run.demand[~np.isnan(run.demand)]
        rows.append(
            (
                run.app,
                fmt.number(float(measured.mean()) if len(measured) else math.nan),
                fmt.number(float(measured.max()) if len(measured) else math.nan),
                fmt.percent(_hits(run.missed, scored)),
                fmt.percent(_hits(run.reactive_missed, scored)),
                fmt.percent(run.plans_kept / run.plans_judged if run.plans_judged else None),
                fmt.money(_spent(run, run.cost), run.currency),
                fmt.money(_spent(run, run.reactive_cost), run.currency),
                f"{int(run.held.sum()):,}",
            )
        )
    head = (
        "App",
        "Mean demand",
        "Peak",
        "Hit rate",
        "reactive",
        "Plans that held",
        "Cost",
        "reactive",
        "Held",
    )
    return f"<section><h2>All apps</h2>{html_parts.table(head, rows, 'rows')}</section>"


def _given(summary: Mapping[str, Any], name: str) -> float:
    """A figure of the summary; NaN where there is none."""
    value = summary.get(name)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def _spent(run: AppRun, cost: np.ndarray) -> float:
    """What was spent after the warm-up."""
    return float(np.nansum(cost[run.warm_up :]))


def _hits(missed: np.ndarray, scored: int) -> float:
    return 1 - int(missed.sum()) / scored if scored else math.nan


def _signed(value: float, unit: str, digits: int = 2) -> str:
    return f"{value:+,.{digits}f}{unit}".replace("-", "−") if math.isfinite(value) else fmt.MISSING
