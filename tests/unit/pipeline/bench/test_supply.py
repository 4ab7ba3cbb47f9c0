from pipeline.bench.supply import measured


def test_intervals_of_a_start_up_p99_are_honest() -> None:
    """Of 60 offers; `leadtime bench supply` has 200, and binomial luck of 1.5 % there."""
    done = measured(60, 50, 1)
    assert 0.88 <= done["summary"]["covered_least"] <= done["summary"]["covered_most"] <= 1.0
    shown = done["startup_p99"]["lognormal"]["ticks of 10 s"]
    assert shown["error_of_learnt"] < 0.3 * shown["error_of_stated"]
    assert measured(5, 3, 1) == measured(5, 3, 1)
