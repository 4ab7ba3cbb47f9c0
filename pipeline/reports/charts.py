"""Pictures of a run and of a forecast: SVG that follows its page's light or dark theme, or a PNG file.

Series differ in more than colour: capacity is solid or dashed, misses have a mark and a lane each, spot is hatched.
The colours are of the Okabe-Ito palette, which people with any colour vision tell apart.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from models.quantile_function import QuantileFunction
from pipeline.format import duration
from pipeline.reports.app_run import AppRun

DAY_S = 86_400.0
INK, MUTED, RULE, PAPER = "#1b2330", "#5d6776", "#dfe3e9", "#fefefe"
FORECAST, OURS, REACTIVE = "#a9cfea", "#0072b2", "#d55e00"
TIER_COLOURS = {"RESERVED": "#46566b", "ON_DEMAND": "#56b4e9", "SPOT": "#f0c75e"}
TIER_NAMES = {"RESERVED": "reserved", "ON_DEMAND": "on-demand", "SPOT": "spot"}
OTHER_TIER = "#cc79a7"
THEME = {
    "ink": INK,
    "muted": MUTED,
    "rule": RULE,
    "paper": PAPER,
    "forecast": FORECAST,
    "ours": OURS,
    "reactive": REACTIVE,
    "reserved": TIER_COLOURS["RESERVED"],
    "on-demand": TIER_COLOURS["ON_DEMAND"],
    "spot": TIER_COLOURS["SPOT"],
    "other": OTHER_TIER,
}
"""CSS variables of a page, and the colours that stand for them in a figure."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leadtime",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "hatch.linewidth": 0.9,
    "timezone": "UTC",
}
BURST = 6.0
"""A peak of more times the 95 % quantile is cut: at six, the rest would keep a sixth of the height."""


@dataclass(frozen=True)
class Moment:
    """The rise that a picture is about: ticks at which our capacity came, the reactive was short, and caught up."""

    ready: int | None
    short: int
    over: int


def svg(figure: Figure, label: str) -> str:
    """A figure as an inline SVG element whose colours are the variables of THEME.

    Args:
        figure: made under STYLE.
        label: says what it shows to those who cannot see it; already escaped.
    """
    out = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)  # a hundredth of a point is finer than any screen
    for name, colour in THEME.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def png(figure: Figure, path: Path) -> None:
    """Write a figure to a file, on white.

    Raises:
        OSError: the file cannot be written.
    """
    with mpl.rc_context(STYLE):
        figure.savefig(path, format="png", dpi=150, facecolor="white")


def run_figure(run: AppRun, window: slice, moment: Moment | None = None, cut: bool = True) -> Figure:
    """Demand, fan and both capacities; below, lanes of misses; below, instances by tier.

    Args:
        run: the app.
        window: ticks to show.
        moment: to point at, in ticks of the run.
        cut: bound the axis where one burst dwarfs the rest.
    """
    ticks = np.arange(len(run.demand))[window]
    edges = (run.start_s + run.tick_s * np.append(ticks, ticks[-1:] + 1)) / DAY_S
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 5.5 if moment else 4.7))
        grid = figure.add_gridspec(
            3,
            1,
            height_ratios=(3.6, 0.7, 1.0),
            hspace=0.16,
            left=0.125,
            right=0.98,
            bottom=0.095,
            top=0.88 if moment else 0.975,
        )
        main = figure.add_subplot(grid[0])
        lanes, tiers = (figure.add_subplot(grid[row], sharex=main) for row in (1, 2))
        if len(ticks):
            _capacity(main, run, ticks, edges, cut)
            _lanes(lanes, run, ticks, edges)
            _instances(tiers, run, ticks, edges, cut)
            main.set_xlim(edges[0], edges[-1])
        if moment is not None:
            _point(main, run, moment)
        for axes in (main, lanes):
            axes.tick_params(axis="x", length=0, labelbottom=False)
        time_axis(tiers)
        figure.align_ylabels([main, tiers])
    return figure


STYLES: Final = {
    "": (MUTED, "-"),
    "ours": (OURS, "-"),
    "reactive": (REACTIVE, "--"),
    "ink": (INK, ":"),
}
"""Colour and line of a policy's role."""


class Course(NamedTuple):
    """A setting over time: (tick) what it saved so far, and what it missed so far; and its role in STYLES."""

    saved: np.ndarray
    missed: np.ndarray
    role: str


def learner_figure(
    at: np.ndarray,
    courses: Mapping[str, Course],
    allowed: np.ndarray,
    changes: Mapping[float, str],
    price: np.ndarray | None = None,
) -> Figure:
    """What settings saved and missed over time, what may be missed, and the price of a shortage that was in force.

    Args:
        at: (tick) days since the epoch.
        courses: by shown name.
        allowed: (tick) misses so far that are allowed.
        changes: text by time, days since the epoch; each is marked.
        price: (tick) NaN: none; None: no panel for it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 4.6 if price is None else 6.2), layout="constrained")
        panels = figure.subplots(2 if price is None else 3, 1, sharex=True)
        saved, missed = panels[:2]
        for name, course in courses.items():
            colour, line = STYLES[course.role]
            width = 2 if course.role == "ours" else 1.3
            style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": width}
            saved.plot(at, course.saved, label=name, **style)
            missed.plot(at, course.missed, **style)
        missed.plot(at, allowed, color=REACTIVE, linestyle="--", linewidth=1.2, label="allowed")
        for axes in panels:
            for moment in changes:
                axes.axvline(moment, color=MUTED, linewidth=0.8, linestyle=":")
            axes.set_xlim(at[0], at[-1])
        saved.set_ylabel("saved")
        missed.set_ylabel("missed app-ticks")
        if price is not None:
            panels[2].plot(at, price, color=OURS, linewidth=2)
            panels[2].set_ylabel("shortage's price")
        row, before = 0, -np.inf
        for moment, text in sorted(changes.items()):  # texts that begin close to each other stand in rows
            row = row + 1 if moment - before < (at[-1] - at[0]) / 4 else 0
            before = moment
            panels[-1].annotate(
                text, (moment, 1), (3, -3 - 12 * row), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=8.5, va="top", color=INK,
            )  # fmt: skip
        time_axis(panels[-1])
        figure.legend(frameon=False, ncols=4, loc="outside upper left")
    return figure


def time_axis(axes: Axes) -> None:
    """Dates and times along the bottom."""
    locator = AutoDateLocator(minticks=4, maxticks=11)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _capacity(axes: Axes, run: AppRun, ticks: np.ndarray, edges: np.ndarray, cut: bool) -> None:
    middle = (edges[:-1] + edges[1:]) / 2
    demand, ready, reactive = run.demand[ticks], run.ready[ticks], run.reactive[ticks]
    top = top_of(np.concatenate([demand, ready, reactive]), run.high[ticks], cut)
    axes.fill_between(middle, run.low[ticks], run.high[ticks], color=FORECAST, alpha=0.6, linewidth=0)
    axes.stairs(reactive, edges, color=REACTIVE, linewidth=1.5, linestyle=(0, (4, 1.6)), baseline=None)
    axes.stairs(ready, edges, color=OURS, linewidth=2.0, baseline=None)
    axes.plot(middle, demand, color=INK, linewidth=1.6, marker="." if len(ticks) < 4 else "")
    for missed, capacity, colour, mark, size in (
        (run.reactive_missed[ticks], reactive, REACTIVE, "x", 26),
        (run.missed[ticks], ready, OURS, "o", 34),
    ):
        at = middle[missed]
        axes.vlines(at, capacity[missed], demand[missed], color=colour, linewidth=1.2, alpha=0.55)
        outline: dict[str, Any] = {} if mark == "x" else {"edgecolors": PAPER}
        axes.scatter(at, demand[missed], size, color=colour, marker=mark, zorder=4, linewidths=1.4, **outline)
    if ticks[0] < run.warm_up:
        end = float(edges[min(run.warm_up - ticks[0], len(ticks))])
        axes.axvspan(float(edges[0]), end, color=MUTED, alpha=0.12, linewidth=0)
        axes.annotate(
            " warm-up, not scored", (edges[0], 1), xycoords=axes.get_xaxis_transform(), va="top", color=MUTED
        )
    if np.isnan(demand).all():
        axes.annotate(
            "demand was not measured", (0.5, 0.5), xycoords="axes fraction", ha="center", color=MUTED
        )
    for tick in _bursts(demand, top):
        axes.annotate(
            f" ▲ up to {demand[tick]:,.0f} ",
            (edges[tick + 1], top),
            ha="left" if tick < 0.8 * len(ticks) else "right",
            va="top",
            fontweight="bold",
            zorder=5,
        )
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=top > 3))
    axes.set_ylabel("replicas")


def top_of(solid: np.ndarray, high: np.ndarray, cut: bool) -> float:
    """Upper end of the axis: what was measured and there fits, unless one burst dwarfs the rest (see BURST).

    The fan, whose upper end may be anything, gets at most half of this again.

    Args:
        solid: demand and capacities, NaN = none.
        high: (tick) upper end of the fan.
        cut: whether a burst may be cut.
    """
    solid, high = solid[np.isfinite(solid)], high[np.isfinite(high)]
    if not len(solid):
        return 1.0
    top, usual = float(solid.max()), float(np.quantile(solid, 0.95))
    if cut and top > BURST * max(usual, 1.0):
        top = 2.0 * max(usual, 1.0)
    if len(high):
        top = max(top, min(float(np.quantile(high, 0.98)), 1.5 * top))
    return max(1.08 * top, 0.1)


def _bursts(demand: np.ndarray, top: float) -> list[int]:
    """The highest tick of each stretch above the axis, of the five highest stretches."""
    above = np.flatnonzero(np.nan_to_num(demand) > top)
    stretches = np.split(above, np.flatnonzero(np.diff(above) > 1) + 1) if len(above) else []
    peaks = [int(stretch[np.argmax(demand[stretch])]) for stretch in stretches]
    return sorted(peaks, key=lambda tick: -demand[tick])[:5]


def _lanes(axes: Axes, run: AppRun, ticks: np.ndarray, edges: np.ndarray) -> None:
    width = float(edges[1] - edges[0])
    rows: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("Leadtime short", run.missed[ticks], {"color": OURS}),
        ("reactive short", run.reactive_missed[ticks], {"facecolor": "none", "edgecolor": REACTIVE}),
    ]
    if run.held[ticks].any():
        rows.append(("held", run.held[ticks], {"color": MUTED}))
    for row, (_, marked, style) in enumerate(rows):
        spans = [(edge, width) for edge in edges[:-1][marked]]
        hatch = "/////" if "edgecolor" in style else ""
        axes.broken_barh(spans, (row - 0.36, 0.72), linewidth=0.6, hatch=hatch, **style)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_yticks(range(len(rows)), [f"{name}: {marked.sum():,}" for name, marked, _ in rows])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_facecolor("none")


def tiers_of(run: AppRun) -> list[str]:
    """The run's tiers, in the order in which they are bought."""
    present = {run.tiers.get(offer, "") for offer in run.counts}
    return [tier for tier in TIER_COLOURS if tier in present] + sorted(present - TIER_COLOURS.keys())


def _instances(axes: Axes, run: AppRun, ticks: np.ndarray, edges: np.ndarray, cut: bool) -> None:
    base = np.zeros(len(ticks))
    for tier in tiers_of(run):
        offers = [counts for offer, counts in run.counts.items() if run.tiers.get(offer, "") == tier]
        above = base + np.nan_to_num(np.sum([counts[ticks] for counts in offers], axis=0))
        hatch = "////" if tier == "SPOT" else ""
        colour = TIER_COLOURS.get(tier, OTHER_TIER)
        axes.stairs(
            above,
            edges,
            baseline=base,
            fill=True,
            facecolor=colour,
            edgecolor=PAPER,
            linewidth=0,
            hatch=hatch,
        )
        base = above
    axes.set_ylim(0, max(1.0, top_of(base, base[:0], cut)))
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.set_ylabel("instances")


def _point(axes: Axes, run: AppRun, moment: Moment) -> None:
    """Above the picture: how long before the rise our capacity was there, and how long the reactive was short."""
    ready, short, over = (
        None if tick is None else (run.start_s + run.tick_s * tick) / DAY_S
        for tick in (moment.ready, moment.short, moment.over)
    )
    assert short is not None
    assert over is not None
    across = axes.get_xaxis_transform()
    left, right = axes.get_xlim()
    place = (short - left) / (right - left)
    spans = [
        (
            short,
            over,
            REACTIVE,
            f"reactive policy short for {duration((moment.over - moment.short) * run.tick_s)}",
            1.06,
        )
    ]
    if ready is not None and moment.ready is not None:
        label = f"Leadtime ready {duration((moment.short - moment.ready) * run.tick_s)} ahead"
        spans.append((ready, short, OURS, label, 1.15))
    for start, end, colour, label, height in spans:
        axes.plot(
            (start, end), (height - 0.025,) * 2, color=colour, linewidth=3, transform=across, clip_on=False
        )
        near = start if place < 0.7 else end
        axes.annotate(
            label,
            (near, height),
            xycoords=across,
            ha="left" if place < 0.7 else "right",
            va="bottom",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )
        axes.axvspan(start, end, color=colour, alpha=0.09, linewidth=0)


@dataclass(frozen=True)
class Panel:
    """One metric of a forecast in its surroundings.

    Attributes:
        metric, unit: names.
        observed: (past) usage, the last is the tick of the forecast; NaN = none.
        capacity: (past + steps) demand that the planned capacity carries; NaN = not known.
        forecast: (step).
        required: (step) demand that the plan must carry.
    """

    metric: str
    unit: str
    observed: np.ndarray
    capacity: np.ndarray
    forecast: QuantileFunction
    required: np.ndarray


def fan_figure(
    title: str, panels: Sequence[Panel], *, end_s: float, tick_s: int, steps_s: Sequence[int]
) -> Figure:
    """History, fan of a forecast and planned capacity, a panel a metric.

    Args:
        title: above.
        panels: at least one.
        end_s: unix seconds at which the forecast's tick ends.
        tick_s: seconds of a tick.
        steps_s: (step) end of each step, seconds from `end_s`.
    """
    past = len(panels[0].observed)
    before = end_s + tick_s * (np.arange(1 - past, 1) - 0.5)
    ahead = end_s + np.asarray(steps_s) - tick_s / 2
    times = np.concatenate([[before[-1]], ahead]) / DAY_S
    edges = np.concatenate([end_s + tick_s * np.arange(-past, 1), end_s + np.asarray(steps_s)]) / DAY_S
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 0.9 + 2.6 * len(panels)), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        axes_of = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(axes_of, panels, strict=True):
            now = panel.observed[-1:]
            for level, alpha in ((0.99, 0.35), (0.95, 0.55), (0.5, 1.0)):
                low, high = panel.forecast.interval(level)
                axes.fill_between(
                    times, np.append(now, low), np.append(now, high), color=FORECAST, alpha=alpha, linewidth=0,
                    label=f"{level:.0%} of the forecast",
                )  # fmt: skip
            axes.plot(times, np.append(now, panel.forecast.mean()), color=OURS, linewidth=1, label="mean")
            axes.plot(before / DAY_S, panel.observed, color=INK, linewidth=1.6, label="observed")
            axes.scatter(
                ahead / DAY_S, panel.required, 30, color=REACTIVE, marker="D", zorder=4, label="required"
            )
            axes.stairs(
                panel.capacity,
                edges,
                baseline=None,
                color=OURS,
                linewidth=2,
                label="planned capacity carries",
            )
            axes.axvline(end_s / DAY_S, color=MUTED, linewidth=0.8, linestyle=":")
            axes.set_ylabel(f"{panel.metric} [{panel.unit}]")
            if panel.unit.startswith("bytes"):
                axes.yaxis.set_major_formatter(EngFormatter())
            solid = np.concatenate([panel.observed, panel.capacity, panel.required])
            axes.set_ylim(0, top_of(solid, panel.forecast.interval(0.99)[1], cut=False))
            axes.set_xlim(edges[0], edges[-1])
        time_axis(axes_of[-1])
        handles, labels = axes_of[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    return figure
