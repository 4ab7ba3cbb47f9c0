"""Policies, offers and initial instances of every app, and the job that a window of a trace or topics makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from models import capacity
from models.capacity import Offer, Policy
from models.evaluation import promise
from models.evaluation.simulated_cloud import Terms
from models.metrics import DAY_S, METRICS
from pipeline.backtest.job import Job
from pipeline.errors import UsageError
from pipeline.inputs import files
from pipeline.inputs.example import Example, node_offers
from pipeline.inputs.store import SideInputs
from pipeline.providers.local_instances import LocalOffer
from pipeline.security.pseudonyms import DEMO_KEY, Key, identity
from pipeline.traces.trace_file import Panel
from pipeline.traces.window import ScoringWindow
from pipeline.wire.codec import DEFAULT, Record
from pipeline.wire.currencies import one_currency
from pipeline.wire.plans import DEFAULT_POLICY, default_policy
from pipeline.wire.policies import offer_of, offered, policy_of

ALL_TIERS: Final = "tiers"
ON_DEMAND: Final = "on_demand"
LEARN_S: Final = (
    4 * DAY_S
)  # before plans, in which promises are learnt from; as in `models.evaluation.promise`
HISTORY_S: Final = (
    14 * DAY_S
)  # that rivals know before the window, where the trace has it: as much as any asks for
SETTLE_S: Final = 3_600  # planned and not scored: what is started with is a guess
SIZED_TICKS: Final = 12  # that replicas are sized by: in a single one a user may be missing


@dataclass(frozen=True)
class PlanningInputs:
    """Records that plans are made from.

    Attributes:
        policies: by app.
        prices: by app, the offers that its policy may use.
        starting: by app and offer, instances that run at the beginning.

    Raises:
        UsageError: the prices are in several currencies: a report sums the costs of all apps.
    """

    policies: Mapping[str, Record]
    prices: Mapping[str, list[Record]]
    starting: Mapping[str, Mapping[str, int]]

    def __post_init__(self) -> None:
        currency, others = self._currencies()
        if others:
            of = {price["offer_id"]: price["currency"] for prices in self.prices.values() for price in prices}
            stated = ", ".join(f"{offer} in {of[offer]}" for offer in others)
            raise UsageError(
                f"a backtest sums the costs of all apps, and their prices are in {currency} and others ({stated}): "
                "give --policy and --prices of one currency ([rates] converts)"
            )

    @property
    def currency(self) -> str:
        """Of all prices, an ISO code."""
        return self._currencies()[0]

    def _currencies(self) -> tuple[str, list[str]]:
        return one_currency(price for prices in self.prices.values() for price in prices)


def members_of(panel: Panel, groupings: int, seed: int) -> dict[str, np.ndarray]:
    """App -> columns of its users; `groupings`: so many artificial apps of each size instead of the panel's own."""
    if groupings:
        drawn = promise.groupings(len(panel.users), groupings, seed)
        return {f"group-{len(users):03d}-{i:02d}": users for i, users in enumerate(drawn)}
    apps = np.array(panel.apps)
    return {str(app): np.flatnonzero(apps == app) for app in dict.fromkeys(panel.apps)}


def first_plan(window: ScoringWindow, tick_s: int) -> int:
    """Row of the window from which plans are made."""
    return max(1, window.score - window.begin - SETTLE_S // tick_s)


def sized(panel: Panel, window: ScoringWindow, members: Mapping[str, np.ndarray]) -> PlanningInputs:
    """The demo's policies and offers, replicas sized by the usage before the first plan, of SIZED_TICKS at least.

    Raises:
        UsageError: an app has no usage in these ticks.
    """
    ticks = max(first_plan(window, panel.tick_s), SIZED_TICKS)
    values = panel.values[window.begin : min(window.begin + ticks, window.stop)]
    before = promise.totals(values, list(members.values()))
    medians: dict[str, dict[str, float]] = {}
    for a, app in enumerate(members):
        known = {
            m: float(np.nanmedian(before[:, a, i]))
            for i, m in enumerate(METRICS)
            if not np.isnan(before[:, a, i]).all()
        }
        if not known:
            raise UsageError(f"nothing is known of app {app} before the window: give --policy and --prices")
        medians[app] = {m: v for m, v in known.items() if v > 0} or {next(iter(known)): 1.0}
    example = Example.of_medians(medians)
    full = [with_defaults("price", r) for r in example.prices]
    return PlanningInputs(
        {r["app"]: with_defaults("policy", r) for r in example.policies},
        {app: [p for p in full if p["commitment_id"] == app] for app in members},
        example.starting,
    )


def on_nodes(inputs: PlanningInputs) -> PlanningInputs:
    """Apps of `sized` with nodes of NODE_SIZES that all of them can buy, instead of instances of each app's own.

    NODES of the smallest carry the apps' medians together. A node costs what the instances of `sized` cost that carry
    the same share of the medians, on demand and on spot: what is reserved would be each app's own, and the pool's once.
    """
    units = {app: policy_of(policy).unit for app, policy in inputs.policies.items()}
    median = Example.median_replicas()
    app, offers = next(iter(inputs.prices.items()))
    nodes = node_offers(units, [o for o in offers if o["tier"] != "RESERVED"], units[app])
    starting = {
        app: start_of(_started(nodes, policy_of(policy), 1.5 * median), nodes)
        for app, policy in inputs.policies.items()
    }
    return PlanningInputs(inputs.policies, dict.fromkeys(inputs.policies, nodes), starting)


def _started(nodes: Sequence[Record], policy: Policy, replicas: float) -> dict[str, int]:
    """The cheapest nodes on demand that carry so many replicas of a policy, of one type."""
    counts: dict[str, tuple[float, int]] = {}
    for node in (offer_of(node) for node in nodes):
        carried = capacity.replicas_per_instance(node, policy)
        if node.tier == "ON_DEMAND" and carried:
            number = math.ceil(replicas / carried)
            counts[node.offer_id] = number * node.price_h, number
    best = min(counts, key=lambda name: (counts[name], name))
    return {best: counts[best][1]}


def of_files(policy_file: Path, price_file: Path, apps: Sequence[str]) -> PlanningInputs:
    """Policies and offers of files, with nothing to begin with.

    Raises:
        UsageError: an app without a policy or an offer, or a file that cannot be read.
    """
    policies = policies_of(policy_file, apps)
    offers = offers_of(price_file, policies)
    return PlanningInputs(policies, offers, {app: start_of({}, offers[app]) for app in apps})


def policies_of(policy_file: Path, apps: Sequence[str]) -> dict[str, Record]:
    """By app its policy, else that of "*".

    Raises:
        UsageError: an app without one, or a file that cannot be read.
    """
    policies = {r["app"]: with_defaults("policy", r) for r in files.read_policies(policy_file)}
    missing = [app for app in apps if app not in policies and DEFAULT_POLICY not in policies]
    if missing:
        raise UsageError(f"{policy_file}: no policy of app {missing[0]}, and none of '*'")
    return {app: policies.get(app) or policies[DEFAULT_POLICY] for app in apps}


def offers_of(price_file: Path, policies: Mapping[str, Record]) -> dict[str, list[Record]]:
    """The offers that each app's policy may use, by app.

    Raises:
        UsageError: an app without one, or a file that cannot be read.
    """
    prices = [with_defaults("price", r) for r in files.read_prices(price_file)]
    offers = {app: _offers(app, policy, prices) for app, policy in policies.items()}
    for app, app_offers in offers.items():
        if not app_offers:
            raise UsageError(f"{price_file}: no offer for app {app}")
    return offers


def start_of(running: Mapping[str, int], offers: Sequence[Record]) -> dict[str, int]:
    """Running instances of each of the offers."""
    return {p["offer_id"]: running.get(p["offer_id"], 0) for p in offers}


def of_topics(inputs: SideInputs, apps: Sequence[str], tick: int) -> PlanningInputs | None:
    """What was valid at a tick, and what ran then; None where there is no offer for some app.

    Args:
        inputs: of the installation.
        apps: names.
        tick: of the first plan.
    """
    policies: dict[str, Record] = {}
    for app in apps:
        known = inputs.at("policies", app, tick) or inputs.at("policies", DEFAULT_POLICY, tick)
        policies[app] = known or with_defaults("policy", default_policy(app))
    prices = inputs.all_at("prices", tick)
    offers = {app: _offers(app, policies[app], prices) for app in apps}
    if not all(offers.values()):
        return None
    observed = {app: inputs.observed(app, tick) for app in apps}
    starting = {
        app: start_of({o: r["ready"] + r["pending"] for o, r in observed[app].items()}, offers[app])
        for app in apps
    }
    return PlanningInputs(policies, offers, starting)


def later_versions(inputs: SideInputs, first: int, last: int) -> dict[str, int]:
    """Policies and prices that became valid in (first, last], which simulated fleets do not follow, by name."""
    return {
        f"{topic} {name}@{record['version']} from within the window (simulated fleets keep the one before)": 1
        for topic in ("policies", "prices")
        for name, versions in sorted(inputs.inputs[topic].items())
        for record in versions
        if first < record["valid_from_tick"] <= last
    }


def _offers(app: str, policy: Record, prices: Sequence[Record]) -> list[Record]:
    group = (policy["allocation_group"] if policy["app"] == app else "") or app
    return offered(prices, group)


def with_defaults(schema: str, record: Record) -> Record:
    """A first version, with the defaults of its schema."""
    record = {"version": 1, "valid_from_tick": 0, **record}
    return DEFAULT.with_defaults(schema, record)


def job_of(
    panel: Panel,
    window: ScoringWindow,
    members: dict[str, np.ndarray],
    records: PlanningInputs | None,
    levels: Sequence[float],
    *,
    alone: bool,
    ids: Sequence[bytes] | None = None,
) -> Job:
    """A window of a panel as a job; without records, policies are sized by the usage before the first plan.

    Args:
        panel: of the trace.
        window: of its rows.
        members: app -> columns of its users.
        records: policies and offers; modes that only watch are taken for auto. None: the demo's.
        levels: confidences of the sweep.
        alone: without a market on demand.
        ids: pseudonyms of the panel's users; none: the demo's of their names.

    Raises:
        UsageError: an app without data before the window, or without policy or offer.
    """
    rows = slice(window.begin, window.stop)
    past = slice(max(0, window.score - HISTORY_S // panel.tick_s), window.begin)
    values = panel.values[rows]
    plan_from = first_plan(window, panel.tick_s)
    given = records or sized(panel, window, members)
    policies = {app: policy_of(given.policies[app]) for app in members}
    if records is not None:
        policies = {app: replace(p, app=app, mode="auto", promotion_gates={}) for app, p in policies.items()}
    markets, starts = _markets(policies, given, alone=alone)
    local = {p["offer_id"]: LocalOffer.of(p) for app_prices in given.prices.values() for p in app_prices}
    key = Key("demo", DEMO_KEY, 0)
    return Job(
        values=values,
        events=panel.events[rows],
        saturated=panel.saturated[rows],
        ids=ids or [key.pseudonym(identity(a, u)) for a, u in zip(panel.apps, panel.users, strict=True)],
        first_tick=int(panel.ticks[window.begin]),
        tick_s=panel.tick_s,
        members=members,
        policies=policies,
        offers=markets,
        terms={name: Terms(offer.notice_s, offer.billing_min_s) for name, offer in local.items()},
        starting=starts,
        lanes=[(ALL_TIERS, None)],
        levels=levels,
        ends=_commitment_ends(given.prices),
        learn_from=max(0, plan_from - LEARN_S // panel.tick_s),
        plan_from=plan_from,
        before=promise.totals(panel.values[past], [members[app] for app in sorted(members)]),
    )


def _markets(
    policies: Mapping[str, Policy], given: PlanningInputs, *, alone: bool
) -> tuple[dict[str, dict[str, list[Offer]]], dict[str, Mapping[str, Mapping[str, int]]]]:
    """Offers, and instances that run at the beginning, by market and app.

    The market on demand is left out when `alone`, or where an app has no offer on demand.
    """
    offers = {app: [offer_of(p) for p in given.prices[app]] for app in policies}
    markets, starts = {ALL_TIERS: offers}, {ALL_TIERS: given.starting}
    on_demand = {app: [o for o in offers[app] if o.tier == "ON_DEMAND"] for app in policies}
    if not alone and all(on_demand.values()):
        markets[ON_DEMAND] = on_demand
        starts[ON_DEMAND] = {
            app: _on_demand_start(policy, offers[app], given.starting[app])
            for app, policy in policies.items()
        }
    return markets, starts


def _commitment_ends(prices: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """By offer id, when its commitment ends in unix seconds; offers without a commitment are left out."""
    return {
        p["offer_id"]: p["commitment_end"].timestamp()
        for app_prices in prices.values()
        for p in app_prices
        if p["commitment_end"] is not None
    }


def _on_demand_start(policy: Policy, offers: Sequence[Offer], counts: Mapping[str, int]) -> dict[str, int]:
    """Instances of the cheapest on-demand offer that carry at least the replicas of `counts`, by offer id."""
    size = {o.offer_id: capacity.replicas_per_instance(o, policy) for o in offers}
    replicas = sum(size[o] * n for o, n in counts.items())
    on_demand = [o for o in offers if o.tier == "ON_DEMAND" and size[o.offer_id] > 0]
    if not on_demand:
        return {}
    best = min(on_demand, key=lambda o: (o.price_h / size[o.offer_id], o.offer_id))
    return {best.offer_id: -(-replicas // size[best.offer_id])}
