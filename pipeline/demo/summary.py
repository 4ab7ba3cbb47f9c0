"""A run's outcome from what it published, beside a reactive policy on the same demand, offers and start."""

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.baselines.autoscalers.base import Facts
from models.baselines.autoscalers.hpa import HorizontalPodAutoscaler
from models.capacity import Policy, replica_loads, replicas_per_instance
from models.learning.adjustment import STATIC
from models.learning.app_learner import ARMS
from models.learning.hindsight import Need, outcomes
from models.learning.price_tail import PRICES
from models.learning.realised import Realised
from models.learning.shadow_fleets import ShadowFleets
from models.metrics import METRICS
from models.purchase.reserved_first import reserved_first
from pipeline.demo.recorder import Watch
from pipeline.inputs.example import Example
from pipeline.providers.local import LocalProvider
from pipeline.reports.app_run import AppRun
from pipeline.reports.learner_run import LearnerRun
from pipeline.stages.learner.agent import terms_of
from pipeline.traces.window import TickWindow
from pipeline.wire import commands, currencies
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.commands import REPLICAS
from pipeline.wire.json_lines import lines
from pipeline.wire.plans import promised
from pipeline.wire.policies import offer_of, policy_of

WARM_UP_TICKS = 12
"""Not scored: capacity that was started with, and users' first hour of five-minute ticks. Both policies alike."""

HPA_TARGET = 0.8  # of CPU: what Kubernetes gives an HPA that names no metric


@dataclass(frozen=True)
class OwnInstances:
    """What an app can buy for itself, and does under the reactive policy.

    Attributes:
        policy: in replicas as its offers carry them.
        prices: of its offers.
        start: instances by offer, ready at the first tick.
    """

    policy: Policy
    prices: Sequence[Record]
    start: Mapping[str, int]

    @classmethod
    def of(cls, app: str, example: Example, watch: Watch) -> "OwnInstances":
        """Of an app of an example in which it has instances of its own."""
        record = next(policy for policy in example.policies if policy["app"] == app)
        group = record["allocation_group"]
        prices = [
            DEFAULT.with_defaults("price", price)
            for price in example.prices
            if price["commitment_id"] == group
        ]
        return cls(policy_of(DEFAULT.with_defaults("policy", record)), prices, example.starting[app])

    def carried(self) -> dict[str, int]:
        """Replicas on an instance, by offer."""
        return {p["offer_id"]: replicas_per_instance(offer_of(p), self.policy) for p in self.prices}


@dataclass(frozen=True)
class Served:
    """What a policy had, tick by tick.

    Attributes:
        ready: (tick) least replicas ready within the tick.
        cost: (tick) spent within the tick.
        counts: (tick) instances ready, by offer.
        tiers: tier by offer.
    """

    ready: np.ndarray
    cost: np.ndarray
    counts: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    tiers: dict[str, str] = field(default_factory=dict[str, str])


def app_run(app: str, watch: Watch, policy: Policy, own: OwnInstances, window: TickWindow) -> AppRun:
    """One app's outcome on the local provider, tick by tick, in replicas of its policy."""
    ticks = range(window.first, window.last + 1)
    smaller = own.policy.size(policy.governed[0]) / policy.size(policy.governed[0])
    size = {offer: smaller * of for offer, of in own.carried().items()}
    size |= {REPLICAS: 1.0} if REPLICAS in watch.observed[app] else {}
    counts = {o: _series(watch.observed[app][o], ticks, "least_ready") for o in size}
    tiers = {p["offer_id"]: p["tier"] for p in own.prices} | (
        {REPLICAS: "SHARED"} if REPLICAS in size else {}
    )
    ready = np.sum([counts[o] * size[o] for o in size], axis=0)
    ours = Served(ready, _cost(watch.observed[app], own.prices, window), counts, tiers)
    least, cost = _reactive(app, _usage(app, watch, window), own, window)
    currency = currencies.one_currency(own.prices)[0]
    return run_of(app, watch, policy, window, ours, Served(least * smaller, cost), currency)


def run_of(
    app: str,
    watch: Watch,
    policy: Policy,
    window: TickWindow,
    ours: Served,
    reactive: Served,
    currency: str,
) -> AppRun:
    """One app's outcome by what was published of it and what it and the reactive policy had."""
    ticks = range(window.first, window.last + 1)
    usage = _usage(app, watch, window)
    governed = [METRICS.index(metric) for metric in policy.governed]
    unknown = np.isnan(usage[:, governed]).all(axis=1)
    demand = np.where(unknown, np.nan, replica_loads(usage, METRICS, policy).max(axis=1))
    low, mean, high = _fan(app, watch, policy, ticks)
    warm_up = warm_up_of(window)
    realised = _realised(watch.plans[app], demand, ours.ready, window, warm_up)
    return AppRun(
        app=app,
        tick_s=window.tick_s,
        start_s=window.first * window.tick_s,
        demand=demand,
        low=low,
        mean=mean,
        high=high,
        required=_required(watch.plans[app], ticks, window.tick_s),
        ready=ours.ready,
        reactive=reactive.ready,
        counts=ours.counts,
        tiers=ours.tiers,
        cost=ours.cost,
        reactive_cost=reactive.cost,
        currency=currency,
        held=np.array(
            ["missing_telemetry" in watch.plans[app].get(t, {"guardrails": []})["guardrails"] for t in ticks]
        ),
        warm_up=warm_up,
        plans_kept=realised.plans.kept,
        plans_judged=realised.plans.known,
    )


def warm_up_of(window: TickWindow) -> int:
    """Ticks at a window's start that are not scored."""
    return min(WARM_UP_TICKS, window.ticks // 4)


def _usage(app: str, watch: Watch, window: TickWindow) -> np.ndarray:
    """(tick, metric) what was measured; NaN: nothing."""
    nothing = np.full(len(METRICS), np.nan)
    return np.array([watch.usage[app].get(tick, nothing) for tick in range(window.first, window.last + 1)])


def _cost(
    observed: Mapping[str, Mapping[int, Record]], prices: Sequence[Record], window: TickWindow
) -> np.ndarray:
    """(tick) what was billed of some offers, at their prices; observed: records by offer and tick."""
    ticks = range(window.first - 1, window.last + 1)
    billed = {p["offer_id"]: _series(observed.get(p["offer_id"], {}), ticks, "billed_h") for p in prices}
    return sum(
        (np.diff(billed[p["offer_id"]], prepend=0.0)[1:] * float(p["price"]) for p in prices),
        np.zeros(window.ticks),
    )


def _realised(
    plans: Mapping[int, Record],
    demand: np.ndarray,
    ready: np.ndarray,
    window: TickWindow,
    warm_up: int,
) -> Realised:
    """Shares of time and of plans that were kept after the warm-up; demand, ready: (tick) in replicas."""
    realised = Realised()
    for place in range(warm_up, window.ticks):
        tick = window.first + place
        realised.observe(tick, window.tick_s, float(demand[place]), float(ready[place]))
        if tick in plans:
            realised.promise(promised(plans[tick]))
    return realised


def _series(records: Mapping[int, Record], ticks: range, field: str) -> np.ndarray:
    """A field by tick, the last known value where a tick has none."""
    values, last = np.zeros(len(ticks)), 0.0
    for place, tick in enumerate(ticks):
        record = records.get(tick)
        if record is not None:
            value = record["ready"] if record[field] is None and field == "least_ready" else record[field]
            last = last if value is None else float(value)
        values[place] = last
    return values


def _fan(app: str, watch: Watch, policy: Policy, ticks: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """95 % interval and mean, one tick ahead, of the governed metric that needs the most replicas."""
    fan = np.full((3, len(ticks)), np.nan)
    for place, tick in enumerate(ticks):
        record = watch.totals[app].get(tick - 1)
        names = [m for m in policy.governed if record is not None and m in record["metrics"]]
        if record is None or not names:
            continue
        shape = (-1, len(record["metrics"]), len(record["steps"]))
        ahead = np.stack(
            [
                np.frombuffer(record[c], "<f4").reshape(shape)[record["row"], :, 0]
                for c in ("lo95", "mean", "hi95")
            ]
        )
        needs = replica_loads(ahead, record["metrics"], policy)
        fan[:, place] = needs[:, needs[2].argmax()]
    return fan[0], fan[1], fan[2]


def _required(plans: Mapping[int, Record], ticks: range, tick_s: int) -> np.ndarray:
    """Replicas that the plan made the lead time before asked for."""
    required = np.full(len(ticks), np.nan)
    for tick, plan in plans.items():
        lead = plan["window"][0] // tick_s
        if tick + lead in ticks:
            required[tick + lead - ticks.start] = plan["replicas"][lead - 1]
    return required


def _reactive(
    app: str, usage: np.ndarray, own: OwnInstances, window: TickWindow
) -> tuple[np.ndarray, np.ndarray]:
    """Least ready replicas and cost by tick of Kubernetes' HPA at its defaults: reserved first, then on demand."""
    policy, start, per = own.policy, own.start, own.carried()
    filled = usage[:, [METRICS.index(m) for m in policy.governed]] / [policy.size(m) for m in policy.governed]
    facts = Facts(filled[:, None], np.array([policy.min]), np.array([policy.max]), window.tick_s, lead=1)
    scaler = HorizontalPodAutoscaler(facts, np.array([HPA_TARGET]))
    bought = sorted((p for p in own.prices if p["tier"] != "SPOT"), key=lambda p: p["tier"] != "RESERVED")
    ready, cost = np.zeros(window.ticks), np.zeros(window.ticks)
    with tempfile.TemporaryDirectory() as folder:
        cloud = LocalProvider(Path(folder), tick_s=window.tick_s)
        targets = {p["offer_id"]: commands.Target("local", f"{app}/{p['offer_id']}") for p in bought}
        for price in bought:
            cloud.offered(price)
            cloud.start(
                targets[price["offer_id"]], start[price["offer_id"]], float(window.first * window.tick_s)
            )
        limits = [
            (per[p["offer_id"]], (p["owned_count"] or 0) if p["tier"] == "RESERVED" else None) for p in bought
        ]
        counts, billed = {p["offer_id"]: start[p["offer_id"]] for p in bought}, dict.fromkeys(targets, 0.0)
        for place in range(window.ticks):
            from_s = float((window.first + place) * window.tick_s)
            to_s = from_s + window.tick_s
            serving = 0
            for price in bought:
                offer = price["offer_id"]
                observed = cloud.observe(targets[offer], to_s, from_s)
                ready[place] += (observed.least_ready or 0) * per[offer]
                serving += observed.ready * per[offer]
                cost[place] += ((observed.billed_h or 0.0) - billed[offer]) * float(price["price"])
                billed[offer] = observed.billed_h or 0.0
            wanted = scaler.decide(place, np.array([[serving]]))
            instances = reserved_first(int(wanted[0, 0]), limits)
            for price, desired in zip(bought, instances, strict=True):
                offer = price["offer_id"]
                if desired != counts[offer]:
                    counts[offer] = desired
                    order = {"id": f"{place}.{offer}", "epoch": place, "target": targets[offer].record()}
                    order |= {"desired": desired, "drain_s": 0.0, "victim_rule": "NEWEST"}
                    cloud.apply(order, to_s)
        cloud.close()
    return ready, cost


def outcome(watch: Watch, example: Example, own: Example, window: TickWindow) -> list[AppRun]:
    """All apps' outcomes, in the order of their names.

    Apps on shared nodes are charged with the nodes' cost by what their ready replicas take; the reactive policy has
    instances of each app's own.

    Args:
        watch: what was published.
        example: what was begun with.
        own: the same with instances of each app's own.
        window: ticks of the run.
    """
    of_apps = [DEFAULT.with_defaults("policy", p) for p in example.policies if p["app"] != example.group]
    policies = {p["app"]: policy_of(p) for p in sorted(of_apps, key=lambda p: p["app"])}
    runs = [
        app_run(app, watch, policy, OwnInstances.of(app, own, watch), window)
        for app, policy in policies.items()
    ]
    if not example.group:
        return runs
    nodes = [DEFAULT.with_defaults("price", p) for p in example.prices if p["commitment_id"] == example.group]
    cost = _cost(watch.observed[example.group], nodes, window)
    whole = {m: sum(p.size(m) for p in policies.values() if m in p.unit) for m in METRICS}
    takes = {app: max(policy.size(m) / whole[m] for m in policy.unit) for app, policy in policies.items()}
    on = [run for run in runs if run.app in example.replicas]
    taken = {run.app: np.maximum(run.ready, 1e-9) * takes[run.app] for run in on}
    together = np.sum(list(taken.values()), axis=0)
    return [replace(run, cost=cost * taken[run.app] / together) if run.app in taken else run for run in runs]


def shared_nodes(
    watch: Watch, example: Example, runs: Sequence[AppRun], window: TickWindow
) -> dict[str, Any] | None:
    """Of the nodes that apps share, after the warm-up: their cost, and what each app alone would have needed.

    None where they share none. `cost_alone`: the sum of what each app's need would have cost at the same confidence on
    parts of nodes of its own, by the plans.
    """
    if not example.group:
        return None
    on = [run for run in runs if run.app in example.replicas]
    scored = range(window.first + on[0].warm_up, window.last + 1)
    hours = window.tick_s / 3600
    plans = [watch.plans[example.group][tick] for tick in scored if tick in watch.plans[example.group]]
    alone = [float(part["own"]) for plan in plans for part in plan["parts"] if part["own"] is not None]
    return {
        "group": example.group,
        "apps": [run.app for run in on],
        "cost": sum(float(run.cost[run.warm_up :].sum()) for run in on),
        "cost_alone": sum(alone) * hours,
        "plans": len(plans),
        "misses": sum(int(run.missed.sum()) for run in on),
        "scored_app_ticks": sum(int(run.scored.sum()) for run in on),
    }


def learner_run(
    app: str,
    watch: Watch,
    example: Example,
    window: TickWindow,
    seed: int,
    shifts: Mapping[int, str],
) -> LearnerRun:
    """What the learner did for an app.

    Args:
        app: its name.
        watch: what was published.
        example: has its policy, prices and starting capacity.
        window: from the first tick that it was learnt from on.
        seed: of the simulated fleets.
        shifts: what changed in its demand, by tick.
    """
    own = OwnInstances.of(app, example, watch)
    policy, prices = own.policy, own.prices
    run = app_run(app, watch, policy, own, window)
    plans = {
        tick: plan
        for tick, plan in sorted(watch.plans[app].items())
        if plan["curve"]["arms"] and window.first <= tick <= window.last
    }
    followed = {
        tick: watch.adjustments[app].get(int(plan["versions"]["adjustment"].rpartition("@")[2] or -1))
        for tick, plan in plans.items()
    }
    ticks = range(window.first, window.last + 1)
    made = [followed.get(tick) for tick in ticks]
    price = np.array([math.nan if m is None else m["allocator"]["shortage_price"] or math.nan for m in made])
    fleets = ShadowFleets(
        app, [offer_of(p) for p in prices], policy, {p["offer_id"]: terms_of(p) for p in prices},
        tick_s=window.tick_s, seed=seed, supply=[None] * (1 + len(PRICES)),
    )  # fmt: skip
    needs = [_need(plan) for plan in plans.values()]
    cost, missed = np.zeros((2, window.ticks, 1 + len(PRICES)))
    places = [tick - window.first for tick in plans]
    cost[places], missed[places] = outcomes(fleets, needs)
    missed = (missed > 0) & run.scored[:, None]
    allowed = 1 - policy.confidence
    since = next((place for place, of in enumerate(price) if np.isfinite(of)), window.ticks)
    # static buys for demand and supply together, its lane apart: as dear as the plans were while they were static
    real, simulated = float(run.cost[run.warm_up : since].sum()), float(cost[run.warm_up : since, 0].sum())
    scale = real / simulated if simulated > 0 else 1.0
    within = [
        lane for lane in range(1, len(PRICES) + 1) if missed[:, lane].sum() <= allowed * run.scored.sum()
    ]
    best = min(within, key=lambda lane: cost[since:, lane].sum(), default=None)
    nothing = np.zeros(window.ticks)
    return LearnerRun(
        app=app,
        tick_s=window.tick_s,
        start_s=run.start_s,
        known=run.scored,
        cost=run.cost,
        missed=run.missed,
        static_cost=cost[:, 0] * scale,
        static_missed=missed[:, 0],
        best_price=None if best is None else float(PRICES[best - 1]),
        best_cost=nothing if best is None else cost[:, best],
        best_missed=nothing if best is None else missed[:, best],
        price=price,
        arms=[STATIC if m is None else m["arm"] for m in made],
        changes=_changes(watch.adjustments[app], made, window, shifts),
        allowed=allowed,
        currency=run.currency,
    )


def _need(plan: Record) -> Need:
    """A tick's need, and what its plan needs at the policy's confidence and at PRICES, with the first arm."""
    arm = next(arm for arm in plan["curve"]["arms"] if arm["arm"] == next(iter(ARMS)))
    need = math.nan if plan["need"] is None else plan["need"]
    wanted, soon = (np.array(arm[of], np.int64) for of in ("wanted", "soon"))
    return Need(plan["tick"], need, wanted, soon)


def _changes(
    made: Mapping[int, Record],
    followed: Sequence[Record | None],
    window: TickWindow,
    shifts: Mapping[int, str],
) -> list[tuple[int, str]]:
    """Tick in the window and text of the first plan with a price, of the learner's events, and of shifts of demand."""
    changes = [
        (event["tick"] - window.first, event["text"])
        for record in made.values()
        for event in record["events"]
    ]
    steered = [(i, m["arm"]) for i, m in enumerate(followed) if m is not None and m["arm"] != STATIC]
    begins = [(place, f"steers, arm {arm}") for place, arm in steered[:1]]
    shifted = [
        (tick - window.first, text) for tick, text in shifts.items() if window.first <= tick <= window.last
    ]
    return sorted([*changes, *begins, *shifted])


def totals(runs: Sequence[AppRun], watch: Watch) -> dict[str, Any]:
    """The figures of a run: hit rates over app-ticks after the warm-up, costs of the same ticks."""
    scored = sum(int(run.scored.sum()) for run in runs)
    final = commands.final(watch.results)
    status = Counter(final[i]["status"] if i in final else "OPEN" for i in watch.commands)

    def rate(missed: int) -> float | None:
        return 1 - missed / scored if scored else None

    share = watch.coverage.share
    kept, judged = (sum(getattr(run, name) for run in runs) for name in ("plans_kept", "plans_judged"))
    return {
        "frames": watch.counts["frames"],
        "framed": watch.counts["samples"] + watch.counts["events"],
        "forecasts": watch.counts["forecasts"],
        "plans": sum(len(plans) for plans in watch.plans.values()),
        "held": sum(int(run.held.sum()) for run in runs),
        "hold_notices": len(watch.notices),
        "commands": len(watch.commands),
        "applied": status["APPLIED"],
        "commands_by_status": dict(sorted(status.items())),
        "dead_letters": len(watch.dead_letters),
        "dead_letters_by_reason": dict(
            sorted(Counter(r["reason"] for r in watch.dead_letters.values()).items())
        ),
        "dead_letters_by_app": dict(sorted(Counter(map(watch.app_of, watch.dead_letters.values())).items())),
        "late": watch.counts["late"],
        "coverage_95": None if math.isnan(share) else share,
        "coverage_scored": watch.coverage.scored,
        "coverage_censored": watch.coverage.censored,
        "warm_up_ticks": runs[0].warm_up if runs else 0,
        "scored_app_ticks": scored,
        "hit_rate": rate(sum(int(run.missed.sum()) for run in runs)),
        "realised_share": rate(sum(int(run.missed.sum()) for run in runs)),
        "realised_share_of_plans": kept / judged if judged else None,
        "plans_judged": judged,
        "reactive_hit_rate": rate(sum(int(run.reactive_missed.sum()) for run in runs)),
        "cost": sum(float(run.cost[run.warm_up :].sum()) for run in runs),
        "reactive_cost": sum(float(run.reactive_cost[run.warm_up :].sum()) for run in runs),
        "currency": runs[0].currency if runs else currencies.DEFAULT,
    }


def write(folder: Path, watch: Watch) -> None:
    """Plans, commands, results and dead letters as JSON lines: the same bytes for the same topics.

    Repeats are dropped, and lines sorted by what identifies them: topics have no order across partitions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plans = [plan for app in sorted(watch.plans) for _, plan in sorted(watch.plans[app].items())]
    issued = sorted(watch.commands.values(), key=lambda c: (c["epoch"], c["plan_id"], c["order"]))
    results = sorted(
        commands.final(watch.results).values(), key=lambda r: (r["epoch"], r["target"], r["command_id"])
    )
    letters = [watch.dead_letters[origin] for origin in sorted(watch.dead_letters)]
    for name, records in (
        ("plans", plans),
        ("commands", issued),
        ("results", results),
        ("dead_letters", letters),
    ):
        lines(folder / f"{name}.jsonl", records)
