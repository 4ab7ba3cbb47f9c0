"""A backtest's outcomes of any number of apps and days, ranked and stated by the functions that a real one is."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.baselines.autoscalers.registry import KNOBS
from models.capacity import Policy
from models.evaluation.simulated_cloud import Terms
from models.metrics import METRICS
from pipeline.backtest import comparison, figures
from pipeline.backtest.baselines import SUPPLY
from pipeline.backtest.comparison import Comparison
from pipeline.backtest.job import TIERS, Arrays, Job

TICK_S = 3_600
DAY = 24
FIRST = 430_752  # 2019-02-21 00:00 UTC, in hours
RIVALS = tuple(KNOBS)
LONG = "a-service-with-a-name-as-long-as-a-label-of-kubernetes-may-be-x"
LEVELS = (0.5, 0.9, 0.99, 0.999)

# Cost of a replica-hour: below 1 the policy's purchases are cheaper than the others'
Rates = dict[str, float]


def outcome(
    apps: int, days: int, rates: Rates | None = None, names: tuple[str, ...] = RIVALS, seed: int = 0
) -> tuple[Job, Arrays, Comparison, dict[str, Any]]:
    """Job, our outcomes, ranked outcomes and the report of policies that follow a noisy daily rhythm of demand.

    Args:
        apps: their number; the first has a name of 63 characters.
        days: of 24 ticks.
        rates: cost of a replica-hour by policy, in those of the rest.
        names: of the rivals; none: our plans alone.
        seed: of demand.
    """
    rng = np.random.default_rng(seed)
    ticks = days * DAY
    app_names = [f"service-{i:02}" for i in range(apps)]
    app_names[0] = LONG
    hours = np.arange(ticks)[:, None]
    rhythm = 12 + 8 * np.sin(2 * np.pi * (hours / DAY + rng.random(apps)))
    demand = np.maximum(rhythm * rng.lognormal(0, 0.18, (ticks, apps)), 0.5)
    values = np.zeros((ticks, apps, len(METRICS)), np.float32)
    values[..., METRICS.index("cpu")] = demand
    job = Job(
        values=values,
        events=np.zeros((ticks, apps, 1), np.float32),
        saturated=np.zeros(values.shape, bool),
        ids=[str(i).encode() for i in range(apps)],
        first_tick=FIRST,
        tick_s=TICK_S,
        members={app: np.array([i]) for i, app in enumerate(app_names)},
        policies={app: Policy(app, ("cpu",), {"cpu": 1.0}) for app in app_names},
        offers={market: {app: [] for app in app_names} for market in ("tiers", "on_demand")},
        terms={market: Terms() for market in ("tiers", "on_demand")},
        starting={},
        lanes=(("tiers", None),),
        levels=LEVELS if names else (),
        learn_from=0,
        plan_from=0,
    )
    margin = {name: np.append(0.4, np.linspace(-0.2, 0.9, len(KNOBS[name].sweep))) for name in names}
    ours = np.array([0.2, 0.0, 0.2, 0.5, 0.8])

    def lanes(margins: np.ndarray, sharp: float, rate: float) -> Arrays:
        """Replicas that follow the rhythm (sharp 0) or demand itself (1), plus a margin, at a price each."""
        base = (1 - sharp) * rhythm + sharp * demand
        ready = np.ceil(base[..., None] * (1 + margins))
        return {"ready": ready, "asked": ready, "cost": 0.04 * rate * ready}

    def bought(name: str, market: str) -> float:
        return (1.0 if market == "tiers" else 2.1) * (rates or {}).get(name, 1.0)

    def tiered(cost: np.ndarray) -> np.ndarray:
        shares = dict(zip(("RESERVED", "ON_DEMAND", "SPOT"), (0.2, 0.2, 0.6), strict=True))
        return np.stack([cost * shares[tier] for tier in TIERS], axis=-1)

    own = lanes(ours[:1], 0.55, bought("leadtime", "tiers"))
    window = np.zeros((ticks, apps, 2), np.int64)
    window[..., 1] = 1
    plan = np.ones((ticks, apps, 3))
    plan[..., 0] = 0.99
    seen = own | {
        "tiers": tiered(own["cost"]),
        "band": np.stack([0.7 * rhythm, rhythm, 1.4 * rhythm], axis=-1),
        "required": np.broadcast_to(1.45 * rhythm[..., None, None], (ticks, apps, 6, len(METRICS))),
        "window": window,
        "plan": plan,
        "reason": np.full((ticks, apps), "held for 600 s after the last addition <&>"),
    }
    beside: dict[str, Arrays] = {}
    for market in ("tiers", "on_demand") if names else ():
        parts = [lanes(np.tile(ours[1:], len(SUPPLY)), 0.55, bought("leadtime", market))]
        for i, name in enumerate(names):
            sharp = 1.0 if name == "oracle" else 0.5 * rng.random() - 0.03 * i
            parts.append(lanes(np.tile(margin[name], len(SUPPLY)), max(sharp, 0), bought(name, market)))
        joined = {field: np.concatenate([part[field] for part in parts], axis=-1) for field in parts[0]}
        at = np.cumsum([part["cost"].shape[-1] for part in parts])[:-1]
        beside[market] = joined | {"tiers": tiered(joined["cost"][..., at])}
    ranked = comparison.compare(job, seen, beside, names, skip=0)
    report: dict[str, Any] = {
        "source": "/somewhere/machines.parquet",
        "skipped": {"null_rows": 3, "duplicates": 0},
        "notes": ["fields are separated by ';'"],
        "tick_s": TICK_S,
        "users": apps,
        "apps": apps,
        "ticks": ticks,
        "warm_up_ticks": 48,
        "scenarios": 1_024,
        "every": 1,
        "seed": 0,
        "artificial_apps": False,
        "backlog_carried_over": False,
    } | ranked.report
    report["figures"] = figures.stated(job, seen, beside, names, ranked)
    return job, seen, ranked, report
