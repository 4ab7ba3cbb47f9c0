"""Stage 2: tick frames -> a forecast for each user. One LSTM step a frame, for all of a partition's users."""

import json
from collections.abc import Iterable, Mapping

import numpy as np

from models.features import EVENT_KINDS, METRICS
from models.lstm import BehaviourModel, State
from pipeline.codec import Codec, Record
from pipeline.forecasts import forecast_records
from pipeline.identity import PSEUDONYM_BYTES
from pipeline.state import Numbered, Publish

BLOCK_USERS = 200
"""Users of a state block: 200 x 2.5 KB stay under the 512 KiB of a message."""
SILENT_S = 900
"""A user silent for so long (and three ticks) is no longer forecast: a gap in telemetry is not an end of demand."""
FORGET_S = 7 * 86_400
"""A user silent for a week is evicted: longer than any weekly habit's pause."""


class Users:
    """Slots of a partition's users: pseudonym, app, last tick seen, and their rows in the state arrays."""

    def __init__(self, model: BehaviourModel, capacity: int) -> None:
        self.model, self.capacity = model, capacity
        self.slots: dict[bytes, int] = {}
        self.ids: list[bytes] = []
        self.apps: list[str] = []
        self.seen = np.zeros(0, np.int64)
        self.state: State = model.initial_state(0)

    def admit(self, ids: list[bytes], apps: list[str], tick: int) -> np.ndarray:
        """(user,) slots of the users of a frame; those never seen start from the population's state."""
        new = [i for i, user in enumerate(ids) if user not in self.slots]
        if new:
            for i in new:
                self.slots[ids[i]] = len(self.ids)
                self.ids.append(ids[i])
                self.apps.append(apps[i])
            fresh = self.model.initial_state(len(new))
            self.state = {name: np.concatenate([array, fresh[name]]) for name, array in self.state.items()}
            self.seen = np.concatenate([self.seen, np.full(len(new), tick)])
        slots = np.fromiter((self.slots[user] for user in ids), np.int64, len(ids))
        self.seen[slots] = tick
        return slots

    def evict(self, tick: int, tick_s: int) -> None:
        """Forget who was silent for long, and whoever is beyond the capacity, the longest silent first."""
        keep = self.seen >= tick - FORGET_S // tick_s
        if keep.sum() > self.capacity:
            keep &= self.seen > np.sort(self.seen)[-self.capacity - 1]
        if keep.all():
            return
        rows = np.flatnonzero(keep)
        self.ids, self.apps = [self.ids[i] for i in rows], [self.apps[i] for i in rows]
        self.slots = {user: slot for slot, user in enumerate(self.ids)}
        self.seen = self.seen[rows]
        self.state = {name: array[rows] for name, array in self.state.items()}

    def enter(
        self, ids: list[bytes], apps: list[str], tick: int, tick_s: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(row,) slots of the users that are forecast in a tick, and (user,) which of these each of a frame's is."""
        self.admit(ids, apps, tick)
        self.evict(tick, tick_s)
        rows = self.present(tick, tick_s)
        place = np.full(len(self.ids), -1)
        place[rows] = np.arange(len(rows))
        return rows, place[np.fromiter((self.slots[user] for user in ids), np.int64, len(ids))]

    def present(self, tick: int, tick_s: int) -> np.ndarray:
        """Slots of users that are forecast, in the order of pseudonyms."""
        rows = np.flatnonzero(self.seen >= tick - max(3, SILENT_S // tick_s))
        return rows[
            np.argsort(np.array([self.ids[i] for i in rows], dtype=f"V{PSEUDONYM_BYTES}"), kind="stable")
        ]


class Profiler(Numbered):
    """One partition's users (see `pipeline.state` for when its methods are called)."""

    def __init__(
        self, shard: int, model: BehaviourModel, codec: Codec, publish: Publish, capacity: int
    ) -> None:
        super().__init__(shard, codec)
        self.model, self.publish = model, publish
        self.users = Users(model, capacity)

    def whole(self, parts: list[Record]) -> None:
        """Step the model by a frame and publish the forecasts."""
        frame = parts[0]
        tick, tick_s = frame["tick"], frame["tick_s"]
        ids = [
            p["users"][i : i + PSEUDONYM_BYTES]
            for p in parts
            for i in range(0, len(p["users"]), PSEUDONYM_BYTES)
        ]
        index = np.concatenate([np.frombuffer(p["app_index"], "<u4") for p in parts])
        rows, place = self.users.enter(ids, [frame["apps"][i] for i in index], tick, tick_s)

        values = np.full((len(rows), len(METRICS)), np.nan, np.float32)
        rates = np.full((len(rows), len(EVENT_KINDS)), np.nan, np.float32)
        saturated = np.zeros((len(rows), len(METRICS)), bool)
        values[place] = matrix(parts, "values", "metrics", METRICS, "<f4", np.nan)
        rates[place] = matrix(parts, "rates", "kinds", EVENT_KINDS, "<f4", np.nan)
        saturated[place] = matrix(parts, "saturated", "metrics", METRICS, np.uint8, 0) > 0

        before = {name: array[rows] for name, array in self.users.state.items()}
        after, forecast, flags = self.model.step(before, values, rates, saturated, tick=tick, tick_s=tick_s)
        for name, array in after.items():
            self.users.state[name][rows] = array
        ids, apps = [self.users.ids[i] for i in rows], [self.users.apps[i] for i in rows]
        for record in forecast_records(frame, self.model.model_id, ids, apps, forecast, flags, values, rates):
            self.publish("forecasts", "forecast", record, partition=self.shard, key=str(self.shard))

    def blocks(self) -> Iterable[tuple[bytes, bytes]]:
        """The position and all users: nearly every user changes with every frame."""
        users = self.users
        yield b"position", json.dumps({"seq": self.seq, "users": len(users.ids)}).encode()
        for number, first in enumerate(range(0, len(users.ids), BLOCK_USERS)):
            rows = slice(first, first + BLOCK_USERS)
            ids, apps = users.ids[rows], users.apps[rows]
            names = sorted(set(apps))
            where = {app: place for place, app in enumerate(names)}
            text = json.dumps({"users": len(ids), "apps": names}).encode()
            whose = b"".join(ids) + bytes(where[app] for app in apps)  # a block has at most 200 apps
            arrays = [users.seen[rows], *(users.state[name][rows] for name in sorted(users.state))]
            yield (
                b"users-%d" % number,
                len(text).to_bytes(4, "little") + text + whose + b"".join(a.tobytes() for a in arrays),
            )

    def restore(self, blocks: Mapping[bytes, bytes]) -> None:
        """Continue from the last snapshot."""
        if b"position" not in blocks:
            return
        position = json.loads(blocks[b"position"])
        self.seq, users, parts = position["seq"], self.users, []
        for number in range(-(-position["users"] // BLOCK_USERS)):
            data = blocks[b"users-%d" % number]
            size = 4 + int.from_bytes(data[:4], "little")
            head = json.loads(data[4:size])
            count = head["users"]
            index = size + count * PSEUDONYM_BYTES
            users.ids += [data[i : i + PSEUDONYM_BYTES] for i in range(size, index, PSEUDONYM_BYTES)]
            users.apps += [head["apps"][place] for place in data[index : index + count]]
            parts.append(_unpack(data[index + count :], count, users.state))
        users.slots = {user: slot for slot, user in enumerate(users.ids)}
        if parts:
            users.seen = np.concatenate([seen for seen, _ in parts])
            users.state = {name: np.concatenate([state[name] for _, state in parts]) for name in users.state}


def _unpack(data: bytes, count: int, like: State) -> tuple[np.ndarray, State]:
    """`seen` and the state arrays of a block's users."""
    at = 8 * count
    seen = np.frombuffer(data[:at], np.int64)
    state: State = {}
    for name in sorted(like):
        shape, kind = like[name].shape[1:], like[name].dtype
        size = count * int(np.prod(shape)) * kind.itemsize
        state[name] = np.frombuffer(data[at : at + size], kind).reshape(count, *shape)
        at += size
    return seen, state


def matrix(
    parts: list[Record], column: str, axis: str, names: tuple[str, ...], kind: object, absent: float
) -> np.ndarray:
    """(user, name) of a frame's column block, over its parts; columns by our names, whatever the frame has."""
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
