"""Baseline autoscalers over the same demand, offers and luck: bought for by the allocator's search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from models.baselines.autoscalers import registry
from models.baselines.autoscalers.overprovisioning import with_headroom
from models.baselines.autoscalers.registry import KNOBS, Facts
from models.baselines.autoscalers.scenario_replicas import ScenarioReplicas
from models.capacity import replica_loads, replicas
from models.evaluation import need
from models.evaluation.promise import totals
from models.metrics import METRICS
from models.purchase.table import Tiers, grown_before_shrunk
from pipeline.backtest.job import TIERS, Arrays, Job, capacity_of, owned_of, tiers_of
from pipeline.backtest.shared_nodes import POOL
from pipeline.progress import Progress, silent
from pipeline.stages.allocator.pool import Pool

SUPPLY: Final = (None, 0.9)
"""With what confidence supply carries the replicas that a policy asks for: the app's own, and less. Replicas that are
asked for with 95 % need not serve with 99 %; at a lower one no spare is bought for spot that may be lost."""


def loads(job: Job) -> np.ndarray:
    """(tick, app, metric) replicas that measured usage filled, not rounded; NaN = not measured. Metrics as governed.

    Ticks are those of `job.before`, then the job's rows.
    """
    usage = totals(job.values, [job.members[app] for app in job.apps])
    usage = np.concatenate([job.before, usage]) if len(job.before) else usage
    return need.filled(usage, [job.policies[app] for app in job.apps])


def simulate(job: Job, names: Sequence[str], ours: Arrays, progress: Progress = silent) -> dict[str, Arrays]:
    """Outcomes by market of the settings of our sweep and of each baseline's: ready, cost, asked (tick, app, lane).

    With them `tiers` (tick, app, baseline, tier): cost at each baseline's default by tier. Lanes are the levels and
    shortage prices of our sweep, then each baseline's default and settings, each policy's all repeated for every
    SUPPLY. All of them are bought for by the same table of purchases, and grow before they shrink. They decide at each
    tick from the first plan's on, and like our plans know what was ready at its start.

    Args:
        job: what is simulated.
        names: of the baselines.
        ours: outcomes of our plans, of which `wanted` and `soon` (tick from the first plan on, app, setting) are used.
        progress: of the ticks of each market.
    """
    if not job.levels:
        return {}
    used = loads(job)
    return {market: _Market(job, names, market, used, ours).run(progress) for market in job.offers}


class _Market:
    """All policies' fleets in one market."""

    def __init__(self, job: Job, names: Sequence[str], market: str, used: np.ndarray, ours: Arrays) -> None:
        self.job, self.market, self.past = job, market, len(job.before)
        apps = job.apps
        facts = self._facts(used)
        hold = [max(1, -int(-job.policies[app].hold_s // job.tick_s)) for app in apps]
        self.ours = ScenarioReplicas(ours["wanted"], ours["soon"], self.past + job.plan_from, hold)
        self.policies = [self.ours, *registry.make(names, facts, len(SUPPLY)).values()]
        each = [job.swept, *(len(KNOBS[name].values) for name in names)]
        self.settings = [len(SUPPLY) * n for n in each]
        self.headroom = np.concatenate(
            [
                getattr(policy, "headroom", np.zeros(n))
                for policy, n in zip(self.policies, self.settings, strict=True)
            ]
        )
        self.supply = np.concatenate([np.repeat(np.arange(len(SUPPLY)), n) for n in each])
        self.products = np.repeat([False, *(KNOBS[name].product for name in names)], self.settings)
        self.defaults = np.cumsum(self.settings)[:-1]  # each baseline's first setting
        self.clouds = [job.cloud(market, app) for app in apps]
        self.fleets = [
            cloud.start(job.starting[market][app], sum(self.settings))
            for cloud, app in zip(self.clouds, apps, strict=True)
        ]
        self.reported = [fleet.ready.copy() for fleet in self.fleets]
        self.sizes = [capacity_of(job, app, market) for app in apps]
        self.prices = [np.array([o.price_h for o in job.offers[market][app]]) for app in apps]
        self.tiers = [tiers_of(job.offers[market][app]) for app in apps]
        self.ended = self._ended(job.start_s(job.plan_from))
        self._commit(job.start_s(job.plan_from))

    def _facts(self, used: np.ndarray) -> Facts:
        job = self.job
        p99 = max(o.startup_p99_s for app in job.apps for o in job.offers[self.market][app])
        return Facts(
            load=used,
            least=np.array([max(1, job.policies[app].min) for app in job.apps]),
            most=np.array([job.policies[app].limit for app in job.apps]),
            tick_s=job.tick_s,
            lead=1 + -(-int(p99) // job.tick_s),
            first_tick=job.first_tick - self.past,
        )

    def _ended(self, now_s: float) -> list[str]:
        return sorted(offer for offer, end_s in self.job.ends.items() if end_s <= now_s)

    def _commit(self, now_s: float) -> None:
        """Buy and bill with the commitments that have not ended by then."""
        self.buyers = [_buyers(self.job, self.market, confidence, now_s) for confidence in SUPPLY]
        for cloud, app in zip(self.clouds, self.job.apps, strict=True):
            cloud.owned = owned_of(self.job.offers_at(self.market, app, now_s))

    def run(self, progress: Progress) -> Arrays:
        """Outcomes of all ticks from the first plan's on."""
        job, rows = self.job, range(self.job.plan_from, len(self.job.values))
        shape = (len(rows), len(job.apps), sum(self.settings))
        out: Arrays = {name: np.zeros(shape, np.float32) for name in ("ready", "asked", "cost")}
        out["tiers"] = np.zeros((len(rows), len(job.apps), len(self.defaults), len(TIERS)), np.float32)
        for i, row in enumerate(rows):
            self._live(row, {name: array[i] for name, array in out.items()})
            ended = self._ended(job.start_s(row + 1))
            if ended != self.ended:
                self.ended = ended
                self._commit(job.start_s(row + 1))
            out["asked"][i] = self._decide(row).T
            progress(f"baselines, {self.market}", i + 1, len(rows))
        return out

    def _live(self, row: int, out: Arrays) -> None:
        """Take every fleet through a tick, and write its outcome, (app, lane)."""
        for a, (cloud, fleet) in enumerate(zip(self.clouds, self.fleets, strict=True)):
            cloud.live(fleet, self.job.first_tick + row)
            out["ready"][a] = fleet.least @ self.sizes[a]
            out["cost"][a] = fleet.hours @ self.prices[a]
            out["tiers"][a] = (fleet.hours[self.defaults] * self.prices[a]) @ self.tiers[a]

    def _decide(self, row: int) -> np.ndarray:
        """Replicas (lane, app) that every policy asks for at a tick's end; what is bought for them is applied."""
        job, own = self.job, self.settings[0]
        ready = np.stack([of @ size for of, size in zip(self.reported, self.sizes, strict=True)], axis=1)
        parts = np.split(ready, self.defaults)
        wanted = np.concatenate(
            [policy.decide(self.past + row, part) for policy, part in zip(self.policies, parts, strict=True)]
        )
        if job.pool is not None:
            wanted[:, job.apps.index(POOL)] = self._pooled(wanted, job.pool)
        wanted = with_headroom(wanted, self.headroom)
        kept = np.concatenate([self.ours.kept(self.past + row, own), wanted[own:]])
        for a, app in enumerate(job.apps):
            bought = np.zeros_like(self.reported[a])
            for s, tables in enumerate(self.buyers):
                bought[self.supply == s] = tables[app].counts(wanted[self.supply == s, a])
            desired = grown_before_shrunk(bought, self.reported[a], self.sizes[a], kept[:, a])
            self.clouds[a].apply(self.fleets[a], desired, job.first_tick + row + 1, job.policies[app].drain_s)
            self.reported[a] = self.fleets[a].ready.copy()
        return wanted

    def _pooled(self, wanted: np.ndarray, pool: Pool) -> np.ndarray:
        """Units of the pool (lane) that every policy asks for.

        A product scales apps, and a node provisioner packs their replicas: what these ask for together. The others know
        the group's total.
        """
        job = self.job
        units = wanted[:, job.apps.index(POOL)].copy()
        of_apps = wanted[:, [job.apps.index(app) for app in pool.apps]]
        of_products = replicas(
            replica_loads(of_apps @ pool.size, METRICS, job.policies[POOL]), job.policies[POOL]
        )
        units[self.products] = of_products[self.products]
        return units


def _buyers(job: Job, market: str, confidence: float | None, now_s: float) -> Mapping[str, Tiers]:
    """A purchase table per app; apps whose offers differ by name alone share one. None: the app's confidence."""
    known: dict[Any, Tiers] = {}
    tables: dict[str, Tiers] = {}
    for app in job.apps:
        offers, policy = job.offers_at(market, app, now_s), job.policies[app]
        same = (
            tuple(capacity_of(job, app, market).tolist()),
            tuple(
                (o.tier, o.price_h, o.startup_p99_s, o.launch_failure, o.interruption_h, o.owned_count)
                for o in offers
            ),
            (policy.confidence, policy.min_on_demand, policy.zone_share, policy.budget, policy.pool_loss),
            tuple((o.provider, o.region, o.zone, o.quota_group, o.quota_limit, o.ended) for o in offers),
        )
        tables[app] = known.setdefault(
            same,
            Tiers(
                offers,
                policy,
                tick_s=job.tick_s,
                seed=job.seed,
                confidence=policy.confidence if confidence is None else confidence,
            ),
        )
    return tables
