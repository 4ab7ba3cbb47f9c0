"""Refusals name what is wrong, where, and what would be right."""

import io
import json
from pathlib import Path

import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

import schemas
from models import epoch
from pipeline.cli.backtest import backtest
from pipeline.cli.demo import demo
from pipeline.cli.train import train
from pipeline.errors import UsageError
from pipeline.inputs.files import read_policies
from pipeline.security.pseudonyms import KeyRing
from pipeline.settings import Settings, load_settings
from pipeline.stages.ingest.service import Partition
from pipeline.wire.codec import DEFAULT, published
from tests.unit.pipeline.messages import FakeMessage

NOW_S = 1_715_000_000


def metric_of(ts: int) -> bytes:
    """A metric record with any number as `ts`: the published schema's bytes, written without its logical type."""
    newest = schemas.versions("metric")
    fields = [
        field | ({"type": "long"} if field["name"] == "ts" else {}) for field in newest[max(newest)]["fields"]
    ]
    out = io.BytesIO()
    out.write(published("metric").prefix)
    plain = parse_schema({"type": "record", "name": "Metric", "namespace": "test", "fields": fields})
    schemaless_writer(out, plain, {"ts": ts, "interval_s": 10.0, "app": "shop", "user": "ann", "cpu": 1.0})
    return out.getvalue()


@pytest.mark.parametrize(
    ("factor", "reason", "unit"),
    [
        (1, "timestamp-old", "seconds"),
        (10**3, "timestamp-old", "milliseconds"),
        (10**9, "timestamp-ahead", "nanoseconds"),
    ],
)
def test_a_dead_letter_names_the_unit_of_a_time(factor: int, reason: str, unit: str) -> None:
    settings = Settings(partitions=1, demo_keys=True)
    ingest = Partition(0, settings, DEFAULT, KeyRing.of(settings))
    ts = NOW_S * factor
    sent = [
        FakeMessage(value, offset, produced_us=NOW_S * 10**6)
        for offset, value in enumerate((metric_of(ts), metric_of(NOW_S * 10**6)))
    ]
    (letter,) = ingest.take("telemetry.metrics", sent)
    assert (letter["offset"], letter["reason"]) == (0, reason)
    assert letter["detail"] == f"ts is {ts}: microseconds since 1970 are wanted, this looks like {unit}"


def test_a_time_in_no_unit_has_no_guess() -> None:
    settings = Settings(partitions=1, demo_keys=True)
    ingest = Partition(0, settings, DEFAULT, KeyRing.of(settings))
    sent = [
        FakeMessage(metric_of(ts), offset, produced_us=NOW_S * 10**6)
        for offset, ts in enumerate((17, (NOW_S - 30 * 86_400) * 10**6, -(2**62)))
    ]
    letters = ingest.take("telemetry.metrics", sent)
    assert [(letter["reason"], letter["detail"]) for letter in letters] == [("timestamp-old", "")] * 3


@given(st.integers(epoch.BEGIN_S, epoch.END_S - 1), st.sampled_from(list(epoch.PER_SECOND)))
def test_every_time_of_this_century_has_one_unit(seconds: int, unit: str) -> None:
    assert epoch.unit_of(seconds * epoch.PER_SECOND[unit]) == unit


@pytest.mark.parametrize("value", ["security.protocol=SSL", "sasl.password:hunter2", '"SSL"', "[1]"])
def test_client_options_that_are_no_json_object_are_shown_as_one(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEADTIME_KAFKA", value)
    with pytest.raises(UsageError) as refused:
        load_settings()
    text = str(refused.value)
    assert """JSON object of librdkafka's options, as LEADTIME_KAFKA='{"security.protocol": "SSL"}'""" in text
    assert "hunter2" not in text
    monkeypatch.setenv("LEADTIME_KAFKA", json.dumps({"security.protocol": "SSL"}))
    assert load_settings().kafka == {"security.protocol": "SSL"}


def test_toml_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    text = '[[policy]]\napp = "shop"\ngoverned = ["cpu"]\nunit = {cpu = 1.0}\nmax = 4\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [policy["app"] for policy in read_policies(path)] == ["shop"]
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(UsageError, match=r"not in UTF-8 .*: save it as UTF-8"):
        read_policies(path)


def test_results_that_could_not_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trace, out = tmp_path / "missing.parquet", tmp_path / "file"
    for run in (
        lambda: demo(trace, out=out, headless=True),
        lambda: train([trace], out),
        lambda: backtest(trace, out=out),
    ):
        with pytest.raises(UsageError, match=r"--out .*file: no folder can be made there: File exists"):
            run()
