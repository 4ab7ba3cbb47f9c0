"""The actuator on real Kafka with a group whose apps share nodes: one unit a tick, and the same after a kill."""

from typing import Any

import pytest

from pipeline.kafka.producer import Outputs
from pipeline.providers.local import LocalProvider
from pipeline.providers.local_replicas import ReplicaSet
from pipeline.security.signing_keys import signing_key
from pipeline.settings import Settings
from pipeline.stages.actuator.service import starting_capacity
from pipeline.wire.codec import Record
from pipeline.wire.commands import REPLICAS, Target
from tests.integration.actuating import Run, observations, plan, publish, results
from tests.unit.pipeline import messages

CPU = {"cpu": 1.0}
APPS = ("cafe", "hall")


def asked(settings: Settings, tick: int, name: str, desired: int, **more: Any) -> Record:
    """Of the group's nodes, which have 4 cores each, or of an app's replicas of a core."""
    on_nodes: Record = {}
    ref, kind = f"{name}/od-4", "NODES"
    if name in APPS:
        ref, kind = f"{name}/{REPLICAS}", "REPLICAS"
        on_nodes = {"resources": CPU, "group": "team", "priority": 1 if name == "hall" else 0}
    values = {"plan_id": f"{name}-{tick}", "key": signing_key(settings), **on_nodes, **more}
    target = Target("local", ref, kind=kind, region="eu")
    return messages.command(tick, desired, ref, **values | {"target": target})


def of(tick: int, name: str, issued: int = 0) -> Record:
    """The plan of the group's nodes, or of an app's replicas."""
    offer, level = (REPLICAS, "REPLICAS") if name in APPS else ("od-4", "NODES")
    return plan(tick, issued, name) | {
        "schema_version": 5,
        "allocation_group": "team",
        "level": level,
        "counts": [{"offer_id": offer, "desired": [1]}],
        "parts": [] if name in APPS else [{"app": app, "tail": 0.5, "mean": 0.5} for app in APPS],
    }


@pytest.fixture
def pool(replay: Settings) -> Settings:
    """A node with four replicas of an app, from 600 s on."""
    wanted = {"cafe": ReplicaSet(4, "team", CPU), "hall": ReplicaSet(0, "team", CPU, 1)}
    starting_capacity(replay, {"team": {"od-4": 1}}, 10, wanted)
    return replay


def seen(settings: Settings, ref: str, tick: int) -> tuple[int, int, str]:
    """Ready and pending, and why, as was published of a tick, always in the same words."""
    published = observations(settings)[ref, tick]
    assert published == [published[0]] * len(published)
    return published[0]["ready"], published[0]["pending"], published[0]["reason"]


def ticks(settings: Settings) -> list[list[Record]]:
    """Ticks 10 to 13: plans and commands, in an order of arrival that is none of order."""
    return [
        [  # an app of a higher priority comes, and nodes for it
            asked(settings, 10, "hall", 3),
            of(10, "hall", 1),
            of(10, "cafe"),
            asked(settings, 10, "team", 2),
            of(10, "team", 1),
        ],
        [of(11, "hall"), of(11, "cafe"), of(11, "team")],
        [  # it goes, and one node with it
            asked(settings, 12, "team", 1),
            of(12, "team", 1),
            of(12, "hall", 1),
            of(12, "cafe"),
            asked(settings, 12, "hall", 0),
        ],
        [of(13, "team"), of(13, "cafe"), of(13, "hall")],
    ]


def check(settings: Settings) -> None:
    outcome = {
        (one["target"], one["epoch"]): (one["status"], one["before"], one["after"])
        for one in results(settings)
    }
    assert outcome == {
        ("team/od-4", 10): ("APPLIED", 1, 2),
        ("hall/replicas", 10): ("APPLIED", 0, 3),
        ("hall/replicas", 12): ("APPLIED", 3, 0),
        ("team/od-4", 12): ("APPLIED", 2, 1),
    }
    assert len(results(settings)) == 4
    full = "no node has room: cpu is short"
    cafe = [seen(settings, "cafe/replicas", tick) for tick in range(9, 14)]
    hall = [seen(settings, "hall/replicas", tick) for tick in range(9, 14)]
    nodes = [seen(settings, "team/od-4", tick)[:2] for tick in range(9, 14)]
    assert nodes == [(1, 0), (1, 1), (2, 0), (1, 0), (1, 0)]
    # Preempted at 660 s; by 720 s the second node is ready and they have started; at 780 s four are on the node left.
    assert cafe == [(4, 0, ""), (1, 3, full), (4, 0, ""), cafe[3], (4, 0, "")]
    assert (cafe[3][0] + cafe[3][1], cafe[3][2]) == (4, "")
    assert hall == [(0, 0, ""), (0, 3, ""), (3, 0, ""), (0, 0, ""), (0, 0, "")]


@pytest.mark.slow
def test_plans_of_a_pool_are_applied_together_in_any_order_of_arrival(pool: Settings, run: Run) -> None:
    run.start()
    publish(pool, *(record for given in ticks(pool) for record in given))
    run.until(lambda: ("hall/replicas", 13) in observations(pool))
    check(pool)


class Killed(BaseException):
    """Where SIGKILL would strike."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "call"), [("after applying", 1), ("before applying", 2), ("after applying", 3)]
)
def test_killed_between_any_two_commands_of_a_pool_everything_is_done_once(
    pool: Settings, run: Run, monkeypatch: pytest.MonkeyPatch, where: str, call: int
) -> None:
    apply, left = LocalProvider.apply, [call]

    def killed(provider: LocalProvider, command: Record, now_s: float) -> Any:
        left[0] -= 1
        done = apply(provider, command, now_s) if left[0] or where == "after applying" else None
        if left[0]:
            return done
        raise Killed

    run.start()
    publish(pool, *(record for given in ticks(pool) for record in given))
    with monkeypatch.context() as patch:
        patch.setattr(LocalProvider, "apply", killed)
        with pytest.raises(Killed):
            run.until(lambda: False)
    run.start()
    run.until(lambda: ("hall/replicas", 13) in observations(pool))
    check(pool)


@pytest.mark.slow
def test_killed_while_publishing_observations_of_a_pool_are_repeated_in_the_same_words(
    pool: Settings, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(pool, *(record for given in ticks(pool) for record in given))
    run.start()
    flush = Outputs.flush

    def flush_and_die(outputs: Outputs) -> None:
        flush(outputs)
        if results(pool):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "flush", flush_and_die)
        with pytest.raises(Killed):
            run.until(lambda: False)
    run.start()
    run.until(lambda: ("hall/replicas", 13) in observations(pool))
    check(pool)
    # a third one still knows the replicas that are at its provider
    run.start()
    publish(pool, of(14, "team"), of(14, "cafe"), of(14, "hall"))
    run.until(lambda: ("hall/replicas", 14) in observations(pool))
    assert seen(pool, "cafe/replicas", 14) == (4, 0, "")


@pytest.mark.slow
def test_live_replicas_of_all_apps_are_observed_after_a_change_of_nodes(
    pool: Settings, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, calls = LocalProvider.apply, list[str]()

    def noted(provider: LocalProvider, command: Record, now_s: float) -> Any:
        calls.append(command["target"]["ref"])
        return apply(provider, command, now_s)

    live = pool.model_copy(update={"event_time": False})
    run.settings = live
    now = [700.0]
    run.start(clock=lambda: now[0])
    publish(live, asked(live, 10, "team", 2), of(10, "team", 1), of(10, "hall", 1), of(10, "cafe"))
    publish(live, asked(live, 10, "hall", 3))
    run.until(lambda: len(results(live)) == 2)
    assert {one["status"] for one in results(live)} == {"APPLIED"}
    last = {key: published[-1] for key, published in observations(live).items()}
    assert (last["hall/replicas", 10]["ready"], last["hall/replicas", 10]["pending"]) == (0, 3)
    now[0] = 790.0
    run.until(lambda: ("cafe/replicas", 12) in observations(live))
    assert [seen(live, f"{app}/replicas", 12)[:2] for app in APPS] == [(4, 0), (3, 0)]
    now[0] = 850.0
    run.until(lambda: ("team/od-4", 13) in observations(live))
    with monkeypatch.context() as patch:
        patch.setattr(LocalProvider, "apply", noted)
        last_ones = [("team", 0), ("hall", 2), ("cafe", 5)]
        publish(live, *(asked(live, 14, name, count, issued_s=850.0) for name, count in last_ones))
        run.until(lambda: len(results(live)) == 5)
    assert calls == ["hall/replicas", "cafe/replicas", "team/od-4"]
    last = {key: published[-1] for key, published in observations(live).items()}
    assert [last[f"{app}/replicas", 13]["ready"] for app in APPS] == [0, 0]
    assert last["cafe/replicas", 13]["reason"] == "there are no nodes"
