"""What is a crash loop and what is not, by counts of ready instances."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.capacity import Answer, Observed, Offer, Policy
from models.planning import delivery
from models.planning.crash_loops import ROLLING, Losses, Times

POLICY = Policy("shop", ("cpu",), {"cpu": 1.0}, mode="auto")
TIMES = st.sampled_from(
    [
        Times(lead_s, tick_s)
        for tick_s, lead_s in (
            (1, 5),
            (10, 0),
            (10, 10),
            (10, 120),
            (60, 10),
            (60, 600),
            (300, 10),
            (300, 600),
        )
    ]
)


class Cloud:
    """One offer, whose ready instances are given: what of it counts as served, tick by tick."""

    def __init__(self, times: Times, shows_pending: bool = True) -> None:
        self.times, self.shows_pending = times, shows_pending
        lead_s = times.lead_s
        self.offer = Offer(
            "o", "p", "r", "z", "ON_DEMAND", {"cpu": 2.0}, 0.1, lead_s / 2, lead_s * 0.8, lead_s
        )
        self.memory: dict[str, Any] = {}
        self.tick, self.running, self.set_by, self.answer = 0, 0, -1, None
        self.sent: list[int] = []

    def step(self, wanted: int, ready: int) -> tuple[int, delivery.Order]:
        """Of `wanted` instances, those that count as served, and the order of the offer."""
        tick_s, seen = self.times.tick_s, min(ready, self.running)
        observed = Observed(
            seen,
            self.running - seen if self.shows_pending else 0,
            generation=len(self.sent),
            at_s=self.tick * tick_s,
            set_by=self.set_by,
            answer=self.answer,
        )
        clock = delivery.Clock((self.tick + 1) * tick_s, self.tick, tick_s)
        followed = delivery.follow([self.offer], {"o": observed}, POLICY, self.memory, clock)
        issued, orders = followed.issued({"o": wanted})
        self.memory = json.loads(json.dumps(delivery.memory_of(orders)))
        if issued:
            self.sent.append(self.tick)
            self.running, self.set_by = wanted, self.tick
            self.answer = Answer(self.tick, "APPLIED", after=wanted, generation=len(self.sent))
        self.tick += 1
        return followed.served({"o": wanted})["o"], followed.orders["o"]


@settings(max_examples=40, deadline=None)
@given(TIMES, st.integers(1, 20), st.floats(0, 1), st.integers(1, 6), st.integers(1, 8), st.booleans())
def test_of_a_crash_loop_nothing_counts_after_the_second_loss(
    times: Times, wanted: int, part: float, up: int, down: int, shows_pending: bool
) -> None:
    """Where more crash than a rolling update takes at a time, or all, and none is up until it counts as replaced."""
    crash = max(min(wanted, max(1, wanted // ROLLING) + 1), round(part * wanted))
    up = min(up, int((times.calm_s - 1) // times.tick_s))
    down = min(down, max(1, int(5 * times.calm_s // times.tick_s)))
    cloud = Cloud(times, shows_pending)
    losses = 0
    states: list[str] = []
    for i in range(4):
        cloud.step(wanted, wanted if i else 0)
    for i in range(12 * (up + down)):
        lost = i % (up + down) >= up
        losses += i % (up + down) == up
        ready = wanted - crash if lost else wanted
        served, order = cloud.step(wanted, ready)
        if losses >= 2:
            assert served <= ready
            states.append(order.state)
    assert set(states) == {"unstable"}
    again = [s for s in cloud.sent if s > 3]
    assert len(again) >= 2
    assert len(again) <= 8 + 12 * (up + down) * times.tick_s / max(60.0, 2 * times.tick_s)


@pytest.mark.parametrize(("wanted", "crash"), [(3, 1), (2, 1), (10, 1), (10, 2), (8, 2)])
def test_a_loop_of_fewer_shows_once_more_were_lost_than_there_are(wanted: int, crash: int) -> None:
    cloud, losses = Cloud(Times(10.0, 10.0)), 0
    for i in range(4):
        cloud.step(wanted, wanted if i else 0)
    while True:
        cloud.step(wanted, wanted)
        losses += 1
        served, order = cloud.step(wanted, wanted - crash)
        if order.losses.loop:
            break
        assert served == wanted
        assert losses < 50
    # once more than a rolling update takes, and what is forgotten meanwhile
    assert wanted // crash + 1 <= losses <= wanted // crash + 2
    assert served == wanted - crash


def test_what_stays_up_for_a_start_up_time_counts_again_and_the_loop_ends() -> None:
    times = Times(30.0, 10.0)
    cloud = Cloud(times)
    for ready in (0, 3, 3, 0, 3, 0):
        cloud.step(3, ready)
    assert [cloud.step(3, 3)[0] for _ in range(5)] == [0, 0, 0, 3, 3]
    states = [cloud.step(3, 3)[1].state for _ in range(12)]
    assert (states[0], states[-1]) == ("unstable", "")
    assert states.count("unstable") * times.tick_s <= times.calm_s
    assert cloud.step(3, 0)[0] == 3  # a loss like any other


def test_what_was_left_in_a_loop_is_in_it_when_it_is_wanted_again() -> None:
    cloud = Cloud(Times(10.0, 10.0))
    for ready in (0, 3, 0, 3, 0):
        cloud.step(3, ready)
    for _ in range(60):  # six calms
        cloud.step(0, 0)
    cloud.step(3, 0)
    served, order = cloud.step(3, 0)
    assert (served, order.state) == (0, "unstable")
    assert [cloud.step(3, 3)[0] for _ in range(3)] == [0, 3, 3]
    assert cloud.step(3, 1)[0] == 1


def test_what_was_released_before_it_was_ready_is_no_release_that_is_still_to_come() -> None:
    cloud = Cloud(Times(10.0, 10.0))
    for wanted, ready in ((3, 0), (0, 0), (0, 0), (3, 0), (3, 3), (3, 0)):
        _, order = cloud.step(wanted, ready)
    assert (order.losses.away, order.losses.leaving) == (3, 0)


def test_an_offer_of_which_nothing_is_wanted_is_forgotten_in_the_end() -> None:
    cloud = Cloud(Times(10.0, 10.0))
    for i in range(40):
        cloud.step(3, 3 * (i % 2))
    for _ in range(210):  # `MEMORY` calms of 90 s, and some
        cloud.step(0, 0)
    cloud.step(3, 0)
    served, order = cloud.step(3, 0)
    assert (served, order.state) == (3, "")


NOT_LOOPS = st.lists(
    st.one_of(
        st.tuples(st.just("roll"), st.integers(1, 5), st.integers(1, 4)),
        st.tuples(st.just("lose"), st.integers(1, 20), st.integers(1, 12)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(TIMES, st.integers(1, 20), NOT_LOOPS, st.booleans())
def test_replacements_and_rolling_updates_are_no_crash_loop(
    times: Times, wanted: int, episodes: list[tuple[str, int, int]], shows_pending: bool
) -> None:
    cloud = Cloud(times, shows_pending)
    pause = [wanted] * (int(times.calm_s // times.tick_s) + 1)
    readies = [0, *pause]
    for kind, some, long in episodes:
        batch = min(some, max(1, wanted // ROLLING)) if kind == "roll" else min(some, wanted)
        if kind == "roll":
            for first in range(0, wanted, batch):
                readies += [wanted - min(batch, wanted - first)] * long + [wanted]
        else:
            readies += [wanted - batch] * long
        readies += pause
    for ready in readies:
        _, order = cloud.step(wanted, ready)
        assert not order.losses.loop
        assert order.state in ("", "late")


@settings(max_examples=40, deadline=None)
@given(
    TIMES,
    st.lists(st.tuples(st.integers(0, 20), st.integers(4, 8)), min_size=2, max_size=40),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
def test_growth_and_release_are_no_crash_loop(
    times: Times, goals: list[tuple[int, int]], lags: list[int]
) -> None:
    """Of releases and launches that take up to three ticks, in any order, also of ready before pending instances.

    Goals stand for as long as that: a release that shows after its goal was taken back looks like a loss.
    """
    cloud = Cloud(times)
    ready, due = 0, list[tuple[int, int]]()
    for wanted, ticks in goals:
        for _ in range(ticks):
            before = cloud.running
            _, order = cloud.step(wanted, ready)
            assert not order.losses.loop
            if cloud.running != before:
                due.append((cloud.tick + lags[cloud.tick % len(lags)], cloud.running - before))
            ready = max(0, ready + sum(change for at, change in due if at <= cloud.tick))
            due = [d for d in due if d[0] > cloud.tick]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(3600, 90), (600, 90), (300, 10), (60, 90), (10, 120)]),
    st.lists(st.integers(0, 5), max_size=30),
)
def test_of_an_app_that_grows_in_tick_after_tick_nothing_is_late(
    times: tuple[int, int], more: list[int]
) -> None:
    """Every instance is ready when its start-up time is over; those that came are not taken for the newest."""
    tick_s, lead_s = times
    cloud = Cloud(Times(float(lead_s), float(tick_s)))
    wanted, launched = 3, [(0, 3)]
    for added in more:
        at_s = cloud.tick * tick_s
        ready = sum(n for since, n in launched if at_s >= since + lead_s)
        wanted += added
        if added:
            launched.append(((cloud.tick + 1) * tick_s, added))
        order = cloud.step(wanted, ready)[1]
        assert (order.late, order.state) == (0, "")


def test_an_observation_that_comes_again_or_late_changes_nothing() -> None:
    losses, times = Losses(), Times(10.0, 10.0)
    for at_s, ready in ((0.0, 3), (10.0, 0), (20.0, 3)):
        losses.follow(Observed(ready, at_s=at_s), 3, times)
    before = asdict(losses)
    for at_s, ready in ((20.0, 0), (10.0, 3), (0.0, 0)):
        losses.follow(Observed(ready, at_s=at_s), 3, times)
    assert asdict(losses) == before


def test_orders_without_losses_are_read() -> None:
    cloud = Cloud(Times(10.0, 10.0))
    cloud.step(3, 0)
    del cloud.memory["o"]["losses"]
    assert not cloud.step(3, 3)[1].losses.loop
