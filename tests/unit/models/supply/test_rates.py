import numpy as np
import pytest

from models.random_streams import stream
from models.supply import rates
from models.supply.rates import Tally


def test_a_pool_is_shrunk_to_what_is_stated_and_to_its_provider() -> None:
    assert rates.interruptions(Tally(0.05)).mean == pytest.approx(0.05)
    alone = rates.interruptions(Tally(0.05, 6.0, 10.0))
    assert 0.2 < alone.mean < 0.5
    assert alone.low > 0.05
    beside = rates.interruptions(Tally(0.05), [Tally(0.05, 40.0, 100.0)])
    assert beside.mean == pytest.approx(0.37, abs=0.03)


def test_a_rate_by_the_month_does_not_outweigh_days() -> None:
    assert rates.interruptions(Tally(0.0003, 12.0, 24.0)).mean > 0.2


def test_failures_are_learnt() -> None:
    assert rates.failure(Tally(0.01, 10.0, 20.0)).low > 0.01
    assert rates.failure(Tally(0.01, 0.0, 5.0)).low < 0.01


@pytest.mark.parametrize("true", [0.05, 0.3, 0.99])
def test_how_losses_come_together_is_learnt(true: float) -> None:
    draw, share, ready = stream(np, "losses", str(true)), 0.05, 10
    strength = 1 / true - 1
    likelihood = np.zeros(len(rates.CORRELATIONS))
    for p in draw.beta(share * strength, (1 - share) * strength, 1500):
        likelihood += rates.log_likelihoods(int(draw.binomial(ready, min(p, 1.0))), ready, share)
    together = rates.correlation(likelihood.tolist())
    assert together is None if true == rates.USUAL else together is not None and abs(together - true) <= 0.1


def test_pools_that_fail_together_are_told_from_chance() -> None:
    draw = stream(np, "pools")
    shared, own = draw.random(4000) < 0.02, draw.random((4000, 3)) < 0.02
    apart = own.sum(axis=1)
    assert rates.between_pools(apart.sum(), 12_000, (apart * (apart - 1) / 2).sum(), 12_000) <= 0.2
    both = (own | shared[:, None]).sum(axis=1)
    assert rates.between_pools(both.sum(), 12_000, (both * (both - 1) / 2).sum(), 12_000) >= 0.7
    assert rates.between_pools(0, 100, 0, 100) == 0
