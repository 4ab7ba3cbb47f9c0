"""From demand to capacity: policies, offers, what is running, and how many replicas a demand needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.metrics import METRICS

Tier = Literal["RESERVED", "ON_DEMAND", "SPOT"]
MODES: Final = ("shadow", "canary", "auto", "paused")
SCALE_DOWN: Final = ("never", "drain", "any")
GATES: Final = ("coverage", "decisions")  # see models.planning.promotion
GATE_DECISIONS: Final = 288  # a day of 5-minute ticks: a rhythm of the day is then in the measure
MOST_DECISIONS: Final = (
    10_000  # bounds an app's memory to 10 KB; 0.99 is known to 0.1 % (√(0.99 · 0.01 / 10⁴))
)
FALLBACKS: Final = ("reactive", "hold")  # see models.planning.failing_offers
CONFLICTS: Final = ("reassert", "hold")  # see models.planning.delivery
CONFIDENCE_OF: Final = ("plan", "time")  # see docs/policies.md
NODES: Final = ("own", "shared")  # see docs/pools.md
# Replicas below which a rounding is not a need: float32 errs by 6e-8 × 100 replicas = 6e-6.
ROUNDING: Final = 1e-5
MUCH_LARGER: Final = (
    2  # an overhead that a price reserves, and a provider does not, is less than half of an instance
)
MOST_REPLICAS: Final = 10**9
"""That an app needs, and fit into an instance: as many are a unit mistaken, as bytes for GiB. Twice as many are an
int32."""
SATURATED_EXTRA: Final = 0.5  # a saturated user counts 1.5 times its usage (docs/records.md, "Censoring")


@dataclass(frozen=True)
class Offer:
    """Something that can be bought, an instance at a time.

    allocatable: per metric, what an instance has for replicas (instance - system - daemons)
    price_h: per hour; interruption_h: interruptions per hour; launch_failure: 0 to 1
    pool: what is taken back together; owned_count: instances already paid, for RESERVED
    quota_limit: most instances of all offers of the quota_group together, None = no limit
    ended: why it is not to be had any more, where it is not; stale: why its price is not to be trusted, likewise
    mismatch: how many replicas fit by its reports, where by its price it is more, or half of them
    learnt: what it states and was not, where it was found to be otherwise (`models.supply.offers`)
    loss_correlation: of two instances of its pool, None = the usual one (`models.purchase.market`);
    provider_correlation: of losses of two pools of its provider, 0 = none
    detect_s: seconds by which losses are seen later than at a tick's end
    """

    offer_id: str
    provider: str
    region: str
    zone: str
    tier: Tier
    allocatable: Mapping[str, float]
    price_h: float
    startup_p50_s: float
    startup_p90_s: float
    startup_p99_s: float
    launch_failure: float = 0.0
    interruption_h: float = 0.0
    pool: str = ""
    owned_count: int = 0
    quota_group: str = ""
    quota_limit: int | None = None
    ended: str = ""
    stale: str = ""
    mismatch: str = ""
    learnt: str = ""
    loss_correlation: float | None = None
    provider_correlation: float = 0.0
    detect_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """Result of a command: the tick that it was planned for, status and reason as of the record `command_result`.

    after: desired count that the provider accepted; generation: of the target since then; None = not known
    """

    epoch: int
    status: str
    reason: str = ""
    after: int | None = None
    generation: int | None = None


@dataclass(frozen=True)
class Observed:
    """Instances of one offer as last reported. Draining, failed and interrupted ones are not counted on.

    at_s: event time of the report, unix seconds, 0 = there was none yet; None: no reports are to be expected
    silent: whether a report is overdue; managed_by: who set the generation; answer: to the newest command
    set_by: tick of the command of ours that set the generation, -1 = somebody else did, None = not known
    autoscaled: of the running ones, those beyond the commanded count that an autoscaler holds: they serve, and are its
    resized: of replicas, what they ask for where that is not what the policy says; counts are in those of the policy
    """

    ready: int = 0
    pending: int = 0
    draining: int = 0
    failed: int = 0
    interrupted: int = 0
    generation: int = 0
    autoscaled: int = 0
    at_s: float | None = None
    silent: bool = False
    managed_by: str = "leadtime"
    set_by: int | None = None
    answer: Answer | None = None
    resized: str = ""

    @property
    def running(self) -> int:
        """Instances that serve or will."""
        return self.ready + self.pending


@dataclass(frozen=True)
class Policy:
    """How an app's capacity is decided; the fields of the record `policies`.

    unit, overhead, base, target_utilisation: per metric, see `replica_loads`; a utilisation that is absent is 1.
    min, max, max_up, max_down: replicas, the last two a tick; beyond_max: share by which max may be exceeded.
    budget: per hour, None = no limit; min_on_demand: share of the replicas that are not spot.
    providers, regions: allowed, empty = all. churn_threshold: share of the cost below which nothing shrinks.
    zone_share: most of the replicas in one zone. pool_loss: share of any one spot pool that the promise survives.
    shortage_price_h: price of an hour in which capacity does not suffice; each plan is then as sure as costs least in
    all, and at least `confidence` (`models.planning.shortage_price`).
    confidence_of: what holds in the share `confidence`: each plan, over its window, or capacity, over time (which the
    learner steers towards). hold_s_min, hold_s_max: bounds of the hold time that the learner may choose, None = hold_s.
    learner: whether its adjustments are followed.
    nodes: of a group's policy: whether its apps share nodes, or have their own. On shared nodes, of an app's: priority,
    the higher is placed first; replica_startup_s: from a replica's placement until it serves.
    """

    app: str
    governed: tuple[str, ...]
    unit: Mapping[str, float]
    version: int = 0
    valid_from_tick: int = 0
    author: str = ""
    mode: str = "shadow"
    allocation_group: str = ""
    confidence: float = 0.99
    confidence_of: Literal["plan", "time"] = "plan"
    overhead: Mapping[str, float] = field(default_factory=dict[str, float])
    base: Mapping[str, float] = field(default_factory=dict[str, float])
    target_utilisation: Mapping[str, float] = field(default_factory=dict[str, float])
    rps_per_replica: float | None = None
    latency_slo_s: float | None = None
    min: int = 0
    max: int = 1000
    beyond_max: float = 0.0
    budget: float | None = None
    min_on_demand: float = 0.0
    spot_return_wait_s: float = 600.0
    providers: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    zone_share: float | None = None
    pool_loss: float = 0.0
    shortage_price_h: float | None = None
    max_up: int | None = None
    max_down: int | None = None
    hold_s: float = 600.0
    hold_s_min: float | None = None
    hold_s_max: float | None = None
    idle_after_s: float = 3600.0
    scale_down: str = "any"
    drain_s: float = 0.0
    churn_threshold: float = 0.02
    promotion_gates: Mapping[str, float] = field(default_factory=dict[str, float])
    fallback: str = "reactive"
    on_conflict: str = "reassert"
    learner: bool = False
    nodes: Literal["own", "shared"] = "own"
    priority: int = 0
    replica_startup_s: float = 10.0

    @property
    def limit(self) -> int:
        """Most replicas that may be asked for: the maximum, and what it may be exceeded by."""
        return min(math.floor(self.max * (1 + self.beyond_max) + ROUNDING), MOST_REPLICAS - 1)

    @property
    def least_decisions(self) -> int:
        """Decisions that the promotion gates judge by."""
        return int(self.promotion_gates.get("decisions", GATE_DECISIONS))

    @property
    def hold_bounds(self) -> tuple[float, float]:
        """Shortest and longest hold time that the learner may choose, in seconds; `hold_s` where none is given."""
        shortest = self.hold_s if self.hold_s_min is None else self.hold_s_min
        return shortest, self.hold_s if self.hold_s_max is None else self.hold_s_max

    def size(self, metric: str) -> float:
        """What one replica has of a metric; for requests its rate, where that is given."""
        if metric == "requests" and self.rps_per_replica is not None:
            return self.rps_per_replica
        return self.unit[metric]

    def usable(self, metric: str) -> float:
        """What one replica takes of a metric's demand, at its target utilisation and less its overhead."""
        return self.target_utilisation.get(metric, 1.0) * self.size(metric) - self.overhead.get(metric, 0.0)


def validate(policy: Policy) -> Policy:
    """The policy, if it can be followed.

    Raises:
        ValueError: one line that names the app, the field and what is wrong with it.
    """
    rules = [
        *_demand_rules(policy),
        *_limit_rules(policy),
        *_change_rules(policy),
        *_promotion_rules(policy),
    ]
    for holds, message in rules:
        if not holds:
            raise ValueError(f"policy of {policy.app or '?'}: {message}")
    return policy


def _demand_rules(policy: Policy) -> list[tuple[bool, str]]:
    """Conditions on what demand a replica carries, each with the message where it does not hold."""
    named = {*policy.unit} | ({"requests"} if policy.rps_per_replica is not None else set())
    amounts = {"unit": policy.unit, "overhead": policy.overhead, "base": policy.base}
    return [
        (policy.app != "", "app must not be empty"),
        (policy.mode in MODES, f"mode must be one of {', '.join(MODES)}, got {policy.mode!r}"),
        (policy.nodes in NODES, f"nodes must be one of {', '.join(NODES)}, got {policy.nodes!r}"),
        (0 < policy.confidence < 1, f"confidence must be between 0 and 1, got {policy.confidence}"),
        (
            policy.confidence_of in CONFIDENCE_OF,
            f"confidence_of must be one of {', '.join(CONFIDENCE_OF)}, got {policy.confidence_of!r}",
        ),
        (len(policy.governed) > 0, "governed must name at least one metric"),
        *((m in METRICS, f"governed must be of {', '.join(METRICS)}, got {m!r}") for m in policy.governed),
        *((m in named, f"unit has no size for the governed metric {m}") for m in policy.governed),
        *(
            (math.isfinite(value) and value >= 0, f"{name} of {metric} must be at least 0, got {value}")
            for name, values in amounts.items()
            for metric, value in values.items()
        ),
        *(
            (0 < share <= 1, f"target_utilisation of {metric} must be above 0 and at most 1, got {share}")
            for metric, share in policy.target_utilisation.items()
        ),
        *((m not in named or policy.size(m) > 0, f"unit of {m} must be above 0") for m in policy.governed),
        *(
            (
                m not in named or policy.usable(m) > 0,
                f"overhead of {m} leaves nothing of a replica at its target utilisation",
            )
            for m in policy.governed
        ),
    ]


def _limit_rules(policy: Policy) -> list[tuple[bool, str]]:
    """Conditions on the bounds of a purchase, each with the message where it does not hold."""
    return [
        (policy.min >= 0, f"min must be at least 0, got {policy.min}"),
        (policy.min < MOST_REPLICAS, f"min must be below {MOST_REPLICAS:,}, got {policy.min}"),
        (policy.max >= policy.min, f"max ({policy.max}) is below min ({policy.min})"),
        (policy.beyond_max >= 0, f"beyond_max must be at least 0, got {policy.beyond_max}"),
        (policy.budget is None or policy.budget >= 0, f"budget must be at least 0, got {policy.budget}"),
        (0 <= policy.min_on_demand <= 1, f"min_on_demand must be in 0 to 1, got {policy.min_on_demand}"),
        (0 <= policy.pool_loss <= 1, f"pool_loss must be in 0 to 1, got {policy.pool_loss}"),
        (
            policy.shortage_price_h is None or 0 <= policy.shortage_price_h < math.inf,
            f"shortage_price_h must be at least 0, got {policy.shortage_price_h}",
        ),
        (
            policy.zone_share is None or 0 < policy.zone_share <= 1,
            f"zone_share must be above 0 and at most 1, got {policy.zone_share}",
        ),
    ]


def _change_rules(policy: Policy) -> list[tuple[bool, str]]:
    """Conditions on how fast capacity may change, each with the message where it does not hold."""
    return [
        *(
            (step is None or step >= 1, f"{name} must be at least 1, got {step}")
            for name, step in (("max_up", policy.max_up), ("max_down", policy.max_down))
        ),
        *(
            (math.isfinite(span) and span >= 0, f"{name} must be at least 0 seconds, got {span}")
            for name in (
                "hold_s",
                "hold_s_min",
                "hold_s_max",
                "idle_after_s",
                "drain_s",
                "spot_return_wait_s",
                "replica_startup_s",
            )
            for span in (getattr(policy, name),)
            if span is not None
        ),
        (
            policy.hold_bounds[0] <= policy.hold_s,
            f"hold_s_min ({policy.hold_bounds[0]:g}) must be at most hold_s ({policy.hold_s:g})",
        ),
        (
            policy.hold_s <= policy.hold_bounds[1],
            f"hold_s_max ({policy.hold_bounds[1]:g}) must be at least hold_s ({policy.hold_s:g})",
        ),
        (
            policy.scale_down in SCALE_DOWN,
            f"scale_down must be one of {', '.join(SCALE_DOWN)}, got {policy.scale_down!r}",
        ),
        (policy.scale_down != "drain" or policy.drain_s > 0, "scale_down drain needs a drain_s above 0"),
    ]


def _promotion_rules(policy: Policy) -> list[tuple[bool, str]]:
    """Conditions on promotion, fallback and churn, each with the message where it does not hold."""
    return [
        *(
            (name in GATES, f"promotion_gates must be of {', '.join(GATES)}, got {name!r}")
            for name in policy.promotion_gates
        ),
        (
            not policy.promotion_gates or 0 < policy.promotion_gates.get("coverage", 0) <= 1,
            "promotion_gates must give a coverage above 0 and at most 1",
        ),
        (
            1 <= policy.least_decisions <= MOST_DECISIONS,
            f"promotion_gates must give 1 to {MOST_DECISIONS} decisions, got {policy.least_decisions}",
        ),
        (
            policy.fallback in FALLBACKS,
            f"fallback must be one of {', '.join(FALLBACKS)}, got {policy.fallback!r}",
        ),
        (
            policy.on_conflict in CONFLICTS,
            f"on_conflict must be one of {', '.join(CONFLICTS)}, got {policy.on_conflict!r}",
        ),
        (
            0 <= policy.churn_threshold < 1,
            f"churn_threshold must be at least 0 and below 1, got {policy.churn_threshold}",
        ),
    ]


def replica_loads(
    demand: NDArray[np.floating[Any]], metrics: Sequence[str], policy: Policy
) -> NDArray[np.floating[Any]]:
    """Replicas that each governed metric needs, not rounded: (b + D) / (ρ u - o), (..., governed).

    b the app's base, D demand, u the unit's size, ρ the target utilisation, o a replica's overhead (docs/records.md,
    "From demand to capacity"). Governed metrics that `metrics` lacks are left out; NaN demand needs nothing.

    demand: (..., metric), in the order of `metrics`.
    """
    names = governed(metrics, policy)
    index = [metrics.index(name) for name in names]
    base = np.array([policy.base.get(name, 0.0) for name in names], dtype=demand.dtype)
    usable = np.array([policy.usable(name) for name in names], dtype=demand.dtype)
    return np.nan_to_num((base + demand[..., index]) / usable, nan=0.0)


def replica_load(metric: str, demand: float, policy: Policy) -> float:
    """Replicas that one governed metric needs for a demand, as `replica_loads`; NaN for NaN demand."""
    return (policy.base.get(metric, 0.0) + demand) / policy.usable(metric)


def governed(metrics: Sequence[str], policy: Policy) -> tuple[str, ...]:
    """The governed metrics among those forecast, in the policy's order."""
    return tuple(name for name in policy.governed if name in metrics)


def replicas(loads: NDArray[np.floating[Any]], policy: Policy) -> NDArray[np.int32]:
    """Whole replicas for loads (..., governed): the largest over metrics, at least the policy's minimum.

    At most MOST_REPLICAS: a larger load is as far beyond what can be bought.
    """
    largest = np.minimum(loads.max(axis=-1, initial=0.0), MOST_REPLICAS)
    whole = np.ceil(largest - ROUNDING).astype(np.int32)
    return np.maximum(whole, np.int32(policy.min))


def floor_demand(usage: NDArray[np.float64], saturated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Demand that the present usage proves, (metric): a saturated user counts 1.5 times, once.

    usage: (metric), the app's; saturated: (metric), the part of it that saturated users have.
    """
    return usage + SATURATED_EXTRA * saturated


def replicas_per_instance(offer: Offer, policy: Policy) -> int:
    """Whole replicas that fit in an instance: a floor per resource, the least of them, at most MOST_REPLICAS.

    0 = of no use.
    """
    fits = [
        math.floor(min(room / policy.unit[metric], MOST_REPLICAS) + ROUNDING) if math.isfinite(room) else 0
        for metric, room in offer.allocatable.items()
        if policy.unit.get(metric, 0.0) > 0
    ]
    return max(0, min(fits, default=0))


def as_reported(offer: Offer, reported: Mapping[str, float], policy: Policy) -> Offer:
    """The offer with what its instances were reported to have, where fewer replicas fit into that; else as it is.

    Where twice as many replicas or more fit, the price counts, and `mismatch` says so.

    reported: per metric, what an instance has for replicas; what is not a number above 0 is not known. A metric that
    the offer does not name is taken from the report.
    """
    known = {metric: room for metric, room in reported.items() if 0 < room < math.inf}
    less = {metric: room for metric, room in known.items() if room < offer.allocatable.get(metric, math.inf)}
    stated, least, fit = (
        replicas_per_instance(replace(offer, allocatable={**offer.allocatable, **room}), policy)
        for room in ({}, less, known)
    )
    if stated <= least and fit < MUCH_LARGER * max(stated, 1):
        return offer
    decisive, number = (less, least) if least < stated else (known, fit)
    amounts = ", ".join(f"{room:.6g} of {metric}" for metric, room in sorted(decisive.items()))
    counts = "" if least < stated else ", which counts"
    return replace(
        offer,
        allocatable={**offer.allocatable, **less},
        mismatch=f"an instance is reported to have {amounts}: {number} replicas fit, and {stated} by its price's "
        f"capacity{counts}",
    )


def committed(offers: Iterable[Offer]) -> float:
    """Cost per hour of what is paid whatever is used; a price that is none counts nothing."""
    return sum(o.price_h * o.owned_count for o in offers if o.tier == "RESERVED" and math.isfinite(o.price_h))


def quotas(offers: Sequence[Offer]) -> dict[str, tuple[tuple[str, ...], int]]:
    """By quota group that names a limit: its offers' ids, and the least limit that they name, in instances."""
    limits_by_group: dict[str, tuple[tuple[str, ...], int]] = {}
    for group in sorted({o.quota_group for o in offers if o.quota_group}):
        of = [o for o in offers if o.quota_group == group]
        limits = [o.quota_limit for o in of if o.quota_limit is not None]
        if limits:
            limits_by_group[group] = tuple(o.offer_id for o in of), max(0, min(limits))
    return limits_by_group


def why_unusable(offer: Offer, policy: Policy) -> str | None:
    """Why an offer may not be bought, or None."""
    if offer.ended:
        return offer.ended
    if policy.providers and offer.provider not in policy.providers:
        return f"provider {offer.provider} is not allowed"
    if policy.regions and offer.region not in policy.regions:
        return f"region {offer.region} is not allowed"
    if not (math.isfinite(offer.price_h) and offer.price_h >= 0):
        return f"price {offer.price_h} is not a price"
    if not 0 <= offer.launch_failure < 1:
        return f"launch failure {offer.launch_failure} is not a share below 1"
    if not (math.isfinite(offer.interruption_h) and offer.interruption_h >= 0):
        return f"interruptions {offer.interruption_h} are not a rate"
    if not (math.isfinite(offer.startup_p99_s) and offer.startup_p99_s >= 0):
        return f"start-up time {offer.startup_p99_s} is not a time"
    if offer.tier == "SPOT" and policy.min_on_demand >= 1:
        return "the policy buys no spot"
    return _why_unfit(offer, policy)


def _why_unfit(offer: Offer, policy: Policy) -> str | None:
    """Why an offer's instances carry no replica, or none that can be meant; None: they carry some."""
    fit = replicas_per_instance(offer, policy)
    if fit < 1:
        return f"a replica does not fit{f' ({offer.mismatch})' if offer.mismatch else ''}"
    return (
        f"{MOST_REPLICAS:,} replicas or more fit: is the policy's unit as meant?"
        if fit >= MOST_REPLICAS
        else None
    )


def why_unkept(policy: Policy, offers: Sequence[Offer]) -> str | None:
    """Why no instances of these offers keep a policy's minimum and maximum, with their sizes; None: some do."""
    refused = {o.offer_id: why_unusable(o, policy) for o in offers}
    usable = [o for o in offers if refused[o.offer_id] is None]
    if not usable:
        return "no offer carries a replica: " + "; ".join(f"{o}: {why}" for o, why in sorted(refused.items()))
    size = {o.offer_id: replicas_per_instance(o, policy) for o in usable}
    sizes = ", ".join(f"{o} {n}" for o, n in sorted(size.items()))
    most = _most_replicas(usable, size)
    if most < policy.min:
        return f"min is {policy.min} replicas, all that may be bought carries {most:g} (replicas an instance: {sizes})"
    least, limit = max(policy.min, 1), policy.limit
    if limit >= least + min(size.values()):
        return None
    totals = 1  # bit n: n replicas are attainable; an offer's instances are added in powers of two
    for n in {n for n in size.values() if n <= limit}:
        step = n
        while step <= limit:
            totals, step = totals | totals << step & (1 << limit + 1) - 1, 2 * step
    if limit > 0 and not totals >> least:
        return (
            f"no number of instances carries from min {policy.min} to max {limit} replicas "
            f"(replicas an instance: {sizes}): the smallest max that can be kept is {_smallest(size.values(), least)}"
        )
    return None


def _most_replicas(offers: Sequence[Offer], size: Mapping[str, int]) -> float:
    """Replicas of all that may be bought: what is owned, and of the others what quotas leave; infinite without one."""
    limited, total = quotas(offers), 0.0
    for of, most in limited.values():
        total += most * max(size[o] for o in of)
    grouped = {o for of, _ in limited.values() for o in of}
    for offer in offers:
        if offer.offer_id not in grouped:
            total += size[offer.offer_id] * offer.owned_count if offer.tier == "RESERVED" else math.inf
    return total


def _smallest(sizes: Iterable[int], least: int) -> int:
    """The fewest replicas, `least` at least, that instances of one size carry."""
    return min(-(-least // n) * n for n in sizes)
