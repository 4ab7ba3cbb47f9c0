"""Plans and settings are not judged by demand of which too little was heard: it would prove too little to be enough."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.behaviour.lstm import BehaviourModel
from pipeline.settings import Settings
from pipeline.wire.codec import DEFAULT, Record
from tests.cases.closed_loop import CORES, FIRST, TICK_S, Fleet, Installation, policy, scenario

USERS = ("ann", "bob", "eve", "joe")
HEARD = 4
"""Ticks in which all is heard of the app; afterwards half of it, or one of its two governed metrics."""
UNIT = [{"metric": "cpu", "value": 1.0}, {"metric": "memory", "value": 1e9}]


@pytest.mark.parametrize(
    ("users", "more"),
    [(USERS[:2], {"cpu": -1.0}), (USERS[:2], {}), ((), {"cpu": 2.0})],
    ids=["half is refused", "half is silent", "a metric is not reported"],
)
def test_what_was_not_heard_proves_nothing(
    shop: Callable[..., list[Record]], users: tuple[str, ...], more: dict[str, float]
) -> None:
    """users: of whom all is heard to the end; more: what the others send later."""
    samples: list[tuple[int, str, dict[str, Any]]] = []
    for tick in range(8):
        for user in USERS:
            fields = {"cpu": 2.0, "memory": 3e9} if tick < HEARD or user in users else more
            samples += [(tick, user, fields)] if fields else []
    plans = shop(samples, learner=True, governed=["cpu", "memory"], unit=UNIT)
    assert [plan["need"] for plan in plans] == [12.0] * HEARD + [None] * (len(plans) - HEARD)


def test_an_app_is_not_promoted_by_the_half_that_was_heard(
    model: BehaviourModel, installation: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.kafka.reader.newest", lambda *_: None)
    here = installation.model_copy(
        update={"tick_s": TICK_S, "partitions": 1, "scenarios": 256, "event_time": True, "data_dir": tmp_path}
    )
    gates = [{"metric": "coverage", "value": 0.5}, {"metric": "decisions", "value": 50.0}]
    run = Installation(model, here, Fleet(), policies=[policy(promotion_gates=gates)])
    for number in range(40):
        is_complete = number < 34
        record, marker = scenario(model, here, FIRST + number, CORES if is_complete else CORES / 2)
        of_app = DEFAULT.decode(record)[1] | {"reporting": 4 if is_complete else 2}
        run.allocator.fold(DEFAULT.encode("scenario", of_app))
        run.allocator.fold(marker)
    judged = [plan["promotion"]["decisions"] for plan in run.plans]
    assert judged[39] == judged[33] > 0, judged
