"""Users who fell silent: lost telemetry is planned for, what others took over is not."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.demand import turnover
from models.demand.turnover import Turnover
from models.metrics import METRICS

MINUTE_S = 60


def levels(silent: float, went: float = 0.0, came: float = 0.0) -> Turnover:
    return Turnover(*(np.full(len(METRICS), level) for level in (silent, went, came)))


def after(*ticks: Turnover, usage: Sequence[float] = (), tick_s: int = MINUTE_S) -> turnover.State:
    """State after ticks of this usage; 6 where none is given."""
    state = turnover.initial_state()
    for users, used in zip(ticks, usage or [6.0] * len(ticks), strict=True):
        state = turnover.observe(state, users, np.full(len(METRICS), used), tick_s)
    return state


def test_lost_telemetry_is_hidden_demand_as_long_as_its_users_are_forecast():
    lost = [levels(6.0, went=6.0), *[levels(6.0)] * 13]
    assert after(*lost)["hidden"] == pytest.approx(6)
    assert turnover.left(after(*lost), levels(6.0)) == 1
    assert turnover.share(after(*lost), levels(6.0), np.full(5, 4.0)) == pytest.approx(1)
    assert after(*lost, levels(0.0))["hidden"] == pytest.approx(0)


def test_a_rename_leaves_nothing_of_the_old_users():
    state = after(levels(6.0, went=6.0, came=6.0))
    assert state["hidden"] == pytest.approx(0)
    assert turnover.left(state, levels(6.0)) == 0
    assert turnover.share(state, levels(6.0), np.full(5, 6.0)) == pytest.approx(0.5)


@pytest.mark.parametrize("gap", [1, 4, 10])
def test_a_rename_after_a_gap_leaves_nothing_of_the_old_users(gap: int):
    """All pods of an app end before the new ones begin; of a new app all users come, which is credit for nobody."""
    lost = [levels(6.0, went=6.0), *[levels(6.0)] * (gap - 1)]
    state = after(levels(0.0, came=6.0), *lost, usage=[6.0, *[0.0] * gap])
    assert state["hidden"] == pytest.approx(6)
    state = after(levels(0.0, came=6.0), *lost, levels(6.0, came=6.0), usage=[6.0, *[0.0] * gap, 6.0])
    assert state["hidden"] == pytest.approx(0)
    assert state["credit"] == pytest.approx(0)


def test_a_rollout_with_a_surge_leaves_little_of_the_old_users():
    """Six new users share the load of six old ones for three minutes."""
    state = after(levels(0.0), levels(0.0, came=3.0), levels(0.0), levels(0.0), levels(3.0, went=3.0))
    assert (state["hidden"] < 3 * 0.1).all()
    assert (state["credit"] == 0).all()


@pytest.mark.parametrize("minutes", [1, 4, 60])
def test_growth_replaces_nobody_who_falls_silent_later(minutes: int):
    """From 10 to 15 cores, of which 5 fall silent: they are the app's until others come."""
    ticks = [levels(0.0), levels(0.0, came=5.0), *[levels(0.0)] * (minutes - 1), levels(5.0, went=5.0)]
    state = after(*ticks, usage=[10.0, *[15.0] * minutes, 10.0])
    assert state["hidden"] == pytest.approx(5)
    assert turnover.left(state, levels(5.0)) == 1


def test_users_who_come_back_with_more_replace_nobody():
    """Five of ten cores fall silent and come back as ten; then those who stayed fall silent."""
    gone = [levels(0.0), levels(5.0, went=5.0), levels(5.0), levels(0.0, came=10.0), levels(5.0, went=5.0)]
    assert after(*gone, usage=[10.0, 5.0, 5.0, 15.0, 10.0])["hidden"] == pytest.approx(5)


@given(st.floats(1, 1e6), st.floats(0, 1e6), st.floats(0, 1), st.integers(1, 30))
def test_who_comes_is_growth_as_far_as_the_whole_rises(old: float, came: float, part: float, minutes: int):
    """What came beside the rise may have replaced others, the rise replaced nobody; a tick's part is forgotten."""
    rise = part * came
    ticks = [levels(0.0), levels(0.0, came=came), *[levels(0.0)] * minutes, levels(old, went=old)]
    state = after(*ticks, usage=[old, *[old + rise] * (minutes + 1), rise])
    least = (old - (came - rise)) * (1 - 1 / turnover.silent_ticks(MINUTE_S))
    assert (state["hidden"] >= least - 1e-6 * (old + came)).all()


def test_pods_of_six_minutes_leave_no_hidden_demand_for_days():
    rng, ticks = np.random.default_rng(0), list[Turnover]()
    for _ in range(3_000):
        went, came = 1 + 0.1 * rng.standard_normal(2)
        ticks.append(levels(15.0, went=went, came=came))
    state = after(*ticks)
    assert (state["hidden"] < 1.5).all()


def test_half_replaced_and_half_lost_is_half_hidden():
    state = after(levels(6.0, went=6.0, came=3.0))
    assert state["hidden"] == pytest.approx(3, rel=0.05)
    assert turnover.left(state, levels(6.0)) == pytest.approx(0.5, rel=0.05)


def test_one_metric_that_is_hidden_keeps_its_users():
    users = Turnover(*(np.array(level) for level in ([6.0] * 5, [6.0] * 5, [6.0, 0.0, 6.0, 6.0, 6.0])))
    assert turnover.left(after(users), users) == 1


def test_scenarios_of_fewer_users_have_their_mean_and_the_root_of_the_share_in_width():
    demand = np.random.default_rng(0).normal(100, 1, (4_096, 6, 2)).astype(np.float32)
    fewer = turnover.lessened(demand, np.array([0.25, 1.0]))
    assert fewer[..., 0].mean() == pytest.approx(25, rel=1e-3)
    assert fewer[..., 0].std() == pytest.approx(0.5, rel=0.05)
    assert np.array_equal(fewer[..., 1], demand[..., 1])
    assert turnover.lessened(demand, np.ones(2)) is demand


@given(
    st.lists(st.tuples(*[st.floats(0, 1e12)] * 4), min_size=1, max_size=20),
    st.sampled_from([1, 10, 60, 300, 3_600]),
)
def test_hidden_demand_is_never_more_than_silent_users_had(flow: list[tuple[float, ...]], tick_s: int):
    state = turnover.initial_state()
    for silent, went, came, used in flow:
        users = levels(silent, went, came)
        state = turnover.observe(state, users, np.full(len(METRICS), used), tick_s)
        assert (state["hidden"] >= 0).all()
        assert (state["hidden"] <= users.silent).all()
        assert (state["credit"] >= 0).all()
        share = turnover.share(state, users, np.full(5, 3.0))
        assert ((share >= 0) & (share <= 1)).all()
        assert 0 <= turnover.left(state, users) <= 1


@pytest.mark.parametrize(("tick_s", "ticks"), [(1, 900), (10, 90), (60, 15), (300, 3), (3_600, 3)])
def test_silence_is_fifteen_minutes_and_three_ticks(tick_s: int, ticks: int):
    assert turnover.silent_ticks(tick_s) == ticks
