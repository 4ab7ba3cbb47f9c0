"""How a command line ends: what is raised on purpose becomes one line on stderr and an exit status."""

import sys

import typer

from pipeline.errors import USAGE_EXIT, LeadtimeError, Unreachable


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
