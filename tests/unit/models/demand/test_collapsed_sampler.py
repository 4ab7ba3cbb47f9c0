"""The collapsed sampler beside the exact one, and where the sum is known."""

import numpy as np
import pytest

from models.demand import collapsed_sampler, scenarios
from models.demand.scenarios import Dependence, ScenarioKey
from models.quantile_function import QuantileFunction, Z
from tests.unit.models.demand.test_scenarios import correlation, normal_users

S = 16_384
DEPENDENCE = Dependence(np.array([0.1, 0.03]), np.array([[1.0, 0.4], [0.4, 1.0]]), 0.6)


def skewed_users(users: int, steps: int = 2) -> QuantileFunction:
    """Users of two metrics, lognormal in size, with heavy skew tails (sinh-arcsinh)."""
    rng = np.random.default_rng(0)
    shape = (users, 2, steps)
    location = np.repeat(rng.lognormal(0, 1.5, (users, 2, 1)), steps, axis=2).astype(np.float32)
    scale = (location * rng.lognormal(-1.5, 0.7, shape)).astype(np.float32)
    tail, skew = rng.uniform(0.45, 1.0, (users, 1, 1, 1)), rng.uniform(-0.3, 0.5, (*shape, 1))
    return QuantileFunction(location, scale, np.sinh((np.arcsinh(Z) + skew) / tail).astype(np.float16))


def draw(
    users: QuantileFunction, dependence: Dependence = DEPENDENCE, shard: int = 0, **more: int
) -> np.ndarray:
    return collapsed_sampler.simulate(users, dependence, key(shard), **more)


def key(shard: int) -> ScenarioKey:
    return ScenarioKey(b"shop", tick=7, shard=shard, scenarios=S, seed=1)


def exact(users: QuantileFunction, shard: int = 0) -> np.ndarray:
    return scenarios.simulate(np, users, DEPENDENCE, key(shard))


def test_few_users_are_drawn_one_by_one() -> None:
    users = skewed_users(20)
    np.testing.assert_array_equal(draw(users, drawn=20), exact(users))
    assert (draw(users, drawn=19) != exact(users)).any()


def test_quantiles_of_the_total_are_those_of_the_exact_sampler() -> None:
    users = skewed_users(600)
    mine, theirs = draw(users, drawn=64), exact(users)
    for level, bound in ((0.05, 0.005), (0.5, 0.003), (0.95, 0.005), (0.99, 0.005)):
        off = np.quantile(mine, level, axis=0) / np.quantile(theirs, level, axis=0) - 1
        # averaged over the four of step and metric: at 99 % each has a Monte Carlo error of about 0.5 %
        assert abs(off.mean()) < bound, level
    np.testing.assert_allclose(mine.std(axis=0), theirs.std(axis=0), rtol=0.05)
    rows = [np.corrcoef(demand.reshape(S, -1).T) for demand in (mine, theirs)]
    np.testing.assert_allclose(rows[0], rows[1], atol=0.05)


def test_a_sum_of_normals_has_their_variance_and_correlations() -> None:
    # 300 users of N(100, 1), a tenth of whose variance is the app's, in both metrics
    dependence = Dependence(np.array([0.1, 0.1]), DEPENDENCE.metric_correlation, 0.6)
    total = draw(normal_users(300, 2, 2), dependence, drawn=10)
    # 300 × 0.9 + 300² × 0.1 = 9,270; a sample variance of 16,384 errs by 1.1 %, mirrored pairs by 1.6 %
    np.testing.assert_allclose(total.var(axis=0), 9_270, rtol=0.06)
    np.testing.assert_allclose(total.mean(axis=0), 30_000, rtol=1e-4)
    # factor and own parts both correlate by 0.4 between metrics and 0.6 between steps
    assert correlation(total[:, 0, 0], total[:, 0, 1]) == pytest.approx(0.4, abs=0.03)
    assert correlation(total[:, 0, 0], total[:, 1, 0]) == pytest.approx(0.6, abs=0.03)
    # without a factor the own parts alone do
    own = draw(normal_users(300, 2, 2), Dependence(np.zeros(2), dependence.metric_correlation, 0.6), drawn=10)
    np.testing.assert_allclose(own.var(axis=0), 300, rtol=0.06)
    assert correlation(own[:, 0, 0], own[:, 0, 1]) == pytest.approx(0.4, abs=0.03)
    assert correlation(own[:, 0, 0], own[:, 1, 0]) == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("shards", [2, 8])
def test_shards_add_up_to_the_same_law(shards: int) -> None:
    users = skewed_users(800)
    whole = draw(users, drawn=16)
    parts = sum(draw(users[shard::shards], drawn=16, shard=shard) for shard in range(shards))
    assert isinstance(parts, np.ndarray)
    for level in (0.1, 0.5, 0.9, 0.99):
        off = np.quantile(parts, level, axis=0) / np.quantile(whole, level, axis=0) - 1
        assert abs(off.mean()) < 0.006, level
    again = sum(draw(users[shard::shards], drawn=16, shard=shard) for shard in range(shards))
    np.testing.assert_array_equal(parts, again)


def test_users_without_a_forecast_add_nothing_and_nothing_is_negative() -> None:
    users = skewed_users(200)
    location = np.concatenate([users.location, np.full_like(users.location, np.nan)])
    more = QuantileFunction(
        location, *(np.tile(a, (2,) + (1,) * (a.ndim - 1)) for a in (users.scale, users.offsets))
    )
    np.testing.assert_allclose(draw(more, drawn=50), draw(users, drawn=50), rtol=1e-4)
    none = QuantileFunction(np.full_like(users.location, np.nan), users.scale, users.offsets)
    assert (draw(none, drawn=50) == 0).all()
    rare = QuantileFunction(
        np.full_like(users.location, -1), np.ones_like(users.scale), users.offsets * 0 + Z.astype(np.float16)
    )
    assert draw(rare, drawn=50).min() >= 0


@pytest.mark.parametrize(
    ("spread", "most"), [(0.0, collapsed_sampler.LEAST), (0.7, 100), (3.0, collapsed_sampler.DRAWN)]
)
def test_as_many_are_drawn_as_the_rest_needs_to_be_normal(spread: float, most: int) -> None:
    variance = np.random.default_rng(0).lognormal(0, spread, (3_000, 2, 3)).astype(np.float32)
    heavy = collapsed_sampler._heavy(variance, collapsed_sampler.DRAWN)
    assert collapsed_sampler.LEAST <= len(heavy) <= most
    assert (np.diff(heavy) > 0).all()
    rest = np.delete(variance, heavy, axis=0) / variance.sum(axis=0)
    assert (
        len(heavy) == collapsed_sampler.DRAWN or ((rest**1.5).sum(axis=0) <= collapsed_sampler.SKEWNESS).all()
    )
    assert (np.delete(variance / variance.sum(axis=0), heavy, axis=0).max() <= variance.max(axis=0)).all()


def test_the_tail_of_many_is_the_exact_samplers() -> None:
    users = skewed_users(400)
    mine, theirs = draw(users), exact(users)
    for level in (0.5, 0.99):
        off = np.quantile(mine, level, axis=0) / np.quantile(theirs, level, axis=0) - 1
        assert abs(off.mean()) < 0.005, level
