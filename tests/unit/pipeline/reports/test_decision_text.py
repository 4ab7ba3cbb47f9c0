"""A decision's record as text: exact, for a small plan."""

import inspect
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from models.planning import delivery, failing_offers, guardrails
from pipeline.reports import decision_text
from pipeline.reports.decision_text import Surroundings
from pipeline.wire import codec, plans


def record(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """As it comes off a topic."""
    return codec.decode(codec.encode(name, fields))[1]


def plan(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "plan_id": "shop@100",
        "allocation_group": "shop",
        "app": "shop",
        "shard": 0,
        "seq": 3,
        "mode": "auto",
        "tick": 100,
        "tick_s": 300,
        "confidence_asked": 0.99,
        "confidence_planned": 0.9941,
        "steps": [300, 600],
        "metrics": ["cpu", "memory"],
        "required": [[8.2, 2.0**34], [11.3, 2.0**34]],
        "alpha": 0.9968,
        "window": [600, 600],
        "replicas": [9, 12],
        "counts": [
            {"offer_id": "od", "desired": [2, 2]},
            {"offer_id": "owned", "desired": [4, 4]},
            {"offer_id": "spot", "desired": [1, 1]},
        ],
        "cost": Decimal("0.912"),
        "cost_at": [
            {"confidence": 0.99, "cost": Decimal("0.912")},
            {"confidence": 0.999, "cost": None},
        ],
        "binding": {"metric": "cpu", "step_s": 600},
        "reactive_floor": 8,
        "observed_generation": 17,
        "observed_tick": 99,
        "alternatives": [
            {
                "counts": [{"offer_id": "od", "desired": 3}, {"offer_id": "owned", "desired": 4}],
                "cost": Decimal("1.0368"),
                "risk": 0.004,
                "reason": "costs 0.1248 more",
            }
        ],
        "guardrails": ["hold_time"],
        "feasible": True,
        "reason": "99.41% of the scenarios are served, 0.99 asked",
        "commands_issued": 1,
        "versions": {"policy": "shop@3", "prices": ["od@1", "owned@1", "spot@7"], "model": "m-2026"},
        "seed": 7,
        "margin": {
            "expected": {"replicas": 10, "cost": Decimal("0.8448")},
            "demand": {"replicas": 12, "cost": Decimal("0.8784")},
            "purchase": {"replicas": 14, "cost": Decimal("0.9")},
        },
        "sum_of_users": {"replicas": 19, "cost": Decimal("1.248")},
    }
    return record("plan", fields | changes)


def price(offer: str, tier: str, price_h: str, owned: int | None = None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "offer_id": offer,
        "version": 1,
        "valid_from_tick": 0,
        "provider": "local",
        "region": "here",
        "zone": "a",
        "tier": tier,
        "instance_type": "two",
        "capacity": [{"metric": "cpu", "value": 2.0}, {"metric": "memory", "value": 8 * 2.0**30}],
        "price": Decimal(price_h),
        "owned_count": owned,
        "startup_p50_s": 60.0,
        "startup_p90_s": 90.0,
        "startup_p99_s": 150.0,
    }
    return record("price", fields)


def surroundings() -> Surroundings:
    policy = plans.default_policy("shop") | {
        "version": 3,
        "target_utilisation": [{"metric": "cpu", "value": 0.95}],
    }
    command: dict[str, Any] = {
        "id": "1",
        "plan_id": "shop@100",
        "order": 0,
        "target": {
            "kind": "REPLICAS",
            "provider": "local",
            "account": "",
            "region": "here",
            "ref": "shop/od",
        },
        "desired": 2,
        "min_allowed": 0,
        "max_allowed": 10,
        "epoch": 100,
        "issued_tick": 100,
        "not_before": datetime(1970, 1, 1, 8, 25, tzinfo=UTC),
        "expires": datetime(1970, 1, 1, 8, 35, tzinfo=UTC),
        "dry_run": False,
        "key_id": "k",
        "signature": b"",
    }
    return Surroundings(
        record("policy", policy),
        {
            "od": price("od", "ON_DEMAND", "0.192"),
            "owned": price("owned", "RESERVED", "0.1152", 4),
            "spot": price("spot", "SPOT", "0.0672"),
        },
        [record("command", command)],
    )


def test_text_explains_the_number_of_instances() -> None:
    # a replica takes 0.95 * 1 core and 4 GiB: 8.2 / 0.95 = 8.6, 11.3 / 0.95 = 11.9, 16 / 4 = 4.0
    # owned instances are paid in any case: 4 * 0.1152 = 0.4608; + 2 * 0.192 + 0.0672 = 0.912
    assert decision_text.text(plan(), surroundings()) == (
        """\
shop: 7 instances, USD 0.9120 an hour
plan shop@100, mode auto, made 1970-01-01 08:25:00 UTC for +10 min ahead

Why so many
  cpu 10 min ahead binds: the plan must carry 11.3 cores of it there; a replica takes 0.95 cores. Over all
  steps and metrics that is 12 replicas.
  Confidence 99 % was asked and is kept: the instances suffice in 99.41 % of the scenarios, in all metrics and
  steps at once.
  7 instances carry 14 replicas; the present usage alone needs 8.
  In the allocator's words: 99.41% of the scenarios are served, 0.99 asked.

Demand to be carried
  ahead                  cpu        memory  replicas
  +5 min     8.2 cores (8.6)  16 GiB (4.0)         9  not promised
  +10 min  11.3 cores (11.9)  16 GiB (4.0)        12  cpu binds
  Quantiles at 99.68 %: at this level of each, all hold at once in 99 % of the scenarios. In brackets:
  replicas that the metric needs.

Instances
  offer  tier               instances  replicas each     price/h  together/h
  od     on-demand                  2              2  USD 0.1920  USD 0.3840
  owned  reserved, 4 owned          4              2  USD 0.1152  USD 0.4608
  spot   spot                       1              2  USD 0.0672  USD 0.0672
  What is reserved is paid in any case, used or not.

Guard rails that acted
  hold_time: More was wanted within the policy's hold time (hold_s): it is not given back yet.

What the margin is for
                                             replicas      cost/h         adds
  expected demand, certain supply                  10  USD 0.8448
  demand at 99 %, certain supply                   12  USD 0.8784  +USD 0.0336
  the same, supply that can fail                   14  USD 0.9000  +USD 0.0216
  guard rails                                          USD 0.9120  +USD 0.0120
  instead: the sum of every user's own 99 %        19  USD 1.2480  +USD 0.3360

What confidence costs
  confidence        cost/h
        99 %    USD 0.9120
      99.9 %  not feasible

Rejected
  instances          cost/h  falls short in  why not
  3 od, 4 owned  USD 1.0368           0.4 %  costs 0.1248 more

Commands
  1. shop/od to 2, valid to 08:35:00

Made from
  telemetry   up to tick 100 of 300 s
  capacity    of tick 99, generation 17
  policy      shop@3
  prices      od@1, owned@1, spot@7
  calendar    none
  adjustment  none
  model       m-2026
  seed        7
"""
    )


def test_text_says_what_failed_what_is_shared_and_which_mode_is_earned() -> None:
    text = decision_text.text(
        plan(
            mode="shadow",
            guardrails=["provider_failing", "over_budget"],
            excluded=[{"offer_id": "spot", "reason": "provider local failed, for 600 s more"}],
            promotion={"mode": "auto", "coverage": 0.9375, "decisions": 288},
            shares=[{"of": "budget", "amount": 2.5}, {"of": "owned", "amount": 3.0}],
            versions={"policy": "shop@3", "prices": [], "model": "m", "group_policy": "web@2"},
            feasible=False,
        ),
        surroundings(),
    )
    for said in (
        "mode by promotion gates, auto at most: of the last 288 decisions 93.75 % were covered\n",
        "  provider_failing: Two or more pools of a provider failed at once: other providers stand in for it.\n",
        "  over_budget: The guard rails above keep or add more than the policy's budget pays for.\n",
        "  Not bought more of spot: provider local failed, for 600 s more.\n",
        "share of what allocation group shop has together: 2.5 of budget, 3 of owned.\n",
        "reserved, 3 owned",
        "shop@3, of the group web@2",
    ):
        assert said in text


def test_text_of_a_plan_alone_that_could_buy_nothing() -> None:
    bare = plan(
        mode="shadow",
        binding=None,
        counts=[],
        cost_at=[],
        margin=None,
        sum_of_users=None,
        alternatives=[],
        guardrails=[],
        feasible=False,
        confidence_planned=0.0,
        commands_issued=0,
        observed_tick=-1,
        required=[[8.2, float("nan")], [11.3, float("nan")]],
        reason="no usable offer, what runs is kept",
    )
    text = decision_text.text(bare)
    for said in (
        "shop: 0 instances",
        "Demand does not set the number: the policy's minimum does (12 replicas).",
        "Confidence 99 % was asked and is NOT kept: the instances suffice in 0 % of the scenarios",
        "The present usage alone needs 8 replicas (the reactive floor).",
        "  +10 min  11.3 cores       ?        12\n",
        "No offer could be used.",
        "Guard rails that acted\n  None.\n",
        "What the margin is for\n  Not known.",
        "What confidence costs\n  Not known.",
        "No other purchase was a candidate.",
        "None: mode shadow commands nothing.",
        "capacity    none had been reported",
    ):
        assert said in text


def test_text_takes_names_as_they_are() -> None:
    odd = plan(app="[red]shop", counts=[{"offer_id": "[bold]od", "desired": [1, 2]}])
    text = decision_text.text(odd)
    assert text.startswith("[red]shop: 1 instance, ")
    assert re.search(r"\[bold\]od +1→2\n", text)


def test_one_instance_carries() -> None:
    alone = plan(counts=[{"offer_id": "od", "desired": [1, 1]}])
    assert "  1 instance carries 2 replicas; " in decision_text.text(alone, surroundings())


def test_every_guard_rail_has_its_sentence() -> None:
    documented = re.findall(
        r"`([a-z_]+)`", "".join(re.findall(r"^\d+\..*", guardrails.__doc__ or "", re.MULTILINE))
    )
    documented += re.findall(r"`([a-z_]+)`", (guardrails.__doc__ or "").partition("Before them")[2])
    source = "".join(inspect.getsource(module) for module in (guardrails, failing_offers, delivery))
    named = {name for name in documented if f'"{name}"' in source}
    assert named | {"shared_nodes"} == plans.GUARD_RAILS.keys()  # the last is of pipeline.stages.allocator


def test_replicas_are_known_only_with_all_sizes() -> None:
    assert (
        decision_text.replicas(plan(), surroundings()) == 14
    )  # 7 instances of 2 cores and 8 GiB: 2 replicas each
    assert decision_text.replicas(plan(), Surroundings()) is None
    other = plan(counts=[{"offer_id": "new", "desired": [1, 1]}])
    assert decision_text.replicas(other, surroundings()) is None


def test_unpriced_and_json() -> None:
    unpriced = plan(cost=plans.money(float("inf")), required=[[float("nan"), 1.0], [2.0, 3.0]])
    assert "shop: 7 instances, unpriced\n" in decision_text.text(unpriced)
    plain = decision_text.plain(plan(required=[[float("nan"), 1.0], [2.0, 3.0]]))
    assert plain["cost"] == "0.912000"
    assert plain["cost_at"][1] == {"confidence": 0.999, "cost": None}
    assert plain["required"] == [[None, 1.0], [2.0, 3.0]]
    assert plain["margin"]["demand"] == {"replicas": 12, "cost": "0.878400"}
    assert plain["sum_of_users"] == {"replicas": 19, "cost": "1.248000"}


def on_nodes(**changes: Any) -> dict[str, Any]:
    parts = [
        {"app": "blog", "own": Decimal("0.30"), "adds": Decimal("0.05"), "tail": 0.2, "mean": 0.4},
        {"app": "shop", "own": Decimal("0.90"), "adds": Decimal("0.70"), "tail": 0.8, "mean": 0.6},
    ]
    fields = {"app": "web", "plan_id": "web@100", "allocation_group": "web", "level": "NODES", "parts": parts}
    return plan(**fields | changes)


def test_a_plan_of_shared_nodes_says_whose_need_they_are() -> None:
    text = decision_text.text(on_nodes(), surroundings())
    assert text.startswith("web: 7 nodes, USD 0.9120 an hour")
    section = text[text.index("Shared nodes") : text.index("Guard rails")]
    rows = [line.split() for line in section.splitlines()[1:4]]
    assert rows[1] == ["shop", "80%", "60%", "USD", "0.7000", "USD", "0.9000"]
    assert rows[2] == ["blog", "20%", "40%", "USD", "0.0500", "USD", "0.3000"]
    assert "it is shop that bursts: 80% of the need, on average 60%." in section
    assert "the apps would need USD 1.2000 an hour together" in section


def test_a_plan_of_replicas_shows_the_nodes_that_they_run_on() -> None:
    of_app = plan(
        allocation_group="web", level="REPLICAS", counts=[{"offer_id": "replicas", "desired": [9, 9]}]
    )
    text = decision_text.text(of_app, replace(surroundings(), nodes=on_nodes()))
    assert text.startswith("shop: 9 replicas, ")
    assert "Its replicas run on the nodes that the apps of group web share." in text
    assert "shop *" in text
    assert "no longer kept" in decision_text.text(of_app, surroundings())
