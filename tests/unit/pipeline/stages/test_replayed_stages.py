"""Profiler and simulator without Kafka: what they publish, and that a restored one publishes the same."""

import numpy as np
import pytest

from models.behaviour.lstm import BehaviourModel
from models.metrics import EVENT_KINDS
from pipeline.runtime.fenced_state import Publish
from pipeline.settings import Settings
from pipeline.stages.profiler.agent import Profiler
from pipeline.stages.profiler.user_states import NAMES, Users
from pipeline.wire.codec import DEFAULT
from pipeline.wire.forecasts import scores, unpack
from tests.unit.pipeline.messages import TICK_S
from tests.unit.pipeline.stages.driving import TICKS, USERS, distinct, drive, forecasts, frames, simulator


@pytest.mark.parametrize("restart_at", [4, 5])
def test_a_restored_profiler_publishes_the_same(
    model: BehaviourModel, installation: Settings, restart_at: int
) -> None:
    inputs = frames(installation, 0, USERS)

    def make(publish: Publish) -> Profiler:
        return Profiler(0, model, DEFAULT, publish, 100)

    whole, broken = (drive(make, inputs, at) for at in (None, restart_at))
    assert distinct(broken) == distinct(whole)
    assert len(whole) == TICKS
    last = whole[-1][2]
    assert last["metrics"] == ["cpu", "memory"]
    assert last["apps"] == ["blog", "shop"]
    assert len(last["users"]) == 4 * 16
    quantiles, usage, _, rates = unpack([last])
    assert quantiles.shape == (4, 2, 6)
    assert sorted(usage[:, 0].tolist()) == pytest.approx(
        sorted(1 + len(n) + 1.5 for names in USERS.values() for n in names)
    )
    assert rates[0, EVENT_KINDS.index("API_CALL")] == pytest.approx(3 / TICK_S)


def test_a_silent_user_is_forecast_on_and_a_gap_in_the_sequence_ends_the_worker(
    model: BehaviourModel, installation: Settings
) -> None:
    inputs = frames(installation, 0, USERS)
    published = drive(lambda publish: Profiler(0, model, DEFAULT, publish, 100), inputs[:4], None)
    assert len(published[3][2]["users"]) == 4 * 16  # silent for two ticks of at least three
    stage = Profiler(0, model, DEFAULT, lambda *_, **__: None, 100)
    stage.fold(inputs[0])
    with pytest.raises(RuntimeError, match="gap in shard 0"):
        stage.fold(inputs[2])


def test_users_are_bounded_and_the_longest_silent_go_first(model: BehaviourModel) -> None:
    users = Users(model, capacity=2)
    names = [letter * 16 for letter in (b"c", b"b", b"a")]
    for tick, name in enumerate(names):
        users.admit(np.array([name], NAMES), np.array([0]), [f"app-{tick}"], tick)
        users.evict(tick, TICK_S)
    assert users.ids.tolist() == names[1:]
    assert [users.names[number] for number in users.app] == ["app-1", "app-2"]
    assert len(users.state["h"]) == 2
    assert users.find(np.array(names, NAMES)).tolist() == [-1, 0, 1]
    assert users.present(2, TICK_S).tolist() == [1, 0]  # by pseudonym


def test_a_restored_simulator_publishes_the_same_and_marks_every_partition(
    model: BehaviourModel, installation: Settings
) -> None:
    inputs = forecasts(model, installation, 0, USERS)
    whole, broken = (drive(simulator(installation, 0), inputs, at) for at in (None, 4))
    assert distinct(broken) == distinct(whole)
    markers = [(record["tick"], partition) for _, name, record, partition in whole if name == "marker"]
    assert len(markers) == len(set(markers)) == TICKS * installation.partitions
    names = {record["app"] for _, name, record, _ in whole if name == "scenario"}
    assert names == {"shop", "blog"}
    last = next(
        record for _, name, record, _ in reversed(whole) if name == "scenario" and record["app"] == "shop"
    )
    assert (last["users"], last["reporting"]) == (3, 3)
    assert np.frombuffer(last["user_quantiles"]).reshape(6, 2)[0, 0] > np.frombuffer(last["observed"])[0]


def test_a_simulator_learns_from_scores_and_what_it_learnt_survives(
    model: BehaviourModel, installation: Settings
) -> None:
    inputs = forecasts(model, installation, 0, USERS)
    assert np.isfinite(scores([DEFAULT.decode(inputs[-1])[1]])[:, :2, 0]).all()  # cpu and memory, one step
    whole = simulator(installation, 0)(lambda *_, **__: None)
    for value in inputs:
        whole.fold(value)
    kept = dict(whole.blocks())
    assert set(kept) == {b"position", b"apps-0"}
    assert set(whole.dependence_table.apps) == {"shop", "blog"}
    assert whole.dependence_table.apps["shop"].sums["ticks"][0, 0] == pytest.approx(TICKS - 1, rel=0.01)
    again = simulator(installation, 0)(lambda *_, **__: None)
    again.restore(kept)
    assert dict(again.blocks()) == kept


def test_forecasts_of_before_version_2_are_simulated_by_the_prior(
    model: BehaviourModel, installation: Settings
) -> None:
    stage = simulator(installation, 0)(lambda *_, **__: None)
    for value in forecasts(model, installation, 0, USERS):
        name, record = DEFAULT.decode(value)
        stage.fold(DEFAULT.encode(name, record | {"scores": None}))
    assert not stage.dependence_table.apps["shop"].sums["ticks"].any()
