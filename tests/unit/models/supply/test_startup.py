import math

import numpy as np
import pytest

from models.random_streams import stream
from models.supply.startup import Interval, Stated, posterior, provider_shift

STATED = Stated(60.0, 150.0)


def seen(median_s: float, sigma: float, launches: int, tick_s: float = 10.0) -> list[Interval]:
    took = median_s * np.exp(sigma * stream(np, "launches", launches).standard_normal(launches))
    return [(math.floor(t / tick_s) * tick_s, math.floor(t / tick_s) * tick_s + tick_s, 1.0) for t in took]


def test_without_launches_what_is_stated_is_the_median() -> None:
    nothing = posterior(STATED, [])
    assert nothing.p50_s == pytest.approx(60.0, rel=0.02)
    low_s, high_s = nothing.interval()
    assert low_s < 75 < 150 < 300 < high_s


def test_many_launches_overrule_what_is_stated() -> None:
    learnt = posterior(STATED, seen(140.0, 0.4, 150))
    assert learnt.p50_s == pytest.approx(140.0, rel=0.08)
    low_s, high_s = learnt.interval()
    assert low_s < 140 * math.exp(2.326 * 0.4) < high_s < 1.4 * low_s


def test_launches_that_do_not_come_count() -> None:
    came = seen(60.0, 0.3, 10)
    waited = [*came, (900.0, math.inf, 3.0)]
    assert posterior(STATED, waited).p99_s > 2 * posterior(STATED, came).p99_s


def test_long_ticks_that_hide_the_start_leave_what_is_stated() -> None:
    hidden = posterior(STATED, [(0.0, 300.0, 50.0)])
    low_s, high_s = hidden.interval()
    assert low_s < 150 < high_s


def test_a_relaunch_is_no_slow_start() -> None:
    came = [(50.0, 70.0, 19.0), (170.0, 190.0, 1.0)]
    assert posterior(Stated(60, 70, 0.05), came).p99_s < 0.75 * posterior(Stated(60, 70), came).p99_s


def test_an_offer_without_launches_is_as_slow_as_its_provider() -> None:
    others = [(STATED, seen(140.0, 0.4, 40)), (Stated(100.0, 200.0), seen(230.0, 0.3, 40))]
    shift, spread = provider_shift(others)
    assert shift == pytest.approx(math.log(2.3), abs=0.25)
    assert spread < 0.5
    assert posterior(STATED, [], (shift, spread)).p50_s > 110
    assert provider_shift([(STATED, [])]) == (0.0, 0.7)
