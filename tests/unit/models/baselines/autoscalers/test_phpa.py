"""The predictive horizontal pod autoscaler's models, and what it makes of them."""

import numpy as np
import pytest

from models.baselines.autoscalers.phpa import HoltWinters, LinearRegression, PredictiveHorizontalPodAutoscaler
from tests.unit.models.baselines.autoscalers.fleet import One, facts_of


def one(x: float) -> np.ndarray:
    return np.array([[x]])


def test_linear_regression_reads_the_least_squares_line_ahead():
    model = LinearRegression(ahead=2, stored=3)
    assert np.isnan(model.step(one(1.0))).all()
    assert model.step(one(2.0))[0, 0] == pytest.approx(4.0)  # 1, 2: two on is 4
    # 1, 2, 6 at −2, −1, 0: slope (1 × −1 + 6 × 1) / 2 = 2.5, mean 3 at −1; at 2 it is 3 + 3 × 2.5
    assert model.step(one(6.0))[0, 0] == pytest.approx(10.5)
    # the oldest is forgotten: 2, 6, 7: slope 2.5, mean 5: 12.5
    assert model.step(one(7.0))[0, 0] == pytest.approx(12.5)


def test_holt_winters_follows_its_equations():
    model = HoltWinters(2, alpha=0.5, beta=0.5, gamma=0.5)
    model.step(one(1.0))
    model.step(one(3.0))  # level 2, trend 0, season −1 and 1
    model.step(one(3.0))
    # level 0.5 (3 + 1) + 0.5 × 2 = 3, trend 0.5 × 1 = 0.5, season 0.5 (3 − 2) − 0.5 = 0
    assert (model._level[0, 0], model._trend[0, 0], model._season[0][0, 0]) == (3.0, 0.5, 0.0)
    model.step(one(5.0))
    # before 3.5; level 0.5 (5 − 1) + 1.75 = 3.75; trend 0.5 × 0.75 + 0.25; season 0.5 (5 − 3.5) + 0.5
    assert (model._level[0, 0], model._trend[0, 0], model._season[1][0, 0]) == (3.75, 0.625, 1.25)


def test_holt_winters_speaks_after_ten_observations_and_a_season_and_knows_the_season():
    model = HoltWinters(4)
    answers = [float(model.step(one(x))[0, 0]) for x in [1.0, 1.0, 1.0, 9.0] * 5]
    assert np.isnan(answers[:13]).all()  # 10 + 2 × (4 // 2) = 14
    assert answers[14:18] == pytest.approx([9.0, 1.0, 1.0, 1.0])


def test_the_larger_of_the_hpa_and_the_model_is_asked_for():
    phpa = One(
        lambda facts, targets: PredictiveHorizontalPodAutoscaler(facts, targets, LinearRegression(ahead=2)),
        0.5,
    )
    assert phpa.decide(1.0, 2) == 2
    assert phpa.decide(2.0, 2) == 8  # the HPA's 2, then 4: two intervals on 8
    assert phpa.decide(2.0, 8) == 7  # 2, 4, 4: slope 1, mean 10/3, three from the middle 6.3; the HPA's 4


def test_rows_before_the_first_decision_are_its_history():
    load = np.tile([1.0, 1.0, 1.0, 4.0], 6)
    facts = facts_of(load, tick_s=21_600)  # four ticks a day
    policy = PredictiveHorizontalPodAutoscaler(facts, np.array([0.5]), HoltWinters(4))
    assert policy.decide(22, np.array([[5]])).tolist() == [[8]]  # the next tick of the day needs 4 / 0.5
