import json

from typer.testing import CliRunner

from pipeline.cli.bench import bench_app


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
