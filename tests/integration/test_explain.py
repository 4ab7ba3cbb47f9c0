"""`leadtime explain` on real Kafka."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline.cli.explain import explain
from pipeline.errors import UsageError
from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.settings import Settings
from tests.unit.pipeline.reports.test_decision import total
from tests.unit.pipeline.reports.test_decision_text import plan, surroundings


@pytest.fixture
def decided(settings: Settings) -> Settings:
    """Plans of two apps on two partitions, and what they were made from."""
    topics.create(settings)
    outputs = Outputs(settings)

    def put(topic: str, name: str, record: dict[str, Any], key: str, partition: int = 0) -> None:
        outputs.publish(topic, name, record, key=key, partition=partition)

    around = surroundings()
    for tick in (99, 100):
        six: dict[str, Any] = {
            "steps": [300 * k for k in range(1, 7)],
            "required": [[11.3, 2.0**34]] * 6,
            "replicas": [12] * 6,
        }
        six["counts"] = [
            {"offer_id": o, "desired": [n] * 6} for o, n in (("od", 2), ("owned", 4), ("spot", 1))
        ]
        one = plan(tick=tick, plan_id=f"shop@{tick}", feasible=tick == 100, **six)
        put("plans", "plan", one, "shop", 1)
        put("forecasts.apps", "forecast", total(tick, 9.0)[0], "1", 1)
    put("plans", "plan", plan(app="bank", plan_id="bank@7", tick=7, commands_issued=0), "bank")
    assert around.policy is not None
    put("policies", "policy", around.policy, "shop@3")
    put(
        "policies",
        "policy",
        around.policy | {"version": 4, "unit": [{"metric": "cpu", "value": 9.0}]},
        "shop@4",
    )
    for offer, price in around.prices.items():
        version = 7 if offer == "spot" else 1
        put("prices", "price", price | {"version": version}, f"{offer}@{version}")
    put("prices", "price", around.prices["spot"] | {"version": 8, "tier": "RESERVED"}, "spot@8")
    for plan_id in ("shop@99", "shop@100"):
        put("commands", "command", dict(around.commands[0]) | {"plan_id": plan_id}, "shop/od", 1)
    outputs.flush()
    return settings


def run(settings: Settings, *arguments: str) -> Result:
    command = typer.Typer()
    command.command()(explain)
    given = ["--bootstrap", str(settings.bootstrap), "--prefix", settings.prefix]
    return CliRunner().invoke(command, [*arguments, *given], catch_exceptions=False)


def test_explains_with_the_versions_that_the_plan_used(decided: Settings) -> None:
    said = run(decided, "shop").stdout
    assert said.startswith("shop: 7 instances, USD 0.9120 an hour\nplan shop@100, ")
    for line in (
        "a replica takes 0.95 cores",
        "7 instances carry 14 replicas",
        "spot   spot ",
        "  1. shop/od to 2, valid",
    ):
        assert line in said
    assert said.count("shop/od to 2") == 1
    assert "is NOT kept" in run(decided, "shop", "--tick", "99").stdout
    assert "plan shop@99" in run(decided, "shop", "--at", "1970-01-01T08:24:59").stdout
    assert "plan bank@7" in run(decided, "bank").stdout


def test_json_is_the_record(decided: Settings, tmp_path: Path) -> None:
    result = run(decided, "shop", "--json", "--plot", str(tmp_path / "fan.png"))
    record = json.loads(result.stdout)
    assert (record["plan_id"], record["cost"], record["versions"]["policy"]) == (
        "shop@100",
        "0.912000",
        "shop@3",
    )
    assert (tmp_path / "fan.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_there(decided: Settings) -> None:
    for arguments, line in (
        (["shoop"], r"^no plan of app 'shoop'; there are plans of: bank, shop$"),
        (["shop", "--tick", "7"], r"^no plan of shop for tick 7: there are 2, of ticks 99 to 100$"),
        (["shop", "--tick", "7", "--at", "9"], r"^give --tick or --at, not both$"),
        (["bank", "--plot", "fan.png"], r"^the topic forecasts.apps has no forecast of bank made at tick 7$"),
    ):
        with pytest.raises(UsageError, match=line):
            run(decided, *arguments)
