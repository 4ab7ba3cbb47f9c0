"""The learner without Kafka: what it publishes of plans, and that a restored one publishes the same."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from models.learning import schedule
from models.learning.app_learner import ARMS
from pipeline.inputs.store import SideInputs
from pipeline.runtime import metrics
from pipeline.security.signing_keys import demo_key
from pipeline.settings import Settings
from pipeline.stages.learner import agent
from pipeline.stages.learner.agent import Learner
from pipeline.wire import adjustments
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.packed import pack, unpack
from pipeline.wire.policies import policy_of
from tests.unit.pipeline.stages.driving import PRICES, FakeInputs, policy, price
from tests.unit.pipeline.stages.learning import DAY, FIRST, TICK_S, days, encoded, plan

KEY = demo_key()
SETTINGS = Settings(demo_keys=True, bootstrap="none:1")
APPS = ["blog", "shop"]
STATE_BYTES = 16 * 1024
"""Most of an app's state."""
Adjustments = list[tuple[Record, dict[str, Any]]]
Make = Callable[[Adjustments], Learner]


def learning(app: str, **more: object) -> Record:
    return policy(app, learner=True, confidence_of="TIME", **more)


def making(inputs: SideInputs) -> Make:
    """A learner that appends what it publishes to a list, as it comes off the topic."""

    def make(made: Adjustments) -> Learner:
        def publish(topic: str, name: str, record: Record, **where: Any) -> None:
            assert topic == "adjustments"
            made.append((DEFAULT.decode(DEFAULT.encode(name, record))[1], where))

        return Learner(0, inputs, DEFAULT, publish, KEY, SETTINGS)

    return make


def inputs_of(*policies: Record, prices: list[Record] = PRICES) -> FakeInputs:
    return FakeInputs(SETTINGS, policies or [learning(app) for app in APPS], prices)


@pytest.fixture(scope="module")
def make() -> Make:
    return making(inputs_of())


@pytest.fixture(scope="module")
def plans() -> list[bytes]:
    return encoded(list(days(APPS, DAY + 60)))


@pytest.fixture(scope="module")
def whole(make: Make, plans: list[bytes]) -> tuple[Adjustments, Learner]:
    made: Adjustments = []
    stage = make(made)
    for value in plans:
        stage.fold(value)
    return made, stage


def test_one_signed_adjustment_an_app_and_epoch(whole: tuple[Adjustments, Learner]) -> None:
    made, stage = whole
    epochs = [tick for tick in range(FIRST, FIRST + DAY + 60) if schedule.ends_epoch(tick, TICK_S)]
    assert [(record["version"], record["app"]) for record, _ in made] == [
        (tick, app) for tick in epochs for app in APPS
    ]
    for record, where in made:
        tick, app = record["version"], record["app"]
        assert where == {"partition": 0, "key": f"{app}@{tick}"}
        in_force = policy_of(DEFAULT.decode(DEFAULT.encode("policy", learning(app)))[1])
        first = schedule.valid_from(tick, TICK_S)
        for at in (first, schedule.expires(tick, TICK_S) - 1):
            assert adjustments.refusal(record, app=app, policy=in_force, tick=at, ring=KEY.keyring) is None
        for at, code in ((first - 1, "not-yet-valid"), (schedule.expires(tick, TICK_S), "expired")):
            why = adjustments.refusal(record, app=app, policy=in_force, tick=at, ring=KEY.keyring)
            assert why is not None
            assert why.startswith(code)
    assert stage.done == FIRST + DAY + 60 - 2


def test_static_until_a_day_of_demand_is_known_then_a_price(whole: tuple[Adjustments, Learner]) -> None:
    made = [record for record, _ in whole[0] if record["app"] == "shop"]
    prices = [record["allocator"]["shortage_price"] for record in made]
    known = DAY + (DAY + 60) // 50  # ticks whose demand is not known do not count
    assert prices[: known - 10] == [None] * (known - 10)
    assert {record["arm"] for record in made[: known - 10]} == {"static"}
    assert None not in prices[known + 1 :]
    assert all(5 <= p <= 5000 * (1 + 1e-9) for p in prices[known + 1 :])
    last = made[-1]
    assert (last["arm"], last["experts"]["same_time"]) == ("same_time_50", 0.5)
    assert last["allocator"]["confidence"] == 0.99
    assert last["policy"] == "shop@1"
    assert metrics.LEARNER_PRICE.labels("shop")._value.get() == prices[-1]
    assert metrics.LEARNER_IN_FORCE.labels("shop", "same_time_50")._value.get() == 1


def test_state_is_small(whole: tuple[Adjustments, Learner]) -> None:
    _, stage = whole
    stage.changed = {*APPS}
    blocks = dict(stage.blocks())
    assert blocks.keys() == {b"position", b"shared", b"app-blog", b"app-shop"}
    assert len(blocks[b"app-shop"]) + len(blocks[b"position"]) < STATE_BYTES


@pytest.mark.parametrize("killed_after", [1, 2, 201, DAY * 2 + 7])
def test_a_restored_learner_publishes_the_same_bytes(
    make: Make, plans: list[bytes], whole: tuple[Adjustments, Learner], killed_after: int
) -> None:
    """A snapshot in the middle of a tick, a kill after some more were published, and all plans once more."""
    made: Adjustments = []
    first, blocks = make(made), dict[bytes, bytes]()
    for number, value in enumerate(plans[: killed_after + 5]):
        first.fold(value)
        if number == killed_after // 2 or number == killed_after - 1:
            blocks |= dict(first.blocks())
    second, known = make(made), len(made)
    second.restore(dict(blocks))
    places = [second.fold(value) for value in plans]
    assert places[:killed_after] == [None] * killed_after
    expected, _ = whole
    again = [record for record, _ in made[known:]]
    assert again == [record for record, _ in expected][-len(again) :]
    assert all(record in [r for r, _ in expected] for record, _ in made[:known])
    second.changed = {*APPS}
    unbroken = whole[1]
    unbroken.changed = {*APPS}
    assert dict(second.blocks()) == dict(unbroken.blocks())


def test_plans_that_come_again_change_nothing(make: Make) -> None:
    some = encoded(list(days(APPS, 20)))
    once: Adjustments = []
    twice: Adjustments = []
    stage, other = make(once), make(twice)
    for value in some:
        stage.fold(value)
    for value in [
        *some[:20],
        *some[6:20],
        *some[10:],
    ]:  # an allocator that was restored publishes its last ticks again
        other.fold(value)
    assert once == twice
    assert dict(stage.blocks()) == dict(other.blocks())


def test_an_edited_policy_is_learnt_anew_and_static(plans: list[bytes]) -> None:
    stage_inputs = inputs_of(
        learning("shop"), learning("shop", version=2, valid_from_tick=FIRST), learning("blog")
    )
    made: Adjustments = []
    stage = making(stage_inputs)(made)
    for value in plans:
        stage.fold(value)
    for record in days(APPS, DAY + 80):
        if record["tick"] >= FIRST + DAY + 60:
            if record["app"] == "shop":
                record["versions"]["policy"] = "shop@2"
            stage.fold(DEFAULT.encode("plan", record))
    last = {record["app"]: record for record, _ in made}
    assert last["shop"]["policy"] == "shop@2"
    assert last["shop"]["arm"] == "static"
    assert "h of known demand of 24 needed" in last["shop"]["reason"]
    assert last["blog"]["allocator"]["shortage_price"] is not None


def test_an_app_whose_learner_is_off_is_forgotten_at_once(make: Make) -> None:
    stage_inputs = inputs_of(
        learning("shop"), policy("shop", version=2, valid_from_tick=FIRST), learning("blog")
    )
    made: Adjustments = []
    stage = making(stage_inputs)(made)
    ticks = list(days(APPS, 30))
    for record in ticks[:40]:
        stage.fold(DEFAULT.encode("plan", record))
    blocks = dict(stage.blocks())
    for record in ticks[40:]:
        if record["app"] == "shop":
            record["versions"]["policy"] = "shop@2"
        stage.fold(DEFAULT.encode("plan", record))
    assert max(r["version"] for r, _ in made if r["app"] == "shop") < FIRST + 20
    assert max(r["version"] for r, _ in made if r["app"] == "blog") == FIRST + 29
    assert "shop" not in stage.apps
    blocks |= dict(stage.blocks())
    assert blocks[b"app-shop"] == b""
    restored = make([])
    restored.restore(blocks)
    assert restored.apps.keys() == {"blog"}


def test_what_cannot_be_learnt_from_leaves_static(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown policy, the built-in policy, no plan at all, another grid of prices, no offers, no forecast."""
    monkeypatch.setattr(agent, "VERSION_WAIT_S", 0.0)
    made: Adjustments = []
    stage = make(made)
    tick = next(t for t in range(FIRST, FIRST + 9) if schedule.ends_epoch(t, TICK_S))
    none, built_in, other, bare, silent = (plan("shop", tick, 3.0, 3.0) for _ in range(5))
    none["versions"]["policy"] = "shop@9"
    built_in["versions"]["policy"] = "shop@0"
    other["curve"]["prices"] = other["curve"]["prices"][1:]
    bare["versions"]["prices"] = ["gone@4"]
    silent["curve"] = {"confidences": [], "prices": [], "arms": []}
    for record in (none, built_in):
        assert stage.fold(DEFAULT.encode("plan", record)) == tick
        assert made == []
    assert stage.fold(b"no plan") is None
    assert stage.fold(DEFAULT.encode("policy", policy("shop"))) is None
    for number, record in enumerate((other, bare, silent)):
        record["tick"] = tick + number * schedule.epoch_ticks(TICK_S)
        stage.fold(DEFAULT.encode("plan", record))
        assert made[-1][0]["arm"] == "static"
        assert made[-1][0]["reason"] == "nothing was learnt yet: the policy's confidence"
    assert len(made) == 3
    assert stage.apps["shop"].learner is None
    restored = make([])
    restored.restore(dict(stage.blocks()))
    assert restored.apps["shop"].tick == stage.apps["shop"].tick


def test_a_fault_in_one_apps_learner_leaves_it_static_and_others_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Adjustments = []
    stage = make(made)
    observe = agent.AppLearner.observe

    def failing(self: agent.AppLearner, now: Any, shard: Any) -> Any:
        if self.fleets.cloud.app == "blog":
            raise FloatingPointError("invalid value")
        return observe(self, now, shard)

    monkeypatch.setattr(agent.AppLearner, "observe", failing)
    for record in days(APPS, 10):
        assert stage.fold(DEFAULT.encode("plan", record)) == record["tick"]
    assert stage.apps["blog"].learner is None
    assert stage.apps["shop"].learner is not None
    assert {record["app"] for record, _ in made} == {"blog", "shop"}


def test_an_app_of_one_tick_is_learnt_from_and_kept(make: Make) -> None:
    made: Adjustments = []
    stage = make(made)
    tick = next(t for t in range(FIRST, FIRST + 9) if schedule.ends_epoch(t, TICK_S))
    stage.fold(DEFAULT.encode("plan", plan("shop", tick, 3.0, 3.0)))
    for record in days(["blog"], 12):
        stage.fold(DEFAULT.encode("plan", record))
    assert [record["version"] for record, _ in made if record["app"] == "shop"] == [tick]
    restored = make([])
    restored.restore(dict(stage.blocks()))
    assert restored.apps["shop"].stored.keys() >= {"above", "fleets.ready"}


def test_other_offers_begin_other_fleets_and_keep_what_was_learnt() -> None:
    """A new price leaves the fleets; an offer that is new, or gone, begins them anew. A restart is the same."""
    other = [
        *PRICES,
        price("spare", "SPOT", "0.02", interruption=0.05, version=2),
        price("new", "ON_DEMAND", "0.09"),
    ]
    ready = making(inputs_of(prices=other))
    records = list(days(["shop"], 60))
    for record in records[20:40]:
        record["versions"]["prices"] = ["kept@1", "plain@1", "spare@2"]
    for record in records[40:]:
        record["versions"]["prices"] = ["kept@1", "new@1", "plain@1", "spare@2"]
    values = encoded(records)
    stage = ready([])
    shapes: list[int] = []
    for number, value in enumerate(values):
        if number in (20, 40):
            second = ready([])
            stage.changed = {"shop"}
            second.restore(dict(stage.blocks()))
            stage = second
        stage.fold(value)
        learner = stage.apps["shop"].learner
        assert learner is not None
        shapes.append(learner.fleets.fleet.ready.shape[1] if learner.fleets.fleet else 0)
    assert shapes == [3] * 40 + [4] * 20
    unbroken = ready([])
    for value in values:
        unbroken.fold(value)
    unbroken.changed, stage.changed = {"shop"}, {"shop"}
    assert dict(stage.blocks()) == dict(unbroken.blocks())
    assert stage.apps["shop"].learner is not None
    known = sum(record["need"] is not None for record in records)
    assert stage.apps["shop"].learner.known == known - 2  # nothing ran in the first tick of either fleets


def test_ready_replicas_are_those_observed_where_plans_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """They teach the integrator where the plan followed an adjustment; the realised share has them in any case."""
    offers = inputs_of()
    stage = making(offers)([])
    stage.fold(DEFAULT.encode("plan", plan("shop", FIRST, 3.0, 3.0)))
    in_force = policy_of(DEFAULT.decode(DEFAULT.encode("policy", learning("shop")))[1])
    usable = stage.apps["shop"].offers

    def observed(**more: Any) -> Record:
        capacity = [
            {"offer_id": "plain", "tick": FIRST - 1, "ready": 3}, {"offer_id": "spare", "tick": FIRST, "ready": 2},
            {"offer_id": "kept", "tick": -1},
        ]  # fmt: skip
        record = plan("shop", FIRST, 3.0, 3.0, **({"capacity": capacity} | more))
        record["versions"]["adjustment"] = "shop@5"
        return DEFAULT.decode(DEFAULT.encode("plan", record | more))[1]

    assert agent._ready(observed(), usable, in_force) == 5 * 2  # two replicas an instance
    stale = [{"offer_id": "plain", "tick": FIRST - 2, "ready": 3}]
    for record in (observed(mode="shadow"), observed(capacity=[]), observed(capacity=stale)):
        assert math.isnan(agent._ready(record, usable, in_force))

    taught: list[float] = []
    observe = agent.AppLearner.observe

    def noted(self: agent.AppLearner, now: Any, shard: Any) -> Any:
        taught.append(now.ready)
        return observe(self, now, shard)

    monkeypatch.setattr(agent.AppLearner, "observe", noted)
    for tick, named, need in ((1, "shop@5", 9.0), (2, "", 9.0), (3, "", 11.0)):
        record: Record = dict(observed())
        record["tick"], record["need"] = FIRST + tick, need
        for offer in record["capacity"]:
            offer["tick"] += tick if offer["tick"] >= 0 else 0
        record["versions"]["adjustment"] = named
        stage.fold(DEFAULT.encode("plan", record))
    assert taught[0] == 10
    assert all(map(math.isnan, taught[1:]))
    assert (stage.apps["shop"].realised.time.kept, stage.apps["shop"].realised.time.known) == (2, 3)


def test_an_adjustment_carries_what_the_learner_tries_and_what_was_kept(
    whole: tuple[Adjustments, Learner],
) -> None:
    record = [record for record, _ in whole[0] if record["app"] == "shop"][-1]
    names = [arm["arm"] for arm in record["arms"]]
    assert names[0] == next(iter(ARMS))
    assert len(names) == agent.TOLD
    assert set(names) < set(ARMS)
    assert all(5 <= arm["price"] <= 5000 for arm in record["arms"])
    assert {arm["paused_until"] for arm in record["arms"]} == {-1}
    # evidence begins with the arm that cost a tenth less in the day before the first price
    assert {arm["days"] for arm in record["arms"][1:]} == {0}
    realised = record["realised"]
    # a price is used after a day; what the lane in force had ready stands for what nobody observed
    assert 40 <= realised["ticks"] <= 60
    assert 0.8 < realised["time_all"] <= 1
    assert realised["time_day"] == realised["time_all"]
    # plans of `plan` carry one replica, and demand fills more
    assert realised["plans"] > DAY / 2
    assert realised["plans_all"] == 0
    assert len(DEFAULT.encode("adjustment", record)) <= 700


def test_the_saving_is_beside_static_and_has_an_interval_from_the_second_day_on(make: Make) -> None:
    """Static is as dear as the plans were before a price was used; then they cost a tenth less."""
    made: Adjustments = []
    stage = make(made)
    for record in days(["shop"], 4 * DAY):
        steered = made and made[-1][0]["arm"] != "static"
        cost = record["cost"] * Decimal("0.9") if steered else record["cost"]
        stage.fold(DEFAULT.encode("plan", record | {"cost": cost.quantize(Decimal("0.000001"))}))
    savings = [(r["saving"], r["saving_95"], r["reward"]) for r, _ in made]
    assert savings[DAY // 2] == (None, None, None)
    share, (low, high), reward = savings[-1]
    assert share == pytest.approx(0.1, abs=0.02)
    assert low <= share <= high
    assert high - low < 0.1
    assert reward < share  # some misses
    assert metrics.LEARNER_SAVING.labels("shop")._value.get() == share


def test_changes_are_told_once_and_survive_a_restart(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault between two epochs: the next adjustment tells it, none after that; also by a restored learner."""
    made: Adjustments = []
    stage = make(made)
    ticks = [record for record in days(APPS, 12) if record["app"] == "shop"]
    for record in ticks:
        if record["tick"] == FIRST + 3:
            with monkeypatch.context() as patch:
                patch.setattr(schedule, "ends_epoch", lambda *_: False)
                patch.setattr(agent, "_evidence", lambda _: 1 / 0)
                stage.fold(DEFAULT.encode("plan", record))
            second = make(made)
            second.restore(dict(stage.blocks()))
            stage = second
        else:
            stage.fold(DEFAULT.encode("plan", record))
    versions = [r["version"] for r, _ in made if r["events"]]
    assert versions == [FIRST + 4]
    (event,) = next(r["events"] for r, _ in made if r["events"])
    assert event["tick"] == FIRST + 3
    assert event["text"].startswith("begins anew after a fault: ZeroDivisionError")


def test_arrays_are_packed_without_loss(whole: tuple[Adjustments, Learner]) -> None:
    learner = whole[1].apps["shop"].learner
    assert learner is not None
    blocks = learner.blocks()
    data = pack(blocks)
    found = unpack(data)
    assert found.keys() == blocks.keys()
    assert all(
        (found[name] == array).all() and found[name].dtype == array.dtype for name, array in blocks.items()
    )
    assert pack(found) == data
    kept = json.loads(found["kept"].tobytes())
    assert kept["in_force"] == list(ARMS).index("same_time_50")
