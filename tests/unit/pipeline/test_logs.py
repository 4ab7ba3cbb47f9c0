"""Warnings go to stderr, and what starts at once imports nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("structlog", "pydantic", "numpy", "polars", "faust", "tensorflow")


def test_a_warning_is_one_line_on_the_stderr_of_the_moment_and_information_is_dropped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pipeline.logs import get_logger

    log = get_logger("leadtime.test")
    log.info("start", tick=1)
    log.warning("price is stale", offer="spare")
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "price is stale" in err
    assert "spare" in err


def test_a_traceback_shows_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.logs import get_logger

    def call() -> None:
        token = "-".join(["hunter", "2"])  # a local that a provider may have
        raise RuntimeError("the provider's call failed", len(token))

    try:
        call()
    except RuntimeError:
        get_logger("leadtime.test").error("defect of a provider", exc_info=True)
    err = capsys.readouterr().err
    assert "RuntimeError" in err
    assert "hunter-2" not in err


def test_the_stages_command_imports_what_a_stage_needs_only_when_it_runs() -> None:
    code = f"import sys, pipeline.stages.__main__; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
