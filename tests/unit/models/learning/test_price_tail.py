"""The tail of critical prices: interpolation between lanes, fading, posterior and quantile."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.learning import price_tail
from models.learning.price_tail import GRID, LOG_PRICES, PRICES


def lanes(*, first: int = 0, step: int = 1) -> np.ndarray:
    return first + step * np.arange(len(PRICES), dtype=float)


def test_a_need_between_two_lanes_is_between_their_prices() -> None:
    ready = lanes(step=2)
    assert price_tail.critical_price(ready, 4) == LOG_PRICES[2]
    assert price_tail.critical_price(ready, 5) == pytest.approx((LOG_PRICES[2] + LOG_PRICES[3]) / 2)


def test_what_every_lane_serves_is_below_the_grid_and_what_none_serves_above_it() -> None:
    assert price_tail.critical_price(lanes(first=5), 5) < GRID[0]
    assert price_tail.critical_price(lanes(), 1e9) > GRID[-1]


@given(st.lists(st.integers(0, 60), min_size=len(PRICES), max_size=len(PRICES)), st.floats(0, 70))
def test_the_critical_price_lies_between_lanes_that_serve_and_lanes_that_do_not(
    ready: list[int], need: float
) -> None:
    rising = np.sort(np.array(ready, float))
    critical = price_tail.critical_price(rising, need)
    enough = LOG_PRICES[rising >= need]
    short = LOG_PRICES[rising < need]
    assert not enough.size or critical <= enough[0]
    assert not short.size or critical >= short[-1]


def test_without_a_tick_the_prior_decides() -> None:
    share = price_tail.posterior(price_tail.initial(), price_tail.PRIOR, 300)
    assert np.exp(price_tail.log_price(share, 0.01)) == pytest.approx(price_tail.PRIOR_PRICE, rel=1e-3)


def test_with_many_ticks_it_is_their_quantile() -> None:
    rng = np.random.default_rng(1)
    tail, drawn = price_tail.initial(), rng.normal(4, 0.6, 20_000)
    for critical in drawn:
        tail = price_tail.observe(tail, critical, 1.0)
    share = price_tail.posterior(tail, price_tail.PRIOR, 300)
    assert price_tail.log_price(share, 0.05) == pytest.approx(np.quantile(drawn, 0.95), abs=0.03)


def test_old_ticks_fade_by_half_in_the_half_life() -> None:
    tail = price_tail.observe(price_tail.initial(), 9.0, 1.0)
    for _ in range(100):
        tail = price_tail.observe(tail, 0.0, 0.5 ** (1 / 100))
    assert tail["above"][0] == pytest.approx(0.5)
