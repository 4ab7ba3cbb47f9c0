"""One decision's record for people: why an app has the instances that it has."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from models import capacity
from pipeline import format as fmt
from pipeline.wire import policies
from pipeline.wire.codec import Record
from pipeline.wire.plans import GUARD_RAILS

WIDTH: Final = 110
"""Of text that goes to no terminal, in columns."""
UNPRICED: Final = Decimal(10) ** 11  # what pipeline.wire.plans.money writes for an amount that is not finite

TIER_NAMES: Final = {"RESERVED": "reserved", "ON_DEMAND": "on-demand", "SPOT": "spot"}


@dataclass(frozen=True)
class Surroundings:
    """What a decision's record refers to, as far as it is still to be had.

    Attributes:
        policy: record of the policy that applied.
        prices: records of the offers, by id.
        commands: records of what was commanded.
    """

    policy: Record | None = None
    prices: Mapping[str, Record] = field(default_factory=dict[str, Record])
    commands: Sequence[Record] = ()


def text(plan: Record, around: Surroundings | None = None) -> str:
    """A plan's record as plain text, at most WIDTH columns wide.

    Args:
        plan: as `pipeline.wire.codec.decode` gives it.
        around: sizes, tiers and prices come from here; without it they are left out.
    """
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(
        document(plan, around or Surroundings())
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def document(plan: Record, around: Surroundings) -> RenderableType:
    """A plan's record for a rich console."""
    total = sum(_first(count) for count in plan["counts"])
    price = "unpriced" if plan["cost"] >= UNPRICED else f"{_money(plan['cost'], plan['currency'])} an hour"
    made = fmt.utc((plan["tick"] + 1) * plan["tick_s"])
    window = " to ".join(f"+{fmt.duration(step)}" for step in dict.fromkeys(plan["window"]))
    parts: list[RenderableType] = [
        Text(f"{plan['app']}: {_many(total, 'instance')}, {price}", "bold"),
        Text(f"plan {plan['plan_id']}, mode {plan['mode']}, made {made} for {window} ahead"),
        *_promotion(plan),
    ]
    for title, content in (
        ("Why so many", _why(plan, around)),
        ("Demand to be carried", _demand(plan, around)),
        ("Instances", _instances(plan, around)),
        ("Guard rails that acted", _guard_rails(plan)),
        ("What the margin is for", _margin(plan)),
        ("What confidence costs", _cost_at(plan)),
        ("Rejected", _alternatives(plan)),
        ("Commands", _commands(plan, around)),
        ("Made from", _inputs(plan)),
    ):
        parts += [Text(""), Text(title, "bold"), *(Padding(item, (0, 0, 0, 2)) for item in content)]
    return Group(*parts)


def _promotion(plan: Record) -> Iterator[RenderableType]:
    gates = plan["promotion"]
    if gates is not None:
        measured = (
            "too few to say" if gates["coverage"] is None else f"{fmt.level(gates['coverage'])} were covered"
        )
        yield Text(
            f"mode by promotion gates, {gates['mode']} at most: of the last {_many(gates['decisions'], 'decision')} "
            f"{measured}"
        )


def _why(plan: Record, around: Surroundings) -> Iterator[RenderableType]:
    """From demand to replicas to instances, a sentence each."""
    first, last = plan["window"]
    within = [n for step, n in zip(plan["steps"], plan["replicas"], strict=True) if first <= step <= last]
    needed = max(within, default=0)
    if plan["binding"] is None:
        yield Text(f"Demand does not set the number: the policy's minimum does ({_many(needed, 'replica')}).")
    else:
        metric, step = plan["binding"]["metric"], plan["binding"]["step_s"]
        cell = plan["required"][plan["steps"].index(step)][plan["metrics"].index(metric)]
        size = ""
        if around.policy is not None:
            policy = policies.policy_of(around.policy)
            size = f"; a replica takes {fmt.amount(policy.usable(metric), metric)}"
        yield Text(
            f"{metric} {fmt.duration(step)} ahead binds: "
            f"the plan must carry {fmt.amount(cell, metric)} of it there{size}. "
            f"Over all steps and metrics that is {_many(needed, 'replica')}."
        )
    asked, planned = plan["confidence_asked"], plan["confidence_planned"]
    met = "is kept" if plan["feasible"] else "is NOT kept"
    yield Text(
        f"Confidence {fmt.level(asked)} was asked and {met}: the instances suffice in {fmt.level(planned)} of the "
        f"scenarios, in all metrics and steps at once."
    )
    carried = replicas(plan, around)
    total = _many(sum(_first(count) for count in plan["counts"]), "instance")
    if carried is not None:
        yield Text(
            f"{total} carry {_many(carried, 'replica')}; the present usage alone needs {plan['reactive_floor']}."
        )
    else:
        yield Text(
            f"The present usage alone needs {_many(plan['reactive_floor'], 'replica')} (the reactive floor)."
        )
    yield Text(f"In the allocator's words: {plan['reason']}.")


def _demand(plan: Record, around: Surroundings) -> Iterator[RenderableType]:
    policy = None if around.policy is None else policies.policy_of(around.policy)
    governed = plan["metrics"] if policy is None else capacity.governed(plan["metrics"], policy)
    table = _table("<ahead", *plan["metrics"], "replicas", "<")
    binding = plan["binding"] or {}
    for step, row, count in zip(plan["steps"], plan["required"], plan["replicas"], strict=True):
        cells: list[str] = []
        for metric, value in zip(plan["metrics"], row, strict=True):
            needs = ""
            if policy is not None and metric in governed:
                load = (policy.base.get(metric, 0.0) + value) / policy.usable(metric)
                needs = f" ({load:.1f})"
            cells.append(fmt.amount(value, metric) + needs)
        inside = plan["window"][0] <= step <= plan["window"][1]
        remark = (
            f"{binding['metric']} binds"
            if binding.get("step_s") == step
            else ""
            if inside
            else "not promised"
        )
        _row(table, f"+{fmt.duration(step)}", *cells, str(count), remark)
    yield table
    level, asked = fmt.level(plan["alpha"]), fmt.level(plan["confidence_asked"])
    brackets = " In brackets: replicas that the metric needs." if policy is not None else ""
    yield Text(
        f"Quantiles at {level}: at this level of each, all hold at once in {asked} of the scenarios.{brackets}"
    )


def _instances(plan: Record, around: Surroundings) -> Iterator[RenderableType]:
    shares = {share["of"]: share["amount"] for share in plan["shares"]}
    table = _table("<offer", "<tier", "instances", "replicas each", "price/h", "together/h")
    policy = None if around.policy is None else policies.policy_of(around.policy)
    for count in plan["counts"]:
        number = "→".join(str(n) for n in dict.fromkeys(count["desired"])) or "0"
        price = around.prices.get(count["offer_id"])
        if price is None:
            _row(table, count["offer_id"], "", number, "", "", "")
            continue
        each = None if policy is None else capacity.replicas_per_instance(policies.offer_of(price), policy)
        owned = int(shares.get(count["offer_id"], price["owned_count"] or 0))
        sum_h = price["price"] * (owned if price["tier"] == "RESERVED" else _first(count))
        _row(
            table,
            count["offer_id"],
            TIER_NAMES.get(price["tier"], price["tier"]) + (f", {owned} owned" if owned else ""),
            number,
            "" if each is None else str(each),
            _money(price["price"], plan["currency"]),
            _money(sum_h, plan["currency"]),
        )
    if plan["counts"]:
        yield table
        if any(price["tier"] == "RESERVED" for price in around.prices.values()):
            yield Text("What is reserved is paid in any case, used or not.")
    else:
        yield Text("No offer could be used.")
    if shares:
        said = ", ".join(f"{amount:,.6g} of {name}" for name, amount in shares.items())
        yield Text(
            f"This app's share of what allocation group {plan['allocation_group']} has together: {said}."
        )


def _guard_rails(plan: Record) -> Iterator[RenderableType]:
    for name in plan["guardrails"]:
        yield Text.assemble((name, "bold"), f": {GUARD_RAILS.get(name, 'a guard rail of a newer version')}")
    for offer in plan["excluded"]:
        yield Text(f"Not bought more of {offer['offer_id']}: {offer['reason']}.")
    if not plan["guardrails"]:
        bought = "the instances are those of the cheapest purchase that keeps the promise"
        yield Text(f"None: {bought}." if plan["feasible"] else "None.")


def _cost_at(plan: Record) -> Iterator[RenderableType]:
    table = _table("confidence", "cost/h")
    for level in plan["cost_at"]:
        cost = level["cost"]
        _row(
            table,
            fmt.level(level["confidence"]),
            "not feasible" if cost is None else _money(cost, plan["currency"]),
        )
    yield table if plan["cost_at"] else Text("Not known.")


def _margin(plan: Record) -> Iterator[RenderableType]:
    """From expected demand to the plan, what each risk adds; and what sizing every user alone would take."""
    margin, users, currency = plan["margin"], plan["sum_of_users"], plan["currency"]
    table = _table("<", "replicas", "cost/h", "adds")
    before: Decimal | None = None
    for name, level in (
        ("expected demand, certain supply", margin and margin["expected"]),
        (f"demand at {fmt.level(plan['confidence_asked'])}, certain supply", margin and margin["demand"]),
        ("the same, supply that can fail", margin and margin["purchase"]),
    ):
        if level is not None:
            _level(table, name, level, before, currency)
            before = level["cost"]
    if before is not None and before != plan["cost"]:
        _row(table, "guard rails", "", _money(plan["cost"], currency), _more(plan["cost"] - before, currency))
    if users is not None:
        _level(table, "instead: the sum of every user's own 99 %", users, plan["cost"], currency)
    yield table if margin is not None else Text("Not known.")


def _level(table: Table, name: str, level: Record, before: Decimal | None, currency: str) -> None:
    cost = level["cost"]
    adds = "" if cost is None or before is None else _more(cost - before, currency)
    _row(
        table,
        name,
        f"{level['replicas']:,}",
        "not feasible" if cost is None else _money(cost, currency),
        adds,
    )


def _more(difference: Decimal, currency: str) -> str:
    return f"{'-' if difference < 0 else '+'}{_money(abs(difference), currency)}"


def _alternatives(plan: Record) -> Iterator[RenderableType]:
    table = _table("<instances", "cost/h", "falls short in", "<why not")
    for other in plan["alternatives"]:
        counts = ", ".join(f"{c['desired']} {c['offer_id']}" for c in other["counts"] if c["desired"])
        cells = (
            counts or "none",
            _money(other["cost"], plan["currency"]),
            fmt.level(other["risk"]),
            other["reason"],
        )
        _row(table, *cells)
    yield table if plan["alternatives"] else Text("No other purchase was a candidate.")


def _commands(plan: Record, around: Surroundings) -> Iterator[RenderableType]:
    for command in sorted(around.commands, key=lambda c: c["order"]):
        dry = " (dry run)" if command["dry_run"] else ""
        expires = f"{command['expires']:%H:%M:%S}"
        yield Text(
            f"{command['order'] + 1}. {command['target']['ref']} to {command['desired']}, valid to {expires}{dry}"
        )
    if not plan["commands_issued"]:
        watching = plan["mode"] in ("shadow", "paused")
        yield Text(f"None: mode {plan['mode']} commands nothing." if watching else "None: nothing changes.")
    elif not around.commands:
        yield Text(f"{plan['commands_issued']} issued.")


def _inputs(plan: Record) -> Iterator[RenderableType]:
    versions = plan["versions"]
    seen = f"of tick {plan['observed_tick']}, generation {plan['observed_generation']}"
    group = versions["group_policy"]
    lines = {
        "telemetry": f"up to tick {plan['tick']} of {plan['tick_s']} s",
        "capacity": seen if plan["observed_tick"] >= 0 else "none had been reported",
        "policy": versions["policy"] + (f", of the group {group}" if group else ""),
        "prices": ", ".join(versions["prices"]),
        "calendar": ", ".join(versions["calendar"]),
        "adjustment": versions["adjustment"],
        "model": versions["model"],
        "seed": str(plan["seed"]),
    }
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in lines.items():
        table.add_row(name, Text(value or "none"))
    yield table


def _table(*columns: str) -> Table:
    """Without lines; a column whose name begins with "<" holds words, others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in columns:
        justify = "left" if name.startswith("<") else "right"
        table.add_column(Text(name.removeprefix("<")), justify=justify, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Add cells as they are: rich would take [brackets] in a name for markup."""
    table.add_row(*(Text(cell) for cell in cells))


def replicas(plan: Record, around: Surroundings, step: int = 0) -> int | None:
    """Replicas that the instances planned for a step carry; None where a size is not known."""
    if around.policy is None or any(count["offer_id"] not in around.prices for count in plan["counts"]):
        return None
    policy = policies.policy_of(around.policy)
    sizes = {
        offer: capacity.replicas_per_instance(policies.offer_of(price), policy)
        for offer, price in around.prices.items()
    }
    return sum(
        sizes[count["offer_id"]] * (count["desired"][step] if count["desired"] else 0)
        for count in plan["counts"]
    )


def _first(count: Record) -> int:
    return count["desired"][0] if count["desired"] else 0


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _money(value: Decimal, currency: str) -> str:
    return "unpriced" if value >= UNPRICED else fmt.price(value, currency)


def plain(value: Any) -> Any:
    """A record as JSON has it: decimals as strings, as in the demo's files, and what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
