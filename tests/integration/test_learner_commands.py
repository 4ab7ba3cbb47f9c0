"""`leadtime learner status|explain|history`, and the section of `leadtime explain`, on real Kafka."""

import json
from dataclasses import replace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from models.learning.adjustment import Adjustment, ExpertWeights
from pipeline.cli.explain import explain
from pipeline.cli.learner import learner_app
from pipeline.errors import UsageError
from pipeline.kafka import topics
from pipeline.kafka.producer import Outputs
from pipeline.security.signing_keys import demo_key
from pipeline.settings import Settings
from pipeline.wire import adjustments
from pipeline.wire.adjustments import AdjustmentSpec, ArmEvidence, GateEvidence, LearnerEvent, RealisedShares
from pipeline.wire.codec import Record
from tests.unit.pipeline.reports.test_decision_text import plan

KEY = demo_key()
STATIC = AdjustmentSpec(
    app="shop", version=90, valid_from_tick=92, expires_tick=94, base_model="m", policy="shop@2",
    adjustment=Adjustment("static", 0.99), gate=GateEvidence(bound=60.0), reason="2.0 h of known demand of 24 needed",
)  # fmt: skip
NETWORK = replace(
    STATIC, version=93, valid_from_tick=95, expires_tick=97, reason="network: a shortage's hour is worth 40",
    adjustment=Adjustment("network", 0.99, shortage_price=40.0),
    events=(LearnerEvent(92, "begins with network, which cost 6.0% less so far"),),
)  # fmt: skip
SAME_TIME = replace(
    NETWORK, version=98, valid_from_tick=100, expires_tick=102, reason="same_time_25: a shortage's hour is worth 83",
    adjustment=Adjustment(
        "same_time_25", 0.99, shortage_price=83.0, supply=0.9, experts=ExpertWeights(0.75, 0.0, 0.25)
    ),
    gate=GateEvidence(71.0, 9, 60.0, promoted=True),
    arms=(
        ArmEvidence("network", 40.0), ArmEvidence("same_time_25", 83.0, 71.0, 0.1, 0.5, 9),
        ArmEvidence("same_time_50", 90.0, 0.2, 22.0, 0.5, 9, paused_until=20_000),
    ),
    events=(LearnerEvent(97, "promotion of same_time_25: e-value 71 in 9 days"),),
    realised=RealisedShares(0.9896, 0.9912, 2_880, 0.9965, 0.9987, 2_700),
    saving=0.043, saving_95=(0.012, 0.074), reward=0.04,
)  # fmt: skip


def decided(app: str, policy: str, tick: int = 100, adjustment: str = "", of: str = "time") -> Record:
    record = plan(app=app, tick=tick, plan_id=f"{app}@{tick}", confidence_of=of, commands_issued=0)
    record["versions"] |= {"policy": policy, "adjustment": adjustment}
    return record


def policy_of(app: str, version: int = 1, **more: Any) -> Record:
    unit = [{"metric": "cpu", "value": 1.0}]
    fields = {"app": app, "version": version, "valid_from_tick": 10 * version, "mode": "auto", "unit": unit}
    return fields | {"governed": ["cpu"], "author": "eve", "allocation_group": app} | more


@pytest.fixture(scope="module")
def published(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """shop is steered, bank has expired adjustments, new none yet, forged one by a stranger, plain no learner."""
    folder = tmp_path_factory.mktemp("learner")
    settings = Settings(bootstrap=kafka, prefix="learner-commands.", data_dir=folder, demo_keys=True)
    topics.create(settings)
    outputs = Outputs(settings)

    def put(topic: str, name: str, record: Record, key: str) -> None:
        outputs.publish(topic, name, record, key=key, partition=0)

    on: dict[str, Any] = {"learner": True, "confidence_of": "TIME"}
    for record in (
        policy_of("shop"), policy_of("shop", 2, **on), policy_of("bank", learner=True), policy_of("new", **on),
        policy_of("forged", **on), policy_of("plain"), policy_of("late", **on),
    ):  # fmt: skip
        put("policies", "policy", record, f"{record['app']}@{record['version']}")
    for spec in (STATIC, NETWORK, NETWORK, SAME_TIME):  # the second again, as after a kill
        put("adjustments", "adjustment", adjustments.build(spec, KEY), f"{spec.app}@{spec.version}")
    bank = replace(NETWORK, app="bank", policy="bank@1", events=())
    put("adjustments", "adjustment", adjustments.build(bank, KEY), "bank@93")
    late = replace(SAME_TIME, app="late", policy="late@1", version=99, valid_from_tick=101, events=())
    put("adjustments", "adjustment", adjustments.build(late, KEY), "late@99")
    stranger = adjustments.build(replace(NETWORK, app="forged", policy="forged@1", expires_tick=200), KEY)
    put("adjustments", "adjustment", stranger | {"reason": "trust me"}, "forged@93")
    put("plans", "plan", decided("shop", "shop@2", 99, "shop@93"), "shop")
    put("plans", "plan", decided("shop", "shop@2", 100, "shop@98"), "shop")
    for app in ("bank", "new", "forged", "plain", "late"):
        put("plans", "plan", decided(app, f"{app}@1"), app)
    outputs.flush()
    return settings


def run(settings: Settings, *arguments: str) -> Result:
    given = ["--bootstrap", str(settings.bootstrap), "--prefix", settings.prefix]
    return CliRunner().invoke(
        learner_app, [*arguments, *given], catch_exceptions=False, env={"LEADTIME_DEMO_KEYS": "true"}
    )


def test_status_has_a_line_an_app_with_the_learner_on(published: Settings) -> None:
    rows = {row["app"]: row for row in json.loads(run(published, "status", "--json").stdout)["apps"]}
    assert list(rows) == ["bank", "forged", "late", "new", "shop"]
    shop = rows["shop"]
    assert (shop["state"], shop["arm"], shop["shortage_price"]) == ("steered", "same_time_25", 83.0)
    assert (shop["asked"], shop["confidence_of"], shop["policy"]) == (0.99, "time", "shop@2")
    assert (shop["realised"]["time_day"], shop["realised"]["plans_all"]) == (0.9896, 0.9987)
    assert (shop["saving"], shop["saving_95"], shop["gate"]["e_value"]) == (0.043, [0.012, 0.074], 71.0)
    whys = {app: row["why"] for app, row in rows.items() if row["state"] == "static"}
    assert whys["bank"] == "adjustment 93 is refused, expired: held to tick 97, tick 100 is planned"
    assert whys["forged"].startswith("adjustment 93 is refused, forged: no signature by a trusted key fits")
    assert whys["late"] == "the first adjustment holds from tick 101 on"
    assert whys["new"].startswith("no adjustment yet: the worker's learner makes one every 5 min")
    text = run(published, "status").stdout
    assert "4.3% (1.2% to 7.4%)" in text
    assert "98.96 %" in text
    assert len(text.splitlines()) == 6


def test_explain_says_what_is_tried_and_what_is_in_force(published: Settings) -> None:
    row = json.loads(run(published, "explain", "shop", "--json").stdout)
    assert [arm["paused_until"] for arm in row["arms"]] == [None, None, "2024-10-04"]
    assert row["newest"]["version"] == 98
    text = run(published, "explain", "shop").stdout
    for line in (
        "shop: steered, arm same_time_25, an hour's shortage is worth 83 replica-hours",
        "Same_time_25: a shortage's hour is worth 83.",
        'E-values against network on whole days: 60 for "costs less" promotes an arm, 20 for',
        "paused until 2024-10-04",
        "Of time: 98.96 % of the last day, 99.12 % of all 2,880 ticks, asked 99 % of time.",
        "Of plans: 99.65 % of the last day, 99.87 % of all 2,700 plans.",
        "4.3% (1.2% to 7.4%) of static's cost",
    ):
        assert line in text
    bank = run(published, "explain", "bank").stdout
    assert "bank: static, arm static" in bank
    assert "bank@93: expired: held to tick 97, tick 100 is planned" in bank
    assert "forged@93: forged: no signature" in run(published, "explain", "forged").stdout


def test_history_is_in_the_order_of_time(published: Settings) -> None:
    rows = json.loads(run(published, "history", "shop", "--json").stdout)["history"]
    assert [(row["tick"], row["change"]) for row in rows] == [
        (10, "policy"), (20, "policy"), (90, "beginning"), (92, "beginning"), (93, "beginning"), (97, "promotion"),
        (98, "silence"),
    ]  # fmt: skip
    texts = [row["text"] for row in rows]
    assert texts[1] == "version 2 by eve: confidence_of PLAN → TIME; learner False → True"
    assert texts[4].startswith("steers for the first time, network:")
    assert texts[5] == "promotion of same_time_25: e-value 71 in 9 days"
    assert texts[6] == "no adjustment holds for ticks 98 to 99: plans are static"
    assert rows[5]["time"] == "1970-01-01T08:10:00+00:00"
    assert "refused" in run(published, "history", "forged").stdout


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (
            "shoop",
            r"^no app 'shoop' has a policy, a plan or an adjustment; there are: bank, forged, late, new, plain",
        ),
        ("plain", r"^the learner of app plain is off: set `learner = true` in its policy"),
        ("new", r"^no adjustment of app new yet: the worker's learner makes one every 5 min"),
    ],
)
def test_what_is_not_there(published: Settings, app: str, why: str) -> None:
    for command in ("explain", "history"):
        with pytest.raises(UsageError, match=why):
            run(published, command, app)


def test_a_plans_explanation_says_what_the_learner_did(published: Settings) -> None:
    command = typer.Typer()
    command.command()(explain)
    given = ["--bootstrap", str(published.bootstrap), "--prefix", published.prefix]

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(
            command, [*arguments, *given], catch_exceptions=False, env={"LEADTIME_DEMO_KEYS": "true"}
        )
        text = result.stdout.partition("\nLearner\n")[2].partition("\n\n")[0]
        return " ".join(text.split())

    shop = said("shop")
    assert shop.startswith(
        "Follows adjustment shop@98, arm same_time_25, at a shortage's price of 83 replica-hours. "
        "Why: same_time_25: a shortage's hour is worth 83. Of time: 98.96 % of the last day"
    )
    assert said("shop", "--tick", "99").startswith("Follows adjustment shop@93, arm network")
    assert said("bank") == (
        "Static, as the policy asks: adjustment 93 is refused, expired: held to tick 97, tick 100 is planned."
    )
    assert said("forged").startswith("Static, as the policy asks: adjustment 93 is refused, forged:")
    assert said("plain") == ""
