"""`leadtime evaluate`: score the behaviour model on a trace file beside its rivals."""

from __future__ import annotations

from fnmatch import fnmatchcase
from math import gcd
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from models.baselines import forecasters
from models.behaviour import training_series
from models.behaviour.lstm import DEFAULT_MODEL, BehaviourModel
from models.evaluation import forecast_pass
from models.evaluation import promise as confidence
from models.evaluation.forecast_scores import MAIN_METRICS
from models.metrics import METRICS, horizon_steps
from pipeline.display import progress, tell
from pipeline.errors import UsageError
from pipeline.format import iso
from pipeline.options import AsJson
from pipeline.reports import scorecard
from pipeline.traces import trace_file as trace
from pipeline.traces.window import ScoringWindow, ticks_of, window_of

DEFAULT_RIVALS: Final = ("persistence", "seasonal_naive")


def evaluate(
    trace_file: Annotated[Path, typer.Option("--trace", help="Trace file, Parquet or CSV.")],
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = DEFAULT_MODEL,
    tick_s: Annotated[
        int | None, typer.Option("--tick", help="Seconds of a tick; by default the trace's interval.")
    ] = None,
    warm_up: Annotated[
        str | None,
        typer.Option(
            help="Run and not scored before the scored window, as 12h or 8d; by default a day or the first quarter,"
            " and eight days or what there is before --from."
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
            help=f"Of {', '.join(forecasters.NAMES)}; repeat for more.",
            show_default=", ".join(DEFAULT_RIVALS),
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Score the forecasts of every so many ticks.")] = 1,
    without_events: Annotated[
        bool, typer.Option("--without-events", help="Hide the trace's events from the model.")
    ] = False,
    forget: Annotated[
        str | None,
        typer.Option(
            help="The model forgets all users after every such time, as 1h, and is scored as new to them, beside"
            " rivals that are not."
        ),
    ] = None,
    apps: Annotated[
        bool,
        typer.Option(
            "--apps",
            help="Instead, make apps of the users, plan them and say how often the stated confidence is kept.",
        ),
    ] = False,
    each: Annotated[int, typer.Option("--groupings", min=1, help="With --apps: apps of each size.")] = 20,
    scenarios: Annotated[int, typer.Option(min=64, help="With --apps: of each decision.")] = 4_096,
    governed: Annotated[
        list[str] | None,
        typer.Option(
            help="With --apps: metric of the promise; repeat for more.", show_default=", ".join(MAIN_METRICS)
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write reliability and ratios as a PNG file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the randomised PIT, the bootstrap and DeepAR.")] = 0,
    json: AsJson = False,
) -> None:
    """Score a model over a trace, causally, beside its rivals, as docs/scoring.md defines it.

    With --apps: seeded groupings of 10, 25 and 50 of the users and one app of all, decided once a horizon, the promise
    over all six steps; the rivals are persistence of the app's total and the sum of its users' own quantiles.

    The summary is over cpu, memory, network and disk, those that there are, at steps 1, 3 and 6; its ratios of
    slack are to the first rival.
    """
    names = list(dict.fromkeys(rival or DEFAULT_RIVALS))
    for name in names:
        if name not in forecasters.NAMES:
            raise UsageError(f"no rival {name!r}; known are {', '.join(forecasters.NAMES)}")
        try:
            forecasters.load(name)
        except ImportError as error:
            raise UsageError(f"rival {name} needs more packages ({error}): uv sync --group rivals") from error
    if plot is not None and not plot.parent.is_dir():
        raise UsageError(f"{plot}: no such folder {plot.parent}")
    behaviour = _open(model)
    panel = trace.to_panel(trace.read(trace_file), tick_s)
    chosen = _chosen(panel, users, held_out)
    window = window_of(panel, warm_up, begin, until)
    forget_ticks = None if forget is None else max(1, ticks_of(forget, panel.tick_s))
    if forget_ticks is not None and gcd(every, forget_ticks) > 1:
        said = f"with --forget {forget} would always score the same ticks after it was forgotten"
        raise UsageError(f"--every {every} {said}: choose one that shares no factor with {forget_ticks}")
    part = slice(window.begin, window.stop), chosen
    values, events, saturated = panel.values[part], panel.events[part], panel.saturated[part]
    if without_events:
        events = np.full_like(events, np.nan)
    report: dict[str, Any] = {
        "trace": str(trace_file),
        "model_id": behaviour.model_id,
        "tick_s": panel.tick_s,
        "from": iso(panel.start_s(window.score)),
        "until": iso(panel.start_s(window.stop)),
        "warm_up_s": (window.score - window.begin) * panel.tick_s,
    }
    if apps:
        metrics = list(dict.fromkeys(governed or MAIN_METRICS))
        for name in metrics:
            if name not in METRICS:
                raise UsageError(f"no metric {name!r}; known are {', '.join(METRICS)}")
        with progress("ticks") as bar:
            task = bar.add_task("planning", total=len(values), note="")
            promise, scores = confidence.study(
                behaviour,
                values,
                events,
                saturated,
                confidence.groupings(len(chosen), each, seed),
                first_tick=int(panel.ticks[window.begin]),
                tick_s=panel.tick_s,
                score_from=window.score - window.begin,
                governed=metrics,
                every=horizon_steps(panel.tick_s)[-1] if every == 1 else every,
                scenarios=scenarios,
                seed=seed,
                progress=lambda done, _: bar.update(task, completed=done),
            )
        report |= {"scenarios": scenarios, "governed": metrics, "rivals": list(scores.rivals)}
        report |= confidence.report(promise, scores, seed)
        tell(report, json)
        return
    beside: list[forecasters.Rival] = []
    for name in names:
        with Console(stderr=True).status(f"fitting {name} (deepar: some minutes)"):
            beside.append(_rival(name, panel, chosen, window, seed))
    with progress("ticks") as bar:
        task = bar.add_task("evaluating", total=len(values), note="")
        scores = forecast_pass.evaluate(
            behaviour,
            values,
            events,
            saturated,
            [panel.users[u] for u in chosen],
            first_tick=int(panel.ticks[window.begin]),
            tick_s=panel.tick_s,
            score_from=window.score - window.begin,
            rivals=beside,
            every=every,
            forget=forget_ticks,
            seed=seed,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    rows = scores.table()
    report |= {
        "every": every,
        "without_events": without_events,
        "forget_ticks": forget_ticks,
        "rivals": names,
        "by_metric_and_step": rows,
        "summary": scores.summary(seed),
    }
    if plot is not None:
        scorecard.write(plot, report, scores)
    tell(report, json)


def _open(path: Path) -> BehaviourModel:
    try:
        return BehaviourModel.load(path)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _chosen(panel: trace.Panel, patterns: list[str] | None, held_out: bool) -> list[int]:
    """Columns of the users to score.

    Raises:
        UsageError: a pattern that no user matches, a list that cannot be read, or none left.
    """
    names = [f"{app}/{user}" for app, user in zip(panel.apps, panel.users, strict=True)]
    chosen = set(range(len(names)))
    if patterns is not None:
        wanted = [pattern for given in patterns for pattern in _listed(given)]
        chosen = set[int]()
        for pattern in wanted:
            matching = {
                u
                for u, name in enumerate(names)
                if fnmatchcase(name, pattern) or fnmatchcase(panel.users[u], pattern)
            }
            if not matching:
                raise UsageError(f"no user {pattern!r} in the trace; it has {', '.join(names[:3])}, ...")
            chosen |= matching
    if held_out:
        chosen = {u for u in chosen if training_series.held_out(names[u])}
    if not chosen:
        raise UsageError("no users to score: none of the chosen is held out")
    return sorted(chosen)


def _listed(given: str) -> list[str]:
    if not given.startswith("@"):
        return [given]
    try:
        lines = Path(given[1:]).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{given[1:]}: cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _rival(
    name: str, panel: trace.Panel, chosen: list[int], window: ScoringWindow, seed: int
) -> forecasters.Rival:
    """A rival for the window; one that is trained sees the times before it, of users not scored nor held out."""
    others = [
        u
        for u, (app, user) in enumerate(zip(panel.apps, panel.users, strict=True))
        if u not in chosen and not training_series.held_out(f"{app}/{user}")
    ]
    try:
        return forecasters.make(
            name,
            panel.values[window.begin : window.stop, chosen],
            events=panel.events[window.begin : window.stop, chosen],
            first_tick=int(panel.ticks[window.begin]),
            tick_s=panel.tick_s,
            warm_up=window.score - window.begin,
            train=(panel.values[: window.score, others], panel.events[: window.score, others])
            if others
            else None,
            train_tick=int(panel.ticks[0]),
            seed=seed,
        )
    except ValueError as error:
        raise UsageError(f"rival {name}: {error}") from error
