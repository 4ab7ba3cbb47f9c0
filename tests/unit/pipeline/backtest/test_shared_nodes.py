"""Apps that share nodes in a backtest: the pool is one more app, whose demand is what the apps' replicas take."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from models.capacity import Offer, Policy, replicas_per_instance
from models.metrics import METRICS
from models.planning.allocate import DecisionContext
from models.planning.guardrails import Telemetry
from pipeline.backtest import setup, shared_nodes
from pipeline.backtest.pool import PairedApps, Pool
from pipeline.backtest.setup import PlanningInputs
from pipeline.inputs.example import Example
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


def apps_of(usage: np.ndarray) -> PairedApps:
    """Two apps of replicas of one core."""
    policies = {app: Policy(app, ("cpu",), {"cpu": 1.0}) for app in ("a", "b")}
    rows = np.full((*usage.shape, len(METRICS)), np.nan)
    rows[..., CPU] = usage
    return PairedApps(Pool.of(policies), rows, seed=1)


def test_scenarios_of_the_pool_are_sums_of_the_apps_in_another_order() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.gamma(2.0, 5.0, (2, 512, 2))
    paired = apps_of(np.full((4, 2), np.nan))
    contexts = {app: context(cpu) for app, cpu in zip("ab", drawn, strict=True)}
    asked = paired.scenarios(0, 100, contexts, slice(0, 2), (1, 2))
    assert asked.shape == (512, 2, 1)
    assert asked.sum() == pytest.approx(np.ceil(drawn).sum(), rel=1e-5)
    alone = paired.scenarios(0, 100, {"a": contexts["a"]}, slice(0, 2), (1, 2))
    assert np.sort(alone, axis=0).tolist() == np.sort(np.ceil(drawn[0])[..., None], axis=0).tolist()
    again = apps_of(np.full((4, 2), np.nan)).scenarios(0, 100, contexts, slice(0, 2), (1, 2))
    assert (again == asked).all()


def test_apps_that_were_high_together_are_simulated_so() -> None:
    """The same 400 decisions; what came was high in both apps at once, or in one where it was low in the other."""
    rng = np.random.default_rng(0)
    levels = rng.normal(size=400)
    drawn = np.exp(rng.normal(size=(2, 1024, 2))) * 100
    contexts = {app: context(cpu) for app, cpu in zip("ab", drawn, strict=True)}
    needs = {}
    for name, other in (("together", levels), ("apart", -levels)):
        paired = apps_of(np.exp(np.stack([levels, other], axis=1)) * 100)
        asked = np.zeros((1, 1, 1))
        for t in range(399):
            paired.observe(t)
            asked = paired.scenarios(t, t, contexts, slice(0, 1), (1, 2))
        needs[name] = float(np.quantile(asked[:, 0, 0], 0.99))
        kept = apps_of(np.zeros((400, 2)))
        kept.restore(paired.blocks())
        assert (
            kept.scenarios(399, 399, contexts, slice(0, 1), (1, 2))
            == paired.scenarios(399, 399, contexts, slice(0, 1), (1, 2))
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
    policy = shared_nodes.policy_of({"web": WEB, "jobs": JOBS}, nodes)
    assert (policy.governed, policy.confidence, policy.hold_s) == (("cpu", "memory"), 0.999, 600.0)
    assert [replicas_per_instance(node, policy) for node in nodes] == [
        2 * shared_nodes.PARTS,
        shared_nodes.PARTS,
    ]
    assert policy.target_utilisation == policy.base == policy.overhead == {}


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
    assert small["capacity"] == [{"metric": "cpu", "value": pytest.approx(96 / setup.NODES)}]
    # 24 replicas, the medians of both, are 12 instances of two replicas
    instance = next(p["price"] for p in given.prices["web"] if p["tier"] == "ON_DEMAND")
    assert float(small["price"]) * setup.NODES == pytest.approx(12 * float(instance), rel=1e-3)
    assert isinstance(small["price"], Decimal)
    assert all(sum(of.values()) > 0 for of in on_nodes.starting.values())
