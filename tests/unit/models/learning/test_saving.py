"""The saving of whole days, and how often its interval holds."""

import numpy as np
import pytest

from models.learning.saving import Saving


def of_days(ours: list[float], static: list[float]) -> Saving:
    saving = Saving()
    for a, b in zip(ours, static, strict=True):
        saving = saving.after(a, b)
    return saving


def test_the_share_is_of_all_days_together_and_an_idle_day_does_not_count() -> None:
    saving = of_days([90.0, 0.0, 5.0], [100.0, 0.0, 10.0])
    assert saving.days == 2
    assert saving.share == pytest.approx(15 / 110)
    assert Saving().share is None
    assert of_days([9.0], [10.0]).interval is None


def test_equal_ratios_leave_no_doubt() -> None:
    low, high = of_days([90.0, 45.0, 9.0], [100.0, 50.0, 10.0]).interval or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.1, abs=1e-6), pytest.approx(0.1, abs=1e-6))


@pytest.mark.parametrize("days", [5, 20])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(days: int) -> None:
    draw = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        static = draw.uniform(80, 120, days)
        ours = 0.95 * static + draw.normal(0, 4, days)
        low, high = of_days(ours.tolist(), static.tolist()).interval or (1.0, 0.0)
        held += low <= 0.05 <= high
    assert 0.91 < held / 400 < 0.985
