"""The unbroken runs that all others are compared with."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import Settings
from tests.faults import living, replaying


@pytest.fixture(scope="session")
def whole(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> replaying.Outcome:
    """Of the window, with a stand-in for the network; nothing goes wrong."""
    folder: Path = tmp_path_factory.mktemp("whole")
    return replaying.run(Settings(bootstrap=kafka, data_dir=folder, demo_keys=True), folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def installation(kafka: str) -> Settings:
    """Of the runs with the real network; each has its own prefix below it."""
    return Settings(bootstrap=kafka, prefix="faults.")


@pytest.fixture(scope="session")
def whole_run(installation: Settings, folder: Path) -> tuple[dict[str, Any], replaying.Records]:
    """Figures of a run that nothing disturbs, and what it published."""
    return living.run(installation, "whole", folder)
