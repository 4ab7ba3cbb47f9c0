import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.learning import arm_trials, recovery, rivals
from models.learning.arm_trials import Tried, Trojan
from models.learning.recovery import Recovery
from models.synthetic.regimes import SHIFTS
from pipeline.bench import learner as bench
from pipeline.cli.bench import bench_app
from pipeline.errors import UsageError


def test_the_samplers_are_timed_and_compared() -> None:
    arguments = [
        "--users",
        "600",
        "--exact-users",
        "150",
        "--scenarios",
        "256",
        "--check-scenarios",
        "4096",
        "--json",
    ]
    done = CliRunner().invoke(bench_app, ["simulator", *arguments], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert (facts["users"], facts["scenarios"], facts["exact_users"]) == (600, 256, 150)
    assert facts["ratio_to_exact"] > 0
    assert facts["collapsed_cpu_s"] > 0
    # at 4,096 scenarios each of the 24 quantiles has a Monte Carlo error of about 1 %
    assert 0 < facts["quantile_99_error_mean"] < 0.02
    assert 0 < facts["quantile_99_exact_again_mean"] < 0.02


def test_purchases_are_timed_and_held_against_the_least_cost() -> None:
    sizes = {"offers": 20, "scenarios": 256, "instances": 2, "exact-scenarios": 128, "limit": 10}
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    done = CliRunner().invoke(bench_app, ["allocator", *arguments, "--json"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert (facts["offers"], facts["scenarios"], facts["instances"], facts["proven"]) == (20, 256, 2, 2)
    assert 0 < facts["plan_cpu_s_p50"] <= facts["plan_cpu_s_max"]
    assert facts["exact_by_search_time"] > 0
    # never below the least cost, but for HiGHS's gap; pairs are among what the search may buy
    assert -1e-4 <= facts["gap_mean"] <= facts["gap_max"] < 0.05
    assert facts["pair_gap_mean"] >= facts["gap_mean"]
    assert facts["fresh_windows"] == 2 * 4 * 256
    # error of a share at 0.99 of 256 scenarios: 0.006
    assert facts["fresh_held_min"] > 0.96
    assert facts["pool_loss_cost_ratio"] >= 1
    assert [one["proven"] for one in facts["by_instance"]] == [True, True]


def test_the_learners_shifts_and_gate_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a day's length: what is measured is in tests/unit/models/learning."""
    of = Recovery((300, 900), None, (0.99, 0.999), (1.1, 1.3), 1, 0)
    monkeypatch.setattr(recovery, "recoveries", lambda seed, names, *rest: dict.fromkeys(names, of))
    one = np.ones((192, 4))
    never = Tried(np.zeros(192, np.int64), one, one, one, ())
    for name in ("identical", "saving"):
        monkeypatch.setattr(arm_trials, name, lambda *arguments: never)
    monkeypatch.setattr(arm_trials, "trojan", lambda *arguments: Trojan(48, 0.003, 0.2))
    arguments = ["learner", "--seeds", "2", "--only", "shifts", "--only", "gate"]
    facts = json.loads(CliRunner().invoke(bench_app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert facts.keys() == {"seeds", "shifts", "gate"}
    assert [row["shift"] for row in facts["shifts"]] == list(SHIFTS)
    row = facts["shifts"][0]
    assert (row["learner_ticks"], row["static_ticks"], row["times_faster"]) == (300, 900, 3.0)
    assert (row["static_own_ticks"], row["promotions"]) == (None, 2)
    assert (facts["gate"]["identical_seeds"], facts["gate"]["false_promotions"]) == (20, 0)
    assert facts["gate"]["saving_in_force_days"] is None
    assert facts["gate"]["trojans"][0]["back_after_days_max"] == 0.5
    shown = CliRunner().invoke(bench_app, arguments, catch_exceptions=False).stdout
    assert "bursts_begin" in shown
    assert "false_promotions" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "speed"), "--only is one of shifts, gate, rivals, got 'speed'"),
        (("--only", "rivals", "--observations", "nowhere.npz"), "nowhere.npz holds no observations"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(bench_app, ["learner", *arguments], catch_exceptions=False)


def test_without_the_group_rivals_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "PACKAGES", ("no_such_package",))
    with pytest.raises(UsageError, match=r"no_such_package.*: uv sync --group rivals"):
        CliRunner().invoke(bench_app, ["learner", "--only", "rivals"], catch_exceptions=False)


def test_rivals_are_rows_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "import_packages", lambda: None)
    asked: list[tuple[int, int]] = []

    def contest(episodes: list[Any], training: list[Any]) -> dict[str, rivals.Result]:
        asked.append((len(episodes), len(training)))
        best = rivals.Result(10.0, 0.99, 10.0)
        return {"best_fixed": best, "static": rivals.Result(12.0, 1.0, 11.0)}

    monkeypatch.setattr(rivals, "contest", contest)
    monkeypatch.setattr(bench, "_simulated", lambda spans, count: contest([None] * count, [None] * count))
    rows = bench.contests(20, {"file": []})
    assert asked == [(2, 2), (2, 2), (0, 0)]
    assert [(row["environment"], row["rival"]) for row in rows[-2:]] == [
        ("file", "best_fixed"),
        ("file", "static"),
    ]
    assert rows[-1]["to_best_fixed"] == 1.1
