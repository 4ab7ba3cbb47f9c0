"""Jars are fetched once per machine, and who waits for them is told how far it is."""

import time
from pathlib import Path

import pytest

from pipeline.kafka.jars import progress


def test_lines_say_how_many_jars_and_megabytes_are_there(tmp_path: Path) -> None:
    lines: list[str] = []
    with progress(tmp_path, "org.apache.kafka:kafka", lines.append, every_s=0.01):
        (tmp_path / "m2").mkdir()
        (tmp_path / "m2" / "a.jar").write_bytes(bytes(2_000_000))
        deadline = time.monotonic() + 30
        while "fetching org.apache.kafka:kafka: 1 jars, 2.0 MB" not in lines and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "b.jar").write_bytes(bytes(500_000))
    assert lines[0] == "fetching org.apache.kafka:kafka, once on this machine"
    assert "fetching org.apache.kafka:kafka: 1 jars, 2.0 MB" in lines
    assert lines[-1] == "fetched org.apache.kafka:kafka: 2 jars, 2.5 MB"


def test_a_fetch_that_fails_ends_its_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(OSError, match="no route"), progress(tmp_path, "a:b", lines.append, every_s=60):
        raise OSError("no route")
    assert lines == ["fetching a:b, once on this machine"]
