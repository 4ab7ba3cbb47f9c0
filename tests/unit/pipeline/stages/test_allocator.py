"""The allocator without Kafka: what it publishes, and that a restored one publishes the same."""

import json
from decimal import Decimal

import numpy as np
import pytest
import structlog
from prometheus_client import REGISTRY

from models.behaviour.lstm import BehaviourModel
from models.demand.same_time import ABSENT
from models.learning.app_learner import EXPERTS
from models.learning.price_tail import PRICES as SHORTAGES
from pipeline.security import signing_keys
from pipeline.settings import Settings
from pipeline.stages.allocator import plan_metrics
from pipeline.stages.allocator.agent import Allocator
from pipeline.stages.allocator.snapshot import SAME_TIME
from pipeline.wire import commands
from pipeline.wire.codec import DEFAULT, Record
from tests.unit.pipeline.messages import NOW_US
from tests.unit.pipeline.stages.driving import (
    PRICES,
    SECOND,
    TICKS,
    USERS,
    Published,
    allocator,
    distinct,
    drive,
    policy,
    scenarios,
)


def plans_of(published: Published, app: str) -> list[Record]:
    return [record for topic, _, record, _ in published if topic == "plans" and record["app"] == app]


def test_a_restored_allocator_publishes_the_same_plans_and_signed_commands(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = scenarios(model, installation)
    make = allocator(model, installation, monkeypatch, [policy("shop"), policy("blog", mode="shadow")])
    whole = drive(make, inputs, None)
    for restart_at in (10, 17, len(inputs) - 1):
        assert distinct(drive(make, inputs, restart_at)) == distinct(whole)
    plans = [record for topic, _, record, _ in whole if topic == "plans"]
    assert [(plan["tick"], plan["app"]) for plan in plans] == sorted(
        (plan["tick"], plan["app"]) for plan in plans
    )
    assert len(plans) == 2 * TICKS
    first = next(plan for plan in plans if plan["app"] == "shop")
    counts = {count["offer_id"]: count["desired"][0] for count in first["counts"]}
    assert counts["kept"] == 2  # reserved is paid for: used first
    assert first["confidence_planned"] >= 0.99
    assert first["feasible"]
    costs = [first["margin"][name]["cost"] for name in ("expected", "demand", "purchase")]
    assert costs == sorted(costs)
    assert first["sum_of_users"]["replicas"] > 0
    assert first["versions"] == {
        "policy": "shop@1", "prices": ["kept@1", "plain@1", "spare@1"], "calendar": [], "model": model.model_id,
        "adjustment": "", "group_policy": "",
    }  # fmt: skip
    issued = [record for topic, _, record, _ in whole if topic == "commands"]
    assert {command["target"]["ref"].split("/")[0] for command in issued} == {
        "shop"
    }  # shadow commands nothing
    assert all(commands.verify(command, signing_keys.keyring(installation)) for command in issued)
    assert sum(plan["commands_issued"] for plan in plans) == len(issued)
    totals = [record for topic, _, record, _ in whole if topic == "forecasts.apps"]
    assert len(totals) == TICKS


def test_with_a_learner_plans_are_the_same_and_the_usage_of_14_days_is_kept(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until an adjustment asks for a weight; a restored allocator keeps the same."""
    inputs = scenarios(model, installation)
    make = allocator(model, installation, monkeypatch, [policy("shop", learner=True), policy("blog")])
    plain = allocator(model, installation, monkeypatch, [policy("shop"), policy("blog")])
    whole = drive(make, inputs, None)
    evidence = [plan["curve"] | {"need": plan["need"]} for plan in plans_of(whole, "shop")]
    assert all([arm["arm"] for arm in curve["arms"]] == sorted(EXPERTS) for curve in evidence)
    assert all(curve["confidences"] == [0.99] for curve in evidence)
    assert all(
        len(arm["wanted"]) == 1 + len(SHORTAGES) == len(arm["soon"]) for c in evidence for arm in c["arms"]
    )
    priced = [arm["wanted"][1:] for curve in evidence for arm in curve["arms"]]
    assert all(wanted == sorted(wanted) for wanted in priced)
    complete = [plan["completeness"] == 1 for plan in plans_of(whole, "shop")]
    assert [(curve["need"] or 0) > 0 for curve in evidence] == complete
    assert any(complete)
    unchanged = drive(plain, inputs, None)
    assert all(plan["curve"]["arms"] == [] and plan["need"] is None for plan in plans_of(unchanged, "shop"))
    for plan, other in zip(plans_of(whole, "shop"), plans_of(unchanged, "shop"), strict=True):
        plan |= {"curve": other["curve"], "need": None}
    assert distinct(whole) == distinct(unchanged)
    whole = drive(make, inputs, None)
    assert distinct(drive(make, inputs, 17)) == distinct(whole)

    one, other = (some(lambda *_, **__: None) for some in (make, make))
    half = len(inputs) // 2
    for value in inputs[:half]:
        one.fold(value)
    blocks = dict(one.blocks())
    assert SAME_TIME + b"shop" in blocks
    assert SAME_TIME + b"blog" not in blocks
    assert "same_time" not in json.loads(blocks[b"app-blog"])
    other.restore({**blocks, SAME_TIME + b"blog": b"of a time when its learner was on"})
    assert not other.apps["blog"].same_time
    for value in inputs:
        one.fold(value)
        other.fold(value)
    assert dict(other.blocks()) == dict(one.blocks())
    kept = one.apps["shop"].same_time
    assert np.count_nonzero(kept["usage"] != ABSENT) > 0


def test_state_from_before_records_were_kept_is_read(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its first day an app has no bound, so that nothing else may differ."""
    inputs = scenarios(model, installation)
    make = allocator(model, installation, monkeypatch, [policy("shop"), policy("blog")])
    whole: Published = []
    rest: Published = []

    def into(published: Published) -> Allocator:
        return make(
            lambda topic, name, record, *, partition, key: published.append((topic, name, record, partition))
        )

    before, half = into(whole), len(inputs) // 2
    for value in inputs[:half]:
        before.fold(value)
    blocks = dict(before.blocks())
    for name in [name for name in blocks if name.startswith(b"app-")]:
        kept = json.loads(blocks[name])
        del kept["reconciled"]["day"], kept["reconciled"]["largest"]
        blocks[name] = json.dumps(kept).encode()
    after = into(rest)
    after.restore(blocks)
    done = len(whole)
    for value in inputs[half:]:
        before.fold(value)
    for value in inputs:
        after.fold(value)
    of = [[record for topic, _, record, _ in some if topic == "plans"] for some in (whole[done:], rest)]
    assert of[0]
    assert of[1][-len(of[0]) :] == of[0]


def test_a_plan_waits_for_every_shard_and_a_notice_says_which_is_missing(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: Published = []

    def publish(topic: str, name: str, record: Record, **_: object) -> None:
        published.append((topic, name, record, 0))

    stage = allocator(model, installation, monkeypatch, [policy("shop"), policy("blog")])(publish)
    inputs = scenarios(model, installation)
    one = [value for value in inputs if DEFAULT.decode(value)[1]["shard"] == 0]
    for value in one:
        stage.fold(value)
    assert published == []
    assert stage.done == -1
    for value in (
        v for v in inputs if DEFAULT.decode(v)[1]["shard"] == 1 and DEFAULT.decode(v)[1]["seq"] == 0
    ):
        stage.fold(value)
    assert {record["tick"] for topic, _, record, _ in published if topic == "plans"} == {stage.done}
    assert stage.fold(one[0]) is None  # planned already
    published.clear()
    stage.hold(1000.0, wall_s=5e8)
    stage.hold(1000.0 + installation.hold_after_s - 1, wall_s=9e9)  # the wall clock jumps
    assert published == []
    stage.hold(1000.0 + installation.hold_after_s, wall_s=5e8)
    stage.hold(2000.0, wall_s=5e8)
    notices = [record for topic, _, record, _ in published if topic == "hold.notices"]
    assert [(notice["allocation_group"], notice["missing"]) for notice in notices] == [
        ("blog", [1]),
        ("shop", [1]),
    ]


def test_a_partition_without_data_stalls_no_app(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = scenarios(model, installation, second={})
    make = allocator(model, installation, monkeypatch, [policy("shop"), policy("blog")])
    plans = [record for topic, _, record, _ in drive(make, inputs, None) if topic == "plans"]
    assert len(plans) == 2 * TICKS
    assert all(plan["reactive_floor"] > 0 for plan in plans)  # of what shard 0 measured


def test_where_nothing_comes_from_any_shard_a_live_notice_says_so_and_nothing_is_planned(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[tuple[str, Record]] = []
    live = installation.model_copy(update={"event_time": False})
    stage = allocator(model, live, monkeypatch, [policy("shop"), policy("blog")])(
        lambda topic, _, record, **__: published.append((topic, record))
    )
    stage.hold(1e6, wall_s=5e8)
    stage.hold(2e6, wall_s=5e8)
    assert published == []  # nothing was ever there
    for value in scenarios(model, live):
        stage.fold(value)
    published.clear()
    patience_s = live.hold_after_s + stage.tick_s  # the next tick takes its time before it is missed
    for after_s in (0.0, patience_s - 1, patience_s, 2 * patience_s):
        stage.hold(1000.0 + after_s, wall_s=5e8 + after_s)
    assert [(topic, n["allocation_group"], n["tick"], n["missing"]) for topic, n in published] == [
        ("hold.notices", group, stage.done + 1, [0, 1]) for group in ("blog", "shop")
    ]
    assert published[0][1]["since"] == 5e8 * 1e6


def test_an_app_that_nobody_described_is_planned_in_shadow(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drive(allocator(model, installation, monkeypatch, []), scenarios(model, installation), None)
    plans = [record for topic, _, record, _ in whole if topic == "plans"]
    assert {plan["mode"] for plan in plans} == {"shadow"}
    assert not [1 for topic, _, _, _ in whole if topic == "commands"]


def test_apps_of_a_group_share_what_is_owned_and_its_budget(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [policy(app, allocation_group="web") for app in ("shop", "blog", "web")]
    group[2] |= {"budget": Decimal("0.2"), "mode": "shadow"}
    monkeypatch.setattr("tests.unit.pipeline.stages.driving.GROUPS", ["web", "web"])
    inputs = scenarios(model, installation)
    make = allocator(model, installation, monkeypatch, group)
    whole = drive(make, inputs, None)
    assert distinct(drive(make, inputs, len(inputs) - 1)) == distinct(whole)
    plans = [record for topic, _, record, _ in whole if topic == "plans"]
    assert {plan["allocation_group"] for plan in plans} == {"web"}
    for tick in {plan["tick"] for plan in plans}:
        of_tick = [plan for plan in plans if plan["tick"] == tick]
        kept = [c["desired"][0] for plan in of_tick for c in plan["counts"] if c["offer_id"] == "kept"]
        assert sum(kept) == 2  # both owned ones are used, by one app or the other
        assert sum(plan["cost"] for plan in of_tick) <= Decimal("0.2") or any(
            "over_budget" in plan["guardrails"] for plan in of_tick
        )
        assert {plan["versions"]["group_policy"] for plan in of_tick} == {"web@1"}
        assert {share["of"] for share in of_tick[0]["shares"]} == {"budget", "kept"}


def test_what_cannot_be_met_is_warned_of_once(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = [{"metric": "coverage", "value": 0.9}]
    policies = [policy("shop", providers=["elsewhere"]), policy("blog", promotion_gates=gates)]
    with structlog.testing.capture_logs() as logs:
        whole = drive(
            allocator(model, installation, monkeypatch, policies), scenarios(model, installation), None
        )
    warned = [log for log in logs if log["event"] == "policy cannot be met"]
    assert [(log["app"], log["log_level"]) for log in warned] == [("shop", "warning")]
    assert "provider local is not allowed" in warned[0]["reason"]
    # gates: nothing was measured often enough yet, so nothing is commanded; of six plans, that of the first tick
    # promised something until 300 s, five ticks, had passed
    blog = [record for topic, _, record, _ in whole if topic == "plans" and record["app"] == "blog"]
    assert {plan["mode"] for plan in blog} == {"shadow"}
    assert blog[-1]["promotion"] == {"mode": "auto", "coverage": None, "decisions": 1}
    assert not [1 for topic, _, _, _ in whole if topic == "commands"]


def test_stale_prices_hold_what_is_there_and_are_warned_of(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged = installation.model_copy(update={"price_max_age_s": 1.0})  # of a tick at least, so all are stale
    with structlog.testing.capture_logs() as logs:
        whole = drive(
            allocator(model, aged, monkeypatch, [policy("shop"), policy("blog")]),
            scenarios(model, aged),
            None,
        )
    plans = [record for topic, _, record, _ in whole if topic == "plans"]
    for plan in plans:
        assert "stale_price" in plan["guardrails"]
        assert "its price is" in plan["reason"]
        assert {c["offer_id"] for c in plan["counts"] if any(c["desired"])} <= {
            "kept"
        }  # paid already; none runs
    stale = {(log["app"], log["reason"].split(":")[0]) for log in logs if log["event"] == "price is stale"}
    assert stale == {(app, offer) for app in ("shop", "blog") for offer in ("plain", "spare")}


def test_the_gauges_of_plans_have_what_the_last_plans_say(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    amounts = [*policy("blog")["unit"], {"metric": "disk", "value": 1e6}]
    metered = policy("blog", governed=["cpu", "memory", "disk"], unit=amounts)
    live = installation.model_copy(
        update={"price_max_age_s": 1.0, "event_time": False, "lateness_s": 35, "observation_wait_s": 0.0}
    )
    plan_metrics.clear()
    make = allocator(model, live, monkeypatch, [policy("shop"), metered])
    plans = [r for topic, _, r, _ in drive(make, scenarios(model, live), None) if topic == "plans"]

    def gauge(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"leadtime_{name}", labels)

    last = max(plan["tick"] for plan in plans)
    tick_s = plans[0]["tick_s"]
    assert gauge("plan_due_timestamp_seconds", partition="0") == (last + 2) * tick_s + 35
    assert gauge("price_stale", offer="plain") == 1.0
    assert gauge("price_stale", offer="kept") == 0.0
    for plan in (plan for plan in plans if plan["tick"] == last):
        app, step = plan["app"], plan["steps"].index(plan["window"][0])
        assert gauge("plan_feasible", app=app) == plan["feasible"]
        assert gauge("plan_shadow", app=app) == 0.0
        assert gauge("plan_confidence", app=app, kind="asked") == plan["confidence_asked"]
        assert gauge("plan_confidence", app=app, kind="planned") == plan["confidence_planned"]
        assert gauge("plan_cost_per_hour", app=app, currency="USD") == float(plan["cost"])
        assert gauge("plan_replicas", app=app) == plan["replicas"][step]
        assert gauge("completeness", app=app) == plan["completeness"]
        required = [gauge("required", app=app, metric=metric) for metric in plan["metrics"]]
        assert required == plan["required"][step]
    assert (gauge("unreported_metrics", app="shop"), gauge("unreported_metrics", app="blog")) == (0.0, 1.0)
    names, number = USERS["shop"] + SECOND["shop"], last - NOW_US // (tick_s * 1_000_000)
    used = sum(1.0 + len(name) + 0.3 * number for name in names)  # as `frames` of both shards has it
    assert gauge("demand", app="shop", metric="cpu") == pytest.approx(used, rel=1e-5)
    plan_metrics.clear()
    assert gauge("plan_feasible", app="shop") is None


def test_a_live_app_in_shadow_mode_is_planned_with_nothing_commanded_that_could_fail_to_come(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = installation.model_copy(update={"event_time": False, "observation_wait_s": 0.0})
    make = allocator(
        model, live, monkeypatch, [policy("shop", mode="shadow")]
    )  # "blog" has the built-in policy
    plans = [r for topic, _, r, _ in drive(make, scenarios(model, live), None) if topic == "plans"]
    assert {(plan["app"], plan["mode"]) for plan in plans} == {("shop", "shadow"), ("blog", "shadow")}
    assert {offer["state"] for plan in plans for offer in plan["capacity"]} == {""}


def test_a_replay_has_no_time_at_which_plans_are_due(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_metrics.clear()
    replayed = installation.model_copy(update={"event_time": True})
    drive(allocator(model, replayed, monkeypatch, [policy("shop")]), scenarios(model, replayed), None)
    assert REGISTRY.get_sample_value("leadtime_plan_feasible", {"app": "shop"}) == 1.0
    modes = [REGISTRY.get_sample_value("leadtime_plan_shadow", {"app": app}) for app in ("shop", "blog")]
    assert modes == [0.0, 1.0]  # the built-in policy of "blog" is one of shadow mode
    assert REGISTRY.get_sample_value("leadtime_plan_due_timestamp_seconds", {"partition": "0"}) is None


def test_offers_in_another_currency_are_not_bought_and_the_plan_names_that_of_the_others(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, plain, spare = PRICES
    prices = [kept | {"currency": "EUR"}, plain | {"currency": "EUR"}, spare | {"currency": "GBP"}]
    with structlog.testing.capture_logs() as logs:
        whole = drive(
            allocator(model, installation, monkeypatch, [policy("shop")], prices),
            scenarios(model, installation),
            None,
        )
    plans = [record for topic, _, record, _ in whole if topic == "plans" and record["app"] == "shop"]
    assert {plan["currency"] for plan in plans} == {"EUR"}
    assert any(any(count["desired"]) for plan in plans for count in plan["counts"])
    assert not any(any(c["desired"]) for plan in plans for c in plan["counts"] if c["offer_id"] == "spare")
    warned = [
        log["reason"]
        for log in logs
        if log["event"] == "prices in several currencies" and log["app"] == "shop"
    ]
    assert warned == ["spare: its price is in GBP, the app's offers are in EUR"]
