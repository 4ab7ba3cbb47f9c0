import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from models.behaviour.lstm import DEFAULT_MODEL, BehaviourModel
from models.behaviour.training_series import held_out
from models.learning.model_gate import ModelEvidence
from models.synthetic.population import population
from pipeline.cli.train import train
from pipeline.errors import UsageError
from pipeline.inputs import released_models
from pipeline.training import fitting, tuning
from tests.unit.pipeline.trace_files import write


@pytest.fixture(scope="module")
def command() -> typer.Typer:
    app = typer.Typer()
    app.command("train")(train)
    app.callback()(lambda: None)  # one command alone would have no name
    return app


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven simulated users over three hours of minutes; at least one is held out."""
    people = population(seed=1, apps=1, users_per_app=7, ticks=180, start_tick=28_000_000)
    assert 0 < sum(held_out(f"{people.apps[0]}/{user}") for user in people.users) < 7
    path = tmp_path_factory.mktemp("trace") / "small.parquet"
    write(people, path)
    return path


@pytest.fixture(scope="module")
def trained(
    command: typer.Typer, trace_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("models") / "tiny"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("models.synthetic.series.POPULATIONS", ((1, 60, 120),))
        done = CliRunner().invoke(
            command,
            ["train", str(trace_file), "--out", str(out), "--updates", "2", "--json"],
            catch_exceptions=False,
        )
    assert done.exit_code == 0
    return out, json.loads(done.stdout)


@pytest.mark.slow
def test_train_writes_a_model_that_says_where_it_comes_from(
    trained: tuple[Path, Any], trace_file: Path
) -> None:
    out, facts = trained
    model = BehaviourModel.load(out)
    assert model.facts == facts
    assert model.model_id == "tiny"
    (origin,) = facts["trained_on"]
    assert origin["file"] == "small.parquet"
    assert origin["sha256"] == hashlib.sha256(trace_file.read_bytes()).hexdigest()
    (part,) = origin["parts"]
    # the last quarter of 180 minutes is not learnt from
    assert part["until_s"] - part["from_s"] == 135 * 60
    assert model.dependence.shared.shape == (5,)
    assert "small.parquet, 60 s" in facts["scores"]


@pytest.mark.slow
def test_a_model_is_fine_tuned_with_its_parents_lstm_and_kept_on_evidence_alone(
    command: typer.Typer, trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = population(seed=3, apps=1, users_per_app=3, ticks=400, start_tick=28_000_000)
    trace, parent = tmp_path / "own.parquet", BehaviourModel.load(trained[0])
    write(people, trace)
    arguments = ["train", str(trace), "--tune", str(trained[0]), "--updates", "60", "--json", "--out"]

    def tuned(name: str) -> tuple[int, Any]:
        done = CliRunner().invoke(command, [*arguments, str(tmp_path / name)], catch_exceptions=False)
        return done.exit_code, json.loads(done.stdout)

    code, facts = tuned("none")
    (gate,) = facts["gate"].values()
    assert (code, facts["promoted"], gate["days"]) == (1, False, 1), "a day cannot prove it"
    assert not list((tmp_path / "none").iterdir())
    assert (facts["parent"], facts["lineage"]) == ("tiny", ["tiny"])

    monkeypatch.setattr("models.learning.model_gate.judged", lambda new, old: ModelEvidence(0.9, 30.0, 9))
    code, facts = tuned("own")
    model = BehaviourModel.load(tmp_path / "own")
    assert (code, facts["promoted"], model.facts) == (0, True, facts)
    (origin,) = facts["tuned_on"]
    assert origin["parts"][0]["until_s"] - origin["parts"][0]["from_s"] == 200 * 60
    for ours, theirs in zip(model.network.lstm.weights, parent.network.lstm.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any(
        not np.array_equal(ours, theirs)
        for ours, theirs in zip(model.network.heads, parent.network.heads, strict=True)
    )


def test_what_cannot_be_fine_tuned_is_an_error_that_says_so(trace_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model 'nowhere'"):
        released_models.named("nowhere")
    with pytest.raises(UsageError, match="no user has 100 ticks before those that models are judged on"):
        tuning.tune(tuning.TuningRequest([trace_file], DEFAULT_MODEL, tmp_path / "new"))


def test_a_trace_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        fitting.read(tmp_path / "none.csv")
