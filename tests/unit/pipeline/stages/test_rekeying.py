"""A pseudonym key that carries over: frames name earlier pseudonyms, and stages rename rows, whoever comes when."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.behaviour.features import TRACKED
from models.behaviour.lstm import BehaviourModel
from models.metrics import METRICS
from pipeline.backtest import topic_window
from pipeline.settings import Settings
from pipeline.stages.ingest import service
from pipeline.stages.profiler.agent import earlier
from pipeline.stages.profiler.user_states import NAMES, Users
from pipeline.stages.simulator.app_dependence import DependenceTable
from tests.unit.pipeline.messages import NOW_S, TICK_S
from tests.unit.pipeline.stages.driving import framed, keys
from tests.unit.pipeline.stages.test_app_dependence import PRIOR

DAY_S = 86_400


def test_frames_name_earlier_pseudonyms_until_no_state_under_them_is_left() -> None:
    hour_s = NOW_S // 3_600 * 3_600
    ring, users = keys(hour_s + DAY_S, hour_s + 2 * DAY_S), ("ann", "bob")
    daily = [(24.0 * day, user) for day in range(13) for user in users]
    frames = [parts[0] for parts in framed(ring, daily, DAY_S // 24) if parts[0]["users"]]
    assert [frame["key_id"] for frame in frames] == ["k0", "k1"] + 11 * ["k2"]
    named = [[of_key["key_id"] for of_key in frame["previous"]] for frame in frames]
    assert named == [[], ["k0"], *8 * [["k1", "k0"]], ["k1"], [], []]
    by_name = {key.key_id: key for key in ring.keys}
    for frame in frames:
        new = by_name[frame["key_id"]]
        for of_key in frame["previous"]:
            old = by_name[of_key["key_id"]]
            pairs = dict(zip(split(frame["users"]), split(of_key["users"]), strict=True))
            assert pairs == {new.pseudonym(f"shop/{u}"): old.pseudonym(f"shop/{u}") for u in users}


def split(users: bytes) -> list[bytes]:
    return [users[at : at + 16] for at in range(0, len(users), 16)]


def test_a_tick_in_which_the_key_changes_has_one_pseudonym_of_a_user() -> None:
    ring = keys(NOW_S + 90)  # half of the second tick
    frames = [parts[0] for parts in framed(ring, [(1.0, "ann"), (1.75, "ann"), (2.0, "ann")])]
    assert [(frame["key_id"], len(frame["users"])) for frame in frames[-2:]] == [("k0", 16), ("k1", 16)]
    assert np.frombuffer(frames[-2]["samples"], "<u4").tolist() == [2]
    assert frames[-1]["previous"] == [{"key_id": "k0", "users": frames[-2]["users"]}]


def test_a_key_that_does_not_carry_over_names_nobody() -> None:
    ring = keys(NOW_S + TICK_S, carry_over=False)
    frames = framed(ring, [(tick, "ann") for tick in range(3)])
    assert [frame["previous"] for (frame,) in frames] == [[], [], []]
    assert frames[0][0]["users"] != frames[1][0]["users"]


def test_each_part_of_a_frame_names_its_own_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MESSAGE_BYTES", 600)
    ring, users = keys(NOW_S + TICK_S), [f"user-{n}" for n in range(7)]
    parts = framed(ring, [(tick, user) for tick in range(2) for user in users])[-1]
    assert 1 < len(parts) < 7
    known = {ring.keys[1].pseudonym(f"shop/{user}"): ring.keys[0].pseudonym(f"shop/{user}") for user in users}
    pairs = [
        pair
        for part in parts
        for pair in zip(split(part["users"]), split(part["previous"][0]["users"]), strict=True)
    ]
    assert dict(pairs) == known
    assert earlier(parts)[0].tobytes() == b"".join(old for _, old in pairs)
    assert earlier(framed(ring, [(0, "ann")])[0]) == []


class Counting:
    """The part of a model that knows how users begin: with a count of zero."""

    @staticmethod
    def initial_state(users: int) -> dict[str, np.ndarray]:
        return {"count": np.zeros(users, np.int64)}


def states(capacity: int = 100) -> Users:
    return Users(cast("BehaviourModel", Counting()), capacity)


def step(
    users: Users, tick: int, ids: list[bytes], earlier: list[list[bytes]], tick_s: int = TICK_S
) -> list[bytes]:
    """A frame: every user in it counts one more; the pseudonyms that rows had."""
    arrays = [np.array(names, NAMES) for names in (ids, *earlier)]
    before = users.rename(arrays[0], arrays[1:])
    rows, place = users.enter(arrays[0], np.zeros(len(ids), int), ["shop"], tick, tick_s)
    users.put(rows[place], {"count": users.state["count"][rows[place]] + 1})
    return before.tolist()


def counts(users: Users) -> dict[bytes, int]:
    return dict(zip(users.ids.tolist(), users.state["count"].tolist(), strict=True))


@pytest.mark.parametrize(("days", "count"), [(6, 2), (7, 2), (8, 1)])
def test_a_user_who_comes_back_is_carried_over_while_the_row_is_there(days: int, count: int) -> None:
    users, tick = states(), days * DAY_S // 3_600
    step(users, 0, [b"old"], [], 3_600)
    step(users, tick - 1, [b"other"], [[b"another"]], 3_600)
    assert step(users, tick, [b"new"], [[b"old"]], 3_600) == ([b"old"] if count == 2 else [b""])
    assert counts(users) == {b"new": count, b"other": 1}


def test_of_two_rows_of_a_user_the_newest_keys_stays() -> None:
    users = states()
    for tick in range(3):
        step(users, tick, [b"first"], [])
    step(users, 3, [b"second", b"other"], [])
    assert step(users, 4, [b"second"], [[b"first"]]) == [b""]
    assert counts(users) == {b"second": 2, b"other": 1}
    step(users, 5, [b"first"], [])
    assert step(users, 6, [b"third"], [[b"second"], [b"first"]]) == [b"second"]
    assert counts(users) == {b"third": 3, b"other": 1}
    # a key that is used again names what it names
    assert step(users, 7, [b"third"], [[b"third"]]) == [b""]
    assert counts(users) == {b"third": 4, b"other": 1}


USERS = 5
PRESENT = st.lists(st.sets(st.integers(0, USERS - 1)), min_size=1, max_size=12)
CHANGES = st.lists(st.integers(1, 11), max_size=3, unique=True).map(sorted)


def by_user(rows: dict[bytes, Any]) -> dict[bytes, Any]:
    """By user, whose name a pseudonym ends with; no user has two."""
    names = [pseudonym.rpartition(b"-")[2] for pseudonym in rows]
    assert len(set(names)) == len(names)
    return dict(zip(names, rows.values(), strict=True))


@given(PRESENT, CHANGES)
@settings(max_examples=100, deadline=None)
def test_the_profilers_rows_are_those_of_one_key(present: list[set[int]], changes: list[int]) -> None:
    def pseudonym(key: int, user: int) -> bytes:
        return b"%d-%d-%d" % (user * (key + 1) % USERS, key, user)  # another order under each key

    rotated, steady = states(), states()
    for tick, users in enumerate(present):
        key = sum(tick >= change for change in changes)
        order = sorted(users, key=lambda user: pseudonym(key, user))
        old = [[pseudonym(before, user) for user in order] for before in reversed(range(key))]
        before = step(rotated, tick, [pseudonym(key, user) for user in order], old)
        step(steady, tick, [b"-%d" % user for user in sorted(users)], [])
        assert {name.rpartition(b"-")[2] for name in before if name} <= {b"%d" % user for user in users}
        assert by_user(counts(rotated)) == by_user(counts(steady))
        assert len(rotated.present(tick, TICK_S)) == len(steady.present(tick, TICK_S))


def padded(names: Sequence[bytes]) -> bytes:
    return b"".join(name.ljust(16, b".") if name else bytes(16) for name in names)


def rows_of(table: DependenceTable) -> dict[bytes, bytes]:
    app = table.apps["shop"]
    names = [name.rstrip(b".") for name in split(app.ids)]
    assert app.present <= len(names)
    return dict(zip(names, (row.tobytes() for row in app.users), strict=True))


WARM = 6
"""Ticks with everybody, after which absent users are known well enough to be kept."""


@given(PRESENT, CHANGES)
@settings(max_examples=30, deadline=None)
def test_the_simulators_rows_are_those_of_one_key(present: list[set[int]], changes: list[int]) -> None:
    def pseudonym(key: int, user: int) -> bytes:
        return b"%d-%d-%d" % (
            user,
            key,
            user,
        )  # the same order under all keys, so that sums have the same bits

    rotated, steady, held = DependenceTable(PRIOR), DependenceTable(PRIOR), dict[int, bytes]()
    rng = np.random.default_rng(len(present))
    for tick, users in enumerate([*WARM * [set(range(USERS))], *present]):
        key = sum(tick >= WARM + change for change in changes)
        order = sorted(users)
        before = [held.get(user, b"") for user in order]
        held |= {user: pseudonym(key, user) for user in users}
        ids = [held[user] for user in order]
        before = [old if old != new else b"" for old, new in zip(before, ids, strict=True)]
        scores, kept = (
            rng.standard_normal((USERS, len(METRICS), len(TRACKED))),
            np.array([tick % 3 == 0, True]),
        )
        rotated.rename("shop", padded(ids), padded(before))
        given = padded(ids), padded([pseudonym(0, user) for user in order])
        sums, loading = rotated.learn("shop", tick, given[0], scores[order], kept)
        steady_sums, steady_loading = steady.learn("shop", tick, given[1], scores[order], kept)
        assert loading.tolist() == steady_loading.tolist()
        assert sums.shared.tobytes() == steady_sums.shared.tobytes()
        assert by_user(rows_of(rotated)) == by_user(rows_of(steady))


def test_a_simulators_row_under_the_new_name_gives_way_to_the_one_that_is_renamed() -> None:
    table = DependenceTable(PRIOR)
    everybody = [b"old", b"new", b"other"]
    for tick in range(30):
        table.learn(
            "shop", tick, padded(everybody), np.full((3, 5, 3), float(tick % 3)), np.array([True, False])
        )
    table.learn("shop", 30, padded([b"old", b"other"]), np.full((2, 5, 3), 1.0), np.array([True, False]))
    row = rows_of(table)[b"old"]
    table.rename("shop", padded([b"new", b"other", b"unknown"]), padded([b"old", b"", b"none"]))
    assert rows_of(table).keys() == {b"new", b"other"}
    assert rows_of(table)[b"new"] == row
    assert table.apps["shop"].present == 2
    table.rename("another app", padded([b"new"]), padded([b"old"]))
    assert table.apps.keys() == {"shop"}


def test_a_window_of_topics_has_one_column_of_a_user() -> None:
    usage = [(tick, user) for tick in range(6) for user in ("ann", "robert") if (tick, user) != (2, "ann")]
    panels = [
        topic_window._panel({0: {parts[0]["tick"]: parts for parts in framed(ring, usage)}}, TICK_S)
        for ring in (keys(NOW_S + 2 * TICK_S, NOW_S + 4 * TICK_S), keys())
    ]
    rotated, steady = panels
    assert rotated.users == steady.users
    np.testing.assert_array_equal(rotated.values, steady.values)
    recorded = topic_window.TopicWindow(
        Settings(tick_s=TICK_S, lateness_s=0),
        {0: {parts[0]["tick"]: parts for parts in framed(keys(NOW_S + 2 * TICK_S), usage)}},
        cast("Any", SimpleNamespace()),
        {},
        True,
    )
    panel = recorded.panel
    panel.values[:] *= 2
    again = topic_window.changed(recorded, panel)
    last = again.frames[0][max(again.frames[0])][0]
    assert sorted(np.frombuffer(last["values"], "<f4")[:2].tolist()) == [2 * (3 + 5), 2 * (6 + 5)]
