"""The input of a simulation, and the state of an app in it: simulated cloud, fleets, guard rails' memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from models.capacity import Answer, Observed, Offer, Policy, replicas_per_instance
from models.evaluation.simulated_cloud import Fleet, SimulatedCloud, Terms
from models.evaluation.supplied_cloud import SuppliedCloud, Supply
from models.metrics import DAY_S, METRICS, horizon_steps
from models.supply.offers import learnt
from pipeline.stages.allocator.pool import Pool

Arrays = dict[str, np.ndarray]
TIERS: Final = ("RESERVED", "ON_DEMAND", "SPOT")
NOTHING: Final = np.zeros((0, 0, len(METRICS)), np.float32)


@dataclass(frozen=True)
class Job:
    """Input of a simulation: consecutive ticks of users, the apps they make, and how these are planned.

    Attributes:
        values, events, saturated: (tick, user, ...), see `pipeline.traces.trace_file.Panel`.
        ids: (user) pseudonyms.
        first_tick, tick_s: number of the first row's tick, and its length.
        members: app -> columns of its users.
        policies, offers, terms, starting: by app; of each market (a name -> offers) with instances to begin with.
        lanes: (market, confidence or None for the policy's), the first of each market the default.
        levels: confidences at which the replicas that the scenarios need are kept, for a sweep.
        shortages: likewise, prices of an hour's shortage in those of a replica (`models.planning.shortage_price`).
        learn_from, plan_from: rows from which scenarios are made and learnt from, and from which plans are made.
        every: plan every so many ticks.
        ends: unix seconds in which an offer's commitment ends, by offer; for others there is none.
        before: (tick, app by name, metric) totals of the rows before the first: history for rivals and experts.
        experts: weight of the expert "same time of the last 14 days" by app (`models.demand.same_time`); none: 0.
        learner: "off"; "on": `pipeline.backtest.learners` steers the first lane; "both": likewise, and the second lane
            is the plan without it.
        pool: that the apps share beside their own instances, in `members` as one more app; None: there is none.
        supply: what spot pools give and cost; None: simulated by the offers' own figures.
    """

    values: np.ndarray
    events: np.ndarray
    saturated: np.ndarray
    ids: Sequence[bytes]
    first_tick: int
    tick_s: int
    members: Mapping[str, np.ndarray]
    policies: Mapping[str, Policy]
    offers: Mapping[str, Mapping[str, Sequence[Offer]]]
    terms: Mapping[str, Terms]
    starting: Mapping[str, Mapping[str, Mapping[str, int]]]
    lanes: Sequence[tuple[str, float | None]]
    levels: Sequence[float]
    learn_from: int
    plan_from: int
    scenarios: int = 4_096
    every: int = 1
    seed: int = 0
    draft: bool = True
    shortages: Sequence[float] = ()
    ends: Mapping[str, float] = field(default_factory=dict[str, float])
    learner: str = "off"
    before: np.ndarray = field(default_factory=lambda: NOTHING)
    experts: Mapping[str, float] = field(default_factory=dict[str, float])
    pool: Pool | None = None
    supply: Supply | None = None

    @property
    def apps(self) -> list[str]:
        """By name."""
        return sorted(self.members)

    @property
    def markets(self) -> list[str]:
        """Those of the lanes, the first one's first."""
        return list(dict.fromkeys(market for market, _ in self.lanes))

    @property
    def swept(self) -> int:
        """Settings of the sweep: levels, then shortages."""
        return len(self.levels) + len(self.shortages)

    @property
    def rows(self) -> int:
        """Users and apps' totals: what a tick steps at most."""
        return len(self.ids) + len(self.members)

    def part(self, apps: Sequence[str]) -> Job:
        """Some of the apps, with their users alone."""
        users = np.unique(np.concatenate([self.members[app] for app in apps]))
        return replace(
            self,
            values=self.values[:, users],
            events=self.events[:, users],
            saturated=self.saturated[:, users],
            ids=[self.ids[u] for u in users],
            members={app: np.searchsorted(users, self.members[app]) for app in apps},
            before=self.before[:, [self.apps.index(app) for app in apps]] if len(self.before) else NOTHING,
        )

    def plans(self, row: int) -> bool:
        """Whether a row ends with plans."""
        return row >= self.plan_from and (row - self.plan_from) % self.every == 0

    def ends_day(self, row: int) -> bool:
        """Whether a day, or all, ends before a row."""
        return row % max(1, DAY_S // self.tick_s) == 0 or row == len(self.values)

    def offers_at(self, market: str, app: str, now_s: float) -> list[Offer]:
        """An app's offers at a time, at its prices: a commitment that has ended owns nothing and cannot be used."""
        tick = int(now_s // self.tick_s)
        offers = [
            offer if self.supply is None else replace(offer, price_h=self.supply.price_of(offer, tick))
            for offer in self.offers[market][app]
        ]
        return [
            replace(offer, owned_count=0, ended="its commitment ended")
            if self.ends.get(offer.offer_id, np.inf) <= now_s
            else offer
            for offer in offers
        ]

    def cloud(self, market: str, app: str) -> SimulatedCloud:
        """The simulated cloud of an app in a market."""
        offers, tick_s, seed = self.offers[market][app], self.tick_s, self.seed
        if self.supply is None:
            return SimulatedCloud(offers, self.terms, tick_s=tick_s, seed=seed, app=app)
        return SuppliedCloud(offers, self.terms, self.supply, tick_s=tick_s, seed=seed, app=app)

    def start_s(self, row: int) -> int:
        """Unix seconds in which a row's tick starts."""
        return (self.first_tick + row) * self.tick_s

    @property
    def steps(self) -> tuple[int, ...]:
        """Ticks ahead of each step."""
        return tuple(horizon_steps(self.tick_s))


def capacity_of(job: Job, app: str, market: str) -> np.ndarray:
    """(offer) replicas that an instance carries."""
    return np.array([replicas_per_instance(o, job.policies[app]) for o in job.offers[market][app]], np.int64)


def tiers_of(offers: Sequence[Offer]) -> np.ndarray:
    """(offer, tier) 1 where an offer is of a tier, by TIERS."""
    return np.array([[offer.tier == tier for tier in TIERS] for offer in offers], np.float64)


def owned_of(offers: Sequence[Offer]) -> np.ndarray:
    """(offer) instances that are paid for already."""
    return np.array([offer.owned_count for offer in offers], np.int64)


class AppLanes:
    """One app's lanes in one market: its simulated cloud, its fleets, and the guard rails' memory of each lane.

    Attributes:
        offers: as of the last `end_commitments`.
        size: (offer) replicas that an instance carries.
        confidences: (lane).
        fleet, memory, desired: instances, guard rails' memory and desired counts (lane, offer).
        reported: (lane, offer, 4) ready, pending, failed, interrupted, as the lane's actuator reported last.
        price, tiers: (offer) per hour; (offer, tier) 1 where an offer is of a tier.
    """

    def __init__(self, job: Job, app: str, market: str, confidences: Sequence[float | None]) -> None:
        self._job, self._app, self._market = job, app, market
        self.policy = job.policies[app]
        self.size = capacity_of(job, app, market)
        self.confidences = [c if c is not None else self.policy.confidence for c in confidences]
        self.offers = job.offers[market][app]
        self.cloud = job.cloud(market, app)
        self.end_commitments(job.start_s(0))
        self.fleet = self.cloud.start(job.starting[market][app], len(confidences))
        self.memory: list[dict[str, Any]] = [{} for _ in confidences]
        self.desired = self.fleet.running
        self.reported, self.reported_s = self._now(), float(job.start_s(job.plan_from))
        self.tiers = tiers_of(self.offers)

    def end_commitments(self, now_s: float) -> None:
        """Offers as of a time: commitments that have ended are neither planned with nor billed from then on."""
        self.offers = self._job.offers_at(self._market, self._app, now_s)
        self.price = np.array([o.price_h for o in self.offers])
        self.cloud.owned = owned_of(self.offers)

    def learnt(self, lane: int) -> list[Offer]:
        """The offers as a lane has found them to be."""
        return learnt(self.offers, self.memory[lane].get("supply", {}))

    def follow(self, tick: int) -> None:
        """Apply what is desired at the start of a tick, and report what runs then: the next plan's observation."""
        self.cloud.apply(self.fleet, self.desired, tick, self.policy.drain_s)
        self.reported, self.reported_s = self._now(), float(tick * self._job.tick_s)

    def _now(self) -> np.ndarray:
        fleet = self.fleet
        waits = np.maximum(fleet.pending.sum(axis=-1) - fleet.failed, 0)
        return np.stack([fleet.ready, waits, fleet.failed, fleet.interrupted], axis=-1)

    def observed(self, lane: int) -> dict[str, Observed]:
        """What the lane's actuator reported last, by offer."""
        names = ("ready", "pending", "failed", "interrupted")
        return {
            offer.offer_id: Observed(
                **dict(zip(names, self.reported[lane, o].tolist(), strict=True)),
                at_s=self.reported_s,
                answer=self._answer(lane, offer),
            )
            for o, offer in enumerate(self.offers)
        }

    def _answer(self, lane: int, offer: Offer) -> Answer | None:
        """What the actuator says of the newest command while the provider is out; None: the counts say it."""
        supply, sent = (
            self._job.supply,
            self.memory[lane].get("orders", {}).get(offer.offer_id, {}).get("sent"),
        )
        if (
            not sent
            or supply is None
            or not supply.is_out(offer.provider, int(self.reported_s // self._job.tick_s))
        ):
            return None
        return Answer(sent[-1][0], "RETRYING", "the provider does not answer")

    def blocks(self) -> Arrays:
        """For a snapshot."""
        return {
            "reported": self.reported,
            "reported_s": np.array(self.reported_s),
            "memory": np.frombuffer(json.dumps(self.memory).encode(), np.uint8),
            "desired": self.desired,
            **{f.name: getattr(self.fleet, f.name) for f in fields(Fleet)},
        }

    def restore(self, blocks: Arrays) -> None:
        """Continue from a snapshot."""
        self.memory, self.desired = json.loads(blocks["memory"].tobytes()), blocks["desired"].copy()
        self.reported, self.reported_s = blocks["reported"], float(blocks["reported_s"])
        self.fleet = Fleet(**{f.name: blocks[f.name].copy() for f in fields(Fleet)})
