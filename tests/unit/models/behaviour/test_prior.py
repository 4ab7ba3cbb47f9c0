from typing import Any

import numpy as np
import pytest

from models.behaviour.prior import dependence, normal_scores, prior
from tests.unit.models.normal import Normal


def test_normal_scores_are_standard_units_of_the_error() -> None:
    values = np.full((20, 1, 5), np.nan, np.float32)
    values[:, 0, 0] = 10 + np.linspace(-2, 2, 20)
    saturated = np.zeros(values.shape, bool)
    saturated[15] = True
    events = np.full((20, 1, 4), np.nan, np.float32)
    model: Any = Normal()
    scores, _ = normal_scores(model, values, events, saturated, first_tick=0, tick_s=300, score_from=8)
    assert scores.shape == (12, 1, 5, 6)
    # the forecast of row 8 + t for three ticks ahead is compared with row 11 + t
    np.testing.assert_allclose(scores[:4, 0, 0, 2], values[11:15, 0, 0] - 10, atol=2e-3)
    assert np.isnan(scores[4, 0, 0, 2])  # saturated
    assert np.isnan(scores[9:, 0, 0, 2]).all()  # beyond the end
    assert np.isnan(scores[:, :, 1:]).all()


def test_dependence_of_scores_is_estimated() -> None:
    rng = np.random.default_rng(2)
    ticks, users = 4000, 4
    mixed = np.linalg.cholesky(np.array([[1, 0.6], [0.6, 1]]))

    def draw(n: int) -> Any:
        """(tick, n, 2 metrics, 6 steps) with AR(1) of 0.5 over steps."""
        noise = rng.standard_normal((ticks, n, 2, 6))
        for k in range(1, 6):
            noise[..., k] = 0.5 * noise[..., k - 1] + np.sqrt(0.75) * noise[..., k]
        return np.einsum("ab,tnbk->tnak", mixed, noise)

    scores = np.full((ticks, users, 5, 6), np.nan, np.float32)
    scores[:, :, :2] = np.sqrt(0.3) * draw(1) + np.sqrt(0.7) * draw(users)
    found = dependence([scores])
    # standard error of a correlation of 4,000 ticks is 0.016; means of many are within 0.03
    np.testing.assert_allclose(
        found.shared, 0.3, atol=0.03
    )  # of the metrics without data: the mean of the others
    assert found.metric_correlation[0, 1] == pytest.approx(0.6, abs=0.03)
    assert found.step_correlation == pytest.approx(0.5, abs=0.03)
    assert np.linalg.eigvalsh(found.metric_correlation).min() >= 0
    np.testing.assert_allclose(np.diag(found.metric_correlation), 1)


def test_dependence_without_data_is_independence() -> None:
    found = dependence([])
    assert found.shared.tolist() == [0] * 5
    np.testing.assert_allclose(found.metric_correlation, np.eye(5))
    assert found.step_correlation == 0


def test_a_prior_is_the_mean_of_what_was_learnt_from_enough() -> None:
    state: Any = {
        "seen": np.array([[500, 0, 0, 0, 0], [500, 500, 0, 0, 199]], np.float32),
        "shift": np.zeros((2, 3, 5, 3), np.int16),
        "odds": np.zeros((2, 3, 5), np.float32),
    }
    state["shift"][0, 1, 0] = [30, 60, 90]
    state["shift"][1, :, 4] = 1000  # of too few samples
    state["odds"][1, 2, 1] = 0.6
    found = prior([state])
    # over three pairs of user and metric
    np.testing.assert_allclose(found["shift"][:, 0], [[0, 0, 0], [10, 20, 30], [0, 0, 0]])
    np.testing.assert_allclose(found["odds"], [[0], [0], [0.2]])
    assert prior([]) == {}
