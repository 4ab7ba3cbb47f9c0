"""Promotion gates: an app's plans are commanded only after enough of them have covered the demand that came.

A policy with gates names the furthest mode, `canary` or `auto`; the app begins in `shadow` and goes to `canary`, then
to `auto`. A decision is covered when the demand that came was within its `required` in all governed metrics and all
steps of its window; coverage is the share of covered decisions among the last `decisions`. An app goes one mode
further when coverage is at or above the gate and `decisions` decisions have been judged in its present mode; it goes
back to `shadow` when coverage falls below the gate. Gates, by name:

- `coverage`: the least share, above 0 and at most 1;
- `decisions`: the number of decisions, at most 10,000; 288 by default, a day of 5-minute ticks.

Gates change nothing for a policy whose mode is `shadow` or `paused`. Demand is usage, where a saturated user's counts
1.5 times; a decision for which a metric or tick was not measured, or too little of it was heard, is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.capacity import Policy, floor_demand

STAGES: Final = ("shadow", "canary", "auto")
COVERED, MISSED = "1", "0"


@dataclass(frozen=True)
class Promotion:
    """State of an app's promotion.

    mode: that applies now; furthest: the policy's mode; coverage: share of covered decisions, None = too few judged;
    decisions: number of judged ones that it is the share of.
    """

    mode: str
    furthest: str
    coverage: float | None
    decisions: int


def judge(
    policy: Policy,
    memory: Mapping[str, Any],
    metrics: Sequence[str],
    usage: NDArray[np.float64],
    saturated: NDArray[np.float64],
    tick: int,
) -> tuple[Promotion, dict[str, Any]]:
    """Compare past decisions with a tick's demand; returns the mode that follows and the gates' memory.

    Args:
        policy: with gates.
        memory: as `decided` returned it the tick before, {} at first.
        metrics: names, in the order of usage.
        usage: (metric) of the tick, NaN = not measured.
        saturated: (metric) the part of it by saturated users.
        tick: its number.
    """
    demand = dict(zip(metrics, floor_demand(usage, saturated).tolist(), strict=True))
    gate, least = policy.promotion_gates["coverage"], policy.least_decisions
    stage, since = int(memory.get("stage", 0)), int(memory.get("since", 0))
    outcomes, pending = str(memory.get("outcomes", "")), list[dict[str, Any]]()
    for decision in memory.get("pending", []):
        # by metric and tick, what was required; a tick that was skipped was not measured
        good, measured = decision["good"], True
        for metric, curve in decision["required"].items():
            if str(tick) in curve:
                good = good and demand.get(metric, np.nan) <= curve[str(tick)]
                measured = measured and bool(np.isfinite(demand.get(metric, np.nan)))
        measured = measured and not decision["next"] < tick
        ahead = sorted(int(t) for curve in decision["required"].values() for t in curve if int(t) > tick)
        if measured and ahead:
            pending.append(decision | {"good": good, "next": ahead[0]})
        elif measured:
            outcomes, since = (outcomes + (COVERED if good else MISSED))[-least:], since + 1
    enough = len(outcomes) >= least
    coverage = outcomes.count(COVERED) / len(outcomes) if enough else None
    if coverage is not None and coverage < gate:
        stage, since = 0, since if stage == 0 else 0
    elif coverage is not None and since >= least and stage + 1 < len(STAGES):
        stage, since = stage + 1, 0
    mode = policy.mode
    if mode in STAGES:
        stage = min(stage, STAGES.index(mode))
        mode = STAGES[stage]
    after: dict[str, Any] = {
        "stage": stage,
        "since": min(since, least),
        "outcomes": outcomes,
        "pending": pending,
    }
    return Promotion(mode, policy.mode, coverage, len(outcomes)), after


def decided(
    memory: Mapping[str, Any],
    required: NDArray[np.float32],
    metrics: Sequence[str],
    promised: Sequence[int],
    ticks: Sequence[int],
    steps: slice,
) -> dict[str, Any]:
    """The gates' memory with one more decision, to be judged by the ticks of its window.

    required: (step, metric) demand to be met; promised: indices in `metrics` of the governed ones; ticks: number of
    each step's tick; steps: of the window.
    """
    window = range(*steps.indices(len(ticks)))
    curves = {metrics[m]: {str(ticks[s]): float(required[s, m]) for s in window} for m in promised}
    if not curves:
        return dict(memory)
    new = {"required": curves, "good": True, "next": ticks[window[0]]}
    return {**memory, "pending": [*memory["pending"], new]}
