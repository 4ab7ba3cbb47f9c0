"""Stage 2: turns tick frames into forecasts per user, with one LSTM step per frame for all users of a partition."""

import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

import numpy as np

from models.behaviour.lstm import BLOCK, BehaviourModel
from models.demand.stopped_series import with_carried
from models.metrics import EVENT_KINDS, METRICS
from pipeline.runtime.fenced_state import Numbered, Publish
from pipeline.security.pseudonyms import PSEUDONYM_BYTES
from pipeline.stages.profiler.user_states import NAMES, Users
from pipeline.wire.codec import Codec, Record
from pipeline.wire.demand import carried_of, telemetry_of
from pipeline.wire.forecasts import Layout

STEP_USERS = 8 * BLOCK
"""Users stepped and published at once, at most: arrays of all of a million users are gigabytes, of these 40 MB in two
partitions."""

LARGE = 200_000
"""A partition of more users is stepped while no other such is: side by side, the forecasts of all would be in the
simulators at once, 1.3 KB a user."""
_ONE_LARGE = threading.Lock()


class Profiler(Numbered):
    """Forecasts the users of one partition; `pipeline.runtime.fenced_state.Agent` calls its methods.

    Args:
        shard: number of the partition.
        model: the behaviour model.
        codec: encodes and decodes records.
        publish: publishes forecasts.
        capacity: most users whose state is kept.
    """

    def __init__(
        self, shard: int, model: BehaviourModel, codec: Codec, publish: Publish, capacity: int
    ) -> None:
        super().__init__(shard, codec)
        self.model, self.publish = model, publish
        self.users = Users(model, capacity)
        self.tick = 0

    def whole(self, parts: list[Record]) -> None:
        """Step the model with all parts of one frame and publish the forecasts."""
        most = max(len(self.users), sum(len(part["users"]) for part in parts) // PSEUDONYM_BYTES)
        with _ONE_LARGE if most > LARGE else nullcontext():
            self._step(parts)

    def _step(self, parts: list[Record]) -> None:
        frame, users = parts[0], self.users
        tick, tick_s = frame["tick"], frame["tick_s"]
        ids = np.concatenate([np.frombuffer(p["users"], NAMES) for p in parts])
        index = np.concatenate([np.frombuffer(p["app_index"], "<u4") for p in parts])
        renamed = users.rename(ids, earlier(parts))
        rows, place = users.enter(ids, index, frame["apps"], tick, tick_s)

        values = np.full((len(rows), len(METRICS)), np.nan, np.float32)
        rates = np.full((len(rows), len(EVENT_KINDS)), np.nan, np.float32)
        saturated = np.zeros((len(rows), len(METRICS)), bool)
        values[place] = matrix(parts, "values", "metrics", METRICS, "<f4", np.nan)
        missing, whole = carried_of(parts), values
        if missing is not None:
            whole = values.copy()
            whole[place] = with_carried(values[place], missing)
        rates[place] = matrix(parts, "rates", "kinds", EVENT_KINDS, "<f4", np.nan)
        saturated[place] = matrix(parts, "saturated", "metrics", METRICS, np.uint8, 0) > 0

        # what was never seen has no forecast
        known = (
            (users.state["seen"] > 0).any(axis=0)
            if len(rows) == len(users)
            else (users.take(rows)["seen"] > 0).any(axis=0)
        )
        known |= np.isfinite(values).any(axis=0)
        used, app = np.unique(users.app[rows], return_inverse=True)
        previous = np.zeros(len(rows), NAMES)
        previous[place] = renamed
        layout = Layout.of(
            frame,
            self.model.model_id,
            len(rows),
            np.flatnonzero(known),
            [users.names[i] for i in used],
            renamed=bool((previous != b"").any()),
        )
        chunk = max(1, STEP_USERS // layout.per_part) * layout.per_part
        for first in range(0, max(1, len(rows)), chunk):
            part = slice(first, first + chunk)
            slots = rows[part]
            after, forecast, flags = self.model.step(
                users.take(slots), whole[part], rates[part], saturated[part], tick=tick, tick_s=tick_s
            )
            users.put(slots, after)
            if (previous[part] != b"").any():
                flags = {**flags, "previous": previous[part]}
            for record in layout.records(
                first, users.ids[slots], layout.order[app[part]], forecast, flags, values[part], rates[part]
            ):
                if record["part"] == 0:
                    record["telemetry"] = telemetry_of(parts)
                self.publish("forecasts", "forecast", record, partition=self.shard, key=str(self.shard))
        self.tick = tick

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """Key and bytes of each block of a snapshot: the position, then all users, nearly all of which have changed."""
        position = {"seq": self.seq, "tick": self.tick, "users": len(self.users)}
        yield b"position", json.dumps(position).encode()
        yield from self.users.blocks(self.tick)

    def restore(self, blocks: dict[bytes, bytes]) -> None:
        """Restore the state from the blocks of the last snapshot."""
        if b"position" in blocks:
            position: Mapping[str, int] = json.loads(blocks[b"position"])
            self.seq, self.tick = position["seq"], position["tick"]
            self.users.restore(blocks, position["users"], self.tick)


def earlier(parts: list[Record]) -> list[np.ndarray]:
    """(user,) NAMES of a frame's users under each earlier pseudonym key, the newest first, over all of its parts."""
    of_parts = zip(*(part["previous"] for part in parts), strict=True)
    return [np.concatenate([np.frombuffer(part["users"], NAMES) for part in of_key]) for of_key in of_parts]


def matrix(
    parts: list[Record], column: str, axis: str, names: tuple[str, ...], kind: object, absent: float
) -> np.ndarray:
    """(user, name) array of a frame's column block over all of its parts, with the columns `names`.

    column: field of the block; axis: field with the names that the frame has; kind: the block's dtype; absent: value of
    columns that the frame does not have.
    """
    blocks: list[np.ndarray] = []
    for part in parts:
        users = len(part["users"]) // PSEUDONYM_BYTES
        block = np.frombuffer(part[column], kind).reshape(len(part[axis]), users)  # pyright: ignore
        where = {name: row for row, name in enumerate(part[axis])}
        blocks.append(
            np.column_stack(
                [block[where[n]] if n in where else np.full(users, absent, block.dtype) for n in names]
            )
        )
    return np.concatenate(blocks)
