import json

from typer.testing import CliRunner

from pipeline.bench import bench_app


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
