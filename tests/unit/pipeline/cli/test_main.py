"""The command line: every command is there, and its help needs no library that takes long to import."""

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.cli.main import COMMANDS, app
from pipeline.runtime.supervisor import STAGES

HEAVY = [
    "tensorflow",
    "polars",
    "numba",
    "faust",
    "matplotlib",
    "scipy",
    "confluent_kafka",
    "rich",
    "jgo",
    "kubernetes",
    "google",
    "azure",
    "requests",
]
GROUPS = {name: get_command(app).get_command(None, name) for name in COMMANDS}  # type: ignore[union-attr]
HELPS = [
    (),
    *((name,) for name in COMMANDS),
    *((name, inner) for name, group in GROUPS.items() for inner in getattr(group, "commands", ())),
]
"""The arguments before `--help`: none, each command, each command of a group."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    help_text = CliRunner().invoke(app, [name, "--help"])
    assert help_text.exit_code == 0, help_text.output
    assert f"{name} [OPTIONS]" in help_text.output


def test_the_commands_are_listed_with_their_help() -> None:
    listed = CliRunner().invoke(app, ["--help"], terminal_width=200)
    assert listed.exit_code == 0
    for name, command in COMMANDS.items():
        assert f" {name} " in listed.output
        assert command.help in " ".join(listed.output.split())


@pytest.mark.parametrize("wrong", ["nosuch", "dmo"])
def test_an_unknown_command_is_refused(wrong: str) -> None:
    refused = CliRunner().invoke(app, [wrong])
    assert refused.exit_code == 2
    assert f"No such command '{wrong}'" in refused.output
    assert ("Did you mean 'demo'?" in refused.output) == (wrong == "dmo")


@pytest.fixture(scope="module")
def imported() -> dict[tuple[str, ...], set[str]]:
    """Top-level modules that each help imports, each in a process of its own."""
    code = "import sys; from pipeline.cli.main import app; app(sys.argv[1:], standalone_mode=False);" + (
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    modules: dict[tuple[str, ...], set[str]] = {}
    for words in HELPS:
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, check=True
        )
        assert "Usage:" in done.stdout, words
        modules[words] = set(done.stderr.split())
    return modules


def test_no_help_imports_a_heavy_library(imported: dict[tuple[str, ...], set[str]]) -> None:
    assert len(HELPS) >= 35
    assert all({"typer", "pipeline"} <= modules for modules in imported.values())
    assert {words: slow for words, modules in imported.items() if (slow := modules & set(HEAVY))} == {}


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys; from pipeline.cli.main import app; app(['--help'], standalone_mode=False);"
        "print(*(name for name in sys.modules if name.startswith('pipeline.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["pipeline.cli.main"]


def test_the_default_of_only_is_every_stage() -> None:
    up = CliRunner().invoke(app, ["up", "--help"], terminal_width=200)
    assert f"[default: {','.join(STAGES)}]" in up.output
