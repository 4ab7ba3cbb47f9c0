"""What commands on models show: progress, facts and tables."""

from __future__ import annotations

import json as jsonlib
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def progress(unit: str) -> Progress:
    """A bar on stderr that counts `unit`; its tasks need a field `note`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} " + unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


def tell(facts: dict[str, Any], json: bool) -> None:
    """One JSON object, or the same for people."""
    if json:
        sys.stdout.write(jsonlib.dumps(facts) + "\n")
        return
    console = Console()
    for name, value in facts.items():
        if name == "by_metric_and_step":
            console.print(_table(value))
        elif name == "scores":
            for title, score in value.items():
                console.print(_table(score["by_metric_and_step"], title))
                console.print(score["summary"])
        elif not isinstance(value, (dict, list)):
            console.print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _table(rows: list[dict[str, Any]], title: str | None = None) -> Table:
    table = Table(*(rows[0] if rows else ()), title=title)
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table
