"""The wheel in a clean virtual environment outside the repository: what is in it, and that it runs."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
"""As in the Makefile: that on PATH, else the one that `make setup` puts into .tools."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a gigabyte of dependencies to link or to fetch
SCRIPT = """
import leadtime
for name in leadtime.__all__:
    assert getattr(leadtime, name).__module__.startswith("pipeline."), name
from pathlib import Path
assert "site-packages" in Path(leadtime.__file__).parts, leadtime.__file__
telemetry = leadtime.Telemetry("127.0.0.1:1", timeout_s=1.0)
try:
    telemetry.metric("shop", "ann", cpu=-1.0)
except leadtime.UsageError as error:
    print(error)
telemetry.metric("shop", "ann", cpu=1.0)
try:
    telemetry.close()
except leadtime.NotDelivered as error:
    print(error.failed)
print(leadtime.__version__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("LEADTIME_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_runs_outside_the_repository(tmp_path: Path) -> None:
    run(UV, "build", "--quiet", "--out-dir", tmp_path / "dist", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"leadtime.py", "pipeline/py.typed", "models/py.typed", "pipeline/inputs/demo.toml"} <= names
    assert any(name.startswith("models/released/") and name.endswith("weights.npz") for name in names)
    assert {f"schemas/{file.parent.name}/{file.name}" for file in ROOT.glob("schemas/*/*.avsc")} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]

    home, work = tmp_path / "venv", tmp_path / "elsewhere"
    work.mkdir()
    run(UV, "venv", "--quiet", "--python", sys.executable, home, cwd=work)
    locked = tmp_path / "locked.txt"
    locked.write_text(run(UV, "export", "--locked", "--no-dev", "--no-emit-project", "--quiet", cwd=ROOT))
    python = home / "bin" / "python"
    install = (UV, "pip", "install", "--quiet", "--python", python)
    run(*install, "--requirement", locked, cwd=work)
    run(*install, "--no-deps", wheel, cwd=work)

    version = wheel.name.split("-")[1]
    refusal, failed, named = run(python, "-c", SCRIPT, cwd=work).splitlines()
    assert refusal == "cpu must be a number from 0 to 100,000 (cores); got -1.0"
    assert (failed, named) == ("1", version)
    assert run(home / "bin" / "leadtime", "--version", cwd=work).strip() == version
    demo = run(home / "bin" / "leadtime", "demo", "--headless", "--json", "--ticks", "20", cwd=work)
    figures = json.loads(demo)
    assert figures["ticks"] == 20
    assert figures["dead_letters"] == 0
