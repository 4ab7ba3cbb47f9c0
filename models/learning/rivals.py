"""Other learners on our episodes: a contextual bandit of Vowpal Wabbit, and a DQN on a Gymnasium environment.

Both choose between static and a coarse grid of arms and prices (CHOICES), and learn from what their own fleet did:

    reward = -(cost + h * x * [missed]) / (static's cost of the tick)

with h the hours of a tick and x the price of a shortage, a dual variable that drives misses to the allowed share:
log x <- log x + DUAL_GAIN * ([missed] - allowed). They need the dependency group `rivals`, whose packages are imported
when a rival is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.learning import schedule
from models.learning.app_learner import ARMS, Observation, Setting
from models.learning.episodes import (
    STATIC,
    Arena,
    Episode,
    Fixed,
    Frontier,
    Ours,
    Rival,
    Run,
    Seen,
    SevenDayBest,
    arena,
    judged,
)
from models.learning.first_week import RELEASED_PRIOR, FirstWeek
from models.learning.price_tail import LOG_PRICES, PRICES
from models.metrics import DAY_S, HOUR_S
from models.planning.shortage_price import prices
from models.purchase.market import Market

CHOICES: Final[Sequence[Setting]] = (
    STATIC,
    *(Setting(arm, float(price), "") for arm in range(len(ARMS)) for price in PRICES[::3]),
)
DUAL_GAIN: Final = 0.05
FIRST_PRICE: Final = 100.0
SMOOTH: Final = 1 / 24
"""Of the averages that a context has: two hours at ticks of five minutes."""
EXPLORED: Final = 0.05
"""Share of the bandit's choices that are drawn."""
STEPS: Final = 30_000
"""Ticks that the DQN is trained for."""
FEATURES: Final = 6
PACKAGES: Final = ("vowpalwabbit", "gymnasium", "stable_baselines3")

Array = NDArray[np.float32]


class Context:
    """What a rival sees of an app beside its own fleet, and the reward.

    Args:
        episode: gone through.
    """

    def __init__(self, episode: Episode) -> None:
        self.tick_s, self.allowed = episode.tick_s, episode.allowed
        steps_s = [episode.tick_s]
        none = np.ones((1, 1), np.int32)
        market = Market(episode.offers, {}, episode.policy, none, steps_s, (episode.seed, b"", 0))
        self.replica_h = prices(market)[1]
        self.log_price = float(np.log(FIRST_PRICE))
        self.misses, self.moves, self.last, self.ratio = 0.0, 0.0, 1.0, 1.0

    def after(self, now: Observation, seen: Seen) -> float:
        """The reward of a tick."""
        shortage = float(np.exp(self.log_price)) * self.replica_h * self.tick_s / HOUR_S
        usual = float(seen.lanes_cost[0, 0])
        reward = -(seen.cost + seen.missed * shortage) / usual if usual > 0 else 0.0
        if seen.known:
            self.log_price += DUAL_GAIN * (seen.missed - self.allowed)
            self.log_price = float(np.clip(self.log_price, LOG_PRICES[0], LOG_PRICES[-1]))
            need = max(1.0, now.need)
            self.moves += SMOOTH * (abs(np.log(need / self.last)) - self.moves)
            self.misses += SMOOTH * (seen.missed - self.misses)
            self.last = need
        self.ratio = self.last / max(1, int(now.wanted[0, 0]))
        return reward

    def features(self, tick: int) -> Array:
        """(FEATURES) time of the day, how demand moves, recent misses, demand to the least wanted, and log x."""
        angle = 2 * np.pi * (tick * self.tick_s % DAY_S) / DAY_S
        return np.array(
            [
                np.sin(angle),
                np.cos(angle),
                self.moves,
                10 * self.misses,
                self.ratio,
                (self.log_price - LOG_PRICES[0]) / (LOG_PRICES[-1] - LOG_PRICES[0]),
            ],
            np.float32,
        )


class Bandit:
    """Vowpal Wabbit's contextual bandit with action features; a choice is paid when its purchase has lived a tick.

    Args:
        episode: gone through.
        seed: of its draws.
    """

    def __init__(self, episode: Episode, seed: int = 0) -> None:
        wabbit: Any = importlib.import_module("vowpalwabbit")
        self.workspace = wabbit.Workspace(f"--cb_explore_adf --epsilon {EXPLORED} -q ca --quiet")
        self.context, self.rng = Context(episode), np.random.default_rng(seed)
        self.delay = schedule.valid_from(0, episode.tick_s) + 1
        self.waiting: list[tuple[list[str], int, float]] = []
        self.actions = ["|a static:1"] + [
            f"|a arm{s.arm}:1 price{s.price:g}:1 log:{np.log(s.price or 1):.4f}" for s in CHOICES[1:]
        ]

    def choose(self, now: Observation, seen: Seen) -> Setting:
        """Learn from the tick, then draw a choice."""
        reward = self.context.after(now, seen)
        if len(self.waiting) == self.delay:
            lines, chosen, probability = self.waiting.pop(0)
            if seen.known:
                lines[1 + chosen] = f"0:{-reward:.6f}:{probability:.6f} {lines[1 + chosen]}"
                self.workspace.learn(lines)
        values = " ".join(f"f{i}:{v:.4f}" for i, v in enumerate(self.context.features(now.tick)))
        lines = [f"shared |c {values}", *self.actions]
        share = np.array(self.workspace.predict(lines))
        chosen = int(self.rng.choice(len(share), p=share / share.sum()))
        self.waiting.append((lines, chosen, float(share[chosen])))
        return CHOICES[chosen]


def environment(arenas: Sequence[Arena]) -> Any:
    """A Gymnasium environment that goes through the episodes in turn; an action is one of CHOICES, a step a tick."""
    gymnasium: Any = importlib.import_module("gymnasium")

    class ShadowLanes(gymnasium.Env):
        """See `environment`."""

        action_space = gymnasium.spaces.Discrete(len(CHOICES))
        observation_space = gymnasium.spaces.Box(-10.0, 10.0, (FEATURES,), np.float32)
        turn = -1

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
            super().reset(seed=seed)
            self.turn = (self.turn + 1) % len(arenas)
            self.run = Run(arenas[self.turn])
            self.context = Context(self.run.episode)
            self.now, _ = self.run.live()
            return self._seen(), {}

        def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
            self.run.buy(self.now, CHOICES[int(action)])
            self.now, seen = self.run.live()
            reward = self.context.after(self.now, seen)
            ends = self.run.row + 1 >= len(self.run.episode.need)
            return self._seen(), reward, False, ends, {}

        def _seen(self) -> Array:
            return np.clip(self.context.features(self.now.tick), -10.0, 10.0)

    return ShadowLanes()


class DeepQ:
    """A DQN of stable-baselines3, trained on an environment before; it does not learn any more.

    Args:
        model: as `trained` gives it.
        episode: gone through.
    """

    def __init__(self, model: Any, episode: Episode) -> None:
        self.model, self.context = model, Context(episode)

    def choose(self, now: Observation, seen: Seen) -> Setting:
        """The action of the largest value."""
        self.context.after(now, seen)
        action, _ = self.model.predict(
            np.clip(self.context.features(now.tick), -10.0, 10.0), deterministic=True
        )
        return CHOICES[int(action)]


def trained(env: Any, steps: int = STEPS, seed: int = 0) -> Any:
    """A DQN trained on an environment for so many steps."""
    stable: Any = importlib.import_module("stable_baselines3")
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)  # the network is small: more threads wait for each other
    model = stable.DQN(
        "MlpPolicy",
        env,
        gamma=0.9,
        learning_rate=5e-4,
        buffer_size=steps,
        learning_starts=min(1_000, steps // 10),
        train_freq=8,
        exploration_fraction=0.3,
        exploration_final_eps=0.02,
        seed=seed,
        device="cpu",
    )
    return model.learn(steps)


def import_packages() -> None:
    """Import what the rivals need.

    Raises:
        ImportError: a package of the group `rivals` is missing.
    """
    for name in PACKAGES:
        importlib.import_module(name)


@dataclass(frozen=True)
class Result:
    """Of one rival, over episodes.

    Attributes:
        cost: spent in scored ticks whose need is known.
        realised: share of them that was served.
        cost_at: what it would cost at the allowed share of misses (`models.learning.episodes.Frontier`).
    """

    cost: float
    realised: float
    cost_at: float


def contest(
    episodes: Sequence[Episode], training: Sequence[Episode], steps: int = STEPS
) -> dict[str, Result]:
    """Results by rival: best fixed price in hindsight, static, ours without and with the released policy of the first
    week, the best of seven days, the bandit and the DQN.

    Args:
        episodes: that all are judged on.
        training: that the DQN is trained on before; none: the rows of the others before those that are scored.
        steps: of its training.
    """
    shared: list[Arena] = []

    def arena_of(episode: Episode) -> Arena:
        same = next((a for a in shared if _alike(a.episode, episode)), None)
        made = arena(episode, None if same is None else same.tables)
        shared.append(made)
        return made

    arenas = [arena_of(episode) for episode in episodes]
    before = [arena_of(episode) for episode in training or [episode.before() for episode in episodes]]
    model, released = trained(environment(before), steps), FirstWeek.load(RELEASED_PRIOR)
    rivals: dict[str, Callable[[Arena], Rival]] = {
        "static": lambda of: Fixed(),
        "leadtime": Ours,
        "leadtime_trained": lambda of: Ours(of, released),
        "seven_day_best": lambda of: SevenDayBest(of.episode),
        "vowpal_wabbit": lambda of: Bandit(of.episode),
        "dqn": lambda of: DeepQ(model, of.episode),
    }
    frontiers = [Frontier(of) for of in arenas]
    allowed = [of.episode.allowed for of in arenas]
    best = sum(frontier.at(share) for frontier, share in zip(frontiers, allowed, strict=True))
    results = {"best_fixed": Result(best, 1 - float(np.mean(allowed)), best)}
    for name, make in rivals.items():
        each = [judged(of, make(of)) for of in arenas]
        ticks, misses = sum(of.ticks for of in each), sum(of.misses for of in each)
        at = [f.cost_at(of, share) for f, of, share in zip(frontiers, each, allowed, strict=True)]
        results[name] = Result(sum(of.cost for of in each), 1 - misses / max(1, ticks), sum(at))
    return results


def _alike(first: Episode, other: Episode) -> bool:
    """Whether two episodes buy by the same tables."""

    def key(of: Episode) -> Any:
        return list(of.offers), of.policy, of.tick_s, of.seed

    return key(first) == key(other)
