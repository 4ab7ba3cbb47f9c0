"""Many apps on one pool of nodes in a backtest: the pool is one more app, whose demand is what the apps' replicas take.

Its usage in a tick is the sum of what its apps' whole replicas ask for in each resource; its scenarios are the sums of
theirs, paired as the apps have been high together. So its promise, its purchase and the baselines on the group's
total are those of any app. A unit of it is a small part of a node.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from models.capacity import Offer, Policy
from models.evaluation.promise import totals
from models.metrics import EVENT_KINDS
from models.nodes import fragmentation
from models.nodes.joint_need import common, quantum
from models.nodes.packing import fits, pack
from pipeline.backtest.job import Arrays, Job
from pipeline.errors import UsageError
from pipeline.stages.allocator.pool import Pool

POOL: Final = "shared nodes"
"""Name of the pool among the apps."""
PARTS: Final = 8
"""Units of the pool in the smallest node."""
ALIKE: Final = (
    "confidence_of",
    "providers",
    "regions",
    "min_on_demand",
    "zone_share",
    "pool_loss",
    "shortage_price_h",
    "scale_down",
    "churn_threshold",
)
"""Fields of the apps' policies that bound the pool's purchase, and so are to be the same."""


def policy_of(policies: Mapping[str, Policy], offers: Sequence[Offer], needed: np.ndarray) -> Policy:
    """The pool's policy: as that of its first app, sure as the surest one, in units of a part of the smallest node.

    A unit has at least the proportions of what is needed, so that a node carries as many as the resource allows of
    which it has least; of what every node has more than its units take, a unit has more, so that it does not bind.

    Args:
        policies: of the apps.
        offers: nodes.
        needed: (METRICS) of the pool, above 0 of its resources.
    """
    first = policies[min(policies)]
    pool = Pool.of(policies)
    unit = quantum(needed[pool.size.any(axis=0)], pool.room(offers), PARTS)
    return replace(
        first,
        app=POOL,
        governed=pool.resources,
        unit=dict(zip(pool.resources, unit.tolist(), strict=True)),
        allocation_group=POOL,
        confidence=max(policy.confidence for policy in policies.values()),
        hold_s=max(policy.hold_s for policy in policies.values()),
        overhead={},
        base={},
        target_utilisation={},
        rps_per_replica=None,
        min=1,
        max=1_000_000,
        max_up=None,
        max_down=None,
    )


def with_pool(job: Job) -> Job:
    """The job with the pool beside its apps, as one more app of one more user.

    The apps' offers are nodes that all of them can use; the pool begins with what all apps begin with together.

    Raises:
        UsageError: the apps cannot share nodes.
    """
    pool = Pool.of(job.policies)
    fault = _fault(job, pool)
    if fault is not None:
        raise UsageError(fault)
    usage = totals(job.values, [job.members[app] for app in job.apps])
    apps = sorted([*job.apps, POOL])
    used = pool.used(usage)
    column = used[:, None].astype(np.float32)
    before = job.before
    if len(before):
        before = np.insert(before, apps.index(POOL), pool.used(before), axis=1)
    counts = np.nan_to_num(pool.whole(usage[: job.plan_from])).astype(np.int64)
    nodes = {market: _carrying(of[job.apps[0]], pool, counts, job.seed) for market, of in job.offers.items()}
    first = next(iter(nodes.values()))
    largest = np.nan_to_num(used[: job.plan_from]).max(axis=0, initial=0.0)
    needed = np.maximum(largest, pool.size.sum(axis=0))
    starting = {market: {**of, POOL: _sums(of.values())} for market, of in job.starting.items()}
    return replace(
        job,
        values=np.concatenate([job.values, column], axis=1),
        events=np.concatenate([job.events, np.full((*column.shape[:2], len(EVENT_KINDS)), np.nan)], axis=1),
        saturated=np.concatenate([job.saturated, np.zeros(column.shape, bool)], axis=1),
        ids=[*job.ids, POOL.encode()],
        members={**job.members, POOL: np.array([len(job.ids)])},
        policies={**job.policies, POOL: policy_of(job.policies, first, needed)},
        offers={market: {**of, POOL: nodes[market]} for market, of in job.offers.items()},
        starting=starting,
        before=before,
        pool=pool,
    )


def _fault(job: Job, pool: Pool) -> str | None:
    """Why the apps cannot share nodes, or None."""
    if POOL in job.apps:
        return f"an app is called {POOL!r}, as the pool of --nodes shared is: give it another name"
    for policy in pool.policies:
        if policy.budget is not None:
            return f"shared nodes have no budget, and the policy of {policy.app} has {policy.budget:g}: leave it out"
    first = pool.policies[0]
    for policy, name in itertools.product(pool.policies, ALIKE):
        of_first, of_other = getattr(first, name), getattr(policy, name)
        if of_first != of_other:
            return (
                f"apps on shared nodes need the same {name}: it is {of_first!r} of {first.app} and {of_other!r} of "
                f"{policy.app}"
            )
    return _fault_of_offers(next(iter(job.offers.values())), pool)


def _fault_of_offers(offers: Mapping[str, Sequence[Offer]], pool: Pool) -> str | None:
    """Why these, by app, cannot be shared nodes, or None."""
    ids = {app: {offer.offer_id for offer in offers[app]} for app in pool.apps}
    committed = set.union(*ids.values()) - set.intersection(*ids.values())
    if committed:
        offer = min(committed)
        of = ", ".join(app for app in pool.apps if offer in ids[app])
        return f"shared nodes are bought for all apps, and offer {offer} is committed to {of} alone"
    for node, metric in itertools.product(offers[pool.apps[0]], pool.resources):
        if metric not in node.allocatable:
            return f"offer {node.offer_id} names no capacity of {metric}, which replicas on shared nodes take"
    return None


def _carrying(offers: Sequence[Offer], pool: Pool, counts: np.ndarray, seed: int) -> list[Offer]:
    """The nodes with what packing leaves of them; one that does not carry a replica of every app cannot be used.

    Args:
        offers: of the apps.
        pool: of them.
        counts: (tick, app) replicas of the rows before the first plan, from which is learnt what packing loses.
        seed: of the run.

    Raises:
        UsageError: no node carries a replica of every app.
    """
    room = pool.room(offers)
    carried, carries = common(fits(pool.requests, room))
    if not carried.all():
        lacking = [app for app, of in zip(pool.apps, carried.tolist(), strict=True) if not of]
        raise UsageError(f"no node carries a replica of every app: of {', '.join(lacking)} it does not")
    share = max(policy.confidence for policy in pool.policies)
    left: list[Offer] = []
    for offer, amounts, of in zip(offers, room, carries.tolist(), strict=True):
        if of:
            lost = fragmentation.factor(counts, pool.requests, amounts, share, (seed, offer.offer_id))
            kept = dict(zip(pool.resources, (amounts / lost).tolist(), strict=True))
            left.append(replace(offer, allocatable=kept))
        else:
            left.append(replace(offer, ended="it does not carry a replica of every app"))
    return left


def packed(job: Job, counts: np.ndarray, first: int) -> dict[str, Any]:
    """Whether the replicas that demand filled were placed by packing on the nodes that were ready.

    Args:
        job: with the pool.
        counts: (tick, offer) nodes ready throughout the tick.
        first: row of its first tick.

    Returns:
        `all`: share of the ticks in which all were; `by_app`: the same of each app's; `packing_lost`: share in which
        not all were although the nodes had as much of each resource. None where all apps were measured in no tick.
    """
    assert job.pool is not None
    pool = job.pool
    offers = next(iter(job.offers.values()))[pool.apps[0]]
    room, replicas = pool.room(offers), pool.replicas
    whole = pool.whole(totals(job.values, [job.members[app] for app in pool.apps]))[first:]
    placed = np.zeros(whole.shape, bool)
    for t, (ready, filled) in enumerate(zip(counts, whole, strict=True)):
        wanted = np.nan_to_num(filled).astype(np.int64)
        done = pack(pool.nodes(offers, ready), replicas, wanted)
        placed[t] = done.placed.sum(axis=0) >= wanted
    known = ~np.isnan(whole).any(axis=1)
    if not known.any():
        return {"all": None, "by_app": dict.fromkeys(pool.apps), "packing_lost": None}
    fluid = ((np.nan_to_num(whole) @ pool.requests)[known] <= (counts @ room)[known]).all(axis=1)
    everything = placed[known].all(axis=1)
    return {
        "all": float(everything.mean()),
        "by_app": dict(zip(pool.apps, placed[known].mean(axis=0).tolist(), strict=True)),
        "packing_lost": float((fluid & ~everything).mean()),
    }


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for of in counts:
        for offer, number in of.items():
            summed[offer] = summed.get(offer, 0) + number
    return summed


def only(outcomes: Arrays, job: Job, apps: Sequence[str]) -> Arrays:
    """Outcomes (tick, app of the job, ...) of some of the apps."""
    index = [job.apps.index(app) for app in apps]
    return {name: array[:, index] for name, array in outcomes.items()}


def figures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """What shared nodes are judged by: `summary.shared` of a report (docs/scoring.md).

    Args:
        report: of the pool, with `nodes`.

    Returns:
        cost_ratio_own: our cost on shared nodes to ours on own nodes, at a realised 99 %; None without own nodes;
        cost_ratio_best_product: to the best product's on shared nodes, likewise; avoidable_removed: share of what the
        best product costs beyond the oracle that ours does not, likewise; promise_99: share of the plans for 99 % that
        held for all apps together; worst_app_share: least share of ticks in which packing placed an app's replicas.
    """
    summary, nodes = report["summary"], report["nodes"]
    best, oracle = (summary[f"cost_ratio_{name}"] for name in ("best_product", "oracle"))
    removed = (1 / best - 1) / (1 / best - 1 / oracle) if best and oracle and oracle > best else None
    placed = [share for share in nodes["packed"]["by_app"].values() if share is not None]
    return {
        "cost_ratio_own": nodes.get("cost_to_own_at_99", {}).get("leadtime"),
        "cost_ratio_best_product": best,
        "avoidable_removed": removed,
        "promise_99": summary.get("promise_99"),
        "worst_app_share": min(placed, default=None),
    }


def compared_with_own(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What shared nodes cost beside each app's own.

    Args:
        shared, own: reports of the pool, and of its apps on nodes of their own (docs/scoring.md).
    """
    policies = {name: (shared["policies"][name], own["policies"][name]) for name in shared["policies"]}
    return {
        "cost_to_own_at_99": {
            name: of[0]["at_99"]["cost"] / of[1]["at_99"]["cost"]
            for name, of in policies.items()
            if of[0]["at_99"]["cost"] and of[1]["at_99"]["cost"]
        },
        "own": {name: own[name] for name in ("summary", "policies", "by_app", "promise")},
    }
