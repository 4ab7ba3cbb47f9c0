"""Score the behaviour model on a trace, causally, beside baseline forecasters (docs/scoring.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import gcd
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from models.baselines import forecasters
from models.baselines.forecasters.observations import Observations
from models.behaviour import training_series
from models.behaviour.lstm import DEFAULT_MODEL, BehaviourModel
from models.evaluation import forecast_pass
from models.evaluation import promise as confidence
from models.evaluation.forecast_scores import MAIN_METRICS, Scores
from models.evaluation.trace_window import TraceWindow
from models.metrics import METRICS, horizon_steps
from pipeline.errors import UsageError
from pipeline.format import iso
from pipeline.inputs import model_folder
from pipeline.progress import Progress, silent
from pipeline.traces import doubts, trace_file
from pipeline.traces.trace_file import Panel
from pipeline.traces.window import ScoringWindow, ticks_of, window_of

DEFAULT_BASELINES: Final = ("persistence", "seasonal_naive")


@dataclass(frozen=True, eq=False)
class EvaluationRequest:
    """What to score, on which window, against which baselines.

    Attributes:
        trace: trace file or frame with its columns (docs/telemetry.md).
        model: folder of the model; None: the released one.
        tick_s: seconds of a tick; None: the trace's interval.
        begin, until: scored window, ISO 8601.
        warm_up: duration before it that is run and not scored, as "12h" or "8d"; see `window_of`.
        users: patterns of users to score, see `_matching`, or "@file" of patterns; None: all.
        held_out: only users whose hash keeps them out of training.
        baselines: names of `models.baselines.forecasters.NAMES`; none: DEFAULT_BASELINES.
        every: score the forecasts of every so many ticks.
        without_events: hide the trace's events from the model.
        forget: duration after which the model forgets all users, and is scored as new to them.
        apps: instead of forecasts, score how often plans of artificial apps keep a stated confidence.
        groupings: with `apps`: apps of each size.
        scenarios: with `apps`: of each decision.
        governed: with `apps`: metrics of the promise.
        seed: of the randomised PIT, the bootstrap and DeepAR.
    """

    trace: Path | pl.DataFrame
    model: Path | None = None
    tick_s: int | None = None
    begin: str | None = None
    until: str | None = None
    warm_up: str | None = None
    users: Sequence[str] | None = None
    held_out: bool = False
    baselines: Sequence[str] = ()
    every: int = 1
    without_events: bool = False
    forget: str | None = None
    apps: bool = False
    groupings: int = 20
    scenarios: int = 4_096
    governed: Sequence[str] = MAIN_METRICS
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """Baselines, each one time."""
        return list(dict.fromkeys(self.baselines or DEFAULT_BASELINES))


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        report: figures as `leadtime evaluate --json` prints them.
        scores: of the forecasts, for a picture.
    """

    report: dict[str, Any]
    scores: Scores


@dataclass(frozen=True)
class Prepared:
    """A request with its model and trace read.

    Attributes:
        request: as given.
        model: to score.
        panel: all users and ticks of the trace.
        skipped, notes: what of the trace was left out, and what was assumed of it (`pipeline.traces.trace_file.Trace`).
        users: columns of the users to score.
        window: rows that are run and scored.
        forget: ticks after which the model forgets all users; None: never.
    """

    request: EvaluationRequest
    model: BehaviourModel
    panel: Panel
    users: list[int]
    window: ScoringWindow
    forget: int | None
    skipped: Mapping[str, int]
    notes: Sequence[str]

    @property
    def trace(self) -> TraceWindow:
        """The window's rows of the chosen users."""
        rows = slice(self.window.begin, self.window.stop)
        events = self.panel.events[rows, self.users]
        if self.request.without_events:
            events = np.full_like(events, np.nan)
        return TraceWindow(
            self.panel.values[rows, self.users],
            events,
            self.panel.saturated[rows, self.users],
            first_tick=self.first_tick,
            tick_s=self.panel.tick_s,
            score_from=self.warm_up,
        )

    @property
    def first_tick(self) -> int:
        """Number of the first tick that is run."""
        return int(self.panel.ticks[self.window.begin])

    @property
    def warm_up(self) -> int:
        """Ticks that are run and not scored."""
        return self.window.score - self.window.begin

    def facts(self) -> dict[str, Any]:
        """What the report says of the request."""
        return {
            "trace": str(self.request.trace) if isinstance(self.request.trace, Path) else "frame",
            "model_id": self.model.model_id,
            "tick_s": self.panel.tick_s,
            "from": iso(self.panel.start_s(self.window.score)),
            "until": iso(self.panel.start_s(self.window.stop)),
            "warm_up_s": self.warm_up * self.panel.tick_s,
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
        }


def run(request: EvaluationRequest, progress: Progress = silent) -> Evaluation:
    """Score a model.

    Args:
        request: what to score.
        progress: called with the ticks done.

    Raises:
        UsageError: a name that is unknown, a file that cannot be read, or nothing to score.
    """
    _load_baselines(request.names)
    prepared = prepare(request)
    return _promise(prepared, progress) if request.apps else _forecasts(prepared, progress)


def prepare(request: EvaluationRequest) -> Prepared:
    """Read model and trace, choose users and window.

    Raises:
        UsageError: what cannot be read, or nothing to score.
    """
    model = model_folder.load_model(request.model or DEFAULT_MODEL)
    given = request.trace
    trace = trace_file.read(given) if isinstance(given, Path) else trace_file.of_frame(given, "frame")
    panel = trace_file.to_panel(trace, request.tick_s)
    users = _chosen(panel, request.users, request.held_out)
    window = window_of(panel, request.warm_up, request.begin, request.until)
    forget = None if request.forget is None else max(1, ticks_of(request.forget, panel.tick_s))
    if forget is not None and gcd(request.every, forget) > 1:
        raise UsageError(
            f"--every {request.every} with --forget {request.forget} would always score the same ticks after it was"
            f" forgotten: choose one that shares no factor with {forget}"
        )
    skipped = {**trace.skipped, "duplicates": doubts.repeated(trace.frame)}
    notes = (*trace.notes, *trace_file.slower_apps(trace, panel.tick_s))
    return Prepared(request, model, panel, users, window, forget, skipped, notes)


def _promise(prepared: Prepared, progress: Progress) -> Evaluation:
    """How often plans of artificial apps keep a stated confidence."""
    request, panel = prepared.request, prepared.panel
    governed = list(dict.fromkeys(request.governed))
    for name in governed:
        if name not in METRICS:
            raise UsageError(f"no metric {name!r}; known are {', '.join(METRICS)}")
    promise, scores = confidence.study(
        prepared.model,
        prepared.trace,
        confidence.groupings(len(prepared.users), request.groupings, request.seed),
        governed=governed,
        every=horizon_steps(panel.tick_s)[-1] if request.every == 1 else request.every,
        scenarios=request.scenarios,
        seed=request.seed,
        progress=lambda done, total: progress("planning", done, total),
    )
    report = prepared.facts() | {
        "scenarios": request.scenarios,
        "governed": governed,
        "rivals": list(scores.rivals),
    }
    return Evaluation(report | confidence.report(promise, scores, request.seed), scores)


def _forecasts(prepared: Prepared, progress: Progress) -> Evaluation:
    """Scores of the model's forecasts beside baselines."""
    request, panel = prepared.request, prepared.panel
    baselines: list[forecasters.Rival] = []
    for name in request.names:
        progress(f"fitting {name}", 0, 1, "takes some minutes" if name == "deepar" else "")
        baselines.append(_baseline(name, prepared))
        progress(f"fitting {name}", 1, 1)
    scores = forecast_pass.evaluate(
        prepared.model,
        prepared.trace,
        [panel.users[u] for u in prepared.users],
        rivals=baselines,
        every=request.every,
        forget=prepared.forget,
        seed=request.seed,
        progress=lambda done, total: progress("evaluating", done, total),
    )
    facts = prepared.facts()
    facts["notes"] += _unscored(prepared, scores)
    report = facts | {
        "every": request.every,
        "without_events": request.without_events,
        "forget_ticks": prepared.forget,
        "rivals": request.names,
        "by_metric_and_step": scores.table(),
        "summary": scores.summary(request.seed),
    }
    return Evaluation(report, scores)


def _unscored(prepared: Prepared, scores: Scores) -> list[str]:
    """A line on apps of which no user is scored, if there are any."""
    apps = [prepared.panel.apps[u] for u in prepared.users]
    scored = {apps[u] for u in np.flatnonzero(scores.scored.any((1, 2)))}
    left_out = [app for app in dict.fromkeys(apps) if app not in scored]
    if not left_out:
        return []
    others = f", nor of {len(left_out) - 1:,} others" if len(left_out) > 1 else ""
    return [
        f"no user of app {left_out[0]} is scored{others}: nothing but zeros was measured at the forecasts' steps in the"
        " window, or nothing at all"
    ]


def _load_baselines(names: Sequence[str]) -> None:
    """Load the libraries of baselines: before TensorFlow, see `models.baselines.forecasters.import_libraries`.

    Raises:
        UsageError: an unknown baseline, or one whose packages are not installed.
    """
    for name in names:
        if name not in forecasters.NAMES:
            raise UsageError(f"no rival {name!r}; known are {', '.join(forecasters.NAMES)}")
        try:
            forecasters.import_libraries(name)
        except ImportError as error:
            raise UsageError(f"rival {name} needs more packages ({error}): uv sync --group rivals") from error


def _chosen(panel: Panel, patterns: Sequence[str] | None, held_out: bool) -> list[int]:
    """Columns of the users to score.

    Raises:
        UsageError: a pattern that no user matches, a list that cannot be read, or none left.
    """
    names = list(zip(panel.apps, panel.users, strict=True))
    chosen = set(range(len(names)))
    if patterns is not None:
        columns: dict[tuple[str | None, str], set[int]] = {}
        for u, (app, user) in enumerate(names):
            columns.setdefault((None, user), set()).add(u)
            columns.setdefault((app, user), set()).add(u)
        listed = [pattern for given in patterns for pattern in _listed(given)]
        chosen = {u for pattern in listed for u in _matching(pattern, names, columns)}
        if not chosen:
            raise UsageError(f"no users to score: {', '.join(patterns)} names none")
    if held_out:
        chosen = {u for u in chosen if training_series.held_out("/".join(names[u]))}
    if not chosen:
        raise UsageError("no users to score: none of the chosen is held out")
    return sorted(chosen)


def _matching(
    pattern: str, names: Sequence[tuple[str, str]], columns: Mapping[tuple[str | None, str], set[int]]
) -> set[int]:
    """Columns of the users that a pattern matches: "user" or "app/user", as they are or with `*`, `?` and `[...]`.

    A slash, or a percent sign, that is part of a name may be written %2F, or %25, as in URLs.

    Args:
        pattern: names that are exactly so win over those that it matches by wildcards.
        names: app and user of each column.
        columns: of each (app, user) and of each (None, user).

    Raises:
        UsageError: no user matches, or some as "user", or split at one slash, and others otherwise.
    """
    splits = [(None, pattern), *((pattern[:i], pattern[i + 1 :]) for i, c in enumerate(pattern) if c == "/")]
    readings = [columns.get(split) or columns.get(_plain(split), set[int]()) for split in splits]
    if not any(readings):
        readings = [
            {u for u, name in enumerate(names) if _fits(name, split) or _fits(name, _plain(split))}
            for split in splits
        ]
    matching = set[int]().union(*readings)
    if not matching:
        shown = ", ".join(_escaped(name) for name in names[:3])
        raise UsageError(f"no user {pattern!r} in the trace; it has {shown}{', ...' * (len(names) > 3)}")
    if matching not in readings:
        first = sorted({min(reading) for reading in readings if reading})
        shown = " or ".join(_escaped(names[u]) for u in first)
        raise UsageError(f"users {pattern!r} may be {shown}: write a slash that is part of a name as %2F")
    return matching


def _fits(name: tuple[str, str], split: tuple[str | None, str]) -> bool:
    return fnmatchcase(name[1], split[1]) and (split[0] is None or fnmatchcase(name[0], split[0]))


def _plain(split: tuple[str | None, str]) -> tuple[str | None, str]:
    """With what is escaped as in `_escaped` as it is."""
    app, user = (None if text is None else text.replace("%2F", "/").replace("%25", "%") for text in split)
    return app, user or ""


def _escaped(name: tuple[str, str]) -> str:
    """`app/user` with slashes and percent signs of the two escaped as in URLs, so that it is of no other user."""
    return "/".join(text.replace("%", "%25").replace("/", "%2F") for text in name)


def _listed(given: str) -> list[str]:
    """A pattern, or those in the lines of "@file"."""
    if not given.startswith("@"):
        return [given]
    try:
        lines = Path(given[1:]).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{given[1:]}: cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _baseline(name: str, prepared: Prepared) -> forecasters.Rival:
    """A baseline for the window; one that is trained sees the times before it, of users not scored nor held out."""
    panel, window, users = prepared.panel, prepared.window, prepared.users
    others = [
        u
        for u, (app, user) in enumerate(zip(panel.apps, panel.users, strict=True))
        if u not in users and not training_series.held_out(f"{app}/{user}")
    ]
    before = slice(0, window.score)
    train = Observations(panel.values[before, others], panel.events[before, others], int(panel.ticks[0]))
    rows = slice(window.begin, window.stop)
    try:
        return forecasters.make(
            name,
            Observations(panel.values[rows, users], panel.events[rows, users], prepared.first_tick),
            tick_s=panel.tick_s,
            warm_up=prepared.warm_up,
            train=train if others else None,
            seed=prepared.request.seed,
        )
    except ValueError as error:
        raise UsageError(f"rival {name}: {error}") from error
