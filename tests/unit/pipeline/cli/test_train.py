import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from models.behaviour.lstm import BehaviourModel
from models.behaviour.training_series import held_out
from models.synthetic.population import population
from pipeline.cli.train import train
from pipeline.errors import UsageError
from pipeline.training import fitting
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


def test_a_trace_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        fitting.read(tmp_path / "none.csv")
