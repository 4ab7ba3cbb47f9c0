"""Settings of an app's plans that the learner may choose, and the ranges that they must keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from models.capacity import ROUNDING, Policy

STATIC: Final = "static"
"""Name of the arm that does what the policy asks for."""


class ExpertWeights(NamedTuple):
    """Weights, in 0 to 1 and at most 1 together, by which forecasts of an app's need are averaged; the default is
    static's.

    `same_time` is averaged into the quantiles of the app's total (`models.demand.reconciliation`), `persistence` and
    `recent` into the replicas that these give (`models.planning.past_need`).

    Attributes:
        network: of the network's mixture.
        persistence: of the last value with its residuals.
        same_time: of the same time of the last 14 days.
        recent: of what the last day needed, whatever the time.
    """

    network: float = 1.0
    persistence: float = 0.0
    same_time: float = 0.0
    recent: float = 0.0


@dataclass(frozen=True)
class Adjustment:
    """Settings of an app's plans, by the name of the arm that has them.

    Attributes:
        arm: name of the settings among those that the learner compares.
        confidence: share of the scenarios that a plan serves.
        shortage_price: of an hour's shortage, in prices of a replica-hour; None = as the policy says.
        hold_s: before a release, in seconds; None = the policy's.
        supply: share of the outcomes of supply in which what is bought suffices; None = not apart from `confidence`.
        experts: weights of the forecasts that an app's total is averaged from.
        speed: factor of the gains by which forecasts adapt; 1 = as without a learner.
    """

    arm: str
    confidence: float
    shortage_price: float | None = None
    hold_s: float | None = None
    supply: float | None = None
    experts: ExpertWeights = field(default_factory=ExpertWeights)
    speed: float = 1.0

    @classmethod
    def static(cls, policy: Policy) -> Adjustment:
        """What the policy asks for, as without a learner."""
        return cls(STATIC, policy.confidence)

    def fault(self, policy: Policy) -> str | None:
        """What may not be followed under a policy, as the setting, its range and its value; None: all may."""
        shortest, longest = policy.hold_bounds
        price, hold_s, supply, total = self.shortage_price, self.hold_s, self.supply, sum(self.experts)
        rules = [
            (self.arm != "", "arm must not be empty"),
            (0 < self.confidence < 1, f"confidence must be above 0 and below 1, got {self.confidence}"),
            (
                price is None or 0 <= price < math.inf,
                f"shortage_price must be finite and at least 0, got {price}",
            ),
            (
                hold_s is None or shortest <= hold_s <= longest,
                f"hold_s must be {shortest:g} to {longest:g} seconds, got {hold_s}",
            ),
            (supply is None or 0 < supply < 1, f"supply must be above 0 and below 1, got {supply}"),
            *(
                (0 <= weight <= 1, f"weight of {expert} must be in 0 to 1, got {weight}")
                for expert, weight in self.experts._asdict().items()
            ),
            (total <= 1 + ROUNDING, f"weights of the experts must be at most 1 together, got {total}"),
            (0 < self.speed < math.inf, f"speed must be finite and above 0, got {self.speed}"),
        ]
        return next((message for holds, message in rules if not holds), None)
