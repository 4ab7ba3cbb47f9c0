"""All policies of a backtest at the same realised hit rate and at their defaults: figures, and tables of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from models.baselines.autoscalers.registry import KNOBS, largest
from models.capacity import floor_demand
from models.demand.reconciliation import lower_bound
from models.evaluation.policy_outcomes import RATES, Outcomes, at_rate, compared, nearest, weights
from models.evaluation.promise import totals
from models.metrics import DAY_S, HOUR_S, METRICS
from pipeline.backtest.baselines import SUPPLY, filled, loads
from pipeline.backtest.job import Arrays, Job

OURS: Final = "leadtime"


@dataclass(frozen=True)
class Ranked:
    """What is reported, and what it was made from: by market the outcomes, and each policy's lanes.

    promise: which decisions have an outcome, and which of them were kept, (tick, app).
    matched: of the first market, by policy cost and slack at each of RATES, (draw) of the bootstrap, all apps.
    """

    report: dict[str, Any]
    outcomes: Mapping[str, Outcomes]
    lanes: Mapping[str, Mapping[str, list[int]]]
    settings: Mapping[str, list[float]]
    demand: np.ndarray
    promise: tuple[np.ndarray, np.ndarray]
    matched: Mapping[str, tuple[Mapping[float, np.ndarray], Mapping[float, np.ndarray]]]


def rank(
    job: Job,
    seen: Arrays,
    rivals: Mapping[str, Arrays],
    names: Sequence[str],
    *,
    skip: int,
    carry: bool = False,
) -> Ranked:
    """The figures of docs/scoring.md.

    Args:
        job: what was run.
        seen: our outcomes, from the first plan on.
        rivals: by market; of the rivals in `names`.
        names: see there.
        skip: rows from the first plan on that are not scored.
        carry: what was lacking in a tick is demand of the next one as well.
    """
    demand = largest(loads(job)[len(job.before) + job.plan_from :])[skip:]
    members = [job.members[app] for app in job.apps]
    usage = totals(job.values, members)
    held = totals(np.where(job.saturated, job.values, 0), members)
    bounds = lower_bound(held, usage)
    censored = _censored(job, usage, held, bounds)[job.plan_from :][skip:] & ~np.isnan(demand)
    ticks = job.first_tick + job.plan_from + skip + np.arange(len(demand))
    day = ticks // max(1, DAY_S // job.tick_s)
    day -= day[0]
    first = next(iter(job.offers))
    default = next(iter(job.policies.values())).confidence
    outcomes: dict[str, Outcomes] = {}
    lanes: dict[str, dict[str, list[int]]] = {}
    settings = {OURS: [default, *len(SUPPLY) * [*job.levels, *job.shortages]]}
    settings |= {name: list(len(SUPPLY) * KNOBS[name].values) for name in names}
    for market in job.offers if job.levels else [first]:
        beside = rivals.get(market)
        # on demand our default is the level nearest to the policy's confidence: there is no plan of its own
        nearest = int(np.argmin(np.abs(np.array(job.levels or [default]) - default)))
        parts: dict[str, np.ndarray] = {}
        for name in ("ready", "asked", "cost"):
            swept = beside[name][skip:] if beside else seen[name][skip:][..., :0]
            own = seen[name][skip:][..., :1] if market == first else swept[..., nearest : nearest + 1]
            parts[name] = np.concatenate([own, swept], axis=-1)
        outcomes[market] = Outcomes(demand, ~np.isnan(demand) & ~censored, day, **parts, carry=carry)
        lanes[market], at = {}, 0
        for name, values in settings.items():
            lanes[market][name] = list(range(at, at + len(values)))
            at += len(values)
    tables = {m: _policies(job, outcomes[m], lanes[m], settings, censored) for m in outcomes}
    known, kept = _promise(job, seen, skip, np.where(bounds, np.nan, usage))
    promise = {
        "decisions": int(known.sum()),
        "kept": int(kept.sum()) / int(known.sum()) if known.any() else None,
    }
    by_app = _by_app(job, outcomes[first], lanes[first])
    report: dict[str, Any] = {
        "censored_app_ticks": int(censored.sum()),
        "unmeasured_app_ticks": int(np.isnan(demand).sum()),
        "policies": tables[first],
        "policies_on_demand": tables.get("on_demand"),
        "by_app": by_app,
        "promise": promise,
        "cheaper": _cheaper(tables[first], outcomes[first], lanes[first], job.tick_s),
        "summary": {
            **_summary(tables[first]),
            "promise_99" if default == 0.99 else f"promise_{100 * default:g}": promise["kept"],
            "on_demand": _summary(tables["on_demand"]) if "on_demand" in tables else None,
            "worse_than_hpa": _worse(by_app) if "hpa" in names else None,
        },
    }
    matched = {name: (row["_drawn"], row["_slack"]) for name, row in tables[first].items()}
    for table in tables.values():
        for row in table.values():
            del row["_drawn"], row["_slack"]
    return Ranked(report, outcomes, lanes, settings, demand, (known, kept), matched)


def _censored(job: Job, usage: np.ndarray, held: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(row, app) where what was needed is not known.

    A governed metric is a lower bound, and could set the need: with its saturated part taken once and a half, as the
    reactive floor takes it, it would need more than all that was measured. Where another metric needs more anyway,
    the need is known.

    usage, held, bounds: (row, app, METRICS); held: what saturated users have of it.
    """
    known = largest(filled(job, usage))
    could = largest(filled(job, np.where(bounds, floor_demand(usage, held), np.nan)))
    return ~np.isnan(could) & (could > known)


def _policies(
    job: Job,
    outcomes: Outcomes,
    lanes: Mapping[str, list[int]],
    settings: Mapping[str, list[float]],
    censored: np.ndarray,
) -> dict[str, Any]:
    apart = replace(outcomes, scored=censored).lanes()
    rows, weight = outcomes.lanes(), weights(len(np.unique(outcomes.day)), job.seed)
    missed, _, _, counted = outcomes.by_day
    hits = 1 - (weight @ missed) / np.maximum(weight @ counted[:, 0], 1)[:, None]
    found: dict[str, Any] = {}
    for name, some in lanes.items():
        entry: dict[str, Any] = {
            "defaults": rows[some[0]]
            | {
                "hit_rate_95": _interval(hits[1:, some[0]]),
                "hit_rate_of_usage_where_censored": apart[some[0]]["hit_rate"],
            },
            "sweep": [
                {"by": by, "setting": setting, "supply": supply, **rows[lane]}
                for by, setting, supply, lane in zip(
                    _by(job, name, len(some)), settings[name], _supply(name, len(some)), some, strict=True
                )
            ],
            "_drawn": {},
            "_slack": {},
        }
        for rate in RATES:
            cost, slack = at_rate(outcomes, some, rate, weight)
            entry[f"at_{100 * rate:g}"] = {
                "cost": _number(cost[0]),
                "slack": _number(slack[0]),
                "cost_95": _interval(cost[1:]),
            }
            entry["_drawn"][rate] = cost
            entry["_slack"][rate] = slack
        found[name] = entry
    return found


def _by(job: Job, name: str, lanes: int) -> list[str]:
    """What is set in a policy's lanes; our first is the plan itself."""
    if name != OURS:
        return lanes * [KNOBS[name].setting]
    swept = len(job.levels) * ["confidence"] + len(job.shortages) * ["shortage price, in a replica's"]
    return (["confidence"] + len(SUPPLY) * swept)[:lanes]


def _supply(name: str, lanes: int) -> list[float | None]:
    """SUPPLY of a policy's lanes; our first is the plan itself."""
    own: list[float | None] = [None] if name == OURS else []
    return own + [one for one in SUPPLY for _ in range((lanes - len(own)) // len(SUPPLY))]


def _summary(table: Mapping[str, Any]) -> dict[str, Any]:
    """Our cost at a realised 99 % over that of others there; products: one of them, the best over all apps."""
    ours = table[OURS]["_drawn"][0.99]
    products = {
        name: row["_drawn"][0.99][0]
        for name, row in table.items()
        if name in KNOBS and KNOBS[name].product and not np.isnan(row["_drawn"][0.99][0])
    }
    best = min(products, key=lambda name: (products[name], name)) if products else None
    found: dict[str, Any] = {"best_product": best}
    for title, name in (("best_product", best), ("persistence", "persistence"), ("oracle", "oracle")):
        ratio = (
            ours / table[name]["_drawn"][0.99] if name is not None and name in table else np.full(1, np.nan)
        )
        found[f"cost_ratio_{title}"] = _number(ratio[0])
        found[f"cost_ratio_{title}_95"] = _interval(ratio[1:])
    return found


def _by_app(job: Job, outcomes: Outcomes, lanes: Mapping[str, list[int]]) -> dict[str, Any]:
    return {
        app: {name: rows[some[0]] for name, some in lanes.items()}
        for a, app in enumerate(job.apps)
        for rows in [outcomes.lanes(slice(a, a + 1))]
    }


def _worse(by_app: Mapping[str, Any]) -> list[str]:
    """Apps on which we both cost more and hit less than the plain HPA at its defaults."""
    return [
        app
        for app, row in by_app.items()
        if row[OURS]["cost"] > row["hpa"]["cost"] and row[OURS]["misses"] > row["hpa"]["misses"]
    ]


def _cheaper(
    table: Mapping[str, Any], outcomes: Outcomes, lanes: Mapping[str, list[int]], tick_s: int
) -> dict[str, Any]:
    """Rivals that cost less at a realised 99 %, with what they have less, and when; the oracle is none."""
    cost = {name: row["at_99"]["cost"] for name, row in table.items() if row["at_99"]["cost"] is not None}
    one = nearest(outcomes, lanes[OURS], 0.99)
    return {
        name: compared(outcomes, one, nearest(outcomes, lanes[name], 0.99), max(1, HOUR_S // tick_s))
        for name in cost
        if name not in (OURS, "oracle") and cost[name] < cost.get(OURS, -np.inf)
    }


def _promise(job: Job, seen: Arrays, skip: int, usage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which decisions have an outcome, and of which demand stayed within the required curves, (tick, app).

    All governed metrics and steps of the window together. usage: (row, app, metric), NaN where it is not known or a
    lower bound alone.
    """
    governed = np.zeros((len(job.apps), usage.shape[-1]), bool)
    for a, app in enumerate(job.apps):
        governed[a, [METRICS.index(m) for m in job.policies[app].governed]] = True
    known, kept = np.zeros((2, len(seen["required"]) - skip, len(job.apps)), bool)
    for i in range(skip, len(seen["required"])):
        row = job.plan_from + i
        if np.isnan(seen["plan"][i]).all() or row + job.steps[-1] >= len(usage):
            continue
        ahead = usage[np.array(job.steps) + row].transpose(1, 0, 2)  # (app, step, metric)
        step = np.arange(len(job.steps))
        inside = (step >= seen["window"][i][:, :1]) & (step <= seen["window"][i][:, 1:])
        cell = inside[..., None] & governed[:, None] & ~np.isnan(ahead) & ~np.isnan(seen["required"][i])
        known[i - skip] = cell.any(axis=(1, 2))
        missed = (cell & (ahead > np.nan_to_num(seen["required"][i]))).any(axis=(1, 2))
        kept[i - skip] = known[i - skip] & ~missed
    return known, kept


def tables(job: Job, seen: Arrays, ranked: Ranked) -> dict[str, pl.DataFrame]:
    """Frames `policies` (a row for each market, policy and setting), `apps` (each app and policy), `ticks`."""
    rows = [
        {"market": market, "policy": name, "setting": row["setting"], **row}
        for market, table in (("tiers", "policies"), ("on_demand", "policies_on_demand"))
        for name, entry in (ranked.report[table] or {}).items()
        for row in entry["sweep"]
    ]
    by_app = [
        {"app": app, "policy": name, **row}
        for app, found in ranked.report["by_app"].items()
        for name, row in found.items()
    ]
    skip, n = len(seen["ready"]) - len(ranked.demand), len(ranked.demand)
    market, lanes = next(iter(ranked.outcomes.items()))[1], next(iter(ranked.lanes.values()))
    start_us = (job.first_tick + job.plan_from + skip + np.arange(n)) * job.tick_s * 1_000_000
    ticks = [
        pl.DataFrame(
            {
                "demand": ranked.demand[:, a],
                "scored": market.scored[:, a],
                **{
                    f"{name}.{field}": getattr(market, field)[:, a, some[0]]
                    for name, some in lanes.items()
                    for field in ("ready", "asked", "cost")
                },
                "confidence_planned": seen["plan"][skip:, a, 0],
                "feasible": seen["plan"][skip:, a, 1] == 1,
                "reason": seen["reason"][skip:, a],
            }
        ).select(pl.Series("ts", start_us).cast(pl.Datetime("us", "UTC")), pl.lit(app).alias("app"), pl.all())
        for a, app in enumerate(job.apps)
    ]
    return {"policies": pl.DataFrame(rows), "apps": pl.DataFrame(by_app), "ticks": pl.concat(ticks)}


def _interval(drawn: np.ndarray) -> list[float] | None:
    known = drawn[~np.isnan(drawn)]
    if len(known) < len(drawn) / 2 or not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return [float(low), float(high)]


def _number(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
