"""Samples of many users and ticks -> one value for each tick and user.

Rows are summed by tick and user in the order given (`numpy.bincount`), and a sum goes on where it stood, so the same
rows give the same bits however they were batched and whenever they were condensed.
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
        values: (group, metric) float32, NaN = absent: mean over time, weighted by each sample's interval.
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


def group(metrics: Mapping[str, np.ndarray], kinds: Mapping[str, np.ndarray], tick_s: int) -> Grouped:
    """Values from sums that `condense` made.

    Args:
        metrics: of `samples`, with "user" (row,), the position in the order of pseudonyms.
        kinds: of `events`, likewise.
        tick_s: seconds of a tick.
    """
    rows = [{"tick": part["tick"], "code": part["user"]} for part in (metrics, kinds)]
    keys, row = np.unique(np.concatenate([_key(part) for part in rows]), return_inverse=True)
    of_metrics, of_kinds = row[: len(metrics["tick"])], row[len(metrics["tick"]) :]
    groups = len(keys)
    values = np.full((groups, metrics["weight"].shape[1]), np.nan, np.float32)
    known = metrics["weight"] > 0
    values[of_metrics] = np.divide(
        metrics["weighted"], metrics["weight"], out=np.full(known.shape, np.nan), where=known
    )
    saturated = np.zeros(values.shape, bool)
    saturated[of_metrics] = metrics["hit"]
    amounts = np.zeros((groups, kinds["amounts"].shape[1]))
    amounts[of_kinds] = kinds["amounts"]
    counts = np.zeros((2, groups), np.uint32)
    counts[0, of_metrics], counts[1, of_kinds] = metrics["count"][:, 0], kinds["count"][:, 0]
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
