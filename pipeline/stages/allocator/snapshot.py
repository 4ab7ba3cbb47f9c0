"""The allocator's state as blocks of a snapshot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np

from models.behaviour.lstm import State
from models.demand import reconciliation, same_time
from pipeline.stages.allocator.decide import AppState

SAME_TIME = b"same-time-"
"""Begins the key of a snapshot's block of an app's usage in the last 14 days (`models.demand.same_time`)."""
APP, NODES, POOL = b"app-", b"nodes-", b"pool-"
"""Begin the keys of a snapshot's blocks: of an app, and of a group that shares nodes, as one app and as a pool."""


def app_blocks(key: bytes, app: AppState) -> Iterable[tuple[bytes, bytes]]:
    """Blocks of a snapshot of an app's state, under a key and, of the same time, under one of its own."""
    kept = {"group": app.group, "memory": app.memory, "managed": app.managed}
    kept |= {"state": as_hex(app.state), "reconciled": as_hex(app.reconciled)}
    kept |= {"metrics": app.metrics, "offers": app.offers}
    if app.learner_since is not None:
        kept |= {"learner_since": app.learner_since}
    if app.reported:
        kept |= {"reported": app.reported}
    if app.same_time:
        usage, rest = app.same_time["usage"], {n: a for n, a in app.same_time.items() if n != "usage"}
        kept |= {"same_time": as_hex(rest)}
        yield SAME_TIME + app.name.encode(), usage.tobytes()  # of 14 days: as hexadecimal twice as long
    yield key, json.dumps(kept).encode()


def restored(key: bytes, name: str, blocks: Mapping[bytes, bytes], initial: State, tick_s: int) -> AppState:
    """The state of `app_blocks`; what an older version did not learn is as of a new app.

    Args:
        key: of its block.
        name: of the app.
        blocks: of the snapshot.
        initial: the behaviour model's state (1, ...) of a new app.
        tick_s: tick length.
    """
    kept = json.loads(blocks[key])
    learnt = reconciliation.initial_state()
    known = learnt | reconciliation.initial_experts(learnt)
    app = AppState(
        name,
        kept["group"],
        of_hex(kept["state"], initial),
        learnt | of_hex(kept["reconciled"], known),
        kept["memory"],
        kept["managed"],
        metrics=tuple(kept["metrics"]),
        offers=tuple(kept["offers"]),
        learner_since=kept.get("learner_since"),
        reported=kept.get("reported", {}),
    )
    if "same_time" in kept:
        # an app without it may have an older block, from when its learner was on
        expert = of_hex(kept["same_time"], same_time.initial_state(tick_s))
        usage = np.frombuffer(blocks[SAME_TIME + name.encode()], np.uint16)
        expert["usage"] = usage.reshape(-1, same_time.slots(int(expert["tick_s"][0]))).copy()
        app.same_time = expert
    return app


def as_hex(state: State) -> dict[str, str]:
    """A state's arrays as hexadecimal text, by field."""
    return {field: array.tobytes().hex() for field, array in sorted(state.items())}


def of_hex(stored: Mapping[str, str], like: State) -> State:
    """The inverse of `as_hex`; like: gives types and shapes."""
    return {
        field: np.frombuffer(bytes.fromhex(data), like[field].dtype).reshape(like[field].shape)
        for field, data in stored.items()
    }
