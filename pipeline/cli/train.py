"""`leadtime train`: arguments, the call of `pipeline.training.fitting`, and what is printed."""

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
    seed: Annotated[
        int, typer.Option(help="Seed of weights and batches: equal seeds give equal models.")
    ] = 0,
    updates: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = 6000,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Stop after so many minutes, if updates are left then.")
    ] = 60.0,
    json: AsJson = False,
) -> None:
    """Fit the behaviour model on traces and simulated populations; score it on users and time held out."""
    folders.make(out, "--out")

    from pipeline.training import fitting  # seconds of imports, which --help does without

    with phases("updates") as progress:
        model = fitting.train(fitting.TrainingRequest(traces, out, seed, updates, minutes), progress)
    tell(model.facts, json)
