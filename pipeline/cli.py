"""The `leadtime` command. Every command has --json: one object on stdout; progress and complaints go to stderr."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.stages import run

COMMANDS: Final = {
    "demo": "demo:demo",
    "up": "up:up",
    "broker": "broker:broker",
    "observe": "observe:observe",
    "explain": "explain:explain",
    "train": "train:train",
    "evaluate": "evaluate:evaluate",
    "backtest": "backtest:backtest",
    "replay": "replay_command:replay",
    "ingest": "stages:ingest",
    "worker": "stages:worker",
    "actuator": "stages:actuator",
    "topics": "admin:topics_app",
    "policies": "admin:policies_app",
    "prices": "admin:prices_app",
    "calendar": "admin:calendar_app",
    "models": "admin:models_app",
    "bench": "bench:bench_app",
}
"""Where each is, in this package: a function, or an app of commands."""


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
        found = getattr(import_module(f"pipeline.{module}"), name)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command(cmd_name)(found)
            found = alone
        command = get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def _leadtime() -> None:
    """Allocate cloud resources before they are needed."""


def main() -> None:
    """Run a command."""
    run(app)
