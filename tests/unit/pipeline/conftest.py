"""The released model, and an installation of two partitions."""

from pathlib import Path

import pytest

from models.behaviour.lstm import BehaviourModel
from pipeline.inputs import released_models
from pipeline.settings import Settings
from tests.unit.pipeline.messages import TICK_S


@pytest.fixture(scope="module")
def model() -> BehaviourModel:
    return BehaviourModel.load(released_models.folder(Settings()))


@pytest.fixture
def installation(tmp_path: Path) -> Settings:
    return Settings(
        tick_s=TICK_S,
        partitions=2,
        scenarios=256,
        demo_keys=True,
        event_time=True,
        data_dir=tmp_path,
        bootstrap="none:1",
    )
