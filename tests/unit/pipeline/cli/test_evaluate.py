import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from models.behaviour.lstm import BehaviourModel, Network
from models.behaviour.training_series import held_out
from models.synthetic.population import population
from pipeline.cli.evaluate import evaluate
from pipeline.errors import UsageError
from tests.unit.pipeline.trace_files import write

START = 28_000_000  # minutes since 1970
FROM, UNTIL = "2023-03-28T12:40:00+00:00", "2023-03-28T13:40:00+00:00"  # minutes 120 to 180 after it


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven simulated users over four hours of minutes."""
    people = population(seed=1, apps=1, users_per_app=7, ticks=240, start_tick=START)
    path = tmp_path_factory.mktemp("trace") / "small.parquet"
    write(people, path)
    return path


@pytest.fixture(scope="module")
def names(trace_file: Path) -> list[str]:
    frame = pl.read_parquet(trace_file).select("app", "user").unique().sort("app", "user")
    return [f"{app}/{user}" for app, user in frame.iter_rows()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "fresh"
    dependence = {"shared": [0.1] * 5, "metric_correlation": np.eye(5).tolist(), "step_correlation": 0.3}
    BehaviourModel(Network(), {"model_id": "fresh", "dependence": dependence}).save(path)
    return path


def run(trace_file: Path, model: Path, *options: str) -> Any:
    app = typer.Typer()
    app.command("evaluate")(evaluate)
    done = CliRunner().invoke(
        app, ["--trace", str(trace_file), "--model", str(model), "--json", *options], catch_exceptions=False
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def whole(trace_file: Path, model: Path) -> Any:
    return run(trace_file, model)


def test_the_summary_has_what_scoring_asks_for(whole: Any) -> None:
    summary = whole["summary"]
    assert set(summary["crps_ratio"]) == {"persistence", "seasonal_naive"}
    assert {
        "coverage_95_min", "coverage_95_max", "users_within_92_98", "bound_99_min", "bound_99_max",
        "slack_99_ratio", "slack_99_ratio_max", "users", "ticks", "excluded", "intervals_95",
    } <= set(summary)  # fmt: skip
    # a quarter of four hours warms up
    assert (summary["users"], summary["ticks"], summary["excluded"]) == (7, 180, 0)
    assert summary["metrics"] == ["cpu", "memory", "network", "disk"]
    assert whole["warm_up_s"] == 3600


def test_the_summary_is_the_mean_over_main_metrics_and_steps(whole: Any) -> None:
    rows = [
        row for row in whole["by_metric_and_step"] if row["metric"] != "requests" and row["step"] in (1, 3, 6)
    ]
    assert len(rows) == 12
    mean = sum(row["crps_ratio"]["persistence"] for row in rows) / 12
    assert whole["summary"]["crps_ratio"]["persistence"] == pytest.approx(mean)
    assert whole["summary"]["coverage_95_min"] == min(row["coverage_95"] for row in rows)
    assert whole["summary"]["bound_99_max"] == max(row["bound_99"] for row in rows)


def test_rows_are_of_each_metric_and_step(whole: Any) -> None:
    rows = whole["by_metric_and_step"]
    assert len(rows) == 5 * 6
    row = rows[0]
    assert (row["metric"], row["step"], row["users"]) == ("cpu", 1, 7)
    assert len(row["reliability"]["nominal"]) == len(row["reliability"]["realised"]) == 10
    assert {"inside_95", "slack_99", "slack_99_matched", "censored", "users_within_92_98"} <= set(row)
    assert {"bound_99", "slack_99", "coverage_95"} <= set(row["rivals"]["seasonal_naive"])


def test_the_window_and_its_warm_up(trace_file: Path, model: Path) -> None:
    report = run(
        trace_file, model, "--from", FROM, "--until", UNTIL, "--warm-up", "90m", "--rival", "persistence"
    )
    assert (report["from"], report["until"], report["warm_up_s"]) == (FROM, UNTIL, 5400)
    assert report["summary"]["ticks"] == 60
    assert (
        report["by_metric_and_step"][0]["samples"] == 7 * 59
    )  # the last forecast's target lies after the window
    assert report["rivals"] == ["persistence"]
    naive = run(trace_file, model, "--from", FROM.removesuffix("+00:00"), "--until", UNTIL, "--every", "7")
    assert naive["warm_up_s"] == 7200  # what there is
    assert naive["summary"]["ticks"] == 9


def test_users_are_chosen(trace_file: Path, model: Path, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{names[0]}\n\n{names[2].split('/')[1]}\n")
    listed = ["--users", f"@{tmp_path / 'list.txt'}"]
    short = ["--from", FROM, "--until", UNTIL]
    assert run(trace_file, model, *listed, *short)["summary"]["users"] == 2
    assert run(trace_file, model, *listed, "--users", names[1][:-1] + "?", *short)["summary"]["users"] == 7
    held = [name for name in names if held_out(name)]
    assert run(trace_file, model, "--held-out", *short)["summary"]["users"] == len(held) > 0


def test_coarser_ticks(trace_file: Path, model: Path) -> None:
    report = run(trace_file, model, "--tick", "300")
    assert (report["tick_s"], report["summary"]["ticks"]) == (300, 36)


def test_events_can_be_hidden(trace_file: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def watched(_: Any, trace: Any, *__: Any, **___: Any) -> Any:
        seen.append(bool((trace.events == trace.events).any()))
        raise UsageError("enough")

    monkeypatch.setattr("models.evaluation.forecast_pass.evaluate", watched)
    for hidden in (False, True):
        with pytest.raises(UsageError, match="enough"):
            evaluate(trace_file, model, without_events=hidden)
    assert seen == [True, False]


def test_new_users_are_scored_beside_rivals_that_know_them(trace_file: Path, model: Path, whole: Any) -> None:
    first_hour = run(trace_file, model, "--forget", "1h")
    assert (whole["forget_ticks"], first_hour["forget_ticks"]) == (None, 3_600 // whole["tick_s"])
    for row, known in zip(first_hour["by_metric_and_step"], whole["by_metric_and_step"], strict=True):
        assert 0.9 * known["samples"] < row["samples"] <= known["samples"]  # not after a gap of an hour
        theirs, before = (r["rivals"]["persistence"]["crps"] for r in (row, known))
        assert theirs == pytest.approx(before, rel=0.1)
        assert row["crps"] != known["crps"]


def test_a_plot_is_a_picture(trace_file: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.png"
    run(trace_file, model, "--plot", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


def test_for_people_it_is_a_table(trace_file: Path, model: Path) -> None:
    app = typer.Typer()
    app.command("evaluate")(evaluate)
    arguments = ["--trace", str(trace_file), "--model", str(model)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "220"})
    assert "CRPS ratio to" in done.stdout
    assert "memory" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rival": ["arima"]}, "no rival 'arima'"),
        ({"users": ["nobody*"]}, "no user 'nobody\\*'"),
        ({"users": ["@/nowhere/list"]}, "/nowhere/list: cannot be read"),
        ({"warm_up": "5h"}, "no room for a warm-up of 5h"),
        ({"begin": FROM, "warm_up": "3h"}, "no room for a warm-up of 3h"),
        ({"warm_up": "long"}, "'long' is not a duration"),
        ({"begin": "yesterday"}, "'yesterday' is not a time"),
        ({"begin": UNTIL, "until": FROM}, "nothing to score in the window"),
        ({"begin": "2030-01-01"}, "nothing to score in the window: the trace lasts from 2023-03-28T10:40:00"),
        ({"until": "2001-01-01"}, "nothing to score in the window"),
        ({"tick_s": 0}, "a tick must be 1 s to 1 day"),
        ({"forget": "1h", "every": 4}, "choose one that shares no factor with 60"),
        ({"plot": Path("/nowhere/plot.png")}, "no such folder /nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    options: dict[str, Any], said: str, trace_file: Path, model: Path
) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        evaluate(trace_file, model, **options)
    assert "\n" not in str(raised.value)


def test_a_rival_that_is_not_installed_is_said(
    trace_file: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"rival ets .* uv sync --group rivals"):
        evaluate(trace_file, model, rival=["ets"])


def test_deepar_needs_users_who_are_not_scored(
    trace_file: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.baselines.forecasters.import_libraries", lambda _: None)
    with pytest.raises(UsageError, match="rival deepar: needs users to train on who are not scored"):
        evaluate(trace_file, model, rival=["deepar"])


def test_files_that_are_not_there(trace_file: Path, tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="holds no model"):
        evaluate(trace_file, tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        evaluate(tmp_path / "none.csv", model)


def test_apps_are_planned_and_their_promise_scored(trace_file: Path, model: Path) -> None:
    options = ("--apps", "--from", FROM, "--until", UNTIL, "--warm-up", "60m", "--scenarios", "128")
    report = run(trace_file, model, *options)
    # seven users are fewer than ten: the app of all is all there is. 60 minutes, a decision every 6: ticks 120, 126,
    # ..., 174 make ten, of which the last has its sixth step at tick 180, beyond the window
    assert [row["decisions"] for row in report["promise"]] == [9, 9, 9]
    assert report["summary"]["apps"] == 1
    for row in report["promise"]:
        assert row["kept"] == 1 - row["misses"] / 9
        assert row["misses_to_allowed"] == pytest.approx(row["misses"] / ((1 - row["confidence"]) * 9))
        assert row["kept_by_users"] == {"7": row["kept"]}
    kept = [row["kept"] for row in report["promise"]]
    assert kept == sorted(kept)
    assert {row["metric"] for row in report["by_metric_and_step"]} >= {"cpu", "memory"}
    assert run(trace_file, model, *options) == report  # same seed, same figures
    narrow = run(trace_file, model, *options, "--governed", "cpu")
    assert narrow["promise"][0]["kept"] >= report["promise"][0]["kept"]


def test_a_metric_that_is_not_known_is_refused(trace_file: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="no metric 'gpu'"):
        run(trace_file, model, "--apps", "--governed", "gpu")
