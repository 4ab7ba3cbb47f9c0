"""The examples, and the Python of README and docs, as a reader would run them: on a real Kafka."""

import json
import math
import runpy
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from pipeline.errors import Rejected, Retryable
from pipeline.kafka import topics
from pipeline.kafka.installation import declare
from pipeline.kafka.reader import records
from pipeline.settings import Settings
from pipeline.stages.actuator import service
from pipeline.wire.codec import Record
from pipeline.wire.commands import Target
from tests.integration.actuating import plan, publish, results
from tests.markdown import ROOT, Block, blocks
from tests.unit.pipeline import messages

ADDRESS = "localhost:9092"
"""What examples name as Kafka's address."""
PYTHON = blocks("python")
SENDING = [block for block in PYTHON if "Telemetry(" in block.text or "Producer(" in block.text]
PROVIDING = [block for block in PYTHON if "(Provider)" in block.text]
READING = [block for block in PYTHON if "plans(" in block.text]
TESTING = [block for block in PYTHON if "backtest(" in block.text]


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Topics of an installation that the environment names, as a reader's shell would."""
    topics.create(settings)
    declare(settings)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    return settings


def sent(settings: Settings, topic: str) -> list[tuple[int, Record]]:
    """Partition and record of all messages that are no watermarks."""
    return [
        (message.partition() or 0, record) for message, record in records(settings, topic) if "app" in record
    ]


def test_every_block_of_python_is_run_here() -> None:
    assert len(SENDING) >= 3
    assert sorted(map(str, SENDING + PROVIDING + READING + TESTING)) == sorted(map(str, PYTHON))


@pytest.mark.parametrize("block", SENDING, ids=str)
def test_a_block_that_sends_telemetry_is_received(
    block: Block, installation: Settings, tmp_path: Path
) -> None:
    text = block.text.replace(ADDRESS, str(installation.bootstrap))
    for topic in topics.RAW:
        text = text.replace(f'"{topic}"', f'"{topics.name(topic, installation)}"')
    file = tmp_path / "block.py"
    file.write_text(text)
    runpy.run_path(str(file))
    [(_, sample)] = sent(installation, "telemetry.metrics")
    assert (sample["app"], sample["user"], sample["cpu"]) == ("shop", "ann", 0.7)
    for _, event in sent(installation, "telemetry.events"):
        assert (event["app"], event["user"], event["count"]) == ("shop", "ann", 3.0)


@pytest.mark.parametrize("block", READING, ids=str)
def test_a_block_that_reads_plans_prints_them(
    block: Block, installation: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(installation, plan(10, issued=0), plan(11, issued=0))
    file = tmp_path / "block.py"
    file.write_text(block.text.replace(ADDRESS, str(installation.bootstrap)))
    runpy.run_path(str(file))
    printed = capsys.readouterr().out
    assert printed.splitlines()[:3] == ["10 1 1.000000 USD", "11 1 1.000000 USD", "0.99"]
    assert "plan shop-11" in printed


@pytest.mark.slow
@pytest.mark.parametrize("block", TESTING, ids=str)
def test_a_block_that_backtests_prints_a_cost(
    block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime(2026, 11, 2, tzinfo=UTC)
    ticks = range(96)
    pl.DataFrame(
        {
            "ts": [start + timedelta(minutes=5 * tick) for tick in ticks],
            "app": "shop",
            "user": "ann",
            "cpu": [2.0 + math.sin(tick / 10) for tick in ticks],
        }
    ).write_parquet(tmp_path / "my.parquet")
    (tmp_path / "block.py").write_text(block.text)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("block.py", run_name="__main__")
    assert float(capsys.readouterr().out.splitlines()[0]) > 0


@pytest.mark.parametrize("block", PROVIDING, ids=str)
def test_a_block_that_provides_keeps_the_contract(block: Block, tmp_path: Path) -> None:
    class Throttled(Exception):
        seconds = 7.0

    class Forbidden(Exception):
        pass

    def set_size(ref: str, desired: int, token: str) -> Any:
        if desired == 7:
            raise Throttled("slow down")
        if desired == 8:
            raise Forbidden("no")
        return SimpleNamespace(old=2, new=desired, version=4, id=token)

    group = SimpleNamespace(healthy=2, starting=1, version=3, tags={})
    api = SimpleNamespace(
        describe=lambda ref: group, set_size=set_size, Throttled=Throttled, Forbidden=Forbidden
    )
    file = tmp_path / "block.py"
    file.write_text(block.text)
    provider = runpy.run_path(str(file))["Fleet"](api)
    observed = provider.observe(Target("fleet", "shop/od-4"), 0.0)
    assert (observed.ready, observed.pending, observed.generation) == (2, 1, 3)
    assert provider.apply(messages.command(desired=3), 1.0).after == 3
    with pytest.raises(Retryable, match="slow down") as raised:
        provider.apply(messages.command(desired=7), 1.0)
    assert raised.value.retry_after == 7.0
    with pytest.raises(Rejected):
        provider.apply(messages.command(desired=8), 1.0)


def test_the_producer_sends_what_its_users_cost(installation: Settings) -> None:
    runpy.run_path(str(ROOT / "examples/producer.py"))["main"](
        str(installation.bootstrap), seconds=0.6, report_s=0.2
    )
    samples = sent(installation, "telemetry.metrics")
    events = sent(installation, "telemetry.events")
    assert {one["user"] for _, one in samples} == {"ann", "bob", "eve"}
    assert len(samples) == len(events) > 3  # three users, several reports
    cost = {
        user: sum(one["cpu"] * one["interval_s"] for _, one in samples if one["user"] == user)
        for user in ("ann", "eve")
    }
    assert 0 < cost["ann"] < cost["eve"]  # eve's requests are three times as large
    # As many requests in the samples as in the events.
    assert sum(one["requests"] * one["interval_s"] for _, one in samples) == pytest.approx(
        sum(one["count"] for _, one in events)
    )


@pytest.fixture
def files(tmp_path: Path) -> Any:
    return runpy.run_path(str(ROOT / "examples/provider.py"))["Files"](tmp_path / "deployments", {"cpu": 3.5})


def test_the_provider_follows_signed_commands(installation: Settings, files: Any) -> None:
    stop, ready = threading.Event(), threading.Event()
    actuator = threading.Thread(
        target=service.run,
        args=(installation, {"files": files}),
        kwargs={"stop": stop, "ready": ready.set},
    )
    actuator.start()
    try:
        assert ready.wait(30)
        target, now_s = Target("files", "shop/m4", region="eu"), time.time()
        publish(installation, messages.command(10, 3, target=target, issued_s=now_s))
        for _ in range(300):
            if results(installation):
                break
            stop.wait(0.1)
    finally:
        stop.set()
        actuator.join(30)
    [result] = results(installation)
    assert (result["status"], result["before"], result["after"]) == ("APPLIED", 0, 3)
    assert json.loads((files.folder / "shop/m4.json").read_text())["desired"] == 3


def test_the_provider_keeps_the_contract(files: Any) -> None:
    target = Target("files", "shop/m4")
    grow = messages.command(10, 3, "shop/m4")
    first = files.apply(grow, 660.0)
    assert (first.before, first.after, first.generation) == (0, 3, 1)
    assert files.apply(grow, 670.0) == first  # a command that comes again
    seen = files.observe(target, 670.0)
    assert (seen.ready, seen.pending, seen.command_id) == (0, 3, grow["id"])
    (files.folder / "shop/m4.ready").write_text("2")
    assert (files.observe(target, 680.0).ready, files.observe(target, 680.0).pending) == (2, 1)
    shrink = files.apply(messages.command(11, 1, "shop/m4"), 720.0)
    assert (shrink.before, shrink.after, shrink.generation) == (3, 1, 2)
    seen = files.observe(target, 720.0)
    assert (seen.ready, seen.draining) == (1, 1)
    with pytest.raises(Rejected, match="older"):
        files.apply(messages.command(10, 5, "shop/m4"), 730.0)
    with pytest.raises(Rejected, match="outside"):
        files.apply(messages.command(12, 1, "../../etc"), 780.0)
    blocked = messages.command(12, 2, "shop/m4.ready/x")  # a file where a folder must be
    with pytest.raises(Retryable):
        files.apply(blocked, 780.0)
