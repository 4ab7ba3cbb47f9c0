"""Plans as an allocator publishes them for the learner, without an allocator."""

from collections.abc import Iterator
from decimal import Decimal

import numpy as np

from models.learning.app_learner import EXPERTS
from models.learning.price_tail import PRICES
from models.metrics import DAY_S, horizon_steps
from pipeline.wire.codec import DEFAULT, Record

TICK_S = 300
DAY = DAY_S // TICK_S
FIRST = 6_000_000
"""Tick of the first plan, at the start of an epoch and not of a day."""


def plan(app: str, tick: int, need: float | None, forecast: float, **more: object) -> Record:
    """A plan whose tick's demand filled `need` replicas; the more a shortage costs, the more above `forecast` it needs.

    The policy's confidence needs what the dearest shortage does. Half a weight of the same time needs 15 % less.
    """
    spread = np.ceil(forecast + np.log(np.array(PRICES)) / 4)
    curves = {
        arm: np.ceil(spread * (1 - 0.3 * of.same_time)).astype(int).tolist() for arm, of in EXPERTS.items()
    }
    static = int(spread[-1])
    steps = [step * TICK_S for step in horizon_steps(TICK_S)]
    return {
        "plan_id": f"{app}@{tick}", "allocation_group": app, "app": app, "shard": 0, "seq": tick, "mode": "auto",
        "tick": tick, "tick_s": TICK_S, "confidence_asked": 0.99, "confidence_planned": 0.99, "steps": steps,
        "metrics": ["cpu"], "required": [[1.0]] * len(steps), "alpha": 0.99, "window": [steps[0], steps[-1]],
        "replicas": [1] * len(steps), "counts": [], "cost": Decimal(static) / 10, "cost_at": [], "reactive_floor": 1,
        "observed_generation": 0, "observed_tick": -1, "alternatives": [], "guardrails": [], "feasible": True,
        "reason": "", "commands_issued": 0, "seed": 7, "need": need,
        "versions": {
            "policy": f"{app}@1", "prices": ["kept@1", "plain@1", "spare@1"], "calendar": [], "model": "m@1",
            "adjustment": "", "group_policy": "",
        },
        "curve": {
            "confidences": [0.99], "prices": list(PRICES),
            "arms": [
                {"arm": arm, "wanted": [static, *of], "soon": [static, *of]} for arm, of in sorted(curves.items())
            ],
        },
    } | more  # fmt: skip


def days(apps: list[str], ticks: int, seed: int = 1) -> Iterator[Record]:
    """Plans of several apps, tick by tick, with demand that rises and falls with the day; some of it is not known."""
    draw = np.random.default_rng(seed)
    for tick in range(FIRST, FIRST + ticks):
        for number, app in enumerate(apps):
            level = 10 + 5 * number + 4 * np.sin(2 * np.pi * tick / DAY)
            need = float(level * np.exp(0.08 * draw.standard_normal()))
            yield plan(app, tick, None if tick % 50 == 7 else need, level)


def encoded(records: list[Record]) -> list[bytes]:
    return [DEFAULT.encode("plan", record) for record in records]
