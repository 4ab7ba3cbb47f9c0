"""`leadtime train`: arguments, the call of `pipeline.training`, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import folders
from pipeline.display import phases, tell
from pipeline.options import AsJson


def train(
    traces: Annotated[list[Path], typer.Argument(help="Trace files, Parquet or CSV.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model; its name is the model's id.")],
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Fine-tune the heads of this model, a folder or a released one's name, instead of training anew. The"
            " new model is saved where the days kept back are evidence that it forecasts better; else exit status 1.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of weights and batches: equal seeds give equal models.")
    ] = 0,
    updates: Annotated[
        int | None,
        typer.Option(min=1, help="Updates of the weights: 6000, with --tune 400.", show_default=False),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Stop after so many minutes, if updates are left then.")
    ] = 60.0,
    json: AsJson = False,
) -> None:
    """Fit the behaviour model on traces and simulated populations; score it on users and time held out."""
    folders.make(out, "--out")

    from pipeline.inputs import released_models  # seconds of imports, which --help does without
    from pipeline.training import fitting, tuning

    if tune is None:
        request = fitting.TrainingRequest(traces, out, seed, updates or 6000, minutes)
        with phases("updates") as progress:
            model = fitting.train(request, progress)
        tell(model.facts, json)
        return
    parent = released_models.named(tune)
    with phases("updates") as progress:
        facts = tuning.tune(
            tuning.TuningRequest(traces, parent, out, seed, updates or 400, minutes), progress
        )
    tell(facts, json)
    if not facts["promoted"]:
        raise typer.Exit(1)
