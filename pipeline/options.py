"""Options that several commands have, so that they read the same everywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Bootstrap = Annotated[
    str | None, typer.Option(help="Kafka's address, host:port.", show_default="LEADTIME_BOOTSTRAP")
]
Prefix = Annotated[
    str | None, typer.Option(help="Put before every topic's name.", show_default="LEADTIME_PREFIX")
]
Speed = Annotated[
    float | None, typer.Option(min=0.001, help="Event seconds a second; default: as fast as it goes.")
]

Model = Annotated[
    Path | None, typer.Option(help="Folder of the behaviour model.", show_default="the released one")
]
TickLength = Annotated[
    int | None, typer.Option("--tick", help="Seconds of a tick; by default the trace's interval.")
]
ScoredFrom = Annotated[
    str | None,
    typer.Option("--from", help="Start of the scored window, ISO 8601; default: after the warm-up."),
]
ScoredUntil = Annotated[str | None, typer.Option("--until", help="End of the scored window, ISO 8601.")]


def refuse_unused(options: Mapping[str, object], where: str) -> None:
    """Refuse options that would be taken without effect.

    Args:
        options: what was given, by the option's name; None or nothing: it was not.
        where: in which case they have no effect, and what would be right.

    Raises:
        UsageError: names those that were given.
    """
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{', '.join(given)}: no effect {where}")


def span_of(text: str | None) -> tuple[int, int] | None:
    """FROM:TO of offsets.

    Raises:
        UsageError: not such a text.
    """
    if text is None:
        return None
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--offsets {text}: not FROM:TO") from None
    return first, last
