"""A file of policies, prices or events is read as meant, or refused in one line; never a traceback, never half."""

from pathlib import Path

import pytest

from pipeline.cli.inputs import check
from pipeline.errors import UsageError
from pipeline.inputs.files import read_calendar, read_policies, read_prices
from pipeline.inputs.publish import moved
from pipeline.wire.codec import Record

POLICY = '[[policy]]\napp = "shop"\ngoverned = ["cpu"]\nunit = {cpu = 1.0}\n'
PRICE = """[[price]]
offer_id = "node"
provider = "local"
region = "here"
tier = "ON_DEMAND"
instance_type = "n"
capacity = {cpu = 4}
startup_p50_s = 5
startup_p90_s = 8
startup_p99_s = 10
"""
EVENT = """[[event]]
id = "sale"
kind = "CAMPAIGN"
start = 2026-12-01T09:00:00
end = 2026-12-01T12:00:00
lift_mean = 1.5
"""


def written(folder: Path, text: str, name: str = "file.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('budget = "1e999999999"', "policy shop: budget is out of range: 1e999999999"),
        ('budget = "1e-999999999"', "policy shop: budget has more than 6 decimals"),
        ("hold_s = 1e308", "policy shop: hold_s must be 0 to 31,536,000 seconds, a year"),
        ("spot_return_wait_s = 4e7", "policy shop: spot_return_wait_s must be 0 to 31,536,000 seconds, a year"),
        ("latency_slo_s = -1", "policy shop: latency_slo_s must be 0 to"),
        ("valid_from_tick = -5", "policy shop: valid_from_tick must be at least 0, got -5"),
        ('allocation_group = "a\\u0000b"', "policy shop: allocation_group must not have control characters"),
        (f'allocation_group = "{"x" * 2000}"', "policy shop: allocation_group must have at most 1,024 bytes"),
        ('regions = ["eu\\n1"]', "policy shop: regions must not have control characters"),
        ("overhead = {cpu = 1, cpu = 2}", "not a TOML file: Duplicate inline table key 'cpu' (at line 5"),
        ("min = 1\nmin = 2", "not a TOML file: Cannot overwrite a value (at line 6, column 8): a key or a table is"),
        (f"min = {'[' * 5000}{']' * 5000}", "not a TOML file of ours: brackets are nested too deeply"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, more: str, reason: str) -> None:
    file = written(tmp_path, f"{POLICY}{more}\n")
    with pytest.raises(UsageError) as refusal:
        read_policies(file)
    assert f"{file}: {reason}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("governed", "unit", "reason"),
    [
        ('["CPU"]', "{cpu = 1}", "governed must be of cpu, memory, network, disk, requests, got 'CPU'"),
        ('["cpu"]', "{cpu = 0}", "unit of cpu must be above 0"),
    ],
)
def test_a_replica_that_is_none_is_named(tmp_path: Path, governed: str, unit: str, reason: str) -> None:
    text = f'[[policy]]\napp = "shop"\ngoverned = {governed}\nunit = {unit}\n'
    with pytest.raises(UsageError, match=reason):
        read_policies(written(tmp_path, text))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('price = "1e999999999"', "price node: price is out of range: 1e999999999"),
        ('price = 1\ncommitment_id = "a\\nb"', "price node: commitment_id must not have control characters"),
        ('price = 1\nzone = "a\\tb"', "price node: zone must not have control characters"),
        ('price = 1\n[rates]\nto = ["USD"]', "['USD'] is no ISO code of a currency"),
        ("price = 1\n[rates]\nto = {a = 1}", "{'a': 1} is no ISO code of a currency"),
        ('price = 1\n[rates]\nto = "USD"\nGBP = "1e99999999"', "rate of GBP is out of range: 1e99999999"),
    ],
)  # fmt: skip
def test_a_price_that_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, more: str, reason: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read_prices(written(tmp_path, f"{PRICE}{more}\n"))
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_exact_money_is_kept(tmp_path: Path) -> None:
    for text in ('"0.300000"', "0.3", '"3e-1"', '"0.30000000000"'):
        (price,) = read_prices(written(tmp_path, f"{PRICE}price = {text}\n"))
        assert str(price["price"]) == "0.300000"


def test_an_event_names_apps_that_may_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="event sale: apps must not have control characters"):
        read_calendar(written(tmp_path, f'{EVENT}apps = ["shop", "a\\u0000b"]\n'))


@pytest.mark.parametrize(
    ("policy", "price", "doubt"),
    [
        ("hold_s = 600000", "", "shop: hold_s is 600,000 s (6.94 days): seconds are meant, no milliseconds"),
        ("", "notice_s = 120000", "node: notice_s is 120,000: seconds are meant, no milliseconds"),
        ("", "interruption = 3", "node: interruption is 3: the share of instances an hour is meant"),
        ("latency_slo_s = 0.2", "", "shop: latency_slo_s has no effect: no plan or cost uses it"),
        ("", "egress = 0.1", "node: egress has no effect: no plan or cost uses it"),
        ("base = {disk = 3}", "", "shop: base of disk has no effect: disk is not governed"),
        (
            "target_utilisation = {memory = 0.7}",
            "",
            "shop: target_utilisation of memory has no effect: memory is not",
        ),
        ("rps_per_replica = 5", "", "shop: rps_per_replica has no effect: requests is not governed"),
        (
            "",
            "owned_count = 3",
            "node: owned_count has no effect: the tier is ON_DEMAND, and RESERVED ones are owned",
        ),
    ],
)
def test_milliseconds_and_percents_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, price: str, doubt: str
) -> None:
    prices = written(tmp_path, f"{PRICE}price = 1\n{price}\n", "prices.toml")
    check(written(tmp_path, f"{POLICY}{policy}\n"), prices=prices)
    assert f"warning: {doubt}" in capsys.readouterr().err


def test_an_app_that_may_buy_nothing_is_refused_where_there_are_prices(tmp_path: Path) -> None:
    prices = written(tmp_path, f'{PRICE}price = 1\ncommitment_id = "blog"\n', "prices.toml")
    policies = written(tmp_path, POLICY)
    check(policies)
    with pytest.raises(
        UsageError, match="policy shop: no offer may be bought: all are committed to others than 'shop'"
    ):
        check(policies, prices=prices)
    check(
        written(tmp_path, POLICY.replace("shop", "*")), prices=prices
    )  # of apps, each in a group of its own


def test_an_offer_that_changes_its_place_or_currency_is_warned_of() -> None:
    def offer(version: int, provider: str, **fields: str) -> Record:
        plain = {
            "offer_id": "node",
            "version": version,
            "provider": provider,
            "region": "r",
            "currency": "USD",
        }
        return plain | fields

    known = {"node": {1: offer(1, "aws"), 2: offer(2, "local")}}
    (warning,) = moved(known, [offer(3, "other")])
    assert warning.startswith("node@3 is of provider other, and was of provider local: ")
    assert moved(known, [offer(3, "local"), offer(2, "local"), offer(1, "aws")]) == []
    assert moved({}, [offer(1, "local")]) == []
    elsewhere, money = moved(known, [offer(3, "local", region="s", currency="EUR")])
    assert elsewhere.startswith(
        "node@3 is of region s, and was of region r: where a provider keeps regions apart"
    )
    assert money.startswith("node@3 is in EUR, and was in USD: budget and shortage_price_h of policies")
