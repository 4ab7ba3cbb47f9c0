"""Files of infra/ by the programs that read them: promtool, helm and a real kube-apiserver."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.peers]
INFRA = Path(__file__).parents[2] / "infra"


def run(*command: str | Path, text: str = "") -> str:
    """Standard output of a program.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("test", "rules", INFRA / "alerts/leadtime.test.yml"),
        ("check", "rules", INFRA / "alerts/leadtime.yml"),
        ("check", "config", "--syntax-only", INFRA / "compose/prometheus.yml"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
def test_promtool_accepts_the_alerts_and_fires_them_when_they_should(
    arguments: tuple[str | Path, ...],
) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not on PATH: Debian has it in prometheus"
    run(promtool, *arguments)
