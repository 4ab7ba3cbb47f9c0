"""Prices are compared in one currency: converted at stated rates, or refused; and the plan names the offers' own."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.backtest.setup import PlanningInputs
from pipeline.backtest.what_if import parse
from pipeline.errors import UsageError
from pipeline.inputs.files import read_prices
from pipeline.reports import backtest_page
from pipeline.wire.codec import DEFAULT
from pipeline.wire.currencies import CODES, mixed, one_currency
from tests.cases.price_file import offer


def offers(folder: Path, *quoted: tuple[str, str, str], rates: str = "") -> list[dict[str, Any]]:
    """Records of a file of offers (name, price, currency), and of its rates."""
    file = folder / "prices.toml"
    tables = [offer(*of) for of in quoted]
    file.write_text(rates + "\n" + "\n".join(tables))
    return read_prices(file)


GBP, USD, JPY = ("gbp", "0.09", "GBP"), ("usd", "0.10", "USD"), ("jpy", "15", "JPY")


def test_offers_of_several_currencies_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"offers that one app may buy are in GBP and others \(usd in USD\)"
    ) as refusal:
        offers(tmp_path, GBP, USD)
    assert "\n" not in str(refusal.value)


def test_offers_of_different_groups_may_differ_and_those_that_all_may_buy_may_not() -> None:
    def price(name: str, currency: str, group: str | None) -> dict[str, Any]:
        return {"offer_id": name, "currency": currency, "commitment_id": group}

    assert mixed([price("a", "USD", "one"), price("b", "EUR", "two")]) is None
    assert mixed([price("a", "USD", "one"), price("b", "EUR", None)]) is not None
    assert mixed([]) is None


def test_stated_rates_convert_exactly_and_stay_in_the_record(tmp_path: Path) -> None:
    rates = '[rates]\nto = "USD"\nGBP = "1.27"\nJPY = "0.006666666667"\n'
    gbp, usd, jpy = offers(tmp_path, GBP, USD, JPY, rates=rates)
    assert [(record["price"], record["currency"]) for record in (gbp, usd, jpy)] == [
        (Decimal("0.114300"), "USD"),
        (Decimal("0.100000"), "USD"),
        (Decimal("0.100000"), "USD"),
    ]
    assert (gbp["quoted_price"], gbp["quoted_currency"], gbp["rate"]) == (
        Decimal("0.09"),
        "GBP",
        Decimal("1.27"),
    )
    assert (usd["quoted_price"], usd["quoted_currency"], usd["rate"]) == (None, None, None)
    full = gbp | {"version": 1, "valid_from_tick": 0}
    assert DEFAULT.decode(DEFAULT.encode("price", full))[1] == full
    assert jpy["rate"] == Decimal("0.006666666667")


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        ('[rates]\nto = "USD"\n', "currency GBP has no rate to USD"),
        ('[rates]\nto = "USD"\nGBP = 0\n', "rate of GBP must be above 0"),
        ('[rates]\nto = "USD"\nGBP = -1\n', "rate of GBP must be above 0"),
        ('[rates]\nto = "USD"\nGBP = nan\n', "out of range"),
        ('[rates]\nto = "QQQ"\nGBP = 1\n', "'QQQ' is no ISO code"),
        ('[rates]\nto = "USD"\nGBP = 1.27\nUSD = 2\n', "rate of USD must be left out or 1, got 2"),
        ('[rates]\nto = "USD"\nGBP = "1.0870000000001"\n', "rate of GBP has more than 12 decimals"),
        (
            '[rates]\nto = "USD"\nGBP = 0.000001\n',
            "price gbp: price of 0.09 GBP at a rate of 0.000001 is 9",
        ),
        ('[rates]\nto = "USD"\nGBP = 99999999999999\n', "out of range"),
        ("[rates]\nGBP = 1\n", "None is no ISO code"),
        ('[rates]\nto = "USD"\npound = 1\n', "'pound' is no ISO code"),
        ("rates = 1\n", "must be as"),
    ],
)
def test_rates_that_cannot_be_meant_are_refused(tmp_path: Path, rates: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refusal:
        offers(tmp_path, GBP, USD, rates=rates)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("price", ["999999999999", "0.000001"])
def test_a_price_that_a_rate_leaves_nothing_of_or_too_much_is_refused(tmp_path: Path, price: str) -> None:
    rate = "999999999999" if price[0] == "9" else "0.1"
    with pytest.raises(UsageError, match="is the rate what one GBP is worth in USD") as refusal:
        offers(tmp_path, ("a", price, "GBP"), rates=f'[rates]\nto = "USD"\nGBP = "{rate}"\n')
    assert "\n" not in str(refusal.value)
    (free,) = offers(tmp_path, ("a", "0", "GBP"), rates='[rates]\nto = "USD"\nGBP = "0.1"\n')
    assert free["price"] == 0


@pytest.mark.parametrize("code", ["QQQ", "usd", "$", "", "XXX", "US"])
def test_a_code_that_is_no_currency_is_refused(tmp_path: Path, code: str) -> None:
    with pytest.raises(UsageError, match="currency must be an ISO code such as USD"):
        offers(tmp_path, ("a", "1", code))
    assert {"USD", "EUR", "GBP", "JPY", "CHF", "CNY", "INR", "ZWG"} < CODES


def test_the_currency_of_a_plan_is_that_of_most_offers() -> None:
    prices = [
        {"offer_id": name, "currency": code} for name, code in (("a", "USD"), ("b", "EUR"), ("c", "EUR"))
    ]
    assert one_currency(prices) == ("EUR", ["a"])
    assert one_currency(prices[:2]) == ("EUR", ["a"])
    assert one_currency([]) == ("USD", [])


def test_a_backtest_names_the_currency_of_its_offers() -> None:
    facts = {"currency": "EUR", "policies": {"leadtime": {"defaults": {"hit_rate": 0.99, "cost": 12.5}}}}
    assert backtest_page.headline(None, facts) == "Leadtime served 99.00 % of app-ticks for 12.50 EUR."


def planning_inputs(folder: Path, **currencies: str) -> PlanningInputs:
    """A file's offers, each of the app of its name, beside the app's policy."""
    of = {app: offers(folder, (app, "1", code)) for app, code in currencies.items()}
    return PlanningInputs(
        {app: {"app": app, "allocation_group": ""} for app in of}, of, {app: {} for app in of}
    )


def test_a_backtest_does_not_sum_costs_of_several_currencies(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prices are in EUR and others \(b in USD\)") as refusal:
        planning_inputs(tmp_path, a="EUR", b="USD")
    assert "\n" not in str(refusal.value)
    assert planning_inputs(tmp_path, a="EUR", b="EUR").currency == "EUR"


def test_what_if_does_not_compare_costs_of_several_currencies(tmp_path: Path) -> None:
    records = planning_inputs(tmp_path, a="EUR")
    offers(tmp_path, ("a", "1", "USD"))
    source: Any = None
    with pytest.raises(UsageError, match="prices are in USD, those that it is compared with in EUR"):
        parse(f"prices={tmp_path / 'prices.toml'}", source, records)
    offers(tmp_path, ("a", "2", "EUR"))
    changed = parse(f"prices={tmp_path / 'prices.toml'}", source, records).records
    assert changed.prices["a"][0]["price"] == 2
