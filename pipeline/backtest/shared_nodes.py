"""Many apps on one pool of nodes in a backtest: the pool is one more app, whose demand is what the apps' replicas take.

Its usage in a tick is the sum of what its apps' whole replicas ask for in each resource; its scenarios are the sums of
theirs, paired as the apps have been high together. So its forecast, its promise, its purchase and the baselines on the
group's total are those of any app. A unit of it is a small part of a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from models.capacity import Offer, Policy
from models.evaluation.promise import totals
from models.metrics import EVENT_KINDS
from pipeline.backtest.job import Arrays, Job
from pipeline.backtest.pool import Pool

POOL: Final = "shared nodes"
"""Name of the pool among the apps."""
PARTS: Final = 8
"""Units of the pool in the smallest node."""


def policy_of(policies: Mapping[str, Policy], offers: Sequence[Offer]) -> Policy:
    """The pool's policy: as that of its first app, sure as the surest one, in units of a part of the smallest node."""
    first = policies[min(policies)]
    pool = Pool.of(policies)
    least = min(offers, key=lambda offer: (min(offer.allocatable.values()), offer.offer_id))
    return replace(
        first,
        app=POOL,
        governed=pool.resources,
        unit={metric: least.allocatable[metric] / PARTS for metric in pool.resources},
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
    """
    pool = Pool.of(job.policies)
    usage = totals(job.values, [job.members[app] for app in job.apps])
    apps = sorted([*job.apps, POOL])
    column = pool.used(usage)[:, None].astype(np.float32)
    before = job.before
    if len(before):
        before = np.insert(before, apps.index(POOL), pool.used(before), axis=1)
    nodes = {market: of[job.apps[0]] for market, of in job.offers.items()}
    first = next(iter(nodes.values()))
    starting = {market: {**of, POOL: _sums(of.values())} for market, of in job.starting.items()}
    return replace(
        job,
        values=np.concatenate([job.values, column], axis=1),
        events=np.concatenate([job.events, np.full((*column.shape[:2], len(EVENT_KINDS)), np.nan)], axis=1),
        saturated=np.concatenate([job.saturated, np.zeros(column.shape, bool)], axis=1),
        ids=[*job.ids, POOL.encode()],
        members={**job.members, POOL: np.array([len(job.ids)])},
        policies={**job.policies, POOL: policy_of(job.policies, first)},
        offers={market: {**of, POOL: nodes[market]} for market, of in job.offers.items()},
        starting=starting,
        before=before,
        pool=pool,
    )


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
