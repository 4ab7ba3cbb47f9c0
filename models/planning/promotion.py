"""Promotion gates: an app commands only when its plans, measured, have been good enough.

A policy with gates names the furthest mode, `canary` or `auto`; the app begins in `shadow` and goes to `canary`, then
to `auto`. A decision is covered when the demand that came was within its `required`, in all governed metrics and
all steps of its window; coverage is the share of the last `decisions` decisions that were. An app goes one mode
further when coverage is at or above the gate and as many decisions have been judged in its present mode, and back
to `shadow` when it falls below. Gates, by name:

- `coverage`: the share, above 0 and at most 1;
- `decisions`: how many, at most 10,000; without it 288, a day of 5-minute ticks.

`shadow` and `paused` are what they are, with gates or without. Demand is usage, of saturated users 1.5 times; a
decision of which something was not measured is not judged.
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
    """Where an app stands: its mode now, the policy's, the coverage (None = too few decisions), of how many."""

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
    """Measure past decisions by a tick's demand, and the mode that follows.

    memory: as `decided` gave it the tick before, {} at first; usage, saturated: (metric), by `metrics`, NaN = not
    measured.
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
    """The memory with one more decision to judge.

    required: (step, metric); promised: governed metrics, of `metrics`; ticks: each step's; steps: of the window.
    """
    window = range(*steps.indices(len(ticks)))
    curves = {metrics[m]: {str(ticks[s]): float(required[s, m]) for s in window} for m in promised}
    if not curves:
        return dict(memory)
    new = {"required": curves, "good": True, "next": ticks[window[0]]}
    return {**memory, "pending": [*memory["pending"], new]}
