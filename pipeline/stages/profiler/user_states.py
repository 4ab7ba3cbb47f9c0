"""State of the users of one partition as arrays with a row per user: pseudonym, app, last tick, model state."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from models.behaviour.lstm import BehaviourModel, State
from models.demand.turnover import silent_ticks
from pipeline.runtime import metrics
from pipeline.security.pseudonyms import FORGET_S, PSEUDONYM_BYTES

NAMES: Final = np.dtype(f"S{PSEUDONYM_BYTES}")
"""dtype of an array of pseudonyms: NumPy compares strings of fixed length byte by byte."""
BLOCK_USERS = 200
"""Users of a state block: 200 x 2.5 KB stay under the 512 KiB of a message."""
GROWTH = 1 / 8
"""Spare rows for new users, as a share of all rows: arrays are seldom reallocated, and little memory is unused."""


class Users:
    """Users of a partition, each in a slot, in the order in which they first appeared.

    A user's state is one contiguous row, so that a snapshot copies it unchanged, and growth reallocates one block of
    memory, for which the operating system moves pages instead of bytes.

    Attributes:
        ids: (user,) NAMES.
        app: (user,) int32: index in `names`.
        names: of the apps.
        seen: (user,) int64: last tick in which the user had a row in a frame.

    Args:
        model: gives the state of new users.
        capacity: most users that are kept.
    """

    def __init__(self, model: BehaviourModel, capacity: int) -> None:
        self.model, self.capacity = model, capacity
        # by size, so that every field lies at a multiple of its own
        like = sorted(model.initial_state(0).items(), key=lambda item: -item[1].dtype.itemsize)
        kinds = [(name, array.dtype, array.shape[1:]) for name, array in like]
        size = np.dtype(kinds).itemsize
        self._kind = np.dtype([*kinds, ("", np.uint8, -size % 4)])
        self._width = size
        self._fields = [name for name, *_ in kinds]
        self._rows = np.zeros(0, self._kind)
        self._order = np.zeros(0, np.int64)
        self._sorted = np.zeros(0, NAMES)
        self.ids, self.names = np.zeros(0, NAMES), list[str]()
        self.app, self.seen = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def state(self) -> State:
        """Views (user, ...) of the model's state, valid until users are added or dropped."""
        rows = self._rows[: len(self)]
        return {name: rows[name] for name in self._fields}

    def take(self, slots: np.ndarray) -> State:
        """State (slot, ...) of some users: views where the slots are consecutive, else copies."""
        if len(slots) and slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
            rows = self._rows[slots[0] : slots[-1] + 1]
        else:
            rows = self._rows[slots]
        return {name: rows[name] for name in self._fields}

    def put(self, slots: np.ndarray, state: State) -> None:
        """Replace the state of some users."""
        for name in self._fields:
            self._rows[name][slots] = state[name]

    def find(self, ids: np.ndarray) -> np.ndarray:
        """(id,) slot of each pseudonym, -1 for an unknown one."""
        if not len(self):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self) - 1)
        return np.where(self._sorted[at] == ids, self._order[at], -1)

    def admit(self, ids: np.ndarray, app: np.ndarray, names: Sequence[str], tick: int) -> np.ndarray:
        """(id,) slots of the users of a frame; new users are added with the model's initial state.

        Args:
            ids: NAMES, each once.
            app: (id,) index in `names` of each user's app.
            names: of the frame's apps.
            tick: number of the frame's tick.
        """
        slots = self.find(ids)
        new = np.flatnonzero(slots < 0)
        if len(new):
            numbers = np.array([self._number(name) for name in names], np.int32)
            slots[new] = np.arange(len(self), len(self) + len(new))
            self._append(ids[new], numbers[app[new]], tick)
        self.seen[slots] = tick
        return slots

    def rename(self, ids: np.ndarray, earlier: Sequence[np.ndarray]) -> np.ndarray:
        """Replace earlier pseudonyms of users that have state by the current ones.

        Where a user has several rows, that of the newest key is kept, which was written last; the others are dropped.

        Args:
            ids: NAMES, each once.
            earlier: for each earlier key, the newest first, (id,) NAMES of the same users under it.

        Returns:
            (id,) NAMES: the pseudonym that was replaced, empty where none was.
        """
        before = np.zeros(len(ids), NAMES)
        if not earlier:
            return before
        slots, drop = self.find(ids), np.zeros(len(self), bool)
        for names in earlier:
            held = self.find(names)
            taken = (held >= 0) & (slots < 0)
            drop[held[(held >= 0) & (slots >= 0) & (held != slots)]] = True
            slots[taken], before[taken] = held[taken], names[taken]
        renamed = before != b""
        if renamed.any() or drop.any():
            self.ids[slots[renamed]] = ids[renamed]
            self._keep(np.flatnonzero(~drop))
        return before

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]

    def _append(self, ids: np.ndarray, app: np.ndarray, tick: int) -> None:
        first, count = len(self), len(self) + len(ids)
        if count > len(self._rows):
            # no view of it is kept
            self._rows.resize(count + int(GROWTH * first), refcheck=False)
        for name, array in self.model.initial_state(1).items():
            self._rows[name][first:count] = array
        self.ids, self.app = np.concatenate([self.ids, ids]), np.concatenate([self.app, app])
        self.seen = np.concatenate([self.seen, np.full(len(ids), tick)])
        self._sort()

    def _sort(self) -> None:
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]

    def evict(self, tick: int, tick_s: int) -> None:
        """Drop users that were silent for FORGET_S, then those beyond the capacity, the longest silent first."""
        keep = self.seen >= tick - FORGET_S // tick_s
        if keep.sum() > self.capacity:
            keep &= self.seen > np.sort(self.seen)[-self.capacity - 1]
        if keep.all():
            return
        rows = np.flatnonzero(keep)
        metrics.DROPPED.labels("profiler", "user forgotten").inc(len(self) - len(rows))
        self._keep(rows)

    def _keep(self, rows: np.ndarray) -> None:
        """Drop all rows but these, and sort the pseudonyms again."""
        if len(rows) < len(self):
            self.ids, self.app, self.seen = self.ids[rows], self.app[rows], self.seen[rows]
            self._rows = self._rows[rows]
        self._sort()

    def enter(
        self, ids: np.ndarray, app: np.ndarray, names: Sequence[str], tick: int, tick_s: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(row,) slots of the users that are forecast in a tick, and (id,) index in these of a frame's users.

        Arguments as of `admit`; users are dropped as of `evict`.
        """
        self.admit(ids, app, names, tick)
        self.evict(tick, tick_s)
        rows = self.present(tick, tick_s)
        return rows, np.searchsorted(self.ids[rows], ids)

    def present(self, tick: int, tick_s: int) -> np.ndarray:
        """Slots of the users that are forecast in a tick, in the order of pseudonyms."""
        return self._order[self.seen[self._order] >= tick - silent_ticks(tick_s)]

    def blocks(self, tick: int) -> Iterable[tuple[bytes, bytes]]:
        """Key and bytes of each block of a snapshot of all users, each within the size of a message.

        tick: number of the last tick, from which ticks of silence are counted.
        """
        for number, first in enumerate(range(0, len(self), BLOCK_USERS)):
            rows = slice(first, min(first + BLOCK_USERS, len(self)))
            used, app = np.unique(self.app[rows], return_inverse=True)
            head = json.dumps({"users": len(app), "apps": [self.names[i] for i in used]}).encode()
            silent = (tick - self.seen[rows]).astype("<i4")
            state = self._rows[rows].view(np.uint8).reshape(len(app), -1)[:, : self._width]
            # a block has at most 200 apps
            parts = [
                self.ids[rows].tobytes(),
                app.astype(np.uint8).tobytes(),
                silent.tobytes(),
                state.tobytes(),
            ]
            yield b"rows-%d" % number, len(head).to_bytes(4, "little") + head + b"".join(parts)

    def restore(self, blocks: dict[bytes, bytes], count: int, tick: int) -> None:
        """Restore `count` users from the blocks of a snapshot, which are removed from `blocks` as they are read."""
        self._rows = np.zeros(count, self._kind)
        rows = self._rows.view(np.uint8).reshape(count, self._kind.itemsize)
        self.ids, self.app, self.seen = (
            np.zeros(count, NAMES),
            np.zeros(count, np.int32),
            np.zeros(count, int),
        )
        for number, first in enumerate(range(0, count, BLOCK_USERS)):
            data = blocks.pop(b"rows-%d" % number)
            size = 4 + int.from_bytes(data[:4], "little")
            head: Mapping[str, Any] = json.loads(data[4:size])
            users = head["users"]
            part = slice(first, first + users)
            ends = np.cumsum([size, *(users * width for width in (PSEUDONYM_BYTES, 1, 4))]).tolist()
            ids, app, silent = (data[a:b] for a, b in pairwise(ends))
            numbers = np.array([self._number(name) for name in head["apps"]], np.int32)
            self.ids[part] = np.frombuffer(ids, NAMES)
            self.app[part] = numbers[np.frombuffer(app, np.uint8)]
            self.seen[part] = tick - np.frombuffer(silent, "<i4")
            rows[part, : self._width] = np.frombuffer(data[ends[-1] :], np.uint8).reshape(users, self._width)
        self._sort()
