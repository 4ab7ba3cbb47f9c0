"""Fit the behaviour model on trace files and simulated populations, and score it on users and time held out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.behaviour import prior as calibration
from models.behaviour import training, training_series, training_split
from models.behaviour.lstm import BehaviourModel
from models.behaviour.training_series import Series
from models.evaluation import forecast_pass
from models.evaluation.trace_window import TraceWindow
from models.synthetic import series as synthetic
from pipeline.progress import Progress, silent
from pipeline.traces import trace_file


@dataclass(frozen=True)
class TrainingRequest:
    """What to train a model on.

    Attributes:
        traces: trace files.
        out: folder of the new model; its name is the model's id.
        seed: of weights and batches: equal seeds give equal models.
        updates: of the weights.
        minutes: after which the training stops before all updates are done.
        populations, machines: seed, tick_s and ticks of each simulated population and set of machines.
    """

    traces: Sequence[Path]
    out: Path
    seed: int = 0
    updates: int = 6000
    minutes: float = 60.0
    populations: Sequence[tuple[int, int, int]] = field(default_factory=lambda: synthetic.POPULATIONS)
    machines: Sequence[tuple[int, int, int]] = field(default_factory=lambda: synthetic.MACHINES)


@dataclass(frozen=True)
class TraceSeries:
    """Users of one trace file with one interval: as a panel, and as series, each on its own stretch of time.

    skipped, notes: what of the file was left out, and what was assumed of it (`pipeline.traces.trace_file.Trace`)
    """

    path: Path
    panel: trace_file.Panel
    users: list[Series]
    skipped: Mapping[str, int]
    notes: Sequence[str]

    @property
    def held_out(self) -> list[int]:
        """Columns of users held out."""
        return [u for u, user in enumerate(self.users) if training_series.held_out(user.name)]

    @property
    def name(self) -> str:
        """For a table of scores."""
        return f"{self.path.name}, {self.panel.tick_s} s"


def read(path: Path) -> list[TraceSeries]:
    """A trace file in parts, one for each interval of its users.

    Raises:
        UsageError: as `pipeline.traces.trace_file.read`.
    """
    parts: list[TraceSeries] = []
    for trace in trace_file.by_interval(trace_file.read(path)):
        panel = trace_file.to_panel(trace)
        users: list[Series] = []
        for u, (app, user) in enumerate(zip(panel.apps, panel.users, strict=True)):
            known = np.flatnonzero(~np.isnan(panel.values[:, u]).all(-1))
            at = slice(known[0], known[-1] + 1) if len(known) else slice(0)
            users.append(
                Series.of(
                    f"{app}/{user}",
                    panel.tick_s,
                    int(panel.ticks[at.start or 0]),
                    panel.values[at, u],
                    panel.events[at, u],
                    panel.saturated[at, u],
                )
            )
        parts.append(TraceSeries(path, panel, users, trace.skipped, trace.notes))
    return parts


def train(
    request: TrainingRequest, progress: Progress = silent, clock: Callable[[], float] = time.monotonic
) -> BehaviourModel:
    """Fit a model, calibrate it, score it, and save it with what it was trained on; `facts` has all of it.

    Args:
        request: what to train on.
        progress: called with updates done, the present loss and the best check.
        clock: seconds, by which the training stops.

    Raises:
        UsageError: a trace cannot be read.
    """
    parts = [part for path in request.traces for part in read(path)]
    model = _fit(request, parts, progress, clock)
    model.facts |= {
        "seed": request.seed,
        "updates": request.updates,
        "held_out": "users whose BLAKE2b-64 of app/user is 0 modulo 5, and the end of every user: 14 days or a quarter",
        "trained_on": [origin(path, [p for p in parts if p.path == path], _until) for path in request.traces],
        "synthetic": [{"seed": s, "tick_s": t, "ticks": n} for s, t, n in request.populations],
        "machines": [{"seed": s, "tick_s": t, "ticks": n} for s, t, n in request.machines],
    }
    model.facts |= calibrated(model, parts)  # the compiled step stays
    model.save(request.out)  # scoring takes minutes: what was fitted is not lost with it
    scored = {
        part.name: scores(
            model, part, training_split.test_rows(len(part.panel.ticks), part.panel.tick_s), part.held_out
        )
        for part in parts
        if part.held_out
    }
    model.facts["scores"] = {
        name: {"summary": of.summary(), "by_metric_and_step": of.table()} for name, of in scored.items()
    }
    model.save(request.out)
    return model


def _fit(
    request: TrainingRequest,
    parts: Sequence[TraceSeries],
    progress: Progress,
    clock: Callable[[], float],
) -> BehaviourModel:
    fit: list[Series] = []
    check: list[tuple[Series, int]] = []
    for part in parts:
        trains, checks = training_split.train_and_check(part.users)
        fit += training_split.extended(trains, request.seed)
        check += checks
    for population in request.populations:
        fit += synthetic.population_series(*population)
    for machines in request.machines:
        fit += synthetic.machine_series(*machines)
    end = clock() + 60 * request.minutes
    return training.fit(
        fit,
        check,
        training.FitSettings(request.seed, request.updates),
        model_id=request.out.name,
        stop=lambda: clock() > end,
        progress=updates_of(progress),
        checkpoint=lambda model: model.save(request.out),  # what a run that is cut off has reached
    )


def updates_of(progress: Progress) -> Callable[[int, int, float, float], None]:
    """Progress of the updates, with the present loss and the best check, as `training.fit` calls it."""
    return lambda done, total, loss, best: progress(
        "training", done, total, f"loss {loss:.3f}, best check {best:.4f}"
    )


def scores(
    model: BehaviourModel,
    part: TraceSeries,
    rows: tuple[int, int],
    users: Sequence[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> forecast_pass.Scores:
    """Score a model on some users of a part of a trace.

    Args:
        model: to score.
        part: of a trace.
        rows: first row of the pass, which warms up the state and the baseline, and the first one that is scored.
        users: columns.
        progress: called with (ticks done, ticks).
    """
    panel, (start, score) = part.panel, rows
    return forecast_pass.evaluate(
        model,
        TraceWindow(
            panel.values[start:, users],
            panel.events[start:, users],
            panel.saturated[start:, users],
            first_tick=int(panel.ticks[start]),
            tick_s=panel.tick_s,
            score_from=score - start,
        ),
        [panel.users[u] for u in users],
        progress=progress,
    )


def calibrated(model: BehaviourModel, parts: Sequence[TraceSeries]) -> dict[str, Any]:
    """Facts `prior`, where a new user's calibration begins, and `dependence` of the model's errors.

    Both are of users held out, over the ticks before the test window; a day warms up.
    """
    before: list[tuple[Any, Any]] = []
    for part in parts:
        panel, users = part.panel, part.held_out
        warm, start, stop = training_split.calibration_rows(len(panel.ticks), panel.tick_s)
        if users:
            before.append(
                calibration.normal_scores(
                    model,
                    panel.values[warm:stop, users],
                    panel.events[warm:stop, users],
                    panel.saturated[warm:stop, users],
                    first_tick=int(panel.ticks[warm]),
                    tick_s=panel.tick_s,
                    score_from=start - warm,
                )
            )
    prior = calibration.prior([state for _, state in before])
    dependence = calibration.dependence([scores for scores, _ in before])
    return {
        "prior": {name: array.round(4).tolist() for name, array in prior.items()},
        "dependence": {
            "shared": dependence.shared.round(4).tolist(),
            "metric_correlation": dependence.metric_correlation.round(4).tolist(),
            "step_correlation": round(dependence.step_correlation, 4),
        },
    }


def _until(part: TraceSeries) -> int:
    """Row of a part's panel before which training ends."""
    return training_split.test_start(len(part.panel.ticks), part.panel.tick_s)


def origin(path: Path, parts: Sequence[TraceSeries], until: Callable[[TraceSeries], int]) -> dict[str, Any]:
    """What of a file was learnt from: enough to tell whether a trace was in the training.

    Args:
        path: of the file.
        parts: of it.
        until: row of a part's panel before which training ends.
    """
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "skipped": dict(parts[0].skipped),
        "notes": list(parts[0].notes),
        "parts": [
            {
                "tick_s": part.panel.tick_s,
                "from_s": int(part.panel.ticks[0]) * part.panel.tick_s,
                "until_s": int(part.panel.ticks[until(part)]) * part.panel.tick_s,
                "users": len(part.users),
                "users_held_out": len(part.held_out),
            }
            for part in parts
        ],
    }
