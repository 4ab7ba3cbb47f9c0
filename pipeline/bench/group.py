"""Shared nodes: processor time of a group's plan, beside that of its apps' own plans."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import numpy as np

from models.capacity import Offer, Policy
from models.planning.allocate import DecisionContext, allocate
from models.planning.guardrails import Telemetry
from models.purchase import promise_window
from models.random_streams import stream
from models.synthetic.purchases import STEPS_S, instance
from pipeline.stages.allocator.decide import AppState
from pipeline.stages.allocator.pool import Pool
from pipeline.stages.allocator.shared_nodes import SharedNodes, needed

METRICS_OF_APPS: Final = ("cpu", "memory")
GIB: Final = 2.0**30
OWN: Final = Offer("own", "local", "here", "here-1", "ON_DEMAND", {"cpu": 1.0}, 0.1, 5.0, 8.0, 10.0)
TICK_S: Final = STEPS_S[0]


def measured(apps: int, offers: int, draws: int, repeats: int, seed: int) -> dict[str, Any]:
    """Processor seconds of what shared nodes add to the plans of a group's apps: median, least and most of some ticks.

    Args:
        apps: of the group; demand of each lognormal with a common factor, replicas of 0.25 to 4 cores and 1 to 16 GiB.
        offers: node types.
        draws: scenarios.
        repeats: ticks.
        seed: of demand and offers.
    """
    rng = stream(np, seed, "group")
    policies = {
        f"app-{a:03d}": Policy(
            f"app-{a:03d}",
            METRICS_OF_APPS,
            {"cpu": float(2.0 ** rng.integers(-2, 3)), "memory": float(2.0 ** rng.integers(0, 5)) * GIB},
            max=10_000,
            mode="auto",
            priority=int(rng.integers(0, 3)),
        )
        for a in range(apps)
    }
    nodes = [
        replace(
            offer, allocatable={"cpu": 8 * size, "memory": 32 * GIB * size * float(rng.choice([0.5, 1, 2]))}
        )
        for offer in instance(seed, offers, 2)[0]
        for size in (offer.allocatable["cpu"],)
    ]
    group = SharedNodes(AppState("group", "group", {}, {}, {}, True), seed)
    group.paired = group.paired.moved(Pool.of(policies))
    group.last = dict.fromkeys(policies, 0.0)
    rows = [_tick(group, policies, nodes, draws, tick, seed) for tick in range(1 + repeats)][
        1:
    ]  # the first compiles
    return {
        "apps": apps,
        "offers": offers,
        "scenarios": draws,
        "ticks": repeats,
        **{
            f"{part}_cpu_s": {
                "median": round(float(np.median([row[part] for row in rows])), 4),
                "min": round(min(row[part] for row in rows), 4),
                "max": round(max(row[part] for row in rows), 4),
            }
            for part in rows[0]
        },
    }


def _tick(
    group: SharedNodes, policies: dict[str, Policy], nodes: list[Offer], draws: int, tick: int, seed: int
) -> dict[str, float]:
    """Processor seconds of the parts of one tick, by part."""
    contexts = _contexts(policies, draws, tick, seed)
    window = promise_window.window(nodes, STEPS_S).steps
    steps = [step // TICK_S for step in STEPS_S]
    begun, parts = time.process_time(), dict[str, float]()

    def part(name: str) -> None:
        nonlocal begun
        parts[name], begun = time.process_time() - begun, time.process_time()

    joint = group.demand(tick, contexts, window, steps)
    offers, need = group.nodes(nodes, joint, window, 0.99, 0.0)
    part("joint_need")
    policy = group.policy(Policy("group", METRICS_OF_APPS, {"cpu": 1.0}, mode="auto"), ending=False)
    resources = policy.governed
    usage = joint.fluid[:, 0].mean(axis=0).astype(np.float64)
    context = replace(
        next(iter(contexts.values())), demand=joint.fluid, metrics=resources, usage=usage, app=b"group"
    )
    plan, _ = allocate(context, offers=offers, observed={}, policy=policy, memory={})
    part("purchase")
    group.parts(joint, need, window, 0.99)
    part("whose_need")
    own = {
        app: allocate(contexts[app], offers=[_replica(of)], observed={}, policy=of, memory={})[0]
        for app, of in policies.items()
    }
    parts_of_own = time.process_time() - begun
    begun = time.process_time()
    alone = {app: replace(of, counts={"replicas": of.counts["own"]}) for app, of in own.items()}
    few = {offer: count[0] // 2 for offer, count in plan.counts.items()}  # so that the room has to be divided
    most = {app: needed(contexts[app], of, [_replica(of)], STEPS_S) for app, of in policies.items()}
    group.divided(plan, offers, few, alone, most, policies)
    part("division")
    parts["nodes_in_all"] = sum(parts.values())
    parts["own_plans"] = parts_of_own
    return parts


def _replica(policy: Policy) -> Offer:
    return replace(OWN, allocatable=dict(policy.unit))


def _contexts(policies: dict[str, Policy], draws: int, tick: int, seed: int) -> dict[str, DecisionContext]:
    """Scenarios of each app: lognormal, of means from 2 to 40 replicas."""
    contexts: dict[str, DecisionContext] = {}
    for app, policy in policies.items():
        rng = stream(np, seed, "group", app, tick)
        mean = float(rng.uniform(2, 40))
        level = mean * rng.lognormal(0, 0.25, (draws, 1))
        path = level * np.exp(np.cumsum(rng.normal(0, 0.06, (draws, len(STEPS_S))), axis=1))
        size = np.array([policy.unit[metric] for metric in METRICS_OF_APPS])
        demand = (path[:, :, None] * size).astype(np.float32)
        usage = demand[:, 0].mean(axis=0).astype(np.float64)
        contexts[app] = DecisionContext(
            demand,
            METRICS_OF_APPS,
            STEPS_S,
            usage,
            np.zeros(len(size)),
            Telemetry(1, 1),
            0.0,
            seed,
            app.encode(),
            tick,
        )
    return contexts
