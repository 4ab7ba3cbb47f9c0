"""What packing loses: known cases, and enough nodes in the asked share of scenarios that it was not learnt from."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.nodes.fragmentation import factor, lost, near
from models.nodes.packing import fluid_nodes, nodes_needed

TYPES = {
    "small": np.array([3.5, 12.0, 30.0]),
    "balanced": np.array([15.5, 60.0, 110.0]),
    "memory": np.array([7.5, 120.0, 110.0]),
}


def mix(apps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (app, resource) that fit all types, and mean replicas (app)."""
    rng = np.random.default_rng(seed)
    cpu, memory = rng.choice([0.25, 0.5, 1, 2, 3], apps), rng.choice([0.5, 1, 2, 4, 8], apps)
    return np.stack([cpu, memory, np.ones(apps)], axis=1), rng.gamma(1, 12, apps)


def scenarios(mean: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Replicas (scenario, app) of apps that rise together now and then."""
    rng = np.random.default_rng(seed)
    common = rng.lognormal(0, 0.3, (number, 1))
    return rng.poisson(mean * common * rng.lognormal(0, 0.3, (number, len(mean))))


@pytest.mark.parametrize("share", [0.9, 0.99])
@pytest.mark.parametrize("name", list(TYPES))
def test_nodes_suffice_in_the_asked_share_of_other_scenarios(name: str, share: float) -> None:
    size, mean = mix(20)
    learnt, others = scenarios(mean, 4_096, 1), scenarios(mean, 4_096, 2)
    loss = factor(learnt, size, TYPES[name], share)
    fluid = np.quantile(fluid_nodes(learnt, size, TYPES[name]), share, method="inverted_cdf")
    bought = math.ceil(loss.max() * fluid)
    needed = nodes_needed(others, size, TYPES[name])
    # both sets err by sqrt(p (1 - p) / 4,096), 0.16 % at 99 %, and the 48 packed ones by as much
    error = 4 * math.sqrt(3 * share * (1 - share) / 4_096)
    assert (needed <= bought).mean() >= share - error
    # and it is not bought for nothing
    assert bought <= np.quantile(needed, min(1.0, share + error), method="higher") + 1
    assert loss.max() > 1.0


@pytest.mark.parametrize("seed", range(6))
def test_few_packings_tell_what_all_do(seed: int) -> None:
    size, mean = mix(15, seed)
    counts = scenarios(mean, 4_096, seed)
    exact = factor(counts, size, TYPES["balanced"], 0.99, simulations=10**6)
    nodes = np.quantile(fluid_nodes(counts, size, TYPES["balanced"]), 0.99)
    # to about a node
    assert factor(counts, size, TYPES["balanced"], 0.99)[0] * nodes == pytest.approx(
        exact[0] * nodes, abs=1.5
    )


def test_replicas_that_fill_nodes_lose_nothing() -> None:
    counts = np.arange(400, 500)[:, None] * np.array([1, 2])
    # a node that is not full, less half a node
    assert 1 <= factor(counts, np.array([[1.0], [2.0]]), np.array([4.0]), 0.9)[0] <= 1 + 0.5 / 500


def test_three_quarters_of_a_node_lose_a_quarter() -> None:
    counts = np.arange(1_000, 2_000)[:, None]
    assert factor(counts, np.array([[3.0]]), np.array([4.0]), 0.9)[0] == pytest.approx(
        4 / 3 - 0.5 / 1_420, abs=1e-4
    )


def test_what_nobody_asks_for_needs_no_more() -> None:
    counts = np.full((64, 1), 50)
    loss = factor(counts, np.array([[3.0, 0.0, 1.0]]), np.array([4.0, 9.0, 100.0]), 0.9)
    assert loss[0] == loss[2] > 1
    assert loss[1] == 1


def test_it_is_a_function_of_its_arguments() -> None:
    size, mean = mix(10)
    counts = scenarios(mean, 4_096, 1)
    first = near(fluid_nodes(counts, size, TYPES["small"]), 0.99, (1,))
    assert (first == near(fluid_nodes(counts, size, TYPES["small"]), 0.99, (1,))).all()
    assert (first != near(fluid_nodes(counts, size, TYPES["small"]), 0.99, (2,))).any()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=200),
    st.sampled_from([0.5, 0.9, 0.99]),
    st.integers(1, 60),
)
def test_those_that_decide_have_the_largest_needs(fluid: list[int], share: float, simulations: int) -> None:
    needs = np.array(fluid, float)
    chosen = near(needs, share, (0,), simulations)
    assert 1 <= len(chosen) <= simulations
    assert len(set(chosen.tolist())) == len(chosen)
    assert (np.diff(needs[chosen]) >= 0).all()
    assert needs[chosen].min() >= np.quantile(
        needs, max(0, 1 - 3 * (1 - share) - 8 / len(needs)), method="lower"
    )


def test_nothing_needed_loses_nothing() -> None:
    assert factor(np.zeros((100, 2), np.int64), np.ones((2, 1)), np.array([4.0]), 0.99).tolist() == [1.0]
    assert lost(np.zeros(0), np.zeros(0, np.int64), 0.99, 0) == 1.0
    with pytest.raises(ValueError, match="a replica of app 0 asks for more"):
        factor(np.ones((9, 1), np.int64), np.array([[5.0]]), np.array([4.0]), 0.99)
