"""A profiler's state as blocks: what is restored is what was kept, in at most 2.5 KB a user."""

from typing import Any, cast

import numpy as np

from models.behaviour.lstm import BehaviourModel, initial_state
from pipeline.stages.profiler.agent import Profiler
from pipeline.stages.profiler.user_states import NAMES
from pipeline.wire.codec import DEFAULT


class Fresh:
    """The part of a model that knows how users begin."""

    initial_state = staticmethod(initial_state)


def profiler() -> Profiler:
    def publish(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is published here")

    return Profiler(0, cast("BehaviourModel", Fresh()), DEFAULT, publish, 1_000)


def test_blocks_restore_every_users_state() -> None:
    before, users, rng = profiler(), 450, np.random.default_rng(1)  # three blocks of at most 200
    ids = np.frombuffer(rng.bytes(16 * users), NAMES)
    app, names = np.arange(users) % 7, [f"a}}{number}" for number in range(7)]
    for part in (slice(0, 300), slice(300, 450)):  # the second time, rows are moved
        before.users.admit(ids[part], app[part], names, 5)
    before.users.put(np.arange(users), before.users.state | {"h": rng.normal(size=(users, 64))})
    before.users.seen[7] = 3
    before.seq, before.tick = 3, 5
    blocks = dict(before.blocks())
    after = profiler()
    after.restore(dict(blocks))
    assert (after.seq, after.tick, after.users.ids.tolist()) == (3, 5, ids.tolist())
    assert [after.users.names[number] for number in after.users.app] == [names[number] for number in app]
    assert after.users.seen.tolist() == [5] * 7 + [3] + [5] * 442
    for name, array in before.users.state.items():
        assert after.users.state[name].tobytes() == array.tobytes(), name
    assert dict(after.blocks()) == blocks
    # 2,498 of the model, 4 of the ticks not seen, 16 of the pseudonym, 1 of the app; 34 more are the simulator's
    assert sum(map(len, blocks.values())) / users < 2_560 - 34
