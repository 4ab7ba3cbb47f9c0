"""Magnitudes that nobody means, from topics or files: no plan says that it serves, and no stage ends by them."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from models.behaviour.lstm import BehaviourModel
from models.capacity import MOST_REPLICAS
from pipeline.cli.inputs import check
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.wire.codec import Record
from pipeline.wire.currencies import MOST
from tests.cases.closed_loop import CORES, Fleet, Installation, policy, price
from tests.cases.price_file import offer


def last_plan(model: BehaviourModel, settings: Settings, offered: Record, **given: Any) -> Record:
    settings = settings.model_copy(update={"tick_s": 10, "partitions": 1})
    return Installation(model, settings, Fleet(), [policy(**given)], [offered]).run(3)[-1]


def cpu(value: float) -> list[Record]:
    return [{"metric": "cpu", "value": value}]


@pytest.mark.parametrize("most", [50, 2**31 - 1])
def test_more_replicas_than_can_be_counted_are_not_served(
    model: BehaviourModel, installation: Settings, most: int
) -> None:
    """Four cores at a billionth of utilisation are four billion replicas: as an int32 they were none."""
    plan = last_plan(model, installation, price(), target_utilisation=cpu(1e-9), max=most)
    assert CORES / 1e-9 > 2**31
    assert not plan["feasible"]
    assert f"{MOST_REPLICAS} replicas are needed, the maximum is" in plan["reason"]


def test_an_instance_that_would_carry_a_billion_replicas_is_not_bought(
    model: BehaviourModel, installation: Settings
) -> None:
    """A unit of 2 for 2 GiB: of instances of 16 GB two billion replicas and more were counted, as an int32."""
    plan = last_plan(model, installation, price(), unit=cpu(1e-9), max=2**31 - 1)
    assert not plan["feasible"]
    assert "1,000,000,000 replicas or more fit: is the policy's unit as meant?" in plan["reason"]


@pytest.mark.parametrize(
    ("offered", "cost"),
    [
        (price(amount="999999999999"), MOST),
        (price(amount="100000000000"), Decimal(10) ** 11 * 3),
        (price(amount="1000000", tier="RESERVED", owned_count=2_000_000), MOST),
    ],
)
def test_a_cost_beyond_what_a_record_holds_is_written_as_the_most(
    model: BehaviourModel, installation: Settings, offered: Record, cost: Decimal
) -> None:
    """Three instances of just below 10^12: the plan could not be written, and the allocator ended, again and again."""
    plan = last_plan(model, installation, offered)
    assert plan["feasible"]
    assert cost * Decimal("0.99") < plan["cost"] < cost * 2


def test_a_maximum_that_means_none_is_checked_at_once(tmp_path: Path) -> None:
    """All totals up to 2^31 were counted: 40 s, and some GB."""
    policies, prices = tmp_path / "policies.toml", tmp_path / "prices.toml"
    prices.write_text(offer("node"))
    text = '[[policy]]\napp = "shop"\ngoverned = ["cpu"]\nunit = {cpu = 0.5}\nmin = 3\nmax = '
    policies.write_text(f"{text}{2**31 - 1}\n")
    check(policies, prices=prices)
    policies.write_text(f"{text}3\n")
    with pytest.raises(
        UsageError, match=r"from min 3 to max 3 replicas .*: the smallest max that can be kept is 4"
    ):
        check(policies, prices=prices)
