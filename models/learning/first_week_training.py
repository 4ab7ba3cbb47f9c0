"""Train the first week's policy (`models.learning.first_week`) on episodes, by the all-actions policy gradient.

Demand does not react, so after every choice what each arm would have cost is known (an MDP with exogenous inputs;
Sinclair et al., "Hindsight learning for MDPs with exogenous inputs", ICML 2023). A *lesson* is an app's first
fortnight: choices j = 0, 1, ... after a day of known demand and at the end of each of the next days, with contexts s_j,
and for each arm a the loss x_j(a) beyond the first arm's until the next choice (after the last one, for HORIZON_S), in
which the first arm spends y_j. In units of its spend over the lesson, S = sum_j y_j,

    reward_j(b, a) = -x_j(a) / S - HARM * max(0, sum_i x_i(a) / S) * y_j / S - SWITCH * [a differs from b]
    Q_j(b, a) = reward_j(b, a) + V_{j+1}(a),     V_j(b) = sum over a of pi(a | s_j, b) * Q_j(b, a)

with b the arm in force before. The gradient of V_0(first) is the sum over j, b and *all* arms a of
p_j(b) * Q_j(b, a) * grad pi(a | s_j, b), with p_j(b) the probability of b under pi (Sutton et al., "Policy gradient
methods for reinforcement learning with function approximation", NIPS 1999): nothing is sampled. To it come ENTROPY
times that of pi, and -PULL times the squared distance from the hand-made thresholds, where training begins. A trace has
one vote, in it an app, in that a lesson. HARM counts against an arm that ends up worse than the first.

The *prior of critical prices* (`models.learning.price_tail`) is the mean over training apps of the share of critical
prices above each point of the grid, mixed with the one by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.behaviour.lstm import tensorflow
from models.learning import price_tail
from models.learning.app_learner import ARMS, CLEAR, CLEARER, AppLearner, Shard, learner_of
from models.learning.episodes import Arena, Episode, Frontier, Judged, Ours, judged
from models.learning.first_week import FEATURES, FirstWeek, thresholds
from models.metrics import DAY_S
from models.purchase.table import Tiers

LESSON_S: Final = 16 * DAY_S
APART_S: Final = 3 * DAY_S // 2
"""Between the beginnings of an app's lessons: at midnight and at noon in turn."""
HORIZON_S: Final = 7 * DAY_S
HARM: Final = 1.0
SWITCH: Final = 0.002
ENTROPY: Final = 0.001
PULL: Final = 1e-5
RATE: Final = 0.1
CHECK: Final = 20
"""Updates between two checks on held-out traces."""

Array = NDArray[np.float64]
Notes = Callable[[str, int, int, str], None]


@dataclass(frozen=True, eq=False)
class Lesson:
    """An app's first fortnight.

    Attributes:
        trace, app: names.
        context: (choice, arm, FEATURES) of `models.learning.first_week`.
        later: (choice) whether it is not the first.
        beyond: (choice, arm) loss beyond the first arm's until the next choice.
        spend: (choice) of the first arm until then.
    """

    trace: str
    app: str
    context: Array
    later: NDArray[np.bool_]
    beyond: Array
    spend: Array

    def path(self, policy: FirstWeek) -> list[int]:
        """The arm in force after each choice."""
        in_force, made = 0, []
        for context, later in zip(self.context, self.later, strict=True):
            in_force = int(policy.scores(context, in_force, bool(later)).argmax())
            made.append(in_force)
        return made

    def saved(self, path: Sequence[int]) -> float:
        """Share of the first arm's spend that arms in force have saved."""
        return -float(self.beyond[np.arange(len(path)), path].sum() / self.spend.sum())

    @property
    def best(self) -> int:
        """The arm of least loss in hindsight."""
        return int(self.beyond.sum(axis=0).argmin())


class _Choices:
    """Notes what is known whenever an arm is to be chosen, and leaves the arm in force."""

    def __init__(self) -> None:
        self.met: list[tuple[Array, bool]] = []

    def scores(self, context: Array, in_force: int, later: bool) -> Array:
        self.met.append((context, later))
        return np.eye(len(context))[in_force]


def part(of: Episode, first: int, ticks: int) -> Episode:
    """Rows of an episode, as an episode of its own."""
    rows = slice(first, first + ticks)
    return replace(
        of,
        first_tick=of.first_tick + first,
        need=of.need[rows],
        wanted=of.wanted[rows],
        soon=of.soon[rows],
        scored=max(0, of.scored - first),
    )


def new_learner(episode: Episode, tables: dict[float, Tiers]) -> AppLearner:
    """A learner of the episode's app; tables: of purchases, which are added to."""
    of = episode
    made = learner_of(of.app, of.offers, of.policy, of.terms, tick_s=of.tick_s, seed=of.seed)
    made.fleets.use(tables)
    return made


def lessons(trace: str, episode: Episode, tables: dict[float, Tiers]) -> list[Lesson]:
    """Of one app, a lesson beginning every APART_S.

    Args:
        trace: name of the vote.
        episode: of the app.
        tables: of purchases, which are added to.
    """
    tick_s = episode.tick_s
    made: list[Lesson] = []
    for first in range(0, max(1, len(episode.need) - APART_S // tick_s), APART_S // tick_s):
        lesson = _lesson(trace, part(episode, first, LESSON_S // tick_s), tables)
        made += [] if lesson is None else [lesson]
    return made


def _lesson(trace: str, episode: Episode, tables: dict[float, Tiers]) -> Lesson | None:
    """Of an episode; None: too little of its demand is known, or it cost nothing."""
    learner, choices, shard = new_learner(episode, tables), _Choices(), Shard(len(ARMS))
    learner.first_week = choices
    seen, rows = [learner.seen.copy()], []
    for row in range(len(episode.need)):
        before = len(choices.met)
        learner.observe(episode.observation(row), shard)
        seen.append(learner.seen.copy())
        rows += [row if later else row + 1 for _, later in choices.met[before:]]
    ends = [*rows[1:], min(len(episode.need), rows[-1] + HORIZON_S // episode.tick_s)] if rows else []
    spent, loss = np.array(seen).transpose(1, 0, 2)
    beyond = np.array([loss[b] - loss[a] for a, b in zip(rows, ends, strict=True)])
    spend = np.array([spent[b, 0] - spent[a, 0] for a, b in zip(rows, ends, strict=True)])
    if not rows or spend.sum() <= 0:
        return None
    context, later = zip(*choices.met, strict=True)
    return Lesson(trace, episode.app, np.array(context), np.array(later), beyond - beyond[:, :1], spend)


def votes(of: Sequence[Lesson]) -> Array:
    """(lesson) weights: a trace has one vote, in it an app, in that a lesson."""
    apps = Counter(trace for trace, _ in {(lesson.trace, lesson.app) for lesson in of})
    each = Counter((lesson.trace, lesson.app) for lesson in of)
    return np.array([1 / (apps[one.trace] * each[one.trace, one.app]) for one in of])


class Trainer:
    """The compiled update of the weights on lessons.

    Args:
        of: lessons, held-out ones among them.
    """

    def __init__(self, of: Sequence[Lesson]) -> None:
        self.tf: Any = tensorflow()
        tf, shape = self.tf, (len(of), max(len(lesson.spend) for lesson in of))
        context = np.zeros((*shape, len(ARMS), len(FEATURES)))
        later, reward, there = np.zeros(shape), np.zeros((*shape, len(ARMS))), np.zeros(shape)
        for row, lesson in enumerate(of):
            kept = slice(len(lesson.spend))
            share = np.clip(lesson.beyond / lesson.spend.sum(), -1.0, 1.0)
            harm = HARM * np.maximum(0.0, share.sum(axis=0))
            reward[row, kept] = -share - harm * (lesson.spend / lesson.spend.sum())[:, None]
            context[row, kept], later[row, kept], there[row, kept] = lesson.context, lesson.later, 1.0
        self.scale = np.maximum(np.sqrt((context**2).mean(axis=(0, 1, 2))), 1e-6)
        self.arrays = [tf.constant(each) for each in (context / self.scale, later, reward, there)]
        self.start = np.append(*self._scaled(thresholds(CLEAR, CLEARER)))
        self._gradient = tf.function(self._graph, autograph=False)

    def _scaled(self, policy: FirstWeek) -> tuple[Array, Array]:
        return policy.weights * self.scale, policy.staying

    def _graph(self, weights: Any, votes: Any) -> tuple[Any, Any]:
        tf = self.tf
        context, later, reward, there = self.arrays
        other = 1.0 - tf.eye(len(ARMS), dtype=tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            base = tf.einsum("rjaf,f->rja", context, weights[: len(FEATURES)])
            stay = weights[len(FEATURES)] + weights[len(FEATURES) + 1] * later
            scores = base[:, :, None, :] + stay[:, :, None, None] * (1.0 - other)
            log_pi = tf.nn.log_softmax(scores)
            pi, value = tf.exp(log_pi), tf.zeros_like(reward[:, 0])
            for j in reversed(range(reward.shape[1])):
                now = reward[:, j, None, :] - SWITCH * other - ENTROPY * log_pi[:, j]
                q = now + value[:, None, :]
                known = there[:, j, None]
                value = known * tf.reduce_sum(pi[:, j] * q, axis=2) + (1.0 - known) * value
            far = weights - self.start
            total = tf.reduce_sum(votes * value[:, 0]) - PULL * tf.reduce_sum(far * far)
        return total, tape.gradient(total, weights)

    def value(self, weights: Array, votes: Array) -> tuple[float, Array]:
        """What is climbed, and its gradient, at scaled weights (those of FEATURES times `scale`, then of STAYING)."""
        total, gradient = self._gradient(self.tf.constant(weights), self.tf.constant(votes))
        return float(total), gradient.numpy()

    def fit(self, votes: Array, updates: int, checked: Callable[[int, FirstWeek], None]) -> FirstWeek:
        """Climb the gradient by Adam.

        Args:
            votes: (lesson) weights; 0: held out.
            updates: of the weights.
            checked: called with the policy before the first, every CHECK-th and the last update.
        """
        weights, mean, square = self.start.copy(), np.zeros(len(self.start)), np.zeros(len(self.start))
        made = self.policy(weights)
        checked(0, made)
        for done in range(1, updates + 1):
            _, gradient = self.value(weights, votes)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            step = mean / (1 - 0.9**done) / (np.sqrt(square / (1 - 0.999**done)) + 1e-8)
            weights = weights + RATE * step
            if done % CHECK == 0 or done == updates:
                made = self.policy(weights)
                checked(done, made)
        return made

    def policy(self, weights: Array) -> FirstWeek:
        """Of scaled weights; rounded, so that a card holds all that they are."""
        u, v = weights[: len(FEATURES)] / self.scale, weights[len(FEATURES) :]
        return FirstWeek(u.round(4), v.round(4), {})


def mean_saved(of: Sequence[Lesson], path: Callable[[Lesson], Sequence[int]]) -> tuple[float, float]:
    """Share saved, and lost in the lessons that lost, by the votes of lessons."""
    saved = np.array([lesson.saved(path(lesson)) for lesson in of])
    weights = votes(of) / votes(of).sum()
    return float((weights * saved).sum()), float((weights * np.maximum(0.0, -saved)).sum())


@dataclass(frozen=True, eq=False)
class Validated:
    """Leave-one-trace-out validation.

    Attributes:
        updates: at which the mean of held-out traces is best.
        policies: by trace, trained without it for so many updates.
        rows: a dictionary for each trace, see `validate`.
    """

    updates: int
    policies: dict[str, FirstWeek]
    rows: list[dict[str, Any]]


def validate(of: Sequence[Lesson], held_out: Sequence[str], updates: int, progress: Notes) -> Validated:
    """Train without each trace in turn; the number of updates is that of the best mean over all held-out traces.

    Args:
        of: lessons of at least two traces.
        held_out: traces to hold out; others (simulated ones) are trained on only.
        updates: at most.
        progress: called with (what, done, total, note).

    Returns:
        Rows have `trace`, `lessons`, and of `trained`, `thresholds` and `best_fixed` the share saved and, of the first
        two, `_lost`: what the lessons that lost did.
    """
    trainer, weights = Trainer(of), votes(of)
    checks: dict[str, dict[int, tuple[float, FirstWeek]]] = {}
    for number, trace in enumerate(held_out):
        own = [lesson for lesson in of if lesson.trace == trace]
        seen: dict[int, tuple[float, FirstWeek]] = {}

        others = weights * np.array([lesson.trace != trace for lesson in of])
        trainer.fit(others, updates, partial(_check, seen, own))
        checks[trace] = seen
        progress("held out", number + 1, len(held_out), trace)
    steps = list(next(iter(checks.values())))
    means = [float(np.mean([seen[step][0] for seen in checks.values()])) for step in steps]
    best = steps[int(np.argmax(means))]
    policies = {trace: seen[best][1] for trace, seen in checks.items()}
    return Validated(best, policies, [_row(of, trace, policies[trace]) for trace in held_out])


def _check(
    seen: dict[int, tuple[float, FirstWeek]], own: Sequence[Lesson], done: int, policy: FirstWeek
) -> None:
    seen[done] = mean_saved(own, lambda lesson: lesson.path(policy))[0], policy


def _row(of: Sequence[Lesson], trace: str, policy: FirstWeek) -> dict[str, Any]:
    own, hand = [lesson for lesson in of if lesson.trace == trace], thresholds(CLEAR, CLEARER)
    trained, trained_lost = mean_saved(own, lambda lesson: lesson.path(policy))
    by_hand, by_hand_lost = mean_saved(own, lambda lesson: lesson.path(hand))
    best, _ = mean_saved(own, lambda lesson: [lesson.best] * len(lesson.spend))
    figures = {
        "trained": trained,
        "trained_lost": trained_lost,
        "thresholds": by_hand,
        "thresholds_lost": by_hand_lost,
        "best_fixed": best,
    }
    return {"trace": trace, "lessons": len(own)} | {name: round(of, 4) for name, of in figures.items()}


def critical_prices(of: Arena) -> Array:
    """(grid) share of an episode's critical prices that are above each point; all ticks with known need, all arms."""
    known = np.isfinite(of.episode.need)
    ready = of.lanes.ready[known, 1:].astype(np.float64)
    critical = [price_tail.critical_price(*tick) for tick in zip(ready, of.episode.need[known], strict=True)]
    return (np.array(critical)[..., None] > price_tail.GRID).mean(axis=(0, 1))


@dataclass(frozen=True)
class Outcome:
    """Of the real learner over an episode's scored rows.

    Attributes:
        judged: cost and misses.
        cost_at: what it would cost at the stated share (`models.learning.episodes.Frontier`).
    """

    judged: Judged
    cost_at: float


def outcome(of: Arena, first_week: FirstWeek, prior: Array = price_tail.PRIOR) -> Outcome:
    """Take the real learner through an episode.

    Args:
        of: the episode.
        first_week: by which the learner chooses.
        prior: of critical prices.
    """
    ours = Ours(of, first_week)
    ours.learner.prior = prior
    result = judged(of, ours)
    return Outcome(result, Frontier(of).cost_at(result, of.episode.allowed))


def first_arm_alone() -> FirstWeek:
    """The policy that leaves the first arm in force."""
    return thresholds(np.inf, np.inf, 1.0)
