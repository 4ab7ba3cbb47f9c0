"""`leadtime evaluate`: score the behaviour model on a trace file beside its rivals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models import scoring
from models.features import DAY_S
from models.lstm import DEFAULT_MODEL, BehaviourModel
from pipeline import trace
from pipeline.display import progress, tell
from pipeline.errors import UsageError


def evaluate(
    trace_file: Annotated[Path, typer.Option("--trace", help="Trace file, Parquet or CSV.")],
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = DEFAULT_MODEL,
    tick_s: Annotated[int | None, typer.Option(help="Tick length; by default the trace's interval.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score a model over a whole trace, causally, beside persistence; the first day warms both up."""
    behaviour = _open(model)
    panel = trace.to_panel(trace.read(trace_file), tick_s)
    ticks = len(panel.ticks)
    with progress("ticks") as bar:
        task = bar.add_task("evaluating", total=ticks, note="")
        scores = scoring.evaluate(
            behaviour,
            panel.values,
            panel.events,
            panel.saturated,
            panel.users,
            first_tick=int(panel.ticks[0]),
            tick_s=panel.tick_s,
            score_from=min(DAY_S // panel.tick_s, ticks // 4),
            progress=lambda done, _: bar.update(task, completed=done),
        )
    tell(
        {
            "trace": str(trace_file),
            "model_id": behaviour.model_id,
            "tick_s": panel.tick_s,
            "by_metric_and_step": scores.table(),
            **scores.summary(),
        },
        json,
    )


def _open(path: Path) -> BehaviourModel:
    try:
        return BehaviourModel.load(path)
    except ValueError as error:
        raise UsageError(str(error)) from error
