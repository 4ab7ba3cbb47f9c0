"""Episodes: rivals are judged alike, on what they chose two ticks before."""

import dataclasses

import numpy as np
import pytest

from models.learning import rivals
from models.learning.app_learner import ARMS, Observation, Setting
from models.learning.episodes import (
    STATIC,
    Arena,
    Episode,
    Fixed,
    Frontier,
    Judged,
    Ours,
    Seen,
    SevenDayBest,
    arena,
    curves,
    judged,
    of_series,
)
from models.learning.price_tail import PRICES
from models.learning.recovery import DAY, OFFER, POLICY, TICK_S, offers
from models.synthetic.regimes import PLAIN, demand

TICKS = 2 * DAY


def episode(scored: int = 0) -> Episode:
    """Static wants 50, arms 10 at the first price to 49 at the last; demand is 20, and 40 in every twentieth tick."""
    wanted = np.tile(np.linspace(10, 49, len(PRICES)).astype(np.int64), (len(ARMS), 1))
    curve = np.array([curves((50, 50), wanted, np.zeros_like(wanted))] * TICKS, np.int64)
    need = np.where(np.arange(TICKS) % 20 == 19, 40.0, 20.0)
    hold = dataclasses.replace(POLICY, hold_s=0.0)
    return Episode("trial", [OFFER], hold, {}, TICK_S, 0, 0, need, curve[:, 0], curve[:, 1], scored)


@pytest.fixture(scope="module")
def whole() -> Arena:
    return arena(episode())


class Last:
    """Wants the first price until a row, then the last."""

    def __init__(self, row: int) -> None:
        self.row = row

    def choose(self, now: Observation, seen: Seen) -> Setting:
        return Setting(0, float(PRICES[-1 if seen.row >= self.row else 0]), "")


def test_fixed_settings_miss_what_they_lack(whole: Arena) -> None:
    missed = whole.lanes.missed(whole.episode)[2:]
    assert not missed[:, 0].any()
    assert missed[:, 1, 0].all()
    assert missed[:, 1, 8].mean() == pytest.approx(0.05, abs=0.002)
    np.testing.assert_array_equal(whole.lanes.cost[:, 1], whole.lanes.cost[:, 2])


def test_static_is_its_own_lane_and_a_choice_serves_three_ticks_later(whole: Arena) -> None:
    static = judged(whole, Fixed())
    assert (static.misses, static.realised) == (0, 1.0)
    assert static.cost == pytest.approx(whole.lanes.cost[1:, 0, 0].sum(), rel=1e-5)
    assert judged(whole, Last(100)).misses == pytest.approx(100, abs=3)


def test_the_best_of_seven_days_is_the_cheapest_that_does_not_miss(whole: Arena) -> None:
    rival, later = SevenDayBest(whole.episode), TICKS - 10
    of = judged(dataclasses.replace(whole, episode=dataclasses.replace(whole.episode, scored=later)), rival)
    assert (of.misses, of.ticks) == (0, 10)
    assert of.cost == pytest.approx(whole.lanes.cost[later:, 1, 10].sum(), rel=1e-5)


def test_a_rival_is_moved_along_the_frontier(whole: Arena) -> None:
    frontier = Frontier(whole)
    cost = whole.lanes.cost[:, 1].sum(axis=0)
    assert frontier.at(0.0) == pytest.approx(cost[10], rel=1e-4)
    assert frontier.at(1.0) == pytest.approx(cost[0], rel=1e-4)
    assert frontier.cost_at(Judged(2 * float(cost[10]), 0, TICKS), 0.0) == pytest.approx(
        2 * cost[10], rel=1e-4
    )


def test_what_is_not_known_is_not_judged(whole: Arena) -> None:
    need = whole.episode.need.copy()
    need[::2] = np.nan
    of = judged(dataclasses.replace(whole, episode=dataclasses.replace(whole.episode, need=need)), Fixed())
    assert of.ticks == TICKS // 2


def test_ours_is_the_learner(whole: Arena) -> None:
    of = judged(
        dataclasses.replace(whole, episode=dataclasses.replace(whole.episode, scored=DAY + 10)), Ours(whole)
    )
    assert of.cost < whole.lanes.cost[DAY + 10 :, 0, 0].sum()


def test_a_series_is_planned_from_its_second_day_on() -> None:
    of = of_series(demand([(PLAIN, DAY + 20)], TICK_S, 1), "trial", offers(1.0), POLICY, TICK_S)
    assert of.wanted.shape == of.soon.shape == (20, 1 + len(ARMS), len(PRICES))
    assert of.first_tick == DAY
    assert (np.diff(of.wanted[:, 1:], axis=2) >= 0).all()
    assert of.before().need.size == 0


def test_the_bandits_context_prices_misses_until_they_are_rare() -> None:
    context = rivals.Context(episode())
    lanes = np.ones((1 + len(ARMS), len(PRICES)))
    now = episode().observation(0)
    rewards = [context.after(now, Seen(0, True, True, 1.0, lanes, lanes > 1)) for _ in range(20)]
    assert rewards[-1] < rewards[0] < -1
    assert context.features(3).shape == (rivals.FEATURES,)
    assert np.isfinite(context.features(3)).all()
    calm = [context.after(now, Seen(0, False, True, 1.0, lanes, lanes > 1)) for _ in range(2)]
    assert calm == [-1.0, -1.0]
    assert rivals.CHOICES[0] == STATIC
