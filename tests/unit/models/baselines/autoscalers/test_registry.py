"""What holds of every policy: bounds, causality, one answer per app and setting, and the oracle's knowledge."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.baselines.autoscalers.overprovisioning import with_headroom
from models.baselines.autoscalers.registry import KNOBS, Facts, make

HOURS = 24 * 9
CAUSAL = [name for name in KNOBS if name != "oracle"]


def loads(seed: int, missing: float = 0.1) -> Any:
    """(tick, 3, 2): a daily cycle, noise and gaps; the last app has one metric."""
    rng = np.random.default_rng(seed)
    day = 6 + 4 * np.sin(2 * np.pi * np.arange(HOURS) / 24)
    load = day[:, None, None] * rng.lognormal(sigma=0.3, size=(HOURS, 3, 2))
    load[rng.random(load.shape) < missing] = np.nan
    load[:, 2, 1] = np.nan
    return load


def facts_of(load: Any, least: int = 2, most: int = 30, lead: int = 2) -> Facts:
    apps = load.shape[1]
    return Facts(load, np.full(apps, least), np.full(apps, most), 3_600, lead, first_tick=400_000)


def decisions(name: str, facts: Facts, rows: range) -> Any:
    """(row, setting, app), with everything ready in the next tick."""
    policy = make([name], facts)[name]
    ready = np.full((len(KNOBS[name].values), len(facts.least)), 4)
    decided: list[Any] = []
    for row in rows:
        ready = policy.decide(row, ready)
        decided.append(ready.copy())
    return np.stack(decided)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1_000), least=st.integers(0, 4), span=st.integers(0, 20))
@pytest.mark.parametrize("name", KNOBS)
def test_answers_lie_between_the_bounds_whatever_is_missing(
    name: str, seed: int, least: int, span: int
) -> None:
    facts = facts_of(loads(seed, missing=0.4), least, least + span)
    decided = decisions(name, facts, range(170, 200))
    assert decided.shape == (30, len(KNOBS[name].values), 3)
    assert decided.dtype == np.int64
    assert (decided >= least).all()
    assert (decided <= least + span).all()


@pytest.mark.parametrize("name", CAUSAL)
def test_nothing_after_the_row_is_looked_at(name: str) -> None:
    load = loads(1)
    other = load.copy()
    other[190:] = 25.0
    seen, unseen = (decisions(name, facts_of(one), range(150, 190)) for one in (load, other))
    np.testing.assert_array_equal(seen, unseen)


@pytest.mark.parametrize("name", CAUSAL)
def test_apps_do_not_see_each_other(name: str) -> None:
    load = loads(2)
    together = decisions(name, facts_of(load), range(150, 180))
    alone = decisions(name, facts_of(load[:, 1:2]), range(150, 180))
    np.testing.assert_array_equal(together[:, :, 1:2], alone)


@pytest.mark.parametrize("name", KNOBS)
def test_the_knob_orders_capacity_from_lean_to_ample(name: str) -> None:
    desired = decisions(name, facts_of(loads(3, missing=0.0), most=500), range(150, 216))
    if name == "hpa_overprovisioning":  # its knob is of the nodes
        desired = np.stack([with_headroom(of, np.array(KNOBS[name].values)) for of in desired])
    decided = desired.mean(axis=(0, 2))[1:]
    assert (np.diff(decided) >= 0).all()
    assert decided[-1] > decided[0]


@pytest.mark.parametrize("name", KNOBS)
def test_the_default_is_one_of_its_answers(name: str) -> None:
    facts = facts_of(loads(4))
    knob = KNOBS[name]
    every = decisions(name, facts, range(150, 160))
    policy = knob.make(facts, np.array([knob.default]))
    ready = np.full((1, 3), 4)
    for row, answer in zip(range(150, 160), every, strict=True):
        ready = policy.decide(row, ready)
        np.testing.assert_array_equal(ready[0], answer[0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), lead=st.integers(1, 4))
def test_the_oracle_is_never_short(seed: int, lead: int) -> None:
    facts = facts_of(loads(seed), least=0, most=10_000, lead=lead)
    wanted = KNOBS["oracle"].make(facts, np.array([1.0]))
    desired = np.stack([wanted.decide(row, np.zeros((1, 3), np.int64))[0] for row in range(HOURS - lead)])
    # at tick t serves the least of what was wanted at the ends of t − lead to t − 1
    for t in range(lead, HOURS - lead):
        assert (desired[t - lead : t].min(axis=0) >= np.nan_to_num(facts.need[t]) - 1e-5).all()
