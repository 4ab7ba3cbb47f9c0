"""The `leadtime` command. Every command has --json: one object on stdout; progress and complaints go to stderr."""

import sys

import typer

from pipeline.broker import broker
from pipeline.errors import LeadtimeError
from pipeline.train import evaluate, train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(broker)
app.command()(train)
app.command()(evaluate)


def main() -> None:
    """Run a command; what we raise on purpose is one line and exit code 2."""
    try:
        app()
    except LeadtimeError as error:
        print(f"leadtime: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `leadtime ... | head`
        sys.exit(0)
