"""`leadtime evaluate`: arguments, the call of `pipeline.training.evaluation`, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.baselines import forecasters
from models.evaluation.forecast_scores import MAIN_METRICS
from pipeline.display import phases, tell
from pipeline.errors import UsageError
from pipeline.options import AsJson, Model, ScoredFrom, ScoredUntil, TickLength, refuse_unused

if TYPE_CHECKING:
    from pipeline.training.evaluation import EvaluationRequest

Trace = Annotated[Path, typer.Option("--trace", help="Trace file, Parquet or CSV.")]
WarmUp = Annotated[
    str | None,
    typer.Option(
        help="Duration before the scored window that is run and not scored, as 12h or 8d; default: a day or the"
        " first quarter; with --from eight days, or what the trace has."
    ),
]
Users = Annotated[
    list[str] | None,
    typer.Option(help="Users to score: user or app/user, * and ? match, @FILE lists; repeat for more."),
]
HeldOut = Annotated[
    bool, typer.Option("--held-out", help="Score only users whose hash keeps them out of training.")
]
Rivals = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Baseline: {', '.join(forecasters.NAMES)}; repeat for more.",
        show_default="persistence, seasonal_naive",
    ),
]
Every = Annotated[int, typer.Option(min=1, help="Score the forecasts of every so many ticks.")]
WithoutEvents = Annotated[
    bool, typer.Option("--without-events", help="Hide the trace's events from the model.")
]
Forget = Annotated[
    str | None,
    typer.Option(
        help="The model forgets all users after every such duration, as 1h, and is scored as new to them, beside"
        " baselines that are not."
    ),
]
Apps = Annotated[
    bool,
    typer.Option(
        "--apps",
        help="Instead, plan artificial apps of the users and score how often the stated confidence is kept.",
    ),
]
GROUPINGS, SCENARIOS = 20, 4_096
Groupings = Annotated[
    int | None, typer.Option(min=1, help="With --apps: apps of each size.", show_default=str(GROUPINGS))
]
Scenarios = Annotated[
    int | None,
    typer.Option(min=64, help="With --apps: scenarios of each decision.", show_default=str(SCENARIOS)),
]
Governed = Annotated[
    list[str] | None,
    typer.Option(
        help="With --apps: metric of the promise; repeat for more.", show_default=", ".join(MAIN_METRICS)
    ),
]
Plot = Annotated[Path | None, typer.Option(help="PNG file of reliability and ratios to write.")]
Seed = Annotated[int, typer.Option(help="Seed of the randomised PIT, the bootstrap and DeepAR.")]


def evaluate(
    trace: Trace,
    model: Model = None,
    tick_s: TickLength = None,
    warm_up: WarmUp = None,
    begin: ScoredFrom = None,
    until: ScoredUntil = None,
    users: Users = None,
    held_out: HeldOut = False,
    rival: Rivals = None,
    every: Every = 1,
    without_events: WithoutEvents = False,
    forget: Forget = None,
    apps: Apps = False,
    groupings: Groupings = None,
    scenarios: Scenarios = None,
    governed: Governed = None,
    plot: Plot = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Score the behaviour model's forecasts on a trace against baseline forecasters (docs/scoring.md).

    With --apps: seeded groupings of 10, 25 and 50 of the users and one app of all are planned once a horizon, and the
    promise is scored over all six steps; the baselines are persistence of the app's total and the sum of its users'
    own quantiles.

    The summary is over cpu, memory, network and disk, those that there are, at steps 1, 3 and 6; its ratios of
    slack are to the first baseline.
    """
    from pipeline.training.evaluation import (
        EvaluationRequest,
    )  # seconds of imports, which --help does without

    if plot is not None and not plot.parent.is_dir():
        raise UsageError(f"{plot}: no such folder {plot.parent}")
    if apps:
        refuse_unused({"--rival": rival, "--forget": forget, "--plot": plot}, "with --apps")
    else:
        of_apps = {"--groupings": groupings, "--scenarios": scenarios, "--governed": governed}
        refuse_unused(of_apps, "without --apps")
    request = EvaluationRequest(
        trace=trace,
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
        groupings=groupings or GROUPINGS,
        scenarios=scenarios or SCENARIOS,
        governed=governed or MAIN_METRICS,
        seed=seed,
    )
    _run(request, plot, json)


def _run(request: EvaluationRequest, plot: Path | None, json: bool) -> None:
    """Score forecasts with progress on stderr, draw them into the file `plot`, and print the report."""
    from pipeline.reports import scorecard
    from pipeline.training import evaluation

    with phases("ticks") as progress:
        done = evaluation.run(request, progress)
    if plot is not None:
        scorecard.write(plot, done.report, done.scores)
    tell(done.report, json)
