"""The command line: every command is there, and needs only its own modules."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import COMMANDS, app


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    found = CliRunner().invoke(app, [name, "--help"])
    assert found.exit_code == 0, found.output
    assert f"{name} [OPTIONS]" in found.output


def test_the_commands_are_listed() -> None:
    found = CliRunner().invoke(app, ["--help"])
    assert found.exit_code == 0
    assert all(f" {name} " in found.output for name in COMMANDS)


def test_an_unknown_command_is_refused() -> None:
    found = CliRunner().invoke(app, ["nosuch"])
    assert found.exit_code == 2
    assert "No such command 'nosuch'" in found.output


def test_a_command_does_not_wait_for_the_modules_of_others() -> None:
    heavy = ("tensorflow", "matplotlib", "numba", "polars")
    code = (
        "import sys; from pipeline.cli.main import app; app(['policies', '--help'], standalone_mode=False);"
        f"print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == ""
