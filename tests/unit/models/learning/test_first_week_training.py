"""Training of the first week's policy: the value that is climbed, lessons from an episode, and what is learnt."""

import itertools

import numpy as np
import pytest

from models.learning import first_week_training as training
from models.learning.app_learner import ARMS
from models.learning.episodes import of_series
from models.learning.first_week import FEATURES
from models.learning.first_week_training import HARM, PULL, SWITCH, Lesson, Trainer
from models.learning.recovery import POLICY, offers
from models.metrics import DAY_S
from models.synthetic.regimes import PLAIN, demand

A = len(ARMS)


def lesson(trace: str, seed: int, choices: int = 2, good: int | None = None) -> Lesson:
    """Random contexts; the good arm's loss is a tenth below the first's, whatever its first day showed."""
    rng = np.random.default_rng(seed)
    context = rng.normal(0, 0.05, (choices, A, len(FEATURES)))
    context[:, :, FEATURES.index("first")] = np.arange(A) == 0
    context[:, :, FEATURES.index("supply")] = np.arange(A) == good
    beyond = np.abs(rng.normal(0, 0.05, (choices, A)))
    if good is not None:
        beyond[:, good] = -0.1
    beyond[:, 0] = 0
    return Lesson(trace, "app", context, np.arange(choices) > 0, beyond, np.ones(choices))


def test_what_is_climbed_is_the_expected_return_over_all_paths() -> None:
    of = lesson("one", 3)
    trainer = Trainer([of])
    rng = np.random.default_rng(1)
    scaled = rng.normal(0, 0.3, len(trainer.start))
    total, gradient = trainer.value(scaled, np.ones(1))
    share = of.beyond / 2
    reward = -share - HARM * np.maximum(0, share.sum(axis=0)) / 2
    u, v = scaled[: len(FEATURES)] / trainer.scale, scaled[len(FEATURES) :]
    expected = 0.0
    for path in itertools.product(range(A), repeat=2):
        probability, gained, before = 1.0, 0.0, 0
        for j, arm in enumerate(path):
            scores = of.context[j] @ u
            scores[before] += v[0] + j * v[1]
            log_pi = scores - np.log(np.exp(scores).sum())
            probability *= np.exp(log_pi[arm])
            gained += reward[j, arm] - SWITCH * (arm != before) - training.ENTROPY * log_pi[arm]
            before = arm
        expected += probability * gained
    far = float(((scaled - trainer.start) ** 2).sum())
    assert total == pytest.approx(expected - PULL * far, abs=1e-9)
    step = 1e-6 * rng.normal(size=len(scaled))
    up, down = trainer.value(scaled + step, np.ones(1))[0], trainer.value(scaled - step, np.ones(1))[0]
    assert up - down == pytest.approx(2 * float(gradient @ step), rel=1e-4)


def test_what_saved_elsewhere_is_chosen_on_a_trace_held_out_and_twice_alike() -> None:
    of = [lesson(trace, seed, 3, good=5) for seed, trace in enumerate(["a", "a", "b", "c"])]
    notes: list[tuple[str, int, int, str]] = []
    checked = training.validate(of, ["a", "b", "c"], 60, lambda *note: notes.append(note))
    assert [row["trace"] for row in checked.rows] == ["a", "b", "c"]
    assert all(row["trained"] > row["thresholds"] for row in checked.rows)
    assert all(row["best_fixed"] == pytest.approx(0.1) for row in checked.rows)
    assert [note[1:] for note in notes] == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]
    again = training.validate(of, ["a", "b", "c"], 60, lambda *note: None)
    assert checked.updates == again.updates
    for trace, policy in checked.policies.items():
        np.testing.assert_array_equal(policy.weights, again.policies[trace].weights)


def test_a_trace_an_app_and_a_lesson_share_their_votes() -> None:
    of = [lesson("a", 0), lesson("a", 1), lesson("b", 2)]
    np.testing.assert_allclose(training.votes(of), [0.5, 0.5, 1.0])


def test_lessons_begin_after_a_day_and_have_a_choice_a_day() -> None:
    tick_s = 1800
    day = DAY_S // tick_s
    whole = of_series(demand([(PLAIN, 4 * day)], tick_s, 1), "trial", offers(1.0), POLICY, tick_s)
    first, *_ = made = training.lessons("trial", whole, {})
    assert len(made) == 1  # of three days with plans, a second one would have to begin a day and a half in
    assert list(first.later) == [False, True]
    assert first.context.shape == (2, A, len(FEATURES))
    assert first.beyond.shape == (2, A)
    assert (first.beyond[:, 0] == 0).all()
    assert (first.spend > 0).all()
    assert first.saved([0, 0]) == 0
    assert first.saved([first.best] * 2) >= 0
