"""Plans of one app from a plain forecaster of its total, for trials of the learner that take seconds.

All but the network is as in the stream: reconciliation with its online correction and bounds, the expert "same time of
the last 14 days", and the replicas needed at each price. In place of the network's scenarios stand

    y(t+h) = exp(s(slot of t+h) + r(t)) * exp(e_h),   r(t) = r(t-1) / 2 + (log y(t) - s(slot of t)) / 2

with s the exponentially weighted mean of log y at the same time of the day, and (e_1 ... e_6) the errors of each
earlier forecast of the last RESIDUALS_S, paths as a whole. Nothing later than t is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Offer, Policy
from models.demand import reconciliation, same_time
from models.learning import need_curve
from models.learning.app_learner import EXPERTS, Observation
from models.metrics import DAY_S, METRICS, STEPS, horizon_steps
from models.planning.allocate import DecisionContext, promised
from models.planning.guardrails import Telemetry
from models.planning.past_need import past
from models.quantile_function import LEVELS, QuantileFunction

RESIDUALS_S: Final = 2.0 * DAY_S
SEASON_GAIN: Final = 0.5
"""Weight of a day in the mean of its time."""
METRIC: Final = "cpu"
NO_TOTAL: Final = QuantileFunction(
    np.full((1, STEPS), np.nan, np.float32),
    np.ones((1, STEPS), np.float32),
    np.zeros((1, STEPS, LEVELS), np.float16),
)
"""The total has no forecast of its own."""

Array = NDArray[np.float64]


class Forecaster:
    """The module's formula for one series.

    Args:
        tick_s: length of a tick in seconds.
    """

    def __init__(self, tick_s: int) -> None:
        self.steps = np.array(horizon_steps(tick_s))
        self.season = np.full(DAY_S // tick_s, np.nan)
        self.kept = int(RESIDUALS_S // tick_s)
        self.level, self.now = 0.0, -1
        self.centres: list[Array] = []
        self.values: list[float] = []

    def scenarios(self, value: float) -> NDArray[np.float32]:
        """Scenarios (scenario, step) of the ticks to come, after a tick's demand; empty for the first horizon."""
        self.now += 1
        slots, day = (self.now + np.append(0, self.steps)) % len(self.season), len(self.season)
        log = float(np.log(max(value, 1e-9)))
        usual = log if self.now == 0 else float(np.nanmean(self.season))
        season = np.where(np.isnan(self.season[slots]), usual, self.season[slots])
        self.level = 0.5 * self.level + 0.5 * (log - season[0]) if self.now else 0.0
        self.values = [*self.values, log][-self.kept - self.steps[-1] :]
        self.centres = [*self.centres, season[1:] + self.level][-self.kept - self.steps[-1] :]
        known = self.season[self.now % day]
        self.season[self.now % day] = log if np.isnan(known) else known + SEASON_GAIN * (log - known)
        past = len(self.values) - self.steps[-1]
        if past <= 0:
            return np.zeros((0, len(self.steps)), np.float32)
        outcomes = np.array(self.values)[np.arange(past)[:, None] + self.steps]
        errors = outcomes - np.array(self.centres[:past])
        return np.exp(self.centres[-1] + errors).astype(np.float32)


class PlainPlans:
    """Plans of one app, tick by tick.

    Args:
        policy: of the app, with a replica of one METRIC.
        offers: that can be bought; may be replaced between two ticks.
        tick_s: length of a tick in seconds.
    """

    def __init__(self, policy: Policy, offers: Sequence[Offer], tick_s: int) -> None:
        self.policy, self.offers, self.tick_s = policy, offers, tick_s
        self.forecaster = Forecaster(tick_s)
        self.state, self.common = reconciliation.initial_state(), reconciliation.initial_common()
        self.history = same_time.initial_state(tick_s)

    def after(self, tick: int, value: float, plans: bool = True) -> Observation | None:
        """Learn from a tick's demand in units of METRIC, and plan; None while nothing can be planned."""
        steps = horizon_steps(self.tick_s)
        index = METRICS.index(METRIC)
        usage = np.full(len(METRICS), np.nan)
        usage[index] = value
        self.state, self.common = reconciliation.observe(
            self.state, self.common, usage, usage, tick, self.tick_s
        )
        self.history = same_time.observe(self.history, usage, tick, self.tick_s)
        scenarios = self.forecaster.scenarios(value)
        if not plans or len(scenarios) < 2:
            return None
        steps_s = tuple(step * self.tick_s for step in steps)
        window, governed = promised(self.offers, self.policy, steps_s, (METRIC,))
        same_times = tuple(dict.fromkeys(weights.same_time for weights in EXPERTS.values()))
        quantiles = same_time.quantiles(self.history, tick, steps, self.tick_s)
        experts = reconciliation.Experts(quantiles, same_times)
        decision = reconciliation.Decision(
            [index],
            [index for _ in governed],
            window,
            self.policy.confidence,
            tick,
            self.tick_s,
            experts,
        )
        demands, self.state = reconciliation.reconcile_each(
            scenarios[..., None], NO_TOTAL, self.state, self.common, decision
        )
        used, none = usage[[index]], np.zeros(1)
        now_s = float((tick + 1) * self.tick_s)
        context = DecisionContext(
            demands[0], (METRIC,), steps_s, used, none, Telemetry(1, 1), now_s, 0, b"", tick
        )
        of_weight = dict(zip(same_times, demands, strict=True))
        history = past(self.history, usage, self.policy, window, self.tick_s)
        contexts = {
            weights: replace(
                context,
                demand=of_weight[weights.same_time],
                past=history.weighted(weights.recent, weights.persistence),
            )
            for weights in EXPERTS.values()
        }
        curve = need_curve.of(contexts, self.offers, self.policy)
        return Observation(tick, float(np.ceil(value - 1e-9)), np.nan, *need_curve.by_arm(curve))
