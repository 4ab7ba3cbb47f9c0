"""Refusals name what is wrong, where, and what would be right."""

import io
import json
import sys
from pathlib import Path

import pytest
import structlog
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

import schemas
from models import epoch
from pipeline import folders
from pipeline.cli.backtest import backtest
from pipeline.cli.demo import demo
from pipeline.cli.main import main
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


@pytest.mark.parametrize(
    "value", ["127.0.0.1:99999", "broker:0", "a b:9092", "", "one:9092,", "one:9092,two:70000"]
)
def test_an_address_that_the_client_would_take_for_another_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEADTIME_BOOTSTRAP", value)
    with pytest.raises(UsageError) as refused:
        load_settings()
    wrong = next(part for part in value.split(",")[::-1])
    assert str(refused.value) == (
        f"setting bootstrap (LEADTIME_BOOTSTRAP): {wrong!r} is no address: give host:port[,host:port], ports from 1 to"
        " 65535"
    )


@pytest.mark.parametrize("value", ["broker", "one:9092, two:9093", "[::1]:9092", "SSL://broker:9093"])
def test_addresses_that_the_client_knows_are_taken(value: str) -> None:
    assert load_settings(bootstrap=value).bootstrap == value


def test_a_setting_of_the_environment_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEADTIME_TICK_S", "soon")
    with pytest.raises(
        UsageError, match=r"^setting tick_s \(LEADTIME_TICK_S\): Input should be a valid integer"
    ):
        load_settings()


def test_a_prefix_that_no_topic_can_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"setting prefix: .*A-Za-z0-9"):
        load_settings(prefix="two words/")


def test_a_variable_that_is_no_setting_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEADTIME_LATENESS", "65")
    with structlog.testing.capture_logs() as logs:
        load_settings()
        load_settings()
    expected = {"event": "no such setting", "variable": "LEADTIME_LATENESS", "meant": "LEADTIME_LATENESS_S"}
    assert [log for log in logs if log.get("variable") == "LEADTIME_LATENESS"] == [
        expected | {"log_level": "warning"}
    ]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (("broker", "--data", "{}"), "data folder"),
        (("up", "--only", "ingest"), "data folder"),
        (("demo", "--keep", "{}", "--headless", "--ticks", "2"), "--keep"),
        (("train", "{}/trace.csv", "--out", "{}"), "--out"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line(
    line: tuple[str, ...],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("LEADTIME_DATA_DIR", str(file))
    monkeypatch.delenv("LEADTIME_BOOTSTRAP", raising=False)
    monkeypatch.setattr(sys, "argv", ["leadtime", *(part.format(file) for part in line)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"leadtime: {name} {file}")
    assert ": no folder can be made there: " in message


def test_a_folder_without_leave_to_write_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UsageError, match=r"^--out .*: the folder cannot be written to$"):
        folders.make(tmp_path, "--out")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "replay t.parquet --until 2024-01-01 --offsets 0:5",
            "--until, --offsets: no effect with a trace: give --since and --ticks",
        ),
        (
            "replay --source-prefix a. --ticks 3",
            "--ticks: no effect without a trace: give --until or --offsets",
        ),
        ("evaluate --trace t.parquet --groupings 5", "--groupings: no effect without --apps"),
        (
            "evaluate --trace t.parquet --apps --forget 1h --rival ets",
            "--rival, --forget: no effect with --apps",
        ),
        ("backtest --trace t.parquet --offsets 0:5", "--offsets, --bootstrap and --prefix are of a cluster"),
        (
            "backtest --trace t.parquet --alone --rival hpa",
            "--alone leaves out baselines and sweep: no --rival",
        ),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["leadtime", *arguments.split()])
    with pytest.raises(SystemExit):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"leadtime: {message}")
