"""How command lines are made, and how they end: a `LeadtimeError` becomes one line on stderr and an exit status."""

import sys
from typing import Any

import typer

from pipeline.errors import USAGE_EXIT, LeadtimeError, Unreachable


def command_group(**options: Any) -> typer.Typer:
    """A Typer app as all of ours are: help in plain text (rich takes 0.3 s to import), tracebacks as Python has them.

    Args:
        options: of `typer.Typer` besides these, such as `help`.
    """
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options)


def run(app: typer.Typer, unreachable: int = USAGE_EXIT) -> None:
    """Run a command line and end the process; a `LeadtimeError` is printed as one line, any other keeps its traceback.

    Args:
        app: the commands.
        unreachable: exit status where Kafka or a registry does not answer; other `LeadtimeError`s give USAGE_EXIT.
    """
    try:
        app()
    except LeadtimeError as error:
        print(f"leadtime: {error}", file=sys.stderr)
        sys.exit(unreachable if isinstance(error, Unreachable) else USAGE_EXIT)
    except BrokenPipeError:  # `leadtime ... | head`
        sys.exit(0)
