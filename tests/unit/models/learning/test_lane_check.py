import numpy as np
import pytest

from models.learning.lane_check import LaneCheck

TICK_S = 300
DAY = 288


def days(number: int, ready: float, lost: float, seed: int = 0) -> list[LaneCheck]:
    """Checks at the end of days: of a fleet of ten, at a need of eight, `ready` were there, none in a share `lost`."""
    rng, check, ended = np.random.default_rng(seed), LaneCheck(), list[LaneCheck]()
    for day in range(number):
        for gone in rng.random(DAY) < lost:
            if day >= check.frozen_until:
                check = check.after(10.0, 0.0 if gone else ready, 8.0)
        check = check.ended(day + 1, TICK_S)
        ended.append(check)
    return ended


def test_a_fleet_that_is_like_what_was_ready_is_never_frozen() -> None:
    for seed in range(20):
        assert all(check.frozen_until < 0 for check in days(60, 10.5, 0.004, seed))


@pytest.mark.parametrize(("ready", "lost"), [(8.5, 0.0), (12.0, 0.0), (10.0, 0.05)])
def test_one_that_is_not_is_frozen_for_twice_as_long_each_time(ready: float, lost: float) -> None:
    ends = [check.frozen_until for check in days(12, ready, lost)]
    assert ends[0] == 3  # the first day, and two more
    assert sorted({end for end in ends if end > 0})[:3] == [3, 8, 17]


def test_half_a_day_is_needed() -> None:
    check = LaneCheck()
    for _ in range(DAY // 2 - 1):
        check = check.after(10.0, 1.0, 8.0)
    assert check.fault(TICK_S) == ""
    assert check.after(10.0, 1.0, 8.0).fault(TICK_S).startswith("what was ready served other ticks")
