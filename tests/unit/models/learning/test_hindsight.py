"""What fixed settings would have cost and missed."""

import numpy as np

from models.learning.hindsight import Need, outcomes
from models.learning.shadow_fleets import ShadowFleets
from tests.unit.models.learning.test_app_learner import OFFER, POLICY, TICK_S


def test_more_costs_more_and_misses_less() -> None:
    fleets = ShadowFleets("shop", [OFFER], POLICY, {}, tick_s=TICK_S, seed=0, supply=[None, None])
    lanes = np.array([10, 20])
    ticks = [Need(t, [5.0, 15.0, 25.0, np.nan][t % 4], lanes, np.zeros(2, np.int64)) for t in range(40)]
    cost, missed = outcomes(fleets, ticks)
    assert cost.shape == missed.shape == (40, 2)
    assert not missed[0].any()  # nothing was bought yet
    assert missed[1:4].tolist() == [[True, False], [True, True], [False, False]]
    np.testing.assert_allclose(cost[1:].sum(axis=0), 39 * TICK_S / 3600 * 0.1 * lanes, rtol=0.01)
