"""`leadtime bench` on a real Kafka, few users."""

import json

import pytest
from typer.testing import CliRunner

from pipeline.cli.bench import bench_app
from pipeline.settings import Settings


def run(command: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LEADTIME_SCENARIOS", "128")
    done = CliRunner().invoke(bench_app, [*command, "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_throughput_counts_every_record(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--users", "40", "--records", "800", "--apps", "2", "--rival-s", "2"]
    facts = run(["throughput", *sizes], settings, monkeypatch)
    assert (facts["users"], facts["ticks"], facts["records"]) == (
        40,
        2,
        800,
    )  # 2 ticks x 10 samples x 40 users
    assert (facts["framed"], facts["dead_letters"]) == (800, 0)
    rates = [facts[name] for name in ("records_per_s", "limit_records_per_s", "rival_records_per_s")]
    assert all(isinstance(rate, int) and rate > 0 for rate in rates)
    assert isinstance(facts["state_bytes_per_user"], float)
    assert facts["state_bytes_per_user"] > 2_000  # h and c of the LSTM alone are 512


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_latency_is_from_close_to_plan(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = run(["latency", "--users", "40", "--ticks", "3", "--tick", "2"], settings, monkeypatch)
    delays = [facts[name] for name in ("p50_s", "p99_s", "max_s")]
    assert all(isinstance(delay, float) for delay in delays)
    assert 0 < delays[0] <= delays[1] <= delays[2] < 60  # pyright: ignore[reportOperatorIssue]
    assert isinstance(facts["producer_behind_s"], float)
