"""Rivals over the same demand, offers and luck: their replicas bought by the allocator's search, then provisioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from models.baselines.autoscalers import registry
from models.baselines.autoscalers.registry import KNOBS, Facts
from models.capacity import load
from models.evaluation.promise import totals
from models.evaluation.simulated_cloud import Provider
from models.metrics import METRICS
from models.purchase.table import Tiers, grown_before_shrunk
from pipeline.backtest.job import TIERS, Arrays, Job, capacity_of, tiers_of
from pipeline.progress import Progress, silent


def loads(job: Job) -> np.ndarray:
    """(tick, app, metric) replicas that measured usage filled, not rounded; NaN = not measured. Metrics as governed.

    Ticks are those of `job.before`, then the job's rows.
    """
    usage = totals(job.values, [job.members[app] for app in job.apps])
    return filled(job, np.concatenate([job.before, usage]) if len(job.before) else usage)


def filled(job: Job, usage: np.ndarray) -> np.ndarray:
    """(tick, app, metric) replicas that usage (tick, app, METRICS) fills, as `loads`."""
    usage = usage.astype(np.float64)
    widest = max(len(job.policies[app].governed) for app in job.apps)
    found = np.full((*usage.shape[:2], widest), np.nan)
    for a, app in enumerate(job.apps):
        policy = job.policies[app]
        carried = load(usage[:, a], METRICS, policy)
        known = [METRICS.index(m) for m in policy.governed]
        found[:, a, : len(known)] = np.where(np.isnan(usage[:, a, known]), np.nan, carried)
    return found


SUPPLY: Final = (None, 0.9)
"""With what confidence supply carries the replicas that a policy asks for: the app's own, and less. Replicas that are
asked for with 95 % need not be there with 99 %; at a lower one no spare is bought for spot that may be lost."""


class Wanted:
    """The replicas that our scenarios need at each of the job's levels and shortages, as one more policy.

    As the guard rails of the plans do, none is released that was wanted within the app's hold time, or is needed
    before something else serves.

    Args:
        wanted: (tick, app, setting) from the row `first` on.
        soon: likewise, needed before what is bought can serve.
        first: see there.
        hold: (app) ticks, that of the decision among them.
    """

    def __init__(self, wanted: np.ndarray, soon: np.ndarray, first: int, hold: Sequence[int]) -> None:
        self._first, self._soon = first, soon
        self._wanted = np.stack(
            [
                sliding_window_view(np.pad(wanted[:, a], [(n - 1, 0), (0, 0)]), n, axis=0).max(axis=-1)
                for a, n in enumerate(hold)
            ],
            axis=1,
        )

    def decide(self, row: int, ready: np.ndarray) -> np.ndarray:
        """See `models.baselines.autoscalers.base.Autoscaler`; the settings as often as there are fleets for them."""
        one = self._wanted[row - self._first].T.astype(np.int64)
        return np.tile(one, (len(ready) // len(one), 1))

    def kept(self, row: int, lanes: int) -> np.ndarray:
        """(lane, app) replicas that those which are ready must carry until others are."""
        one = self._soon[row - self._first].T.astype(np.int64)
        return np.tile(one, (lanes // len(one), 1))


def rivals(job: Job, names: Sequence[str], seen: Arrays, progress: Progress = silent) -> dict[str, Arrays]:
    """By market, what came of our settings and of each rival's: ready, cost, asked (tick, app, lane).

    With them `tiers` (tick, app, rival, tier): cost at each rival's default by tier.

    seen: of our own run, what our scenarios need (`pipeline.backtest.simulation`): wanted, soon (tick from the first
    plan on, app, setting).

    Lanes are our levels and shortages, then each rival's default and settings, each policy's all once for every SUPPLY.
    All but our own plans, which are not among them, are bought for by the same table of purchases, and grow before they
    shrink.

    Rivals decide each tick from the first plan's on; like our plans they see what was ready at its start.
    """
    used = loads(job)
    if not job.levels:
        return {}
    return {market: _market(job, names, market, seen, used, progress) for market in job.offers}


def _market(
    job: Job, names: Sequence[str], market: str, own: Arrays, used: np.ndarray, progress: Progress
) -> Arrays:
    apps, past = job.apps, len(job.before)
    p99 = max(o.startup_p99_s for app in apps for o in job.offers[market][app])
    facts = Facts(
        load=used,
        least=np.array([max(1, job.policies[app].min) for app in apps]),
        most=np.array([job.policies[app].limit for app in apps]),
        tick_s=job.tick_s,
        lead=1 + -(-int(p99) // job.tick_s),
        first_tick=job.first_tick - past,
    )
    hold = [max(1, -int(-job.policies[app].hold_s // job.tick_s)) for app in apps]
    ours = Wanted(own["wanted"], own["soon"], past + job.plan_from, hold)
    policies = [
        ours,
        *registry.make(names, facts, len(SUPPLY)).values(),
    ]
    each = [job.swept, *(len(KNOBS[name].values) for name in names)]
    settings = [len(SUPPLY) * n for n in each]
    supply = np.concatenate([np.repeat(np.arange(len(SUPPLY)), n) for n in each])
    clouds = [
        Provider(job.offers[market][app], job.terms, tick_s=job.tick_s, seed=job.seed, app=app)
        for app in apps
    ]
    fleets = [
        cloud.start(job.starting[market][app], sum(settings)) for cloud, app in zip(clouds, apps, strict=True)
    ]
    sizes = [capacity_of(job, app, market) for app in apps]
    prices = [np.array([o.price_h for o in job.offers[market][app]]) for app in apps]
    buyers = [_buyers(job, market, confidence) for confidence in SUPPLY]
    seen = [fleet.ready.copy() for fleet in fleets]
    rows = range(job.plan_from, len(job.values))
    shape = (len(rows), len(apps), sum(settings))
    out: Arrays = {name: np.zeros(shape, np.float32) for name in ("ready", "asked", "cost")}
    tiers = [tiers_of(job.offers[market][app]) for app in apps]
    defaults = np.cumsum(settings)[:-1]  # each rival's first setting
    out["tiers"] = np.zeros((len(rows), len(apps), len(defaults), len(TIERS)), np.float32)
    for i, row in enumerate(rows):
        tick = job.first_tick + row
        for a, (cloud, fleet) in enumerate(zip(clouds, fleets, strict=True)):
            cloud.live(fleet, tick)
            out["ready"][i, a] = fleet.least @ sizes[a]
            out["cost"][i, a] = fleet.hours @ prices[a]
            out["tiers"][i, a] = (fleet.hours[defaults] * prices[a]) @ tiers[a]
        ready = np.stack([of @ size for of, size in zip(seen, sizes, strict=True)], axis=1)
        parts = np.split(ready, np.cumsum(settings)[:-1])
        wanted = np.concatenate(
            [one.decide(past + row, part) for one, part in zip(policies, parts, strict=True)]
        )
        out["asked"][i] = wanted.T
        kept = np.concatenate([ours.kept(past + row, settings[0]), wanted[settings[0] :]])
        for a, app in enumerate(apps):
            bought = np.zeros_like(seen[a])
            for s, of in enumerate(buyers):
                bought[supply == s] = of[app].counts(wanted[supply == s, a])
            desired = grown_before_shrunk(bought, seen[a], sizes[a], kept[:, a])
            clouds[a].apply(fleets[a], desired, tick + 1, job.policies[app].drain_s)
            seen[a] = fleets[a].ready.copy()
        progress(f"baselines, {market}", i + 1, len(rows))
    return out


def _buyers(job: Job, market: str, confidence: float | None) -> Mapping[str, Tiers]:
    """A purchase table per app; apps whose offers differ by name alone share one. None: the app's confidence."""
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
            Tiers(
                offers,
                policy,
                tick_s=job.tick_s,
                seed=job.seed,
                confidence=policy.confidence if confidence is None else confidence,
            ),
        )
    return found
