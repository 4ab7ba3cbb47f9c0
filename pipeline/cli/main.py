"""The `leadtime` command. Every command has --json: one object on stdout; progress and errors go to stderr.

The table COMMANDS has each command's one line of help, so that `leadtime --help` imports no command; a command imports
what it runs inside its function, so that `leadtime COMMAND --help` imports no library for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.command_line import command_group, run


class Command(NamedTuple):
    """Where a command is, as `module:name` of a function or of a group of commands, and its line of help."""

    where: str
    help: str


COMMANDS: Final = {
    "demo": Command(
        "pipeline.cli.demo:demo",
        "Replay a trace through all stages and compare the outcome with a reactive policy.",
    ),
    "up": Command(
        "pipeline.cli.up:up", "Run all stages on this machine; a stage that dies is started again."
    ),
    "broker": Command("pipeline.cli.broker:broker", "Run the embedded Kafka alone, until Ctrl-C or SIGTERM."),
    "observe": Command(
        "pipeline.cli.observe:observe",
        "Publish this machine's own telemetry, one user per command that runs on it.",
    ),
    "explain": Command("pipeline.cli.explain:explain", "Explain one decision: why an app has its instances."),
    "learner": Command(
        "pipeline.cli.learner:learner_app", "Show what the learner does: arms, evidence, promotions, savings."
    ),
    "train": Command(
        "pipeline.cli.train:train", "Fit the behaviour model on traces and simulated populations."
    ),
    "train-learner": Command(
        "pipeline.cli.train_learner:train_learner",
        "Train what the learner of a new app begins with, on recorded backtests.",
    ),
    "evaluate": Command(
        "pipeline.cli.evaluate:evaluate",
        "Score the behaviour model's forecasts on a trace against baselines.",
    ),
    "backtest": Command(
        "pipeline.cli.backtest:backtest",
        "Backtest the planner on a trace or topics against autoscalers.",
    ),
    "replay": Command(
        "pipeline.cli.replay:replay", "Publish a trace, or a window of topics, into the raw topics."
    ),
    "ingest": Command(
        "pipeline.stages.__main__:ingest", "Run ingest: group raw telemetry records into frames."
    ),
    "worker": Command(
        "pipeline.stages.__main__:worker",
        "Run a worker: forecasts, joint scenarios, plans and their adjustments.",
    ),
    "actuator": Command(
        "pipeline.stages.__main__:actuator", "Run the actuator: apply commands and report capacity."
    ),
    "scaler": Command(
        "pipeline.cli.scaler:scaler", "Answer KEDA, as its external push scaler, what is planned."
    ),
    "targets": Command(
        "pipeline.cli.targets:targets_app", "Check which objects of a cluster the targets of commands are."
    ),
    "topics": Command("pipeline.cli.inputs:topics_app", "List or create the topics."),
    "policies": Command("pipeline.cli.inputs:policies_app", "List, check or publish the policies of apps."),
    "prices": Command(
        "pipeline.cli.inputs:prices_app", "List, publish or pull the offers that can be bought."
    ),
    "calendar": Command("pipeline.cli.inputs:calendar_app", "List or publish events that change demand."),
    "models": Command("pipeline.cli.inputs:models_app", "List the released models."),
    "pseudonyms": Command(
        "pipeline.cli.pseudonyms:pseudonyms_app", "List or rotate the keys that hide users."
    ),
    "bench": Command(
        "pipeline.cli.bench:bench_app", "Measure speed and cost of the parts against baselines."
    ),
}


class LazyCommands(TyperGroup):
    """A group that imports a command when it is called, and none for its list of commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS)  # names only: what a misspelt command is compared with

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, imported; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].where.partition(":")
        target = getattr(import_module(module), name)
        if not isinstance(target, typer.Typer):
            group = command_group()
            group.command(cmd_name)(target)
            target = group
        command = get_command(target)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, from COMMANDS."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


app = command_group(cls=LazyCommands, no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # 0.05 s

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
    """Run a command and end the process."""
    run(app)
