"""Profiler, simulator and allocator without Kafka: what they publish, and that a restored one publishes the same."""

import random
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import structlog

from models.dependence import Dependence
from models.features import EVENT_KINDS, METRICS
from models.lstm import BehaviourModel
from pipeline import commands, keys, released
from pipeline.allocator import Allocator
from pipeline.codec import DEFAULT, Record
from pipeline.forecasts import scores, unpack
from pipeline.identity import KeyRing
from pipeline.ingest import Partition
from pipeline.profiler import Profiler, Users
from pipeline.settings import Settings
from pipeline.side_inputs import SideInputs
from pipeline.simulator import Simulator
from pipeline.state import Publish, Stage
from tests.unit.pipeline.messages import NOW_US, TICK_S, FakeMessage, event, metric, watermark

TICKS = 6
Published = list[tuple[str, str, Record, int]]


@pytest.fixture(scope="module")
def model() -> BehaviourModel:
    return BehaviourModel.load(released.folder(Settings()))


@pytest.fixture
def installation(tmp_path: Path) -> Settings:
    return Settings(
        tick_s=TICK_S,
        partitions=2,
        scenarios=256,
        demo_keys=True,
        event_time=True,
        data_dir=tmp_path,
        bootstrap="none:1",
    )


def frames(settings: Settings, shard: int, users: dict[str, list[str]]) -> list[bytes]:
    """Frames of one shard: users by app, each with usage that rises by the tick and depends on its name."""
    part = Partition(
        shard,
        settings.model_copy(update={"partitions": 1, "max_ahead_s": 1e4}),
        DEFAULT,
        KeyRing.of(settings),
    )
    part.directory.partition = _Any(shard)
    bodies: list[bytes] = []
    events: list[bytes] = []
    for tick in range(TICKS):
        ts = NOW_US + tick * TICK_S * 1_000_000
        for app, names in users.items():
            for name in names:
                if name.startswith("quiet") and tick in (2, 3):
                    continue
                size = 1.0 + len(name) + 0.3 * tick
                bodies.append(metric(ts, name, app, cpu=size, memory=size * 2e9))
                events.append(event(ts, name, app, count=3.0))
    end = NOW_US + TICKS * TICK_S * 1_000_000
    for topic, values in (("telemetry.metrics", bodies), ("telemetry.events", events)):
        part.take(topic, [FakeMessage(v, i, name=topic) for i, v in enumerate([*values, watermark(end)])])
    return [DEFAULT.encode("frame", record) for parts in part.close() for record in parts]


class _Any(list[int]):
    """Every user belongs here."""

    def __init__(self, shard: int) -> None:
        super().__init__()
        self.shard = shard

    def append(self, _: int) -> None:
        super().append(self.shard)


class FakeInputs(SideInputs):
    """Side inputs without Kafka."""

    def __init__(
        self, settings: Settings, policies: Iterable[Record] = (), prices: Iterable[Record] = ()
    ) -> None:
        super().__init__(settings)
        for topic, name, records in (("policies", "policy", policies), ("prices", "price", prices)):
            for record in records:
                self._take(topic, DEFAULT.encode(name, record))


def policy(app: str, **fields: object) -> Record:
    amounts = [{"metric": "cpu", "value": 4.0}, {"metric": "memory", "value": 8e9}]
    return {
        "app": app, "version": 1, "valid_from_tick": 0, "mode": "auto", "allocation_group": app,
        "governed": ["cpu", "memory"], "unit": amounts, "max": 200,
    } | fields  # fmt: skip


def price(offer: str, tier: str, amount: str, **fields: object) -> Record:
    return {
        "offer_id": offer, "version": 1, "valid_from_tick": 0, "provider": "local", "tier": tier,
        "instance_type": "two", "price": Decimal(amount), "pool": offer,
        "capacity": [{"metric": "cpu", "value": 8.0}, {"metric": "memory", "value": 16e9}],
        "startup_p50_s": 20.0, "startup_p90_s": 30.0, "startup_p99_s": 50.0,
    } | fields  # fmt: skip


PRICES = [
    price("kept", "RESERVED", "0.05", owned_count=2),
    price("plain", "ON_DEMAND", "0.10"),
    price("spare", "SPOT", "0.03", interruption=0.05),
]


def drive(make: Callable[[Publish], Stage], inputs: list[bytes], restart_at: int | None) -> Published:
    """Fold everything; where asked, throw the stage away after a snapshot some messages before, as a kill does."""
    published: Published = []

    def publish(topic: str, name: str, record: Record, *, partition: int, key: str) -> None:
        del key
        published.append((topic, name, DEFAULT.decode(DEFAULT.encode(name, record))[1], partition))

    stage = make(publish)
    snapshot: dict[bytes, bytes] = {}
    covered = 0
    for number, value in enumerate(inputs):
        stage.fold(value)
        if restart_at is not None and number == restart_at - 3:
            snapshot, covered = dict(stage.blocks()), stage.done
        if number == restart_at:
            stage = make(publish)
            stage.restore(snapshot)
            assert stage.done == covered
            for again in inputs[: number + 1]:
                stage.fold(again)
    return published


def distinct(published: Published) -> list[bytes]:
    """First occurrences, as bytes; a repeat must be the same bytes."""
    seen: dict[tuple[object, ...], bytes] = {}
    for topic, name, record, partition in published:
        data = DEFAULT.encode(name, record)
        app, part = record.get("app", ""), record.get("part", 0)
        key = (topic, name, partition, app, record.get("id", ""), record.get("tick", 0), part)
        assert seen.setdefault(key, data) == data
    return list(seen.values())


GROUPS = ["shop", "blog"]  # allocation groups of the two apps
USERS = {"shop": ["ann", "bobby", "quiet-charles"], "blog": ["dora"]}


@pytest.mark.parametrize("restart_at", [4, 5])
def test_a_restored_profiler_publishes_the_same(
    model: BehaviourModel, installation: Settings, restart_at: int
) -> None:
    inputs = frames(installation, 0, USERS)

    def make(publish: Publish) -> Profiler:
        return Profiler(0, model, DEFAULT, publish, 100)

    whole, broken = (drive(make, inputs, at) for at in (None, restart_at))
    assert distinct(broken) == distinct(whole)
    assert len(whole) == TICKS
    last = whole[-1][2]
    assert last["metrics"] == ["cpu", "memory"]
    assert last["apps"] == ["blog", "shop"]
    assert len(last["users"]) == 4 * 16
    quantiles, usage, _, rates = unpack([last])
    assert quantiles.shape == (4, 2, 6)
    assert sorted(usage[:, 0].tolist()) == pytest.approx(
        sorted(1 + len(n) + 1.5 for names in USERS.values() for n in names)
    )
    assert rates[0, EVENT_KINDS.index("API_CALL")] == pytest.approx(3 / TICK_S)


def test_a_silent_user_is_forecast_on_and_a_gap_in_the_sequence_ends_the_worker(
    model: BehaviourModel, installation: Settings
) -> None:
    inputs = frames(installation, 0, USERS)
    published = drive(lambda publish: Profiler(0, model, DEFAULT, publish, 100), inputs[:4], None)
    assert len(published[3][2]["users"]) == 4 * 16  # silent for two ticks of at least three
    stage = Profiler(0, model, DEFAULT, lambda *_, **__: None, 100)
    stage.fold(inputs[0])
    with pytest.raises(RuntimeError, match="gap in shard 0"):
        stage.fold(inputs[2])


def test_users_are_bounded_and_the_longest_silent_go_first(model: BehaviourModel) -> None:
    users = Users(model, capacity=2)
    for tick, name in enumerate([b"a" * 16, b"b" * 16, b"c" * 16]):
        users.admit([name], ["app"], tick)
        users.evict(tick, TICK_S)
    assert users.ids == [b"b" * 16, b"c" * 16]
    assert len(users.state["h"]) == 2
    assert users.slots == {b"b" * 16: 0, b"c" * 16: 1}


def forecasts(
    model: BehaviourModel, settings: Settings, shard: int, users: dict[str, list[str]]
) -> list[bytes]:
    published = drive(
        lambda publish: Profiler(shard, model, DEFAULT, publish, 100), frames(settings, shard, users), None
    )
    return [DEFAULT.encode(name, record) for _, name, record, _ in published]


def simulator(settings: Settings, shard: int) -> Callable[[Publish], Simulator]:
    def make(publish: Publish) -> Simulator:
        policies = [
            policy(app, allocation_group=of) for app, of in zip(("shop", "blog"), GROUPS, strict=True)
        ]
        return Simulator(
            shard, np, Dependence.independent(len(METRICS)), FakeInputs(settings, policies),
            DEFAULT, publish, partitions=settings.partitions, scenarios=settings.scenarios, seed=0,
        )  # fmt: skip

    return make


def test_a_restored_simulator_publishes_the_same_and_marks_every_partition(
    model: BehaviourModel, installation: Settings
) -> None:
    inputs = forecasts(model, installation, 0, USERS)
    whole, broken = (drive(simulator(installation, 0), inputs, at) for at in (None, 4))
    assert distinct(broken) == distinct(whole)
    markers = [(record["tick"], partition) for _, name, record, partition in whole if name == "marker"]
    assert len(markers) == len(set(markers)) == TICKS * installation.partitions
    names = {record["app"] for _, name, record, _ in whole if name == "scenario"}
    assert names == {"shop", "blog"}
    last = next(
        record for _, name, record, _ in reversed(whole) if name == "scenario" and record["app"] == "shop"
    )
    assert (last["users"], last["reporting"]) == (3, 3)
    assert np.frombuffer(last["user_quantiles"]).reshape(6, 2)[0, 0] > np.frombuffer(last["observed"])[0]


def test_a_simulator_learns_from_scores_and_what_it_learnt_survives(
    model: BehaviourModel, installation: Settings
) -> None:
    inputs = forecasts(model, installation, 0, USERS)
    assert np.isfinite(scores([DEFAULT.decode(inputs[-1])[1]])[:, :2, 0]).all()  # cpu and memory, one step
    whole = simulator(installation, 0)(lambda *_, **__: None)
    for value in inputs:
        whole.fold(value)
    kept = dict(whole.blocks())
    assert set(kept) == {b"position", b"apps-0"}
    assert set(whole.copulas.apps) == {"shop", "blog"}
    assert whole.copulas.apps["shop"].sums["ticks"][0, 0] == pytest.approx(TICKS - 1, rel=0.01)
    again = simulator(installation, 0)(lambda *_, **__: None)
    again.restore(kept)
    assert dict(again.blocks()) == kept


def test_forecasts_of_before_version_2_are_simulated_by_the_prior(
    model: BehaviourModel, installation: Settings
) -> None:
    stage = simulator(installation, 0)(lambda *_, **__: None)
    for value in forecasts(model, installation, 0, USERS):
        name, record = DEFAULT.decode(value)
        stage.fold(DEFAULT.encode(name, record | {"scores": None}))
    assert not stage.copulas.apps["shop"].sums["ticks"].any()


def scenarios(model: BehaviourModel, settings: Settings) -> list[bytes]:
    """Messages of the scenarios partition on which both apps' groups are put, of two shards, interleaved."""
    shards = [
        drive(simulator(settings, 0), forecasts(model, settings, 0, USERS), None),
        drive(simulator(settings, 1), forecasts(model, settings, 1, {"shop": ["eve", "frank"]}), None),
    ]
    streams = [
        [DEFAULT.encode(name, r) for _, name, r, partition in shard if name == "scenario" or partition == 0]
        for shard in shards
    ]
    order = [0] * len(streams[0]) + [1] * len(streams[1])
    random.Random(7).shuffle(order)
    positions = [iter(stream) for stream in streams]
    return [next(positions[shard]) for shard in order]


def allocator(
    model: BehaviourModel, settings: Settings, monkeypatch: pytest.MonkeyPatch, policies: list[Record]
) -> Callable[[Publish], Allocator]:
    monkeypatch.setattr("pipeline.reading.newest", lambda *_: None)
    monkeypatch.setattr(SideInputs, "wait_observed", lambda *_: True)

    def make(publish: Publish) -> Allocator:
        inputs = FakeInputs(settings, policies, PRICES)
        return Allocator(0, model, inputs, DEFAULT, publish, keys.signing_key(settings), settings)

    return make


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
    assert first["sum_of_users"]["replicas"] >= first["margin"]["demand"]["replicas"]
    assert first["versions"] == {
        "policy": "shop@1", "prices": ["kept@1", "plain@1", "spare@1"], "calendar": [], "model": model.model_id,
        "adjustment": "", "group_policy": "",
    }  # fmt: skip
    issued = [record for topic, _, record, _ in whole if topic == "commands"]
    assert {command["target"]["ref"].split("/")[0] for command in issued} == {
        "shop"
    }  # shadow commands nothing
    assert all(commands.verify(command, keys.keyring(installation)) for command in issued)
    assert sum(plan["commands_issued"] for plan in plans) == len(issued)
    totals = [record for topic, _, record, _ in whole if topic == "forecasts.apps"]
    assert len(totals) == TICKS


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
    stage.hold(1000.0)
    stage.hold(1000.0 + installation.hold_after_s - 1)
    assert published == []
    stage.hold(1000.0 + installation.hold_after_s)
    stage.hold(2000.0)
    notices = [record for topic, _, record, _ in published if topic == "hold.notices"]
    assert [(notice["allocation_group"], notice["missing"]) for notice in notices] == [
        ("blog", [1]),
        ("shop", [1]),
    ]


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
    monkeypatch.setattr("tests.unit.pipeline.test_stages.GROUPS", ["web", "web"])
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
