"""The same window under other policies, prices, confidence or start-up times, or with a campaign in it.

An alternative is a text of settings, apart by spaces; each has a run of its own and is set beside the run as given:

    confidence=0.999            of every app
    policy.FIELD=VALUE          any other field of the policy's record that holds a number, a word, true or false
    policies=FILE prices=FILE   other files
    price=1.2 price.spot=2      times as dear, all offers or those of a tier; likewise startup, interruption and
                                launch_failure
    replica=0.1                 replicas and instances of a tenth of the size, at a tenth of the price: rounding is a
                                tenth (docs/scoring.md)
    campaign=APP@TIME/2h/x3     so many times the app's demand ("*": of all apps) from a time on, unannounced
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.capacity import validate
from models.evaluation import day_bootstrap
from models.evaluation.policy_outcomes import weights
from pipeline.backtest import setup
from pipeline.backtest.comparison import OURS, Comparison
from pipeline.backtest.demand import DemandSource
from pipeline.backtest.job import TIERS, Arrays, Job
from pipeline.backtest.setup import PlanningInputs
from pipeline.errors import UsageError
from pipeline.format import parse_number, parse_time
from pipeline.traces import window
from pipeline.wire.codec import Record
from pipeline.wire.policies import policy_of

FACTORS: Final = {
    "price": ("price",),
    "startup": ("startup_p50_s", "startup_p90_s", "startup_p99_s"),
    "interruption": ("interruption",),
    "launch_failure": ("launch_failure",),
}
"""Settings that multiply fields of offers."""
SHOWN: Final = (
    "hit_rate", "promise", "unserved", "worst_shortfall", "longest_run", "cost", "cost_reserved", "cost_on_demand",
    "cost_spot", "slack", "actions",
)  # fmt: skip
TENTH: Final = (
    0.1  # of a replica: a rounding up costs half of it on average, 0.4 % of the demo's median of 12
)
_CAMPAIGN = re.compile(r"(?P<app>.+)@(?P<start>[^/]+)/(?P<length>\w+)/x(?P<factor>[\d.]+)")


@dataclass(frozen=True)
class Alternative:
    """A window with changed settings.

    Attributes:
        text: of the settings, as given.
        source, records: demand, and policies and offers, with the changes.
    """

    text: str
    source: DemandSource
    records: PlanningInputs

    def digest(self, base: bytes) -> str:
        """Key of its files, from the key of the request as given."""
        digest = hashlib.blake2b(base + self.text.encode(), digest_size=8)
        digest.update(repr(self.records).encode())  # what files say, too
        return digest.hexdigest()


def parse(text: str, source: DemandSource, records: PlanningInputs) -> Alternative:
    """Read an alternative to a request.

    Raises:
        UsageError: a setting that is unknown or cannot be.
    """
    given = Alternative(text, source, records)
    for setting in text.split():
        name, equals, value = setting.partition("=")
        if not equals or not value:
            raise UsageError(f"--what-if {setting!r}: not NAME=VALUE")
        given = _with(given, name, value)
    if not text.split():
        raise UsageError("--what-if: nothing is different")
    return given


def _with(given: Alternative, name: str, value: str) -> Alternative:
    records, apps = given.records, list(given.records.policies)
    kind, _, of = name.partition(".")
    if name == "confidence" or kind == "policy":
        return replace(given, records=_policies(records, "confidence" if name == "confidence" else of, value))
    if name == "policies":
        policies = setup.policies_of(Path(value), apps)
        return replace(given, records=replace(records, policies=policies))
    if name == "prices":
        prices = setup.offers_of(Path(value), records.policies)
        starting = {app: setup.start_of(records.starting[app], prices[app]) for app in apps}
        changed = replace(records, prices=prices, starting=starting)
        if changed.currency != records.currency:
            raise UsageError(
                f"--what-if {name}={value}: its prices are in {changed.currency}, those that it is compared with in "
                f"{records.currency}: give [rates] to {records.currency}"
            )
        return replace(given, records=changed)
    if kind in FACTORS:
        return replace(given, records=_offers(records, kind, of, _number(name, value)))
    if name == "replica":
        return replace(given, records=smaller(records, _number(name, value)))
    if name == "campaign":
        return replace(given, source=_campaign(given.source, value))
    known = "confidence, policy.FIELD, policies, prices, replica, campaign"
    raise UsageError(f"--what-if {name!r} is unknown; known are {known}, {', '.join(FACTORS)}")


def _number(name: str, value: str) -> float:
    try:
        number = parse_number(value)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise UsageError(f"--what-if {name}={value}: a factor is a number above 0")
    return number


def _policies(records: PlanningInputs, field: str, value: str) -> PlanningInputs:
    """All policies with another value of a field."""
    changed: dict[str, Record] = {}
    for app, record in records.policies.items():
        if field not in record or isinstance(record[field], (list, dict)):
            raise UsageError(f"--what-if: a policy has no field {field!r} of one value")
        changed[app] = record | {field: _as(record[field], field, value)}
        try:
            validate(policy_of(changed[app]))
        except ValueError as error:
            raise UsageError(f"--what-if {field}={value}: {error}") from None
    return replace(records, policies=changed)


def _as(like: Any, field: str, value: str) -> Any:
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[value]
        if isinstance(like, str):
            return value
        number = parse_number(value)
        return int(value) if isinstance(like, int) or value.isdigit() else number
    except (ValueError, KeyError):
        raise UsageError(f"--what-if {field}={value}: not a value of that field") from None


def _offers(records: PlanningInputs, kind: str, tier: str, factor: float) -> PlanningInputs:
    tier = tier.upper().replace("-", "_")
    if tier and tier not in TIERS:
        raise UsageError(f"--what-if {kind}.{tier.lower()}: tiers are {', '.join(t.lower() for t in TIERS)}")

    def change(price: Record) -> Record:
        if tier and price["tier"] != tier:
            return price
        new = {field: _scaled(price[field], factor) for field in FACTORS[kind]}
        return price | new | ({"launch_failure": min(1.0, new[kind])} if kind == "launch_failure" else {})

    return replace(
        records, prices={app: [change(p) for p in prices] for app, prices in records.prices.items()}
    )


def _scaled(value: Any, factor: float) -> Any:
    return value * Decimal(repr(factor)) if isinstance(value, Decimal) else value * factor


def smaller(records: PlanningInputs, factor: float) -> PlanningInputs:
    """Replicas and instances `factor` times as large and as dear, and 1 / `factor` as many: rounding up costs less."""
    many = 1 / factor

    def amounts(pairs: list[Record]) -> list[Record]:
        return [pair | {"value": pair["value"] * factor} for pair in pairs]

    def counts(record: Record, names: tuple[str, ...]) -> Record:
        known = {name: record[name] for name in names if record.get(name) is not None}
        return {name: round(number * many) for name, number in known.items()}

    policies = {
        app: p
        | {"unit": amounts(p["unit"]), "overhead": amounts(p["overhead"])}
        | {"rps_per_replica": None if p["rps_per_replica"] is None else p["rps_per_replica"] * factor}
        | counts(p, ("min", "max", "max_up", "max_down"))
        for app, p in records.policies.items()
    }
    prices = {
        app: [
            p
            | {name: amounts(p[name]) for name in ("capacity", "reserved_overhead")}
            | {"price": _scaled(p["price"], factor)}
            | counts(p, ("owned_count", "quota_limit"))
            for p in found
        ]
        for app, found in records.prices.items()
    }
    starting = {
        app: {o: round(n * many) for o, n in found.items()} for app, found in records.starting.items()
    }
    return PlanningInputs(policies, prices, starting)


def _campaign(source: DemandSource, value: str) -> DemandSource:
    match = _CAMPAIGN.fullmatch(value)
    if match is None:
        raise UsageError(
            f"--what-if campaign={value}: not APP@TIME/DURATION/xFACTOR, as *@2026-01-02T10:00Z/2h/x3"
        )
    panel = source.panel
    factor = _number("campaign", match["factor"])
    begin = parse_time(match["start"]) / panel.tick_s
    inside = (panel.ticks >= begin) & (panel.ticks < begin + window.ticks_of(match["length"], panel.tick_s))
    mine = np.array([match["app"] in ("*", app) for app in panel.apps])
    if not inside[source.window.begin : source.window.stop].any() or not mine.any():
        raise UsageError(f"--what-if campaign={value}: no tick of the window, or no such app")
    by = np.where(inside[:, None] & mine, np.float32(factor), np.float32(1))[..., None]
    return source.changed(replace(panel, values=panel.values * by, events=panel.events * by))


def figures(job: Job, ours: Arrays, compared: Comparison) -> dict[str, np.ndarray]:
    """Our figures of all apps, (draw of the bootstrap); every alternative draws the same days."""
    market, outcomes = next(iter(compared.outcomes.items()))
    skip = len(ours["ready"]) - len(compared.demand)
    days = day_bootstrap.by_day(
        outcomes,
        compared.lanes[market][OURS][0],
        tiers={tier: ours["tiers"][skip:, :, 0, i] for i, tier in enumerate(TIERS)},
        promise=compared.promise,
    )
    return day_bootstrap.figures(days, weights(len(np.unique(outcomes.day)), job.seed))


def differences(
    base: Mapping[str, np.ndarray], others: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """By alternative and figure: its value with its interval, and its difference from the request as given."""
    return [
        {
            "what_if": text,
            "figure": name,
            "as_given": day_bootstrap.stated(base[name])["value"],
            **day_bootstrap.stated(drawn[name]),
            **{f"difference_{k}": v for k, v in day_bootstrap.stated(drawn[name] - base[name]).items()},
        }
        for text, drawn in others.items()
        for name in SHOWN
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Texts for people: a row for each figure, a column for each alternative."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault(
            row["figure"], {"": row["figure"].replace("_", " "), "as given": _text(row["as_given"])}
        )
        low, high = row["difference_low"], row["difference_high"]
        within = "" if low is None or high is None else f" ({low:+.4g} to {high:+.4g})"
        change = "" if row["difference_value"] is None else f", {row['difference_value']:+.4g}{within}"
        line[row["what_if"]] = _text(row["value"]) + change
    return list(lines.values())


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"
