"""A decision's record (`plans`) as text: how demand, confidence, guard rails and prices led to its instances."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from models import capacity
from models.learning.adjustment import STATIC
from pipeline import format as fmt
from pipeline.reports import learner_text
from pipeline.wire import policies
from pipeline.wire.codec import Record
from pipeline.wire.plans import GUARD_RAILS

WIDTH: Final = 110
"""Of text that goes to no terminal, in columns."""
UNPRICED: Final = Decimal(10) ** 11  # what pipeline.wire.plans.money writes for an amount that is not finite

COUNTED: Final = {"INSTANCES": "instance", "REPLICAS": "replica", "NODES": "node"}
"""What a plan counts, by its level."""
CARRIED: Final = {"INSTANCES": "replica", "REPLICAS": "replica", "NODES": "unit"}
"""What these carry; a unit is an eighth of the smallest node that carries a replica of each app."""
TIER_NAMES: Final = {"RESERVED": "reserved", "ON_DEMAND": "on-demand", "SPOT": "spot"}


@dataclass(frozen=True)
class Surroundings:
    """Records that a decision's record refers to, as far as the topics still have them.

    Attributes:
        policy: record of the policy that applied; None where it is no longer kept.
        prices: records of the offers in the versions used, by offer id.
        commands: records of the commands issued.
        adjustment: record of the adjustment that is followed; None where none is, or it is no longer kept.
        unfollowed: why no adjustment is followed, where the policy has the learner on.
        nodes: of an app on shared nodes, the plan of its group's nodes in the same tick; None where it is not kept.
    """

    policy: Record | None = None
    prices: Mapping[str, Record] = field(default_factory=dict[str, Record])
    commands: Sequence[Record] = ()
    adjustment: Record | None = None
    unfollowed: str = ""
    nodes: Record | None = None


def text(plan: Record, referenced: Surroundings | None = None) -> str:
    """A plan's record as plain text of at most WIDTH columns, with a line feed at the end.

    Args:
        plan: as `pipeline.wire.codec.decode` gives it.
        referenced: gives sizes, tiers and prices; without it they are left out.
    """
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(
        document(plan, referenced or Surroundings())
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def document(plan: Record, referenced: Surroundings) -> RenderableType:
    """A plan's record as a document of titled sections that a rich console renders at its own width.

    Args:
        plan, referenced: as of `text`.
    """
    if plan["level"] == "NODES":  # which are planned in units of their own
        referenced = replace(referenced, policy=None)
    total = sum(_first_desired(count) for count in plan["counts"])
    price = "unpriced" if plan["cost"] >= UNPRICED else f"{_money(plan['cost'], plan['currency'])} an hour"
    decided_at = fmt.utc((plan["tick"] + 1) * plan["tick_s"])
    window = " to ".join(f"+{fmt.duration(step)}" for step in dict.fromkeys(plan["window"]))
    parts: list[RenderableType] = [
        Text(f"{plan['app']}: {_counted(total, COUNTED[plan['level']])}, {price}", "bold"),
        Text(f"plan {plan['plan_id']}, mode {plan['mode']}, made {decided_at} for {window} ahead"),
        *_promotion(plan),
    ]
    for title, content in (
        ("Why so many", _reasons(plan, referenced)),
        ("Demand to be carried", _demand(plan, referenced)),
        (f"{COUNTED[plan['level']].capitalize()}s", _instances(plan, referenced)),
        *((("Shared nodes", _shared_nodes(plan, referenced)),) if plan["level"] != "INSTANCES" else ()),
        *((("What there is of them", _capacity(plan)),) if plan["capacity"] else ()),
        ("Guard rails that acted", _guard_rails(plan)),
        *((("Learner", _learner(plan, referenced)),) if _has_learner(plan, referenced) else ()),
        ("What the margin is for", _margin(plan)),
        ("What confidence costs", _cost_at(plan)),
        ("Rejected", _alternatives(plan)),
        ("Commands", _commands(plan, referenced)),
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
            f"mode by promotion gates, {gates['mode']} at most: of the last {_counted(gates['decisions'], 'decision')} "
            f"{measured}"
        )


def _reasons(plan: Record, referenced: Surroundings) -> Iterator[RenderableType]:
    """Sentences: binding metric, confidence kept, replicas carried by the instances, the allocator's reason."""
    yield from _telemetry(plan)
    first, last = plan["window"]
    within = [n for step, n in zip(plan["steps"], plan["replicas"], strict=True) if first <= step <= last]
    needed = max(within, default=0)
    if plan["binding"] is None:
        yield Text(
            f"Demand does not set the number: the policy's minimum does ({_counted(needed, CARRIED[plan['level']])})."
        )
    else:
        metric, step = plan["binding"]["metric"], plan["binding"]["step_s"]
        cell = plan["required"][plan["steps"].index(step)][plan["metrics"].index(metric)]
        size = ""
        if referenced.policy is not None:
            policy = policies.policy_of(referenced.policy)
            size = f"; a replica takes {fmt.amount(policy.usable(metric), metric)}"
        yield Text(
            f"{metric} {fmt.duration(step)} ahead binds: "
            f"the plan must carry {fmt.amount(cell, metric)} of it there{size}. "
            f"Over all steps and metrics that is {_counted(needed, CARRIED[plan['level']])}."
        )
    wanted, planned = plan["confidence_asked"], plan["confidence_planned"]
    counted, carries = COUNTED[plan["level"]], CARRIED[plan["level"]]
    met = "is kept" if plan["feasible"] else "is NOT kept"
    yield Text(
        f"Confidence {fmt.level(wanted)} was asked and {met}: the {counted}s suffice in {fmt.level(planned)} of the "
        f"scenarios, in all metrics and steps at once."
    )
    carried = replicas(plan, referenced)
    instances = sum(_first_desired(count) for count in plan["counts"])
    if carried is not None:
        yield Text(
            f"{_counted(instances, counted)} {'carries' if instances == 1 else 'carry'} "
            f"{_counted(carried, carries)}; the present usage alone needs {plan['reactive_floor']}."
        )
    else:
        yield Text(
            f"The present usage alone needs {_counted(plan['reactive_floor'], carries)} (the reactive floor)."
        )
    yield Text(f"In the allocator's words: {plan['reason']}.")


def _telemetry(plan: Record) -> Iterator[RenderableType]:
    """Sentences on what of the app's telemetry the plan lacks."""
    if plan["unreported"]:
        yield Text(
            f"Nobody reported {' or '.join(plan['unreported'])}, which the policy governs, in this tick."
        )
    if plan["completeness"] < 1:
        refused = ", ".join(f"{entry['records']:,} {entry['reason']}" for entry in plan["refused"])
        why = [f"records were refused ({refused})"] if refused else []
        if plan["stopped"]:
            why.append(
                f"series stopped while others of their user report ({plan['stopped']:,} producer-stopped), "
                "and what they last used counts"
            )
        yield Text(
            f"The app's telemetry is {plan['completeness']:.1%} complete: "
            + f"{'; '.join(why) or 'not all known users reported all that they did'}."
        )


def _demand(plan: Record, referenced: Surroundings) -> Iterator[RenderableType]:
    """Table of the demand to be carried, a row a step and a column a metric, with the replicas each needs."""
    policy = None if referenced.policy is None else policies.policy_of(referenced.policy)
    governed = plan["metrics"] if policy is None else capacity.governed(plan["metrics"], policy)
    table = _table("<ahead", *plan["metrics"], f"{CARRIED[plan['level']]}s", "<")
    binding = plan["binding"] or {}
    for step, row, count in zip(plan["steps"], plan["required"], plan["replicas"], strict=True):
        cells: list[str] = []
        for metric, value in zip(plan["metrics"], row, strict=True):
            needs = ""
            if policy is not None and metric in governed:
                needs = f" ({capacity.replica_load(metric, value, policy):.1f})"
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
    level, wanted = fmt.level(plan["alpha"]), fmt.level(plan["confidence_asked"])
    brackets = " In brackets: replicas that the metric needs." if policy is not None else ""
    yield Text(
        f"Quantiles at {level}: at this level of each, all hold at once in {wanted} of the scenarios.{brackets}"
    )


def _instances(plan: Record, referenced: Surroundings) -> Iterator[RenderableType]:
    """Table of the instances planned, an offer a row, with size, tier and price where the offer's record is known."""
    shares = {share["of"]: share["amount"] for share in plan["shares"]}
    table = _table("<offer", "<tier", f"{COUNTED[plan['level']]}s", "replicas each", "price/h", "together/h")
    policy = None if referenced.policy is None else policies.policy_of(referenced.policy)
    for count in plan["counts"]:
        number = "→".join(str(n) for n in dict.fromkeys(count["desired"])) or "0"
        price = referenced.prices.get(count["offer_id"])
        if price is None:
            _row(table, count["offer_id"], "", number, "", "", "")
            continue
        each = None if policy is None else capacity.replicas_per_instance(policies.offer_of(price), policy)
        owned = int(shares.get(count["offer_id"], price["owned_count"] or 0))
        sum_h = price["price"] * (owned if price["tier"] == "RESERVED" else _first_desired(count))
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
        if any(price["tier"] == "RESERVED" for price in referenced.prices.values()):
            yield Text("What is reserved is paid in any case, used or not.")
    else:
        yield Text("No offer could be used.")
    if shares:
        amounts = ", ".join(f"{amount:,.6g} of {name}" for name, amount in shares.items())
        yield Text(
            f"This app's share of what allocation group {plan['allocation_group']} has together: {amounts}."
        )


def _shared_nodes(plan: Record, referenced: Surroundings) -> Iterator[RenderableType]:
    """Whose need a group's nodes are, an app a row; for an app its own row and those of the others beside."""
    nodes = plan if plan["level"] == "NODES" else referenced.nodes
    group = plan["allocation_group"]
    if plan["level"] == "REPLICAS":
        kept = "" if nodes else ", whose plan of this tick is no longer kept"
        yield Text(f"Its replicas run on the nodes that the apps of group {group} share{kept}.")
    if nodes is None or not nodes["parts"]:
        return
    table = _table("<app", "at the largest need", "on average", "adds/h", "alone/h")
    for part in sorted(nodes["parts"], key=lambda part: -part["tail"]):
        amounts = [
            "" if part[name] is None else _money(part[name], nodes["currency"]) for name in ("adds", "own")
        ]
        own = " *" if part["app"] == plan["app"] else ""
        _row(table, f"{part['app']}{own}", f"{part['tail']:.0%}", f"{part['mean']:.0%}", *amounts)
    yield table
    burst = max(nodes["parts"], key=lambda part: part["tail"] - part["mean"])
    known = [part["own"] for part in nodes["parts"] if part["own"] is not None]
    if burst["tail"] > burst["mean"]:
        yield Text(
            f"Where the group needs most it is {burst['app']} that bursts: {burst['tail']:.0%} of the need, on average "
            f"{burst['mean']:.0%}."
        )
    if known:
        alone, together = (_money(of, nodes["currency"]) for of in (sum(known, Decimal(0)), nodes["cost"]))
        yield Text(
            f"Each on parts of nodes of its own, the apps would need {alone} an hour together; the nodes cost "
            f"{together}. What an app adds is what the group would save without it."
        )


def _capacity(plan: Record) -> Iterator[RenderableType]:
    """Table of what was observed, an offer a row, and a sentence for each where what was commanded did not come."""
    table = _table("<offer", "in force", "ready", "pending", "late", "<set by", "<state")
    offers = plan["capacity"]
    for offer in offers:
        known = offer["tick"] >= 0
        observed = [str(offer[name]) if known else "?" for name in ("ready", "pending")]
        in_force = "" if offer["in_force"] is None else str(offer["in_force"])
        late, who = str(offer["late"]), offer["managed_by"] if known else "nothing reported"
        _row(table, offer["offer_id"], in_force, *observed, late, who, offer["state"] or "as commanded")
    yield table
    for offer in offers:
        if offer["state"]:
            end_s = (plan["tick"] + 1) * plan["tick_s"]
            wait_s = max(0.0, offer["again_s"] - end_s)
            again = f"; commanded again in {fmt.duration(round(wait_s))} at the earliest" if wait_s else ""
            yield Text(f"{offer['offer_id']}, {offer['state']}: {offer['detail']}{again}.")


def _has_learner(plan: Record, referenced: Surroundings) -> bool:
    """Whether the plan's policy has the learner on, as far as it is known."""
    policy = referenced.policy
    return plan["versions"]["adjustment"] != "" or (policy is not None and policy["learner"])


def _learner(plan: Record, referenced: Surroundings) -> Iterator[RenderableType]:
    """Sentences: the adjustment that is followed, its arm and price, or why the plan is static; shares kept so far."""
    name, made = plan["versions"]["adjustment"], referenced.adjustment
    if not name:
        yield Text(
            f"Static, as the policy asks: {referenced.unfollowed or 'no adjustment could be followed'}."
        )
        return
    if made is None:
        yield Text(f"Follows adjustment {name}, which is no longer kept (30 days).")
        return
    price = made["allocator"]["shortage_price"]
    if made["arm"] == STATIC:
        yield Text(f"Adjustment {name} leaves the plan static: {made['reason']}.")
    elif plan["confidence_of"] == "time":
        yield Text(
            f"Follows adjustment {name}, arm {made['arm']}, at a shortage's price of {price:.4g} replica-hours."
        )
        yield Text(f"Why: {made['reason']}.")
    else:
        yield Text(
            f'Follows the arm {made["arm"]} of adjustment {name}, and not its price: confidence_of is "plan".'
        )
    figures = {"asked": plan["confidence_asked"], "confidence_of": plan["confidence_of"]}
    yield from learner_text.kept({**made, **figures})


def _guard_rails(plan: Record) -> Iterator[RenderableType]:
    """A sentence for each guard rail that acted and each offer that was excluded."""
    for name in plan["guardrails"]:
        yield Text.assemble((name, "bold"), f": {GUARD_RAILS.get(name, 'a guard rail of a newer version')}")
    for offer in plan["excluded"]:
        yield Text(f"Not bought more of {offer['offer_id']}: {offer['reason']}.")
    if not plan["guardrails"]:
        cheapest = "the instances are those of the cheapest purchase that keeps the promise"
        yield Text(f"None: {cheapest}." if plan["feasible"] else "None.")


def _cost_at(plan: Record) -> Iterator[RenderableType]:
    """Table of the cheapest purchase's cost an hour at each confidence that was searched."""
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
    """Table from expected demand to the plan: replicas and cost an hour, and what each risk adds to the row above.

    The last row is the cost of sizing every user alone, beside the plan's.
    """
    margin, users, currency = plan["margin"], plan["sum_of_users"], plan["currency"]
    table = _table("<", "replicas", "cost/h", "adds")
    cost_above: Decimal | None = None
    for name, level in (
        ("expected demand, certain supply", margin and margin["expected"]),
        (f"demand at {fmt.level(plan['confidence_asked'])}, certain supply", margin and margin["demand"]),
        ("the same, supply that can fail", margin and margin["purchase"]),
    ):
        if level is not None:
            _margin_row(table, name, level, cost_above, currency)
            cost_above = level["cost"]
    if cost_above is not None and cost_above != plan["cost"]:
        adds = _signed_money(plan["cost"] - cost_above, currency)
        _row(table, "guard rails", "", _money(plan["cost"], currency), adds)
    if users is not None:
        _margin_row(table, "instead: the sum of every user's own 99 %", users, plan["cost"], currency)
    yield table if margin is not None else Text("Not known.")


def _margin_row(table: Table, name: str, level: Record, compared_cost: Decimal | None, currency: str) -> None:
    """Add a row of the margin: replicas, cost, and the difference to `compared_cost` (None: no difference shown)."""
    cost = level["cost"]
    adds = "" if cost is None or compared_cost is None else _signed_money(cost - compared_cost, currency)
    _row(
        table,
        name,
        f"{level['replicas']:,}",
        "not feasible" if cost is None else _money(cost, currency),
        adds,
    )


def _signed_money(difference: Decimal, currency: str) -> str:
    return f"{'-' if difference < 0 else '+'}{_money(abs(difference), currency)}"


def _alternatives(plan: Record) -> Iterator[RenderableType]:
    """Table of the purchases that were considered and rejected, with the reason of each."""
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


def _commands(plan: Record, referenced: Surroundings) -> Iterator[RenderableType]:
    """The commands issued, in their order, or why there is none."""
    for command in sorted(referenced.commands, key=lambda c: c["order"]):
        dry = " (dry run)" if command["dry_run"] else ""
        expires = f"{command['expires']:%H:%M:%S}"
        yield Text(
            f"{command['order'] + 1}. {command['target']['ref']} to {command['desired']}, valid to {expires}{dry}"
        )
    if not plan["commands_issued"]:
        passive = plan["mode"] in ("shadow", "paused")
        waits = any(offer["state"] for offer in plan["capacity"])
        why = "what did not come is not asked for again yet" if waits else "nothing changes"
        yield Text(f"None: mode {plan['mode']} commands nothing." if passive else f"None: {why}.")
    elif not referenced.commands:
        yield Text(f"{plan['commands_issued']} issued.")


def _inputs(plan: Record) -> Iterator[RenderableType]:
    """Table of the inputs' versions and the seed, from which the same plan can be computed again."""
    versions = plan["versions"]
    observation = f"of tick {plan['observed_tick']}, generation {plan['observed_generation']}"
    group = versions["group_policy"]
    lines = {
        "telemetry": f"up to tick {plan['tick']} of {plan['tick_s']} s",
        "capacity": observation if plan["observed_tick"] >= 0 else "none had been reported",
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
    """A table without rules; a column whose name begins with "<" is aligned left (words), others right (numbers)."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in columns:
        justify = "left" if name.startswith("<") else "right"
        table.add_column(Text(name.removeprefix("<")), justify=justify, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Add cells as they are: rich would take [brackets] in a name for markup."""
    table.add_row(*(Text(cell) for cell in cells))


def replicas(plan: Record, referenced: Surroundings, step: int = 0) -> int | None:
    """Replicas that the instances planned for a step carry; None where the policy or an offer's record is unknown.

    Args:
        plan, referenced: as of `text`.
        step: index into the plan's steps.
    """
    if referenced.policy is None or any(
        count["offer_id"] not in referenced.prices for count in plan["counts"]
    ):
        return None
    policy = policies.policy_of(referenced.policy)
    sizes = {
        offer: capacity.replicas_per_instance(policies.offer_of(price), policy)
        for offer, price in referenced.prices.items()
    }
    return sum(
        sizes[count["offer_id"]] * (count["desired"][step] if count["desired"] else 0)
        for count in plan["counts"]
    )


def _first_desired(count: Record) -> int:
    """Instances of an offer wanted at the first step."""
    return count["desired"][0] if count["desired"] else 0


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _money(value: Decimal, currency: str) -> str:
    return "unpriced" if value >= UNPRICED else fmt.price(value, currency)


def plain(value: Any) -> Any:
    """A record's values as JSON has them: decimals as strings, as in the demo's files, and NaN or infinity as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
