"""Fine-tune the heads of a behaviour model on an installation's own telemetry; kept where it forecasts better."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.behaviour import training, training_split
from models.behaviour.lstm import BehaviourModel
from models.behaviour.training_series import Series
from models.evaluation.forecast_scores import Scores
from models.learning import model_gate
from pipeline.errors import UsageError
from pipeline.progress import Progress, silent
from pipeline.training.fitting import TraceSeries, origin, read, scores, updates_of

CHECK_EVERY: Final = 50
ROWS: Final = 64


@dataclass(frozen=True)
class TuningRequest:
    """What to fine-tune a model on.

    Attributes:
        traces: trace files.
        parent: folder of the model that is fine-tuned.
        out: folder of the new model; its name is the model's id.
        seed: of batches: equal seeds give equal models.
        updates: of the weights.
        minutes: after which the training stops before all updates are done.
    """

    traces: Sequence[Path]
    parent: Path
    out: Path
    seed: int = 0
    updates: int = 400
    minutes: float = 60.0


def tune(
    request: TuningRequest, progress: Progress = silent, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Fine-tune a model, judge it beside its parent on the days kept back, and save it where it is better.

    Args:
        request: what to train on.
        progress: called with updates done, the present loss and the best check, then with the ticks that are judged.
        clock: seconds, by which the training stops.

    Returns:
        the model card; its `gate` says whether the model was saved (`promoted`).

    Raises:
        UsageError: a trace cannot be read, the parent is no model, or the traces are too short.
    """
    try:
        parent = BehaviourModel.load(request.parent)
    except ValueError as error:
        raise UsageError(str(error)) from error
    parts = [part for path in request.traces for part in read(path)]
    model = _tuned(request, parent, parts, progress, clock)
    evidence = [
        model_gate.judged(
            *(_scores(of, part, name, progress) for name, of in (("new", model), ("parent", parent)))
        )
        for part in parts
    ]
    lineage = [*parent.facts.get("lineage", ()), parent.model_id]
    model.facts = parent.facts | {
        "model_id": request.out.name,
        "parent": parent.model_id,
        "lineage": lineage,
        "seed": request.seed,
        "updates": request.updates,
        "held_out": "of all users the last 14 days, or half",
        "tuned_on": [origin(path, [p for p in parts if p.path == path], _until) for path in request.traces],
        "gate": {part.name: of.facts() for part, of in zip(parts, evidence, strict=True)},
        "promoted": all(of.crps_ratio <= 1 for of in evidence) and any(of.promoted for of in evidence),
    }
    model.facts.pop("scores", None)
    if model.facts["promoted"]:
        model.save(request.out)
    return model.facts


def _until(part: TraceSeries) -> int:
    """Row of a part's panel from which on models are judged."""
    return training_split.judged_rows(len(part.panel.ticks), part.panel.tick_s)[1]


def _tuned(
    request: TuningRequest,
    parent: BehaviourModel,
    parts: Sequence[TraceSeries],
    progress: Progress,
    clock: Callable[[], float],
) -> BehaviourModel:
    fit: list[Series] = []
    check: list[tuple[Series, int]] = []
    for part in parts:
        fits, checks = training_split.tuned_and_check(part.users, int(part.panel.ticks[_until(part)]))
        fit += training_split.extended(fits, request.seed)
        check += checks
    if not fit:
        raise UsageError(
            f"no user has {training_split.LEAST_TICKS} ticks before those that models are judged on (the last 14 days,"
            " or half): give longer traces"
        )
    end = clock() + 60 * request.minutes
    return training.fit(
        fit,
        check,
        training.FitSettings(request.seed, request.updates, CHECK_EVERY, ROWS),
        model_id=request.out.name,
        parent=parent,
        stop=lambda: clock() > end,
        progress=updates_of(progress),
    )


def _scores(model: BehaviourModel, part: TraceSeries, name: str, progress: Progress) -> Scores:
    """All users of a part over the days kept back."""
    panel = part.panel
    return scores(
        model,
        part,
        training_split.judged_rows(len(panel.ticks), panel.tick_s),
        range(len(panel.users)),
        lambda done, total: progress(f"judging {name}", done, total, ""),
    )
