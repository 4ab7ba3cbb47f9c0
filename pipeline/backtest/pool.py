"""Apps that share nodes: what their replicas ask for together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.capacity import Policy, replica_loads, replicas
from models.evaluation import need
from models.metrics import METRICS


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
        return cls(apps, [policies[app] for app in apps], np.array(size))

    @property
    def resources(self) -> tuple[str, ...]:
        """Metrics that some replica asks for, in the order of METRICS."""
        return tuple(METRICS[m] for m in np.flatnonzero(self.size.any(axis=0)))

    def used(self, usage: np.ndarray) -> np.ndarray:
        """What the apps' whole replicas ask for, (tick, METRICS); NaN where an app was not measured that was before.

        Args:
            usage: (tick, app, METRICS).
        """
        filled = need.filled(usage, self.policies)
        whole = [
            np.where(np.isnan(of).all(axis=-1), np.nan, replicas(np.nan_to_num(of), policy))
            for of, policy in zip(np.moveaxis(filled, 1, 0), self.policies, strict=True)
        ]
        asked_of = np.stack(whole, axis=1)
        asked_of[np.logical_and.accumulate(np.isnan(asked_of), axis=0)] = 0.0
        asked = asked_of @ self.size
        return np.where(self.size.any(axis=0), asked, np.nan)

    def scenarios(self, demands: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> np.ndarray:
        """Scenarios of what the apps ask for, (scenario, step, resource).

        Args:
            demands: by app its demand (scenario, step, metric) and the metrics' names; an app that is absent asks for
                nothing.
        """
        index = [METRICS.index(metric) for metric in self.resources]
        asked = 0.0
        for app, policy, size in zip(self.apps, self.policies, self.size[:, index], strict=True):
            if app in demands:
                demand, metrics = demands[app]
                asked = asked + replicas(replica_loads(demand, metrics, policy), policy)[..., None] * size
        return np.asarray(asked, np.float32)


def _size(policy: Policy, metric: str) -> float:
    given = metric in policy.unit or (metric == "requests" and policy.rps_per_replica is not None)
    return policy.size(metric) if given else 0.0
