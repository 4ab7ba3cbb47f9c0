"""Apps that share nodes: what their replicas ask for together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.baselines.autoscalers.registry import largest
from models.capacity import Offer, Policy, replica_loads, replicas
from models.evaluation import need
from models.metrics import METRICS
from models.nodes import app_dependence
from models.nodes.joint_need import Demand
from models.nodes.packing import Nodes, Replicas
from models.planning.allocate import DecisionContext
from models.purchase.constraints import zone_of


@dataclass(frozen=True)
class Pool:
    """The pool of a job's apps.

    Attributes:
        apps: on it, by name.
        policies: of these.
        size: (app, METRICS) what a replica asks for.
    """

    apps: Sequence[str]
    policies: Sequence[Policy]
    size: np.ndarray

    @classmethod
    def of(cls, policies: Mapping[str, Policy]) -> Pool:
        """The pool of apps with these policies."""
        apps = sorted(policies)
        size = [[_size(policies[app], metric) for metric in METRICS] for app in apps]
        return cls(apps, [policies[app] for app in apps], np.array(size).reshape(len(apps), len(METRICS)))

    @property
    def resources(self) -> tuple[str, ...]:
        """Metrics that some replica asks for, in the order of METRICS."""
        return tuple(METRICS[m] for m in np.flatnonzero(self.size.any(axis=0)))

    @property
    def requests(self) -> np.ndarray:
        """(app, resource) what a replica asks for, by `resources`."""
        return self.size[:, self.size.any(axis=0)]

    @property
    def replicas(self) -> Replicas:
        """What a replica of each app asks for, and where its replicas may be."""
        priority = np.array([policy.priority for policy in self.policies], np.int64)
        share = [1.0 if policy.zone_share is None else policy.zone_share for policy in self.policies]
        return Replicas(self.resources, self.requests, priority, np.array(share, np.float64))

    def nodes(self, offers: Sequence[Offer], counts: np.ndarray) -> Nodes:
        """So many nodes of each offer, (offer), in their zones."""
        zones = sorted({zone_of(offer) for offer in offers})
        zone = np.array([zones.index(zone_of(offer)) for offer in offers], np.int64)
        return Nodes.of(np.asarray(counts, np.int64), self.room(offers), zone)

    def room(self, nodes: Sequence[Offer]) -> np.ndarray:
        """(node, resource) what each offer has for replicas, by `resources`; of what it does not name, infinite."""
        room = [[node.allocatable.get(metric, np.inf) for metric in self.resources] for node in nodes]
        return np.array(room, np.float64).reshape(len(nodes), len(self.resources))

    def filled(self, usage: np.ndarray) -> np.ndarray:
        """Replicas, not whole, that usage (tick, app, METRICS) fills, (tick, app); NaN: not measured."""
        return largest(need.filled(usage, self.policies))

    def whole(self, usage: np.ndarray) -> np.ndarray:
        """Whole replicas that usage (tick, app, METRICS) fills, (tick, app).

        NaN where an app was not measured; 0 before it was for the first time.
        """
        filled = np.moveaxis(need.filled(usage, self.policies), 1, 0)
        whole = np.stack(
            [
                np.where(np.isnan(of).all(axis=-1), np.nan, replicas(np.nan_to_num(of), policy))
                for of, policy in zip(filled, self.policies, strict=True)
            ],
            axis=1,
        )
        whole[np.logical_and.accumulate(np.isnan(whole), axis=0)] = 0.0
        return whole

    def used(self, usage: np.ndarray) -> np.ndarray:
        """What the apps' whole replicas ask for, (tick, METRICS), of usage (tick, app, METRICS); NaN as of `whole`."""
        return np.where(self.size.any(axis=0), self.whole(usage) @ self.size, np.nan)


class PairedApps:
    """Scenarios of what the apps of a pool ask for together, paired as the apps have been high together.

    What is learnt from a decision counts when its window has passed; until then no other is scored, for scores of
    windows that overlap tell little more than one.

    Args:
        pool: of the apps.
        seed: of the installation.
    """

    def __init__(self, pool: Pool, seed: int) -> None:
        self.pool, self.seed = pool, seed
        self.state = app_dependence.initial_state(len(pool.apps))
        self.ticks = np.zeros(0, np.int64)  # that a decision is scored by
        self.load, self.came = np.zeros((len(pool.apps), 0), np.float32), np.zeros(len(pool.apps))

    def moved(self, pool: Pool) -> PairedApps:
        """What was learnt, of a pool whose apps joined, left or changed their replicas."""
        if tuple(pool.apps) == tuple(self.pool.apps):
            self.pool = pool
            return self
        known = {app: a for a, app in enumerate(self.pool.apps)}
        after = PairedApps(pool, self.seed)
        after.state = app_dependence.moved(
            self.state, np.array([known.get(app, -1) for app in pool.apps], np.int64)
        )
        return after

    def observe(self, tick: int, filled: np.ndarray) -> None:
        """Learn from a tick that has passed; filled: (app) replicas that its demand filled, as `Pool.filled`."""
        if tick in self.ticks:
            self.came = np.maximum(self.came, filled)
        if len(self.ticks) and tick >= self.ticks[-1]:
            if tick == self.ticks[-1]:  # else a tick was not planned
                scores = app_dependence.normal_scores(self.load, self.came)
                self.state = app_dependence.learn(self.state, scores)
            self.ticks = self.ticks[:0]

    def demand(
        self, tick: int, contexts: Mapping[str, DecisionContext], window: slice, steps: Sequence[int]
    ) -> Demand:
        """What the apps ask for, whose scenarios are those of the pool.

        Args:
            tick: number of the tick at whose end is decided.
            contexts: of the apps' own decisions; one that is absent asks for nothing.
            window: steps that the pool's promise covers.
            steps: ticks ahead of each step.
        """
        pool = self.pool
        shape = max(context.demand.shape[:2] for context in contexts.values())
        whole = np.zeros((len(pool.apps), *shape), np.int32)
        load = np.zeros((len(pool.apps), shape[0]), np.float32)
        came = np.full(len(pool.apps), np.nan)
        for a, (app, policy) in enumerate(zip(pool.apps, pool.policies, strict=True)):
            if app in contexts:
                loads = replica_loads(contexts[app].demand, contexts[app].metrics, policy)
                if len(loads) < shape[0]:  # of an app without users
                    loads = np.resize(loads, (shape[0], *loads.shape[1:]))
                whole[a] = replicas(loads, policy)
                load[a] = loads[:, window].max(axis=(1, 2), initial=0.0)
                came[a] = 0.0
        if not len(self.ticks):
            self.ticks, self.load, self.came = tick + np.array(steps)[window], load, came
        dependence = app_dependence.estimate(self.state)
        order = app_dependence.paired(load, dependence, (self.seed, b"shared nodes", tick))
        return Demand(whole, order, pool.requests)

    def blocks(self) -> dict[str, np.ndarray]:
        """For a snapshot."""
        return {
            "pairs.ticks": self.ticks,
            "pairs.load": self.load,
            "pairs.came": self.came,
            **{f"pairs.state.{name}": array for name, array in self.state.items()},
        }

    def restore(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Continue from a snapshot."""
        self.ticks, self.load, self.came = (blocks[f"pairs.{name}"] for name in ("ticks", "load", "came"))
        self.state = {name: blocks[f"pairs.state.{name}"] for name in self.state}


def _size(policy: Policy, metric: str) -> float:
    given = metric in policy.unit or (metric == "requests" and policy.rps_per_replica is not None)
    return policy.size(metric) if given else 0.0
