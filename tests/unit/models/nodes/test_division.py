"""Room on nodes divided among apps: never more than there is, by priority, and as sure as it allows among equals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.nodes.division import divided
from models.nodes.packing import Nodes, Replicas

SIZE = np.array([[1.0], [1.0]])


def needs(*rate: float) -> np.ndarray:
    """(app, scenario) what apps need whose demand is exponential."""
    return np.ceil(np.random.default_rng(0).exponential(rate, (1_000, len(rate)))).T.astype(np.int32)


def nodes(cores: float) -> Nodes:
    return Nodes(np.full((int(cores), 1), 1.0), np.zeros(int(cores), np.int64))


def test_where_all_fits_apps_have_what_they_want() -> None:
    wanted = np.array([20, 10])
    of = divided(wanted, np.array([3, 2]), needs(4.0, 2.0), Replicas(("cpu",), SIZE), nodes(30))
    assert of.replicas.tolist() == [20, 10]
    assert not of.bounded.any()
    assert of.reasons == ("", "")


def test_equals_are_as_sure_as_each_other() -> None:
    need, wanted = needs(4.0, 2.0), np.array([20, 10])
    of = divided(wanted, np.array([3, 2]), need, Replicas(("cpu",), SIZE), nodes(21))
    assert of.bounded.all()
    assert 20 <= of.replicas.sum() <= 21
    sure = (need <= of.replicas[:, None]).mean(axis=1)
    assert sure[0] == pytest.approx(sure[1], abs=0.02)


def test_a_higher_priority_is_not_lessened_by_a_lower_one() -> None:
    ranked = Replicas(("cpu",), SIZE, np.array([0, 5]))
    of = divided(np.array([20, 10]), np.array([3, 2]), needs(4.0, 2.0), ranked, nodes(21))
    assert of.replicas[1] == 10
    assert 3 <= of.replicas[0] <= 11


def test_what_the_present_usage_fills_is_wanted_also_where_it_has_no_room() -> None:
    of = divided(np.array([20, 10]), np.array([6, 4]), needs(4.0, 2.0), Replicas(("cpu",), SIZE), nodes(5))
    assert of.replicas.tolist() == [6, 4]
    assert of.placed.sum() == 5
    assert all("cpu" in why for why in of.reasons)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=4),
    st.integers(0, 60),
)
def test_more_nodes_never_give_all_apps_less(apps: list[tuple[int, int, int]], cores: int) -> None:
    wanted, floor, priority = (np.array(of) for of in zip(*apps, strict=True))
    floor = np.minimum(floor, wanted)
    ranked = Replicas(("cpu",), np.ones((len(apps), 1)), priority)
    need = needs(*[1.0 + w / 5 for w in wanted.tolist()])
    few, more = (divided(wanted, floor, need, ranked, nodes(n)) for n in (cores, cores + 3))
    for of in (few, more):
        assert (of.replicas <= wanted).all()
        assert (of.replicas >= floor).all()
        pending = np.array([bool(why) for why in of.reasons])
        assert (of.replicas == floor)[pending].all()
        assert ((of.placed == of.replicas) | pending).all()
    assert few.placed.sum() <= more.placed.sum()
