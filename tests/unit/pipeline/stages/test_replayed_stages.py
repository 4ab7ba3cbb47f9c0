"""Profiler and simulator without Kafka: what they publish, and that a restored one publishes the same."""

from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest

from models.behaviour.lstm import BehaviourModel
from models.metrics import EVENT_KINDS
from pipeline.runtime.fenced_state import Publish
from pipeline.security.pseudonyms import Key, KeyRing
from pipeline.settings import Settings
from pipeline.stages.ingest import service
from pipeline.stages.profiler.agent import Profiler
from pipeline.stages.profiler.user_states import NAMES, Users
from pipeline.wire import messages
from pipeline.wire.codec import DEFAULT
from pipeline.wire.forecasts import gathered, scores, unpack
from tests.unit.pipeline.messages import NOW_S, TICK_S
from tests.unit.pipeline.stages.driving import (
    TICKS,
    USERS,
    Published,
    distinct,
    drive,
    forecasts,
    framed,
    frames,
    simulator,
)


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


NAMED = ["ann", "bobby", "quiet"]
SWITCHES = 3, 10
"""Ticks at which the key changes. `quiet` is silent from before the first until after the second."""
USAGE = [
    (tick, user)
    for tick in range(24)
    for user in NAMED
    if user != "quiet" or not SWITCHES[0] - 1 <= tick <= 20
]


@pytest.fixture(scope="module")
def ring() -> KeyRing:
    """Three keys that leave users in one order, whoever is under which key: sums over users have the same bits."""
    found = [Key("k0", b"0", 0)]
    for begin in SWITCHES:
        valid_from = NOW_S + begin * TICK_S
        for number in count():
            key = Key(f"k{len(found)}", b"%d %d" % (begin, number), valid_from, carry_over=True)
            under = sorted((k.pseudonym(f"shop/{user}"), user) for k in [*found, key] for user in NAMED)
            if sum(a[1] != b[1] for a, b in pairwise(under)) == len(NAMED) - 1:
                found.append(key)
                break
    return KeyRing(found)


def encoded(published: Published | list[list[dict[str, Any]]], name: str) -> list[bytes]:
    records = [record for item in published for record in (item if isinstance(item, list) else [item[2]])]
    return [DEFAULT.encode(name, record) for record in records]


def test_forecasts_after_rotations_are_those_without_up_to_the_names(
    model: BehaviourModel, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(publish: Publish) -> Profiler:
        return Profiler(0, model, DEFAULT, publish, 100)

    steady = drive(make, encoded(framed(KeyRing(ring.keys[:1]), USAGE), "frame"), None)
    whole = encoded(framed(ring, USAGE), "frame")
    rotated = drive(make, whole, None)
    assert len(rotated) == len(steady) == 24
    named = {key.pseudonym(f"shop/{user}"): user for key in ring.keys for user in NAMED}
    renamed: list[tuple[int, str, str, str]] = []
    for (*_, ours, _), (*_, theirs, _) in zip(rotated, steady, strict=True):
        ids, previous = gathered([ours]).ids.tolist(), gathered([ours])["previous"]
        assert [named[i] for i in ids] == [named[i] for i in gathered([theirs]).ids.tolist()]
        same = {"users": theirs["users"], "previous": b""}
        assert DEFAULT.encode("forecast", ours | same) == DEFAULT.encode("forecast", theirs)
        of_key = {key.pseudonym(f"shop/{user}"): key.key_id for key in ring.keys for user in NAMED}
        for new, old in zip(ids, (row.tobytes() for row in previous), strict=True):
            if any(old):
                assert named[new] == named[old]
                renamed.append((ours["tick"] - NOW_S // TICK_S, named[new], of_key[old], of_key[new]))
    assert sorted(renamed) == [
        (3, "ann", "k0", "k1"), (3, "bobby", "k0", "k1"),
        (10, "ann", "k1", "k2"), (10, "bobby", "k1", "k2"), (21, "quiet", "k0", "k2"),
    ]  # fmt: skip

    for restart_at in (5, 6, 12, 23):  # the snapshot three messages before has the old names, or the new
        assert distinct(drive(make, whole, restart_at)) == distinct(rotated)

    monkeypatch.setattr(service, "MESSAGE_BYTES", 300)
    monkeypatch.setattr(messages, "MESSAGE_BYTES", 1_000)
    parts = encoded(framed(ring, USAGE), "frame")
    split = [record for *_, record, _ in drive(make, parts, None)]
    assert len(parts) > 40
    assert len(split) > 40
    for *_, record, _ in rotated:
        of_tick = gathered([part for part in split if part["tick"] == record["tick"]])
        for column in ("users", "previous", "location", "scores"):
            np.testing.assert_array_equal(of_tick[column], gathered([record])[column])


def test_scenarios_after_rotations_are_those_without(
    model: BehaviourModel, installation: Settings, ring: KeyRing
) -> None:
    def make(publish: Publish) -> Profiler:
        return Profiler(0, model, DEFAULT, publish, 100)

    steady, rotated = (
        encoded(drive(make, encoded(framed(of, USAGE), "frame"), None), "forecast")
        for of in (KeyRing(ring.keys[:1]), ring)
    )
    whole = drive(simulator(installation, 0), rotated, None)
    assert distinct(whole) == distinct(drive(simulator(installation, 0), steady, None))
    for restart_at in (5, 6, 12, 23):
        assert distinct(drive(simulator(installation, 0), rotated, restart_at)) == distinct(whole)
    tables = [simulator(installation, 0)(lambda *_, **__: None) for _ in range(2)]
    for table, values in zip(tables, (steady, rotated), strict=True):
        for value in values:
            table.fold(value)
    one, other = (table.dependence_table.apps["shop"] for table in tables)
    assert one.users["known"].max() > 0
    assert (one.sums.tobytes(), one.users.tobytes()) == (other.sums.tobytes(), other.users.tobytes())
    assert len(one.ids) == len(NAMED) * 16
    assert other.ids == b"".join(sorted(ring.keys[-1].pseudonym(f"shop/{user}") for user in NAMED))
