"""Series of a user that stop while others of the user still report: what they last used counts for a while.

A series is what one producer reports of one instance (`models.aggregation`). One that has neither a sample in the tick
nor one whose interval reaches into it, and had in the tick before, has gone: its producer died, or its instance ended,
which nothing in the telemetry tells apart. Of one user and metric, in units of the metric:

    whole   = the lesser of what the user's series reported, with what counted of stopped ones, in the two ticks before;
              of a user with one series or none in the earlier one, and none that counted, the largest of the later one
    missing = whole - reported - what counts of those that stopped before, at least 0 and at most what those that went
              last used, less what came

Where less than half a series is missing, by the mean over the metrics that follow load, others took over or replaced
it; one that carried no load for its part, as when it was drained, has ended. That is judged in the first tick and until
TAKEN_OVER_S: a load balancer needs a moment. What comes later, new or back, is subtracted, first from the stop that
used about as much. What is left is forgotten as silent users are (`models.demand.turnover.silent_ticks`). A user of one
series is not followed: such a user is silent.

Where a sampler is slow, one that came is remembered for as long as a series of the user has not reported since: a
producer that starts again under a new name comes long before the interval of its old self ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.demand.turnover import silent_ticks
from models.metrics import METRICS

NAMES: Final = np.dtype("S16")
LOAD: Final = np.array([metric != "memory" for metric in METRICS])
"""Metrics that others take over when an instance ends; what an instance holds in memory goes with it."""
DRAINED: Final = 0.01
"""Of the mean of the user's series, what a series uses at most that was drained before it ended."""
ALIKE: Final = 0.25
"""Of the larger of two amounts, the most by which they differ and are about as much."""
TAKEN_OVER_S: Final = 30
TAKEN_OVER_TICKS: Final = 2
MOST: Final = 200_000
"""Entries at most, the newest: 15 MB of a partition's frame."""
_ROUNDING: Final = 1e-6

Amounts = NDArray[np.float64]


@dataclass(frozen=True)
class Levels:
    """Series with usage in one tick.

    code: (row,) of the series; user: (row,) its user's number; used: (row, METRICS) mean over time, 0 where absent,
    known: (row, METRICS) whether present; sampled: (row,) tick of the sample, an earlier one where its interval reaches
    into this one.
    """

    code: NDArray[np.int64]
    user: NDArray[np.int64]
    used: Amounts
    known: NDArray[np.bool_]
    sampled: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Mapping[str, NDArray[Any]]) -> Levels:
        """From rows of one tick: `weight` and `weighted` of `models.aggregation.samples`, code, user and sampled."""
        known = rows["weight"] > 0
        used = np.divide(rows["weighted"], rows["weight"], out=np.zeros(known.shape), where=known)
        present = known.any(axis=1)
        return cls(
            rows["code"][present],
            rows["user"][present],
            used[present],
            known[present],
            rows["sampled"][present],
        )

    def several(self) -> NDArray[np.int64]:
        """Users of two series or more, ascending."""
        rows = np.flatnonzero(np.bincount(self.user)[self.user] > 1) if len(self.user) else self.user
        first = np.unique(self.code[rows], return_index=True)[1]
        users, series = np.unique(self.user[rows[first]], return_counts=True)
        return users[series > 1]

    def at(self, rows: NDArray[np.bool_]) -> Levels:
        """Some of the rows."""
        return Levels(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def knows(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(user, METRICS) which metrics the series of some users (ascending) report."""
        known = np.zeros((len(users), len(METRICS)), bool)
        mine = np.isin(self.user, users)
        np.logical_or.at(known, np.searchsorted(users, self.user[mine]), self.known[mine])
        return known

    def mean(self, users: NDArray[np.int64]) -> Amounts:
        """Usage of some users (ascending) by series (user, METRICS)."""
        used, series = self.total(users)
        return used / np.maximum(series, 1)[:, None]

    def oldest(self, users: NDArray[np.int64], tick: int) -> NDArray[np.int64]:
        """(user,) tick of the oldest sample of some users (ascending); `tick` of those that have none."""
        mine = np.isin(self.user, users)
        oldest = np.full(len(users), tick)
        np.minimum.at(oldest, np.searchsorted(users, self.user[mine]), self.sampled[mine])
        return oldest

    def total(self, users: NDArray[np.int64]) -> tuple[Amounts, NDArray[np.int64]]:
        """Usage (user, METRICS), and number of series, of some users (ascending)."""
        mine = np.isin(self.user, users)
        place = np.searchsorted(users, self.user[mine])
        sums = np.zeros((len(users), len(METRICS)))
        np.add.at(sums, place, self.used[mine])
        one_each = np.searchsorted(users, self.user[mine][np.unique(self.code[mine], return_index=True)[1]])
        return sums, np.bincount(one_each, minlength=len(users))


@dataclass(frozen=True)
class Stopped:
    """Series that stopped and count, such as came and may replace one that has not ended yet, and what counted before.

    Attributes:
        name: (entry,) NAMES, pseudonym of the user.
        user: (entry,) number of the user, -1 where the user has none.
        tick: (entry,) first tick without the series; of those that came their first, of what counted before the newest.
        series: (entry,) int32, how many; negative of those that came, 0 of what counted in the tick before the newest
            and no longer does.
        used: (entry, METRICS) float32, what of them counts.
        whole: (entry, METRICS) float32, what the user's series reported before.
    """

    name: NDArray[np.bytes_]
    user: NDArray[np.int64]
    tick: NDArray[np.int64]
    series: NDArray[np.int32]
    used: NDArray[np.float32]
    whole: NDArray[np.float32]

    @classmethod
    def none(cls) -> Stopped:
        """No entry."""
        amounts, number = np.zeros((0, len(METRICS)), np.float32), np.zeros(0, np.int64)
        return cls(np.zeros(0, NAMES), number, number, number.astype(np.int32), amounts, amounts)

    def __len__(self) -> int:
        return len(self.tick)

    def at(self, rows: NDArray[Any] | slice) -> Stopped:
        """Some of the entries, by mask or in an order."""
        return Stopped(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def joined(self, more: Stopped) -> Stopped:
        """These entries, then more."""
        pairs = ((getattr(self, name), getattr(more, name)) for name in self.__dataclass_fields__)
        return Stopped(*(np.concatenate(pair) for pair in pairs))

    def ordered(self) -> Stopped:
        """By user and tick, the newest MOST."""
        newest = np.lexsort((self.name, -self.tick))[:MOST]
        kept = self.at(newest)
        return kept.at(np.lexsort((kept.series, kept.tick, kept.name)))


def observe(entries: Stopped, ticks: tuple[Levels, Levels, Levels], tick: int, tick_s: int) -> Stopped:
    """Entries after a tick, in no order; new ones without a name.

    Args:
        entries: after the tick before.
        ticks: series of the two ticks before and of the tick; of the earlier two at least all of users that
            `followed` named.
        tick: number of the tick.
        tick_s: its length.
    """
    earlier, before, now = ticks
    ended, entries = entries.at(entries.series == 0), entries.at(entries.series != 0)
    entries = entries.at((entries.series < 0) | (tick - entries.tick < silent_ticks(tick_s)))
    gone = ~np.isin(before.code, now.code)
    fresh = ~np.isin(now.code, before.code)
    held = entries.user[entries.user >= 0]
    several = before.at(np.isin(before.user, before.user[gone])).several() if gone.any() else held[:0]
    gone &= np.isin(before.user, np.union1d(several, held))
    waits = (now.sampled < tick) & ~fresh
    doubled = np.intersect1d(now.user[fresh], now.user[waits]) if waits.any() else held[:0]
    users = np.unique(np.concatenate([before.user[gone], held, doubled]))
    if not len(users):
        return entries

    went, lost = before.at(gone).total(users)
    came, newcomers = now.at(fresh).total(users)
    reported, _ = now.total(users)
    left = np.maximum(went - came, 0)
    came = np.maximum(came - went, 0)
    oldest = before.at(gone).oldest(users, tick)
    place = np.searchsorted(users, entries.user)
    known = entries.user >= 0
    credit = known & (entries.series < 0)
    credit[credit] = entries.tick[credit] > oldest[place[credit]]
    used, left = _drained(entries, place, credit, left)

    stopped = known & (entries.series > 0)
    after, came = _drained(entries, place, stopped, came)
    used[stopped] = after[stopped]
    judged = stopped & (tick - entries.tick < max(TAKEN_OVER_TICKS, -(-TAKEN_OVER_S // tick_s)))
    short = np.maximum(entries.whole[judged] - reported[place[judged]], 0)
    used[judged] = np.minimum(used[judged], short)
    counts = entries.series.copy()
    counts[stopped] = _series(counts[stopped], used[stopped], entries.used[stopped].astype(np.float64))
    used[stopped & (counts == 0)] = 0

    counted_earlier = _sums(entries, users, stopped & (entries.tick < tick - 1)) + _sums(ended, users)
    counted_before = _sums(entries, users, stopped)
    remaining = _sums(replace(entries, used=used), users, stopped)
    no_longer = counted_before - remaining
    whole = _whole(earlier, before, users, (counted_earlier, counted_before)) - remaining
    missing = np.clip(whole - reported, 0, left)
    drained = before.at(gone).knows(users) & (went <= DRAINED * lost[:, None] * before.mean(users)) & LOAD
    series = _series(lost, missing, np.where(drained, 0, went), ended=drained.any(axis=1))

    oldest = now.oldest(users, tick)
    waiting = np.zeros(len(entries), bool)
    waiting[known] = oldest[place[known]] < entries.tick[known]
    keep = (counts > 0) | ((counts < 0) & waiting & (used > 0).any(axis=1))
    entries = Stopped(
        entries.name, entries.user, entries.tick, counts, used.astype(np.float32), entries.whole
    ).at(keep)
    replacing = np.isin(users, doubled) & (came > 0).any(axis=1)
    for chosen, number, amount, before_them in (
        (series > 0, series, missing, whole),
        (replacing, -newcomers, came, np.zeros(whole.shape)),
        ((no_longer > 0).any(axis=1), np.zeros(len(users)), no_longer, np.zeros(whole.shape)),
    ):
        entries = entries.joined(
            _entries(users[chosen], tick, number[chosen], amount[chosen], before_them[chosen])
        )
    return entries


def followed(entries: Stopped, before: Levels, now: Levels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users whose series in the tick before, and in this one, the next tick needs, each ascending."""
    known = entries.user >= 0
    users = np.union1d(now.several(), entries.user[known])
    counted = entries.user[known & (entries.series >= 0)]
    return np.union1d(np.intersect1d(before.several(), users), counted), users


def _whole(
    earlier: Levels, before: Levels, users: NDArray[np.int64], counted: tuple[Amounts, Amounts]
) -> Amounts:
    """What users (user, METRICS) were taken to use: the module's `whole`.

    counted: of stopped series, in the earlier tick and in the one before.
    """
    first, last = earlier.total(users)[0] + counted[0], before.total(users)[0] + counted[1]
    largest = np.zeros(first.shape)
    mine = np.isin(before.user, users)
    np.maximum.at(largest, np.searchsorted(users, before.user[mine]), before.used[mine])
    several = np.isin(users, earlier.several()) | (counted[0] > 0).any(axis=1)
    return np.minimum(np.where(several[:, None], first, largest), last)


def _sums(entries: Stopped, users: NDArray[np.int64], which: NDArray[np.bool_] | None = None) -> Amounts:
    """What some of the entries, all by default, use of each of some users (ascending): (user, METRICS)."""
    mine = np.isin(entries.user, users) if which is None else which & np.isin(entries.user, users)
    sums = np.zeros((len(users), len(METRICS)))
    np.add.at(sums, np.searchsorted(users, entries.user[mine]), entries.used[mine])
    return sums


def _entries(
    users: NDArray[np.int64], tick: int, series: NDArray[Any], used: Amounts, whole: Amounts
) -> Stopped:
    return Stopped(
        np.zeros(len(users), NAMES),
        users,
        np.full(len(users), tick),
        series.astype(np.int32),
        used.astype(np.float32),
        whole.astype(np.float32),
    )


def _series(number: NDArray[Any], used: Amounts, of: Amounts, ended: Any = False) -> NDArray[np.int32]:
    """How many of some series are missing of which `used` (entry, metric) is left `of` what they used.

    ended: (entry,) whether they have ended if they have no load.
    """
    counts = (of > 0) & LOAD
    memory = ~(counts.any(axis=1) | ended)
    counts = np.where(memory[:, None], of > 0, counts)
    share = np.divide(used, of, out=np.zeros(of.shape), where=counts).sum(axis=1)
    share /= np.maximum(counts.sum(axis=1), 1)
    return np.maximum(np.ceil(number * share - 0.5 - _ROUNDING), 0).astype(np.int32)


def _drained(
    entries: Stopped, place: NDArray[np.int64], which: NDArray[np.bool_], amount: Amounts
) -> tuple[Amounts, Amounts]:
    """What is left of entries (entry, metric), and of amounts (user, metric) that are taken from them.

    First from the entry that used about as much, by the mean over metrics of the difference to the larger of the two.
    Of several such stops the oldest, and of several such as came the newest: what is left may be any of them, and then
    counts until the last of them would no longer.
    """
    used, amount = entries.used.astype(np.float64), amount.copy()
    rows = np.flatnonzero(which)
    while len(rows):
        of = place[rows]
        larger = np.maximum(used[rows], amount[of])
        apart = np.abs(used[rows] - amount[of])
        apart = np.divide(apart, larger, out=np.zeros(larger.shape), where=larger > 0).sum(axis=1)
        apart /= np.maximum((larger > 0).sum(axis=1), 1)
        apart = np.where(apart < ALIKE, 0, apart)
        rows = rows[np.lexsort((np.sign(entries.series[rows]) * entries.tick[rows], apart, of))]
        first = np.ones(len(rows), bool)
        first[1:] = place[rows][1:] != place[rows][:-1]
        of = place[rows[first]]
        taken = np.minimum(used[rows[first]], amount[of])
        used[rows[first]] -= taken
        amount[of] -= taken
        rows = rows[~first]
    return used, amount


class Carried(NamedTuple):
    """What stopped series add to users, and how many they are.

    A series counts as stopped from its second tick of silence on: a sample can slip over a tick's edge.

    stopped, slips: (user,) number of series; of_stopped, of_slips: (user, METRICS) what they last used.
    """

    stopped: NDArray[np.int64]
    slips: NDArray[np.int64]
    of_stopped: Amounts
    of_slips: Amounts


def carried(entries: Stopped, users: NDArray[np.bytes_], reports: NDArray[np.bool_], tick: int) -> Carried:
    """What the entries add to the users of a tick.

    Args:
        entries: after the tick.
        users: (user,) NAMES, ascending.
        reports: (user,) whether the user has usage in the tick: one without is silent.
        tick: number of the tick.
    """
    place = np.minimum(np.searchsorted(users, entries.name), max(len(users) - 1, 0))
    mine = (entries.series > 0) & (reports[place] & (users[place] == entries.name) if len(users) else False)
    series = np.zeros((2, len(users)), np.int64)
    used = np.zeros((2, len(users), len(METRICS)))
    for number, which in enumerate((mine & (entries.tick < tick), mine & (entries.tick >= tick))):
        np.add.at(series[number], place[which], entries.series[which])
        np.add.at(used[number], place[which], entries.used[which])
    return Carried(series[0], series[1], used[0], used[1])


def with_carried(values: NDArray[np.float32], carried: Carried) -> NDArray[np.float32]:
    """Usage (user, METRICS), NaN = absent, with what stopped series last used."""
    more = (carried.of_stopped + carried.of_slips).astype(np.float32)
    return np.where(more > 0, np.nan_to_num(values) + more, values)
