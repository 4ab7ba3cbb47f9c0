"""Apps that share nodes in a backtest: the pool is one more app, whose demand is what the apps' replicas take."""

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from models.capacity import Offer, Policy, replicas_per_instance
from models.metrics import EVENT_KINDS, METRICS
from models.planning.allocate import DecisionContext
from models.planning.guardrails import Telemetry
from pipeline.backtest import setup, shared_nodes
from pipeline.backtest.job import Job
from pipeline.backtest.setup import PlanningInputs
from pipeline.errors import UsageError
from pipeline.inputs import example
from pipeline.inputs.example import Example
from pipeline.stages.allocator.pool import PairedApps, Pool
from pipeline.wire.codec import DEFAULT

CPU, MEMORY, REQUESTS = (METRICS.index(metric) for metric in ("cpu", "memory", "requests"))
WEB = Policy("web", ("cpu",), {"cpu": 2.0, "memory": 1e9}, min=1, hold_s=60.0)
JOBS = Policy(
    "jobs", ("memory",), {"cpu": 0.5, "memory": 4e9}, confidence=0.999, target_utilisation={"memory": 0.5}
)


def usage(*ticks: tuple[float, float]) -> np.ndarray:
    """(tick, app, METRICS): cores of `web`, bytes of `jobs`, apps by name."""
    rows = np.full((len(ticks), 2, len(METRICS)), np.nan)
    for t, (cores, held) in enumerate(ticks):
        rows[t, 0, MEMORY], rows[t, 1, CPU] = held, cores
    return rows


def test_the_pool_takes_what_whole_replicas_ask_for() -> None:
    pool = Pool.of({"web": WEB, "jobs": JOBS})
    assert (list(pool.apps), pool.resources) == (["jobs", "web"], ("cpu", "memory"))
    # three replicas of `web` of 2 cores; `jobs` fills half of its memory: two replicas
    used = pool.used(usage((5.0, 3e9)))[0]
    assert used[[CPU, MEMORY]].tolist() == [3 * 2 + 2 * 0.5, 3 * 1e9 + 2 * 4e9]
    assert np.isnan(np.delete(used, [CPU, MEMORY])).all()


def test_an_app_asks_for_nothing_before_its_first_tick_and_a_gap_is_no_zero() -> None:
    nan = float("nan")
    used = Pool.of({"web": WEB, "jobs": JOBS}).used(usage((5.0, nan), (5.0, 1e9), (5.0, nan)))
    assert used[:2, CPU].tolist() == [6.0, 6.5]
    assert np.isnan(used[2, CPU])


def context(cpu: np.ndarray, tick: int = 0) -> DecisionContext:
    """Of one app of which only cores are forecast; cpu: (scenario, step)."""
    nothing = np.zeros(1)
    telemetry = Telemetry(1, 1)
    demand = cpu[..., None].astype(np.float32)
    return DecisionContext(demand, ("cpu",), (60, 120), nothing, nothing, telemetry, 0.0, 0, b"", tick)


def apps_of() -> PairedApps:
    """Two apps of replicas of one core."""
    policies = {app: Policy(app, ("cpu",), {"cpu": 1.0}) for app in ("a", "b")}
    return PairedApps(Pool.of(policies), seed=1)


def test_scenarios_of_the_pool_are_sums_of_the_apps_in_another_order() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.gamma(2.0, 5.0, (2, 512, 2))
    paired = apps_of()
    contexts = {app: context(cpu) for app, cpu in zip("ab", drawn, strict=True)}
    asked = paired.demand(100, contexts, slice(0, 2), (1, 2)).fluid
    assert asked.shape == (512, 2, 1)
    assert asked.sum() == pytest.approx(np.ceil(drawn).sum(), rel=1e-5)
    alone = paired.demand(100, {"a": contexts["a"]}, slice(0, 2), (1, 2)).fluid
    assert np.sort(alone, axis=0).tolist() == np.sort(np.ceil(drawn[0])[..., None], axis=0).tolist()
    again = apps_of().demand(100, contexts, slice(0, 2), (1, 2)).fluid
    assert (again == asked).all()


def test_apps_that_were_high_together_are_simulated_so() -> None:
    """The same 400 decisions; what came was high in both apps at once, or in one where it was low in the other."""
    rng = np.random.default_rng(0)
    levels = rng.normal(size=400)
    drawn = np.exp(rng.normal(size=(2, 1024, 2))) * 100
    contexts = {app: context(cpu) for app, cpu in zip("ab", drawn, strict=True)}
    needs = {}
    for name, other in (("together", levels), ("apart", -levels)):
        usage, paired = np.full((400, 2, len(METRICS)), np.nan), apps_of()
        usage[..., CPU] = np.exp(np.stack([levels, other], axis=1)) * 100
        filled = paired.pool.filled(usage)
        asked = np.zeros((1, 1, 1))
        for t in range(399):
            paired.observe(t, filled[t])
            asked = paired.demand(t, contexts, slice(0, 1), (1, 2)).fluid
        needs[name] = float(np.quantile(asked[:, 0, 0], 0.99))
        kept = apps_of()
        kept.restore(paired.blocks())
        assert (
            kept.demand(399, contexts, slice(0, 1), (1, 2)).fluid
            == paired.demand(399, contexts, slice(0, 1), (1, 2)).fluid
        ).all()
    assert needs["together"] > 1.2 * needs["apart"]


def test_requests_are_sized_by_their_rate() -> None:
    pool = Pool.of({"web": replace(WEB, governed=("requests",), unit={}, rps_per_replica=50.0)})
    assert pool.resources == ("requests",)
    rows = np.full((1, 1, len(METRICS)), np.nan)
    rows[..., REQUESTS] = 120.0
    assert pool.used(rows)[0, REQUESTS] == 150.0


def test_the_pools_policy_is_as_sure_as_its_surest_app_and_in_parts_of_the_smallest_node() -> None:
    nodes = [
        Offer(
            f"n{size}",
            "local",
            "here",
            "a",
            "ON_DEMAND",
            {"cpu": 4.0 * size, "memory": 16e9 * size},
            size,
            1,
            1,
            1,
        )
        for size in (2, 1)
    ]
    needed = np.array([4.0, 16e9, 0.0, 0.0, 0.0])
    policy = shared_nodes.policy_of({"web": WEB, "jobs": JOBS}, nodes, needed)
    assert (policy.governed, policy.confidence, policy.hold_s) == (("cpu", "memory"), 0.999, 600.0)
    assert [replicas_per_instance(node, policy) for node in nodes] == [
        2 * shared_nodes.PARTS,
        shared_nodes.PARTS,
    ]
    assert policy.target_utilisation == policy.base == policy.overhead == {}


def offer(offer_id: str, price_h: float = 1.0, **allocatable: float) -> Offer:
    return Offer(offer_id, "local", "here", "a", "ON_DEMAND", allocatable, price_h, 1, 1, 1)


def test_a_unit_is_of_what_the_apps_need_so_that_nodes_of_any_proportions_carry_some() -> None:
    nodes = [offer("much-memory", 2.0, cpu=1.0, memory=256e9), offer("usual", 0.1, cpu=2.0, memory=16e9)]
    needed = np.array([5.0, 40e9, 0.0, 0.0, 0.0])
    policy = shared_nodes.policy_of({"web": WEB, "jobs": JOBS}, nodes, needed)
    assert [replicas_per_instance(node, policy) for node in nodes] == [
        shared_nodes.PARTS,
        2 * shared_nodes.PARTS,
    ]


def job_of(policies: dict[str, Policy], offers: dict[str, list[Offer]], cores: np.ndarray) -> Job:
    """Apps of one user each, who uses the cores (tick, app); planned from row 2 on."""
    values = np.full((*cores.shape, len(METRICS)), np.nan, np.float32)
    values[..., CPU] = cores
    return Job(
        values=values,
        events=np.full((*cores.shape, len(EVENT_KINDS)), np.nan),
        saturated=np.zeros(values.shape, bool),
        ids=[app.encode() for app in policies],
        first_tick=0,
        tick_s=60,
        members={app: np.array([i]) for i, app in enumerate(policies)},
        policies=policies,
        offers={"tiers": offers},
        terms={},
        starting={"tiers": {app: {} for app in policies}},
        lanes=[("tiers", None)],
        levels=(),
        learn_from=0,
        plan_from=2,
        before=np.zeros((0, len(policies), len(METRICS))),
    )


def two_apps(**changes: Any) -> dict[str, Policy]:
    policy = Policy("a", ("cpu",), {"cpu": 1.0})
    return {"a": policy, "b": replace(policy, app="b", **changes)}


def test_apps_that_cannot_share_nodes_are_refused_in_a_line() -> None:
    """Otherwise the first app's offers, providers and budget would be those of all, without a word."""
    node, cores = offer("node", cpu=8.0), np.ones((4, 2))
    alone = two_apps()
    pool = {shared_nodes.POOL: alone["a"], "b": alone["b"]}
    cases = [
        (pool, [node], [node], "an app is called 'shared nodes'"),
        (two_apps(budget=3.0), [node], [node], "no budget, and the policy of b has 3"),
        (two_apps(providers=("q",)), [node], [node], "same providers: it is () of a and ('q',) of b"),
        (alone, [node, offer("reserved", cpu=8.0)], [node], "offer reserved is committed to a alone"),
        (alone, [offer("large", memory=1e9)] * 2, [offer("large", memory=1e9)] * 2, "no capacity of cpu"),
    ]
    for policies, of_first, of_second, message in cases:
        offers = dict(zip(policies, (of_first, of_second), strict=True))
        with pytest.raises(UsageError, match=re.escape(message)) as refusal:
            shared_nodes.with_pool(job_of(policies, offers, cores))
        assert "\n" not in str(refusal.value)


def test_an_app_that_went_before_the_scored_window_is_not_taken_for_none_of_the_pool() -> None:
    node, nan = offer("node", cpu=8.0), float("nan")
    cores = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, nan], [1.0, nan]])
    job = shared_nodes.with_pool(job_of(two_apps(), {"a": [node], "b": [node]}, cores))
    assert np.isnan(job.values[2:, -1, CPU]).all()
    packed = shared_nodes.packed(job, np.ones((2, 1)), 2)
    assert packed == {"all": None, "by_app": {"a": None, "b": None}, "packing_lost": None}
    known = shared_nodes.packed(job, np.ones((3, 1)), 1)
    assert known == {"all": 1.0, "by_app": {"a": 1.0, "b": 1.0}, "packing_lost": 0.0}


def test_an_app_without_users_has_fewer_scenarios() -> None:
    paired = apps_of()
    contexts = {"a": context(np.full((128, 2), 3.0)), "b": context(np.zeros((64, 2)))}
    asked = paired.demand(100, contexts, slice(0, 2), (1, 2)).fluid
    assert asked.shape == (128, 2, 1)
    assert (asked == 3.0).all()


def sized(medians: dict[str, dict[str, float]]) -> PlanningInputs:
    example = Example.of_medians(medians)

    def full(schema: str, record: dict[str, object]) -> dict[str, object]:
        return DEFAULT.decode(DEFAULT.encode(schema, {"version": 1, "valid_from_tick": 0, **record}))[1]

    prices = [full("price", record) for record in example.prices]
    return PlanningInputs(
        {str(r["app"]): full("policy", r) for r in example.policies},
        {app: [p for p in prices if p["commitment_id"] == app] for app in medians},
        example.starting,
    )


def test_nodes_cost_what_the_apps_own_instances_cost() -> None:
    given = sized({"web": {"cpu": 12.0}, "jobs": {"cpu": 84.0}})
    on_nodes = setup.on_nodes(given)
    nodes = on_nodes.prices["web"]
    assert nodes == on_nodes.prices["jobs"]
    assert [n["offer_id"] for n in nodes if n["tier"] == "SPOT"] == [
        "node-1.spot",
        "node-2.spot",
        "node-4.spot",
    ]
    assert {n["tier"] for n in nodes} == {"ON_DEMAND", "SPOT"}
    small = next(n for n in nodes if n["offer_id"] == "node-1.on-demand")
    assert small["capacity"] == [{"metric": "cpu", "value": pytest.approx(96 / example.NODES)}]
    # 24 replicas, the medians of both, are 12 instances of two replicas
    instance = next(p["price"] for p in given.prices["web"] if p["tier"] == "ON_DEMAND")
    assert float(small["price"]) * example.NODES == pytest.approx(12 * float(instance), rel=1e-3)
    assert isinstance(small["price"], Decimal)
    assert all(sum(of.values()) > 0 for of in on_nodes.starting.values())
