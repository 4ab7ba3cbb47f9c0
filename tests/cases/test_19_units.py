"""Sizes with a suffix are of bytes; amounts that cannot be meant are refused, those that hardly can are warned of."""

import tomllib
from pathlib import Path

import pytest

from models.metrics import METRIC_UNITS, METRICS
from pipeline.cli.inputs import check
from pipeline.errors import UsageError
from pipeline.inputs.files import read_policies, read_prices

POLICY = '[[policy]]\napp = "shop"\ngoverned = ["cpu"]\nunit = {{cpu = {cpu}, memory = {memory}}}\n'
PRICE = """[[price]]
offer_id = "node"
provider = "local"
region = "here"
zone = "here-1"
tier = "ON_DEMAND"
instance_type = "n"
capacity = {{{metric} = {value}}}
price = "0.10"
startup_p50_s = 5
startup_p90_s = 8
startup_p99_s = 10
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "file.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("cpu", ['"2GiB"', '"2G"', '"2B"', '"500MiB"'])
def test_a_size_of_bytes_is_no_number_of_cores(tmp_path: Path, cpu: str) -> None:
    with pytest.raises(UsageError, match="unit of cpu must be a number of cores, got "):
        check(written(tmp_path, POLICY.format(cpu=cpu, memory='"2GiB"')))


@pytest.mark.parametrize(("metric", "unit"), [*zip(METRICS, METRIC_UNITS, strict=True)])
def test_only_bytes_have_suffixes(tmp_path: Path, metric: str, unit: str) -> None:
    file = written(tmp_path, PRICE.format(metric=metric, value='"2GiB"'))
    if unit.startswith("bytes"):
        assert read_prices(file)[0]["capacity"] == [{"metric": metric, "value": 2.0 * 2**30}]
    else:
        with pytest.raises(UsageError, match=f"capacity of {metric} must be a number of {unit}, got '2GiB'"):
            read_prices(file)
    (plain,) = read_prices(written(tmp_path, PRICE.format(metric=metric, value='"2000"')))
    assert plain["capacity"] == [{"metric": metric, "value": 2000.0}]


@pytest.mark.parametrize(
    ("cpu", "memory", "reason"),
    [
        ("1e6", '"2GiB"', "unit of cpu must be at most 100,000 cores, got 1000000.0: a mistaken unit"),
        ("1", '"2000PB"', "unit of memory must be at most 1,000,000,000,000,000 bytes, got '2000PB'"),
        ("-1", '"2GiB"', "unit of cpu must be at least 0"),
        ("nan", '"2GiB"', "unit of cpu must be a number"),
    ],
)
def test_an_amount_that_cannot_be_meant_is_refused(
    tmp_path: Path, cpu: str, memory: str, reason: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        read_policies(written(tmp_path, POLICY.format(cpu=cpu, memory=memory)))
    assert reason in str(refusal.value)


def test_a_size_that_can_hardly_be_meant_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(written(tmp_path, POLICY.format(cpu="1", memory="2")))
    assert (
        capsys.readouterr().err
        == "warning: shop: unit of memory is 2 B: was a suffix such as MiB left out?\n"
    )
    check(written(tmp_path, POLICY.format(cpu="1", memory='"2GiB"')))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("rps_per_replica = 1e30", "rps_per_replica must be above 0 and at most 10,000,000,000, got 1e+30"),
        ("rps_per_replica = -5", "rps_per_replica must be above 0"),
        ("rps_per_replica = 0", "rps_per_replica must be above 0"),
        ('governed = ["cpu", "memory", "cpu"]', "governed names cpu more than once"),
        ('allocation_group = "web"', "allocation_group must be left out: '*' is of apps"),
    ],
)
def test_a_field_that_would_be_misread_is_refused(tmp_path: Path, more: str, reason: str) -> None:
    governed = "" if "governed" in more else 'governed = ["cpu"]\n'
    text = f'[[policy]]\napp = "*"\n{governed}unit = {{cpu = 1, memory = "1GiB"}}\n{more}\n'
    with pytest.raises(UsageError) as refusal:
        read_policies(written(tmp_path, text))
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("policy", "doubt"),
    [
        ("unit = {cpu = 250}", "unit of cpu is 250 cores: cores are meant, no thousandths of them"),
        ("unit = {cpu = 1}\nbeyond_max = 20", "beyond_max is 20: a share such as 0.2 is meant"),
        ("unit = {cpu = 1, network = 100}", "unit of network is 100 B/s"),
    ],
)
def test_thousandths_of_cores_megabits_and_percents_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, doubt: str
) -> None:
    check(written(tmp_path, f'[[policy]]\napp = "shop"\ngoverned = ["cpu"]\n{policy}\n'))
    assert f"warning: shop: {doubt}" in capsys.readouterr().err


def test_sizes_of_offers_are_warned_of_where_policies_are_checked_against_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICE.format(metric="cpu", value="4000"))
    policy = '[[policy]]\napp = "shop"\ngoverned = ["cpu"]\nunit = {cpu = 1}\nmax = 9999\n'
    check(written(tmp_path, policy), prices=prices)
    assert "warning: node: capacity of cpu is 4,000 cores" in capsys.readouterr().err


@pytest.mark.parametrize(("capacity", "warned"), [("cpu = 8", True), ('cpu = 8, memory = "32GiB"', False)])
def test_an_offer_without_a_capacity_that_is_governed_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], capacity: str, warned: bool
) -> None:
    policy, prices = tmp_path / "policy.toml", tmp_path / "prices.toml"
    policy.write_text(
        POLICY.format(cpu="1", memory='"4GiB"').replace('["cpu"]', '["cpu", "memory", "requests"]')
    )
    policy.write_text(policy.read_text() + "rps_per_replica = 5\n")
    prices.write_text(PRICE.replace("{{{metric} = {value}}}", f"{{{capacity}}}"))
    check(policy, prices=prices)
    told = "warning: policy shop: offer node names no capacity of memory, which is governed: it is taken to have enough"
    assert capsys.readouterr().err.splitlines() == [told] * warned


OWNED, QUOTA = "owned_count = 4", 'quota_group = "q"\nquota_limit = 4'


@pytest.mark.parametrize(
    ("offer", "second", "warned"),
    [
        (OWNED, "", "each allocation group (jobs, shop) counts its 4 owned instances as its own: "),
        (QUOTA, "", "each allocation group (jobs, shop) keeps to its quota of 4 by itself: "),
        (OWNED + '\ncommitment_id = "shop"', "", None),
        (OWNED, 'allocation_group = "shop"', None),
        (QUOTA, 'providers = ["other"]', None),
        ('quota_group = "q"\nquota_limit = 0', "", None),
    ],
)
def test_what_several_groups_each_count_for_themselves_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], offer: str, second: str, warned: str | None
) -> None:
    """Groups are planned each for itself: two of them would run eight of four owned instances."""
    price = PRICE.format(metric="cpu", value="8") + offer + "\n"
    prices = tmp_path / "prices.toml"
    spare = PRICE.format(metric="cpu", value="8").replace('"node"', '"spare"').replace('"local"', '"other"')
    prices.write_text((price.replace("ON_DEMAND", "RESERVED") if "owned" in offer else price) + spare)
    both = '[[policy]]\napp = "{app}"\ngoverned = ["cpu"]\nunit = {{cpu = 1}}\n'
    check(written(tmp_path, both.format(app="shop") + both.format(app="jobs") + second + "\n"), prices=prices)
    expected = [] if warned is None else [f"warning: offer node: {warned}"]
    assert [line[: len(warned or "") + 21] for line in capsys.readouterr().err.splitlines()] == expected


OWNED_ALONE = "tier = 'RESERVED'\nowned_count = 2\ncommitment_id = 'shop'"
DEARER = "is by cpu 100 times as dear or as cheap as each other offer's"


def offers(*fields: str) -> str:
    """Offers of eight cores, each with fields that replace those of PRICE."""
    rows: list[str] = []
    for number, more in enumerate(fields):
        row = tomllib.loads(PRICE.format(metric="cpu", value="8"))["price"][0] | {
            "offer_id": f"node-{number}"
        }
        row |= tomllib.loads(more)
        given = "\n".join(f"{n} = {{cpu = 8}}" if n == "capacity" else f"{n} = {v!r}" for n, v in row.items())
        rows.append(f"[[price]]\n{given}\n")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("fields", "doubts"),
    [
        (["price = '0.2'", "price = '0.3'", "price = '146'"], [f"offer node-2: price 146 USD {DEARER}"]),
        (["price = '21'", "price = '30'", "price = '0.2'"], [f"offer node-2: price 0.2 USD {DEARER}"]),
        (["price = '0.2'", "price = '0.3'", "price = '2'"], []),
        (["price = '146'", "price = '0.2'"], []),  # which of two is mistaken nothing tells
        (["price = '0.2'", "price = '0.3'", "price = 0"], ["node-2: price is 0: "]),
        (["price = '0.2'", "price = '0.3'", "price = 0\n" + OWNED_ALONE], []),
        (["startup_p99_s = 86000"], ["node-0: startup_p99_s is 86,000 s (23.9 hours): seconds are meant"]),
        (["billing_min_s = 60000"], ["node-0: billing_min_s is 60,000 s (16.7 hours): seconds are meant"]),
        (["startup_p99_s = 3600\nbilling_min_s = 3600"], []),
    ],
)  # fmt: skip
def test_prices_that_are_far_from_the_others_and_times_in_milliseconds_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: list[str], doubts: list[str]
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(offers(*fields))
    check(
        written(tmp_path, '[[policy]]\napp = "shop"\ngoverned = ["cpu"]\nunit = {cpu = 1}\n'), prices=prices
    )
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"warning: {doubt}") for line, doubt in zip(lines, doubts, strict=True)] == [
        True
    ] * len(doubts)
