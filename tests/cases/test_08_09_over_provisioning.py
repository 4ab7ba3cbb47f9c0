"""Case 8 and 9: capacity that people call a bug, of an app in its first hour."""

from collections.abc import Sequence

import numpy as np
import pytest

from models.demand import reconciliation
from models.demand.scenarios import required
from models.metrics import METRICS, STEPS
from models.quantile_function import LEVELS, QuantileFunction, Z

MINUTE_S = 60
FIRST = 28_000_000
WINDOW = slice(1, 4)


def wide(level: float, rng: np.random.Generator) -> tuple[np.ndarray, QuantileFunction]:
    """What a network that knows bursts says of any level, zero too: half above 6 cores, one in a hundred above 40."""
    middle = 6 + level / 2
    steps = np.exp(rng.standard_normal((512, STEPS, 1)))
    shape, offsets = (1, STEPS), (middle * (np.exp(Z) - 1)).astype(np.float16)
    total = QuantileFunction(
        np.full(shape, middle, np.float32),
        np.ones(shape, np.float32),
        np.broadcast_to(offsets, (*shape, LEVELS)),
    )
    return (middle * steps).astype(np.float32), total


def needs(cores: Sequence[float]) -> np.ndarray:
    """Demand at 99 % (minute) that an app of one metric is planned for at the end of each minute."""
    rng, found = np.random.default_rng(0), list[float]()
    state, common = reconciliation.initial_state(), reconciliation.initial_common()
    for tick, level in enumerate(cores, FIRST):
        usage = np.array([level, *[np.nan] * (len(METRICS) - 1)])
        state, common = reconciliation.observe(state, common, usage, usage, tick, MINUTE_S)
        decision = reconciliation.Decision([0], [0], WINDOW, 0.99, tick, MINUTE_S)
        demand, state = reconciliation.reconcile(*wide(level, rng), state, common, decision)
        found.append(float(required(demand, 0.99, WINDOW, [0])[0][WINDOW].max()))
    return np.array(found)


def noise(minutes: int, seed: int) -> np.ndarray:
    """Of six users' sum, each of 3 %."""
    return 1 + 0.03 / np.sqrt(6) * np.random.default_rng(seed).standard_normal(minutes)


@pytest.mark.parametrize("seed", range(3))
def test_a_steady_app_is_planned_for_what_it_uses_whatever_its_forecast(seed: int):
    need = needs((6 * noise(60, seed)).tolist())
    assert need[15:].mean() < 1.25 * 6
    assert need[30:].mean() < 1.2 * 6


@pytest.mark.parametrize("every", [2, 3, 5])
def test_an_app_that_alternates_costs_what_its_upper_level_needs(every: int):
    level = np.where(np.arange(60) % every, 6.0, 12.0)
    need = needs((level * noise(60, every)).tolist())
    assert (need[20:] > 12).all()
    assert need[30:].mean() < 1.4 * 12
    assert need[-1] < 1.25 * 12


def test_after_explicit_zeros_the_need_never_rises_and_ends_within_a_horizon():
    need = needs([*(6 * noise(15, 0)), *[0.0] * 20])
    assert (np.diff(need[14:]) <= 0).all()
    assert need[15] < 6
    assert (need[15 + STEPS :] == 0).all()


def test_a_rise_is_followed_at_once():
    """The bound is no brake: it moves with the first tick that passes it."""
    need = needs([*(6 * noise(40, 0)), *(18 * noise(3, 1))])
    assert (need[40:] > 18).all()
