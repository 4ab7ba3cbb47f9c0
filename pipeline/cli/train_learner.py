"""`leadtime train-learner`: arguments, the call of `pipeline.backtest.learner_prior`, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import folders
from pipeline.display import phases, tables
from pipeline.options import AsJson


def train_learner(
    observations: Annotated[
        list[str],
        typer.Argument(
            help="Files observations.npz of `leadtime backtest --learner on --out`, one a trace; NAME=FILE names it.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the result; its name is the result's.")],
    seed: Annotated[int, typer.Option(help="Seed of the simulated demand.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Updates of the weights at most.")] = 200,
    simulated: Annotated[bool, typer.Option(help="Train on simulated demand too.")] = True,
    judge: Annotated[
        bool,
        typer.Option(
            "--judge",
            help="Take the real learner through every episode too, as trained without its trace (minutes an app).",
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Train what the learner of a new app begins with; validate it by holding out one trace after the other."""
    from pipeline.backtest import learner_prior  # seconds of imports, which --help does without

    request = learner_prior.PriorRequest(observations, out, seed, epochs, simulated, judge)
    folders.make(out, "--out")
    with phases("done") as progress:
        policy = learner_prior.train(request, progress)
    tables(dict(policy.facts) if json else learner_prior.for_people(policy), json)
