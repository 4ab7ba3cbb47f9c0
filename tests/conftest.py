"""Fixtures for all tests: one Kafka per session, and a place on it for each test."""

import os
import subprocess
import uuid
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from pipeline.kafka.embedded import EmbeddedKafka
from pipeline.settings import Settings

pytest_plugins = ["pytester", "tests.tiers"]

# No test is timed: machines are shared. Where CI runs, the same examples each time, as Hypothesis' own profile has it.
hypothesis.settings.register_profile("leadtime", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("leadtime")


def _docker_answers() -> bool:
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@pytest.fixture(scope="session")
def kafka() -> Generator[str]:
    """Address of a real Kafka: in a container when Docker answers, else the embedded one."""
    if not _docker_answers():
        with EmbeddedKafka() as embedded:
            yield embedded.bootstrap
        return
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer().with_kraft()
    for name, value in {
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
    }.items():
        container.with_env(f"KAFKA_{name}", value)
    with container:
        yield container.get_bootstrap_server()


@pytest.fixture
def prefix() -> str:
    """Prefix of topics and groups that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture
def settings(kafka: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings on the session's Kafka, under this test's prefix, without environment and lateness."""
    for name in [name for name in os.environ if name.startswith("LEADTIME_")]:
        monkeypatch.delenv(name)
    return Settings(bootstrap=kafka, prefix=prefix, data_dir=tmp_path, demo_keys=True, lateness_s=0)
