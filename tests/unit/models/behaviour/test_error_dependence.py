"""Dependence learnt online: nothing heard, the law of what is found, and a synthetic truth, up to the totals."""

from functools import partial
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.behaviour import error_dependence
from models.behaviour.error_dependence import DECAY, EARLY_NONE, PRIOR_TICKS, SUMS, Dependence
from models.behaviour.features import TRACKED, clock
from models.behaviour.lstm import DEFAULT_MODEL, BehaviourModel
from models.demand import collapsed_sampler, scenarios
from models.demand.scenarios import ScenarioKey
from models.metrics import METRICS, steps_of
from tests.unit.models.demand.test_scenarios import normal_users

M: Final = len(METRICS)
PRIOR: Final = Dependence(np.full(M, 0.01), 0.7 * np.eye(M) + 0.3, 0.3)
TRUE: Final = Dependence(np.full(M, 0.2), 0.5 * np.eye(M) + 0.5, 0.8)
PERIOD: Final = 7  # of five-minute ticks, in which the later steps' forecasts are kept
Heard = tuple[np.ndarray, np.ndarray]


def futures(truth: Dependence, loading: np.ndarray, ticks: int, seed: int = 0) -> np.ndarray:
    """Scores of forecasts (tick, user, step, metric), independent from tick to tick."""
    rng, users = np.random.default_rng(seed), len(loading)
    root = truth.root(6)
    factor = (rng.standard_normal((ticks, 1, 6 * M)) @ root.T).reshape(ticks, 1, 6, M)
    own = (rng.standard_normal((ticks, users, 6 * M)) @ root.T).reshape(ticks, users, 6, M)
    strength = (loading[:, None] * np.sqrt(truth.shared))[:, None]
    return strength * factor + np.sqrt(1 - strength**2) * own


def arriving(made: np.ndarray) -> np.ndarray:
    """Scores as they come due, (tick, user, metric, tracked): as `Clock.made` and `due` have it for steps 1 to 6."""
    ticks, users = made.shape[:2]
    scores = np.full((ticks, users, M, len(TRACKED)), np.nan)
    for k, step in enumerate(TRACKED):
        for t in range(0, ticks - step, PERIOD if k else 1):  # row t is when the first step's comes
            scores[t + step, :, :, k] = made[t, :, step]
    return scores


def heard(scores: np.ndarray, prior: Dependence = PRIOR) -> Heard:
    sums, known = np.zeros((), SUMS), error_dependence.users(scores.shape[1])
    for t, score in enumerate(scores):
        sums, known = error_dependence.learn(sums, known, score, np.full(2, t % PERIOD == 0), prior)
    return sums, known


def test_without_data_it_is_the_prior_exactly() -> None:
    sums, known = heard(np.full((3, 4, M, 3), np.nan))
    found = error_dependence.estimate(sums, PRIOR)
    assert found.shared.tolist() == PRIOR.shared.tolist()
    assert found.metric_correlation.tolist() == PRIOR.metric_correlation.tolist()
    assert found.step_correlation == PRIOR.step_correlation
    assert (known == error_dependence.users(4)).all()
    assert error_dependence.loadings(known).tolist() == [1] * 4


def test_an_app_of_one_user_keeps_the_shared_part_of_the_prior() -> None:
    sums, known = heard(arriving(futures(TRUE, np.ones(1), 300)))
    found = error_dependence.estimate(sums, PRIOR)
    assert found.shared.tolist() == PRIOR.shared.tolist()
    assert known["loading"].tolist() == [1.0]
    assert found.metric_correlation[0, 1] > 0.4  # this it can tell: 0.3 before, 0.5 in truth
    assert found.step_correlation > 0.4


def test_one_tick_weighs_one_in_a_hundred_of_the_prior() -> None:
    scores = np.full((1, 3, M, 3), np.nan)
    scores[0, :, 0, 0] = [1.0, 2.0, -1.0]
    # pairs 1 × 2 - 1 × 1 - 2 × 1 = -1, of three; squares (1 + 4 + 1) / 3
    sums, known = heard(scores)
    pair, square, prior = -1 / 3, 2.0, 0.01
    pooled = prior + (pair - prior * square) / (PRIOR_TICKS + square)
    step = pooled + (pair - pooled * square) / (PRIOR_TICKS + square)
    assert error_dependence.estimate(sums, PRIOR).shared[0] == pytest.approx((step + 2 * pooled) / 3)
    # the others' mean is 0.5, 0 and 1.5; of it 0.01 / (0.01 + 0.99 / 2) is taken for the factor
    factor = np.array([0.5, 0.0, 1.5]) * 0.01 / 0.505
    expected = (4 + factor * [1.0, 2.0, -1.0]) / (4 + factor**2)
    np.testing.assert_allclose(known["loading"], expected, rtol=1e-6)


def test_what_is_given_stays_and_old_news_fade() -> None:
    scores = arriving(futures(TRUE, np.ones(5), 20))
    sums, known = heard(scores)
    before = sums.tobytes(), known.tobytes()
    later, _ = error_dependence.learn(
        sums, known, np.where(np.isnan(scores[1]), np.nan, 0.0), np.full(2, False), PRIOR
    )
    assert (sums.tobytes(), known.tobytes()) == before
    assert later["ticks"][0, 0] == pytest.approx(DECAY * sums["ticks"][0, 0] + 1)


SCORES = st.floats(-3, 3, width=16) | st.just(np.nan)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 0.9), st.data())
def test_bounds_hold_and_the_order_of_users_does_not_matter(
    users: int, ticks: int, seed: int, absent: float, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    scores = np.clip(rng.standard_normal((ticks, users, M, 3)) * rng.choice([0.0, 0.5, 3.0]), -3, 3)
    scores[rng.random(scores.shape) < absent] = np.nan
    scores[:, 0, 0, :] = data.draw(SCORES)
    sums, known = heard(scores)
    found = error_dependence.estimate(sums, PRIOR)
    assert ((found.shared >= 0) & (found.shared <= 1)).all()
    assert np.linalg.eigvalsh(found.metric_correlation)[0] > -1e-8
    np.testing.assert_allclose(np.diag(found.metric_correlation), 1)
    assert abs(found.step_correlation) <= 1
    assert np.isfinite(known["loading"]).all()
    assert set(error_dependence.loadings(known).tolist()) <= set(error_dependence.LOADINGS)

    order = rng.permutation(users)
    other, theirs = heard(scores[:, order])
    for name in ("shared", "metric_correlation", "step_correlation"):
        again = getattr(error_dependence.estimate(other, PRIOR), name)
        np.testing.assert_allclose(again, getattr(found, name), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(theirs["loading"], known["loading"][order], rtol=1e-4, atol=1e-5)


def test_a_matrix_that_is_none_is_made_semidefinite() -> None:
    sums = np.zeros((), SUMS)
    sums["own"] = 1e6
    # each pair of the first three anticorrelates by 0.9: at most 0.5 is possible for three
    sums["both"] = 1e6 * np.eye(M)
    sums["both"][:3, :3] -= 0.9e6 * (1 - np.eye(3))
    found = error_dependence.estimate(sums, PRIOR).metric_correlation
    assert np.linalg.eigvalsh(found)[0] > 0
    np.testing.assert_allclose(np.diag(found), 1)
    assert found[0, 1] == pytest.approx(-0.5, abs=0.01)


@pytest.fixture(scope="module")
def learnt() -> Heard:
    return heard(arriving(futures(TRUE, LOADING, 3_000)))


# of 60 users six apart from the app, three against it: the mean is (51 - 3) / 60 = 0.8
LOADING: Final = np.array([0] * 6 + [-1] * 3 + [1] * 51)


def test_a_known_dependence_is_found(learnt: Heard) -> None:
    found = error_dependence.estimate(learnt[0], PRIOR)
    # pairs multiply to (48² - 54) / (60 × 59) = 0.636 of 0.2 on average, 0.127; of 2,016 ticks' factors a variance errs
    # by sqrt(2 / 2,016) = 3 %, 0.004; the prior takes 100 / 2,116 × 0.117 = 0.006
    np.testing.assert_allclose(found.shared, 0.127, atol=0.02)
    # likewise 0.5 less 100 / 2,116 × 0.2 = 0.01
    np.testing.assert_allclose(found.metric_correlation[~np.eye(M, dtype=bool)], 0.49, atol=0.02)
    # heard in one tick of seven, at two lags: 100 / (2 × 429 + 100) of the way from 0.8 to 0.3 remain, 0.05
    assert found.step_correlation == pytest.approx(0.75, abs=0.04)


def test_users_unlike_the_rest_keep_their_own_loading(learnt: Heard) -> None:
    np.testing.assert_array_equal(error_dependence.loadings(learnt[1]), LOADING)
    # in units of the mean: 1 / 0.8
    np.testing.assert_allclose(learnt[1]["loading"], LOADING / 0.8, atol=0.2)
    among = error_dependence.estimate(learnt[0], PRIOR).among(error_dependence.loadings(learnt[1]))
    np.testing.assert_allclose(among.shared, 0.127 / 0.8**2, atol=0.03)  # 0.2 again


ALL: Final = np.arange(M)
LEVELS: Final = np.array([0.5, 0.9, 0.99])
S: Final = 32_768


def truth(users: int, loading: np.ndarray) -> np.ndarray:
    """Quantiles of the total of normal users, N(100, 1) each: known in closed form."""
    share = float(TRUE.shared[0])
    variance = share * loading.sum() ** 2 + (1 - share * loading**2).sum()
    return 100 * users + np.sqrt(variance) * np.array([0, 1.2816, 2.3263])


@pytest.mark.parametrize("drawn", [60, 8])
def test_totals_are_right_once_the_dependence_is_learnt(learnt: Heard, drawn: int) -> None:
    """Exact (all 60 drawn) and collapsed; the variance in truth is 0.2 × 48² + 51.6 + ... = 508, independent 60."""
    users, loading = normal_users(60, M, 1), error_dependence.loadings(learnt[1])
    sample = partial(collapsed_sampler.simulate, drawn=drawn)
    key = ScenarioKey(b"shop", tick=7, shard=0, scenarios=S, seed=1)

    def off(believed: Dependence, loading: np.ndarray) -> np.ndarray:
        demand = scenarios.by_loading(np, sample, users, believed, loading, ALL, key)
        sd = (truth(60, LOADING)[2] - 6_000) / 2.3263
        return (np.quantile(demand[:, 0], LEVELS, axis=0).mean(axis=1) - truth(60, LOADING)) / sd

    found = off(error_dependence.estimate(learnt[0], PRIOR), loading)
    # in standard deviations: the estimate errs by 8 % in variance, 4 % of 2.33; Monte Carlo by sqrt(0.01 × 0.99 / S) /
    # 0.027 = 0.02 at 99 %
    assert (np.abs(found) < [0.02, 0.06, 0.11]).all()
    prior = off(PRIOR, np.ones(60, int))
    assert prior[2] < -1.2  # sqrt(0.01 × 60² + 59.4) / 22.5 = 0.43 of the spread: 1.3 too low


@pytest.mark.slow
def test_the_released_models_own_scores_tell_the_dependence_of_its_users() -> None:
    """Demand is 100 + 5 z, z as in `futures` and new in each tick: the model does not know more than its spread."""
    model, ticks, tick_s = BehaviourModel.load(DEFAULT_MODEL), 220, np.array([300])
    demand = (100 + 5 * futures(TRUE, LOADING, ticks)[:, :, 0]).astype(np.float32)
    state, absent = model.initial_state(60), np.full((60, 4), np.nan, np.float32)
    sums, known = np.zeros((), SUMS), error_dependence.users(60)
    ranks: dict[str, list[np.ndarray]] = {"prior": [], "learnt": []}
    for t in range(ticks - 1):
        tick = 4_000_000 + t
        state, forecast, said = model.step(
            state, demand[t], absent, np.zeros((60, M), bool), tick=tick, tick_s=300
        )
        kept = clock(np.array([tick - 1]), tick_s, steps_of(tick_s)).made[0, 1:] > 0
        sums, known = error_dependence.learn(sums, known, said["scores"], kept, model.dependence)
        if t < 120 or t % 4:
            continue
        learnt = error_dependence.estimate(sums, model.dependence), error_dependence.loadings(known)
        for name, (believed, loading) in {
            "prior": (model.dependence, np.ones(60, int)),
            "learnt": learnt,
        }.items():
            total = scenarios.by_loading(
                np, collapsed_sampler.simulate, forecast[:, :, :1], believed, loading, ALL,
                ScenarioKey(b"shop", tick=tick, shard=0, scenarios=512, seed=0),
            )  # fmt: skip
            ranks[name].append((total[:, 0] < demand[t + 1].sum(axis=0)).mean(axis=0))
    np.testing.assert_array_equal(error_dependence.loadings(known), LOADING)
    # 0.127 as above, less the prior's part of 100 / 319
    np.testing.assert_allclose(error_dependence.estimate(sums, model.dependence).shared, 0.09, atol=0.045)
    inside = {name: np.mean(np.abs(np.array(rank) - 0.5) < 0.45) for name, rank in ranks.items()}
    # 90 % intervals, of 25 ticks and five metrics that correlate by a half: sqrt(0.9 × 0.1 / 50) = 4 %
    assert inside["learnt"] > 0.76
    # the total's deviation is sqrt(508) against sqrt(60 + 60² × 0.008) = 9.4: erf(1.64 × 9.4 / 22.5 / sqrt(2)) = 51 %
    assert inside["prior"] < 0.65


def test_one_loading_is_the_plain_sampler_to_the_bit() -> None:
    users = normal_users(20, 2, 2)
    key = ScenarioKey(b"shop", tick=7, shard=0, scenarios=64, seed=1)
    two = np.arange(2)
    whole = TRUE.part(two)
    sample = partial(scenarios.simulate, np)
    ones = scenarios.by_loading(np, sample, users, whole, np.ones(20, int), two, key)
    np.testing.assert_array_equal(ones, sample(users, whole, key))
    mixed = scenarios.by_loading(np, sample, users, whole, np.repeat([1, 0], 10), two, key)
    np.testing.assert_array_equal(
        mixed, scenarios.by_loading(np, sample, users, whole, np.repeat([1, 0], 10), two, key)
    )
    none = scenarios.by_loading(np, sample, normal_users(0, 2, 2), whole, np.ones(0, int), two, key)
    assert none.shape == (64, 2, 2)
    assert not none.any()


@pytest.mark.parametrize("shards", [2, 8])
@pytest.mark.parametrize("drawn", [400, 8])
def test_shards_of_users_of_all_loadings_add_up_to_the_same_law(shards: int, drawn: int) -> None:
    users, loading = normal_users(400, M, 1), np.tile([1, 1, 1, 1, 1, 1, 0, -1], 50)
    sample = partial(collapsed_sampler.simulate, drawn=drawn)
    believed = Dependence(np.full(M, 0.05), TRUE.metric_correlation, 0.5)

    def part(shard: int, rows: slice) -> np.ndarray:
        key = ScenarioKey(b"shop", tick=7, shard=shard, scenarios=8_192, seed=1)
        return scenarios.by_loading(np, sample, users[rows], believed, np.sort(loading)[rows], ALL, key)

    total = sum(part(shard, slice(shard, None, shards)) for shard in range(shards))
    assert isinstance(total, np.ndarray)
    # mean loading 250 / 400: the factor's variance stays 0.05 × 400², and the users' own is nearly 400; its standard
    # error over the mirrored pairs is sqrt(2 / 4,096) = 2.2 %
    np.testing.assert_allclose(total[:, 0].var(axis=0), 0.05 * 400**2 + 380, rtol=0.08)
    np.testing.assert_allclose(total[:, 0].mean(axis=0), 40_000, rtol=1e-4)


@pytest.mark.parametrize("drawn", [100, 8])
def test_shards_that_have_other_metrics_share_the_factor(drawn: int) -> None:
    sample = partial(collapsed_sampler.simulate, drawn=drawn)
    believed = Dependence(np.full(M, 0.9), TRUE.metric_correlation, 0.5)

    def part(shard: int, metrics: list[int]) -> np.ndarray:
        key = ScenarioKey(b"shop", tick=7, shard=shard, scenarios=1_024, seed=1)
        users = normal_users(50, len(metrics), 1)
        return scenarios.by_loading(np, sample, users, believed, np.ones(50, int), np.array(metrics), key)

    one, other = part(0, [0, 1])[:, 0], part(1, [1, 3, 4])[:, 0]
    # a sum of 50: 0.9 × 50² of 0.9 × 50² + 0.1 × 50 is the factor's
    assert np.corrcoef(one[:, 1], other[:, 0])[0, 1] > 0.99
    assert np.corrcoef(one[:, 0], other[:, 1])[0, 1] == pytest.approx(0.5, abs=0.1)


def test_the_root_moves_little_with_the_estimate() -> None:
    """Shards with slightly different estimates draw nearly the same factor."""
    a = Dependence(np.zeros(M), TRUE.metric_correlation, 0.6)
    b = Dependence(
        np.zeros(M), TRUE.metric_correlation + 0.01 * (np.diag([1.0] * 4, 1) + np.diag([1.0] * 4, -1)), 0.61
    )
    # rows of length one: their products are the correlations of the two factors
    assert (np.einsum("ij,ij->i", a.root(6), b.root(6)) > 0.999).all()


def test_early_scores_wait_for_their_own_forecast() -> None:
    scores = np.full((2, M, 3), np.nan)
    scores[:, 0, 0] = [1.0, -1.0]
    sums, known = np.zeros((), SUMS), error_dependence.users(2)
    sums, known = error_dependence.learn(sums, known, scores, np.array([True, False]), PRIOR)
    assert known["early"][:, :, 0].tolist() == [[32, EARLY_NONE], [-32, EARLY_NONE]]
    later = np.full((2, M, 3), np.nan)
    later[:, 0, 1] = [2.0, -2.0]
    sums, known = error_dependence.learn(sums, known, later, np.zeros(2, bool), PRIOR)
    np.testing.assert_allclose(sums["lagged"], [[2, 0], [1, 0], [4, 0]])  # products 1 × 2 twice; squares
    assert (known["early"] == EARLY_NONE).all()
