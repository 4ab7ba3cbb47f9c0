"""Trials of regime shifts: forecasts are causal, what is right again is found, and a job that moves costs."""

import numpy as np
import pytest

from models.learning.plain_plans import Forecaster
from models.learning.recovery import DAY, TICK_S, Outcome, Trial, recoveries, until_right
from models.synthetic.regimes import PLAIN, demand


def test_forecasts_know_the_time_of_day_and_nothing_later() -> None:
    series = demand([(PLAIN, 4 * DAY)], TICK_S, 2)
    one, other = Forecaster(TICK_S), Forecaster(TICK_S)
    errors: list[float] = []
    for tick, value in enumerate(series[:-6]):
        made = one.scenarios(float(value))
        if tick < 3 * DAY:
            np.testing.assert_array_equal(made, other.scenarios(float(value)))
        elif tick % 7 == 0:
            errors.append(float(np.log(np.median(made[:, 5]) / series[tick + 6])))
    other.scenarios(10 * float(series[3 * DAY]))
    assert len(one.values) == len(one.centres) <= one.kept + 6
    assert np.std(errors) < 0.2  # demand itself moves by 0.28 around its mean


def test_right_again_is_when_a_whole_day_is_neither_dear_nor_missed() -> None:
    missed, due = np.zeros(4 * DAY, bool), np.ones(4 * DAY)
    assert until_right(missed, due, due, 0.01) == DAY
    assert until_right(missed, 1.06 * due, due, 0.01) is None
    dear = np.where(np.arange(4 * DAY) < DAY, 1.1, 1.0)
    assert until_right(missed, dear, due, 0.01) == DAY + DAY // 2
    missed[: DAY // 2 : 10] = True  # 15, of which 7 may be left in a day; the eighth is in tick 70
    assert until_right(missed, due, due, 0.01) == DAY + 71
    assert until_right(missed[: DAY - 1], due[: DAY - 1], due[: DAY - 1], 0.01) is None


def test_the_best_fixed_setting_misses_no_more_than_is_allowed() -> None:
    need = np.full(DAY, 10.0)
    ready = np.stack([np.full(DAY, 9.0), np.where(np.arange(DAY) < 2, 9.0, 10.0), np.full(DAY, 12.0)], 1)
    lanes = np.array(ready[:, None, :])
    none = np.zeros((DAY, 2))
    outcome = Outcome(need, none, none + 3, lanes, lanes / 10, ())
    assert outcome.cost_by_demand(0.01) == pytest.approx(((DAY - 0.2) / (10 * DAY), 0.3))
    assert outcome.cost_by_demand(0.0) == pytest.approx((0.12, 0.3))


def test_a_copied_trial_goes_on_as_the_trial_does() -> None:
    series = demand([(PLAIN, 2 * DAY)], TICK_S, 4)
    whole = Trial(4, 1.0, {})
    first = whole.run(series[: DAY + 30], DAY)
    assert len(first.need) == 30
    other = whole.copied()
    one, two = (trial.run(series[DAY + 30 : DAY + 60]) for trial in (whole, other))
    np.testing.assert_array_equal(one.ready, two.ready)
    np.testing.assert_array_equal(one.lanes_cost, two.lanes_cost)
    assert whole.learner.fleets.tables[0][0] is other.learner.fleets.tables[0][0]


def test_a_shift_is_judged_from_its_first_tick() -> None:
    of = recoveries(0, ("job_moves_15_min",), 1, 1, {})["job_moves_15_min"]
    assert of.ticks[0] in (None, DAY)
    assert 0.9 < of.realised[0] <= 1
    assert 0.9 < of.cost_ratio[1] < 2
