"""What all agents share, without Kafka: partitions side by side, and nothing more of a generation that has ended."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.runtime import fenced_state
from pipeline.runtime.fenced_state import Agent
from pipeline.settings import Settings

Event = SimpleNamespace
WAIT_S = 5.0


def event(partition: int, place: int, generation: int = 1) -> Event:
    message = Event(partition=partition, generation_id=generation, topic="source", offset=place, value=place)
    return Event(message=message, value=place, acked=False)


class Stage:
    """Takes places, and says how many partitions were at work when it did."""

    def __init__(self, partition: int, fold: Callable[[int, int], None]) -> None:
        self.partition, self._fold = partition, fold
        self.done, self.places = -1, list[int]()

    def fold(self, value: int) -> int:
        self._fold(self.partition, value)
        self.places.append(value)
        self.done = value
        return value


class Owned(fenced_state.Owned):
    """Without a broker."""

    def __init__(self, name: str, number: int, stage: Any, *_: Any) -> None:
        self.name, self.number, self.stage = name, number, stage
        self.held, self.saved, self.folded_s, self.lock = [], -1, 0.0, asyncio.Lock()

    def open(self) -> None:
        self.saved = self.stage.done

    def snapshot(self) -> list[Any]:
        covered, self.saved = self.covered(self.stage.done), self.stage.done
        for one in covered:
            one.ack = lambda one=one: setattr(one, "acked", True)
        return covered


class Stream:
    """Gives events, then stays open."""

    def __init__(self, given: list[Event]) -> None:
        self.given = given

    def noack(self) -> "Stream":
        return self

    async def events(self) -> AsyncIterator[Event]:
        for one in self.given:
            yield one
        await asyncio.Event().wait()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, int], None]], Agent]:
    monkeypatch.setattr(fenced_state, "Owned", Owned)
    settings: Any = Settings(snapshot_frames=1_000)
    nothing: Any = None
    return lambda fold: Agent("counter", "source", settings, nothing, lambda n: Stage(n, fold))  # pyright: ignore


def during(agent: Agent, given: list[Event], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        serving = asyncio.create_task(agent.serve(Stream(given)))
        try:
            await asyncio.wait_for(work(), WAIT_S)
        finally:
            serving.cancel()

    asyncio.run(whole())


async def folded(agent: Agent, count: int) -> None:
    while sum(len(owned.held) for owned in agent.owned.values()) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_partitions_are_folded_side_by_side_and_each_in_order(
    agent: Callable[[Callable[[int, int], None]], Agent],
) -> None:
    both = threading.Barrier(2, timeout=WAIT_S)  # broken unless two are at work at once

    def fold(partition: int, place: int) -> None:
        if place == 0:
            both.wait()

    one = agent(fold)
    places = 3 * fenced_state.QUEUED
    given = [event(partition, place) for place in range(places) for partition in (0, 1)]
    during(one, given, lambda: folded(one, 2 * places))
    for owned in one.owned.values():
        assert owned.stage.places == list(range(places))  # pyright: ignore


def test_nothing_of_a_generation_is_taken_after_its_end(
    agent: Callable[[Callable[[int, int], None]], Agent],
) -> None:
    folding, ended = threading.Event(), threading.Event()

    def fold(partition: int, place: int) -> None:
        if place == 1:
            folding.set()
            assert ended.wait(WAIT_S)

    one = agent(fold)
    given = [event(0, place) for place in range(4)]

    async def end() -> None:
        await asyncio.to_thread(folding.wait, WAIT_S)
        ending = asyncio.create_task(one.end())
        await asyncio.sleep(0.05)
        ended.set()
        await ending  # with what was being folded
        await asyncio.sleep(0.05)

    during(one, given, end)
    assert [one.acked for one in given] == [True, True, False, False]
    again = [event(0, place, generation=2) for place in (2, 3)]
    during(one, again, lambda: folded(one, 2))
    assert list(one.owned) == [(0, 2)]


def test_what_came_before_is_acknowledged_before() -> None:
    """Else Faust commits past it, and whoever is next is not given it."""
    ahead, now, repeated, later = (event(0, place) for place in range(4))
    owned = Owned("allocator", 0, None)
    owned.held = [(6, ahead), (5, now), (fenced_state.REPEATED, repeated)]
    assert owned.covered(5) == []
    owned.held.append((7, later))
    assert owned.covered(6) == [ahead, now, repeated]
    assert owned.held == [(7, later)]
