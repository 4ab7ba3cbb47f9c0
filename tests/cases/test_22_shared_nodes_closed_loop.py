"""Shared nodes in a closed loop: the allocator's plans on the local provider, a tick after the other, without Kafka."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from models.behaviour.lstm import BehaviourModel
from models.demand.scenarios import pack
from models.metrics import EVENT_KINDS, METRICS, horizon_steps
from pipeline.inputs import released_models
from pipeline.providers.local import Faults, LocalProvider
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.commands import REPLICAS, Target
from tests.cases.closed_loop import FIRST, TICK_S, Fleet, Installation, policy, price

APPS = ("shop", "blog")
Make = Callable[..., "Pool"]


def app(name: str, **fields: Any) -> Record:
    return policy(app=name, allocation_group="web", replica_startup_s=5.0, **fields)


def group(version: int = 1, nodes: str = "SHARED", **fields: Any) -> Record:
    return policy(app="web", allocation_group="web", nodes=nodes, version=version, **fields)


def node(offer: str = "node", **fields: Any) -> Record:
    return price(offer) | {"capacity": [{"metric": "cpu", "value": 4.0}]} | fields


class Pool(Installation):
    """Two apps of one group; a node has four cores, a replica asks for one."""

    def __init__(
        self, model: BehaviourModel, settings: Settings, cloud: LocalProvider, **inputs: Any
    ) -> None:
        inputs = {"policies": [app("shop"), app("blog"), group()], "prices": [node()]} | inputs
        self.offered = [DEFAULT.decode(DEFAULT.encode("price", record))[1] for record in inputs["prices"]]
        for record in self.offered:
            cloud.offered(record)
        super().__init__(model, settings, cast(Fleet, cloud), **inputs)
        self.number = 0
        self.telemetry: list[Record] = []  # that the next markers have

    def observe(self, tick: int) -> None:
        now_s = float((tick + 1) * TICK_S)
        targets = [
            Target("fleet", f"{name}/{offer['offer_id']}", region="r")
            for name in ("web", "team", *APPS)
            for offer in self.offers
        ]
        targets += [Target("fleet", f"{name}/{REPLICAS}", kind="REPLICAS") for name in APPS]
        for target in targets:
            record = self.executor.observe(target, tick, TICK_S, now_s)
            if record is not None and (
                record["generation"] or target.app in ("web", "team") or target.is_replicas
            ):
                self.inputs.put("capacity.observed", "capacity_observed", record)

    def reopened(self, cloud: LocalProvider) -> None:
        """Go on with another process's provider on the same folder."""
        for record in self.offered:
            cloud.offered(record)
        self.fleet = cast(Fleet, cloud)
        self.executor.providers = {"fleet": cloud}

    def step(self, **cores: float) -> dict[str, Record]:
        """Plan a tick in which apps use so many cores, and follow its commands; the plans by name."""
        number, self.number = self.number, self.number + 1
        for value in scenarios(self.model, self.settings, FIRST + number, cores, self.telemetry):
            self.allocator.fold(value)
        self.follow(float((FIRST + number + 1) * TICK_S))
        return {plan["app"]: plan for plan in self.plans if plan["tick"] == FIRST + number}

    def seen(self, ref: str) -> Record:
        """What was last observed of a target."""
        name, _, offer = ref.rpartition("/")
        return self.inputs.observed(name, FIRST + self.number)[offer]

    def serving(self, name: str) -> int:
        """Cores of an app that were ready, of its own instances and on shared nodes."""
        observed = self.inputs.observed(name, FIRST + self.number)
        return sum(one["ready"] * (1 if offer == REPLICAS else 4) for offer, one in observed.items())


def scenarios(
    model: BehaviourModel,
    settings: Settings,
    tick: int,
    cores: Mapping[str, float],
    telemetry: Sequence[Record] = (),
) -> list[bytes]:
    """Scenarios of one shard in which apps use so many cores, give or take 5 %, and the shard's marker."""
    steps, cpu = [step * TICK_S for step in horizon_steps(TICK_S)], METRICS.index("cpu")
    records: list[bytes] = []
    for name, of in cores.items():
        noise = np.random.default_rng([tick, *name.encode()]).normal(
            1.0, 0.05, (settings.scenarios, len(steps), 1)
        )
        packed, scale = pack((of * noise).astype(np.float32))
        usage = np.full(len(METRICS), np.nan)
        usage[cpu] = of
        record = {
            "app": name, "allocation_group": "web", "shard": 0, "seq": tick - FIRST, "tick": tick, "tick_s": TICK_S,
            "steps": steps, "metrics": ["cpu"], "users": 4, "reporting": 4, "scenarios": settings.scenarios,
            "scale": scale.tobytes(), "demand": packed.tobytes(), "observed": usage[[cpu]].tobytes(),
            "saturated": np.zeros(1).tobytes(), "user_quantiles": None, "kinds": list(EVENT_KINDS),
            "rates": np.full(len(EVENT_KINDS), np.nan).tobytes(), "model_id": model.model_id,
        }  # fmt: skip
        records.append(DEFAULT.encode("scenario", record))
    marker = {"shard": 0, "seq": tick - FIRST, "tick": tick, "tick_s": TICK_S, "apps": sorted(cores)}
    marker |= {"telemetry": [*telemetry]}
    return [*records, DEFAULT.encode("marker", marker)]


@pytest.fixture(scope="module")
def model() -> BehaviourModel:
    return BehaviourModel.load(released_models.folder(Settings()))


@pytest.fixture
def make(model: BehaviourModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("pipeline.kafka.reader.newest", lambda *_: None)
    clouds: list[LocalProvider] = []

    def cloud(name: str) -> LocalProvider:
        for one in clouds:
            one.close()
        clouds.append(LocalProvider(tmp_path / name, tick_s=TICK_S, faults=Faults(replica_startup_s=5.0)))
        return clouds[-1]

    def installation(name: str = "local", *, killed: bool = False, **inputs: Any) -> Pool:
        here = Settings(
            tick_s=TICK_S, partitions=1, scenarios=256, demo_keys=True, bootstrap="none:1",
            event_time=True, data_dir=tmp_path,
        )  # fmt: skip
        pool = Pool(model, here, cloud(name), **inputs)
        if killed:
            step = pool.step

            def after_a_kill(**cores: float) -> dict[str, Record]:
                pool.reopened(cloud(name))
                return step(**cores)

            pool.step = after_a_kill  # type: ignore[method-assign]
        return pool

    yield installation
    for one in clouds:
        one.close()


def test_both_levels_settle_and_everything_is_placed(make: Make) -> None:
    pool, plans = make(), dict[str, Record]()
    for _ in range(30):
        plans = pool.step(shop=3.0, blog=5.0)
    assert {name: plan["level"] for name, plan in plans.items()} == {
        "web": "NODES", "shop": "REPLICAS", "blog": "REPLICAS",
    }  # fmt: skip
    ready = {name: pool.seen(f"{name}/{REPLICAS}") for name in APPS}
    assert ready["shop"]["ready"] >= 3
    assert ready["blog"]["ready"] >= 5
    assert [(one["pending"], one["reason"]) for one in ready.values()] == [(0, "")] * 2
    assert 4 * pool.seen("web/node")["ready"] >= sum(one["ready"] for one in ready.values())
    assert all(plan["feasible"] for plan in plans.values()), plans
    # the nodes have room for the margins too
    assert all("shared_nodes" not in plan["guardrails"] for plan in plans.values()), plans
    assert {result["status"] for result in pool.results} == {"APPLIED"}
    late = [command for command in pool.commands if command["epoch"] > FIRST + 20]
    assert late == []  # constant demand: nothing is commanded any more


def test_more_demand_than_there_is_room_for_waits_with_a_reason_until_nodes_are_ready(make: Make) -> None:
    pool = make()
    for _ in range(15):
        pool.step(shop=3.0, blog=5.0)
    pool.step(shop=12.0, blog=5.0)
    shop = pool.seen(f"shop/{REPLICAS}")
    assert shop["pending"] > 0
    assert shop["reason"] == "no node has room: cpu is short"
    assert pool.seen(f"blog/{REPLICAS}")["ready"] >= 5
    for _ in range(3):
        pool.step(shop=12.0, blog=5.0)
    shop = pool.seen(f"shop/{REPLICAS}")
    assert shop["ready"] >= 12
    assert shop["reason"] == ""  # what is pending, of its margin, has room and starts


def test_an_app_that_falls_silent_is_reckoned_with_and_its_neighbour_goes_on(make: Make) -> None:
    pool, nodes, plans = make(), list[int](), dict[str, Record]()
    for tick in range(60):
        plans = pool.step(shop=3.0) if 10 <= tick < 55 else pool.step(shop=3.0, blog=5.0)
        if tick >= 10:
            nodes.append(plans["web"]["counts"][0]["desired"][0])
            assert pool.serving("blog") >= 5
            assert plans["shop"]["feasible"]
            assert ("missing_telemetry" in plans["blog"]["guardrails"]) == (tick < 55)
    assert set(nodes) == {3}
    assert plans["blog"]["feasible"]


def test_replicas_of_an_app_of_which_too_little_is_heard_stand_while_its_neighbour_grows(make: Make) -> None:
    pool, plans = make(policies=[app("shop"), app("blog", priority=10), group()]), dict[str, Record]()
    for _ in range(12):
        plans = pool.step(shop=8.0, blog=5.0)
    stood = desired(plans["shop"])
    used = {"app": "shop", "reason": "", "samples": 20, "events": 0}
    pool.telemetry = [used, used | {"reason": "late", "samples": 80}]
    for tick in range(16):
        plans = pool.step(shop=1.6, blog=5.0 if tick < 4 else 16.0)
        assert desired(plans["shop"]) >= stood, plans["shop"]["reason"]
        full = 4 <= tick < 7  # until the nodes that the neighbour needs are ready, for its priority is higher
        assert full or (pool.serving("shop") >= 8 and pool.serving("blog") >= (5 if tick < 4 else 16)), tick


def test_a_group_whose_nodes_carry_no_app_says_so(make: Make) -> None:
    large = [{"metric": "cpu", "value": 9.0}]
    pool = make(policies=[app("shop", unit=large), app("blog", unit=large), group()])
    for _ in range(3):
        plans = pool.step(shop=3.0, blog=5.0)
        assert not any(plan["feasible"] for plan in plans.values())
        assert "a replica of blog takes 9 cpu, and a node has 4" in plans["web"]["reason"]
        assert "no node of the group carries a replica of 9 cpu" in plans["shop"]["reason"]
    assert pool.commands == []


def test_replicas_of_which_none_come_are_not_called_served(make: Make) -> None:
    pool, plans = make(), dict[str, Record]()
    pool.executor.providers["fleet"].faults = Faults(rejected=frozenset({f"shop/{REPLICAS}"}))  # type: ignore[attr-defined]
    for tick in range(12):
        plans = pool.step(shop=3.0, blog=5.0)
        assert tick == 0 or not plans["shop"]["feasible"]
    assert "refused: rejected by configuration" in plans["shop"]["reason"]
    assert plans["blog"]["feasible"]


def test_an_app_that_comes_later_with_the_name_of_its_group_changes_nothing(make: Make) -> None:
    pool, plans = make(), dict[str, Record]()
    for tick in range(14):
        plans = pool.step(shop=3.0, blog=5.0, **({"web": 2.0} if tick >= 10 else {}))
        assert tick < 8 or (pool.serving("shop") >= 3 and pool.serving("blog") >= 5)
    assert {name: plan["level"] for name, plan in plans.items()} == {
        "web": "NODES", "shop": "REPLICAS", "blog": "REPLICAS",
    }  # fmt: skip


def test_nodes_are_not_bought_for_more_than_an_app_may_have(make: Make) -> None:
    pool, plans = make(policies=[app("shop"), app("blog", max=2), group()]), dict[str, Record]()
    for _ in range(14):
        plans = pool.step(shop=3.0, blog=30.0)
    assert plans["web"]["counts"][0]["desired"][0] <= 3
    assert pool.seen(f"blog/{REPLICAS}")["ready"] == 2
    assert "maximum" in plans["blog"]["guardrails"]


def test_what_nodes_do_not_bound_is_no_resource_of_theirs(make: Make) -> None:
    # requests are of a replica, and of memory the node's price says nothing
    unit = [{"metric": "cpu", "value": 1.0}, {"metric": "memory", "value": 1e9}]
    policies = [app("shop", unit=unit), app("blog", rps_per_replica=10.0), group()]
    pool, plans = make(policies=policies), dict[str, Record]()
    for _ in range(12):
        plans = pool.step(shop=3.0, blog=5.0)
    assert all(plan["feasible"] for plan in plans.values()), plans
    assert (pool.serving("shop") >= 3, pool.serving("blog") >= 5) == (True, True)


def desired(plan: Record) -> int:
    """Instances, nodes or replicas that a plan has first, of all offers."""
    return sum(count["desired"][0] for count in plan["counts"])


def after_a_burst(pool: Pool, ticks: int) -> list[dict[str, Record]]:
    """Plans of the ticks that follow ten in which `shop` uses 30 cores instead of 3, and `blog` 5."""
    for tick in range(30):
        pool.step(shop=30.0 if tick >= 20 else 3.0, blog=5.0)
    return [pool.step(shop=3.0, blog=5.0) for _ in range(ticks)]


@pytest.mark.slow  # three minutes of ticks, twice
def test_after_a_burst_shared_nodes_have_no_margin_beside_that_of_their_apps(make: Make) -> None:
    shared = [desired(plans["web"]) for plans in after_a_burst(make("shared"), 16)]
    alone = after_a_burst(make("own", policies=[app("shop"), app("blog"), group(nodes="OWN")]), 16)
    own = [desired(plans["shop"]) + desired(plans["blog"]) for plans in alone]
    assert min(own[:6]) >= 8  # a burst that may return
    assert all(of <= beside + 2 for of, beside in zip(shared, own, strict=True)), (shared, own)
    assert sum(shared) <= 1.1 * sum(own), (shared, own)


@pytest.mark.slow  # likewise
def test_a_group_of_one_app_has_the_nodes_that_the_app_would_have(make: Make) -> None:
    nodes: dict[str, list[int]] = {}
    for sharing, planned in (("SHARED", "web"), ("OWN", "shop")):
        pool = make(sharing, policies=[app("shop"), group(nodes=sharing)])
        plans = [pool.step(shop=30.0 if 20 <= tick < 30 else 6.0)[planned] for tick in range(46)]
        nodes[sharing] = [desired(plan) for plan in plans]
    assert all(of <= beside + 3 for of, beside in zip(*nodes.values(), strict=True)), nodes
    assert sum(nodes["SHARED"]) <= 1.1 * sum(nodes["OWN"]), nodes


def test_replicas_are_spread_over_zones_and_nodes_are_bought_for_it(make: Make) -> None:
    prices = [node(), node("far", price=Decimal("0.11"), zone="y")]
    plans: dict[str, dict[str, Record]] = {}
    for name, share in (("spread", 0.5), ("together", None)):
        pool = make(name, policies=[app("shop", zone_share=share), app("blog"), group()], prices=prices)
        for _ in range(30):
            plans[name] = pool.step(shop=6.0, blog=5.0)
        assert all(plan["feasible"] for plan in plans[name].values()), plans[name]
        assert [pool.seen(f"{of}/{REPLICAS}")["pending"] for of in APPS] == [0, 0]
        shares = [
            command["zone_share"] for command in pool.commands if command["target"]["kind"] == "REPLICAS"
        ]
        assert {*shares} == ({0.5, None} if share else {None})
    nodes = {
        name: {count["offer_id"]: count["desired"][0] for count in of["web"]["counts"]}
        for name, of in plans.items()
    }
    assert nodes["spread"]["far"] == nodes["spread"]["node"] >= 2, nodes
    assert nodes["together"]["far"] == 0, nodes


@pytest.mark.parametrize(("nodes", "level"), [("SHARED", "REPLICAS"), ("OWN", "INSTANCES")])
def test_an_app_that_changes_its_group_serves_all_the_while(make: Make, nodes: str, level: str) -> None:
    other = policy(app="team", allocation_group="team", nodes=nodes)
    pool, plans = make(policies=[app("shop"), app("blog"), group(), other]), dict[str, Record]()
    moved = app("blog") | {"allocation_group": "team", "version": 2, "valid_from_tick": FIRST + 12}
    pool.inputs.put("policies", "policy", moved)
    groups, restarts = list[str](), 0
    for tick in range(40):
        plans = pool.step(shop=3.0, blog=5.0)
        groups.append(plans["blog"]["allocation_group"])
        assert tick < 8 or pool.serving("blog") >= 5, tick
        restarts += tick >= 8 and pool.serving("shop") < 3
    assert all(plan["feasible"] for plan in plans.values()), plans
    assert restarts <= 1  # of replicas on nodes that are released
    assert groups[:12] == ["web"] * 12
    assert groups[18:] == ["team"] * 22
    assert (plans["shop"]["level"], plans["blog"]["level"]) == ("REPLICAS", level)
    own, on_nodes = (
        pool.seen("blog/node")["ready"],
        pool.seen("team/node")["ready"] if nodes == "SHARED" else 0,
    )
    assert (own > 0, on_nodes > 0) == (nodes == "OWN", nodes == "SHARED")
    assert [part["app"] for part in plans["web"]["parts"]] == ["shop"]
    assert plans["web"]["counts"][0]["desired"][0] < 3  # nodes for `shop` alone


def test_apps_that_go_back_to_their_own_instances_serve_all_the_while(make: Make) -> None:
    pool, plans = make(), dict[str, Record]()
    for _ in range(10):
        pool.step(shop=3.0, blog=5.0)
    pool.inputs.put("policies", "policy", group(2, "OWN", valid_from_tick=FIRST + 10))
    for _ in range(8):
        plans = pool.step(shop=3.0, blog=5.0)
        assert pool.serving("shop") >= 3
        assert pool.serving("blog") >= 5
    assert {name: plan["level"] for name, plan in plans.items()} == dict.fromkeys(APPS, "INSTANCES")
    assert (pool.seen("web/node")["ready"], pool.seen(f"shop/{REPLICAS}")["ready"]) == (0, 0)


def test_apps_that_begin_to_share_nodes_keep_their_own_instances_until_replicas_serve(make: Make) -> None:
    pool, plans, needed = make(), dict[str, Record](), {"shop": 3, "blog": 5}
    for version, first, nodes in ((2, 10, "OWN"), (3, 22, "SHARED")):
        pool.inputs.put("policies", "policy", group(version, nodes, valid_from_tick=FIRST + first))
    for tick in range(36):
        plans = pool.step(shop=3.0, blog=5.0)
        assert tick < 8 or all(pool.serving(name) >= cores for name, cores in needed.items()), tick
    assert {plans[name]["level"] for name in needed} == {"REPLICAS"}
    assert all(plan["feasible"] for plan in plans.values())
    assert all(pool.seen(f"{name}/node")["ready"] == 0 for name in needed)


def test_a_group_that_stops_sharing_ends_with_a_plan_that_says_so(make: Make) -> None:
    pool, plans, last = make(), dict[str, Record](), Record()
    for tick in range(24):
        if tick == 10:
            pool.inputs.put("policies", "policy", group(2, "OWN", valid_from_tick=FIRST + 10))
        plans = pool.step(shop=3.0, blog=5.0)
        if tick >= 10 and "web" in plans:
            last = plans["web"]
            assert last["feasible"]
    assert "web" not in plans
    assert "shares no nodes any more" in last["reason"]
    assert pool.seen("web/node")["ready"] == 0


def test_a_provider_that_is_killed_in_every_tick_changes_nothing(make: Make) -> None:
    published: list[list[Record]] = []
    for name, killed in (("whole", False), ("killed", True)):
        pool, records = make(name, killed=killed), list[Record]()
        for tick in range(14):
            pool.step(shop=3.0 if tick < 6 else 9.0, blog=5.0 if tick < 10 else 2.0)
            records += [pool.seen(ref) for ref in ("web/node", f"shop/{REPLICAS}", f"blog/{REPLICAS}")]
        published.append(records + pool.results + pool.commands)
    assert published[0] == published[1]


@pytest.mark.parametrize("grows", [False, True])
def test_a_paused_app_takes_room_for_its_replicas_and_none_of_its_neighbours(make: Make, grows: bool) -> None:
    pool = make(policies=[app("shop"), app("blog"), group()])
    first, later = (3.0, 12.0) if grows else (12.0, 1.0)
    for _ in range(10):
        pool.step(shop=first, blog=5.0)
    nodes, stood = pool.seen("web/node")["ready"], pool.serving("shop")
    pool.inputs.put("policies", "policy", app("shop", version=2, valid_from_tick=FIRST + 10, mode="paused"))
    for tick in range(10, 40):
        pool.step(shop=later, blog=5.0 if tick < 30 else 9.0)
        if tick == 29:
            assert pool.seen("web/node")["ready"] == nodes
    assert pool.serving("shop") == stood
    assert pool.serving("blog") >= 9


def set_by_somebody_else(pool: Pool, name: str, count: int) -> None:
    """Set the number of an app's replicas at the provider, at the end of the tick that was planned last."""
    epoch = FIRST + pool.number - 1
    other = {
        "id": f"other-{epoch}", "target": {"ref": f"{name}/{REPLICAS}", "kind": "REPLICAS", "provider": "fleet"},
        "desired": count, "epoch": epoch, "unit": [{"metric": "cpu", "value": 1.0}],
    }  # fmt: skip
    command = next(c for c in reversed(pool.commands) if c["target"]["ref"] == f"{name}/{REPLICAS}")
    pool.executor.providers["fleet"].apply(command | other, float((epoch + 1) * TICK_S))
    pool.observe(epoch)


@pytest.mark.parametrize("count", [20, 1])
def test_replicas_that_somebody_else_set_and_that_are_held_have_room_and_no_more(
    make: Make, count: int
) -> None:
    policies = [app("shop", on_conflict="hold"), app("blog"), group()]
    pool, plans = make(policies=policies), dict[str, Record]()
    for _ in range(12):
        pool.step(shop=3.0, blog=5.0)
    set_by_somebody_else(pool, "shop", count)
    for tick in range(12, 42):
        plans = pool.step(shop=3.0, blog=5.0 if tick < 27 else 9.0)
        if tick == 26:
            assert plans["blog"]["feasible"]
            assert count + 5 <= 4 * pool.seen("web/node")["ready"] <= 1.6 * (count + 5)
    assert "conflict" in plans["shop"]["guardrails"]
    assert pool.serving("shop") == count
    assert pool.serving("blog") >= 9
    assert plans["blog"]["feasible"], plans["blog"]["reason"]


def test_nodes_carry_the_replicas_that_are_never_released(make: Make) -> None:
    policies = [app("shop", scale_down="never"), app("blog"), group()]
    pool, plans = make(policies=policies), dict[str, Record]()
    for _ in range(10):
        pool.step(shop=12.0, blog=5.0)
    stood = pool.serving("shop")
    for tick in range(10, 50):
        plans = pool.step(shop=1.0, blog=5.0 if tick < 35 else 9.0)
        assert pool.serving("shop") >= stood, tick
    assert pool.serving("blog") >= 9
    assert all(plan["feasible"] for plan in plans.values()), plans


def test_nodes_that_did_not_come_are_no_room_that_replicas_leave_unused(make: Make) -> None:
    ready: list[int] = []
    for refused in (False, True):
        pool = make(f"refused-{refused}")
        for tick in range(60):
            rejected = frozenset({"web/node"} if refused and 15 <= tick < 35 else ())
            pool.executor.providers["fleet"].faults = Faults(replica_startup_s=5.0, rejected=rejected)  # type: ignore[attr-defined]
            pool.step(shop=12.0 if 16 <= tick < 36 else 3.0, blog=5.0)
        ready.append(pool.seen("web/node")["ready"])
    assert ready[1] <= ready[0] + 1, ready


def test_an_allocator_that_starts_again_plans_the_same_while_replicas_wait(make: Make) -> None:
    """It was killed after plans that no snapshot has, with replicas that found no node; from a snapshot of before."""
    pool = make(prices=[node(quota_group="few", quota_limit=3)])
    pools, snapshot = pool.allocator.pools, dict[bytes, bytes]()
    for tick in range(30):
        if tick == 12:
            snapshot = dict(pool.allocator.blocks())
        pool.step(shop=12.0 if tick >= 14 else 3.0, blog=5.0)
    before, learnt = [plan for plan in pool.plans if plan["tick"] >= FIRST + 12], pools["web"].fragmented
    assert pool.seen(f"shop/{REPLICAS}")["reason"]
    pool.plans.clear()
    pool.allocator = pool.allocators()
    pool.allocator.restore(snapshot)
    kept = ("observed_tick", "capacity")
    pool.allocator.pinned = {p["plan_id"]: p["versions"] | {name: p[name] for name in kept} for p in before}
    for tick in range(12, 30):
        cores = {"shop": 12.0 if tick >= 14 else 3.0, "blog": 5.0}
        for value in scenarios(pool.model, pool.settings, FIRST + tick, cores):
            pool.allocator.fold(value)
    assert pool.plans == before
    assert pool.allocator.pools["web"].fragmented == learnt


@pytest.mark.parametrize(("cpu", "refused"), [(2.0, False), (2.0, True), (0.5, False)])
def test_replicas_of_another_size_than_the_policy_says_are_commanded_anew(
    make: Make, cpu: float, refused: bool
) -> None:
    """Where that is refused, what runs counts as it is. Their number is the same before and after."""
    pool, plans = make(policies=[app("shop", min=4, max=4), app("blog"), group()]), dict[str, Record]()
    unit, cores = [{"metric": "cpu", "value": cpu}], 6.0 if cpu > 1 else 1.5
    edit = app("shop", version=2, valid_from_tick=FIRST + 12, unit=unit, min=4, max=4)
    pool.inputs.put("policies", "policy", edit)
    rejected, named = frozenset({f"shop/{REPLICAS}"} if refused else ()), False
    for tick in range(30):
        faults = Faults(replica_startup_s=5.0, rejected=rejected if tick >= 12 else frozenset())
        pool.executor.providers["fleet"].faults = faults  # type: ignore[attr-defined]
        plans = pool.step(shop=cores if tick >= 14 else 1.5, blog=5.0)
        if refused and tick > 14:
            assert not plans["shop"]["feasible"], tick
            named |= "replicas ask for 1 cpu, and the policy's for 2 cpu" in plans["shop"]["reason"]
    seen = pool.seen(f"shop/{REPLICAS}")
    assert named == refused
    if not refused:
        assert (seen["allocatable"], seen["ready"]) == (unit, 4)
        assert plans["shop"]["feasible"], plans["shop"]["reason"]
    assert pool.serving("blog") >= 5
