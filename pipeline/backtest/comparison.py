"""Our plans and baselines at the same realised hit rate and at their defaults: figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from models.baselines.autoscalers.registry import KNOBS, largest
from models.demand.reconciliation import measured
from models.evaluation import need, promises_kept
from models.evaluation.day_bootstrap import ratio
from models.evaluation.policy_outcomes import (
    RATES,
    Outcomes,
    at_rate,
    compared,
    hit_rates,
    interval,
    nearest,
    weights,
)
from models.evaluation.promise import totals
from models.metrics import DAY_S, HOUR_S
from pipeline.backtest.baselines import SUPPLY, loads
from pipeline.backtest.job import Arrays, Job

OURS: Final = "leadtime"
STATIC: Final = "leadtime_static"
"""Our plans without the learner, where a run has both."""


@dataclass(frozen=True)
class Comparison:
    """All policies at the same realised hit rates and at their defaults.

    Attributes:
        report: figures, as in the JSON report.
        outcomes: by market, of all lanes.
        lanes: by market and policy, the policy's lanes; its default is the first.
        settings: by policy, the setting of each of its lanes.
        demand: (tick, app) replicas that were needed, NaN where not measured.
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


def compare(
    job: Job,
    ours: Arrays,
    baselines: Mapping[str, Arrays],
    names: Sequence[str],
    *,
    skip: int,
    carry: bool = False,
) -> Comparison:
    """The figures of docs/scoring.md.

    Args:
        job: what was simulated.
        ours: our outcomes, from the first plan on.
        baselines: outcomes of those in `names`, by market.
        names: of the baselines.
        skip: rows from the first plan on that are not scored.
        carry: demand that a tick's capacity lacked is added to the next tick's.
    """
    policies = [job.policies[app] for app in job.apps]
    demand = largest(loads(job)[len(job.before) + job.plan_from :])[skip:]
    members = [job.members[app] for app in job.apps]
    usage = totals(job.values, members)
    saturated = totals(np.where(job.saturated, job.values, 0), members)
    scored = slice(job.plan_from + skip, None)
    censored = need.censored(usage, saturated, policies)[scored] & ~np.isnan(demand)
    outcomes, lanes, settings = _outcomes(job, ours, baselines, names, (demand, censored, carry))
    promises = promises_kept.Promises(
        np.asarray(np.isfinite(ours["plan"][skip:]).any(axis=2)),
        ours["required"][skip:],
        ours["window"][skip:],
        job.steps,
    )
    known, kept = promises_kept.kept(promises, measured(usage, saturated).known[scored], policies)
    promise = {"decisions": int(known.sum()), "kept": promises_kept.share_kept(known, kept)}
    first = next(iter(job.offers))
    tables = {m: _policies(job, outcomes[m], lanes[m], settings, censored) for m in outcomes}
    report: dict[str, Any] = {
        "censored_app_ticks": int(censored.sum()),
        "unmeasured_app_ticks": int(np.isnan(demand).sum()),
        **_figures(
            job,
            tables,
            outcomes[first],
            lanes[first],
            promise,
            ours["steered"][skip:] if "steered" in ours else None,
        ),
    }
    matched = {name: (row["_drawn"], row["_slack"]) for name, row in tables[first].items()}
    for table in tables.values():
        for row in table.values():
            del row["_drawn"], row["_slack"]
    return Comparison(report, outcomes, lanes, settings, demand, (known, kept), matched)


def _figures(
    job: Job,
    tables: Mapping[str, Any],
    outcomes: Outcomes,
    lanes: Mapping[str, list[int]],
    promise: Mapping[str, Any],
    steered: np.ndarray | None,
) -> dict[str, Any]:
    """The report's tables and their summary.

    Args:
        job: what was simulated.
        tables: of `_policies`, by market.
        outcomes: of the first market.
        lanes: of the first market, by policy.
        promise: number of decisions with an outcome, and the share of them that was kept.
        steered: (tick, app, 2) what the learner set; None: it was off.
    """
    default = next(iter(job.policies.values())).confidence
    first, by_app = next(iter(tables.values())), _by_app(job, outcomes, lanes)
    return {
        "policies": first,
        "policies_on_demand": tables.get("on_demand"),
        "by_app": by_app,
        "promise": promise,
        "cheaper": _cheaper(first, outcomes, lanes, job.tick_s),
        "summary": {
            **_summary(first),
            **_as_it_comes(first, outcomes, lanes, job.seed),
            "realised_share_of_plans": promise["kept"],
            **({} if steered is None else {"learner": _learner(steered, job, outcomes, lanes)}),
            "promise_99" if default == 0.99 else f"promise_{100 * default:g}": promise["kept"],
            "on_demand": _summary(tables["on_demand"]) if "on_demand" in tables else None,
            "worse_than_hpa": _worse(by_app) if "hpa" in lanes else None,
        },
    }


def _outcomes(
    job: Job,
    ours: Arrays,
    baselines: Mapping[str, Arrays],
    names: Sequence[str],
    scored: tuple[np.ndarray, np.ndarray, bool],
) -> tuple[dict[str, Outcomes], dict[str, dict[str, list[int]]], dict[str, list[float]]]:
    """Outcomes by market; of each market every policy's lanes; every policy's settings, its default first.

    scored: demand and whether it is censored, (tick, app); whether what was lacking is carried over.
    """
    demand, censored, carry = scored
    skip = len(ours["ready"]) - len(demand)
    default = next(iter(job.policies.values())).confidence
    # on demand our default is the level nearest to the policy's confidence: it has no plan of its own
    closest = int(np.argmin(np.abs(np.array(job.levels or [default]) - default)))
    day = (job.first_tick + job.plan_from + skip + np.arange(len(demand))) // max(1, DAY_S // job.tick_s)
    settings = {OURS: [default, *len(SUPPLY) * [*job.levels, *job.shortages]]}
    settings |= {STATIC: [default]} if job.learner == "both" else {}
    settings |= {name: list(len(SUPPLY) * KNOBS[name].values) for name in names}
    ends = np.cumsum([len(values) for values in settings.values()]).tolist()
    lanes = {
        name: list(range(end - len(values), end))
        for end, (name, values) in zip(ends, settings.items(), strict=True)
    }
    first = next(iter(job.offers))
    outcomes: dict[str, Outcomes] = {}
    for market in job.offers if job.levels else [first]:
        beside = baselines.get(market)
        parts: dict[str, np.ndarray] = {}
        for name in ("ready", "asked", "cost"):
            swept = beside[name][skip:] if beside else ours[name][skip:][..., :0]
            swept_own = swept[..., : len(settings[OURS]) - 1]
            level = swept_own[..., closest : closest + 1]
            own, static = (ours[name][skip:][..., i : i + 1] if market == first else level for i in (0, 1))
            beside_own = [static] if STATIC in settings else []
            parts[name] = np.concatenate(
                [own, swept_own, *beside_own, swept[..., swept_own.shape[-1] :]], axis=-1
            )
        measured = ~np.isnan(demand) & ~censored
        outcomes[market] = Outcomes(demand, measured, day - day[0], **parts, carry=carry)
    return outcomes, {market: dict(lanes) for market in outcomes}, settings


def _policies(
    job: Job,
    outcomes: Outcomes,
    lanes: Mapping[str, list[int]],
    settings: Mapping[str, list[float]],
    censored: np.ndarray,
) -> dict[str, Any]:
    apart = replace(outcomes, scored=censored).lanes()
    rows, weight = outcomes.lanes(), weights(len(np.unique(outcomes.day)), job.seed)
    hits = hit_rates(outcomes, weight)
    table: dict[str, Any] = {}
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
        table[name] = entry
    return table


def _by(job: Job, name: str, lanes: int) -> list[str]:
    """What is set in a policy's lanes; our first is the plan itself."""
    if name not in (OURS, STATIC):
        return lanes * [KNOBS[name].setting]
    swept = len(job.levels) * ["confidence"] + len(job.shortages) * ["shortage price, in a replica's"]
    return (["confidence"] + len(SUPPLY) * swept)[:lanes]


def _supply(name: str, lanes: int) -> list[float | None]:
    """SUPPLY of a policy's lanes; our first is the plan itself."""
    own: list[float | None] = [None] if name in (OURS, STATIC) else []
    return own + [share for share in SUPPLY for _ in range((lanes - len(own)) // len(SUPPLY))]


def _summary(table: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios of our cost at a realised 99 % to the best product's over all apps, persistence's and the oracle's."""
    ours = table[OURS]["_drawn"][0.99]
    products = {
        name: row["_drawn"][0.99][0]
        for name, row in table.items()
        if name in KNOBS and KNOBS[name].product and not np.isnan(row["_drawn"][0.99][0])
    }
    best = min(products, key=lambda name: (products[name], name)) if products else None
    summary: dict[str, Any] = {"best_product": best}
    for title, name in (("best_product", best), ("persistence", "persistence"), ("oracle", "oracle")):
        reference = table[name]["_drawn"][0.99] if name and name in table else np.full(1, np.nan)
        drawn = ratio(ours, reference)
        summary[f"cost_ratio_{title}"] = _number(drawn[0])
        summary[f"cost_ratio_{title}_95"] = _interval(drawn[1:])
    return summary


def _as_it_comes(
    table: Mapping[str, Any], outcomes: Outcomes, lanes: Mapping[str, list[int]], seed: int
) -> dict[str, Any]:
    """Our plans as they come: the realised share, and their cost beside the products' at the same realised share.

    avoidable_removed: (best product - ours) / (best product - oracle), all at our realised share. Without a miss it is
    taken at half a miss, for the share of misses is on a log scale.
    """
    ours = table[OURS]["defaults"]
    share, weight = ours["hit_rate"], weights(len(np.unique(outcomes.day)), seed)[:1]
    figures: dict[str, Any] = {
        "realised_share": share,
        "cost_ratio_as_it_comes": None,
        "avoidable_removed": None,
    }
    if share is None or not outcomes.ready.shape[-1] > 1:
        return figures
    cost = {
        name: float(at_rate(outcomes, some, min(share, 1 - 0.5 / ours["app_ticks"]), weight)[0][0])
        for name, some in lanes.items()
        if name in KNOBS
    }
    products = [cost[name] for name in cost if KNOBS[name].product and not np.isnan(cost[name])]
    if not products:
        return figures
    best, oracle = min(products), cost.get("oracle", np.nan)
    figures["cost_ratio_as_it_comes"] = _number(ours["cost_scored"] / best if best > 0 else np.nan)
    figures["avoidable_removed"] = _number(
        (best - ours["cost_scored"]) / (best - oracle) if best > oracle else np.nan
    )
    return figures


def _learner(
    steered: np.ndarray, job: Job, outcomes: Outcomes, lanes: Mapping[str, list[int]]
) -> dict[str, Any]:
    """What the learner did: promotions, rollbacks, its saving beside static, and apps for which it was worse.

    saving: share of static's cost that was saved, with 95 % of a bootstrap of days; None without static beside.
    worse_apps: that cost more than static, or missed more than static's misses and those that are allowed.
    """
    arm = steered[..., 1]
    changed = np.diff(arm, axis=0) != 0
    figures: dict[str, Any] = {
        "promotions": int((changed & (arm[1:] > 0)).sum()),
        "rollbacks": int((changed & (arm[1:] == 0)).sum()),
        "saving": None,
        "saving_95": None,
        "worse_apps": [],
    }
    if STATIC not in lanes:
        return figures
    ours, static = lanes[OURS][0], lanes[STATIC][0]
    cost = weights(len(np.unique(outcomes.day)), job.seed) @ outcomes.by_day[1]
    drawn = 1 - ratio(cost[:, ours], cost[:, static])
    spent = np.where(outcomes.scored[..., None], outcomes.cost, 0.0).sum(axis=0)
    misses = outcomes.missed.sum(axis=0)
    allowed = np.array([1 - job.policies[app].confidence for app in job.apps]) * outcomes.scored.sum(axis=0)
    worse = (spent[:, ours] > 1.005 * spent[:, static]) | (misses[:, ours] > misses[:, static] + allowed)
    return figures | {
        "saving": _number(drawn[0]),
        "saving_95": _interval(drawn[1:]),
        "worse_apps": [app for app, is_worse in zip(job.apps, worse.tolist(), strict=True) if is_worse],
    }


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
    """Baselines but the oracle that cost less at a realised 99 %, with how and when their outcomes differ from ours."""
    cost = {name: row["at_99"]["cost"] for name, row in table.items() if row["at_99"]["cost"] is not None}
    one = nearest(outcomes, lanes[OURS], 0.99)
    return {
        name: compared(outcomes, one, nearest(outcomes, lanes[name], 0.99), max(1, HOUR_S // tick_s))
        for name in cost
        if name not in (OURS, "oracle") and cost[name] < cost.get(OURS, -np.inf)
    }


def tables(job: Job, ours: Arrays, comparison: Comparison) -> dict[str, pl.DataFrame]:
    """Frames `policies` (a row for each market, policy and setting), `apps` (each app and policy), `ticks`."""
    rows = [
        {"market": market, "policy": name, "setting": row["setting"], **row}
        for market, table in (("tiers", "policies"), ("on_demand", "policies_on_demand"))
        for name, entry in (comparison.report[table] or {}).items()
        for row in entry["sweep"]
    ]
    by_app = [
        {"app": app, "policy": name, **row}
        for app, policies in comparison.report["by_app"].items()
        for name, row in policies.items()
    ]
    skip, n = len(ours["ready"]) - len(comparison.demand), len(comparison.demand)
    market, lanes = next(iter(comparison.outcomes.items()))[1], next(iter(comparison.lanes.values()))
    start_us = (job.first_tick + job.plan_from + skip + np.arange(n)) * job.tick_s * 1_000_000
    ticks = [
        pl.DataFrame(
            {
                "demand": comparison.demand[:, a],
                "scored": market.scored[:, a],
                **{
                    f"{name}.{field}": getattr(market, field)[:, a, some[0]]
                    for name, some in lanes.items()
                    for field in ("ready", "asked", "cost")
                },
                "confidence_planned": ours["plan"][skip:, a, 0],
                "feasible": ours["plan"][skip:, a, 1] == 1,
                "reason": ours["reason"][skip:, a],
            }
        ).select(pl.Series("ts", start_us).cast(pl.Datetime("us", "UTC")), pl.lit(app).alias("app"), pl.all())
        for a, app in enumerate(job.apps)
    ]
    return {"policies": pl.DataFrame(rows), "apps": pl.DataFrame(by_app), "ticks": pl.concat(ticks)}


def _interval(drawn: np.ndarray) -> list[float] | None:
    ends = interval(drawn)
    return None if ends is None else list(ends)


def _number(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
