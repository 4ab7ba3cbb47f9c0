"""Converts records of policies, prices and observed capacity to the parameter objects of `models.capacity`."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from models.capacity import ROUNDING, Answer, Observed, Offer, Policy
from pipeline.wire.codec import Record

_SYMBOLS: Final = ("confidence_of", "nodes")
"""Fields of a policy that are symbols in capitals in its record."""
OBSERVED_COUNTS: Final = ("ready", "pending", "draining", "failed", "interrupted")
"""Numbers of instances in a record `capacity_observed`."""


def _amounts(pairs: list[Record]) -> dict[str, float]:
    return {pair["metric"]: pair["value"] for pair in pairs}


def policy_of(record: Record) -> Policy:
    """`Policy` from a record `policy`."""
    plain = {name: record[name] for name in Policy.__dataclass_fields__ if name in record}
    for name in ("unit", "overhead", "base", "target_utilisation", "promotion_gates"):
        plain[name] = _amounts(record[name])
    for name in ("governed", "providers", "regions"):
        plain[name] = tuple(record[name])
    words = in_words(record)
    plain |= {name: words[name] for name in _SYMBOLS}
    plain["budget"] = None if record["budget"] is None else float(record["budget"])
    return Policy(**plain)


def in_words(record: Record) -> Record:
    """A record `policy` with the words that files have and `Policy` has, where its symbols differ from them."""
    return record | {name: record[name].lower() for name in _SYMBOLS}


def offer_of(record: Record, now_s: float = 0.0, max_age_s: float | None = None, tick_s: int = 0) -> Offer:
    """`Offer` from a record `price`; allocatable capacity is capacity less the overhead of system and daemons.

    Args:
        record: the price.
        now_s: event time in unix seconds; a commitment that has ended by then owns nothing and is not used.
        max_age_s: age from which a price is stale, except for reserved instances; None = prices do not age.
        tick_s: tick length, of `valid_from_tick`.
    """
    stale = ""
    if max_age_s is not None and record["tier"] != "RESERVED":
        age_s = now_s - record["valid_from_tick"] * tick_s
        stale = f"its price is {age_s / 3600:.1f} h old" if age_s > max_age_s else ""
    end: datetime | None = record["commitment_end"]
    ended = end is not None and end.timestamp() <= now_s
    reserved = _amounts(record["reserved_overhead"])
    capacity = _amounts(record["capacity"])
    return Offer(
        offer_id=record["offer_id"],
        provider=record["provider"],
        region=record["region"],
        zone=record["zone"],
        tier=record["tier"],
        allocatable={metric: value - reserved.get(metric, 0.0) for metric, value in capacity.items()},
        price_h=float(record["price"]),
        startup_p50_s=record["startup_p50_s"],
        startup_p90_s=record["startup_p90_s"],
        startup_p99_s=record["startup_p99_s"],
        launch_failure=record["launch_failure"],
        interruption_h=record["interruption"],
        pool=record["pool"],
        owned_count=0 if ended else record["owned_count"] or 0,
        ended=f"its commitment ended on {end:%Y-%m-%d %H:%M} UTC" if ended else "",
        quota_group=record["quota_group"] or "",
        quota_limit=record["quota_limit"],
        stale=stale,
    )


def reported_of(record: Record) -> dict[str, float]:
    """By metric, what one instance has for replicas by a record `capacity_observed`; empty where none is ready."""
    return _amounts(record.get("allocatable", [])) if record["ready"] > 0 else {}


def in_units(seen: Observed, record: Record, unit: Mapping[str, float]) -> Observed:
    """Replicas that ask for another amount than a policy's unit as so many of that unit as they make up.

    Args:
        seen: as they are reported.
        record: the observation, whose `allocatable` is what one asks for; metrics of only one of both do not count.
        unit: of the policy, by metric.
    """
    size = _amounts(record.get("allocatable", []))
    shares = [size[metric] / amount for metric, amount in unit.items() if metric in size and amount > 0]
    if all(abs(share - 1) < ROUNDING for share in shares):
        return seen
    share = min(1.0, *shares)
    ready, running = (int(n * share + ROUNDING) for n in (seen.ready, seen.running))
    old, new = (
        " and ".join(f"{amount:g} {metric}" for metric, amount in sorted(of.items())) for of in (size, unit)
    )
    resized = f"replicas ask for {old}, and the policy's for {new}"
    return replace(seen, ready=ready, pending=running - ready, resized=resized)


def offered(prices: Iterable[Record], group: str) -> list[Record]:
    """The prices without those of offers that are committed to another allocation group."""
    return [price for price in prices if price["commitment_id"] in (None, "", group)]


def refuse_negative(record: Record, names: Iterable[str], where: str = "") -> None:
    """Refuse a count below 0; one that is null is none.

    Raises:
        ValueError: names the first of the fields, and with `where` of what it is.
    """
    for name in names:
        count = record[name]
        if count is not None and count < 0:
            raise ValueError(f"{name}{where} is {count}: a count is 0 or more")


def observed_of(record: Record, sent: Mapping[str, int], at_s: float | None, *, silent: bool) -> Observed:
    """`Observed` from a record `capacity_observed`.

    Args:
        record: the observation.
        sent: ticks of the plans whose commands changed the target last, by the commands' ids.
        at_s: event time of the observation; None: it is not followed.
        silent: whether a newer one is overdue.
    """
    counts = ("ready", "pending", "draining", "failed", "interrupted", "generation", "autoscaled")
    answer, command = record["answer"], record["command_id"]
    return Observed(
        **{name: record[name] for name in counts},
        at_s=at_s,
        silent=silent,
        managed_by=record["managed_by"],
        set_by=None if command is None else sent.get(command, -1),
        answer=None if answer is None else Answer(**answer),
    )
