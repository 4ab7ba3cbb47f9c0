from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from models.behaviour import online_mixture
from models.behaviour.features import KNOTS, WIDTH_UNIT
from models.behaviour.lstm import tensorflow
from models.behaviour.online_mixture import HELD, LEARNT, ODDS_UNIT, SHIFT_UNIT, STATE
from models.metrics import METRICS

N = 3
LEVELS = np.array([-2.1, -1.75, -0.35, 0.0, 1.05, 1.4, 2.1, 2.45, 3.5], np.float32)


def shape(steps: int, *, move: float = 0.0, tail: float = 1.0, gate: float = 0.0, users: int = N) -> Any:
    """A network that says the normal distribution, moved by `move`, with one gate for all levels."""
    parts = (move, 0.0, tail, gate, gate, gate)
    return np.stack([np.full((len(METRICS), steps, users), part, np.float32) for part in parts])


def widths(of: Any, users: int = N) -> Any:
    """Codes of persistence's sizes (knot), the same one step and six ahead."""
    codes = np.round(np.log(np.asarray(of, np.float64)) / WIDTH_UNIT)
    return np.tile(codes[None, :, None, None], (2, 1, len(METRICS), users)).astype(np.float32)


def column(value: float, rows: int, users: int = N) -> Any:
    return np.full((rows, users), value, np.float32)


def average(gate: float, **learnt: Any) -> tuple[Any, Any, Any]:
    tf = tensorflow()
    sizes = [8.0, 4.0, 2.0, 1.0, 1.0, 3.0, 6.0, 24.0]  # of KNOTS
    out = online_mixture.average(
        tf,
        shape(1, move=0.5, gate=gate),
        np.full((len(METRICS), 1, N), 2.0, np.float32),
        widths(sizes),
        np.full((len(METRICS), 1, N), 10.0, np.float32),
        column(0.0, 1),
        LEVELS,
        **learnt,
    )
    return tuple(np.stack([np.asarray(level) for level in part])[:, 0, 0, 0] for part in out)  # type: ignore[return-value]


def test_both_experts_at_and_between_the_knots() -> None:
    network, persistence, share = average(0.0)
    np.testing.assert_allclose(network, 2 * (0.5 + LEVELS), rtol=1e-5)  # a scale of 2; sinh(asinh(z)) = z
    # a unit of 10; halfway between knots the geometric mean, linear to 0 and beyond 2.8
    sizes = [-4, -np.sqrt(4 * 2), -0.5, 0, np.sqrt(1 * 3), 3, 6, np.sqrt(6 * 24), 24 * 3.5 / 2.8]
    np.testing.assert_allclose(persistence, 10 * np.array(sizes), rtol=1e-3)
    np.testing.assert_allclose(share, 0.5, rtol=1e-5)  # 1.2 / 2 - 0.1


@pytest.mark.parametrize(("gate", "share"), [(9.0, 1.0), (-9.0, 0.0), (0.0, 0.5)])
def test_a_share_reaches_its_ends(gate: float, share: float) -> None:
    np.testing.assert_allclose(average(gate)[2], share, atol=1e-6)


def test_what_was_learnt_moves_its_own_levels_and_fades_towards_its_neighbours() -> None:
    shift = np.zeros((len(HELD), len(METRICS), 1, N), np.float32)
    shift[4] = 0.2  # of 1.96: all from 1.5 to 2.3, and a part down to 0.7
    plain, moved = average(0.0), average(0.0, shift=shift)
    part = (np.array([1.05, 1.4]) - 0.7) / 1.26
    by = np.array([0, 0, 0, 0, *0.2 * part, 0.2, 0, 0])  # of LEVELS
    np.testing.assert_allclose(moved[0], 2 * (0.5 + np.sinh(np.arcsinh(LEVELS) + by)), rtol=1e-5)
    np.testing.assert_allclose(moved[1][6], plain[1][6] * np.exp(0.22), rtol=1e-5)
    np.testing.assert_array_equal(
        np.delete(moved[1], 6), np.delete(plain[1], 6)
    )  # its centre is the last value
    shift[4], shift[2] = 0, 0.3  # of the median
    by = 0.3 * np.clip(1 - np.abs(LEVELS) / 0.7, 0, 1)
    np.testing.assert_allclose(
        average(0.0, shift=shift)[0], 2 * (0.5 + np.sinh(np.arcsinh(LEVELS) + by)), rtol=1e-5
    )
    odds = np.zeros((3, len(METRICS), N), np.float32)
    odds[2] = np.log(3)  # of the upper tail: share 1.2 * 3/4 - 0.1
    np.testing.assert_allclose(average(0.0, odds=odds)[2][[2, 3, 6]], [0.5, 0.5, 0.8], rtol=1e-5)


def test_steps_between_take_what_is_between() -> None:
    tf = tensorflow()
    codes = np.zeros((len(HELD), 5, 3, 1), np.float32)
    codes[0, 0, :, 0] = np.array([0.1, 0.2, 0.5]) / SHIFT_UNIT
    steps = np.asarray(online_mixture.for_steps(tf, codes, tf.fill((5, 1), 1e9)))[0, 0, :, 0]
    np.testing.assert_allclose(steps, [0.1, 0.15, 0.2, 0.3, 0.4, 0.5], atol=1e-4)


def test_the_ends_of_a_new_user_are_wider() -> None:
    tf = tensorflow()
    none = np.zeros((len(HELD), 5, 3, 4), np.float32)
    seen = np.tile(np.array([0, 1, 100, 1e6], np.float32), (5, 1))
    shift = np.asarray(online_mixture.for_steps(tf, none, seen))
    np.testing.assert_allclose(shift[:, 0, 0, 1], online_mixture.COLD, rtol=1e-6)
    np.testing.assert_allclose(shift[:, 0, 0, 0], shift[:, 0, 0, 1])
    np.testing.assert_allclose(
        shift[:, 4, 5, 2], online_mixture.COLD * 100**online_mixture.COLD_POWER, rtol=1e-5
    )
    assert (shift[..., 3] < 0.001).all()


def run(
    changes: Any, *, move: float = 0.0, scale: float = 1.0, size: float = 1.0, saturated: bool = False
) -> Any:
    """State after one-step changes (tick, user) of a value of 100, whose network and widths stay as given."""
    tf = tensorflow()
    ticks, users = changes.shape
    sizes = size * np.abs(KNOTS)
    state = {
        name: np.zeros((*dims, users), np.float32) if name != "made_last" else np.full((*dims, users), np.nan)
        for name, (dims, _) in STATE.items()
    }
    state = {name: tf.constant(array, tf.float32) for name, array in state.items()}
    known = {
        "width": tf.constant(widths(sizes, users)),
        "seen": tf.fill((5, users), 1e9),
        "last": tf.fill((5, users), 100.0),
    }
    unit, ceiling = tf.ones((5, users)), tf.fill((5, users), 1e6)
    due, reach = tf.ones((3, users)) * [[1.0], [0.0], [0.0]], tf.zeros((6, users))
    told, scales = tf.constant(shape(6, move=move, users=users)), tf.fill((5, 6, users), scale)
    hit = tf.fill((5, users), saturated)

    @tf.function(autograph=False)
    def tick(state: Any, values: Any) -> Any:
        shift, odds, _ = online_mixture.learn(tf, state | known, values, hit, unit, ceiling, due, reach)
        made = online_mixture.remember(tf, state, due, tf.fill((5, users), 100.0), scales, told)
        return {"shift": shift, "odds": odds, **made}

    for t in range(ticks):
        values = np.full((5, users), np.nan, np.float32)
        values[0] = 100 + changes[t]
        state = tick(state, tf.constant(values))
    return {name: np.asarray(array) for name, array in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.6, 1.2])
def test_intervals_come_to_hold_what_they_promise(wrong: float) -> None:
    changes = np.random.default_rng(0).standard_normal((2000, 64))
    state = run(changes, scale=wrong, size=wrong)  # network and persistence alike: no share helps
    centre, lower, upper = state["odds"][:, 0] * ODDS_UNIT
    low, *inner, high, far = state["shift"][:, 0, 0] * SHIFT_UNIT

    def at(z: float, moved: Any) -> Any:
        """Both experts' average (user), at the share that the odds came to."""
        tails = min((abs(z) - 0.7) / 1.4, 1)
        odds = centre * (1 - tails) + (upper if z > 0 else lower) * tails
        share = np.clip(1.2 / (1 + np.exp(-odds)) - 0.1, 0, 1)
        # persistence has no shift inside of the ends
        network, persistence = (
            np.sinh(np.arcsinh(z) + moved),
            z * np.exp(np.sign(z) * 1.1 * moved * (abs(z) > 1.5)),
        )
        return wrong * (share * network + (1 - share) * persistence)

    # the published ones are interpolated
    ends = [
        at(-1.75, low) + 0.6 * (at(-2.1, low) - at(-1.75, low)),
        *(at(z, moved) for z, moved in zip((-0.7, 0.0, 0.7), inner, strict=True)),
        at(1.75, high) + 0.6 * (at(2.1, high) - at(1.75, high)),
        at(2.1, high) + 0.657 * (at(2.45, far) - at(2.1, high)),
    ]
    # means over users: each one's last steps still move it; at the quartiles, where the network alone moves and half of
    # it counts, 0.34 and 0.20 are on their way
    assert (np.abs(ndtr(ends).mean(1) - HELD) < [0.006, 0.04, 0.01, 0.04, 0.006, 0.004]).all()
    assert (state["shift"][:, 1:] == 0).all()  # metrics without a value
    assert (state["shift"][:, :, 1:] == 0).all()  # steps that were not due


def test_the_worse_expert_loses_its_share() -> None:
    changes = np.random.default_rng(1).standard_normal((400, 16))
    biased = run(changes, move=3.0)["odds"][:, 0] * ODDS_UNIT
    wide = run(changes, size=20.0)["odds"][:, 0] * ODDS_UNIT
    assert (biased[0] < -0.5).all()
    assert (wide[0] > 0.5).all()


def test_a_saturated_target_narrows_nothing_and_a_gap_teaches_nothing() -> None:
    low = np.full((50, 4), -3.0)
    assert (run(low, saturated=True)["shift"][0, 0, 0] == 0).all()
    assert (run(low)["shift"][0, 0, 0] < 0).all()
    silent = run(np.full((20, 4), np.nan))
    assert (silent["shift"] == 0).all()
    assert (silent["odds"] == 0).all()
    assert (silent["made_gates"][:, :, 0] == 0).all()  # what is said goes on
    assert (silent["made_shape"][2, :, 0] == 1).all()


def scored(changes: list[float], sizes: list[float], *, gate: float, hit: bool = False) -> Any:
    """Scores (tracked, user) of one-step changes from 100 (user), of a network that says the standard normal."""
    tf = tensorflow()
    users = len(changes)
    state = {
        name: tf.constant(np.full((*dims, users), {"made_last": 100}.get(name, 0)), tf.float32)
        for name, (dims, _) in STATE.items()
    }
    move, skew, tail, *gates = shape(3, gate=gate, users=users)
    state |= {
        "made_shape": tf.constant([move, skew, tail]),
        "made_gates": tf.constant(np.stack(gates) / online_mixture.GATE_UNIT),
        "seen": tf.fill((5, users), 1e9),
        "last": tf.fill((5, users), 100.0),
    }
    state["width"] = tf.constant(widths(sizes, users))
    values = np.full((5, users), np.nan, np.float32)
    values[0] = 100 + np.array(changes)
    due = tf.ones((3, users)) * [[1.0], [0.0], [1.0]]
    _, _, scores = online_mixture.learn(
        tf, state, tf.constant(values), tf.fill((5, users), hit), tf.ones((5, users)), tf.fill((5, users), 1e6),
        due, tf.zeros((6, users)),
    )  # fmt: skip
    scores = np.asarray(scores)
    assert np.isnan(scores[1:]).all()  # metrics without a value
    assert np.isnan(scores[0, 1]).all()  # a step that was not due
    np.testing.assert_array_equal(scores[0, 0], scores[0, 2])
    return scores[0, 0]


def test_a_score_is_the_level_that_a_target_reached() -> None:
    one = [1.0] * len(KNOTS)
    # the network alone, whose quantiles are the levels: a change is its own score, as far as the limit
    found = scored([-9, -2.5, -1.05, 0, 0.35, 2.7, 9], one, gate=9.0)
    np.testing.assert_allclose(found, [-3, -2.5, -1.05, 0, 0.35, 2.7, 3], atol=1e-3)
    assert np.isnan(scored([0.0, 5.0], one, gate=9.0, hit=True)).all()  # demand was more than that


def test_the_score_of_a_point_mass_is_the_middle_of_its_levels() -> None:
    half = len(KNOTS) // 2
    # persistence alone, which says "as it is" up to the median, and rises above it
    sizes = [1e-5] * half + [0.7 / abs(KNOTS[half]) * 1e-2 + 1e-4] * half
    assert scored([0.0], sizes, gate=-9.0)[0] == pytest.approx((-2.1 + 0) / 2)
    assert scored([-1.0], sizes, gate=-9.0)[0] == pytest.approx(-2.1)  # below it: how far, no level says


def test_learnt_levels_are_at_knots_or_halfway() -> None:
    on = np.abs(KNOTS)
    for z in np.abs(LEARNT[LEARNT != 0]):
        assert min(np.abs(on - z).min(), np.abs((on[:-1] + on[1:]) / 2 - z).min()) < 1e-5
