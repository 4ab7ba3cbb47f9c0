import numpy as np
import pytest

from models.synthetic.machines import machines


def test_equal_seeds_give_equal_machines() -> None:
    a, b, c = (machines(seed=seed, users=3, ticks=400, tick_s=60) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (400, 3, 5)
    assert a.dtype == np.float32
    assert (a != c).any()


@pytest.mark.parametrize("tick_s", [10, 60, 300])
def test_machines_are_of_many_kinds(tick_s: int) -> None:
    values = machines(seed=0, users=60, ticks=3000, tick_s=tick_s)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    repeats = (np.diff(values, axis=0) == 0).mean(0)
    zeros = (values == 0).mean(0)
    change = np.abs(np.diff(values, axis=0)).mean(0) / (values.mean(0) + 1e-9)
    assert (repeats > 0.9).any()
    assert (repeats < 0.01).any()
    assert ((zeros > 0.2) & (zeros < 0.9)).any()
    # calm and wild ones: mean change per tick from a hundredth to half of the level
    assert np.quantile(change, 0.1) < 0.1
    assert np.quantile(change, 0.9) > 0.3


def test_what_is_scheduled_recurs() -> None:
    """Over many machines the change of an hour ago says more of a change than that of 50 minutes ago."""
    values = machines(seed=3, users=80, ticks=2016, tick_s=300).astype(np.float64)
    change = np.diff(values, axis=0)
    change /= change.std(0) + 1e-12

    def recurs(lag: int) -> float:
        return float((change[lag:] * change[:-lag]).mean())

    assert recurs(12) > recurs(10) + 0.02
