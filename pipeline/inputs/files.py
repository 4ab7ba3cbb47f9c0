"""Policies, prices and calendar events from TOML files, checked.

A table [[policy]], [[price]] or [[event]] for each record, with the field names of its schema; what is left out has
the schema's default. An amount by metric is an inline table, as in `unit = {cpu = 2, memory = "4GiB"}`; money is a
number or a string; a time without an offset is in the record's `timezone`, else UTC. A refusal is one line: the
file, the record, the field, and what is wrong with it.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from datetime import time as clock_time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

from models.capacity import MOST_REPLICAS, validate, why_unkept
from models.metrics import METRIC_UNITS, METRICS
from models.telemetry_rules import LEAST_MEANT, MOST, MOST_CORES
from pipeline import format as fmt
from pipeline.errors import UsageError
from pipeline.names import name_fault, offer_fault
from pipeline.wire.codec import DEFAULT, Record, published
from pipeline.wire.currencies import CODES, converted, mixed
from pipeline.wire.currencies import MOST as MONEY_MAX
from pipeline.wire.plans import DEFAULT_POLICY
from pipeline.wire.policies import offer_of, offered, policy_of

Rules = list[tuple[bool, str]]

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kKMGTP])(i?))?B?", re.ASCII)
"""A number, and after it a power of 1000 (k, M, G, T, P), or of 1024 with an i; a B may follow: 512MiB, 2GB, 4Gi."""
MONEY_PLACES = 6  # the schema's scale
RATE_PLACES = 12  # the schema's scale
DAY_S = 86_400.0
LONGEST_S = 365 * DAY_S
"""No time of a policy is longer than a year."""
LONGEST_STARTUP_S = 3600.0
"""Hardly any instance takes longer: of 99 % start-up times, and of minimum billing."""
MUCH_DEARER = 100
"""Times another offer's price of a core or byte: no market has both."""
_POLICY_TIMES = ("hold_s", "idle_after_s", "drain_s", "spot_return_wait_s", "latency_slo_s")
NO_EFFECT = ("latency_slo_s", "egress")
"""Fields of policies and prices that are checked and stored, and that nothing uses."""
OF_GOVERNED = ("overhead", "base", "target_utilisation")
"""Fields of a policy, by metric, that are of governed ones alone."""
OF_APPS = ("min", "max", "beyond_max", "max_up", "max_down", "learner")
"""Fields of a policy that are of its apps where a group shares nodes."""
OF_NODES = ("providers", "regions", "min_on_demand", "pool_loss", "learner")
"""Fields of an app's policy that are of its group's nodes where it shares them."""
_RANGES = {"int": 2**31, "long": 2**63}
_OF_CONVERSION = ("quoted_price", "quoted_currency", "rate")
"""Fields of a price that say how it was converted: ours to say."""


def read_policies(path: Path) -> list[Record]:
    """The policies of a file, without `version` and `valid_from_tick` where it does not give them.

    An app without an allocation group is one by itself. A group whose apps share nodes needs no governed and unit.

    Raises:
        UsageError: the file cannot be read, or a policy cannot be followed.
    """

    def check(record: Record) -> Rules:
        try:
            validate(policy_of(record))
        except ValueError as error:
            return [(False, str(error).partition(": ")[2])]
        return _policy_rules(record)

    document = _document(path)
    rows = document.get("policy")
    for row in rows if isinstance(rows, list) else ():
        if (
            isinstance(row, dict) and row.get("nodes") == "shared"
        ):  # it follows what its apps' replicas ask for
            row.update({"governed": ["cpu"], "unit": {"cpu": 1}} | row)
    return _read(path, document, "policy", "policy", "app", check, {"allocation_group": "app"})


def read_prices(path: Path) -> list[Record]:
    """The offers of a file, without `version` and `valid_from_tick` where it does not give them.

    Prices are converted by the file's table [rates], where it has one.

    Raises:
        UsageError: the file cannot be read, an offer makes no sense, or offers of one app are in several currencies.
    """
    document = _document(path)
    rates = document.pop("rates", None)
    records = _read(path, document, "price", "price", "offer_id", _price_rules, {})
    try:
        if rates is not None:
            to, others = _rates(rates)
            records = [_converted(record, to, others) for record in records]
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    fault = mixed(records)
    if fault is not None:
        raise UsageError(f"{path}: {fault}")
    return records


def _rates(table: Any) -> tuple[str, dict[str, Decimal]]:
    """A table [rates]: the currency `to` convert to, and what one unit of each other is worth in it.

    Raises:
        ValueError: what is wrong with it.
    """
    example = 'must be as [rates] to = "USD", GBP = "1.27"'
    if not isinstance(table, dict):
        raise ValueError(f"rates {example}")
    given = cast("dict[str, Any]", table)
    for code in (given.get("to"), *(given.keys() - {"to"})):
        if not isinstance(code, str) or code not in CODES:
            raise ValueError(f"rates {example}: {code!r} is no ISO code of a currency")
    rates: dict[str, Decimal] = {}
    for code, value in given.items():
        if code == "to":
            continue
        try:
            rates[code] = _decimal(value, RATE_PLACES)
        except ValueError as error:
            raise ValueError(f"rate of {code} {error}") from None
        if rates[code] <= 0:
            raise ValueError(f"rate of {code} must be above 0, got {value}")
        if code == given["to"] and rates[code] != 1:
            raise ValueError(f"rate of {code} must be left out or 1, got {value}: rates are to {code}")
    return given["to"], rates


def _converted(record: Record, to: str, rates: Mapping[str, Decimal]) -> Record:
    """`converted`, with the offer's name in the refusal."""
    try:
        return converted(record, to, rates)
    except ValueError as error:
        raise ValueError(f"price {record['offer_id']}: {error}") from None


def read_calendar(path: Path) -> list[Record]:
    """The calendar's events of a file, without `version` and `valid_from_tick` where it does not give them.

    Raises:
        UsageError: the file cannot be read, or an event makes no sense.
    """
    return _read(
        path,
        _document(path),
        "event",
        "calendar",
        "id",
        _event_rules,
        {"lift_low": "lift_mean", "lift_high": "lift_mean"},
    )


NAME_FAULTS = {"price": offer_fault}
"""By schema, what may be wrong with the name of a record; of the others `name_fault`."""
READERS = {"policies": read_policies, "prices": read_prices, "calendar": read_calendar}
"""The reader of a file of records for each topic that users publish to."""


def doubtful_amounts(record: Record) -> list[str]:
    """What hardly anybody means of a policy's or a price's fields, each with what was perhaps meant."""
    beyond_max = record.get("beyond_max", 0.0)
    doubts = [
        f"{name} of cpu is {fmt.amount(pair['value'], 'cpu')}: cores are meant, no thousandths of them"
        for name, most in MOST_CORES.items()
        for pair in record.get(name, ())
        if pair["metric"] == "cpu" and pair["value"] > most
    ]
    if beyond_max > 1:
        doubts.append(
            f"beyond_max is {beyond_max:g}: a share such as 0.2 is meant, up to {1 + beyond_max:g} times max is planned"
        )
    doubts += [
        f"{name} is {record[name]:,.16g} s ({record[name] / DAY_S:.3g} days): seconds are meant, no milliseconds"
        for name in _POLICY_TIMES
        if (record.get(name) or 0.0) > DAY_S
    ]
    if record.get("notice_s", 0.0) > 3600:
        doubts.append(f"notice_s is {record['notice_s']:,.16g}: seconds are meant, no milliseconds")
    doubts += [
        f"{name} is {record[name]:,.16g} s ({record[name] / 3600:.3g} hours): seconds are meant, no milliseconds"
        for name in ("startup_p99_s", "billing_min_s", "replica_startup_s")
        if (record.get(name) or 0.0) > LONGEST_STARTUP_S
    ]
    if record.get("tier", "RESERVED") != "RESERVED" and not record["price"]:
        doubts.append("price is 0: as many instances as the policy allows cost nothing, and are bought first")
    if record.get("interruption", 0.0) > 1:
        doubts.append(
            f"interruption is {record['interruption']:g}: the share of instances an hour is meant, such as 0.03"
        )
    return [*doubts, *_without_effect(record)] + [
        f"{name} of {pair['metric']} is {fmt.amount(pair['value'], pair['metric'])}: was a suffix such as MiB left out?"
        if pair["metric"] == "memory"
        else f"{name} of {pair['metric']} is {fmt.amount(pair['value'], pair['metric'])}"
        for name in ("unit", "capacity")
        for pair in record.get(name, ())
        if 0 < pair["value"] < LEAST_MEANT.get(pair["metric"], 0.0)
    ]


def _without_effect(record: Record) -> list[str]:
    """Which fields of a policy or a price are taken and change no plan, each with why."""
    why = [
        f"{name} has no effect: no plan or cost uses it" for name in NO_EFFECT if record.get(name) is not None
    ]
    governed = record.get("governed", ())
    why += [
        f"{name} of {pair['metric']} has no effect: {pair['metric']} is not governed"
        for name in OF_GOVERNED
        for pair in record.get(name, ())
        if pair["metric"] not in governed
    ]
    if record.get("rps_per_replica") is not None and "requests" not in governed:
        why.append("rps_per_replica has no effect: requests is not governed")
    if record.get("tier", "RESERVED") != "RESERVED" and record["owned_count"] is not None:
        why.append(f"owned_count has no effect: the tier is {record['tier']}, and RESERVED ones are owned")
    return why


def far_prices(prices: Sequence[Record]) -> dict[str, str]:
    """Which prices are far from each of the others of their currency, two or more, by offer, with what was meant.

    By a core, or by a byte of memory where an offer has no cores: a price a month, in cents, or by a reversed rate.
    """
    why: dict[str, str] = {}
    for metric in ("cpu", "memory"):
        unit_price = {
            price["offer_id"]: float(price["price"]) / size
            for price in prices
            for size in (next((of["value"] for of in price["capacity"] if of["metric"] == metric), 0.0),)
            if price["price"] and size
        }
        for price in (p for p in prices if p["offer_id"] in unit_price.keys() - why.keys()):
            offer, currency = price["offer_id"], price["currency"]
            others = [p["offer_id"] for p in prices if p["currency"] == currency and p["offer_id"] != offer]
            times = [unit_price[offer] / unit_price[other] for other in others if other in unit_price]
            if len(times) > 1 and not any(1 / MUCH_DEARER < ratio < MUCH_DEARER for ratio in times):
                why[offer] = (
                    f"price {price['price'].normalize():f} {currency} is by {metric} {MUCH_DEARER} times as dear or as "
                    "cheap as each other offer's: that of an hour is meant, no cents, at a rate that is not reversed"
                )
    return why


def contradictions(policies: Sequence[Record], prices: Sequence[Record]) -> dict[str, str]:
    """Why a policy's minimum and maximum cannot be kept by the offers that its app may buy, by app, where they cannot.

    A policy of a whole allocation group gives its budget alone, and is left out; without any price there is no reason.
    """
    groups = {
        policy["allocation_group"] for policy in policies if policy["allocation_group"] != policy["app"]
    }
    shared = {policy["app"] for policy in policies if policy["nodes"] == "SHARED"}
    why: dict[str, str] = {}
    for policy in policies:
        if policy["app"] not in groups and prices:
            offers, kept = offered(prices, policy["allocation_group"]), policy_of(policy)
            if (
                policy["allocation_group"] in shared
            ):  # a node may carry fewer replicas than its minimum, or more
                kept = replace(kept, min=0, max=MOST_REPLICAS, beyond_max=0.0)
            reason = why_unkept(kept, [offer_of(price) for price in offers]) if offers else None
            if not offers and policy["app"] != DEFAULT_POLICY:
                reason = (
                    f"no offer may be bought: all are committed to others than {policy['allocation_group']!r}"
                )
            if reason is not None:
                why[policy["app"]] = reason
    return why


def unshared(policies: Sequence[Record]) -> dict[str, str]:
    """What is taken without effect, or plans without capacity, of policies of groups that share nodes, by app."""
    why: dict[str, str] = {}
    for group in (policy for policy in policies if policy["nodes"] == "SHARED"):
        name = group["app"]
        apps = [p for p in policies if p["allocation_group"] == name and p["app"] != name]
        doubts = {
            name: [
                f"{field} does nothing for a group whose apps share nodes" for field in _set(group, OF_APPS)
            ]
        }
        if not apps:
            doubts[name] = [
                f"no policy has the allocation_group {name!r}, whose apps are to share nodes: it does nothing"
            ]
        for app in apps:
            doubts[app["app"]] = [
                f"{field} does nothing for an app of {name}, whose apps share nodes"
                for field in _set(app, OF_NODES)
            ] + _of_modes(app, group)
        why |= {app: "; ".join(texts) for app, texts in doubts.items() if texts}
    return why


def _set(policy: Record, fields: Iterable[str]) -> list[str]:
    """Which of some fields are not at their defaults."""
    defaults = {field["name"]: field.get("default") for field in published("policy").schema["fields"]}
    return [field for field in fields if policy[field] != defaults[field]]


def _of_modes(app: Record, group: Record) -> list[str]:
    """What is commanded of an app's replicas or its group's nodes and not of the others; none or one."""
    if app["mode"] in ("canary", "auto") and group["mode"] in ("shadow", "paused"):
        return [
            f"its replicas are commanded (mode {app['mode']}), and the nodes of {group['app']} are not (mode "
            f"{group['mode']}): they wait for room"
        ]
    if app["mode"] == "shadow" and group["mode"] in ("canary", "auto"):
        return [
            f"nodes of {group['app']} are bought for it too (mode {group['mode']}), and its replicas are not commanded"
            " (mode shadow)"
        ]
    return []


def unstated(policies: Sequence[Record], prices: Sequence[Record]) -> dict[str, str]:
    """Which offers name no capacity of a metric that a policy governs, by app: as many replicas fit as others allow.

    Requests are left out: what a replica serves of them is the policy's to say.
    """
    why: dict[str, list[str]] = {}
    for policy in policies:
        for metric in policy["governed"]:
            lacking = [
                price["offer_id"]
                for price in offered(prices, policy["allocation_group"])
                if metric != "requests" and all(pair["metric"] != metric for pair in price["capacity"])
            ]
            if lacking:
                others = f" and {len(lacking) - 1} others name" if len(lacking) > 1 else " names"
                why.setdefault(policy["app"], []).append(
                    f"offer {lacking[0]}{others} no capacity of {metric}, which is governed: it is taken to have enough"
                )
    return {app: "; ".join(texts) for app, texts in why.items()}


def undivided(policies: Sequence[Record], prices: Sequence[Record]) -> dict[str, str]:
    """Of which offers several allocation groups each count all owned instances, or the whole quota, by offer.

    Groups are planned each for itself, so that together they may buy so much of it several times.
    """
    why: dict[str, str] = {}
    for price in prices:
        groups = sorted(
            {
                policy["allocation_group"]
                for policy in policies
                if price["provider"] in (policy["providers"] or [price["provider"]])
                and price["region"] in (policy["regions"] or [price["region"]])
            }
        )
        names = f"each allocation group ({', '.join(groups[:3])}{', …' if len(groups) > 3 else ''})"
        several = len(groups) > 1 or groups == [DEFAULT_POLICY]
        if price["tier"] == "RESERVED" and price["owned_count"] and not price["commitment_id"] and several:
            why[price["offer_id"]] = (
                f"{names} counts its {price['owned_count']} owned instances as its own: give a commitment_id, or the"
                " apps one allocation_group"
            )
        elif price["quota_limit"] and not price["commitment_id"] and len({*groups} - {DEFAULT_POLICY}) > 1:
            why[price["offer_id"]] = (
                f"{names} keeps to its quota of {price['quota_limit']} by itself: give the apps one allocation_group"
                " where they share it"
            )
    return why


def _policy_rules(record: Record) -> Rules:
    """What `validate` leaves to files, so that policies that are published hold as they did."""
    app, rate, group = record["app"], record["rps_per_replica"], record["allocation_group"]
    twice = [name for name, count in Counter(record["governed"]).items() if count > 1]
    seconds = {name: record[name] for name in _POLICY_TIMES if record[name] is not None}
    return [
        *_texts(record, "allocation_group", "providers", "regions"),
        *(
            (
                0 <= span <= LONGEST_S,
                f"{name} must be 0 to {LONGEST_S:,.16g} seconds, a year, got {span:,.16g}",
            )
            for name, span in seconds.items()
        ),
        (
            rate is None or 0 < rate <= MOST["requests"],
            f"rps_per_replica must be above 0 and at most {MOST['requests']:,.16g}, got {rate}",
        ),
        (not twice, f"governed names {', '.join(twice)} more than once"),
        (
            app != "*" or group in ("*", ""),
            f"allocation_group must be left out: '*' is of apps that are planned each for itself, got {group!r}",
        ),
    ]


def _texts(record: Record, *names: str) -> Rules:
    """Rules of fields that hold names, or lists of them, beside a record's own: `name_fault`, but may be absent."""
    rules: Rules = []
    for field in names:
        for text in record[field] if isinstance(record[field], list) else [record[field]]:
            fault = name_fault(text) if text else None
            rules.append((fault is None, f"{field} {fault}"))
    return rules


def _price_rules(record: Record) -> Rules:
    offer = offer_of(record)
    startup = (offer.startup_p50_s, offer.startup_p90_s, offer.startup_p99_s)
    seconds = {name: record[name] for name in ("billing_min_s", "notice_s")}
    counts = {name: record[name] for name in ("owned_count", "quota_limit", "egress")}
    taken = ", ".join(
        p["metric"] for p in record["reserved_overhead"] if p["metric"] not in offer.allocatable
    )
    return [
        *_texts(
            record, "provider", "region", "zone", "instance_type", "pool", "commitment_id", "quota_group"
        ),
        (record["provider"] != "", "provider must not be empty"),
        (record["instance_type"] != "", "instance_type must not be empty"),
        (len(offer.allocatable) > 0, "capacity must name at least one metric"),
        (
            not taken,
            f"reserved_overhead takes of {taken}: capacity must name it, with all that an instance has",
        ),
        *(
            (value > 0, f"capacity of {metric} must be above what reserved_overhead takes of it")
            for metric, value in offer.allocatable.items()
        ),
        (record["price"] >= 0, f"price must be at least 0, got {record['price']}"),
        (
            record["currency"] in CODES,
            f"currency must be an ISO code such as USD, got {record['currency']!r}",
        ),
        (
            0 <= startup[0] <= startup[1] <= startup[2] <= DAY_S,
            f"startup_p50_s, startup_p90_s, startup_p99_s must rise within 0 to {DAY_S:g}, got {startup}",
        ),
        (
            0 <= offer.launch_failure < 1,
            f"launch_failure must be from 0 to below 1, got {offer.launch_failure}",
        ),
        # More than one a second is a unit mistaken.
        (
            0 <= offer.interruption_h <= 3600,
            f"interruption must be in 0 to 3600 an hour, got {offer.interruption_h}",
        ),
        *(
            (0 <= span <= 30 * DAY_S, f"{name} must be 0 to 30 days, got {span}")
            for name, span in seconds.items()
        ),
        *(
            (count is None or count >= 0, f"{name} must be at least 0, got {count}")
            for name, count in counts.items()
        ),
        (
            offer.tier != "RESERVED" or record["owned_count"] is not None,
            "owned_count is missing: the tier is RESERVED",
        ),
        (
            record["quota_limit"] is None or record["quota_group"] is not None,
            "quota_group is missing: there is a quota_limit",
        ),
    ]


def _event_rules(record: Record) -> Rules:
    lift = (record["lift_low"], record["lift_mean"], record["lift_high"])
    return [
        (record["end"] > record["start"], f"end ({record['end']}) must be after start ({record['start']})"),
        (len(record["apps"]) > 0, "apps must name at least one"),
        *_texts(record, "apps"),
        (0 <= lift[0] <= lift[1] <= lift[2], f"lift_low, lift_mean, lift_high must rise from 0, got {lift}"),
        (0 <= record["probability"] <= 1, f"probability must be in 0 to 1, got {record['probability']}"),
        (record["lead_s"] >= 0, f"lead_s must be at least 0, got {record['lead_s']}"),
    ]


def _read(
    path: Path,
    document: dict[str, Any],
    table: str,
    schema: str,
    identity: str,
    check: Callable[[Record], Rules],
    same: Mapping[str, str],
) -> list[Record]:
    """The records of the tables of a file's document; `same`: fields that, left out, are as another."""
    records: list[Record] = []
    for number, row in enumerate(_tables(path, document, table), 1):
        name = row.get(identity)
        named = isinstance(name, str) and name_fault(name) is None
        where = f"{path}: {table} {name if named else number}"
        try:
            record = _record(schema, {new: row[old] for new, old in same.items() if old in row} | row)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None
        fault = NAME_FAULTS.get(schema, name_fault)(record[identity])
        rules = [
            (fault is None, f"{identity} {fault}"),
            (
                record["valid_from_tick"] >= 0,
                f"valid_from_tick must be at least 0, got {record['valid_from_tick']}",
            ),
            (
                record["version"] >= 1 or "version" not in row,
                f"version must be at least 1, got {record['version']}",
            ),
            *check(record),
        ]
        for holds, message in rules:
            if not holds:
                raise UsageError(f"{where}: {message}")
        for name in ("version", "valid_from_tick"):
            if name not in row:
                del record[name]
        records.append(record)
    for (name, version), count in Counter((r[identity], r.get("version")) for r in records).items():
        if count > 1:
            which = "give each its version" if version is None else f"version {version}"
            raise UsageError(f"{path}: {table} {name}: is there {count} times: {which}")
    return records


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editor writes a byte order mark
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not a TOML file: not in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
    except ValueError as error:
        twice = ": a key or a table is there twice" if re.search("overwrite|mutate", str(error)) else ""
        raise UsageError(f"{path}: not a TOML file: {error}{twice}") from None
    except RecursionError:
        raise UsageError(f"{path}: not a TOML file of ours: brackets are nested too deeply") from None


def _tables(path: Path, document: dict[str, Any], table: str) -> list[dict[str, Any]]:
    rows = document.pop(table, None)
    if document:
        raise UsageError(f"{path}: {', '.join(document)}: only tables [[{table}]] belong here")
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) for row in cast("list[Any]", rows))
    ):
        raise UsageError(f"{path}: no tables [[{table}]]")
    return cast("list[dict[str, Any]]", rows)


def _record(schema: str, row: Mapping[str, Any]) -> Record:
    """A table as a record of the schema, defaults filled, an absent version and tick 0.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    fields = {field["name"]: field for field in published(schema).schema["fields"]}
    del fields["schema_version"]  # ours to say
    given = {"version": 0, "valid_from_tick": 0} | dict(row)
    for name in given:
        if schema == "price" and name in _OF_CONVERSION:
            raise ValueError(
                f"{name} says how a price was converted: give price, currency and a table [rates]"
            )
        if name not in fields:
            raise ValueError(
                f"there is no field {name}; there are "
                + ", ".join(n for n in fields if n not in (*given, *_OF_CONVERSION))
            )
    zone = given.get("timezone", "UTC")
    record: Record = {}
    for name, field in fields.items():
        if name in given:
            try:
                record[name] = _value(field["type"], given[name], zone)
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
            except OverflowError:
                raise ValueError(f"{name} is out of range: {given[name]}") from None
        elif "default" not in field:
            raise ValueError(f"{name} is missing")
    return DEFAULT.with_defaults(schema, record)


def _value(kind: Any, value: Any, zone: Any) -> Any:
    """A TOML value as the Avro type wants it.

    Raises:
        ValueError: what it must be; the field's name belongs before it.
    """
    if isinstance(kind, list):
        return _value(next(branch for branch in kind if branch != "null"), value, zone)
    return _structured(kind, value, zone) if isinstance(kind, dict) else _plain(kind, value)


def _structured(kind: Mapping[str, Any], value: Any, zone: Any) -> Any:
    """Money, a time, a symbol, a list of names or amounts by metric; see `_value`."""
    match kind:
        case {"logicalType": "decimal"}:
            return _money(value)
        case {"logicalType": "timestamp-micros"}:
            return _time(value, zone)
        case {
            "type": "enum",
            "name": "ConfidenceOf" | "Nodes",
            "symbols": symbols,
        }:  # in files as in `Policy`
            words = {symbol.lower(): symbol for symbol in symbols}
            if value not in tuple(words):
                raise ValueError(f"must be one of {', '.join(words)}, got {value!r}")
            return words[value]
        case {"type": "enum", "symbols": symbols} if value not in symbols:
            raise ValueError(f"must be one of {', '.join(symbols)}, got {value!r}")
        case {"type": "array", "items": "string"}:
            if not isinstance(value, list) or not all(
                isinstance(name, str) and name for name in cast("list[Any]", value)
            ):
                raise ValueError(f'must be a list of names such as ["a", "b"], got {value!r}')
        case {"type": "array", "items": {"name": name}}:
            return _amounts(value, None if name == "Gate" else METRICS)
        case _:
            pass
    return value


def _plain(kind: str, value: Any) -> Any:
    """Text, true or false, or a number within its type's range; see `_value`."""
    kinds = {"string": str, "boolean": bool, "int": int, "long": int, "double": int | float}
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
        names = {"string": "text", "boolean": "true or false", "double": "a number"}
        raise ValueError(f"must be {names.get(kind, 'a whole number')}, got {value!r}")
    if kind in _RANGES and not -_RANGES[kind] <= value < _RANGES[kind]:
        raise ValueError(f"is out of range: {value}")
    if kind == "double" and not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {value}")
    return value


def _amounts(value: Any, allowed: tuple[str, ...] | None) -> list[Record]:
    if not isinstance(value, dict):
        raise ValueError(f'must be a table such as {{cpu = 2, memory = "4GiB"}}, got {value!r}')
    amounts: list[Record] = []
    for metric, amount in cast("dict[str, Any]", value).items():
        if allowed is not None and metric not in allowed:
            raise ValueError(f"must be by metric ({', '.join(allowed)}), got {metric!r}")
        amounts.append({"metric": metric, "value": _amount(metric, amount)})
    return amounts


def _amount(metric: str, value: Any) -> float:
    """A number; of metrics in bytes also a size such as 512MiB or 2GB."""
    unit = METRIC_UNITS[METRICS.index(metric)] if metric in METRICS else ""
    number = _size(metric, unit, value)
    if number > MOST.get(metric, math.inf):
        raise ValueError(
            f"of {metric} must be at most {MOST[metric]:,.16g} {unit}, got {value!r}: a mistaken unit"
        )
    return number


def _size(metric: str, unit: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if value < 0:
            raise ValueError(f"of {metric} must be at least 0, got {value}")
        return float(value)
    size = SIZE.fullmatch(value) if isinstance(value, str) else None
    if size is None:
        raise ValueError(f"of {metric} must be a number or a size such as 512MiB, got {value!r}")
    number, power, binary = size.groups()
    if size[0] != number and not unit.startswith("bytes"):
        raise ValueError(f"of {metric} must be a number{f' of {unit}' if unit else ''}, got {value!r}")
    return float(number) * (1024 if binary else 1000) ** (
        " kMGTP".index(power.replace("K", "k")) if power else 0
    )


def _money(value: Any) -> Decimal:
    return _decimal(value, MONEY_PLACES)


def _decimal(value: Any, places: int) -> Decimal:
    try:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise InvalidOperation
        if isinstance(value, str) and not fmt.NUMBER.fullmatch(value):
            raise InvalidOperation
        money = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"must be an amount of money such as 0.85, got {value!r}") from None
    if not money.is_finite() or money.adjusted() >= MONEY_MAX.adjusted():
        raise ValueError(f"is out of range: {value}")
    rounded = money.quantize(Decimal(1).scaleb(-places))
    if rounded != money:
        raise ValueError(f"has more than {places} decimals: {value}")
    return rounded


def _time(value: Any, zone: Any) -> datetime:
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, clock_time())
    if not isinstance(value, datetime):
        raise ValueError(f"must be a time such as 2026-11-27T09:00:00, got {value!r}")
    if value.tzinfo is None:
        try:
            value = value.replace(tzinfo=ZoneInfo(zone))
        except (KeyError, ValueError, TypeError, OSError):  # ZoneInfoNotFoundError is a KeyError
            raise ValueError(f"cannot be told: there is no timezone {zone!r}") from None
    return value.astimezone(UTC)
