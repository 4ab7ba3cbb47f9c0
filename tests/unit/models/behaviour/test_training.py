from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from models.behaviour.features import UNKNOWN
from models.behaviour.lstm import BehaviourModel, initial_state, seasonal, tensorflow
from models.behaviour.training import CHUNK, LEVELS_Z, Batches, FitSettings, Trainer, fit, pinball
from models.behaviour.training_series import Series, augmented, coarser, groups, held_out
from models.metrics import METRICS

NAN = np.nan


def series(values: Any, name: str = "a/u", first_tick: int = 0, tick_s: int = 60) -> Series:
    """CPU as given, the other metrics absent, no events."""
    full = np.full((len(values), 5), NAN, np.float32)
    full[:, 0] = values
    events = np.full((len(values), 4), NAN, np.float32)
    return Series.of(name, tick_s, first_tick, full, events, np.zeros(full.shape, bool))


def waves(n: int, users: int = 4) -> list[Series]:
    """A saw of period 8: what comes next is certain, and persistence is wrong."""
    return [series(10 + (np.arange(n) + u) % 8, name=f"a/{u}") for u in range(users)]


def test_scale_of_losses_is_persistences_crps_with_the_rivals_floor() -> None:
    s = series([1.0, 2.0, NAN, 4.0, 4.0])
    # half the mean difference of two changes, of the four pairs: one step {1, 0}, three steps {3, 2}; two steps have
    # one change: a thousandth of the mean value 2.75
    np.testing.assert_allclose(s.error[0, :3], [0.25, 2.75e-3, 0.25], rtol=1e-5)
    np.testing.assert_allclose(series([7.0] * 9).error[0], 7e-3)  # constant: a thousandth of its size
    assert (s.error[1:] == 0).all()


def test_held_out_is_a_fixed_fifth() -> None:
    names = [f"app-{i % 10}/vm-{i}" for i in range(5000)]
    assert sum(map(held_out, names)) == pytest.approx(1000, abs=85)  # three standard errors of 28
    assert [held_out(name) for name in names[:4]] == [held_out(name) for name in names[:4]]


def test_coarser_ticks_are_means_on_the_wall_clocks_grid() -> None:
    s = series([9.0, 1.0, 2.0, 3.0, NAN, 5.0, 7.0, 8.0], first_tick=4)  # ticks 4 to 11
    c = coarser(replace(s, saturated=s.values == 3), 5)
    assert (c.tick_s, c.first_tick) == (300, 1)  # ticks 5 to 9
    np.testing.assert_allclose(c.values[:, 0], [(1 + 2 + 3 + 5) / 4])
    assert c.saturated[0, 0]


def test_groups_are_sums_over_the_same_ticks() -> None:
    a, b = series([1.0, 2.0, 3.0], first_tick=10), series([10.0, NAN, 30.0], first_tick=11)
    (total,) = groups([a, b], [2], seed=0)
    assert total.first_tick == 10
    np.testing.assert_allclose(total.values[:, 0], [1, 12, 3, 30])
    hit = replace(b, saturated=b.values == 10)
    assert groups([a, hit], [2], seed=0)[0].saturated[:, 0].tolist() == [False, True, False, False]


def test_augmented_stretches_keep_their_scale_of_losses() -> None:
    rng = np.random.default_rng(0)
    s = Series.of(
        "a/u",
        60,
        0,
        rng.random((500, 5), np.float32),
        rng.random((500, 4), np.float32),
        np.zeros((500, 5), bool),
    )
    before = s.values.copy()
    # of uniform values, the mean change over the CRPS of changes
    own = (np.abs(np.diff(s.values, axis=0)).mean(0) / s.error[:, 0]).mean()
    for _ in range(50):
        changed = augmented(s, rng)
        known = ~np.isnan(changed.values).all(0)
        assert known.any()
        # the change in units of `error` stays whatever the units, unless capped by saturation
        ratio = (
            np.nanmean(np.abs(np.diff(changed.values[:, known], axis=0)), axis=0) / changed.error[known, 0]
        )
        free = ~changed.saturated[:, known].any(0)
        np.testing.assert_allclose(ratio[free], own, rtol=0.15)
    np.testing.assert_array_equal(s.values, before)


def test_a_pass_reads_every_tick_once_with_its_targets() -> None:
    s = series(np.arange(100.0), first_tick=5)
    batches = Batches([s], 1, None, [40])
    seen, targets, scored = [], [], []
    while (batch := batches.take(30)) is not None:
        seen += batch["values"][0, :, 0].tolist()
        targets.append(batch["target"][0, :, 0])
        scored.append(bool(batch["error"].any()))
    np.testing.assert_array_equal(seen[:100], np.arange(100))
    assert np.isnan(seen[100:]).all()
    aims = np.concatenate(targets)
    np.testing.assert_array_equal(aims[:90], np.arange(90)[:, None] + np.arange(1, 7))
    assert np.isnan(aims[99]).all()
    assert scored == [False, False, True, True]  # chunks begin at 0, 30, 60, 90; scored from 40


def test_slots_of_a_batch_are_those_of_the_stream() -> None:
    s = series(np.zeros(3), first_tick=8, tick_s=60)  # 00:08 to 00:10
    batch = Batches([s], 1, None).take(3)
    assert batch is not None
    # now, and one to six minutes ahead
    assert batch["daily"][0].tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, *[1] * 6], [1] * 7]
    assert batch["hourly"][0].tolist() == [[*range(8, 15)], [*range(9, 16)], [*range(10, 17)]]


def loss(quantiles: Any, target: float, *, censored: bool = False, error: float = 1.0) -> float:
    tf = tensorflow()
    one = np.ones((1, 1, 1, 1), np.float32)  # (row, time, metric, step)
    total, count = pinball(
        tf,
        tf.constant(quantiles, tf.float32)[None, None, None, None],
        target * one,
        np.full(one.shape, censored),
        error * one,
    )
    return float(np.sum(total)) / max(float(np.sum(count)), 1)


def test_pinball_is_least_at_the_true_quantiles() -> None:
    y = ndtri((np.arange(60) + 0.5) / 60) + 20

    tf = tensorflow()
    rows = y.astype(np.float32)[:, None, None, None]
    no, one = np.zeros(rows.shape, bool), np.ones_like(rows)

    def mean(location: float, scale: float) -> float:
        quantiles = np.tile(location + scale * LEVELS_Z, (len(y), 1, 1, 1, 1)).astype(np.float32)
        return float(np.sum(pinball(tf, quantiles, rows, no, one)[0]))

    true = mean(20, 1)
    assert true < min(mean(20.5, 1), mean(19.5, 1), mean(20, 1.5), mean(20, 0.6))
    assert loss(20 + LEVELS_Z, 21.0, error=2.0) == pytest.approx(loss(20 + LEVELS_Z, 21.0) / 2)


def test_a_censored_target_is_a_lower_bound() -> None:
    high = 50 + LEVELS_Z
    assert loss(high, 20.0, censored=True) == 0
    assert loss(high, 20.0) > 0
    assert loss(LEVELS_Z, 20.0, censored=True) == pytest.approx(
        loss(LEVELS_Z, 20.0)
    )  # all below: as any other


def test_below_zero_is_zero_for_a_zero() -> None:
    assert loss(LEVELS_Z - 10, 0.0) == 0
    assert loss(LEVELS_Z - 10, NAN) == 0
    assert loss(LEVELS_Z, 3.0, error=0.0) == 0  # not scored


@pytest.fixture(scope="module")
def fitted() -> tuple[BehaviourModel, list[tuple[int, float]]]:
    seen: list[tuple[int, float]] = []
    model = fit(
        waves(700),
        [(waves(400, 1)[0], 200)],
        FitSettings(seed=5, updates=60, check_every=30, rows=8),
        model_id="saw",
        progress=lambda done, _total, value, _best: seen.append((done, value)),
    )
    return model, seen


@pytest.mark.slow
def test_fit_learns_a_saw_and_reports(fitted: Any) -> None:
    model, seen = fitted
    assert [done for done, _ in seen] == list(range(1, 61))
    first, last = (np.mean([value for _, value in part]) for part in (seen[:5], seen[-5:]))
    assert last < 0.75 * first
    assert model.model_id == "saw"


@pytest.mark.slow
def test_training_reads_as_the_stream_does(fitted: Any) -> None:
    model, _ = fitted
    (s,) = waves(60, 1)
    batches = Batches([s], 1, None)
    trainer = Trainer(model.network, 1)
    trainer.run(batches, 60, update=False)
    state = model.initial_state(1)
    for t in range(60):
        state, _, _ = model.step(
            state, s.values[t][None], s.events[t][None], s.saturated[t][None], tick=t, tick_s=60
        )
    # training marks what is not known below all codes, the stream below those of a byte
    batches.state["hourly"] = np.maximum(batches.state["hourly"], -128)
    state["hourly"] = seasonal(state, 60)[1]
    for name, array in batches.state.items():
        np.testing.assert_allclose(array, state[name], atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_equal_seeds_give_equal_weights_and_a_clock_can_stop(fitted: Any) -> None:
    def short(seed: int, stop_after: int = 9) -> list[Any]:
        calls = iter(range(100))
        model = fit(
            waves(300),
            [],
            FitSettings(seed, updates=9, rows=4),
            model_id="x",
            stop=lambda: next(calls) >= stop_after,
        )
        return [np.asarray(v) for v in model.network.variables]

    a, b, early = short(1), short(1), short(1, stop_after=2)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert any(not np.array_equal(x, y) for x, y in zip(a, early, strict=True))


def test_new_stretches_begin_as_new_users() -> None:
    batches = Batches(waves(400), 3, np.random.default_rng(0))
    batches.take(CHUNK)
    for array in batches.state.values():
        array[:] = 7
    batches._at[1] = 10**6  # pyright: ignore[reportPrivateUsage]
    batches.take(CHUNK)
    fresh = initial_state(1)
    fresh["hourly"] = np.full((1, 60, 5), UNKNOWN["hourly"])
    for name in batches.state:
        np.testing.assert_array_equal(batches.state[name][1], fresh[name][0])
        assert (batches.state[name][0] == 7).all()
    assert len(METRICS) == 5
