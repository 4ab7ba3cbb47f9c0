"""The unbroken run that all others are compared with."""

from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.faults import replaying


@pytest.fixture(scope="session")
def whole(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> replaying.Outcome:
    """Of the window; nothing goes wrong."""
    folder: Path = tmp_path_factory.mktemp("whole")
    return replaying.run(Settings(bootstrap=kafka, data_dir=folder, demo_keys=True), folder)
