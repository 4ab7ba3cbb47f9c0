"""Dependence between apps: nothing known, a synthetic truth, exact marginals, and quantiles of the sum."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import ndtri

from models.behaviour.error_dependence import PRIOR_TICKS
from models.nodes import app_dependence
from models.nodes.app_dependence import (
    GRID,
    HIGH,
    PRIOR,
    PRIOR_TAIL,
    SCORE_MOST,
    TAILS,
    AppDependence,
    State,
    estimate,
    high_together,
    initial_state,
    learn,
    moved,
    normal_scores,
    paired,
    ranked,
)

KEY = (1, b"group", 7)


def correlations(loading: np.ndarray) -> np.ndarray:
    matrix = np.outer(loading, loading)
    np.fill_diagonal(matrix, 1)
    return matrix


def truth(loading: np.ndarray, tail: float = 0.0) -> AppDependence:
    return AppDependence(loading, correlations(loading), tail)


def scores(loading: np.ndarray, ticks: int, tail: float = 0.0, seed: int = 0) -> np.ndarray:
    """Normal scores (tick, app) of a factor with these loadings; of Student's t for a tail."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((ticks, len(loading)))
    z = loading * rng.standard_normal((ticks, 1)) + np.sqrt(1 - loading**2) * own
    if tail:
        z /= np.sqrt(rng.chisquare(1 / tail, (ticks, 1)) * tail)
        z = ndtri((np.argsort(np.argsort(z, axis=0), axis=0) + 0.5) / ticks)
    return z


def known_after(rows: np.ndarray, weight: float = 1.0) -> State:
    state = initial_state(rows.shape[1])
    for row in rows:
        state = learn(state, row, weight)
    return state


def test_without_data_it_is_the_prior() -> None:
    for state in (initial_state(4), known_after(np.full((5, 4), np.nan))):
        dependence = estimate(state)
        assert dependence.loading == pytest.approx(np.full(4, np.sqrt(PRIOR)))
        assert dependence.correlation == pytest.approx(correlations(np.full(4, np.sqrt(PRIOR))))
        assert dependence.tail == pytest.approx(PRIOR_TAIL)
    assert estimate(initial_state(1)).correlation.tolist() == [[1.0]]
    assert estimate(initial_state(0)).correlation.shape == (0, 0)


def test_a_state_is_of_arrays_and_learning_changes_none() -> None:
    state = initial_state(3)
    before = {name: values.copy() for name, values in state.items()}
    after = learn(state, np.array([1.0, -1.0, np.nan]))
    assert all((state[name] == before[name]).all() for name in state)
    assert {name: values.shape for name, values in after.items()} == {
        name: values.shape for name, values in state.items()
    }
    # the third has no score, so nothing of it is known
    assert after["ticks"].tolist() == [1, 1, 0]
    assert after["product"].tolist() == [[1, -1, 0], [-1, 1, 0], [0, 0, 0]]
    assert after["square"].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_a_tick_weighs_as_one_of_the_priors_ticks() -> None:
    state = known_after(np.array([[1.0, 1.0]]))
    level = PRIOR + (1 - PRIOR) / (PRIOR_TICKS + 1)
    loading = estimate(state).loading
    assert (loading >= np.sqrt(PRIOR)).all()
    assert loading == pytest.approx(np.full(2, np.sqrt(level)), abs=0.02)  # and of the ridge's


@pytest.mark.parametrize("common", [0.2, 0.5])
def test_loadings_are_recovered(common: float) -> None:
    loading = np.sqrt(common) * np.array([1.4, 1.2, 1.0, 0.8, 0.5, 0.0, -0.6, 1.0, 1.0, 1.0])
    dependence = estimate(known_after(scores(loading, 3_000)))
    # standard error of a loading on a known factor: sqrt((1 - b²) / 2,000) = 0.02
    assert dependence.loading == pytest.approx(loading, abs=0.08)
    assert dependence.correlation == pytest.approx(correlations(loading), abs=0.09)
    assert dependence.tail < 1 / 20


def test_little_data_stays_near_the_prior() -> None:
    loading = np.full(6, 0.9)
    dependence = estimate(known_after(scores(loading, 20)))
    assert (dependence.loading > np.sqrt(PRIOR)).all()
    assert (dependence.loading < 0.85).all()


def test_independent_apps_stay_independent() -> None:
    dependence = estimate(known_after(scores(np.zeros(8), 4_000)))
    other = ~np.eye(8, dtype=bool)
    assert abs(dependence.correlation[other].mean()) < 0.015
    assert abs(dependence.correlation[other]).max() < 0.09
    assert dependence.tail < 1 / 32


def test_two_blocks_keep_what_a_factor_cannot_say() -> None:
    rng = np.random.default_rng(3)
    factors = rng.standard_normal((4_000, 2))
    rows = np.sqrt(0.5) * (np.repeat(factors, 4, axis=1) + rng.standard_normal((4_000, 8)))
    correlation = estimate(known_after(rows)).correlation
    blocks = np.kron(np.eye(2), np.ones((4, 4)))
    other = ~np.eye(8, dtype=bool)
    assert correlation[other & (blocks == 1)].mean() == pytest.approx(0.5, abs=0.05)
    assert correlation[blocks == 0].mean() == pytest.approx(0.0, abs=0.05)


def test_it_forgets() -> None:
    state = known_after(scores(np.full(5, 0.8), 1_500))
    for row in scores(np.zeros(5), 8_000, seed=1):
        state = learn(state, row)
    assert estimate(state).correlation[0, 1:].mean() < 0.1


def test_a_bias_of_the_forecasts_is_no_dependence() -> None:
    rows = scores(np.zeros(6), 4_000) + 1.0
    other = ~np.eye(6, dtype=bool)
    assert estimate(known_after(rows)).correlation[other].mean() < 0.05


def test_overlapping_windows_count_as_one() -> None:
    rows = scores(np.full(4, 0.7), 60)
    repeated = known_after(np.repeat(rows, 3, axis=0), 1 / 3)
    assert estimate(repeated).loading == pytest.approx(estimate(known_after(rows)).loading, abs=0.03)


@pytest.mark.parametrize("tail", [1 / 8, 1 / 3])
def test_a_tail_is_recovered(tail: float) -> None:
    tails = [estimate(known_after(scores(np.full(8, 0.4), 3_000, tail, seed))).tail for seed in range(3)]
    assert np.mean(tails) == pytest.approx(tail, rel=0.35)


def test_how_often_two_are_high_together() -> None:
    table = high_together(0.05)
    assert (np.diff(table[:, (GRID > -0.5) & (GRID < 1)], axis=0) > 0).all()
    assert (np.diff(table, axis=1) > -1e-9).all()
    assert np.interp(0.0, GRID, table[0]) == pytest.approx(0.05)
    assert table[:, -1] == pytest.approx(np.ones(len(TAILS)), abs=5e-3)
    draws = scores(np.full(2, np.sqrt(0.3)), 400_000, 1 / 4)
    high = draws > np.quantile(draws, 0.95, axis=0)
    simulated = high.all(axis=1).mean() / 0.05
    assert np.interp(0.3, GRID, table[TAILS.tolist().index(1 / 4)]) == pytest.approx(simulated, rel=0.03)


def test_apps_join_and_leave() -> None:
    state = known_after(scores(np.array([0.9, 0.8, 0.7, 0.1]), 800))
    after = moved(state, np.array([2, -1, 0]))
    assert after["ticks"].tolist() == [state["ticks"][2], 0, state["ticks"][0]]
    assert after["product"][0, 2] == state["product"][2, 0]
    assert not after["product"][1].any()
    assert not after["product"][:, 1].any()
    assert (after["high"] == state["high"]).all()
    dependence = estimate(after)
    assert dependence.correlation[0, 2] == pytest.approx(0.63, abs=0.12)
    # the newcomer is as apps of the group are
    assert 0.3 < dependence.loading[1] < 0.8
    assert moved(state, np.arange(4))["product"].tolist() == state["product"].tolist()
    assert moved(initial_state(0), np.array([-1]))["ticks"].tolist() == [0]
    assert moved(state, np.zeros(0, np.int64))["product"].shape == (0, 0)


def test_scores_are_levels_in_the_scenarios() -> None:
    load = np.stack([np.arange(1.0, 1_000), np.zeros(999), np.arange(1.0, 1_000)])
    z = normal_scores(load, np.array([500.0, 0.0, np.nan]))
    assert z[:2] == pytest.approx([0, 0], abs=1e-9)
    assert np.isnan(z[2])
    assert normal_scores(load[:1], np.array([975.0])) == pytest.approx([ndtri(0.975)], abs=0.01)
    assert normal_scores(load, np.array([2e3, 1.0, -1])).tolist()[1] == pytest.approx(ndtri(0.9995))
    assert abs(normal_scores(np.zeros((1, 10**5)), np.ones(1))[0]) == SCORE_MOST


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(-1e6, 1e6, width=32)
    )
)
def test_ranks_are_those_of_a_stable_sort(values: Any) -> None:
    assert (ranked(values) == np.argsort(values, axis=1, kind="stable")).all()


@given(st.integers(2, 5), st.integers(2, 60), st.integers(0, 1_000), st.sampled_from([0.0, 0.25]))
def test_pairing_keeps_every_apps_scenarios(apps: int, scenarios: int, seed: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    load = rng.poisson(2, (apps, scenarios)).astype(np.float32)
    order = paired(load, truth(rng.uniform(-0.9, 0.9, apps), tail), (seed, b"g", 1))
    assert (np.sort(order, axis=1) == np.arange(scenarios)).all()


def test_pairing_is_the_same_for_the_same_key() -> None:
    load = np.random.default_rng(0).lognormal(size=(3, 500)).astype(np.float32)
    orders = [paired(load, truth(np.full(3, 0.5), 0.2), key) for key in (KEY, KEY, (1, b"group", 8))]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()


def normal_scores_of_ranks(values: np.ndarray) -> np.ndarray:
    return ndtri((np.argsort(np.argsort(values, axis=1), axis=1) + 0.5) / values.shape[1])


@pytest.mark.parametrize("loading", [np.zeros(4), np.array([0.9, 0.7, 0.3, -0.5])])
def test_paired_scenarios_have_the_correlation(loading: np.ndarray) -> None:
    load = (
        np.random.default_rng(0).lognormal(sigma=[[0.5], [1], [2], [1]], size=(4, 4_096)).astype(np.float32)
    )
    together = np.take_along_axis(load, paired(load, truth(loading), KEY), axis=1)
    assert np.corrcoef(normal_scores_of_ranks(together)) == pytest.approx(correlations(loading), abs=0.005)


def test_paired_scenarios_have_the_tail() -> None:
    load = np.random.default_rng(0).lognormal(size=(6, 4_096)).astype(np.float32)
    z = normal_scores_of_ranks(
        np.take_along_axis(load, paired(load, truth(np.full(6, 0.4), 1 / 4), KEY), axis=1)
    )
    high = z > HIGH
    share = np.mean([(high[i] & high[j]).mean() / high[i].mean() for i in range(6) for j in range(i)])
    assert share == pytest.approx(
        np.interp(0.16, GRID, high_together(0.05)[TAILS.tolist().index(1 / 4)]), rel=0.15
    )


@pytest.mark.parametrize("tail", [0.0, 1 / 4])
def test_the_sum_has_the_quantiles_of_the_joint_truth(tail: float) -> None:
    loading = np.array([0.9, 0.8, 0.6, 0.5, 0.3, 0.0])
    scale = np.array([1.0, 3, 2, 1, 5, 2])[:, None]

    def loads(z: np.ndarray) -> np.ndarray:
        return scale * np.exp(0.8 * z)

    true_sum = loads(scores(loading, 200_000, tail, seed=4).T).sum(axis=0)
    dependence = estimate(known_after(scores(loading, 4_000, tail, seed=5)))
    apart = loads(np.random.default_rng(6).standard_normal((6, 4_096))).astype(np.float32)
    together = np.take_along_axis(apart, paired(apart, dependence, KEY), axis=1).sum(axis=0)
    for level in (0.5, 0.9, 0.99):
        assert np.quantile(together, level) == pytest.approx(np.quantile(true_sum, level), rel=0.06)
    # drawn apart, the sum looks safer than it is
    assert np.quantile(apart.sum(axis=0), 0.99) < 0.85 * np.quantile(true_sum, 0.99)


def test_correlations_that_cannot_be_are_mended() -> None:
    # three pairs learnt at different times: each against the others, which no three can be
    state = initial_state(3)
    for _ in range(500):
        for pair in ((0, 1), (0, 2), (1, 2)):
            row = np.full(3, np.nan)
            row[list(pair)] = [1.5, -1.5]
            state = learn(state, row)
            row[list(pair)] = [-1.5, 1.5]
            state = learn(state, row)
    correlation = estimate(state).correlation
    assert np.linalg.eigvalsh(correlation)[0] > 0
    assert np.diag(correlation) == pytest.approx(np.ones(3))
    paired(np.ones((3, 64), np.float32), estimate(state), KEY)


def test_a_group_of_one_app_and_of_none() -> None:
    alone = paired(np.ones((1, 64), np.float32), estimate(initial_state(1)), KEY)
    assert sorted(alone[0].tolist()) == list(range(64))
    assert app_dependence.paired(np.ones((0, 64), np.float32), estimate(initial_state(0)), KEY).shape == (
        0,
        64,
    )
