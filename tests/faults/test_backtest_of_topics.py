"""`leadtime backtest --topics` on what a live run left: the same plans and commands, byte for byte."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.backtest import backtest
from pipeline.kafka.connection import connection, quiet_admin
from pipeline.settings import Settings
from tests.faults.living import START, TICKS, named
from tests.faults.replaying import Records


def of_topics(settings: Settings, monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    app.command("backtest")(backtest)
    done = CliRunner().invoke(app, ["--topics", "--json", *options], catch_exceptions=False)
    return json.loads(done.stdout)


def groups(settings: Settings) -> set[str]:
    admin = quiet_admin(connection(settings))
    admin.list_topics(timeout=30)  # before it has met a broker it knows no group, and does not say so
    found = admin.list_consumer_groups().result()
    assert not found.errors
    return {group.group_id for group in found.valid}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_topics_run_again_give_what_was_published(
    installation: Settings,
    folder: Path,
    whole_run: tuple[dict[str, Any], Records],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures, _ = whole_run
    live = named(installation, "whole", folder)
    before = groups(live)
    out = tmp_path / "out"
    report = of_topics(
        live, monkeypatch, "--rival", "hpa", "--sweep", "0.9", "--sweep", "0.99", "--out", str(out)
    )
    published = report["published"]
    assert published["from_the_beginning"]
    for topic, count in (("plans", 2 * TICKS), ("commands", figures["commands"])):
        said = published[topic]
        assert (said["same"], said["different"], said["signature_not_compared"]) == (count, 0, 0), said
        assert (said["published_only"], said["here_only"]) == (0, 0), said
        written = (folder / "whole-out" / f"{topic}.jsonl").read_bytes()
        assert (out / f"{topic}.jsonl").read_bytes() == written
    # lanes beside it, on simulated supply
    assert (report["apps"], report["users"], report["skipped"]) == (2, 16, {})
    assert report["ticks"] == TICKS - TICKS // 4
    assert report["policies"]["leadtime"]["defaults"]["app_ticks"] > 0
    measured = pl.read_parquet(out / "ticks.parquet")["ts"].dt.epoch("s").min()
    assert measured == (START + TICKS // 4) * 60
    assert groups(live) <= before  # none more; one without offsets may have ended

    # a window that begins later is still run from the first frame, a shorter one is not
    later = datetime.fromtimestamp((START + 30) * 60, UTC).isoformat()
    again = of_topics(live, monkeypatch, "--alone", "--from", later)
    assert again["ticks"] == TICKS - 30
    assert again["published"]["plans"]["same"] == 2 * TICKS
    short = of_topics(live, monkeypatch, "--alone", "--from", later, "--warm-up", "10m")
    assert (short["ticks"], short["warm_up_ticks"]) == (TICKS - 30, 10)
    assert not short["published"]["from_the_beginning"]
    assert short["published"]["plans"]["different"] > 0
    assert short["published"]["plans"]["first_different"].startswith("app-0@")
