"""Reconciliation: marginals, ranks, and a promise that comes to be kept."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from models.demand import reconciliation
from models.demand.reconciliation import (
    NONE,
    PROMISED,
    WEIGHTS,
    Decision,
    Experts,
    State,
    initial_common,
    initial_state,
    observe,
    reconcile,
    reconcile_each,
)
from models.demand.scenarios import requirements
from models.metrics import METRICS
from models.quantile_function import LEVELS, QuantileFunction, Z

STEPS = [1, 2, 3, 4, 5, 6]
FLAT = {"stretch": np.zeros((len(METRICS), len(PROMISED))), "misses": np.full(5, 20.0), "excess": np.zeros(5)}
S = 4096


def normal_total(metrics: int, mean: float, sd: float) -> QuantileFunction:
    shape = (metrics, 6)
    offsets = np.broadcast_to(Z, (*shape, LEVELS)).astype(np.float16)
    return QuantileFunction(np.full(shape, mean, np.float32), np.full(shape, sd, np.float32), offsets)


def draws(metrics: int, mean: float = 1000.0, sd: float = 10.0, seed: int = 0) -> np.ndarray:
    """Normal quantiles, every rank's, in a random order."""
    levels = np.broadcast_to(ndtri((np.arange(S) + 0.5) / S)[:, None, None], (S, 6, metrics))
    return (mean + sd * np.random.default_rng(seed).permuted(levels, axis=0)).astype(np.float32)


def whole(metrics: int, tick: int = 100) -> Decision:
    return Decision(range(metrics), range(metrics), slice(0, 6), confidence=0.99, tick=tick, tick_s=60)


def heard(state: State, common: State, usage: np.ndarray, tick: int) -> tuple[State, State]:
    return observe(state, common, usage, usage, tick, 60)


def test_marginals_are_the_average_of_both_and_ranks_stay():
    demand, total = draws(2), normal_total(2, 2000.0, 30.0)
    total.location[1] = np.nan
    blend, _ = reconcile(demand, total, initial_state(), FLAT, whole(2))
    for step in range(6):
        for metric in range(2):
            assert np.all(
                np.diff(blend[np.argsort(demand[:, step, metric], kind="stable"), step, metric]) >= 0
            )
    for z in (-1.4, 0.0, 1.4):  # half of 1000 + 10 z and of 2000 + 30 z
        assert np.quantile(blend[:, 0, 0], ndtr(z)) == pytest.approx(1500 + 20 * z, abs=2)
        assert np.quantile(blend[:, 0, 1], ndtr(z)) == pytest.approx(1000 + 10 * z, abs=2)  # no total


def test_odds_weigh_the_sum_against_the_total():
    state = initial_state()
    state["odds"][:] = np.log(3)  # weight 1 / (1 + 1/3) = 3/4
    blend, _ = reconcile(draws(1), normal_total(1, 2000.0, 10.0), state, FLAT, whole(1))
    assert np.median(blend[:, 3, 0]) == pytest.approx(0.25 * 1000 + 0.75 * 2000, abs=1)


def test_stretched_levels_go_beyond_the_grid_in_a_straight_line():
    state = initial_state()
    state["stretch"][0] = np.log(2)
    flat, level = reconcile(draws(1), normal_total(1, 1000.0, 10.0), initial_state(), FLAT, whole(1))
    wide, after = reconcile(draws(1), normal_total(1, 1000.0, 10.0), state, FLAT, whole(1))
    # the largest of 4,096 is at the last level held: the normal total lies there at 1000 + 10 × level
    assert flat[:, 0, 0].max() == pytest.approx(1000 + 10 * level["limit"][0, 2], abs=0.5)
    assert wide[:, 0, 0].max() == pytest.approx(1000 + 20 * level["limit"][0, 2], abs=1)
    assert np.median(wide[:, 0, 0]) == np.median(flat[:, 0, 0])
    assert after["limit"][0] == pytest.approx(2 * level["limit"][0])


@pytest.mark.parametrize(("confidence", "index"), [(0.9, 0), (0.95, 0), (0.98, 1), (0.99, 1), (0.9999, 2)])
def test_of_confidences_that_few_scenarios_cannot_tell_apart_the_one_asked_for_counts(
    confidence: float, index: int
) -> None:
    demand, total = (
        draws(1)[:64],
        normal_total(1, 1000.0, 10.0),
    )  # 3, 0 and 0 may fail of 64, and each step has one
    common, alone = ({name: array.copy() for name, array in FLAT.items()} for _ in range(2))
    common["stretch"][0] = [0.1, 0.2, 0.4]
    alone["stretch"][0, 0] = [0.1, 0.3, 0.5][index]  # the rarer levels' are added to the first's
    asked = replace(whole(1), confidence=confidence)
    wide, _ = reconcile(demand, total, initial_state(), common, asked)
    assert np.allclose(wide, reconcile(demand, total, initial_state(), alone, asked)[0])


def test_one_decision_at_a_time_is_followed_to_its_last_step():
    state, common = initial_state(), initial_common()
    _, state = reconcile(draws(1), normal_total(1, 1000.0, 10.0), state, common, whole(1))
    _, same = reconcile(draws(1, seed=1), normal_total(1, 9.0, 1.0), state, common, whole(1, 101))
    assert np.array_equal(same["sum"], state["sum"], equal_nan=True)
    usage = np.array([1000.0, np.nan, np.nan, np.nan, np.nan])
    for tick in range(101, 106):
        state, common = heard(state, common, usage, tick)
        assert state["made"][0] == 100
    state, common = heard(state, common, usage, 106)
    assert state["made"][0] == NONE
    # kept: all levels fall by their gain times the share of misses allowed
    allowed = 1 - PROMISED
    assert state["stretch"][0] == pytest.approx(-reconciliation.OWN_GAIN * allowed[0])
    moved = common["stretch"] - initial_common()["stretch"]
    assert moved[0] == pytest.approx(-reconciliation.COMMON_GAIN * allowed)
    assert not state["stretch"][1:].any()  # of metrics that nobody governs nothing is learnt
    assert not state["misses"].any()


def test_what_is_not_governed_takes_no_part_of_a_miss():
    state, common = initial_state(), FLAT
    asked = replace(whole(2), governed=[0])
    _, state = reconcile(draws(2), normal_total(2, 1000.0, 10.0), state, common, asked)
    for tick in range(101, 107):
        state, common = heard(state, common, np.array([5000.0, 5000.0, *[np.nan] * 3]), tick)
    assert state["misses"].tolist() == [1, 0, 0, 0, 0]
    assert common["stretch"][:2, 0] == pytest.approx(reconciliation.COMMON_GAIN[0] * np.array([0.95, 0]))


@pytest.mark.parametrize("heavier", [0.2, 0.4])
def test_the_tail_is_as_heavy_as_its_misses_are_far(heavier: float):
    """Levels needed are Pareto beyond the 95 % limit: of the index after many, of the prior before."""
    state, common = initial_state(), initial_common()
    rng = np.random.default_rng(3)
    for _ in range(1000):
        missed, excess = np.eye(5, dtype=bool)[0], np.eye(5)[0] * rng.exponential(heavier)
        state |= reconciliation._remembered(state, missed, excess)
        common |= reconciliation._remembered(common, missed, excess)
    first = reconciliation.stretched(initial_state(), initial_common())[0]
    assert first == pytest.approx(reconciliation.STRETCH[0] + reconciliation.INDEX * reconciliation.BEYOND)
    last = reconciliation.stretched(state, common)
    # some 300 misses are remembered: standard error 1/sqrt(300) = 6 % of the index; three of them
    assert last[0] - last[0, 0] == pytest.approx(heavier * reconciliation.BEYOND, rel=0.18)
    assert last[1] == pytest.approx(first)  # another metric's


def test_one_miss_counts_its_excess_over_the_limit():
    state, common = initial_state(), FLAT
    _, state = reconcile(draws(1), normal_total(1, 1000.0, 10.0), state, common, whole(1))
    limit = state["limit"][0, 0]
    # beyond the grid's end, 3.5, the total goes on as it did: at twice the limit's level 1000 + 10 × 2 × limit
    usage = np.array([1000 + 20 * limit, *[np.nan] * 4])
    for tick in range(101, 107):
        state, common = heard(state, common, usage, tick)
    assert state["misses"][0] == 1
    assert state["excess"][0] == pytest.approx(np.log(2), abs=0.01)
    assert common["misses"][0] == 21
    assert common["excess"][0] == state["excess"][0]


def test_a_miss_is_shared_by_the_metrics_that_missed():
    state, common = initial_state(), FLAT
    _, state = reconcile(draws(2), normal_total(2, 1000.0, 10.0), state, common, whole(2))
    usage = np.array([5000.0, 5000.0, np.nan, np.nan, np.nan])
    for tick in range(101, 107):
        state, common = heard(state, common, usage, tick)
    part = np.array([0.5, 0.5])[:, None] - state["share"][:2, None] * (1 - PROMISED)
    assert common["stretch"][:2] == pytest.approx(reconciliation.COMMON_GAIN * part)


@pytest.mark.parametrize("gone", [(), (103,), (101, 102, 103, 104, 105, 106)])
def test_usage_that_is_not_known_teaches_nothing(gone: tuple[int, ...]):
    state, common = initial_state(), initial_common()
    _, state = reconcile(draws(1), normal_total(1, 1000.0, 10.0), state, common, whole(1))
    known = np.array([1000.0, *[np.nan] * 4])
    for tick in range(101, 107):
        state, common = heard(state, common, known if tick not in gone else np.full(5, np.nan), tick)
    assert (len(gone) == 6) == bool(np.array_equal(common["stretch"], initial_common()["stretch"]))
    assert np.isfinite(state["odds"]).all()


@pytest.mark.slow
def test_a_promise_comes_to_be_kept_where_both_forecasts_are_too_narrow():
    """Demand has twice the spread that is forecast, at six steps."""
    rng = np.random.default_rng(5)
    states, common = [initial_state() for _ in range(8)], FLAT
    total = normal_total(1, 1000.0, 10.0)
    scenarios = [draws(1, seed=seed)[: S // 2] for seed in range(5)]
    kept: list[list[bool]] = []
    for decision in range(300):
        tick = 7 * decision
        for a in range(8):
            demand, states[a] = reconcile(
                scenarios[decision % 5],
                total,
                states[a],
                common,
                whole(1, tick),
            )
            truth = 1000 + 20 * rng.standard_normal(6)
            curves = requirements(demand, [0.95, 0.99], slice(0, 6), [0])
            kept.append([bool((truth <= curve[:, 0]).all()) for curve, _ in curves])
            for k, step in enumerate(STEPS):
                usage = np.array([truth[k], *[np.nan] * 4])
                states[a], common = heard(states[a], common, usage, tick + step)
    early, late = np.mean(kept[:400], axis=0), np.mean(kept[1200:], axis=0)
    assert early[0] < 0.8
    # 1,200 decisions: standard error 0.63 % at 95 %, 0.29 % at 99 %; three of them
    assert late[0] == pytest.approx(0.95, abs=0.019)
    assert late[1] == pytest.approx(0.99, abs=0.0087)


def test_odds_move_to_the_forecast_that_errs_less():
    state = initial_state()
    rng = np.random.default_rng(0)
    for decision in range(40):
        tick = 7 * decision
        _, state = reconcile(
            draws(1, 1000.0, 10.0), normal_total(1, 1100.0, 10.0), state, FLAT, whole(1, tick)
        )
        for step in STEPS:
            usage = np.array([1100 + 10 * rng.standard_normal(), *[np.nan] * 4])
            state, _ = heard(state, FLAT, usage, tick + step)
    assert state["odds"][0, 0] > 0.1  # the total's


@given(st.integers(0, 2**32 - 1), st.floats(0, 1e12), st.floats(0, 1e12), st.sampled_from([64, 512]))
def test_scenarios_stay_finite_and_in_order_whatever_the_sizes(
    seed: int, one: float, other: float, count: int
):
    rng = np.random.default_rng(seed)
    demand = (one * rng.random((count, 6, 2))).astype(np.float32)
    state = initial_state()
    state["stretch"] = rng.uniform(-9, 9, state["stretch"].shape)
    state["odds"] = rng.uniform(-9, 9, state["odds"].shape)
    out, after = reconcile(demand, normal_total(2, other, other / 3), state, initial_common(), whole(2))
    assert np.isfinite(out).all()
    assert (out >= 0).all()
    order = np.argsort(demand[:, 2, 1], kind="stable")
    assert (np.diff(out[order, 2, 1]) >= 0).all()
    for tick in range(101, 107):
        after, common = heard(after, FLAT, np.array([other, one, np.nan, np.nan, np.nan]), tick)
        assert all(np.isfinite(after[name]).all() for name in ("odds", "stretch", "misses", "excess"))
        assert all(np.isfinite(array).all() for array in common.values())


def test_scenarios_end_where_demand_has_always_ended():
    demand, total = draws(1), normal_total(1, 2000.0, 30.0)
    state = initial_state() | {"day": np.array([1]), "largest": np.full((15, len(METRICS)), 1300.0)}
    free, _ = reconcile(demand, total, initial_state(), FLAT, whole(1, 1500))
    held, _ = reconcile(demand, total, state, FLAT, whole(1, 1500))
    assert held.max() == pytest.approx(1430)  # of 8 days of minutes; a tenth more
    assert np.array_equal(held, np.minimum(free, held.max()))


def test_ranks_keep_the_order_of_ties():
    _, order = reconciliation.ranked(np.zeros((5, 1, 1), np.float32))
    assert order.ravel().tolist() == [0, 1, 2, 3, 4]


def expert_of(metrics: int, mean: float, sd: float) -> np.ndarray:
    quantiles = np.full((len(METRICS), 6, LEVELS), np.nan, np.float32)
    quantiles[:metrics] = mean + sd * Z
    return quantiles


def asking(metrics: int, expert: np.ndarray, *weights: float, tick: int = 100) -> Decision:
    return replace(whole(metrics, tick), experts=Experts(expert, weights))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_an_expert_is_averaged_into_governed_marginals_in_quantiles(weight: float) -> None:
    demand, total, state = draws(2), normal_total(2, 1000.0, 10.0), initial_state()
    asked = replace(asking(2, expert_of(2, 1800.0, 50.0), weight), governed=[0])
    blend, _ = reconcile(demand, total, state, FLAT, asked)
    for z in (-1.4, 0.0, 1.4):
        right = (1 - weight) * (1000 + 10 * z) + weight * (1800 + 50 * z)
        assert np.quantile(blend[:, 2, 0], ndtr(z)) == pytest.approx(right, abs=2)
    static, _ = reconcile(demand, total, state, FLAT, replace(whole(2), governed=[0]))
    assert np.array_equal(blend[..., 1], static[..., 1])  # not governed: static's
    assert np.array_equal(
        np.argsort(blend[:, 2, 0], kind="stable"), np.argsort(static[:, 2, 0], kind="stable")
    )


@settings(max_examples=20, deadline=None)
@given(st.permutations([0.0, *WEIGHTS]), st.integers(0, 100), st.integers(1, 3), st.booleans())
def test_every_weights_scenarios_are_those_it_would_have_alone(
    weights: list[float], seed: int, metrics: int, known: bool
) -> None:
    """And the state depends on no weight; at weight 0 scenarios and static's state are as without experts."""
    rng = np.random.default_rng(seed)
    demand, total = draws(metrics, seed=seed)[:256], normal_total(metrics, 990.0, 15.0)
    expert = np.sort(rng.uniform(0, 2000, (len(METRICS), 6, LEVELS)), axis=-1).astype(np.float32)
    if not known:
        expert[:, rng.integers(6)] = np.nan
    state = initial_state() | {"stretch": rng.uniform(-0.3, 0.3, len(METRICS))}
    state |= reconciliation.initial_experts(state)
    state["expert_stretch"] = rng.uniform(-0.3, 0.3, (len(WEIGHTS), len(METRICS)))
    together, after = reconcile_each(demand, total, state, FLAT, asking(metrics, expert, *weights))
    static, plain = reconcile(demand, total, state, FLAT, whole(metrics))
    for weight, scenarios in zip(weights, together, strict=True):
        alone, same = reconcile(demand, total, state, FLAT, asking(metrics, expert, weight))
        assert np.array_equal(scenarios, alone)
        assert all(np.array_equal(after[name], same[name], equal_nan=True) for name in after)
        if weight == 0:
            assert np.array_equal(scenarios, static)
    assert not any(name.startswith("expert") for name in plain)
    assert all(np.array_equal(after[name], plain[name], equal_nan=True) for name in plain)


def test_without_an_expert_for_a_step_its_marginal_is_static() -> None:
    expert = expert_of(1, 3000.0, 1.0)
    expert[0, 2] = np.nan
    demand, total = draws(1), normal_total(1, 1000.0, 10.0)
    blend, _ = reconcile(demand, total, initial_state(), FLAT, asking(1, expert, 0.5))
    static, _ = reconcile(demand, total, initial_state(), FLAT, whole(1))
    assert np.array_equal(blend[:, 2], static[:, 2])
    assert (blend[:, 1] > static[:, 1]).all()


def test_each_weights_promise_comes_to_be_kept_by_its_own_marginal() -> None:
    """An expert that lies too low: its own stretch widens, static's, and what all apps share, learn as without it."""
    rng = np.random.default_rng(5)
    state, common = initial_state(), initial_common()
    plain, alone = initial_state(), initial_common()
    demand, total, expert = draws(1)[:256], normal_total(1, 1000.0, 10.0), expert_of(1, 990.0, 4.0)
    missed = []
    for round_ in range(600):
        tick = 100 + 6 * round_
        _, state = reconcile(demand, total, state, common, asking(1, expert, 0.5, tick=tick))
        _, plain = reconcile(demand, total, plain, alone, whole(1, tick))
        limits = np.array([state["limit"][0, 0], *state["expert_limit"][:, 0]])
        for later in range(tick + 1, tick + 7):
            y = np.array([rng.normal(1000, 10), *[np.nan] * 4])
            state, common = heard(state, common, y, later)
            plain, alone = heard(plain, alone, y, later)
        worst = np.array([state["worst"][0], *state["expert_worst"][:, 0]])
        missed.append(worst > limits)
    assert state["expert_stretch"][1, 0] > state["expert_stretch"][0, 0] > state["stretch"][0] + 0.1
    assert np.array_equal(plain["stretch"], state["stretch"])
    assert all(np.array_equal(common[name], alone[name]) for name in common)
    # 5 % of 300 are allowed: 15, standard error 3.8, and less for what is integrated
    assert np.array(missed)[300:].mean(axis=0) == pytest.approx([0.05] * (1 + len(WEIGHTS)), abs=0.03)


def test_a_snapshot_of_fewer_weights_goes_on_and_the_new_one_begins_as_static() -> None:
    demand, total, expert = draws(1)[:256], normal_total(1, 1000.0, 10.0), expert_of(1, 990.0, 4.0)
    common = initial_common()
    _, state = reconcile(demand, total, initial_state(), common, asking(1, expert, 0.5, tick=100))
    state["stretch"][:] = 0.3
    names = ("expert_stretch", "expert_limit", "expert_worst")
    before = state | {name: state[name][:2] for name in names} | {"made": np.array([NONE])}
    _, after = reconcile(demand, total, before, common, asking(1, expert, 1.0, tick=106))
    assert [len(after[name]) for name in names] == [len(WEIGHTS)] * 3
    assert after["expert_stretch"][:2].tolist() == before["expert_stretch"].tolist()
    assert (after["expert_stretch"][2:] == 0.3).all()


def test_a_weight_that_nothing_is_learnt_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of 0, 0\.25, 0\.5, 1, got 0\.3"):
        Experts(expert_of(1, 1.0, 1.0), (0.3,))


def test_demand_of_reconciled_apps_begins_as_it_is() -> None:
    demand = draws(2)
    learnt = initial_common()  # widens what an app forecasts
    alone, _ = reconcile(demand, normal_total(2, 5000.0, 10.0), initial_state(), learnt, whole(2))
    assert np.quantile(alone, 0.99) > 2500
    together, after = reconcile(
        demand, normal_total(2, 5000.0, 10.0), initial_state(), learnt, replace(whole(2), of_apps=True)
    )
    assert together == pytest.approx(demand, abs=1.5)
    assert after["made"][0] == 100  # and is followed


def test_demand_of_reconciled_apps_comes_to_be_wide_enough_by_its_own_outcomes() -> None:
    rng, state, common = np.random.default_rng(1), initial_state(), initial_common()
    deciding = replace(whole(1), of_apps=True)
    kept = list[bool]()
    for turn in range(700):
        tick = 100 + 6 * turn
        scenarios, state = reconcile(
            draws(1, sd=4.0), normal_total(1, 0.0, 1.0), state, common, replace(deciding, tick=tick)
        )
        limit = requirements(scenarios, [0.95], slice(0, 6), [0])[0][0][:, 0]
        outcomes = 1000 + 10 * rng.standard_normal(6)  # 2.5 times as far
        kept.append(bool((outcomes <= limit).all()))
        for step, outcome in enumerate(outcomes, 1):
            usage = np.full(len(METRICS), np.nan)
            usage[0] = outcome
            state, _ = heard(state, common, usage, tick + step)
    assert np.mean(kept[:40]) < 0.9
    assert np.mean(kept[400:]) == pytest.approx(0.95, abs=0.03)
