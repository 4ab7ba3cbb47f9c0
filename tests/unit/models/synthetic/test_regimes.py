import numpy as np
import pytest

from models.metrics import DAY_S
from models.synthetic.regimes import BURSTY, PLAIN, SHIFTS, demand

TICK_S = 300
DAY = DAY_S // TICK_S


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_changes_nothing_before_it(name: str) -> None:
    shift = SHIFTS[name]
    whole = demand([(shift.before, 2 * DAY), (shift.after, DAY)], TICK_S, 3)
    np.testing.assert_array_equal(whole[: 2 * DAY], demand([(shift.before, 2 * DAY)], TICK_S, 3))
    assert (whole[2 * DAY :] != demand([(shift.before, 3 * DAY)], TICK_S, 3)[2 * DAY :]).any() == (
        name != "startup_x2"
    )


def test_demand_has_its_level_jobs_and_bursts() -> None:
    plain, tripled = (demand([(of, 20 * DAY)], TICK_S, 1) for of in (PLAIN, SHIFTS["level_x3"].after))
    np.testing.assert_allclose(tripled, 3 * plain)
    assert np.exp(np.log(plain).mean()) == pytest.approx(PLAIN.level * 1.6 ** (1 / 12), rel=0.02)
    later = demand([(SHIFTS["job_moves_15_min"].after, 20 * DAY)], TICK_S, 1)
    ratio = (later / plain)[: DAY // 4]
    assert np.flatnonzero(ratio < 0.9).tolist() == [0, 1, 2]
    assert np.flatnonzero(ratio > 1.1).tolist() == [6, 7, 8]
    bursts = demand([(BURSTY, 20 * DAY)], TICK_S, 1) / plain
    assert 0.05 < (bursts > 1.2).mean() < 0.2
