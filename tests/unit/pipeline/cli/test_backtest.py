import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from models.baselines.autoscalers.registry import KNOBS
from models.synthetic.population import population
from pipeline.backtest import observations, parallel
from pipeline.cli.backtest import _for_people, backtest  # pyright: ignore[reportPrivateUsage]
from pipeline.display import tell
from pipeline.errors import UsageError
from tests.unit.pipeline.trace_files import write

START = 28_000_000  # minutes since 1970
pytestmark = pytest.mark.timeout(900)  # a minute and a half of a processor, which may be shared by many


def at(tick: int) -> str:
    return datetime.fromtimestamp((START + tick) * 60, UTC).isoformat()


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


@pytest.mark.slow
def test_the_same_arguments_give_the_same_bytes_and_all_figures(trace_file: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    options = ("--warm-up", "65m", "--sweep", "0.5", "--sweep", "0.99")
    one, two = (run(trace_file, *options, "--out", str(folder)) for folder in folders)
    assert one == two
    for name in ("policies", "apps", "ticks", "figures"):
        assert (folders[0] / f"{name}.csv").read_bytes() == (folders[1] / f"{name}.csv").read_bytes()
    assert (folders[0] / "report.html").read_bytes() == (folders[1] / "report.html").read_bytes()
    page = (folders[0] / "report.html").read_text()
    assert "://" not in page.replace("http://www.w3.org", "")
    costs = {name: row["at_99"]["cost"] for name, row in one["policies"].items() if name != "oracle"}
    ours = costs["leadtime"]
    assert set(one["cheaper"]) == {
        name for name, cost in costs.items() if None not in (cost, ours) and cost < ours
    }
    assert len(re.findall(r"<li>[^<]* less than Leadtime with 99 % served", page)) == len(one["cheaper"])
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
        "realised_share", "cost_ratio_as_it_comes", "avoidable_removed",
    } <= set(one["summary"])  # fmt: skip
    figures = one["figures"]["*"]
    assert set(figures) == set(policies)
    for name, row in policies.items():
        for figure in ("hit_rate", "unserved", "worst_shortfall", "longest_run", "slack", "cost", "actions"):
            assert figures[name][figure]["value"] == pytest.approx(row["defaults"][figure]), (name, figure)
        tiers = [figures[name][f"cost_{tier}"]["value"] for tier in ("reserved", "on_demand", "spot")]
        assert sum(tiers) == pytest.approx(row["defaults"]["cost"], rel=1e-5)
    assert figures["oracle"]["cost_to_oracle"]["value"] == 1
    assert figures["leadtime"]["promise"]["value"] == one["summary"]["promise_99"]
    assert set(one["figures"]) == {"*", "app-0", "app-1"}
    ticks = pl.read_parquet(folders[0] / "ticks.parquet")
    measured = ticks.filter("scored")
    hit = (measured["leadtime.ready"] >= measured["demand"].cast(pl.Float32)).mean()
    assert policies["leadtime"]["defaults"]["hit_rate"] == pytest.approx(hit, abs=0.02)
    assert policies["leadtime"]["defaults"]["cost"] == pytest.approx(ticks["leadtime.cost"].sum(), rel=1e-5)


def test_the_learner_is_compared_with_the_plans_without_it(trace_file: Path, tmp_path: Path) -> None:
    options = ("--warm-up", "65m", "--alone")
    without = run(trace_file, *options)
    both = run(trace_file, *options, "--learner", "both", "--out", str(tmp_path))
    assert set(both["policies"]) == {"leadtime", "leadtime_static"}
    assert both["policies"]["leadtime_static"]["defaults"] == without["policies"]["leadtime"]["defaults"]
    assert without["summary"].keys() == both["summary"].keys() - {"learner"}
    learner = both["summary"]["learner"]
    assert learner.keys() == {"promotions", "rollbacks", "saving", "saving_95", "worse_apps"}
    spent = {name: row["defaults"]["cost_scored"] for name, row in both["policies"].items()}
    assert learner["saving"] == pytest.approx(1 - spent["leadtime"] / spent["leadtime_static"])
    assert both["summary"]["realised_share"] == both["policies"]["leadtime"]["defaults"]["hit_rate"]
    assert "Leadtime without the learner" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "learner.png").stat().st_size > 10_000
    episodes = observations.read(tmp_path / observations.FILE)
    assert [of.app for of in episodes] == ["app-0", "app-1"]
    for of in episodes:
        assert len(of.need) - of.scored == both["ticks"]
        assert np.isfinite(of.need).any()
        assert (np.diff(of.wanted[:, 1:], axis=2) >= 0).all()
        assert of.policy.learner
    with pytest.raises(UsageError, match=r"report\.html holds no observations"):
        observations.read(tmp_path / "report.html")


def test_observations_of_other_arms_are_refused(tmp_path: Path) -> None:
    path = tmp_path / observations.FILE
    np.savez(path, arms=np.array(["network"]), prices=np.array([5]))
    with pytest.raises(
        UsageError, match="of the arms network at 1 prices; today's are network, same_time_25"
    ):
        observations.read(path)


def test_what_if_is_set_beside_the_run_as_given(trace_file: Path, tmp_path: Path) -> None:
    campaign = f"campaign=*@{at(28)}/5m/x4"
    options = ("--what-if", "confidence=0.5 price=2", "--what-if", campaign, "--divisible")
    window = ("--warm-up", "25m", "--until", at(35), "--alone")
    report = run(trace_file, *window, *options, "--out", str(tmp_path))
    by = {(row["what_if"], row["figure"]): row for row in report["what_if"]}
    cheap = by["confidence=0.5 price=2", "cost"]
    assert cheap["as_given"] == pytest.approx(report["policies"]["leadtime"]["defaults"]["cost"])
    assert cheap["difference_value"] == pytest.approx(cheap["value"] - cheap["as_given"])
    assert by[campaign, "hit_rate"]["difference_value"] < 0
    assert set(report["divisible"]["policies"]) == {"leadtime"}
    assert len(pl.read_csv(tmp_path / "what_if.csv")) == len(report["what_if"])
    page = (tmp_path / "report.html").read_text()
    assert campaign in page
    assert "In divisible units" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rival", "magic"), "no rival 'magic'"),
        (("--app", "nowhere"), "no app 'nowhere' in the trace; it has app-0"),
        (("--policy", "p.toml"), "go together"),
        (("--sweep", "2"), "between 0 and 1"),
        (("--from", "2031-01-01T00:00Z"), "nothing to score"),
        (("--model", "nowhere"), "holds no model"),
        (("--topics",), "--topics have demand"),
        (("--what-if", "colour=red"), "'colour' is unknown"),
        (("--learner", "maybe"), "--learner is one of off, on, both"),
        (("--learner", "on", "--every", "2"), "needs a plan in every tick"),
        (("--learner", "on", "--same-time", "0.25"), "chooses the experts' weights itself"),
    ],
)
def test_what_cannot_be_done_is_one_line(trace_file: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(trace_file, *options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ts,app,user,cpu\n2026-01-01T00:00:00Z,a,u,1.0\n", "one tick alone"),
        ("ts,app,user,cpu\n", "no rows"),
        ("ts,app,user,colour\n2026-01-01T00:00:00Z,a,u,red\n", "no metric or events column"),
    ],
)
def test_a_trace_without_anything_to_plan_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        run(path)


def test_one_user_with_gaps_and_zones_mixed_is_planned(tmp_path: Path) -> None:
    """Ticks 0 to 39 without 20 to 29, in two time zones and out of order, with an unknown column."""
    lines = ["ts,app,user,cpu,colour"]
    for tick in range(40):
        if 20 <= tick < 30:
            continue
        zone = timezone(timedelta(hours=2)) if tick % 2 else UTC
        lines.append(
            f"{datetime.fromtimestamp((START + tick) * 60, zone).isoformat()},a,u,{1 + tick % 3},red"
        )
    path = tmp_path / "one.csv"
    path.write_text("\n".join([lines[0], *lines[:0:-1]]))
    report = run(path, "--alone", "--warm-up", "15m")
    assert (report["users"], report["apps"], report["ticks"], report["unmeasured_app_ticks"]) == (
        1,
        1,
        25,
        10,
    )
    assert report["skipped"] == {"column colour": 30, "null_rows": 0, "duplicates": 0}
    assert report["policies"]["leadtime"]["defaults"]["app_ticks"] == 15


class Killed(BaseException):
    """As SIGKILL: nothing that runs catches it."""


KILLED = ("--warm-up", "25m", "--until", at(45), "--alone", "--out")
WRITTEN = ("ticks.csv", "figures.csv", "report.json", "report.html")


@pytest.fixture(scope="module")
def unbroken(trace_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """What a run writes that nothing disturbs, of days of fifteen ticks."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.backtest.job.DAY_S", 15 * 60)
        run(trace_file, *KILLED, str(folder))
        yield {name: (folder / name).read_bytes() for name in WRITTEN}


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    writes: int, trace_file: Path, tmp_path: Path, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before anything is written, between a day and its snapshot, and after it."""
    write_one, left = parallel.write, [writes + 1]

    def dying(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed
        write_one(path, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(parallel, "write", dying)
        with pytest.raises(Killed):
            run(trace_file, *KILLED, str(tmp_path))
    assert len(list(tmp_path.glob("parts-*/shard-0/*.npz"))) == writes
    run(trace_file, *KILLED, str(tmp_path))
    assert {name: (tmp_path / name).read_bytes() for name in WRITTEN} == unbroken


@pytest.mark.slow
def test_apps_on_shared_nodes_are_scored_beside_the_same_on_their_own(trace_file: Path) -> None:
    options = ("--warm-up", "65m", "--rival", "hpa", "--rival", "oracle", "--sweep", "0.5", "--sweep", "0.99")
    both, shared, own = (run(trace_file, *options, "--nodes", nodes) for nodes in ("both", "shared", "own"))
    compared = both["nodes"]
    judged = both["summary"].pop("shared")
    assert shared["summary"].pop("shared") == judged | {"cost_ratio_own": None}
    assert judged["cost_ratio_own"] == compared["cost_to_own_at_99"].get("leadtime")
    assert judged["worst_app_share"] == min(compared["packed"]["by_app"].values())
    assert judged["cost_ratio_best_product"] == both["summary"]["cost_ratio_best_product"]
    assert both | {"nodes": {"packed": compared["packed"]}} == shared
    assert 0 <= compared["packed"]["all"] <= min(compared["packed"]["by_app"].values()) <= 1
    assert set(both["by_app"]) == {"shared nodes"}
    assert set(compared["own"]["by_app"]) == set(own["by_app"]) == {"app-0", "app-1"}
    for name in ("leadtime", "hpa", "oracle"):
        assert both["policies"][name]["defaults"]["cost"] > 0
        beside, alone = (of["policies"][name]["defaults"] for of in (compared["own"], own))
        assert beside | {"cost": 0} == alone | {"cost": 0}
        assert beside["cost"] == pytest.approx(alone["cost"])
    assert all(ratio > 0 for ratio in compared["cost_to_own_at_99"].values())


def test_people_see_what_shared_nodes_cost(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = {"packed": {"all": 0.9913}, "cost_to_own_at_99": {"leadtime": 0.8}, "own": {}}
    report = {"summary": {}, "skipped": {}, "notes": [], "nodes": nodes}
    tell(_for_people(report), json=False)
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "share of ticks in which all replicas were packed: 0.9913" in shown
    assert "cost on shared to own nodes at 99 %, leadtime: 0.8" in shown


def test_nodes_that_cannot_be_are_refused(trace_file: Path) -> None:
    with pytest.raises(UsageError, match="--nodes is one of own, shared, both, got 'ours'"):
        run(trace_file, "--nodes", "ours")
    with pytest.raises(UsageError, match="--nodes are of a trace alone"):
        run(trace_file, "--nodes", "both", "--divisible")
