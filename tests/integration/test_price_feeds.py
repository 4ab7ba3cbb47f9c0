"""Pulled prices on a real Kafka: what is published, also by two at once, after a kill, and by the service."""

import json
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.inputs import prices_app
from pipeline.inputs.feeds import pull as pulling
from pipeline.inputs.feeds import service
from pipeline.inputs.feeds.files import read_feeds
from pipeline.inputs.feeds.pull import Pulled, pull
from pipeline.inputs.publish import published
from pipeline.kafka import topics
from pipeline.kafka.installation import declare
from pipeline.kafka.producer import Outputs
from pipeline.runtime.supervisor import PRICES, StageProcess, Supervisor
from pipeline.settings import Settings
from tests.markdown import ROOT

OFFERS = ("a", "b", "c")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A feeds file of three offers in a CSV, with a file of their records."""
    record = (ROOT / "examples" / "clouds.toml").read_text().partition('offer_id = "colo-m4"')[2]
    prices = "".join(f'[[price]]\noffer_id = "{offer}"{record}\n' for offer in OFFERS)
    feeds = "".join(f'[[feed]]\noffer_id = "{o}"\nsource = "csv"\nfile = "p.csv"\n' for o in (*OFFERS, "d"))
    (tmp_path / "prices.toml").write_text(prices)
    (tmp_path / "feeds.toml").write_text(f'prices = "prices.toml"\n{feeds}')
    quote(tmp_path, a="0.2", b="0.21", c="nan")
    return tmp_path / "feeds.toml"


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    topics.create(settings)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    return declare(settings)


def quote(folder: Path, **prices: str) -> None:
    rows = "".join(f"{offer},{price}\n" for offer, price in prices.items())
    (folder / "p.csv").write_text(f"offer_id,price\n{rows}")


def versions(settings: Settings) -> dict[str, list[str]]:
    """Prices of each version on the topic, by offer."""
    return {
        offer: [str(of[number]["price"].normalize()) for number in sorted(of)]
        for offer, of in sorted(published(settings, "prices").items())
    }


def test_a_pull_publishes_what_changed(installation: Settings, file: Path) -> None:
    dry = pull(installation, read_feeds(file), dry_run=True)
    assert [row["price"] for row in dry.as_json()["prices"]] == ["0.200000", "0.210000"]
    assert versions(installation) == {}
    first = CliRunner().invoke(prices_app, ["pull", str(file), "--json"])
    assert first.exit_code == 2
    outcome = json.loads(first.stdout)
    assert [(row["offer_id"], row["version"], row["reason"]) for row in outcome["prices"]] == [
        ("a", 1, "first"),
        ("b", 1, "first"),
    ]
    assert outcome["faults"].keys() == {"c", "d"}
    assert "warning: c: its price is no number: 'nan'" in first.stderr
    again = pull(installation, read_feeds(file))
    assert (again.changes.unchanged, list(again.records)) == (["a", "b"], [])
    quote(file.parent, a="0.2", b="0.25", c="3", d="0.1")
    second = pull(installation, read_feeds(file)).as_json()
    assert [(row["offer_id"], row["before"], row["reason"]) for row in second["prices"]] == [
        ("b", "0.210000", "price")
    ]
    assert "10 times as much" in second["faults"]["c"]
    assert versions(installation) == {"a": ["0.2"], "b": ["0.21", "0.25"]}


def test_of_two_at_once_one_publishes_and_a_kill_leaves_nothing_of_a_pull(
    installation: Settings, file: Path
) -> None:
    others: list[Pulled] = []

    def another() -> None:
        if not others:
            others.append(pull(installation, read_feeds(file)))

    fenced = pull(installation, read_feeds(file), reached=another)
    assert len(others[0].records) == 2
    assert (fenced.changes.unchanged, list(fenced.records)) == (["a", "b"], [])
    assert versions(installation) == {"a": ["0.2"], "b": ["0.21"]}

    options: dict[str, Any] = {**pulling.TRANSACTION, "transactional.id": f"{installation.group}-prices-pull"}
    killed = Outputs(installation, options)
    killed._producer.init_transactions(10)
    killed._producer.begin_transaction()
    record = others[0].records[0] | {"version": 2, "price": Decimal("0.22")}
    killed.publish("prices", "price", record, key="a@2")
    killed.flush()  # of two versions the first is at the broker when it dies
    quote(file.parent, a="0.22", b="0.22")
    assert [record["version"] for record in pull(installation, read_feeds(file)).records] == [2, 2]
    assert versions(installation) == {"a": ["0.2", "0.22"], "b": ["0.21", "0.22"]}


def test_pulls_that_overlap_do_not_fence_each_other_for_ever(installation: Settings, file: Path) -> None:
    begun, pulls = threading.Event(), list[Pulled]()

    def reached() -> None:
        begun.set()
        time.sleep(0.8)

    def overlapping() -> None:
        pulls.append(pull(installation, read_feeds(file), reached=reached))

    threads = [threading.Thread(target=overlapping) for _ in range(2)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert sorted(len(pulled.records) for pulled in pulls) == [0, 2]
    assert versions(installation) == {"a": ["0.2"], "b": ["0.21"]}


def test_the_service_goes_on_where_a_pull_fails(
    installation: Settings, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop, pulls = threading.Event(), list[Pulled]()

    def done(pulled: Pulled) -> None:
        pulls.append(pulled)
        if len(pulls) == 1:
            quote(file.parent, a="0.3", b="0.21")
            file.write_text(f"{file.read_text()}[[feed")  # an edit that is not finished
        else:
            stop.set()

    service.run(installation, file, 0.01, stop, done)
    assert versions(installation) == {"a": ["0.2", "0.3"], "b": ["0.21"]}
    warned = capsys.readouterr().err
    assert "price not followed" in warned
    assert "feeds file not read" in warned


def killed_and_back(supervisor: Supervisor, stage: StageProcess, line: str) -> str:
    """Kill the stage; its log from then on, once a line is in it."""
    assert stage.process is not None
    before = len(stage.log.read_text())
    stage.process.kill()
    stage.process.wait(10)
    until_s = time.monotonic() + 60
    while line not in (log := stage.log.read_text()[before:]):
        assert time.monotonic() < until_s, log
        supervisor.poll()
        time.sleep(0.1)
    return log


@pytest.mark.slow  # three starts of a process
def test_a_killed_service_publishes_nothing_twice_and_outlives_a_broken_file(
    installation: Settings, file: Path, tmp_path: Path
) -> None:
    settings = installation.model_copy(update={"feeds_file": file})
    supervisor = Supervisor(settings.environment(), tmp_path / "stages")
    supervisor.start([PRICES])
    stage = supervisor.stages[PRICES]
    try:
        until_s = time.monotonic() + 60
        while "2 prices published" not in stage.log.read_text():
            assert time.monotonic() < until_s, stage.log.read_text()
            time.sleep(0.1)
        log = killed_and_back(supervisor, stage, "0 prices published, 2 unchanged, 2 not followed")
        assert "price not followed" in log
        file.write_text(f"{file.read_text()}[[feed")
        killed_and_back(supervisor, stage, "feeds file not read")
        time.sleep(1)
        supervisor.poll()
        assert stage.process is not None
        assert stage.process.poll() is None
    finally:
        supervisor.stop()
    assert versions(installation) == {"a": ["0.2"], "b": ["0.21"]}
