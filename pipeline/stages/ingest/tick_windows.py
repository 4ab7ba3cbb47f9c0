"""Groups the raw records of one partition number into tick frames, as a function of the topics' contents alone.

A `TopicStream` holds one raw topic's partition; `PartitionWindows` holds the two streams of one partition number. Event
time of a stream is the running maximum, over its good records and watermarks in offset order, of the lesser of `ts` and
the time at which the message was produced: a clock that is ahead moves nobody's event time beyond the present.

- a record is late iff the running maximum *before* it is at or past its tick's end plus the allowed lateness;
- a stream has passed tick t at the first offset whose running maximum *including* it is at or past t's end plus the
  lateness: c(t). A frame closes when both streams have passed it, one frame a tick from the first, gapless;
- a refused record counts in the frame of its own tick, or of the first tick that its stream has not passed before it,
  whichever is later;
- to resume after frame t a stream starts at the smallest offset of a record of a later tick, refused ones too, of a
  sample of an earlier tick that t + 1 or a later one may take (`models.aggregation.lasting`), of a sample by which
  tick t + 1 knows what series a user of several had in t - 1 and t (`models.demand.stopped_series`), or at c(t),
  whichever is least, with the running maximum as of that offset. Read again from there, what belongs to closed ticks
  is in no frame, what was late is late again. Which series stopped earlier is in the frame itself.

Nothing here depends on how the records were batched, when, or by which process.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models import aggregation
from models.aggregation import Columns, Grouped
from models.demand import stopped_series
from models.demand.stopped_series import Levels, Stopped
from models.metrics import EVENT_KINDS, METRICS
from pipeline.wire.stopped import stopped_of

NEVER = -(2**63)
Attribute = tuple[int, int, str, str]
"""Of an event: the user's code, the position of its kind, key and value."""
Refusal = tuple[str, str]
"""App and reason of a refused record."""
LATE = "late"
SLOWER = 1.05
"""Of a tick's length, the interval from which on a sample stands for later ticks too: a measured interval that is a few
milliseconds longer is a tick."""
CARRIED_S = 3600.0
"""Longest time for which a sample stands beyond its own tick: a restarted ingest reads as far back."""
BACK = 2
"""Closed ticks whose series the next tick needs: what stopped is judged by these."""
CONDENSED = 2**17
"""Rows that wait before they are condensed, and no less than there are condensed ones: the cost of a row stays the
same, and memory is that of the users and not of their samples."""


@dataclass
class TopicStream:
    """Records of open ticks, and the course of event time, of one raw topic's partition.

    Attributes:
        topic: logical name.
        running_max: greatest event time so far, microseconds.
        next_offset: of the next record.
        first: event time of the first record, from which the frames begin.
        rows: sums of records by tick and series, in the order of their first offsets (`offset`), of open ticks and of
            the BACK ticks before for users of several series; `before` is the running maximum before it.
        tagged: open ticks' events that have attributes.
        passed: offsets at which the running maximum grew, and to what.
        refused: refused records, late ones too, that count in open ticks, in the order of offsets; `of` is app and
            reason.
        slow: samples with an interval longer than a tick, of open ticks and of those that these and the BACK ticks
            before may take them from, in the order of offsets; `until` is where the interval ends.
        waiting: rows that came since `gather`.
    """

    topic: str
    rows: Columns
    tagged: list[Columns] = field(default_factory=list[Columns])
    running_max: int = NEVER
    next_offset: int = 0
    first: int | None = None
    passed_offset: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    passed_max: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    refused: Columns = field(default_factory=Columns)
    slow: Columns = field(default_factory=Columns)
    waiting: list[Columns] = field(default_factory=list[Columns])

    @property
    def empty(self) -> bool:
        """Whether no record of an open tick is held, nor a sample that one may take."""
        return not self.waiting and not len(self.rows.get("code", ())) and not len(self.slow.get("code", ()))

    def gather(self) -> None:
        """Condense the waiting rows into `rows`."""
        if self.waiting:
            self.rows = aggregation.condense([*([self.rows] if self.rows else []), *self.waiting])
            self.waiting = []

    def add(
        self,
        offset: np.ndarray,
        ts: np.ndarray,
        produced: np.ndarray,
        rows: Columns,
        is_row: np.ndarray,
        windows: "PartitionWindows",
    ) -> np.ndarray:
        """Add valid records and watermarks, in offset order.

        Args:
            offset, ts: (message,) of records and watermarks, microseconds.
            produced: (message,) when each was produced, by the clock of `ts`: event time does not pass it.
            rows: (record,) columns of the records alone: code, what each adds (`models.aggregation`), and of events
                also kind, amount, attributes and tagged.
            is_row: (message,) False for watermarks.
            windows: gives the tick's length, the allowed lateness and the last closed tick.

        Returns:
            (record,) which of the records are late.
        """
        if not len(offset):
            return np.zeros(0, bool)
        if self.first is None:
            self.first = int(min(ts[0], produced[0]))
        after = np.maximum.accumulate(np.maximum(np.minimum(ts, produced), self.running_max))
        before = np.concatenate([[self.running_max], after[:-1]])
        grew = after > before
        self.passed_offset = np.concatenate([self.passed_offset, offset[grew]])
        self.passed_max = np.concatenate([self.passed_max, after[grew]])
        self.running_max = int(after[-1])

        tick, before = ts[is_row] // windows.tick_us, before[is_row]
        late = before >= (tick + 1) * windows.tick_us + windows.lateness_us
        if "weight" in rows:
            place = {"offset": offset[is_row], "before": before, "tick": tick, "ts": ts[is_row]}
            self._keep_slow(place, rows, late, windows)
        keep = ~late & (tick > (windows.known_from if "weight" in rows else windows.closed))
        if keep.any():
            new = {"offset": offset[is_row], "before": before, "tick": tick, **rows}
            new = {name: column[keep] for name, column in new.items()}
            tags = {name: new.pop(name) for name in ("kind", "amount", "attributes", "tagged") if name in new}
            if tags and tags["tagged"].any():
                tags |= {"tick": new["tick"], "code": new["code"]}
                self.tagged.append({name: column[tags["tagged"]] for name, column in tags.items()})
            self.waiting.append(new)
            if sum(len(part["tick"]) for part in self.waiting) > max(
                CONDENSED, len(self.rows.get("tick", ()))
            ):
                self.gather()
        return late

    def _keep_slow(
        self, place: Columns, rows: Columns, late: np.ndarray, windows: "PartitionWindows"
    ) -> None:
        """Add to `slow` the samples that stand for more than a tick."""
        interval_s = rows["weight"].max(axis=1)
        lasting = np.flatnonzero((interval_s > SLOWER * windows.tick_s) & ~late)
        if not len(lasting):
            return
        until = place["ts"][lasting] + (np.minimum(interval_s[lasting], CARRIED_S) * 1e6).astype(np.int64)
        if windows.closed != NEVER:
            lasting, until = (a[until > (windows.known_from + 1) * windows.tick_us] for a in (lasting, until))
        new = {name: place[name][lasting] for name in ("offset", "before", "tick", "ts")}
        new |= {name: rows[name][lasting] for name in ("code", "weight", "weighted", "hit")} | {
            "until": until
        }
        self.slow = {n: np.concatenate([self.slow[n], c]) for n, c in new.items()} if self.slow else new

    def refuse(
        self, offset: np.ndarray, ts: np.ndarray, of: Sequence[Refusal], windows: "PartitionWindows"
    ) -> None:
        """Note refused records, in offset order, after the batch's other records were added.

        Args:
            offset: (record,).
            ts: (record,) event time, microseconds; NEVER where it is not known or not believed.
            of: (record,) app and reason.
            windows: as of `add`.
        """
        at = np.searchsorted(self.passed_offset, offset) - 1
        before = np.where(at < 0, NEVER, self.passed_max[at] if len(self.passed_max) else NEVER)
        first = np.maximum(before, NEVER + windows.lateness_us) - windows.lateness_us
        tick = np.maximum(ts, first) // windows.tick_us
        labels = np.empty(len(of), object)
        labels[:] = of
        new: Columns = {"offset": offset, "before": before, "tick": tick, "of": labels}
        if windows.closed != NEVER:
            new = {name: column[tick > windows.closed] for name, column in new.items()}
        self.refused = (
            {n: np.concatenate([self.refused[n], c]) for n, c in new.items()} if self.refused else new
        )

    def passed_at(self, time_us: int) -> tuple[int, int]:
        """First offset at which the running maximum reached `time_us` (the module's c), and the maximum before it."""
        at = int(np.searchsorted(self.passed_max, time_us))
        return int(self.passed_offset[at]), int(self.passed_max[at - 1]) if at else NEVER

    def forget(self, closed: int, closing: int, tick_us: int, followed: Sequence[np.ndarray]) -> None:
        """Drop what closed ticks no longer need.

        Args:
            closed: the last closed tick.
            closing: c of it.
            tick_us: length of a tick.
            followed: for each of the last closed ticks up to `closed`, (code,) bool, series whose rows are kept.
        """
        keep = self.rows["tick"] > closed if self.rows else np.zeros(0, bool)
        back = [(tick, codes) for tick, codes in _last(closed, followed) if codes.any()]
        for tick, codes in back if self.rows else ():
            keep |= (self.rows["tick"] == tick) & codes[self.rows["code"]]
        if self.slow and self.rows:  # a series that this tick has and the next takes is known in both
            taken = aggregation.carried(self.slow, closed + 1, tick_us).any(axis=1)
            keep |= (self.rows["tick"] == closed) & np.isin(self.rows["code"], self.slow["code"][taken])
        self.rows = {name: column[keep] for name, column in self.rows.items()}
        self.tagged = [
            {name: column[part["tick"] > closed] for name, column in part.items()} for part in self.tagged
        ]
        self.tagged = [part for part in self.tagged if len(part["tick"])]
        since = max(int(np.searchsorted(self.passed_offset, closing)) - 1, 0)
        self.passed_offset, self.passed_max = self.passed_offset[since:], self.passed_max[since:]
        later = self.refused["tick"] > closed if self.refused else np.zeros(0, bool)
        self.refused = {name: column[later] for name, column in self.refused.items()}
        if self.slow:
            lasting = aggregation.lasting(self.slow, closed + 1, tick_us) | (self.slow["tick"] > closed)
            for tick, codes in back:
                taken = aggregation.carried(self.slow, tick, tick_us).any(axis=1)
                lasting |= taken & codes[self.slow["code"]]
            self.slow = {name: column[lasting] for name, column in self.slow.items()} if lasting.any() else {}


@dataclass(frozen=True)
class Resume:
    """Where a stream resumes: docs/records.md, `behaviour.frames`."""

    topic: str
    offset: int
    running_max: int


@dataclass(frozen=True)
class Frame:
    """One closed tick: its groups, where to resume, counts by attribute, what was refused, and what stopped.

    Attributes:
        refused: (metric samples, event records) by app and reason.
        stopped: series of users that stopped, in the order of pseudonyms.
    """

    seq: int
    tick: int
    groups: Grouped
    codes: np.ndarray
    resume: tuple[Resume, ...]
    watermark_us: int
    refused: tuple[Counter[Refusal], Counter[Refusal]]
    attributes: Counter[Attribute]
    stopped: Stopped


_NOWHERE = (2**63 - 1, NEVER)
"""Of a resume position: nothing has to be read again."""
_FIRST: Columns = {name: np.zeros(0, np.int64) for name in aggregation.FIRST}
_NONE: tuple[Columns, Columns] = (
    _FIRST | aggregation.samples(np.zeros(0), np.zeros((0, len(METRICS))), np.zeros((0, len(METRICS)), bool)),
    _FIRST | aggregation.events(np.zeros(0, np.int64), np.zeros(0), len(EVENT_KINDS)),
)


@dataclass
class PartitionWindows:
    """Both streams of one partition number: which ticks they have passed, and the frames of these ticks."""

    number: int
    tick_s: int
    lateness_s: int
    metrics: TopicStream
    events: TopicStream
    closed: int = NEVER
    seq: int = 0
    stopped: Stopped = field(default_factory=Stopped.none)
    key_id: str = ""

    def __post_init__(self) -> None:
        self.tick_us, self.lateness_us = self.tick_s * 1_000_000, self.lateness_s * 1_000_000

    @property
    def known_from(self) -> int:
        """The tick after which the series of closed ticks are known."""
        return NEVER if self.closed == NEVER else self.closed - BACK

    @property
    def streams(self) -> tuple[TopicStream, TopicStream]:
        """The streams of metrics and of events, in the order of RAW."""
        return self.metrics, self.events

    def restore(self, frame: Mapping[str, Any], *more: Mapping[str, Any]) -> None:
        """Set the state so that the tick after a published frame is the next one to close.

        Args:
            frame, more: its parts.
        """
        self.closed, self.seq = frame["tick"], frame["seq"] + 1
        self.stopped, self.key_id = stopped_of((frame, *more)), frame["key_id"]
        for stream in self.streams:
            resume = next(r for r in frame["resume"] if r["topic"] == stream.topic)
            stream.next_offset, stream.running_max = resume["offset"], resume["running_max"]
            stream.first = 0  # no longer asked for: the first frame is long closed
            stream.passed_offset, stream.passed_max = np.array([-1]), np.array([stream.running_max])

    def due(self) -> tuple[int, int] | None:
        """First and last tick that both streams have passed and that have no frame yet."""
        firsts = [stream.first for stream in self.streams if stream.first is not None]
        if len(firsts) < len(self.streams):
            return None
        if self.closed == NEVER:
            # A record that is not late belongs to this tick or a later one: nothing comes before the first frame.
            self.closed = (min(firsts) - self.lateness_us) // self.tick_us - 1
        passed = min(stream.running_max for stream in self.streams)
        last = (passed - self.lateness_us) // self.tick_us - 1
        return (self.closed + 1, last) if last > self.closed else None

    def close(self, last: int, order: np.ndarray, names: Sequence[bytes], key_id: str) -> Iterator[Frame]:
        """The frames of the ticks that are due, in order.

        Args:
            last: tick to close, with all before it; at most the last that is due.
            order: (code,) position of each user code in the order of pseudonyms.
            names: (code,) pseudonyms.
            key_id: of their key; what stopped under another is forgotten.
        """
        for stream in self.streams:
            stream.gather()
        codes = np.full(len(order), -1)
        codes[order[::-1]] = np.arange(len(order))[::-1]  # the least code of each position: the user's own
        if key_id != self.key_id:
            self.stopped, self.key_id = Stopped.none(), key_id
        several = bool((codes < 0).any()) or len(self.stopped) > 0
        metrics = self._metrics(last, order, since=self.known_from if several else self.closed)
        grouped = self._group(metrics, last, order)
        series = _Series(metrics, several)
        self.stopped = _numbered(self.stopped, codes, names)
        tails = [self._tail(stream) for stream in self.streams]
        attributes = self._attributes()
        followed = (np.zeros(len(order), bool),) * BACK
        for tick in range(self.closed + 1, last + 1):
            if series.any:
                levels = series.of(tick - 2), series.of(tick - 1), series.of(tick)
                self.stopped = _named(
                    stopped_series.observe(self.stopped, levels, tick, self.tick_s), codes, names
                )
                users = stopped_series.followed(self.stopped, *levels[1:])
                followed = tuple(np.isin(order, of) for of in users)
            end = (tick + 1) * self.tick_us + self.lateness_us
            resume: list[Resume] = []
            refused: list[Counter[Refusal]] = []
            for number, stream in enumerate(self.streams):
                refused.append(self._refused(stream, tick))
                starts = self._resume(tails[number], tick), self._resume_early(stream, tick)
                resume.append(Resume(stream.topic, *min(*starts, stream.passed_at(end))))
            if followed[-1].any():
                start = self._resume_followed(tick, followed)
                resume[0] = min(resume[0], Resume(resume[0].topic, *start), key=lambda r: r.offset)
            groups = grouped.of(tick)
            yield Frame(
                seq=self.seq,
                tick=tick,
                groups=groups,
                codes=codes[groups.user],
                resume=tuple(resume),
                watermark_us=end,
                refused=(refused[0], refused[1]),
                attributes=attributes[tick],
                stopped=self.stopped,
            )
            self.seq += 1
        self.closed = last
        for stream, kept in zip(self.streams, (followed, ()), strict=True):
            closing, _ = stream.passed_at((last + 1) * self.tick_us + self.lateness_us)
            stream.forget(last, closing, self.tick_us, kept)

    def _metrics(self, last: int, order: np.ndarray, since: int) -> Columns:
        """Rows of metrics of the ticks after `since`, up to and including `last`, with what these take from earlier.

        Beside a stream's columns: user, the position in the order of pseudonyms, and sampled, the tick of the sample.
        """
        rows = _between(self.metrics.rows or _NONE[0], since, last)
        rows["sampled"] = rows["tick"]
        if slow := self.metrics.slow:
            taken = [
                aggregation.carry(slow, aggregation.carried(slow, tick, self.tick_us), rows, tick)
                for tick in range(since + 1, last + 1)
            ]
            rows = {name: np.concatenate([rows[name], *(t[name] for t in taken)]) for name in taken[0]}
        return rows | {"user": order[rows["code"]]}

    def _group(self, metrics: Columns, last: int, order: np.ndarray) -> Grouped:
        events = _between(self.events.rows or _NONE[1], self.closed, last)
        metrics = _between(metrics, self.closed, last)
        return aggregation.group(metrics, events | {"user": order[events["code"]]}, self.tick_s)

    def _attributes(self) -> defaultdict[int, Counter[Attribute]]:
        """Counts by tick of the attributes that events came with."""
        counts: defaultdict[int, Counter[Attribute]] = defaultdict(Counter)
        for part in self.events.tagged:
            of_row = (part[name].tolist() for name in ("tick", "code", "kind", "amount", "attributes"))
            for tick, code, kind, amount, attributes in zip(*of_row, strict=True):
                for key, value in attributes:
                    counts[tick][code, kind, key, value] += amount
        return counts

    def _refused(self, stream: TopicStream, tick: int) -> Counter[Refusal]:
        """What was refused of a tick; the first frame's is all that came before as well."""
        if not stream.refused:
            return Counter()
        at = stream.refused["tick"]
        return Counter(stream.refused["of"][(at == tick) | (at < tick if self.seq == 0 else False)].tolist())

    @staticmethod
    def _tail(stream: TopicStream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ticks in ascending order, the smallest offset among rows of that tick or later, and the maximum before it."""
        empty = np.zeros(0, np.int64)
        tick = stream.rows.get("tick", empty)
        by_tick = np.argsort(tick, kind="stable")[::-1]
        offset = stream.rows.get("offset", empty)[by_tick]
        smallest = np.minimum.accumulate(offset) if len(offset) else offset
        position = np.searchsorted(stream.rows.get("offset", empty), smallest)
        before = stream.rows.get("before", empty)[position]
        return tick[by_tick][::-1], smallest[::-1], before[::-1]

    @staticmethod
    def _resume(tail: tuple[np.ndarray, np.ndarray, np.ndarray], tick: int) -> tuple[int, int]:
        ticks, offsets, befores = tail
        at = int(np.searchsorted(ticks, tick, side="right"))
        return (int(offsets[at]), int(befores[at])) if at < len(ticks) else _NOWHERE

    def _resume_early(self, stream: TopicStream, tick: int) -> tuple[int, int]:
        """Offset, and maximum before it, of the first refused record or slow sample that later ticks may need."""
        needed: list[tuple[Columns, np.ndarray]] = []
        if stream.refused:
            needed.append((stream.refused, stream.refused["tick"] > tick))
        if stream.slow:
            needed.append((stream.slow, aggregation.lasting(stream.slow, tick + 1, self.tick_us)))
        firsts = [(rows, int(which.argmax())) for rows, which in needed if which.any()]
        return min(
            ((int(rows["offset"][at]), int(rows["before"][at])) for rows, at in firsts), default=_NOWHERE
        )

    def _resume_followed(self, tick: int, followed: Sequence[np.ndarray]) -> tuple[int, int]:
        """Offset, and maximum before it, of the first sample by which the next tick knows series of earlier ones.

        Args:
            tick: that is closed.
            followed: for each of the last ticks up to and including it, (code,) bool, series that are needed.
        """
        rows, slow = self.metrics.rows, self.metrics.slow
        starts = [_NOWHERE]
        for of, codes in _last(tick, followed):
            if rows:
                starts += _first(rows, (rows["tick"] == of) & codes[rows["code"]])
            if slow:
                taken = aggregation.carried(slow, of, self.tick_us).any(axis=1)
                starts += _first(slow, taken & codes[slow["code"]])
        return min(starts)


def _last(tick: int, each: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """The last ticks up to and including one, with an array of each."""
    return zip(range(tick + 1 - len(each), tick + 1), each, strict=True)


def _first(rows: Columns, which: np.ndarray) -> list[tuple[int, int]]:
    """Offset, and maximum before it, of the first of some rows in the order of offsets; none where there is none."""
    at = int(which.argmax()) if len(which) else 0
    return [(int(rows["offset"][at]), int(rows["before"][at]))] if which.any() else []


class _Series:
    """Series of each tick, from the rows of several; `any`: whether a user may have several."""

    def __init__(self, rows: Columns, wanted: bool) -> None:
        self.any = wanted
        by_tick = np.argsort(rows["tick"], kind="stable") if wanted else np.zeros(0, np.int64)
        names = ("tick", "code", "user", "weight", "weighted", "sampled")
        self._rows = {name: rows[name][by_tick] for name in names}
        self._known = dict[int, Levels]()

    def of(self, tick: int) -> Levels:
        """Series of a tick; of two ticks or more before the newest asked for, they are forgotten."""
        if tick not in self._known:
            first, last = np.searchsorted(self._rows["tick"], [tick, tick + 1])
            self._known = {of: levels for of, levels in self._known.items() if of >= tick - BACK}
            self._known[tick] = Levels.of({name: column[first:last] for name, column in self._rows.items()})
        return self._known[tick]


def _numbered(stopped: Stopped, codes: np.ndarray, names: Sequence[bytes]) -> Stopped:
    """With each user's position in the order of pseudonyms, -1 for users that have none; codes: (position,)."""
    if not len(stopped):
        return stopped
    places = np.flatnonzero(codes >= 0).tolist()
    users: list[int] = []
    for name in (stopped.name.tobytes()[at : at + 16] for at in range(0, 16 * len(stopped), 16)):
        at = bisect_left(places, name, key=lambda place: names[codes[place]])
        users.append(places[at] if at < len(places) and names[codes[places[at]]] == name else -1)
    return replace(stopped, user=np.array(users, np.int64))


def _named(stopped: Stopped, codes: np.ndarray, names: Sequence[bytes]) -> Stopped:
    """With each user's pseudonym, in their order."""
    fresh = np.flatnonzero((stopped.name == b"") & (stopped.user >= 0))
    if len(fresh):
        given = stopped.name.copy()
        given[fresh] = [names[code] for code in codes[stopped.user[fresh]].tolist()]
        stopped = replace(stopped, name=given)
    return stopped.ordered() if len(stopped) else stopped


def _between(rows: Columns, since: int, last: int) -> Columns:
    """Rows of ticks after `since`, up to and including `last`."""
    keep = (rows["tick"] > since) & (rows["tick"] <= last)
    return dict(rows) if keep.all() else {name: column[keep] for name, column in rows.items()}
