"""The `leadtime` command. Every command has --json: one object on stdout; progress and complaints go to stderr."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.command_line import run

COMMANDS: Final = {
    "demo": "pipeline.cli.demo:demo",
    "up": "pipeline.cli.up:up",
    "broker": "pipeline.cli.broker:broker",
    "observe": "pipeline.cli.observe:observe",
    "explain": "pipeline.cli.explain:explain",
    "train": "pipeline.cli.train:train",
    "evaluate": "pipeline.cli.evaluate:evaluate",
    "backtest": "pipeline.cli.backtest:backtest",
    "replay": "pipeline.cli.replay:replay",
    "ingest": "pipeline.stages.__main__:ingest",
    "worker": "pipeline.stages.__main__:worker",
    "actuator": "pipeline.stages.__main__:actuator",
    "topics": "pipeline.cli.inputs:topics_app",
    "policies": "pipeline.cli.inputs:policies_app",
    "prices": "pipeline.cli.inputs:prices_app",
    "calendar": "pipeline.cli.inputs:calendar_app",
    "models": "pipeline.cli.inputs:models_app",
    "bench": "pipeline.cli.bench:bench_app",
}
"""Module and name of each: a function, or an app of commands."""


class Commands(TyperGroup):
    """Imports what a command needs when it is asked for: all of it takes seconds."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None: there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), name)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command(cmd_name)(found)
            found = alone
        command = get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(metadata.version("leadtime"))
        raise typer.Exit


@app.callback()
def _leadtime(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Allocate cloud resources before they are needed."""


def main() -> None:
    """Run a command."""
    run(app)
