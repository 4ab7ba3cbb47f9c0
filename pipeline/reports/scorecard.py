"""A picture of scores: reliability of each metric, and CRPS beside the rivals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.special import ndtri

from models.evaluation.forecast_scores import MAIN_STEPS, RELIABILITY, Scores
from models.metrics import METRICS
from pipeline.errors import UsageError
from pipeline.reports.charts import INK, MUTED, RULE, STYLE, png

COLOURS: Final[dict[str, str]] = dict(
    zip(METRICS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"), strict=True)
)
MARKS: Final[dict[str, str]] = dict(zip(METRICS, "osD^v", strict=True))
RIVAL_COLOURS: Final = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00")
TICKS: Final = (0.01, 0.1, 0.5, 0.9, 0.99)


def write(path: Path, report: dict[str, Any], scores: Scores) -> None:
    """Write the picture of a report and its scores as a PNG file.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        png(scorecard(report, scores), path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error}") from error


def scorecard(report: dict[str, Any], scores: Scores) -> Figure:
    """Reliability of steps 1 and 6 on normal axes, which show the tails, and the CRPS ratios of steps 1, 3 and 6."""
    metrics = list(dict.fromkeys(row["metric"] for row in report["by_metric_and_step"]))
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(13.0, 4.9), layout="constrained")
        figure.suptitle(
            f"{report['model_id']} on {Path(report['trace']).name}, {report['summary']['users']} users,"
            f" {report['from'][:16]} to {report['until'][:16]}, {report['tick_s']} s ticks",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        first, last, ratios = figure.subplots(1, 3)
        for axes, step in ((first, MAIN_STEPS[0]), (last, MAIN_STEPS[-1])):
            _reliability(axes, scores, metrics, step)
        first.set_ylabel("realised share of values at or below")
        handles, labels = first.get_legend_handles_labels()
        first.legend(handles, labels, frameon=False, loc="upper left")
        _ratios(ratios, report["by_metric_and_step"], metrics, list(scores.rivals))
    return figure


def _reliability(axes: Axes, scores: Scores, metrics: list[str], step: int) -> None:
    """Nominal against realised; bars span nine users in ten."""
    ends = ndtri([0.002, 0.998])
    axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
    for i, metric in enumerate(metrics):
        realised = scores.reliability(METRICS.index(metric), step - 1)
        users = realised[1:][~np.isnan(realised[1:, 0])]
        if not len(users):
            continue
        low, high = np.clip(np.quantile(users, [0.05, 0.95], axis=0), 0.003, 0.997)
        x = ndtri(RELIABILITY) + 0.035 * (i - (len(metrics) - 1) / 2)
        axes.vlines(x, ndtri(low), ndtri(high), color=COLOURS[metric], linewidth=1.6, alpha=0.35)
        y = ndtri(np.clip(realised[0], 0.003, 0.997))
        axes.plot(x, y, MARKS[metric], color=COLOURS[metric], markersize=4.5, label=metric)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ndtri(TICKS).tolist()))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(
            FuncFormatter(lambda z, _: f"{TICKS[np.abs(ndtri(TICKS) - z).argmin()]:.0%}")
        )
    axes.set(xlim=ends, ylim=ends, xlabel="nominal level", aspect="equal")
    axes.set_title(f"Reliability, step {step}" + (" (bars: 9 users in 10)" if step == 1 else ""), loc="left")


def _ratios(axes: Axes, rows: list[dict[str, Any]], metrics: list[str], rivals: list[str]) -> None:
    """A bar a rival, metric and step: below one the model is sharper."""
    wanted = [row for row in rows if row["step"] in MAIN_STEPS]
    places = [4 * metrics.index(row["metric"]) + MAIN_STEPS.index(row["step"]) for row in wanted]
    width = 0.86 / len(rivals)
    for i, rival in enumerate(rivals):
        values = [row["crps_ratio"][rival] or np.nan for row in wanted]
        x = np.array(places) + width * (i - (len(rivals) - 1) / 2)
        axes.bar(x, values, width, color=RIVAL_COLOURS[i], label=f"to {rival.replace('_', ' ')}")
    axes.axhline(1, color=INK, linewidth=1)
    axes.set_xticks(places, [str(row["step"]) for row in wanted])
    axes.grid(visible=False, axis="x")
    for m, metric in enumerate(metrics):
        axes.annotate(
            metric, (4 * m + 1, 0), (0, -17), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="top", color=INK,
        )  # fmt: skip
    axes.set_xlabel("step", labelpad=16)
    axes.set_title("CRPS ratio (below 1: the model is sharper)", loc="left")
    axes.set_ylim(0, max(1.15, *(1.25 * (row["crps_ratio"][r] or 0) for row in wanted for r in rivals)))
    axes.legend(frameon=False, loc="upper right", ncols=2)
    axes.spines["left"].set_color(RULE)
