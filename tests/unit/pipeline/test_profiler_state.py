"""A profiler's state as blocks: what is restored is what was kept, in at most 2.5 KB a user."""

from typing import Any, cast

import numpy as np

from models.lstm import BehaviourModel, initial_state
from pipeline.codec import DEFAULT
from pipeline.profiler import Profiler


class Fresh:
    """The part of a model that knows how users begin."""

    initial_state = staticmethod(initial_state)


def profiler() -> Profiler:
    def publish(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is published here")

    return Profiler(0, cast("BehaviourModel", Fresh()), DEFAULT, publish, 1_000)


def test_blocks_restore_every_users_state() -> None:
    before, users, rng = profiler(), 450, np.random.default_rng(1)  # three blocks of at most 200
    ids, apps = [rng.bytes(16) for _ in range(users)], [f"a}}{number % 7}" for number in range(users)]
    before.users.admit(ids, apps, 5)
    before.users.state["h"][:] = rng.normal(size=(users, 64))
    before.seq = 3
    blocks = dict(before.blocks())
    after = profiler()
    after.restore(blocks)
    assert (after.seq, after.users.ids, after.users.apps) == (3, ids, apps)
    assert after.users.seen.tolist() == [5] * users
    for name, array in before.users.state.items():
        assert after.users.state[name].tobytes() == array.tobytes(), name
    assert dict(after.blocks()) == blocks
    # 2,498 of the model, 8 of the last tick seen, 16 of the pseudonym, 1 of the app; 34 more are the simulator's
    assert sum(map(len, blocks.values())) / users < 2_560 - 34
