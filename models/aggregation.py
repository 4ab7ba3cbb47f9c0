"""Samples of many series and ticks -> one value for each tick and user.

A series is what one producer reports of one instance of a user. Its value of a tick is the mean over time of its
samples, a user's is the sum over the user's series. Rows are summed by tick and series in the order given
(`numpy.bincount`), and a sum goes on where it stood, so the same rows give the same bits however they were batched and
whenever they were condensed.

A sample whose interval is longer than a tick also stands for the later ticks that start within its interval, where its
series has no sample of its own (`carried`). Of several, that which lasts longest does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Columns = dict[str, np.ndarray]
FIRST = ("offset", "before", "tick", "code")
"""Columns of which a sum keeps its first row's."""


@dataclass(frozen=True)
class Grouped:
    """Values by tick and user, ascending.

    Attributes:
        tick: (group,) int64.
        user: (group,) int64: position in the order of pseudonyms.
        values: (group, metric) float32, NaN = absent: sum over the user's series of each one's mean over time, weighted
            by each sample's interval.
        saturated: (group, metric) bool: some sample was a lower bound.
        samples, events: (group,) uint32: metric samples and event records.
        rates: (group, kind) float32, 1/s, NaN = no event.
    """

    tick: np.ndarray
    user: np.ndarray
    values: np.ndarray
    saturated: np.ndarray
    samples: np.ndarray
    events: np.ndarray
    rates: np.ndarray

    def of(self, tick: int) -> "Grouped":
        """The groups of one tick."""
        first, last = np.searchsorted(self.tick, [tick, tick + 1])
        return Grouped(*(getattr(self, name)[first:last] for name in self.__dataclass_fields__))


def used_share(used: np.ndarray, refused: np.ndarray) -> float:
    """Least share of records that were used, of each kind; 1 without records. used, refused: (kind,) counts."""
    whole = used + refused
    return float(np.divide(used, whole, out=np.ones(len(whole)), where=whole > 0).min(initial=1.0))


def missing_share(missing: np.ndarray, whole: np.ndarray) -> float:
    """Largest share of a metric's usage that is missing; 0 without usage.

    Args:
        missing, whole: (metric,), whole with what is missing, NaN = not measured.
    """
    known = whole > 0
    return float(np.divide(missing, whole, out=np.zeros(len(whole)), where=known).max(initial=0.0))


def samples(interval_s: np.ndarray, values: np.ndarray, saturated: np.ndarray) -> Columns:
    """What each metric sample adds.

    Args:
        interval_s: (sample,).
        values, saturated: (sample, metric), NaN = absent.

    Returns:
        weight, weighted (sample, metric) float64, hit (sample, metric) bool, count (sample, 1) uint32.
    """
    present = ~np.isnan(values)
    weight = np.where(present, interval_s[:, None], 0.0)
    return {
        "weight": weight,
        "weighted": weight * np.where(present, values, 0.0),
        "hit": saturated & present,
        "count": np.ones((len(values), 1), np.uint32),
    }


def events(kind: np.ndarray, amount: np.ndarray, kinds: int) -> Columns:
    """What each event record adds: amounts (event, kinds) float64, count (event, 1) uint32; kind, amount: (event,)."""
    return {
        "amounts": np.where(kind[:, None] == np.arange(kinds), amount[:, None], 0.0),
        "count": np.ones((len(kind), 1), np.uint32),
    }


def condense(parts: list[Columns]) -> Columns:
    """Rows summed to one for each tick and user, in the order of their first rows.

    Args:
        parts: rows in order, or what this gave: FIRST (row,) int64, and columns to sum (row, ...).
    """
    _, first, group = np.unique(
        np.concatenate([_key(part) for part in parts]), return_index=True, return_inverse=True
    )
    if len(first) == len(group):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[-1]}
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    group, first = place[group], first[order]
    out: Columns = {}
    for name in parts[-1]:  # one after the other: all of them joined at once are the peak of ingest's memory
        column = np.concatenate([part[name] for part in parts])
        if name in FIRST:
            out[name] = column[first]
        else:
            sums = [np.bincount(group, column[:, k], len(first)) for k in range(column.shape[1])]
            total = np.stack(sums, axis=-1)
            out[name] = total > 0 if column.dtype == bool else total.astype(column.dtype)
    return out


def carried(slow: Columns, tick: int, tick_us: int) -> np.ndarray:
    """(row, metric) bool: which samples a tick takes from earlier ones, the newest of each series and metric.

    Args:
        slow: rows of `samples` that stand for more than a tick, in the order of offsets, with `tick`, `code` (the
            series), `ts` and `until` (row,): the sample's time and the end of the interval after it, microseconds.
        tick: that takes them; its own samples are not among those that are taken.
        tick_us: length of a tick.
    """
    weight = slow["weight"]
    chosen = np.zeros_like(weight, bool)
    newest = _newest_first(slow, tick, tick_us)
    for metric in range(weight.shape[1]):
        rows = newest[weight[newest, metric] > 0]
        chosen[rows[np.unique(slow["code"][rows], return_index=True)[1]], metric] = True
    return chosen


def lasting(slow: Columns, tick: int, tick_us: int) -> np.ndarray:
    """(row,) bool: which samples of earlier ticks a tick, or a later one, may take: all that outlast newer ones.

    Args: as of `carried`.
    """
    kept = np.zeros(len(slow["until"]), bool)
    newest = _newest_first(slow, tick, tick_us)
    for metric in range(slow["weight"].shape[1]):
        rows = newest[slow["weight"][newest, metric] > 0]
        left = slow["until"][rows] - tick * tick_us
        series = np.unique(slow["code"][rows], return_inverse=True)[1]
        rank = left + series * (left.max(initial=0) + 1)  # above all of the series before
        kept[rows[np.diff(np.maximum.accumulate(rank), prepend=-1) > 0]] = True
    return kept


def _newest_first(slow: Columns, tick: int, tick_us: int) -> np.ndarray:
    """Positions of the samples of earlier ticks whose interval reaches into a tick, by series, the newest first."""
    at = np.flatnonzero((slow["tick"] < tick) & (slow["until"] > tick * tick_us))
    return at[np.lexsort((at, -slow["until"][at], -slow["ts"][at], slow["code"][at]))]


def carry(slow: Columns, chosen: np.ndarray, own: Mapping[str, np.ndarray], tick: int) -> Columns:
    """Rows of `samples` for a tick from the samples that it takes, without what its own samples have; their count is 0.

    `sampled` is the tick that a sample was of.

    Args:
        slow, chosen: of `carried`.
        own: condensed rows, of this tick among others.
        tick: number of the tick.
    """
    mine = own["tick"] == tick
    code, known = own["code"][mine], own["weight"][mine] > 0
    by_code = np.argsort(code)
    rows = np.flatnonzero(chosen.any(axis=1))
    taken = chosen[rows]
    if len(code):
        place = by_code[np.minimum(np.searchsorted(code[by_code], slow["code"][rows]), len(code) - 1)]
        taken = taken & ~(known[place] & (code[place] == slow["code"][rows])[:, None])
        rows, taken = rows[taken.any(axis=1)], taken[taken.any(axis=1)]
    return {
        **{name: slow[name][rows] for name in FIRST},
        "sampled": slow["tick"][rows],
        "tick": np.full(len(rows), tick),
        "weight": np.where(taken, slow["weight"][rows], 0.0),
        "weighted": np.where(taken, slow["weighted"][rows], 0.0),
        "hit": slow["hit"][rows] & taken,
        "count": np.zeros((len(rows), 1), np.uint32),
    }


def group(metrics: Mapping[str, np.ndarray], kinds: Mapping[str, np.ndarray], tick_s: int) -> Grouped:
    """Values from sums that `condense` made.

    Args:
        metrics: of `samples`, with "user" (row,), the position in the order of pseudonyms; a row a series.
        kinds: of `events`, likewise.
        tick_s: seconds of a tick.
    """
    rows = [{"tick": part["tick"], "code": part["user"]} for part in (metrics, kinds)]
    keys, row = np.unique(np.concatenate([_key(part) for part in rows]), return_inverse=True)
    of_metrics, of_kinds = row[: len(metrics["tick"])], row[len(metrics["tick"]) :]
    groups = len(keys)
    known = metrics["weight"] > 0
    means = np.divide(metrics["weighted"], metrics["weight"], out=np.full(known.shape, np.nan), where=known)
    values = np.full((groups, means.shape[1]), np.nan, np.float32)
    saturated = np.zeros(values.shape, bool)
    counts = np.zeros((2, groups), np.uint32)
    series = np.bincount(of_metrics, minlength=groups)
    if series.max(initial=0) <= 1:
        values[of_metrics], saturated[of_metrics] = means, metrics["hit"]
        counts[0, of_metrics] = metrics["count"][:, 0]
    else:
        for metric in range(means.shape[1]):
            rows = known[:, metric]
            place = np.unique(of_metrics[rows])
            values[place, metric] = np.bincount(of_metrics[rows], means[rows, metric], groups)[place]
            saturated[of_metrics[metrics["hit"][:, metric]], metric] = True
        counts[0] = np.bincount(of_metrics, metrics["count"][:, 0], groups)
    amounts = np.zeros((groups, kinds["amounts"].shape[1]))
    amounts[of_kinds] = kinds["amounts"]
    counts[1, of_kinds] = kinds["count"][:, 0]
    return Grouped(
        tick=keys >> _CODE_BITS,
        user=keys & ((1 << _CODE_BITS) - 1),
        values=values,
        saturated=saturated,
        samples=counts[0],
        events=counts[1],
        rates=np.where(amounts > 0, amounts / tick_s, np.nan).astype(np.float32),
    )


_CODE_BITS = 31
"""Of a key; the other 32 hold the tick's number: seconds until the year 2106."""


def _key(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return (columns["tick"] << _CODE_BITS) + columns["code"]
