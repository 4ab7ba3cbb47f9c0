import numpy as np
import pytest

from models.evaluation.forecast_scores import Scores
from models.learning import model_gate


def scores(crps: list[float], zero_user: float = 0.0) -> Scores:
    """Days of two users with these CRPS; of the second user all values are 0."""
    made = Scores.zeros(["u", "idle"], len(crps), [])
    made.sum_y[:, 0] = 100.0
    made.model.crps[:, 0] = np.array(crps)[:, None, None]
    made.model.crps[:, 1] = zero_user
    return made


def test_a_model_that_is_better_every_day_is_proved_in_six() -> None:
    each = [model_gate.judged(scores([9.7] * days), scores([10.0] * days, 5.0)) for days in range(8)]
    assert [of.days for of in each] == list(range(8))
    assert [of.promoted for of in each] == [False] * 5 + [True] * 3
    assert each[7].crps_ratio == pytest.approx(0.97, rel=1e-5)
    assert each[0].crps_ratio == 1.0


@pytest.mark.parametrize("ratio", [1.0, 1.01, 1.3])
def test_one_that_is_no_better_is_not(ratio: float) -> None:
    of = model_gate.judged(scores([10.0 * ratio] * 60), scores([10.0] * 60))
    assert (of.promoted, of.days) == (False, 60)
    assert of.facts()["promoted"] is False


def test_two_alike_are_told_apart_in_few_of_many_trials() -> None:
    rng = np.random.default_rng(2)

    def promoted() -> bool:
        noise = np.exp(0.03 * rng.standard_normal((2, 14))) * 10
        return model_gate.judged(*(scores(of.tolist()) for of in noise)).promoted

    assert np.mean([promoted() for _ in range(400)]) <= 0.05
