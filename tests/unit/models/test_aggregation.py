"""Sums by tick and user: the same bits whenever they are condensed, in the memory of the users alone."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models import aggregation
from models.aggregation import Columns


def rows(number: int, seed: int = 0) -> Columns:
    """Samples of 3 users in 2 ticks, with intervals and values that no sum holds exactly."""
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=(number, 5))
    values[rng.random(values.shape) < 0.2] = np.nan
    offset = np.arange(number)
    return {"offset": offset, "before": offset - 1, "tick": rng.integers(5, 7, number)} | (
        {"code": rng.integers(0, 3, number)}
        | aggregation.samples(rng.random(number), values, rng.random((number, 5)) < 0.1)
    )


def split(columns: Columns, at: list[int]) -> list[Columns]:
    ends = [0, *sorted(at), len(columns["tick"])]
    return [{n: c[a:b] for n, c in columns.items()} for a, b in pairwise(ends)]


@given(st.lists(st.integers(0, 60), max_size=5))
def test_sums_do_not_depend_on_when_they_are_condensed(at: list[int]) -> None:
    whole = aggregation.condense([rows(60)])
    sums: list[Columns] = []
    for part in split(rows(60), at):
        sums = [aggregation.condense([*sums, part])]
    for name, column in whole.items():
        assert sums[0][name].tobytes() == column.tobytes(), name


def test_a_sum_keeps_its_first_row_and_the_order_of_first_rows() -> None:
    found = aggregation.condense([rows(60)])
    assert len(found["tick"]) == 6
    assert (np.diff(found["offset"]) > 0).all()
    given_rows = rows(60)
    for at in range(6):
        mine = (given_rows["tick"] == found["tick"][at]) & (given_rows["code"] == found["code"][at])
        assert found["offset"][at] == np.flatnonzero(mine)[0]
        assert found["count"][at, 0] == mine.sum()
        np.testing.assert_allclose(found["weight"][at], given_rows["weight"][mine].sum(0))


def test_a_metric_that_is_not_there_is_absent_and_a_tick_without_events_has_no_rate() -> None:
    one = np.zeros(1, np.int64)
    first = dict.fromkeys(aggregation.FIRST, one) | {"user": one}
    values = np.array([[2.0, np.nan]])
    metrics = first | aggregation.samples(np.array([3.0]), values, np.array([[False, True]]))
    events = first | aggregation.events(np.array([1]), np.array([6.0]), 2)
    events |= {"tick": one + 1}
    grouped = aggregation.group(metrics, events, tick_s=60)
    assert grouped.tick.tolist() == [0, 1]
    np.testing.assert_array_equal(grouped.values, [[2.0, np.nan], [np.nan, np.nan]])
    assert not grouped.saturated.any()  # no sample of the second metric
    np.testing.assert_array_equal(grouped.rates, np.array([[np.nan, np.nan], [np.nan, 0.1]], np.float32))
    assert (grouped.samples.tolist(), grouped.events.tolist()) == ([1, 0], [0, 1])
