"""Rivals over the same demand, offers and luck: their replicas bought by the allocator's search, then provisioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models import references
from models.capacity import load
from models.confidence import totals
from models.features import METRICS
from models.provisioning import Provider
from models.references import KNOBS, Facts
from models.tiers import Tiers, grown_before_shrunk
from pipeline.display import progress
from pipeline.lanes import Arrays, Job, capacity_of


def loads(job: Job) -> np.ndarray:
    """(tick, app, metric) replicas that measured usage filled, not rounded; NaN = not measured. Metrics as governed."""
    usage = totals(job.values, [job.members[app] for app in job.apps]).astype(np.float64)
    widest = max(len(job.policies[app].governed) for app in job.apps)
    found = np.full((*usage.shape[:2], widest), np.nan)
    for a, app in enumerate(job.apps):
        policy = job.policies[app]
        filled = load(usage[:, a], METRICS, policy)
        known = [METRICS.index(m) for m in policy.governed]
        found[:, a, : len(known)] = np.where(np.isnan(usage[:, a, known]), np.nan, filled)
    return found


class Wanted:
    """The replicas that our scenarios need at each of the job's levels, as one more policy.

    Args:
        wanted: (tick, app, level) from the row `first` on.
        first: see there.
    """

    def __init__(self, wanted: np.ndarray, first: int) -> None:
        self._wanted, self._first = wanted, first

    def decide(self, row: int, ready: np.ndarray) -> np.ndarray:
        """See `models.autoscalers.base.Autoscaler`."""
        del ready
        return self._wanted[row - self._first].T.astype(np.int64)


def rivals(job: Job, names: Sequence[str], wanted: np.ndarray) -> dict[str, Arrays]:
    """By market, what came of our levels and of each rival's settings: ready, cost, asked (tick, app, lane).

    Lanes are our levels, then each rival's default and settings. All but our own plans, which are not among them, are
    bought for by the same table of purchases, and grow before they shrink.

    Rivals decide each tick from the first plan's on, and see what is ready at its end, where our plans see what was
    ready a tick before.
    """
    filled = loads(job)
    return (
        {market: _market(job, names, market, wanted, filled) for market in job.offers} if job.levels else {}
    )


def _market(job: Job, names: Sequence[str], market: str, levels: np.ndarray, filled: np.ndarray) -> Arrays:
    apps = job.apps
    p99 = max(o.startup_p99_s for app in apps for o in job.offers[market][app])
    facts = Facts(
        load=filled,
        least=np.array([max(1, job.policies[app].min) for app in apps]),
        most=np.array([job.policies[app].limit for app in apps]),
        tick_s=job.tick_s,
        lead=1 + -(-int(p99) // job.tick_s),
        first_tick=job.first_tick,
    )
    policies = [Wanted(levels, job.plan_from), *references.make(names, facts).values()]
    settings = [len(job.levels), *(len(KNOBS[name].values) for name in names)]
    clouds = [
        Provider(job.offers[market][app], job.terms, tick_s=job.tick_s, seed=job.seed, app=app)
        for app in apps
    ]
    fleets = [
        cloud.start(job.starting[market][app], sum(settings)) for cloud, app in zip(clouds, apps, strict=True)
    ]
    sizes = [capacity_of(job, app, market) for app in apps]
    prices = [np.array([o.price_h for o in job.offers[market][app]]) for app in apps]
    buyers = _buyers(job, market)
    rows = range(job.plan_from, len(job.values))
    shape = (len(rows), len(apps), sum(settings))
    out: Arrays = {name: np.zeros(shape, np.float32) for name in ("ready", "asked", "cost")}
    with progress("ticks") as bar:
        task = bar.add_task(f"rivals, {market}", total=len(rows), note="")
        for i, row in enumerate(rows):
            tick = job.first_tick + row
            for a, (cloud, fleet) in enumerate(zip(clouds, fleets, strict=True)):
                cloud.live(fleet, tick)
                out["ready"][i, a] = fleet.least @ sizes[a]
                out["cost"][i, a] = fleet.hours @ prices[a]
            ready = np.stack([fleet.ready @ size for fleet, size in zip(fleets, sizes, strict=True)], axis=1)
            parts = np.split(ready, np.cumsum(settings)[:-1])
            wanted = np.concatenate(
                [one.decide(row, part) for one, part in zip(policies, parts, strict=True)]
            )
            out["asked"][i] = wanted.T
            for a, app in enumerate(apps):
                desired = grown_before_shrunk(
                    buyers[app].counts(wanted[:, a]), fleets[a].ready, sizes[a], wanted[:, a]
                )
                clouds[a].apply(fleets[a], desired, tick + 1, job.policies[app].drain_s)
            bar.update(task, completed=i + 1)
    return out


def _buyers(job: Job, market: str) -> Mapping[str, Tiers]:
    """A purchase table per app; apps whose offers differ by name alone share one."""
    known: dict[Any, Tiers] = {}
    found: dict[str, Tiers] = {}
    for app in job.apps:
        offers, policy = job.offers[market][app], job.policies[app]
        same = (
            tuple(capacity_of(job, app, market).tolist()),
            tuple(
                (o.tier, o.price_h, o.startup_p99_s, o.launch_failure, o.interruption_h, o.owned_count)
                for o in offers
            ),
            (policy.confidence, policy.min_on_demand, policy.zone_share, policy.budget, policy.pool_loss),
            tuple((o.provider, o.region, o.zone, o.quota_group, o.quota_limit, o.ended) for o in offers),
        )
        found[app] = known.setdefault(
            same,
            Tiers(offers, policy, tick_s=job.tick_s, seed=job.seed, confidence=policy.confidence),
        )
    return found
