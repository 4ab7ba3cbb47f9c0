"""The policy of the first week: what is known of the arms, thresholds as a special case, files, and snapshots."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.learning import first_week
from models.learning.app_learner import CLEAR, CLEARER, KINDS
from models.learning.first_week import BLOCK_S, FEATURES, Evidence, FirstWeek, thresholds
from models.learning.saving import Saving

TICK_S = 900
BLOCK = BLOCK_S // TICK_S
ARMS = len(KINDS)
Edit = Callable[[dict[str, Any]], object]


def evidence(ticks: int, seed: int = 0, first_tick: int = 0) -> tuple[Evidence, np.ndarray, np.ndarray]:
    """Of random losses; with the first arm's spend (tick) and the losses (tick, arm)."""
    rng = np.random.default_rng(seed)
    spend, loss = rng.uniform(1, 2, ticks), rng.uniform(1, 2, (ticks, ARMS))
    made = Evidence(KINDS, TICK_S)
    for tick in range(ticks):
        made.count(first_tick + tick, spend[tick], loss[tick], True)
    return made, spend, loss


def column(context: np.ndarray, name: str) -> np.ndarray:
    return context[:, FEATURES.index(name)]


def test_the_saving_is_the_first_arms_loss_less_the_arms_own() -> None:
    made, spend, loss = evidence(5 * BLOCK + 3)
    saving = (loss[:, :1] - loss).sum(axis=0) / spend.sum()
    np.testing.assert_allclose(column(made.context(), "saving"), saving)
    np.testing.assert_allclose(column(made.context(), "young_saving"), saving * min(1, 96 / len(loss)))


def test_its_standard_error_is_that_of_the_ratio_over_blocks_that_have_ended() -> None:
    made, spend, loss = evidence(6 * BLOCK + 5)
    blocks = [slice(start, start + BLOCK) for start in range(0, 6 * BLOCK, BLOCK)]
    error = column(made.context(), "error")
    assert error[0] == 0
    for arm in range(1, ARMS):
        of = Saving()
        for block in blocks:
            of = of.after(float((loss[block, arm] - loss[block, 0]).sum()), float(spend[block].sum()))
        squares = of.ours_2 - 2 * of.ours / of.static * of.both + (of.ours / of.static) ** 2 * of.static_2
        assert error[arm] == pytest.approx(np.sqrt(6 / 5 * squares) / of.static)


def test_what_is_recent_fades_by_half_in_a_day() -> None:
    made = Evidence(KINDS, TICK_S)
    day = 4 * BLOCK
    loss = np.ones(ARMS)
    for tick in range(2 * day):
        made.count(tick, 1.0, loss + 0.5 * (np.arange(ARMS) == 1) * (tick < day), True)
    faded = sum(0.5 ** ((7 - block) / 4) for block in range(8))
    first = sum(0.5 ** ((7 - block) / 4) for block in range(4))
    assert column(made.context(), "recent")[1] == pytest.approx(-0.5 * first / faded)
    assert column(made.context(), "saving")[1] == pytest.approx(-0.25)


def test_before_two_blocks_have_ended_the_error_is_not_known() -> None:
    made, _, _ = evidence(BLOCK + 1)
    np.testing.assert_array_equal(column(made.context(), "error")[1:], first_week.UNKNOWN)


@given(st.lists(st.floats(-0.5, 0.5), min_size=ARMS, max_size=ARMS), st.integers(0, ARMS - 1), st.booleans())
def test_with_the_saving_alone_it_is_a_threshold(saved: list[float], in_force: int, later: bool) -> None:
    saving = np.round(saved, 3) + 1e-4 * np.arange(ARMS)
    context = np.ones((ARMS, len(FEATURES)))
    context[:, 0] = saving
    best = int(saving.argmax())
    clear = saving[best] - saving[in_force] > (CLEARER if later else CLEAR) + 1e-9
    scores = thresholds(CLEAR, CLEARER).scores(context, in_force, later)
    assert int(scores.argmax()) == (best if clear else in_force)


def test_restored_evidence_goes_on_alike() -> None:
    whole, spend, loss = evidence(9 * BLOCK)
    half, _, _ = evidence(0)
    for tick in range(len(loss)):
        if tick == 4 * BLOCK + 7:
            again = Evidence(KINDS, TICK_S)
            again.restore({name: np.array(of) for name, of in half.blocks().items()})
            half = again
        half.count(tick, spend[tick], loss[tick], True)
    np.testing.assert_array_equal(half.context(), whole.context())
    assert half.known_s == whole.known_s == 9 * BLOCK_S


def test_a_snapshot_from_before_there_was_evidence_begins_anew() -> None:
    made = Evidence(KINDS, TICK_S)
    made.restore({"seen": np.zeros(2)})
    assert made.known_s == 0
    assert np.isfinite(made.context()).all()


def test_a_policy_is_the_same_after_its_file(tmp_path: Path) -> None:
    weights = np.arange(len(FEATURES)) / 7
    FirstWeek(weights, np.array([1.5, -0.25]), {"name": "tiny"}).save(tmp_path)
    loaded = FirstWeek.load(tmp_path)
    np.testing.assert_array_equal(loaded.weights, weights)
    np.testing.assert_array_equal(loaded.staying, [1.5, -0.25])
    assert loaded.facts["name"] == "tiny"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda facts: facts["weights"].update(saving=5.0), "not those of weights_sha256"),
        (lambda facts: facts["weights"].pop("recent"), "weights are not saving, shrunk"),
        (lambda facts: facts.pop("staying"), "holds no policy of the first week"),
    ],
)
def test_a_file_that_is_not_what_was_trained_is_refused(tmp_path: Path, edit: Edit, message: str) -> None:
    thresholds(CLEAR, CLEARER).save(tmp_path)
    path = tmp_path / first_week.PRIOR_FILE
    facts = json.loads(path.read_text())
    edit(facts)
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message):
        FirstWeek.load(tmp_path)


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no policy of the first week"):
        FirstWeek.load(tmp_path)


def test_the_released_policy_is_what_its_file_names() -> None:
    released = FirstWeek.load(first_week.RELEASED_PRIOR)
    assert released.facts["name"] == first_week.RELEASED_PRIOR.name
    assert {of["trace"] for of in released.facts["held_out"]} <= {
        of["trace"] for of in released.facts["trained_on"]
    }
    assert not any("twitter" in of["trace"] for of in released.facts["trained_on"])
