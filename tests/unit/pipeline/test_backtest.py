import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from models.references import KNOBS
from models.synthetic import population
from pipeline.backtest import backtest
from pipeline.errors import UsageError
from tests.unit.pipeline.traces import write

START = 28_000_000  # minutes since 1970


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four simulated users of two apps over eighty minutes; rows unordered, some doubled, some lost."""
    people = population(seed=1, apps=2, users_per_app=2, ticks=80, start_tick=START)
    path = tmp_path_factory.mktemp("trace") / "small.parquet"
    write(people, path)
    frame = pl.read_parquet(path)
    frame = (
        pl.concat([frame, frame[:5]])
        .with_columns(colour=pl.lit("red"))
        .sample(fraction=1, shuffle=True, seed=3)
    )
    frame.filter(pl.int_range(pl.len()) % 50 != 7).write_parquet(path)
    return path


def run(trace_file: Path, *options: str) -> Any:
    app = typer.Typer()
    app.command("backtest")(backtest)
    done = CliRunner().invoke(
        app,
        ["--trace", str(trace_file), "--json", "--scenarios", "64", "--processes", "1", *options],
        catch_exceptions=False,
    )
    return json.loads(done.stdout)


def test_the_same_arguments_give_the_same_bytes_and_all_figures(trace_file: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    options = ("--warm-up", "65m", "--sweep", "0.5", "--sweep", "0.99")
    one, two = (run(trace_file, *options, "--out", str(folder)) for folder in folders)
    assert one == two
    for name in ("policies", "apps", "ticks"):
        assert (folders[0] / f"{name}.csv").read_bytes() == (folders[1] / f"{name}.csv").read_bytes()
    assert (folders[0] / "report.html").read_bytes() == (folders[1] / "report.html").read_bytes()
    assert "://" not in (folders[0] / "report.html").read_text().replace("http://www.w3.org", "")
    assert (one["apps"], one["users"], one["ticks"], one["warm_up_ticks"]) == (2, 4, 15, 65)
    assert one["skipped"]["duplicates"] > 0
    assert one["skipped"]["column colour"] > 0
    policies = one["policies"]
    assert set(policies) == {"leadtime", *KNOBS}
    for row in policies.values():
        assert {"hit_rate", "cost", "unserved", "worst_shortfall", "longest_run", "slack", "actions"} <= set(
            row["defaults"]
        )
        assert {"cost", "slack"} <= set(row["at_99"])
    assert {
        "cost_ratio_best_product", "best_product", "cost_ratio_persistence", "cost_ratio_oracle", "promise_99",
    } <= set(one["summary"])  # fmt: skip
    ticks = pl.read_parquet(folders[0] / "ticks.parquet")
    measured = ticks.filter("scored")
    hit = (measured["leadtime.ready"] >= measured["demand"].cast(pl.Float32)).mean()
    assert policies["leadtime"]["defaults"]["hit_rate"] == pytest.approx(hit, abs=0.02)
    assert policies["leadtime"]["defaults"]["cost"] == pytest.approx(ticks["leadtime.cost"].sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rival", "magic"), "no rival 'magic'"),
        (("--app", "nowhere"), "no app 'nowhere' in the trace; it has app-0"),
        (("--policy", "p.toml"), "go together"),
        (("--sweep", "2"), "between 0 and 1"),
        (("--from", "2031-01-01T00:00Z"), "nothing to score"),
        (("--model", "nowhere"), "holds no model"),
    ],
)
def test_what_cannot_be_done_is_one_line(trace_file: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(trace_file, *options)


def test_a_trace_of_one_row_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("ts,app,user,cpu\n2026-01-01T00:00:00Z,a,u,1.0\n")
    with pytest.raises(UsageError, match="one tick alone"):
        run(path)
