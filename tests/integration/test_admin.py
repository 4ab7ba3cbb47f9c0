"""Side inputs on real Kafka: versions, what a second `set` does, and what the commands print."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import inputs as admin
from pipeline.errors import Unreachable, UsageError
from pipeline.inputs.files import read_calendar, read_policies, read_prices
from pipeline.inputs.publish import publish, published
from pipeline.inputs.store import SideInputs
from pipeline.kafka import topics
from pipeline.kafka.connection import connection
from pipeline.kafka.installation import declare
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from tests.unit.pipeline.cli.test_inputs import EVENT, POLICY, PRICE

NOW_S = 1_700_000_030.0
"""Half-way through tick 28333333 of 60 s (1,699,999,980 to 1,700,000,040)."""
NEXT = 28_333_334


@pytest.fixture
def there(settings: Settings) -> Settings:
    topics.create(settings)
    return declare(settings)


def policies(folder: Path, text: str) -> list[dict[str, Any]]:
    (folder / "policies.toml").write_text(text)
    return read_policies(folder / "policies.toml")


def ticks(settings: Settings, topic: str = "policies", name: str = "shop") -> dict[int, int]:
    return {n: record["valid_from_tick"] for n, record in published(settings, topic)[name].items()}


def test_the_first_version_holds_from_the_beginning_and_the_next_from_the_next_tick(
    there: Settings, tmp_path: Path
) -> None:
    (first,) = publish(there, "policies", "policy", policies(tmp_path, POLICY), clock=lambda: NOW_S)
    assert (first["version"], first["valid_from_tick"]) == (1, 0)
    changed = policies(tmp_path, POLICY + "max = 7")
    for _ in range(2):  # the same once more is no new version
        (second,) = publish(there, "policies", "policy", changed, clock=lambda: NOW_S)
        assert (second["version"], second["max"]) == (2, 7)
    publish(there, "policies", "policy", changed, clock=lambda: NOW_S, from_tick=5)
    assert ticks(there) == {1: 0, 2: NEXT, 3: 5}
    publish(there, "policies", "policy", policies(tmp_path, POLICY), clock=lambda: NOW_S)
    publish(there, "policies", "policy", changed, clock=lambda: NOW_S)
    assert ticks(there) == {1: 0, 2: NEXT, 3: 5, 4: NEXT, 5: NEXT}

    inputs = SideInputs(there).start()
    try:
        valid = [inputs.at("policies", "shop", tick) for tick in (4, 5, NEXT)]
    finally:
        inputs.stop()
    assert [record and record["version"] for record in valid] == [1, 3, 5]
    assert [record and record["max"] for record in valid] == [1000, 7, 7]


def test_a_version_stays_what_it_was(there: Settings, tmp_path: Path) -> None:
    given = policies(tmp_path, POLICY + "version = 4")
    for _ in range(2):  # the same once more changes nothing, also when the clock has gone on
        publish(there, "policies", "policy", given, clock=lambda: NOW_S)
    assert ticks(there) == {4: 0}
    other = POLICY.replace("shop", "bank") + POLICY + "version = 4\nmax = 9"
    with pytest.raises(UsageError, match="policy shop: version 4 is published with other values"):
        publish(there, "policies", "policy", policies(tmp_path, other), clock=lambda: NOW_S)
    assert set(published(there, "policies")) == {"shop"}, "one refused, none published"


def test_what_cannot_be_read_does_not_stop_the_rest(there: Settings, tmp_path: Path) -> None:
    outputs = Outputs(there)
    outputs.send("policies", b"not a policy", key="shop@9")
    outputs.send("policies", None, key="shop@8")
    outputs.flush()
    publish(there, "policies", "policy", policies(tmp_path, POLICY))
    assert ticks(there) == {1: 0}


@pytest.mark.parametrize("ahead_s", [300.0, None])
def test_an_observation_of_a_tick_that_was_not_over_ends_no_wait_and_pushes_none_out(
    there: Settings, ahead_s: float | None
) -> None:
    outputs, now_tick = Outputs(there), int(NOW_S) // there.tick_s
    for tick in (now_tick - 1, *(now_tick * 1000 + n for n in range(3))):  # a tick of milliseconds
        observed = {
            "tick": tick, "target": "shop/node", "app": "shop", "offer_id": "node", "ready": 1, "pending": 0,
            "allocatable": [], "generation": 1,
        }  # fmt: skip
        timestamp_ms = int(NOW_S) * 1000
        outputs.publish(
            "capacity.observed", "capacity_observed", observed, key="shop/node", timestamp_ms=timestamp_ms
        )
    outputs.flush()
    inputs = SideInputs(there, kept_ticks=3, max_ahead_s=ahead_s).start()
    try:
        assert inputs.wait_observed("shop", now_tick, 0) == (ahead_s is None)
        assert inputs.wait_observed("shop", now_tick - 1, 0)
        assert set(inputs.observed("shop", now_tick)) == ({"node"} if ahead_s else set())
    finally:
        inputs.stop()


def test_prices_and_events_arrive_as_they_were_written(there: Settings, tmp_path: Path) -> None:
    for text, topic, schema, read in (
        (PRICE, "prices", "price", read_prices),
        (EVENT, "calendar", "calendar", read_calendar),
    ):
        (tmp_path / "file.toml").write_text(text)
        (given,) = read(tmp_path / "file.toml")
        done = publish(there, topic, schema, [given])
        assert done == [given | {"version": 1, "valid_from_tick": 0}]
        (versions,) = published(there, topic).values()
        assert versions == {1: done[0]}
    assert published(there, "prices")["aws-m5"][1]["price"] == Decimal("0.214")


def run(settings: Settings, *arguments: str) -> str:
    commands = typer.Typer()
    for name in ("topics", "policies", "prices", "calendar", "models"):
        commands.add_typer(getattr(admin, f"{name}_app"), name=name)
    given = ["--bootstrap", str(settings.bootstrap), "--prefix", settings.prefix]
    result = CliRunner().invoke(commands, [*arguments, *given], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands(settings: Settings, tmp_path: Path) -> None:
    rows = json.loads(run(settings, "topics", "list", "--json"))["topics"]
    assert {row["name"] for row in rows} == {settings.prefix + name for name in topics.TOPICS}
    assert {(row["exists"], row["partitions"]) for row in rows} == {(False, 0)}
    made = json.loads(run(settings, "topics", "create", "--json"))["created"]
    assert sorted(made) == sorted(row["name"] for row in rows)
    assert run(settings, "topics", "create") == "all topics exist\n"
    rows = json.loads(run(settings, "topics", "list", "--json"))["topics"]
    assert {row["name"]: row["partitions"] for row in rows if row["partitions"] == 1} == {
        settings.prefix + name: 1 for name, topic in topics.TOPICS.items() if not topic.partitioned
    }
    assert f"{settings.prefix}dead-letters" in run(settings, "topics", "list")

    for name, text in (("policies", POLICY), ("prices", PRICE), ("calendar", EVENT)):
        (tmp_path / name).write_text(text)
    file = str(tmp_path / "policies")
    said = json.loads(run(settings, "policies", "set", file, "--from-tick", "3", "--json"))
    assert said == {"policies": [{"app": "shop", "version": 1, "valid_from_tick": 3}]}
    (tmp_path / "policies").write_text(POLICY + "max = 7")
    run(settings, "policies", "set", file)
    again = json.loads(run(settings, "policies", "set", file, "--json"))
    assert again == {"policies": [{"app": "shop", "version": 2, "valid_from_tick": 3}]}
    run(settings, "prices", "set", str(tmp_path / "prices"))
    run(settings, "calendar", "set", str(tmp_path / "calendar"))

    (policy,) = json.loads(run(settings, "policies", "list", "--json"))["policies"]
    assert (policy["version"], policy["unit"][0]) == (2, {"metric": "cpu", "value": 2.0})
    assert "cpu 2, memory 4 GiB" in run(settings, "policies", "list")
    shown = json.loads(run(settings, "policies", "show", "shop", "--version", "1", "--json"))
    assert shown == policy | {"version": 1, "valid_from_tick": 3, "max": 1000}
    assert "allocation_group" in run(settings, "policies", "show", "shop")
    (price,) = json.loads(run(settings, "prices", "list", "--json"))["prices"]
    assert price["price"] == "0.214000"
    (event,) = json.loads(run(settings, "calendar", "list", "--json"))["calendar"]
    assert event["start"] == "2026-11-27T14:00:00+00:00"
    assert json.loads(run(settings, "models", "list", "--json")) == {"models": []}
    for arguments in (("show", "bank"), ("show", "shop", "--version", "9")):
        with pytest.raises(UsageError, match=r"there is no (policy|version 9 of the policy) of app"):
            run(settings, "policies", *arguments)


def test_a_topic_that_is_not_there_is_one_line(settings: Settings) -> None:
    with pytest.raises(Unreachable, match=f"topic {settings.prefix}policies: "):
        run(settings, "policies", "list")


def test_a_broker_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "policies.toml").write_text(POLICY)
    with pytest.raises(UsageError, match="no Kafka address"):
        connection(Settings())
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "policies", "set", str(tmp_path / "policies.toml")),
            *("--bootstrap", "127.0.0.1:9"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("leadtime: Kafka at 127.0.0.1:9 does not answer")
    assert result.stderr.count("\n") == 1
