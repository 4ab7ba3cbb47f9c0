"""A window of a cluster's topics: frames in order, and the versions of policies, prices and observed capacity.

The cluster is only read: partitions are assigned, so no group is joined, and no offset is committed. Frames of
behaviour.frames are retained for 30 days; those of the window that are deleted, doubled or written by an older version
of a schema are counted by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from confluent_kafka import TopicPartition

from models.metrics import EVENT_KINDS, METRICS
from pipeline.errors import Poison, UsageError
from pipeline.format import iso
from pipeline.inputs.store import SideInputs
from pipeline.kafka import reader, topics
from pipeline.security.pseudonyms import PSEUDONYM_BYTES
from pipeline.settings import Settings
from pipeline.stages.profiler.agent import matrix
from pipeline.traces.trace_file import Panel
from pipeline.wire.codec import Codec, Record, published
from pipeline.wire.messages import position_of

FRAMES: Final = "behaviour.frames"
EVERY: Final = 2**62  # observations that are kept of a target: all


@dataclass
class TopicWindow:
    """A window of an installation's topics.

    Attributes:
        settings: of the installation, with the partitions and the tick that its topics have.
        frames: by shard and tick, the parts of a frame in order.
        inputs: side inputs as they are on the topics.
        skipped: counts of what was left out or is missing, by name.
        whole: whether the window begins where the installation did, so that all that it learnt is learnt again.
    """

    settings: Settings
    frames: dict[int, dict[int, list[Record]]]
    inputs: SideInputs
    skipped: dict[str, int]
    whole: bool
    _panel: Panel | None = field(default=None, repr=False)

    @property
    def panel(self) -> Panel:
        """Users (by their first pseudonym) over the window's ticks, as of a trace."""
        if self._panel is None:
            self._panel = _panel(self.frames, self.settings.tick_s)
        return self._panel

    def digest(self) -> bytes:
        """BLAKE2b of all records that plans of the window are made from."""
        digest = hashlib.blake2b()
        last = int(self.panel.ticks[-1])
        for shard, frames in sorted(self.frames.items()):
            for tick, parts in sorted(frames.items()):
                for part in parts:
                    digest.update(repr((shard, tick, sorted(part.items()))).encode())
        digest.update(repr([sorted(versions.items()) for versions in self.inputs.inputs.values()]).encode())
        for app, offers in sorted(self.inputs.observations.items()):
            for offer, ticks in sorted(offers.items()):
                observed = [record for tick, record in sorted(ticks.items()) if tick <= last]
                digest.update(repr((app, offer, observed)).encode())
        return digest.digest()


class RecordedInputs(SideInputs):
    """Side inputs of ticks that are over: nothing more arrives, so nothing is waited for."""

    def wait_observed(self, app: str, tick: int, wait_s: float, expected: Iterable[str] = ()) -> bool:
        """Without waiting."""
        return super().wait_observed(app, tick, 0, expected)

    def wait_version(self, topic: str, name: str, version: int, wait_s: float) -> bool:
        """Without waiting: what is not there will not be."""
        return True


def read(
    settings: Settings,
    begin_s: float | None = None,
    end_s: float | None = None,
    offsets: tuple[int, int] | None = None,
) -> TopicWindow:
    """Read a window.

    Args:
        settings: where.
        begin_s, end_s: of event time, unix seconds: ticks that start in it; none: from the first, to the last there is.
        offsets: of behaviour.frames, first and the one after the last, in every partition.

    Raises:
        UsageError: nothing of the window is there (any more), or a frame is missing between others.
        Unreachable: the cluster does not answer, or has no such topics.
    """
    probe = reader.reader(settings)
    try:
        numbers = [at.partition for at in reader.whole(probe, topics.name(FRAMES, settings))]
    finally:
        probe.close()
    skipped: Counter[str] = Counter()
    frames: dict[int, dict[int, list[Record]]] = {}
    whole, bounds = True, _Bounds(begin_s, end_s, offsets)
    for number in numbers:
        shard_frames, from_first = _shard(settings, number, bounds, skipped)
        frames[number] = shard_frames
        whole &= from_first
    if not any(frames.values()):
        held = _held(settings, numbers)
        raise UsageError(f"nothing of the window is in topic {topics.name(FRAMES, settings)}: {held}")
    lengths = {parts[0]["tick_s"] for shard_frames in frames.values() for parts in shard_frames.values()}
    if len(lengths) > 1:
        raise UsageError(f"the window has ticks of {' and '.join(map(str, sorted(lengths)))} s: choose one")
    tick_s = lengths.pop()
    # plans come so much later than their ticks end, which they take into account
    lateness_s = {
        int(parts[0]["watermark"].timestamp()) - (tick + 1) * tick_s
        for found in frames.values()
        for tick, parts in found.items()
    }
    settings = settings.model_copy(
        update={"partitions": len(numbers), "tick_s": tick_s, "lateness_s": max(lateness_s)}
    )
    inputs = RecordedInputs(settings, kept_ticks=EVERY).start()
    inputs.stop()
    return TopicWindow(settings, frames, inputs, dict(skipped), whole)


@dataclass(frozen=True)
class _Bounds:
    """What is read of every partition: event time in unix seconds, or offsets of behaviour.frames; None: no bound."""

    begin_s: float | None
    end_s: float | None
    offsets: tuple[int, int] | None

    def of(self, settings: Settings, number: int, skipped: Counter[str]) -> tuple[int, int, int]:
        """The partition's first offset, the first that is read, and the one after the last."""
        low, high = reader.bounds(settings, FRAMES, number)
        first = low
        if self.begin_s is not None:
            first = max(low, since(settings, FRAMES, number, self.begin_s - settings.max_ahead_s, high))
        if self.offsets is not None:
            if self.offsets[0] < low < high:
                skipped["offsets deleted by retention"] += low - self.offsets[0]
            first, high = max(first, self.offsets[0]), min(high, self.offsets[1])
        return low, first, high


def _shard(
    settings: Settings, number: int, bounds: _Bounds, skipped: Counter[str]
) -> tuple[dict[int, list[Record]], bool]:
    """A partition's complete frames by tick, and whether they begin with its first."""
    low, first, high = bounds.of(settings, number, skipped)
    if first >= high:
        return {}, low == 0
    pending: dict[int, dict[int, Record]] = {}
    frames: dict[int, list[Record]] = {}
    seq: int | None = None
    done = -1
    for frame, offset in _decoded(settings, number, (first, high), skipped):
        start_s = frame["tick"] * frame["tick_s"]
        if bounds.begin_s is not None and start_s < bounds.begin_s:
            continue
        if bounds.end_s is not None and start_s >= bounds.end_s:
            break
        if frame["seq"] <= done or frame["part"] in pending.get(frame["seq"], {}):
            skipped["frames that came twice"] += 1
            continue
        parts = pending.setdefault(frame["seq"], {})
        parts[frame["part"]] = frame
        if len(parts) < frame["of"]:
            continue
        if done >= 0 and frame["seq"] != done + 1:
            raise UsageError(
                f"topic {FRAMES}, partition {number}, offset {offset}: frame {done} is followed by {frame['seq']}"
                f"{'' if not skipped else '; ' + ', '.join(f'{n} {what}' for what, n in skipped.items())}"
            )
        seq, done = (frame["seq"] if seq is None else seq), frame["seq"]
        frames[frame["tick"]] = [parts[part] for part in sorted(parts)]
        pending = {}
    if frames and seq and low > 0:
        _count_deleted(frames, seq, bounds.begin_s, skipped)
    if pending:
        skipped["frames without all of their parts"] += len(pending)
    return frames, seq in (0, None)


def _decoded(
    settings: Settings, number: int, span: tuple[int, int], skipped: Counter[str]
) -> Iterator[tuple[Record, int]]:
    """Frames of a partition's offsets [first, last) with their offsets; what is no frame is counted."""
    codec, newest = Codec(settings.registry_url), published("frame").version
    for message in reader.read(settings, FRAMES, {number: span[0]}, {number: span[1]}):
        value = message.value() or b""
        try:
            writer, _ = codec.split(value)
            name, frame = codec.decode(value)
            if name != "frame":
                raise Poison("wrong-schema", f"a {name}")
        except Poison as error:
            skipped[f"frames unreadable ({error.reason})"] += 1
            continue
        if writer.version != newest and writer.version is not None:
            skipped[f"frames of schema version {writer.version}, read as {newest}"] += 1
        yield frame, position_of(message)[2]


def _count_deleted(
    frames: Mapping[int, list[Record]], seq: int, begin_s: float | None, skipped: Counter[str]
) -> None:
    """Count the ticks from `begin_s` on whose frames are deleted: at most `seq`, as many as came before the first."""
    if begin_s is None:
        return
    first = min(frames)
    deleted = first - -(-int(begin_s) // frames[first][0]["tick_s"])
    if deleted > 0:
        skipped["frames deleted by retention"] += min(deleted, seq)


def since(settings: Settings, topic: str, number: int, since_s: float, high: int) -> int:
    """Offset of the first record of a partition that was produced since then, or `high`: all is older.

    What is of a tick is produced after it, but for clocks that drift (`max_ahead_s`).
    """
    consumer = reader.reader(settings)
    try:
        at = TopicPartition(topics.name(topic, settings), number, max(0, int(since_s * 1000)))
        offset = consumer.offsets_for_times([at], timeout=reader.POLL_S)[0].offset
        return high if offset < 0 else offset
    finally:
        consumer.close()


def _held(settings: Settings, numbers: Iterable[int]) -> str:
    """What there is instead, and what was deleted."""
    codec = Codec(settings.registry_url)
    ticks: list[tuple[int, int]] = []
    deleted = 0
    for number in numbers:
        low, high = reader.bounds(settings, FRAMES, number)
        deleted += low
        if low < high:
            ends = [(low, low + 1), (high - 1, high)]
            for first, end in ends:
                for message in reader.read(settings, FRAMES, {number: first}, {number: end}):
                    try:
                        frame = codec.decode(message.value() or b"")[1]
                        ticks.append((frame["tick"] * frame["tick_s"], frame["tick_s"]))
                    except (Poison, KeyError):
                        continue
    gone = f", {deleted:,} messages were deleted by retention" if deleted else ""
    if not ticks:
        return f"it is empty{gone}"
    return f"it holds {iso(min(ticks)[0])} to {iso(sum(max(ticks)))}{gone}"


def _panel(frames: Mapping[int, Mapping[int, list[Record]]], tick_s: int) -> Panel:
    every = [parts for shard_frames in frames.values() for parts in shard_frames.values()]
    ticks = [parts[0]["tick"] for parts in every]
    low, high = min(ticks), max(ticks)
    first, whose = _first_ids(frames), dict[bytes, str]()
    for parts in every:
        for part in parts:
            index = np.frombuffer(part["app_index"], "<u4")
            users = (first[user] for user in _ids(part["users"]))
            whose.update(zip(users, (part["apps"][i] for i in index), strict=True))
    ids = sorted(whose, key=lambda user: (whose[user], user))
    column = {user: u for u, user in enumerate(ids)}
    shape = (high - low + 1, len(ids))
    values = np.full((*shape, len(METRICS)), np.nan, np.float32)
    events = np.full((*shape, len(EVENT_KINDS)), np.nan, np.float32)
    saturated = np.zeros((*shape, len(METRICS)), bool)
    for parts in every:
        row = parts[0]["tick"] - low
        users = [column[first[user]] for part in parts for user in _ids(part["users"])]
        values[row, users] = matrix(parts, "values", "metrics", METRICS, "<f4", np.nan)
        events[row, users] = matrix(parts, "rates", "kinds", EVENT_KINDS, "<f4", np.nan)
        saturated[row, users] = matrix(parts, "saturated", "metrics", METRICS, np.uint8, 0) > 0
    return Panel(
        ticks=np.arange(low, high + 1, dtype=np.int64),
        tick_s=tick_s,
        apps=[whose[user] for user in ids],
        users=[user.hex() for user in ids],
        values=values,
        events=events,
        saturated=saturated,
    )


def _first_ids(frames: Mapping[int, Mapping[int, list[Record]]]) -> dict[bytes, bytes]:
    """By pseudonym the first of the same user's in the window: frames name earlier ones where a key carries over."""
    first: dict[bytes, bytes] = {}
    for by_tick in frames.values():
        for part in (part for _, parts in sorted(by_tick.items()) for part in parts):
            earlier = [_ids(of_key["users"]) for of_key in part["previous"]]
            for row, user in enumerate(_ids(part["users"])):
                if user not in first:
                    known = (names[row] for names in earlier if names[row] in first)
                    first[user] = first.get(next(known, user), user)
    return first


def _ids(users: bytes) -> list[bytes]:
    return [users[i : i + PSEUDONYM_BYTES] for i in range(0, len(users), PSEUDONYM_BYTES)]


def changed(recorded: TopicWindow, panel: Panel) -> TopicWindow:
    """The same window with other values of the same users, as of a campaign.

    Args:
        recorded: the window.
        panel: as its own, but for `values` and `events`.
    """
    column = {user: u for u, user in enumerate(panel.users)}
    first = _first_ids(recorded.frames)
    frames: dict[int, dict[int, list[Record]]] = {}
    for shard, shard_frames in recorded.frames.items():
        frames[shard] = {}
        for tick, parts in shard_frames.items():
            row = tick - int(panel.ticks[0])
            frames[shard][tick] = [
                part
                | {
                    "metrics": list(METRICS),
                    "kinds": list(EVENT_KINDS),
                    "values": panel.values[row, users].T.astype("<f4").tobytes(),
                    "rates": panel.events[row, users].T.astype("<f4").tobytes(),
                    "saturated": panel.saturated[row, users].T.astype(np.uint8).tobytes(),
                }
                for part in parts
                for users in [[column[first[user].hex()] for user in _ids(part["users"])]]
            ]
    return dataclasses.replace(recorded, frames=frames, _panel=panel)


def planned_by(
    recorded: TopicWindow, policies: Mapping[str, Record], prices: Iterable[Record]
) -> TopicWindow:
    """The same window with other policies (by app) and prices, valid from the beginning; what was observed stays."""
    inputs = RecordedInputs(recorded.settings, kept_ticks=EVERY)
    inputs.observations = recorded.inputs.observations
    inputs.inputs = recorded.inputs.inputs | {
        "policies": {app: [record | {"app": app, "valid_from_tick": 0}] for app, record in policies.items()},
        "prices": {price["offer_id"]: [price | {"valid_from_tick": 0}] for price in prices},
    }
    return dataclasses.replace(recorded, inputs=inputs)
