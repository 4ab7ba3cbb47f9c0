"""Which adjustment a plan follows; whatever is refused, with its reason, leaves static."""

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.behaviour.lstm import BehaviourModel
from models.learning import schedule
from models.learning.adjustment import Adjustment, ExpertWeights
from models.learning.app_learner import EXPERTS
from pipeline.inputs.store import SideInputs
from pipeline.runtime import metrics
from pipeline.security.signing_keys import SigningKey, demo_key, signing_key
from pipeline.settings import Settings
from pipeline.stages.allocator import following
from pipeline.stages.allocator.agent import Allocator
from pipeline.stages.allocator.following import STATIC, Adjustments, Followed
from pipeline.wire import adjustments
from pipeline.wire.adjustments import AdjustmentSpec
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.policies import policy_of
from tests.unit.pipeline.messages import NOW_US, TICK_S
from tests.unit.pipeline.stages.driving import (
    PRICES,
    TICKS,
    FakeInputs,
    Published,
    distinct,
    drive,
    policy,
    scenarios,
)

KEY = demo_key()
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"another key, for tests only.....".ljust(32)))
SHOP = policy("shop", learner=True, confidence_of="TIME")
IN_FORCE = policy_of(DEFAULT.decode(DEFAULT.encode("policy", SHOP))[1])
CHEAP = Adjustment(
    "same_time_25", 0.99, shortage_price=40.0, experts=ExpertWeights(network=0.75, same_time=0.25)
)
SPEC = AdjustmentSpec(
    app="shop",
    version=90,
    valid_from_tick=100,
    expires_tick=120,
    base_model="m@1",
    policy="shop@1",
    adjustment=CHEAP,
)
STATIC_FIRST = tuple(EXPERTS.values())
QUARTER_FIRST = (
    EXPERTS["same_time_25"],
    *(of for name, of in EXPERTS.items() if name != "same_time_25"),
)


def inputs_with(*records: Record) -> FakeInputs:
    """Side inputs of an installation that trusts KEY, which have read these adjustments."""
    made = FakeInputs(Settings(bootstrap="none:1"), [SHOP], PRICES)
    made.ring = KEY.keyring
    for record in records:
        made._take("adjustments", DEFAULT.encode("adjustment", record))
    return made


def built(key: SigningKey = KEY, **change: Any) -> Record:
    return adjustments.build(replace(SPEC, **change), key)


def adjusted(**change: Any) -> Record:
    return built(adjustment=replace(CHEAP, **change))


def refusals(app: str, reason: str) -> float:
    return metrics.ADJUSTMENTS_REFUSED.labels(app, reason)._value.get()


def test_one_in_force_is_followed_by_its_price_and_weight() -> None:
    followed = Adjustments(inputs_with(built())).followed("shop", IN_FORCE, 110, None)
    assert followed == Followed("shop@90", QUARTER_FIRST, 40.0)
    of_plans = replace(IN_FORCE, confidence_of="plan")
    assert Adjustments(inputs_with(built())).followed("shop", of_plans, 110, None) == Followed(
        "shop@90", QUARTER_FIRST, None
    )
    less_sure = inputs_with(adjusted(experts=ExpertWeights(), supply=0.9))
    assert Adjustments(less_sure).followed("shop", IN_FORCE, 110, None) == Followed(
        "shop@90", STATIC_FIRST, 40.0, 0.9
    )
    assert Adjustments(less_sure).followed("shop", of_plans, 110, None).supply is None


def test_without_one_it_is_static_with_all_weights_under_trial() -> None:
    assert Adjustments(inputs_with()).followed("shop", IN_FORCE, 110, None) == Followed(
        "", STATIC_FIRST, None
    )


@pytest.mark.parametrize(
    ("record", "tick", "reason"),
    [
        (built(), 121, "expired: held to tick 120, tick 121 is planned"),
        (built(policy="shop@2"), 110, "other-policy: it was made for shop@2, shop@1 is in force"),
        (
            adjusted(shortage_price=-1.0),
            110,
            "out-of-range: shortage_price must be finite and at least 0, got -1.0",
        ),
        (
            adjusted(shortage_price=float("nan")),
            110,
            "out-of-range: shortage_price must be finite and at least 0",
        ),
        *(
            (
                adjusted(shortage_price=price),
                110,
                f"out-of-range: shortage_price must be 5 to 5,000 replica-hours, got {price}",
            )
            for price in (0.0, 4.9, 5001.0, 1e300)
        ),
        (
            adjusted(experts=ExpertWeights(0.7, 0.0, 0.3)),
            110,
            "out-of-range: weights of the experts must be those of an arm (network, same_time_25, ",
        ),
        (
            adjusted(experts=ExpertWeights(0.25, 0.75)),
            110,
            "out-of-range: weights of the experts must be those of an arm",
        ),
        (adjusted(confidence=0.9), 110, "out-of-range: confidence must be the policy's, got 0.9"),
        (adjusted(hold_s=60.0), 110, "out-of-range: hold_s must be"),
        (adjusted(supply=0.5), 110, "out-of-range: supply must be that of an arm, got 0.5"),
        (adjusted(speed=4.0), 110, "out-of-range: speed must be 1, got 4"),
    ],
)
def test_one_that_is_refused_leaves_static_and_is_logged_and_counted_once(
    record: Record, tick: int, reason: str
) -> None:
    followed = Adjustments(inputs_with(record))
    code = reason.partition(":")[0]
    before = refusals("shop", code)
    with structlog.testing.capture_logs() as logs:
        for at in range(tick, tick + 3):
            assert followed.followed("shop", IN_FORCE, at, None) == Followed("", STATIC_FIRST, None)
    assert [(log["event"], log["version"]) for log in logs] == [("adjustment refused", 90)]
    assert logs[0]["reason"].startswith(reason)
    assert refusals("shop", code) == before + 1


def test_one_that_is_not_signed_is_not_even_read_and_replaces_none() -> None:
    forged = built() | {
        "allocator": {"confidence": 0.99, "shortage_price": 1.0, "hold_s": None, "supply": None}
    }
    stranger = built(OTHER, version=91, valid_from_tick=105)
    before = refusals("", "forged")
    with structlog.testing.capture_logs() as logs:
        inputs = inputs_with(built(), forged, stranger, forged)
    assert refusals("", "forged") == before + 3
    assert {log["event"] for log in logs} == {"side input ignored"}
    assert all("forged: no signature by a trusted key fits" in log["error"] for log in logs)
    assert Adjustments(inputs).followed("shop", IN_FORCE, 110, None).shortage_price == 40.0


def test_one_of_another_app_is_not_followed() -> None:
    inputs = inputs_with(built(app="blog"), built(app="../shop"))
    assert Adjustments(inputs).followed("shop", IN_FORCE, 110, None).version == ""


def test_the_newest_that_may_be_followed_is() -> None:
    wrong = built(version=95, valid_from_tick=105, policy="shop@2")
    later = built(version=99, valid_from_tick=111)
    followed = Adjustments(inputs_with(later, wrong, built()))
    assert followed.followed("shop", IN_FORCE, 110, None).version == "shop@90"
    assert followed.followed("shop", IN_FORCE, 111, None).version == "shop@99"
    assert followed.followed("shop", IN_FORCE, 99, None).version == ""


def test_an_edited_policy_and_one_without_a_learner_are_static_at_once() -> None:
    followed = Adjustments(inputs_with(built()))
    assert followed.followed("shop", IN_FORCE, 110, None).version == "shop@90"
    assert followed.followed("shop", replace(IN_FORCE, version=2), 111, None).version == ""
    assert followed.followed("shop", replace(IN_FORCE, learner=False), 111, None) == STATIC


def test_what_a_plan_followed_is_followed_again() -> None:
    followed = Adjustments(inputs_with(built(), built(version=95, valid_from_tick=105)))
    assert followed.followed("shop", IN_FORCE, 110, "shop@90").version == "shop@90"
    assert followed.followed("shop", IN_FORCE, 110, "") == Followed("", STATIC_FIRST, None)


@pytest.mark.parametrize("tick_s", [10, 60, 300, 3600])
def test_the_adjustment_that_is_waited_for_is_the_newest_that_holds(tick_s: int) -> None:
    followed, every = Adjustments(inputs_with()), schedule.epoch_ticks(tick_s)
    for tick in range(1_000, 1_000 + 4 * every):
        made = [
            t
            for t in range(tick)
            if schedule.ends_epoch(t, tick_s) and schedule.valid_from(t, tick_s) <= tick
        ]
        assert followed.awaited(0, tick, tick_s) == max(made)
        assert followed.awaited(max(made), tick, tick_s) == max(made)
        assert followed.awaited(max(made) + 1, tick, tick_s) is None


def test_a_wait_is_short_and_is_given_up_after_a_while() -> None:
    inputs = inputs_with()
    followed = Adjustments(inputs)
    coming = threading.Timer(0.02, lambda: arrive(inputs, built()))
    coming.start()
    assert followed.came("shop", 90)
    assert not followed.came("shop", 95)
    assert followed.lacking == ("shop", 95)
    followed.give_up(1000.0)
    assert not followed.came("shop", 95)
    with structlog.testing.capture_logs() as logs:
        followed.give_up(1000.0 + following.LEARNER_WAIT_S)
    assert [log["event"] for log in logs] == ["no adjustment came: plans are static"]
    assert followed.came("shop", 95)
    assert followed.came("shop", 96)
    assert followed.lacking is None
    arrive(inputs, built(version=97, valid_from_tick=107))
    assert followed.came("shop", 97)
    assert not followed.came("shop", 98)  # it is back, and waited for


def arrive(inputs: SideInputs, record: Record) -> None:
    with inputs.changed:
        inputs._take("adjustments", DEFAULT.encode("adjustment", record))
        inputs.changed.notify_all()


FIRST = NOW_US // 1_000_000 // TICK_S
"""First planned tick of `driving.scenarios`."""


def allocator(
    model: BehaviourModel, settings: Settings, monkeypatch: pytest.MonkeyPatch, *records: Record, **more: Any
) -> tuple[Any, FakeInputs]:
    """What makes an allocator whose inputs have these adjustments, and the inputs."""
    monkeypatch.setattr("pipeline.kafka.reader.newest", lambda *_: more.get("pinned"))
    monkeypatch.setattr(SideInputs, "wait_observed", lambda *_: True)
    inputs = FakeInputs(settings, more.get("policies", [SHOP, policy("blog")]), PRICES)
    inputs.ring = KEY.keyring
    for record in records:
        inputs._take("adjustments", DEFAULT.encode("adjustment", record))
    return lambda publish: Allocator(
        0, model, inputs, DEFAULT, publish, signing_key(settings), settings
    ), inputs


def plans_of(published: Published, app: str = "shop") -> list[Record]:
    return [record for topic, _, record, _ in published if topic == "plans" and record["app"] == app]


def test_plans_follow_an_adjustment_from_its_tick_to_its_end(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are what they were before and after it, as are those of another app."""
    live = installation.model_copy(update={"event_time": False})
    messages = scenarios(model, live)
    record = built(version=FIRST - 9, valid_from_tick=FIRST + 2, expires_tick=FIRST + 3)
    make, _ = allocator(model, live, monkeypatch, record)
    plain, _ = allocator(model, live, monkeypatch)
    whole, static = drive(make, messages, None), drive(plain, messages, None)
    versions = [plan["versions"]["adjustment"] for plan in plans_of(whole)]
    assert versions == ["", "", f"shop@{FIRST - 9}", f"shop@{FIRST - 9}", ""]
    assert plans_of(whole)[:2] == plans_of(static)[:2]
    changed, before = plans_of(whole)[2], plans_of(static)[2]
    assert changed["confidence_asked"] != before["confidence_asked"] == 0.99
    assert changed["curve"] == before["curve"]
    assert changed["need"] == before["need"]
    assert plans_of(whole, "blog") == plans_of(static, "blog")
    for restart_at in (10, 17, len(messages) - 1):
        assert distinct(drive(make, messages, restart_at)) == distinct(whole)


def test_a_restored_allocator_follows_what_its_plans_followed(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a newer adjustment has come since."""
    live = installation.model_copy(update={"event_time": False})
    messages = scenarios(model, live)
    first = built(version=FIRST - 9, valid_from_tick=FIRST, expires_tick=FIRST + 30)
    make, _ = allocator(model, live, monkeypatch, first)
    whole = drive(make, messages, None)
    pinned = {
        plan["plan_id"]: plan["versions"]
        | {"observed_tick": plan["observed_tick"], "capacity": plan["capacity"]}
        for app in ("shop", "blog")
        for plan in plans_of(whole, app)
    }
    dear = replace(CHEAP, shortage_price=2000.0)
    newer = built(version=FIRST - 4, valid_from_tick=FIRST, expires_tick=FIRST + 30, adjustment=dear)
    again, _ = allocator(model, live, monkeypatch, first, newer, pinned=pinned)
    published: Published = []

    def publish(topic: str, name: str, record: Record, *, partition: int, key: str) -> None:
        del key
        published.append((topic, name, DEFAULT.decode(DEFAULT.encode(name, record))[1], partition))

    stage = again(publish)
    stage.restore({})
    for value in messages:
        stage.fold(value)
    assert distinct(published) == distinct(whole)
    unpinned, _ = allocator(model, live, monkeypatch, first, newer)
    assert plans_of(drive(unpinned, messages, None)) != plans_of(whole)


def test_a_replay_waits_for_the_adjustment_of_its_tick_and_not_for_ever(
    model: BehaviourModel, installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "EPOCH_S", TICK_S)  # an adjustment made at t holds from t + 2 on
    messages = scenarios(model, installation)
    made = [
        built(version=tick, valid_from_tick=tick + 2, expires_tick=tick + 4, adjustment=CHEAP)
        for tick in range(FIRST, FIRST + TICKS)
    ]
    make, _ = allocator(model, installation, monkeypatch, *made)
    whole = drive(make, messages, None)
    assert [plan["versions"]["adjustment"] for plan in plans_of(whole)] == [
        "", "", *(f"shop@{tick}" for tick in range(FIRST, FIRST + TICKS - 2)),
    ]  # fmt: skip

    waiting, served = allocator(model, installation, monkeypatch)
    published: Published = []

    def publish(topic: str, name: str, record: Record, *, partition: int, key: str) -> None:
        del key
        record = DEFAULT.decode(DEFAULT.encode(name, record))[1]
        published.append((topic, name, record, partition))
        if topic == "plans" and record["app"] == "shop":
            threading.Timer(0.05, lambda: arrive(served, made[record["tick"] - FIRST])).start()

    stage = waiting(publish)
    for value in messages:
        stage.fold(value)
    while stage.adjustments.lacking is not None:
        time.sleep(0.02)
        stage.hold(1000.0, 0.0)
    assert distinct(published) == distinct(whole)

    unserved, inputs = allocator(model, installation, monkeypatch)
    stage = unserved(lambda *_, **__: None)
    for value in messages:
        stage.fold(value)
    stage.hold(1000.0, 0.0)
    assert stage.done == FIRST + 1
    blocks = dict(stage.blocks())
    stage.hold(1000.0 + following.LEARNER_WAIT_S, 0.0)
    assert stage.done == FIRST + TICKS - 1
    for record in made:
        arrive(inputs, record)
    published.clear()
    successor = unserved(publish)
    successor.restore(blocks)
    for value in messages:
        successor.fold(value)
    assert plans_of(published) == plans_of(whole)[2:]
    complete = [plan["completeness"] == 1 for plan in plans_of(whole)]
    assert [plan["need"] is not None for plan in plans_of(whole)] == complete
