"""What commands print: progress, facts and tables. rich is imported when something is shown: --help needs none."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pipeline.progress import Progress

if TYPE_CHECKING:
    from rich import progress as bars
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

COLUMNS: Final = {
    "metric": "metric",
    "step": "step",
    "crps_ratio": "CRPS ratio to",
    "coverage_95": "95 % covers",
    "inside_95": "closed",
    "users_within_92_98": "users in 92-98 %",
    "bound_99": "99 % holds",
    "slack_99_matched": "slack at 99 %",
    "slack_ratio": "slack ratio to",
    "censored": "censored",
}
"""Columns of a table of scores: field of a row, heading; a field of several rivals has a column for each."""


def progress(unit: str) -> bars.Progress:
    """A bar on stderr that counts `unit`; its tasks need a field `note`."""
    from rich import progress as bars
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    return bars.Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} " + unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )


@contextmanager
def phases(unit: str) -> Generator[Progress]:
    """Bars on stderr, one for each phase that the yielded `Progress` is called with."""
    bar = progress(unit)
    tasks: dict[str, TaskID] = {}

    def show(phase: str, done: int, total: int, note: str = "") -> None:
        if not tasks:
            bar.start()  # not before: an error that comes first stays a single line
        if phase not in tasks:
            tasks[phase] = bar.add_task(phase, note="")
        bar.update(tasks[phase], completed=done, total=total, note=note)

    try:
        yield show
    finally:
        if tasks:
            bar.stop()


def tell(facts: dict[str, Any], json: bool) -> None:
    """One JSON object, or the same for people."""
    if json:
        sys.stdout.write(jsonlib.dumps(facts) + "\n")
        return

    console = _console()
    for name, value in facts.items():
        if name == "by_metric_and_step":
            console.print(_table(value))
        elif name == "scores":
            for title, score in value.items():
                console.print(_table(score["by_metric_and_step"], title))
                console.print(score["summary"])
        elif name in ("promise", "what_if"):
            console.print(_table_of(value))
        elif name == "summary":
            console.print(value)
        else:
            for line in _lines(name, value):
                console.print(line, highlight=name not in ("skipped", "notes", "trained_on"))


def _console() -> Console:
    """A console that prints names as they are: by default rich takes [brackets] for markup and :key: for a picture."""
    from rich.console import Console

    return Console(markup=False, emoji=False)


def _lines(name: str, value: Any) -> list[str]:
    """A fact as lines: a single value; what was left out of a trace or assumed of it; both of several traces.

    Other lists and dictionaries are for JSON alone.
    """
    if name == "skipped":
        return [f"skipped, {what}: {count:,}" for what, count in value.items() if count]
    if name == "notes":
        return [f"note: {note}" for note in value]
    if name == "trained_on":
        return [
            line
            for origin in value
            for line in (
                f"trained on: {origin['file']}",
                *_lines("skipped", origin["skipped"]),
                *_lines("notes", origin["notes"]),
            )
        ]
    if isinstance(value, (dict, list)):
        return []
    return [f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"]


def _table(rows: list[dict[str, Any]], title: str | None = None) -> Table:
    from rich.table import Table

    shown: list[dict[str, Any]] = []
    for row in rows:
        flat: dict[str, Any] = {}
        for field, heading in COLUMNS.items():
            value = row.get(field)
            flat |= (
                {f"{heading} {k}": v for k, v in value.items()}
                if isinstance(value, dict)
                else {heading: value}
            )
        shown.append(flat)
    table = Table(*(shown[0] if shown else ()), title=title)
    for row in shown:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def _table_of(rows: list[dict[str, Any]]) -> Table:
    """Rows as they are."""
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()))
    return table


def tables(facts: dict[str, Any], json: bool) -> None:
    """One JSON object; for people its lists of rows are tables, and parts of it have their names before them."""
    if json:
        tell(facts, json)
        return

    console = _console()
    for name, value in facts.items():
        if isinstance(value, dict):
            tables({f"{name}, {part}": of for part, of in value.items()}, json)
        elif isinstance(value, list) and value:
            console.print(_table_of(value), name)
        else:
            for line in _lines(name, value):
                console.print(line)
