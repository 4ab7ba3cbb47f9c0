"""Files of policies, prices and events: what is taken, and the one line that refuses the rest."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from models.capacity import Policy
from pipeline.cli.inputs import policies_app
from pipeline.errors import UsageError
from pipeline.inputs.files import SIZE, read_calendar, read_policies, read_prices
from pipeline.wire.codec import Record
from pipeline.wire.policies import offer_of, policy_of

POLICY = """
[[policy]]
app = "shop"
governed = ["cpu", "memory"]
unit = {cpu = 2, memory = "4GiB"}
"""
PRICE = """
[[price]]
offer_id = "aws-m5"
provider = "aws"
region = "eu-west-1"
tier = "ON_DEMAND"
instance_type = "m5.xlarge"
capacity = {cpu = 4, memory = "16GiB", network = "1.25GB"}
reserved_overhead = {cpu = 0.2, memory = "700MiB"}
price = "0.214"
startup_p50_s = 60
startup_p90_s = 80.5
startup_p99_s = 120
"""
EVENT = """
[[event]]
id = "black-friday"
kind = "campaign"
start = 2026-11-27T09:00:00
end = 2026-11-28
timezone = "America/New_York"
apps = ["shop"]
lift_mean = 3
"""
FILES = [
    ("", "no tables [[policy]]"),
    ("policy = 3", "no tables [[policy]]"),
    ("[policy]\napp = 'x'", "no tables [[policy]]"),
    (PRICE, "price: only tables [[policy]] belong here"),
    ("[[policy]", "not a TOML file: "),
    ("[[policy]]\nmode = 'auto'", "policy 1: app is missing"),
    ("[[policy]]\napp = 3", "policy 1: app must be text, got 3"),
    (POLICY.replace("shop", ""), "policy 1: app must not be empty"),
]
POLICIES = [
    (POLICY + "replicas = 3", "there is no field replicas; there are author, "),
    (POLICY + "schema_version = 1", "there is no field schema_version; "),
    (POLICY + "mode = 'on'", "mode must be one of shadow, canary, auto, paused, got 'on'"),
    (POLICY + "mode = 1", "mode must be one of shadow, canary, auto, paused, got 1"),
    (POLICY + "confidence = 1.5", "confidence must be between 0 and 1, got 1.5"),
    (POLICY + "confidence = nan", "confidence must be a finite number, got nan"),
    (POLICY + "confidence = '0.9'", "confidence must be a number, got '0.9'"),
    (POLICY + "confidence = true", "confidence must be a number, got True"),
    (POLICY + "confidence_of = 'TIME'", "confidence_of must be one of plan, time, got 'TIME'"),
    (POLICY + "confidence_of = ['time']", "confidence_of must be one of plan, time, got ['time']"),
    (POLICY + "hold_s_min = 700", "hold_s_min (700) must be at most hold_s (600)"),
    (POLICY + "hold_s_max = 60", "hold_s_max (60) must be at least hold_s (600)"),
    (POLICY + "hold_s_max = 'long'", "hold_s_max must be a number, got 'long'"),
    (POLICY + "learner = 1", "learner must be true or false, got 1"),
    (POLICY + "min = 5\nmax = 3", "max (3) is below min (5)"),
    (POLICY + "max = 5_000_000_000", "max is out of range: 5000000000"),
    (POLICY + f"confidence = 1{'0' * 400}", "confidence is out of range: 1000"),
    (POLICY + "max = 3.5", "max must be a whole number, got 3.5"),
    (POLICY + "budget = 'much'", "budget must be an amount of money such as 0.85, got 'much'"),
    (POLICY + "budget = '1_000'", "budget must be an amount of money such as 0.85, got '1_000'"),
    (POLICY + "budget = inf", "budget is out of range: inf"),
    (POLICY + "budget = -1", "budget must be at least 0, got -1.0"),
    (POLICY + "providers = 'aws'", "providers must be a list of names such as "),
    (POLICY + "version = 0", "version must be at least 1, got 0"),
    (POLICY.replace("memory =", "memroy ="), "unit must be by metric (cpu, memory, "),
    (POLICY.replace("4GiB", "4 gigs"), "unit of memory must be a number or a size such"),
    (POLICY.replace("4GiB", "-4GiB"), "unit of memory must be a number or a size such"),
    (POLICY.replace("cpu = 2", "cpu = -2"), "unit of cpu must be at least 0, got -2"),
    (
        POLICY.replace("cpu = 2", "cpu = nan"),
        "unit of cpu must be a number or a size such as 512MiB, got nan",
    ),
    (POLICY.replace("{cpu", "[{cpu").replace("}", "}]"), "unit must be a table such as"),
    (POLICY.replace("cpu = 2, ", ""), "unit has no size for the governed metric cpu"),
    (POLICY * 2, "is there 2 times: give each its version"),
    ((POLICY + "version = 2\n") * 2, "is there 2 times: version 2"),
]
PRICES = [
    (PRICE.replace("0.214", "-1"), "price must be at least 0, got -1"),
    (PRICE.replace("0.214", "0.2140001"), "price has more than 6 decimals: 0.2140001"),
    (PRICE.replace("0.214", "1e13"), "price is out of range: 1e13"),
    (PRICE.replace('"0.214"', "true"), "price must be an amount of money such as 0.85, got True"),
    (PRICE.replace("0.214", "1_0"), "price must be an amount of money such as 0.85, got '1_0'"),
    (PRICE.replace("0.214", "1,50"), "price must be an amount of money such as 0.85, got '1,50'"),
    (PRICE.replace("0.214", "٣"), "price must be an amount of money such as 0.85, got '٣'"),
    (PRICE.replace("16GiB", "١٦GiB"), "capacity of memory must be a number or a size such as 512MiB"),
    (PRICE.replace("80.5", "50"), "startup_p50_s, startup_p90_s, startup_p99_s must rise"),
    (PRICE + "launch_failure = 1", "launch_failure must be from 0 to below 1, got 1.0"),
    (PRICE + "interruption = 5e4", "interruption must be in 0 to 3600 an hour, got 50000"),
    (PRICE + "notice_s = -2", "notice_s must be 0 to 30 days, got -2.0"),
    (PRICE + "quota_limit = 5", "quota_group is missing: there is a quota_limit"),
    (PRICE + "owned_count = -5", "owned_count must be at least 0, got -5"),
    (PRICE + "currency = '$'", "currency must be an ISO code such as USD, got '$'"),
    (PRICE.replace("ON_DEMAND", "RESERVED"), "owned_count is missing: the tier is RESERVED"),
    (PRICE.replace("700MiB", "17GiB"), "capacity of memory must be above what reserved"),
    (PRICE.replace('{cpu = 4, memory = "16GiB", network = "1.25GB"}', "{}"), "capacity must name"),
    (PRICE.replace('provider = "aws"', ""), "provider is missing"),
    (
        PRICE.replace(', memory = "16GiB"', ""),
        "reserved_overhead takes of memory: capacity must name it, with all",
    ),
    (
        PRICE + "quoted_price = '0.2'",
        "quoted_price says how a price was converted: give price, currency and a tab",
    ),
    (PRICE + "quoted_currency = 'GBP'", "quoted_currency says how a price was converted"),
    (PRICE + "rate = '1.27'", "rate says how a price was converted"),
]
EVENTS = [
    (EVENT.replace("11-28", "11-27"), "end (2026-11-27 05:00:00+00:00) must be after"),
    (EVENT.replace("America/New_York", "Mars"), "start cannot be told: there is no timezone"),
    (EVENT.replace('"America/New_York"', "5"), "start cannot be told: there is no timezone 5"),
    (EVENT.replace("2026-11-28", '"soon"'), "end must be a time such as "),
    (EVENT.replace("2026-11-28", "0001-01-01T00:00:00+14:00"), "end is out of range: 0001-01-01"),
    (EVENT.replace('["shop"]', "[]"), "apps must name at least one"),
    (EVENT + "lift_low = 4", "lift_low, lift_mean, lift_high must rise from 0, got"),
    (EVENT + "probability = 2", "probability must be in 0 to 1, got 2.0"),
    (EVENT + "lead_s = -1", "lead_s must be at least 0, got -1.0"),
]
Reader = Callable[[Path], list[Record]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "file.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


Write = Callable[[str], Path]


def test_a_policy_is_its_fields_and_the_schemas_defaults(write: Write) -> None:
    text = (
        POLICY
        + 'budget = 12.5\nmode = "auto"\npromotion_gates = {coverage = 0.93}\nmax_up = 3\npool_loss = 0.9'
        + "\nshortage_price_h = 40\nconfidence_of = 'time'\nhold_s_min = 60\nhold_s_max = 900\nlearner = true"
    )
    (record,) = read_policies(write(text))
    assert policy_of(record) == Policy(
        app="shop",
        governed=("cpu", "memory"),
        unit={"cpu": 2.0, "memory": 4.0 * 1024**3},
        mode="auto",
        allocation_group="shop",  # an app by itself
        budget=12.5,
        promotion_gates={"coverage": 0.93},
        max_up=3,
        pool_loss=0.9,
        shortage_price_h=40.0,
        confidence_of="time",
        hold_s_min=60.0,
        hold_s_max=900.0,
        learner=True,
    )
    assert record["confidence_of"] == "TIME"
    assert record["budget"] == Decimal("12.5")
    assert "version" not in record
    assert "valid_from_tick" not in record


def test_a_version_and_a_tick_of_the_file_are_kept(write: Write) -> None:
    (record,) = read_policies(write(POLICY + "version = 7\nvalid_from_tick = 0\nallocation_group = 'g'"))
    assert (record["version"], record["valid_from_tick"], record["allocation_group"]) == (7, 0, "g")


def test_an_offer_is_what_is_left_for_replicas_and_its_exact_price(write: Write) -> None:
    (record,) = read_prices(write(PRICE + "quota_group = 'vcpu'\nquota_limit = 5"))
    assert record["price"] == Decimal("0.214")
    offer = offer_of(record)
    assert (offer.quota_group, offer.quota_limit) == ("vcpu", 5)
    # 4 - 0.2 cores; 16 GiB - 700 MiB; a network in decimal units, as networks are sold.
    assert offer.allocatable == {
        "cpu": 3.8,
        "memory": 16.0 * 1024**3 - 700 * 1024**2,
        "network": 1.25e9,
    }
    assert (offer.startup_p50_s, offer.startup_p90_s, offer.startup_p99_s) == (60.0, 80.5, 120.0)


def test_a_time_without_an_offset_is_in_the_events_timezone(write: Write) -> None:
    (record,) = read_calendar(write(EVENT))
    # New York is 5 hours behind UTC in November; a date is its midnight.
    assert record["start"] == datetime(2026, 11, 27, 14, tzinfo=UTC)
    assert record["end"] == datetime(2026, 11, 28, 5, tzinfo=UTC)
    assert (record["lift_low"], record["lift_mean"], record["lift_high"]) == (3.0, 3.0, 3.0)
    (record,) = read_calendar(write(EVENT.replace("09:00:00", "09:00:00+02:00")))
    assert record["start"] == datetime(2026, 11, 27, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "number"),
    [
        ("512MiB", 512 * 2**20),
        ("2GB", 2e9),
        ("4Gi", 2**32),
        ("1.5 kB", 1500),
        ("1KiB", 1024),
        ("7B", 7),
        ("8", 8),
    ],
)
def test_sizes(write: Write, size: str, number: float) -> None:
    (record,) = read_policies(write(POLICY.replace("4GiB", size)))
    assert policy_of(record).unit["memory"] == number


@given(st.floats(0, 1e12), st.sampled_from(["", "k", "M", "G", "T", "P"]), st.booleans())
def test_every_number_and_unit_is_a_size(number: float, power: str, binary: bool) -> None:
    assert SIZE.fullmatch(f"{number:.3f}{power}{'i' if binary and power else ''}B")


@pytest.mark.parametrize(
    ("read", "text", "line"),
    [
        *((read_policies, text, line) for text, line in FILES),
        *((read_policies, text, f"policy shop: {line}") for text, line in POLICIES),
        *((read_prices, text, f"price aws-m5: {line}") for text, line in PRICES),
        *((read_calendar, text, f"event black-friday: {line}") for text, line in EVENTS),
    ],
)
def test_what_cannot_be_is_one_line_that_says_where(write: Write, read: Reader, text: str, line: str) -> None:
    path = write(text)
    with pytest.raises(UsageError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: {line}")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_not_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: No such file or directory$"):
        read_policies(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        read_policies(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a TOML file: "):
        read_policies(tmp_path / "binary")


def test_check_needs_no_broker(write: Write) -> None:
    path = write(POLICY)
    assert CliRunner().invoke(policies_app, ["check", str(path)]).output == f"{path}: 1 good: shop\n"
    result = CliRunner().invoke(policies_app, ["check", "--json", str(path)])
    assert result.output == '{"policies": ["shop"]}\n'
    result = CliRunner().invoke(policies_app, ["check", str(write(POLICY + "min = -1"))])
    assert isinstance(result.exception, UsageError)


def test_a_policys_history_is_every_version_with_its_author_and_what_it_changed(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = read_policies(write(POLICY))
    versions = {
        2: {
            **record,
            "version": 2,
            "valid_from_tick": 70,
            "author": "ann",
            "max": 7,
            "budget": Decimal("2.5"),
            "confidence_of": "TIME",
        },
        1: {**record, "version": 1, "valid_from_tick": 0, "author": "bob"},
    }
    monkeypatch.setattr("pipeline.inputs.publish.published", lambda *_: {"shop": versions})
    found = json.loads(CliRunner().invoke(policies_app, ["history", "shop", "--json"]).output)["policies"]
    assert found == [
        {"version": 1, "valid_from_tick": 0, "author": "bob", "changed": {}},
        {"version": 2, "valid_from_tick": 70, "author": "ann",
         "changed": {"confidence_of": ["PLAN", "TIME"], "max": [record["max"], 7], "budget": [None, "2.5"]}},
    ]  # fmt: skip
    said = CliRunner().invoke(policies_app, ["history", "shop"]).output.splitlines()
    assert len(said) == 3
    assert said[0].split() == ["version", "valid_from_tick", "author", "changed"]
    assert said[2].split(maxsplit=3)[:3] == ["2", "70", "ann"]
    assert f"max {record['max']} → 7" in said[2]
    assert "budget none → 2.5" in said[2]
    assert "confidence_of plan → time" in said[2]
    shown = CliRunner().invoke(policies_app, ["show", "shop"]).output
    assert ["confidence_of", "time"] in [line.split() for line in shown.splitlines()]
    assert isinstance(CliRunner().invoke(policies_app, ["history", "blog"]).exception, UsageError)


def test_a_group_that_shares_nodes_needs_no_unit_and_is_told_what_does_nothing(tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    app = (
        '[[policy]]\napp = "shop"\nmode = "%s"\nallocation_group = "%s"\nlearner = %s\n'
        'governed = ["cpu"]\nunit = {cpu = 1}\n'
    )
    group = '[[policy]]\napp = "web"\nnodes = "shared"\nmode = "%s"\n'
    for text, warning in (
        (group % "auto" + app % ("auto", "web", "false"), ""),
        (group % "auto" + app % ("auto", "other", "false"), "no policy has the allocation_group 'web'"),
        (group % "auto" + app % ("auto", "web", "true"), "learner does nothing for an app of web"),
        (
            group % "auto" + "max = 2\n" + app % ("auto", "web", "false"),
            "web: max does nothing for a group whose apps",
        ),
        (
            group % "auto" + app % ("auto", "web", "false") + "min_on_demand = 0.5\n",
            "shop: min_on_demand does nothing for an app of web",
        ),
        (group % "shadow" + app % ("auto", "web", "false"), "and the nodes of web are not (mode shadow)"),
        (group % "auto" + app % ("shadow", "web", "false"), "nodes of web are bought for it too (mode auto)"),
    ):
        file.write_text(text)
        checked = CliRunner().invoke(policies_app, ["check", str(file)])
        assert "2 good: web, shop" in checked.stdout
        assert warning in checked.stderr if warning else not checked.stderr
