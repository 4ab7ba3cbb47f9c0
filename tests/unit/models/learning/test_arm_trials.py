"""Arms whose worth is known: what the gate is measured on."""

import numpy as np

from models.learning import arm_trials
from models.learning.app_learner import ARMS
from models.learning.arm_trials import DAY, Tried, identical, saving
from models.purchase.table import Tiers


def test_identical_arms_are_not_equal_and_none_is_proved() -> None:
    of = identical(1, 3, {})
    assert of.spent.shape == (3 * DAY, len(ARMS))
    assert (of.spent[DAY:, 0] != of.spent[DAY:, 1]).any()
    assert abs(of.saving(1)) < 0.03
    assert of.proved() is None


def test_an_arm_that_saves_comes_into_force_within_a_week_and_a_trojan_is_taken_back() -> None:
    tables: dict[float, Tiers] = {}
    of = saving(2, 9, tables)
    assert 0.03 < of.saving(1) < 0.06
    begun = of.begun()
    assert begun is not None
    assert begun <= 7
    trojan = arm_trials.trojan(2, 13, -1.0, tables)
    assert trojan is not None
    assert trojan.ticks is not None
    assert trojan.ticks < DAY
    assert trojan.lost < 0.01
    assert trojan.worse > 0.1


def test_days_are_counted_from_the_first_tick() -> None:
    evidence = np.zeros((3 * DAY, 4))
    evidence[2 * DAY :, 3] = 1e3
    in_force = np.zeros(3 * DAY, np.int64)
    of = Tried(in_force, evidence, evidence, evidence, ())
    assert (of.proved(), of.begun()) == (2, None)
