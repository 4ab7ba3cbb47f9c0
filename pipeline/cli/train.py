"""`leadtime train`: fit the behaviour model on trace files and score it on users and time held out."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from models.behaviour import prior as calibration
from models.behaviour import training, training_series
from models.behaviour.lstm import BehaviourModel, State
from models.behaviour.training_series import Series
from models.evaluation import forecast_pass
from models.metrics import DAY_S, EVENT_KINDS
from models.synthetic import machines
from models.synthetic import population as synthetic
from pipeline.display import progress, tell
from pipeline.traces import trace_file

LATER_S: Final = (
    14 * DAY_S
)  # the last two weeks of a trace, or its last quarter where it is shorter than eight
GROUP_SIZES: Final = [2, 3, 5, 8, 10, 15, 25, 35, 50, 75] * 3
CALIBRATION_TICKS: Final = 4_000  # two weeks of five minutes
SYNTHETIC: Final = (
    (1, 60, 4 * 1440),
    (2, 60, 4 * 1440),
    (3, 10, 8640),
    (4, 300, 14 * 288),
)  # seed, tick_s, ticks
MACHINES: Final = ((11, 10, 8640), (12, 60, 7 * 1440), (13, 300, 30 * 288), (14, 300, 30 * 288))  # likewise
MACHINES_EACH: Final = 40
SIMULATED_WEIGHT: Final = 0.4  # real series are drawn twice in three times
MACHINE_GROUPS: Final = [2, 5, 10, 20, 30]


@dataclass(frozen=True)
class Source:
    """Users of one trace file with one interval, as arrays and as series (each on its own stretch of time)."""

    path: Path
    panel: trace_file.Panel
    users: list[Series]

    @property
    def later(self) -> int:
        """First row of the panel's test window."""
        ticks = len(self.panel.ticks)
        return ticks - min(LATER_S // self.panel.tick_s, ticks // 4)


def load(path: Path) -> list[Source]:
    """A trace file as one source per interval of its users.

    Raises:
        UsageError: as `trace.read`.
    """
    sources: list[Source] = []
    for part in trace_file.by_interval(trace_file.read(path)):
        panel = trace_file.to_panel(part)
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
        sources.append(Source(path, panel, users))
    return sources


def simulated(seed: int, tick_s: int, ticks: int) -> list[Series]:
    """A synthetic population as series; its events lead its demand."""
    people = synthetic.population(seed=seed, tick_s=tick_s, ticks=ticks, apps=2, users_per_app=15)
    return [
        Series.of(
            f"synthetic-{seed}/{people.apps[u]}/{people.users[u]}",
            tick_s,
            int(people.ticks[0]),
            people.values[:, u],
            people.events[:, u],
            people.saturated[:, u],
            SIMULATED_WEIGHT,
        )
        for u in range(len(people.users))
    ]


def machine_series(seed: int, tick_s: int, ticks: int) -> list[Series]:
    """Simulated machines and totals of some of them as series; without events."""
    values = machines.machines(seed=seed, users=MACHINES_EACH, ticks=ticks, tick_s=tick_s)
    silent = np.full((ticks, len(EVENT_KINDS)), np.nan, np.float32)
    each = [
        Series.of(
            f"machine-{seed}/{u}",
            tick_s,
            0,
            values[:, u],
            silent,
            np.zeros(values[:, u].shape, bool),
            SIMULATED_WEIGHT,
        )
        for u in range(MACHINES_EACH)
    ]
    return each + training_series.groups(each, MACHINE_GROUPS, seed)


def split(source: Source) -> tuple[list[Series], list[tuple[Series, int]]]:
    """What trains, and what stops the training early, with the row from which it counts.

    Nothing of the test window is in either. Users held out stop the training by the window before it.
    """
    fit: list[Series] = []
    check: list[tuple[Series, int]] = []
    for user in source.users:
        ticks = len(user.values)
        later = min(LATER_S // user.tick_s, ticks // 4)
        if training_series.held_out(user.name):
            start = max(0, ticks - 2 * later - 7 * DAY_S // user.tick_s)
            check.append((user.part(start, ticks - later), ticks - 2 * later - start))
        else:
            fit.append(user.part(0, ticks - later))
    return fit, check


def train(
    traces: Annotated[list[Path], typer.Argument(help="Trace files, Parquet or CSV.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model; its name is the model's id.")],
    seed: Annotated[int, typer.Option(help="Of weights and batches: equal seeds give equal models.")] = 0,
    updates: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = 6000,
    minutes: Annotated[float, typer.Option(min=0.1, help="Stop earlier, at this time.")] = 60.0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fit the behaviour model on traces and a simulated population, and score it on users and time held out."""
    sources = [source for path in traces for source in load(path)]
    fit: list[Series] = []
    check: list[tuple[Series, int]] = []
    for source in sources:
        some, held = split(source)
        fit, check = fit + some, check + held
        if len(some) > 5:
            fit += training_series.groups(some, [size for size in GROUP_SIZES if size <= len(some)], seed)
        if source.panel.tick_s == 60:
            fit += [training_series.coarser(one, 5) for one in some]
    for population in SYNTHETIC:
        fit += simulated(*population)
    for population in MACHINES:
        fit += machine_series(*population)
    end = time.monotonic() + 60 * minutes
    with progress("updates") as bar:
        task = bar.add_task("training", total=updates, note="")

        def show(done: int, _total: int, loss: float, best: float) -> None:
            bar.update(task, completed=done, note=f"loss {loss:.3f}, best check {best:.4f}")

        model = training.fit(
            fit,
            check,
            model_id=out.name,
            seed=seed,
            updates=updates,
            stop=lambda: time.monotonic() > end,
            progress=show,
            checkpoint=lambda model: model.save(out),  # what a run that is cut off has reached
        )
    model.facts |= {
        "seed": seed,
        "updates": updates,
        "held_out": "users whose BLAKE2b-64 of app/user is 0 modulo 5, and the end of every user: 14 days or a quarter",
        "trained_on": [_origin(path, [s for s in sources if s.path == path]) for path in traces],
        "synthetic": [{"seed": s, "tick_s": t, "ticks": n} for s, t, n in SYNTHETIC],
        "machines": [{"seed": s, "tick_s": t, "ticks": n} for s, t, n in MACHINES],
    }
    model = calibrated(model, sources)
    model.save(out)  # scoring takes minutes: what was fitted is not lost with it
    model.facts["scores"] = {}
    for source in sources:
        scores = _score(model, source)
        if scores is not None:
            name = f"{source.path.name}, {source.panel.tick_s} s"
            model.facts["scores"][name] = {"summary": scores.summary(), "by_metric_and_step": scores.table()}
    model.save(out)
    tell(model.facts, json)


def _score(model: BehaviourModel, source: Source) -> forecast_pass.Scores | None:
    """Users held out, over the test window; the eight days before it warm up the state and the rival."""
    panel = source.panel
    users = [u for u, user in enumerate(source.users) if training_series.held_out(user.name)]
    if not users:
        return None
    start = max(0, source.later - 8 * DAY_S // panel.tick_s)
    return forecast_pass.evaluate(
        model,
        panel.values[start:, users],
        panel.events[start:, users],
        panel.saturated[start:, users],
        [panel.users[u] for u in users],
        first_tick=int(panel.ticks[start]),
        tick_s=panel.tick_s,
        score_from=source.later - start,
    )


def _before(
    model: BehaviourModel, sources: list[Source]
) -> list[tuple[np.ndarray[Any, np.dtype[np.float32]], State]]:
    """Normal scores and last state of users held out, over the ticks before the test window; a day warms up."""
    scores: list[tuple[np.ndarray[Any, np.dtype[np.float32]], State]] = []
    for source in sources:
        panel = source.panel
        users = [u for u, user in enumerate(source.users) if training_series.held_out(user.name)]
        start = max(0, source.later - CALIBRATION_TICKS)
        warm = max(0, start - DAY_S // panel.tick_s)
        if users:
            scores.append(
                calibration.normal_scores(
                    model,
                    panel.values[warm : source.later, users],
                    panel.events[warm : source.later, users],
                    panel.saturated[warm : source.later, users],
                    first_tick=int(panel.ticks[warm]),
                    tick_s=panel.tick_s,
                    score_from=start - warm,
                )
            )
    return scores


def calibrated(model: BehaviourModel, sources: list[Source]) -> BehaviourModel:
    """The model with what a new user's calibration begins at, and the dependence of its errors."""
    before = _before(model, sources)
    prior = {
        name: found.round(4).tolist() for name, found in calibration.prior([s for _, s in before]).items()
    }
    found = calibration.dependence([scores for scores, _ in before])
    dependence = {
        "shared": found.shared.round(4).tolist(),
        "metric_correlation": found.metric_correlation.round(4).tolist(),
        "step_correlation": round(found.step_correlation, 4),
    }
    model.facts |= {"prior": prior, "dependence": dependence}  # the compiled step stays
    return model


def _origin(path: Path, sources: list[Source]) -> dict[str, Any]:
    """What of a file was learnt from: enough to tell whether a trace was in the training."""
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parts": [
            {
                "tick_s": source.panel.tick_s,
                "from_s": int(source.panel.ticks[0]) * source.panel.tick_s,
                "until_s": int(source.panel.ticks[source.later]) * source.panel.tick_s,
                "users": len(source.users),
                "users_held_out": sum(training_series.held_out(user.name) for user in source.users),
            }
            for source in sources
        ],
    }
