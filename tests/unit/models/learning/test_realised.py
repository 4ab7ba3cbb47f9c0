"""Shares of time and of plans that were kept."""

import math

import pytest

from models.learning.realised import Realised, Tally

TICK_S = 300
NAN = math.nan


def test_time_is_counted_where_need_and_capacity_are_known() -> None:
    realised = Realised()
    for tick, (need, ready) in enumerate([(3.0, 3.0), (3.1, 3.0), (NAN, 3.0), (3.0, NAN), (2.0, 9.0)]):
        realised.observe(tick, TICK_S, need, ready)
    assert (realised.time.kept, realised.time.known, realised.time.share) == (2, 3, pytest.approx(2 / 3))
    assert realised.plans.share is None


@pytest.mark.parametrize(
    ("needs", "counted"),
    [
        ({11: 4.0, 12: 5.0}, (1, 1)),
        ({11: 4.1, 12: 5.0}, (0, 1)),
        ({11: 4.0, 12: 5.1}, (0, 1)),  # the second step alone
        ({11: 4.0}, (0, 0)),  # its window has not passed
        ({11: NAN, 12: 9.0}, (0, 0)),  # not judged: the demand of a step is not known
        ({12: 9.0}, (0, 0)),  # nor where a tick has no plan
    ],
)
def test_a_plan_is_kept_where_it_sufficed_in_every_step(
    needs: dict[int, float], counted: tuple[int, int]
) -> None:
    realised = Realised()
    realised.promise({11: 4, 12: 5})
    for tick, need in needs.items():
        realised = Realised.of(realised.stored())
        realised.observe(tick, TICK_S, need, NAN)
    assert (realised.plans.kept, realised.plans.known) == counted
    assert bool(realised.pending) == (12 not in needs)


def test_a_plan_that_promises_nothing_is_not_judged() -> None:
    realised = Realised()
    realised.promise({})
    assert realised.pending == []


def test_the_last_day_forgets_what_is_older() -> None:
    tally = Tally()
    for hour in range(48):
        tally.add(hour >= 20, hour * 3600)
    assert tally.share == pytest.approx(28 / 48)
    assert tally.of_day(47 * 3600 + 3599) == 1.0
    assert len(tally.hours) == 24
    assert tally.of_day(43 * 3600) == pytest.approx(1.0)
    assert tally.of_day(80 * 3600) is None
