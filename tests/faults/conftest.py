"""One unbroken run for the tests of this folder."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import Settings
from tests.faults.living import Records, run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def installation(kafka: str) -> Settings:
    """Of all runs of this folder; each has its own prefix below it."""
    return Settings(bootstrap=kafka, prefix="faults.")


@pytest.fixture(scope="session")
def whole_run(installation: Settings, folder: Path) -> tuple[dict[str, Any], Records]:
    """Figures of a run that nothing disturbs, and what it published."""
    return run(installation, "whole", folder)
