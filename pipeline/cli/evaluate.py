"""`leadtime evaluate`: arguments, the call of `pipeline.training.evaluation`, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.baselines import forecasters
from models.evaluation.forecast_scores import MAIN_METRICS
from pipeline.display import phases, tell
from pipeline.errors import UsageError
from pipeline.options import AsJson


def evaluate(
    trace_file: Annotated[Path, typer.Option("--trace", help="Trace file, Parquet or CSV.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of the behaviour model.", show_default="the released one")
    ] = None,
    tick_s: Annotated[
        int | None, typer.Option("--tick", help="Seconds of a tick; by default the trace's interval.")
    ] = None,
    warm_up: Annotated[
        str | None,
        typer.Option(
            help="Duration before the scored window that is run and not scored, as 12h or 8d; default: a day or the"
            " first quarter; with --from eight days, or what the trace has."
        ),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option("--from", help="Start of the scored window, ISO 8601; default: after the warm-up."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the scored window, ISO 8601.")] = None,
    users: Annotated[
        list[str] | None,
        typer.Option(help="Users to score: user or app/user, * and ? match, @FILE lists; repeat for more."),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Score only users whose hash keeps them out of training.")
    ] = False,
    rival: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Baseline: {', '.join(forecasters.NAMES)}; repeat for more.",
            show_default="persistence, seasonal_naive",
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Score the forecasts of every so many ticks.")] = 1,
    without_events: Annotated[
        bool, typer.Option("--without-events", help="Hide the trace's events from the model.")
    ] = False,
    forget: Annotated[
        str | None,
        typer.Option(
            help="The model forgets all users after every such duration, as 1h, and is scored as new to them, beside"
            " baselines that are not."
        ),
    ] = None,
    apps: Annotated[
        bool,
        typer.Option(
            "--apps",
            help="Instead, plan artificial apps of the users and score how often the stated confidence is kept.",
        ),
    ] = False,
    each: Annotated[int, typer.Option("--groupings", min=1, help="With --apps: apps of each size.")] = 20,
    scenarios: Annotated[int, typer.Option(min=64, help="With --apps: scenarios of each decision.")] = 4_096,
    governed: Annotated[
        list[str] | None,
        typer.Option(
            help="With --apps: metric of the promise; repeat for more.", show_default=", ".join(MAIN_METRICS)
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file of reliability and ratios to write.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the randomised PIT, the bootstrap and DeepAR.")] = 0,
    json: AsJson = False,
) -> None:
    """Score the behaviour model's forecasts on a trace against baseline forecasters (docs/scoring.md).

    With --apps: seeded groupings of 10, 25 and 50 of the users and one app of all are planned once a horizon, and the
    promise is scored over all six steps; the baselines are persistence of the app's total and the sum of its users'
    own quantiles.

    The summary is over cpu, memory, network and disk, those that there are, at steps 1, 3 and 6; its ratios of
    slack are to the first baseline.
    """
    from pipeline.reports import scorecard  # seconds of imports, which --help does without
    from pipeline.training import evaluation

    if plot is not None and not plot.parent.is_dir():
        raise UsageError(f"{plot}: no such folder {plot.parent}")
    request = evaluation.EvaluationRequest(
        trace=trace_file,
        model=model,
        tick_s=tick_s,
        begin=begin,
        until=until,
        warm_up=warm_up,
        users=users,
        held_out=held_out,
        baselines=rival or (),
        every=every,
        without_events=without_events,
        forget=forget,
        apps=apps,
        groupings=each,
        scenarios=scenarios,
        governed=governed or MAIN_METRICS,
        seed=seed,
    )
    with phases("ticks") as progress:
        done = evaluation.run(request, progress)
    if plot is not None and not apps:
        scorecard.write(plot, done.report, done.scores)
    tell(done.report, json)
