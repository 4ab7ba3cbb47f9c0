"""A backtest on a recorded supply: several clouds beside one, on demand alone, SkyServe's policy, and an optimum.

Markets are our planner's with all offers, and with those of a single provider, each at several confidences. SkyServe
(`models.baselines.spot_hedge`) and what is on demand alone get the replicas that our scenarios need at several levels,
so that they differ by their purchase alone. The optimum knows the supply, and is a bound from below: each tick
it pays for the replicas of that tick alone, in the cheapest pools that gave them in this tick and the one before, as if
machines started and stopped at no cost. One optimum serves the replicas of our scenarios' levels, another, which knows
the demand too, the demand itself, and leaves out the dearest ticks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from models.baselines.autoscalers.registry import largest
from models.baselines.spot_hedge import SpotHedge
from models.capacity import Offer, Policy
from models.evaluation import need
from models.evaluation.promise import totals
from models.metrics import DAY_S
from pipeline.backtest import setup
from pipeline.backtest.baselines import loads
from pipeline.backtest.job import Arrays, Job, capacity_of
from pipeline.backtest.setup import ALL_TIERS, PlanningInputs
from pipeline.backtest.supply_file import Outage, SupplyFile
from pipeline.inputs.example import Example
from pipeline.progress import Progress
from pipeline.wire.codec import Record

LEVELS: Final = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Of the scenarios, whose replicas SkyServe and the optimum are asked for."""
CONFIDENCES: Final = (0.95, 0.998)
"""That our planner plans at beside the policy's."""
EXTRA: Final = (0, 1, 2, 4)
LEARN_S: Final = (
    DAY_S  # of plans before the scored window, in which supply is learnt, where the warm-up has them
)
TARGET: Final = 0.99
OWN: Final = "only "


def records(source: SupplyFile, inputs: PlanningInputs) -> PlanningInputs:
    """Policies of `setup.sized` with the file's offers, a replica a node; nothing need be on demand."""
    prices: dict[str, list[Record]] = {}
    policies: dict[str, Record] = {}
    starting: dict[str, dict[str, int]] = {}
    for app, policy in inputs.policies.items():
        policies[app] = policy | {"min_on_demand": 0.0}
        offers = [setup.with_defaults("price", record) for record in source.prices(policy["unit"], app)]
        prices[app] = offers
        on_demand = min(
            (o for o in offers if o["tier"] == "ON_DEMAND"), key=lambda o: (o["price"], o["offer_id"])
        )
        running = {on_demand["offer_id"]: round(1.5 * Example.median_replicas())}
        starting[app] = setup.start_of(running, offers)
    return PlanningInputs(policies, prices, starting)


def with_supply(job: Job, source: SupplyFile, outages: Sequence[Outage]) -> Job:
    """The job on the file's supply, with a market for each provider, and lanes for each confidence."""
    supply = source.supply(job.first_tick, len(job.values), job.tick_s, outages)
    markets = {ALL_TIERS: job.offers[ALL_TIERS]}
    starting = dict(job.starting)
    for provider in source.providers if len(source.providers) > 1 else ():
        name = OWN + provider
        markets[name] = {
            app: [offer for offer in offers if offer.provider == provider]
            for app, offers in job.offers[ALL_TIERS].items()
        }
        starting[name] = {
            app: _started(offers, sum(job.starting[ALL_TIERS][app].values()))
            for app, offers in markets[name].items()
        }
    lanes = [(market, confidence) for market in markets for confidence in (None, *CONFIDENCES)]
    earlier = max(1, job.plan_from - LEARN_S // job.tick_s)
    return replace(
        job,
        offers=markets,
        starting=starting,
        lanes=lanes,
        levels=LEVELS,
        shortages=(),
        supply=supply,
        plan_from=earlier,
        learn_from=min(job.learn_from, earlier),
    )


def _started(offers: Sequence[Offer], count: int) -> dict[str, int]:
    """Instances of the cheapest on-demand offer."""
    on_demand = min((o for o in offers if o.tier == "ON_DEMAND"), key=lambda o: (o.price_h, o.offer_id))
    return {o.offer_id: count * (o is on_demand) for o in offers}


def figures(job: Job, ours: Arrays, skip: int, progress: Progress) -> dict[str, Any]:
    """What `summary.clouds` and `clouds` of the report have.

    Args:
        job: of `with_supply`.
        ours: outcomes of our plans from the first plan on.
        skip: rows from the first plan on that are not scored.
        progress: of the ticks of SkyServe's policy.
    """
    demand = largest(loads(job)[len(job.before) + job.plan_from :])[skip:]
    members = [job.members[app] for app in job.apps]
    usage, saturated = totals(job.values, members), totals(np.where(job.saturated, job.values, 0), members)
    hidden = need.censored(usage, saturated, [job.policies[app] for app in job.apps])[job.plan_from + skip :]
    scored = ~np.isnan(demand) & ~hidden

    def rows(ready: np.ndarray, cost: np.ndarray) -> list[tuple[float, float]]:
        """Realised share and cost (lane)."""
        served = (ready >= np.nan_to_num(demand)[..., None]) & scored[..., None]
        return [
            (float(s), float(c))
            for s, c in zip(served.sum(axis=(0, 1)) / scored.sum(), cost.sum(axis=(0, 1)), strict=True)
        ]

    planned = rows(ours["ready"][skip:], ours["cost"][skip:])
    each = 1 + len(CONFIDENCES)
    swept = {market: planned[m * each : (m + 1) * each] for m, market in enumerate(job.markets)}
    swept["on demand"] = rows(*(array[skip:] for array in _on_demand(job, ours)))
    hedged = rows(*(array[skip:] for array in _spot_hedge(job, ours, progress)))
    lanes = len(LEVELS)
    swept |= {f"skyserve +{extra}": hedged[e * lanes : (e + 1) * lanes] for e, extra in enumerate(EXTRA)}
    cheapest = np.stack([_cheapest(job, app) for app in job.apps], axis=1)[skip:]
    replicas = np.concatenate([ours["wanted"][:1], ours["wanted"][:-1]])[skip:].astype(float)
    swept["optimum"] = rows(replicas, replicas * cheapest[..., None])
    return _figures(swept, float(_least(demand, scored, cheapest)), planned[0])


def _figures(
    swept: Mapping[str, Sequence[tuple[float, float]]], knowing: float, own: tuple[float, float]
) -> dict[str, Any]:
    """The report, of each policy's realised shares and costs; knowing: cost of the optimum that knows the demand."""
    at = {name: at_share(points, TARGET) for name, points in swept.items()}
    single = {name.removeprefix(OWN): cost for name, cost in at.items() if name.startswith(OWN)}
    hedged = {name: cost for name, cost in at.items() if name.startswith("skyserve")}
    costs = {
        "leadtime": at[ALL_TIERS],
        "on_demand": at["on demand"],
        "best_single": _least_of(single.values()),
        "skyserve": _least_of(hedged.values()),
        "skyserve_default": hedged["skyserve +1"],
        "optimum": at["optimum"],
        "optimum_knowing_demand": knowing,
    }
    ratios = {
        f"cost_ratio_{name}": None if costs["leadtime"] is None or not cost else costs["leadtime"] / cost
        for name, cost in costs.items()
        if name != "leadtime"
    }
    return {
        "summary": {**ratios, "realised_share": own[0], "cost": own[1], "at_share": TARGET},
        "cost_at_share": costs | {f"{OWN}{name}": cost for name, cost in single.items()},
        "swept": {
            name: [{"realised_share": s, "cost": c} for s, c in points] for name, points in swept.items()
        },
    }


def _least_of(costs: Any) -> float | None:
    return min((cost for cost in costs if cost is not None), default=None)


def at_share(points: Sequence[tuple[float, float]], share: float) -> float | None:
    """Cost at a realised share, by interpolation between settings; None where none, or all, realise more.

    Args:
        points: realised share and cost of each setting; of several that realise as much the cheapest counts, and a
            setting that realises less than a cheaper one does not.
        share: to interpolate at.
    """
    kept: list[tuple[float, float]] = []
    for realised, cost in sorted(points, key=lambda point: (point[1], -point[0])):
        if not kept or realised > kept[-1][0]:
            kept.append((realised, cost))
    shares, costs = (np.array(of) for of in zip(*kept, strict=True))
    if not shares[0] <= share <= shares[-1]:
        return None
    return float(np.interp(share, shares, costs))


def _cheapest(job: Job, app: str) -> np.ndarray:
    """Price of a replica for the tick in the cheapest pool that gave some in it and in the one before; (tick)."""
    supply = job.supply
    assert supply is not None
    offers, size = job.offers[ALL_TIERS][app], capacity_of(job, app, ALL_TIERS)
    price = np.full(len(job.values) - job.plan_from, np.inf)
    for i in range(len(price)):
        tick = job.first_tick + job.plan_from + i
        for offer, carried in zip(offers, size.tolist(), strict=True):
            given = (
                offer.tier != "SPOT" or min(supply.room_of(offer.offer_id, t) for t in (tick - 1, tick)) > 0
            )
            if given and carried:
                price[i] = min(price[i], supply.price_of(offer, tick) / carried)
    return price * job.tick_s / 3600


def _least(demand: np.ndarray, scored: np.ndarray, cheapest: np.ndarray) -> float:
    """Least cost that serves the share TARGET of the app-ticks scored, for who knows demand and supply."""
    cost = np.sort((np.ceil(np.nan_to_num(demand)) * cheapest)[scored])
    return float(cost[: int(np.ceil(TARGET * cost.size))].sum())


def _spot_hedge(job: Job, ours: Arrays, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Ready replicas and cost of SkyServe's policy, (tick, app, lane): for each of EXTRA, each of LEVELS."""
    rows, lanes = range(job.plan_from, len(job.values)), len(EXTRA) * len(LEVELS)
    ready, cost = np.zeros((2, len(rows), len(job.apps), lanes))
    for a, app in enumerate(job.apps):
        cloud, policy = job.cloud(ALL_TIERS, app), job.policies[app]
        size = capacity_of(job, app, ALL_TIERS)
        hedge = SpotHedge(job.offers[ALL_TIERS][app], np.repeat(EXTRA, len(LEVELS)).tolist())
        fleet = cloud.start(job.starting[ALL_TIERS][app], lanes)
        for i, row in enumerate(rows):
            tick = job.first_tick + row
            cloud.live(fleet, tick)
            price = np.array([o.price_h for o in job.offers_at(ALL_TIERS, app, job.start_s(row))])
            ready[i, a], cost[i, a] = fleet.least @ size, fleet.hours @ price
            target = np.tile(ours["wanted"][i, a], len(EXTRA))
            now = _open_prices(job, app, row + 1)
            stopped = (fleet.failed > 0) | (fleet.interrupted > 0)
            waits = fleet.pending.sum(axis=-1) - fleet.failed
            desired = hedge.decide(_whole(target, size, policy), fleet.ready, waits, stopped, now)
            cloud.apply(fleet, desired, tick + 1, policy.drain_s)
            progress("SkyServe's policy", a * len(rows) + i + 1, len(job.apps) * len(rows))
    return ready, cost


def _on_demand(job: Job, ours: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Ready replicas and cost of LEVELS' replicas on the cheapest on-demand offer, (tick, app, lane)."""
    rows = range(job.plan_from, len(job.values))
    ready, cost = np.zeros((2, len(rows), len(job.apps), len(LEVELS)))
    for a, app in enumerate(job.apps):
        cloud, policy, size = job.cloud(ALL_TIERS, app), job.policies[app], capacity_of(job, app, ALL_TIERS)
        fleet = cloud.start(job.starting[ALL_TIERS][app], len(LEVELS))
        stable = [o for o, offer in enumerate(cloud.offers) if offer.tier == "ON_DEMAND"]
        for i, row in enumerate(rows):
            tick = job.first_tick + row
            cloud.live(fleet, tick)
            price = np.array([o.price_h for o in job.offers_at(ALL_TIERS, app, job.start_s(row))])
            ready[i, a], cost[i, a] = fleet.least @ size, fleet.hours @ price
            desired = np.zeros_like(fleet.ready)
            now = _open_prices(job, app, row + 1)
            desired[:, min(stable, key=lambda o: (now[o], o))] = _whole(ours["wanted"][i, a], size, policy)
            cloud.apply(fleet, desired, tick + 1, policy.drain_s)
    return ready, cost


def _open_prices(job: Job, app: str, row: int) -> np.ndarray:
    """Prices (offer) at the start of a row, infinite of on-demand offers whose provider is out."""
    supply, tick = job.supply, job.first_tick + row
    assert supply is not None
    return np.array(
        [
            np.inf if o.tier == "ON_DEMAND" and supply.is_out(o.provider, tick) else o.price_h
            for o in job.offers_at(ALL_TIERS, app, job.start_s(row))
        ]
    )


def _whole(replicas: np.ndarray, size: np.ndarray, policy: Policy) -> np.ndarray:
    """Nodes for numbers of replicas, at least the policy's minimum."""
    return -(-np.maximum(replicas, max(1, policy.min)) // int(size.max()))
