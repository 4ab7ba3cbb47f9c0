"""Sizes with a suffix are of bytes; amounts that cannot be meant are refused, those that hardly can are warned of."""

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
